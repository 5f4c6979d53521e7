"""The judge of training. Oracles: the game played again by hand, numbered frames, a clock that is told, runs that must end alike."""

import itertools
import math
import types

import pytest
import torch
from episodes import numbered, played, seeded, wake
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import agent as agent_module
import diffusion_world_model as core
import train as module
from shared.testing.checks import assert_close, expect_error, unchanged
from shared.testing.no_compiler import without_compiler

QUICK = dict(batch_size=4, n_outcomes=8, n_dreams=4, horizon=3, n_sampling_steps=1)
TWO_ROUNDS = ((6, 1, 1), (4, 1, 2))


@pytest.fixture(scope="module", autouse=True)
def no_compiler():
    with without_compiler():
        yield


@pytest.fixture
def no_score(monkeypatch):
    """A score that plays no game."""
    monkeypatch.setattr(module, "score", lambda agent, **options: 0.25)


def tiny(rounds=TWO_ROUNDS, **changed):
    return module.Settings(rounds=rounds, **{**QUICK, **changed})


class Told(nn.Module):
    """A policy of fixed logits, which remembers the histories that it saw."""

    def __init__(self, *logits):
        super().__init__()
        self.logits, self.seen = nn.Parameter(torch.tensor(logits)), []

    def forward(self, history):
        self.seen.append(history.clone())
        return self.logits.expand(len(history), -1), torch.zeros(len(history))


def places(frames):
    """Column of the ball and of the paddle, by a search pixel by pixel: (n, t) each."""
    ball = (frames[..., 1:11, 1:11] == 1).any(-2).int().argmax(-1)
    paddle = (frames[..., 10, 1:11] == 0.5).int().argmax(-1)
    return ball, paddle


def everything(run):
    """All that was learned and collected, as one flat list of tensors."""
    states = [run.world_optimizer.state_dict()["state"], run.agent_optimizer.state_dict()["state"]]
    moments = [v for state in states for entry in state.values() for v in entry.values()]
    weights = [p.detach() for network in run.networks.values() for p in network.parameters()]
    return [*weights, *moments, *run.replay, run.generator.get_state()]


def same(a, b):
    """Whether two runs ended alike, bit for bit."""
    if len(everything(a)) != len(everything(b)):
        return False
    return all(torch.equal(x, y) for x, y in zip(everything(a), everything(b), strict=True))


def without_seconds(records):
    return [
        {key: value for key, value in r.items() if key != "seconds" and not math.isnan(value)}
        for r in records
    ]


# --- the real game ----------------------------------------------------------------------------------------------------


@pytest.mark.grades("collect", "Replay")
def test_collect_records_whole_episodes():
    """Shapes, padding, the final frame; each frame is the game's answer to the action before it."""
    replay = module.collect(40, None, seed=5, generator=seeded(1))
    shapes = [tuple(c.shape) for c in replay]
    assert shapes == [(40, 13, 12, 12), (40, 12), (40, 9), (40, 9)], f"shapes {shapes}"
    kinds = [c.dtype for c in replay]
    assert kinds == [torch.float32, torch.int64, torch.float32, torch.bool], f"dtypes {kinds}"
    frames, actions, rewards, ends = replay
    assert (frames[:, :4] == frames[:, 3:4]).all(), "before the first frame there are not three copies of it"
    assert (frames[:, 3, 1] == 1).any(-1).all(), "the first frame is not in its place"
    assert (actions[:, :3] == 1).all(), "the first three actions are not 'stay'"
    assert (frames[:, -1, 10] == 1).any(-1).all(), (
        "the first frame of the next game is recorded as the last one: the last one is in infos['final_obs']"
    )
    _, paddle = places(frames[:, 3:12])  # in the last frame the ball may hide it
    for late, said in (
        (3, ""),
        (2, "the actions are aligned one step late"),
        (4, "the actions are aligned one step early"),
    ):
        if said:
            assert not (
                paddle[:, 1:] == (paddle[:, :-1] + actions[:, late : late + 8] - 1).clamp(0, 8)
            ).all(), said
    moved = (paddle[:, :-1] + actions[:, 3:11] - 1).clamp(0, 8)
    assert torch.equal(paddle[:, 1:], moved), "frames[:, t + 1] is not the game's answer to actions[:, t]"
    fresh = iter(actions[:, 3:].T.numpy())
    again = played(40, seed=5, steps=lambda n, t: next(fresh))
    assert torch.equal(rewards, again[2]), "the rewards are not those of the game"
    assert torch.equal(ends, again[3]), "the ends are not those of the game"
    assert torch.equal(frames, again[0]), "the frames are not those of the game that the seed starts"


@pytest.mark.grades("collect")
def test_who_acts():
    """Without an agent all actions alike; else the agent's, and with probability epsilon a random one."""
    assert_close(
        shares_of(None),
        torch.full((3,), 1 / 3),
        atol=0.03,
        what="shares of random actions",
        vacuous_ok="alike",
    )
    left = Told(50.0, 0.0, 0.0)
    for epsilon, other in ((0.0, 0.0), (0.3, 0.1), (1.0, 1 / 3)):
        got = shares_of(left, epsilon=epsilon)
        wanted = torch.tensor([1 - 2 * other, other, other])
        assert_close(
            got,
            wanted,
            atol=0.03,
            what=f"shares of the actions where the agent goes left and epsilon is {epsilon}",
            vacuous_ok="shares",
        )
    likely = torch.tensor([0.5, 0.3, 0.2])
    drawn = shares_of(Told(*likely.log().tolist()))
    assert (drawn - likely).abs().max() < 0.03, (
        f"the policy's actions are not drawn by their probabilities: {drawn.tolist()}"
    )
    greedy = shares_of(Told(*likely.log().tolist()), greedy=True)
    assert greedy.tolist() == [1, 0, 0], f"played greedily, shares of the actions are {greedy.tolist()}"


def shares_of(agent, **options):
    """How often each action is taken."""
    actions = module.collect(400, agent, generator=seeded(2), **options).actions[:, 3:].flatten()
    return actions.bincount(minlength=3) / len(actions)


@pytest.mark.grades("collect")
def test_what_the_agent_sees():
    """The last four frames, the oldest first; never the frame that its own action leads to."""
    agent = Told(0.0, 0.3, 0.1)
    replay = module.collect(7, agent, generator=seeded(3))
    assert len(agent.seen) == 9, f"the agent is asked {len(agent.seen)} times in nine steps"
    for t, seen in enumerate(agent.seen):
        window = replay.frames[:, t : t + 4]
        assert not (t and torch.equal(seen, window.flip(1))), "the agent sees the newest frame first"
        assert torch.equal(seen, window), (
            f"at step {t} the agent does not see the last four frames, oldest first"
        )


@pytest.mark.grades("collect")
def test_collect_is_repeatable():
    """seed decides the games, the generator the actions; nothing else is drawn; the wind is handed on."""
    state = torch.get_rng_state()
    plain = module.collect(9, Told(0.1, 0.2, 0.3), epsilon=0.5, seed=1, generator=seeded(1))
    again = module.collect(9, Told(0.1, 0.2, 0.3), epsilon=0.5, seed=1, generator=seeded(1))
    assert all(map(torch.equal, plain, again)), "seed and generator do not decide all"
    others = module.collect(9, Told(0.1, 0.2, 0.3), epsilon=0.5, seed=2, generator=seeded(1))
    assert not torch.equal(plain.frames[:, 0], others.frames[:, 0]), "the seed is ignored"
    assert torch.equal(torch.get_rng_state(), state), "random numbers are not drawn from the generator"
    ball, _ = places(module.collect(9, None, gust=1.0, generator=seeded(1)).frames[:, 3:])
    aside = ball.diff(dim=1).abs()
    assert ((aside == 0) | (aside == 2)).float().mean() > 0.7, "the wind does not reach the game"


@pytest.mark.grades("score")
def test_score():
    """The mean return of games played greedily, by its seed and wind."""
    agent = Told(0.1, 0.0, 0.0)
    for n, gust, seed in ((1000, 0.0, 10_000), (50, 0.6, 3)):
        options = {} if n == 1000 else {"n": n, "gust": gust, "seed": seed}
        rewards = played(
            n, gust=gust, seed=seed, steps=lambda n, t: torch.zeros(n, dtype=torch.int64).numpy()
        )[2]
        got, wanted = module.score(agent, **options), rewards.sum(1).mean().item()
        assert isinstance(got, float), f"score returns a {type(got).__name__}"
        assert abs(got - wanted) < 1e-5, (
            f"score {got} of a player that goes left in {n} games with gust {gust}, expected {wanted}"
        )


# --- from episodes to batches -----------------------------------------------------------------------------------------


def replay_of(columns):
    return module.Replay(*columns)


@pytest.mark.grades("segments")
def test_segments():
    """Six frames in a row of one episode, their five actions, and which of the last two are real."""
    replay = replay_of(numbered(5))
    with unchanged(*replay):
        frames, actions, valid = module.segments(replay, 900, generator=seeded(1))
    assert frames.shape == (900, 6, 12, 12), f"frames {tuple(frames.shape)}"
    assert actions.shape == (900, 5), f"actions {tuple(actions.shape)}"
    assert (valid.shape, valid.dtype) == ((900, 2), torch.bool), f"valid {tuple(valid.shape)} {valid.dtype}"
    names = frames[:, :, 0, 0].long()
    assert (frames == frames[:, :, :1, :1]).all(), "frames are mixed pixel by pixel"
    who, place, t = names // 100, names % 100, (names % 100)[:, 0]
    assert (who == who[:, :1]).all(), "a segment mixes two episodes"
    assert torch.equal(actions // 1000, who[:, :1].expand(-1, 5)), "the actions are those of another episode"
    steps = place[:, 1:] - place[:, :-1]
    real = torch.cat([torch.ones(900, 3, dtype=torch.bool), valid], dim=1)
    assert (steps[real] != -1).all(), "the newest frame comes first"
    assert (steps[real] == 1).all(), "the frames of a segment do not follow each other"
    aligned = place[:, :-1]
    assert not (actions[:, :4] % 1000 == aligned[:, :4] - 1).all(1)[t > 0].all(), (
        "the actions are aligned one step late"
    )
    assert (actions % 1000 == aligned)[real].all(), (
        "actions[:, t] does not lead from frames[:, t] to frames[:, t + 1]"
    )
    starts = t.bincount(minlength=9)
    assert starts.numel() == 9, "segments start beyond the last step of an episode"
    assert starts.min() > 60, f"not every step is the first that is predicted: {starts.tolist()}"
    assert who[:, 0].bincount(minlength=5).min() > 120, "not every episode is used"
    assert valid[:, 0].all(), "the first frame to predict is always real"
    assert torch.equal(valid[:, 1], t < 8), "valid is wrong: after the last frame of an episode nothing is"


@pytest.mark.grades("segments")
def test_outcomes():
    """Frame, action, next frame, reward and end of one step; all steps alike."""
    replay = replay_of(numbered(5))
    frame, action, following, reward, end = module.outcomes(replay, 900, generator=seeded(1))
    who, place = frame[:, 0, 0].long() // 100, frame[:, 0, 0].long() % 100
    assert torch.equal(following[:, 0, 0].long() // 100, who), "the next frame is of another episode"
    assert torch.equal(following[:, 0, 0].long() % 100, place + 1), "the next frame does not follow"
    assert torch.equal(action, 1000 * who + place), "the action is not the one between the two frames"
    late = torch.equal(reward, (100 * who + place - 4).float()) or torch.equal(
        reward, (100 * who + place - 2).float()
    )
    assert not late, "the reward's place is shifted by one"
    assert torch.equal(reward, (100 * who + place - 3).float()), "the reward is not that of the step"
    assert torch.equal(end, place == 11), "the end is not that of the step"
    counts = (place - 3).bincount(minlength=9)
    assert counts.numel() == 9, "outcomes beyond the last step"
    assert counts.min() > 60, f"not all steps are drawn alike: {counts.tolist()}"


@pytest.mark.grades("beginnings")
def test_beginnings():
    """Four frames in a row and the three actions between; half of them an episode's first; none of a game that is over."""
    replay = replay_of(numbered(5))
    start = module.beginnings(replay, generator=seeded(1))
    history, actions = start(2000)
    assert history.shape == (2000, 4, 12, 12), f"histories {tuple(history.shape)}"
    assert actions.shape == (2000, 3), f"actions {tuple(actions.shape)}"
    names = history[:, :, 0, 0].long()
    who, place = names // 100, names % 100
    assert (who == who[:, :1]).all(), "a beginning mixes two episodes"
    assert (place.diff(dim=1) == 1).all(), "the frames of a beginning are not in order, the oldest first"
    assert torch.equal(actions, 1000 * who[:, :3] + place[:, :3]), (
        "the actions are not those between the frames"
    )
    t = place[:, 0]
    assert t.max() == 8, f"the latest beginning is at {t.max()}, expected 8: the game is not over there"
    first = (t == 0).float().mean().item()
    assert abs(first - (0.5 + 0.5 / 9)) < 0.04, (
        f"{first:.0%} are an episode's first frames, expected half and a ninth of the rest"
    )
    counts = t.bincount(minlength=9)[1:]
    assert counts.min() > 75, f"the other half is not spread alike: {counts.tolist()}"
    with unchanged(*replay):
        history.zero_()
        actions.zero_()
    again = module.beginnings(replay, generator=seeded(1))
    assert torch.equal(again(2000)[0][:, :, 0, 0].long(), names), "the generator does not decide"


@pytest.mark.grades("segments", "beginnings")
def test_batches_draw_from_the_generator_alone():
    """torch's own numbers are not touched."""
    replay, state = replay_of(numbered(3)), torch.get_rng_state()
    for draw in (
        module.segments,
        module.outcomes,
        lambda r, n, generator: module.beginnings(r, generator=generator)(n),
    ):
        a, b = draw(replay, 20, generator=seeded(4)), draw(replay, 20, generator=seeded(4))
        assert all(map(torch.equal, a, b)), "the same generator draws another batch"
    assert torch.equal(torch.get_rng_state(), state), "random numbers are not drawn from the generator"


# --- runs -------------------------------------------------------------------------------------------------------------


@pytest.mark.grades("train", "Run", "Settings")
def test_a_run_repeats(no_score):
    """The same seed ends alike bit for bit; another does not; torch's own numbers are not touched."""
    state = torch.get_rng_state()
    run = module.train(tiny(), seed=3)
    assert torch.equal(torch.get_rng_state(), state), "torch's own random numbers are used"
    again = module.train(tiny(), seed=3)
    assert same(run, again), "the same seed gives another run"
    assert without_seconds(run.records) == without_seconds(again.records), "the same seed gives other records"
    assert not same(run, module.train(tiny(), seed=4)), "the seed is ignored"
    assert run.n_rounds == 2, f"{run.n_rounds} rounds are complete, expected 2"
    assert list(run.networks) == ["denoiser", "outcome", "agent"], f"networks {list(run.networks)}"
    assert (run.world.denoiser, run.world.outcome) == (run.denoiser, run.outcome), "the world is another one"


@pytest.mark.grades("train")
def test_what_is_collected(no_score, monkeypatch):
    """The first round plays at random, the next ones with the agent and epsilon; each with games of its own; all is kept."""
    asked, collect = [], module.collect

    def spy(n, agent, **options):
        asked.append((n, agent, options))
        return collect(n, agent, **options)

    monkeypatch.setattr(module, "collect", spy)
    run = module.train(tiny(((6, 0, 1), (4, 0, 0)), epsilon=0.4, gust=0.7), seed=3)
    assert [n for n, _, _ in asked] == [6, 4], (
        f"{[n for n, _, _ in asked]} episodes are collected, expected [6, 4]"
    )
    assert asked[0][1] is None, "the first round does not play at random"
    assert asked[1][1] is run.agent, "the second round does not play with the agent"
    assert asked[1][2]["epsilon"] == 0.4, "epsilon is not handed on"
    assert {options["gust"] for _, _, options in asked} == {0.7}, "gust is not handed on"
    assert not asked[1][2].get("greedy"), "the agent collects greedily: it would see less of the game"
    assert len({options["seed"] for _, _, options in asked}) == 2, "two rounds play the same games"
    assert len(run.replay.frames) == 10, f"{len(run.replay.frames)} episodes are kept, expected all 10"
    seeds = {options["seed"] for _, _, options in asked}
    asked.clear()
    module.train(tiny(((2, 0, 0), (2, 0, 0))), seed=4)
    assert not seeds & {options["seed"] for _, _, options in asked}, "two seeds play the same games"


@pytest.mark.grades("train")
def test_records(monkeypatch):
    """Every 10th update of the agent and the last; what they say of the dream; seconds without the scoring."""
    clock, dreams = types.SimpleNamespace(now=50.0), []
    imagine, improve = core.imagine, agent_module.improve

    def scored(agent, **options):
        clock.now += 1000
        assert options == {"gust": 0.3}, f"the score is taken with {options}, expected the run's gust"
        return 0.5

    def dreamt(*arguments, **options):
        clock.now += 1
        dream = imagine(*arguments, **options)
        dreams.append(dream._replace(ends=dream.ends | (torch.arange(9) == 4)[:, None]))
        return dreams[-1]

    monkeypatch.setattr(module, "time", types.SimpleNamespace(perf_counter=lambda: clock.now), raising=False)
    monkeypatch.setattr(module, "score", scored)
    monkeypatch.setattr(module, "imagine", dreamt, raising=False)
    monkeypatch.setattr(module, "improve", lambda *a, **k: improve(*a, n_epochs=1, **k), raising=False)
    run = module.train(tiny(((6, 1, 12), (4, 0, 3)), gust=0.3, horizon=9), seed=1)
    keys = {"round", "update", "real_steps", "dream", "dream_sum", "real", "seconds"}
    assert all(set(record) == keys for record in run.records), f"a record has {set(run.records[0])}"
    steps = [(r["round"], r["update"], r["real_steps"]) for r in run.records]
    assert steps == [(0, 10, 54), (0, 12, 54), (1, 3, 90)], f"records of (round, update, real steps) {steps}"
    seconds = [r["seconds"] for r in run.records]
    assert seconds == [10, 12, 15], (
        f"seconds {seconds}, expected [10, 12, 15]: the clock stands still while the score is taken"
    )
    assert {r["real"] for r in run.records} == {0.5}, "'real' is not the score"
    for record, number in zip(run.records, (10, 12, 15), strict=True):
        d = dreams[number - 1]
        pairs = [(float(r), bool(e)) for r, e in zip(d.rewards.flatten(), d.ends.flatten(), strict=True)]
        ended = [r for r, e in pairs if e]
        assert abs(record["dream"] - sum(ended) / len(ended)) < 1e-5, (
            "'dream' is not the mean return of games that ended"
        )
        total = sum(r for r, _ in pairs) / 4
        assert abs(record["dream_sum"] - total) < 1e-5, (
            f"'dream_sum' is {record['dream_sum']}, the mean sum of a dream is {total}"
        )


@pytest.mark.grades("train")
def test_no_real_transition_reaches_the_agent(no_score, monkeypatch):
    """Rewards, ends and frames after the beginnings are poisoned once the world has learned: the agent is the same."""
    clean = module.train(tiny(((6, 2, 3),)), seed=2)
    beginnings = module.beginnings

    def poisoned(replay, **options):
        replay.rewards.fill_(math.nan)
        replay.ends.fill_(True)
        replay.frames[:, -1] = math.nan
        replay.actions[:, -1] = -99
        return beginnings(replay, **options)

    monkeypatch.setattr(module, "beginnings", poisoned)
    run = module.train(tiny(((6, 2, 3),)), seed=2)
    for mine, theirs in zip(run.agent.parameters(), clean.agent.parameters(), strict=True):
        assert not mine.isnan().any(), "a real reward or final frame reaches the agent's loss"
        assert torch.equal(mine, theirs), "a real transition reaches the agent's loss"


@pytest.mark.grades("train")
def test_dreaming_leaves_the_world_as_it_is(no_score, monkeypatch):
    """While the agent learns, weights and gradients of the world's networks stay; while the world learns, the agent's do."""
    worlds, agents, imagine = [], [], core.imagine

    def snapshot(networks):
        return [
            x.clone() for n in networks for p in n.parameters() for x in (p.detach(), p.grad) if x is not None
        ]

    def spy(world, agent, *arguments, **options):
        worlds.append(snapshot(world))
        agents.append((snapshot([agent]), agent))
        dream = imagine(world, agent, *arguments, **options)
        assert not any(column.requires_grad for column in dream), "a dream carries gradients"
        return dream

    monkeypatch.setattr(module, "imagine", spy, raising=False)
    run = module.train(tiny(((6, 2, 3),)), seed=2)
    worlds.append(snapshot(run.world))
    for a, b in itertools.pairwise(worlds):
        assert len(a) == len(b), "the agent's loss gives the world gradients"
        assert all(map(torch.equal, a, b)), "the agent's learning changes the world"
    fresh = module.Run(tiny(), seed=2, parts=module.Parts())
    assert all(map(torch.equal, agents[0][0], snapshot([fresh.agent]))), (
        "learning the world changes the agent"
    )
    for name, network in run.networks.items():
        changed = [
            not torch.equal(p, q)
            for p, q in zip(network.parameters(), fresh.networks[name].parameters(), strict=True)
        ]
        assert any(changed), f"the {name} does not learn"


@pytest.mark.grades("train")
def test_settings_are_used(no_score, monkeypatch):
    """Batches, dreams, horizon, sampling steps and learning rate are those of the settings."""
    seen = {}

    def spy(name, of):
        inner = getattr(core if name == "imagine" else module, name)

        def wrapped(*arguments, **options):
            result = inner(*arguments, **options)
            seen[name] = of(arguments, options, result)
            return result

        monkeypatch.setattr(module, name, wrapped, raising=False)

    spy("segments", lambda a, o, r: a[1])
    spy("outcomes", lambda a, o, r: a[1])
    spy("imagine", lambda a, o, r: (o["n_dreams"], o["horizon"], o["sigmas"]))
    run = module.train(
        tiny(
            ((6, 1, 1),),
            batch_size=3,
            n_outcomes=5,
            n_dreams=7,
            horizon=4,
            n_sampling_steps=2,
            learning_rate=0.02,
        )
    )
    assert seen["segments"] == 3, f"batches of {seen['segments']} segments, expected 3"
    assert seen["outcomes"] == 5, f"batches of {seen['outcomes']} outcomes, expected 5"
    n, horizon, sigmas = seen["imagine"]
    assert (n, horizon) == (7, 4), f"{n} dreams of {horizon} steps, expected 7 of 4"
    assert_close(
        sigmas, torch.tensor([5.0, 0.002, 0.0]), rtol=1e-4, what="the noise levels of two sampling steps"
    )
    for name in ("world_optimizer", "agent_optimizer"):
        rate = getattr(run, name).param_groups[0]["lr"]
        assert rate == 0.02, f"the {name} has the rate {rate}"
    assert module.train(tiny(((6, 0, 0),))).records == [], "a round without updates of the agent has a record"


@pytest.mark.grades("train")
def test_the_world_learns(no_score, monkeypatch):
    """Both losses fall; gradients are cut to norm 1 and do not add up over updates."""
    losses, norms = {"denoiser_loss": [], "outcome_loss": []}, []
    for name, found in losses.items():
        inner = getattr(core, name)
        monkeypatch.setattr(
            module,
            name,
            lambda *a, inner=inner, found=found, **k: found.append(inner(*a, **k)) or found[-1],
            raising=False,
        )
    run = module.train(tiny(((30, 30, 0),), batch_size=10, n_outcomes=64, learning_rate=2e-3), seed=0)
    for name, found in losses.items():
        values = torch.stack(found).detach()
        before, after = values[:6].mean(), values[-6:].mean()
        assert after < 0.8 * before, (
            f"{name} goes from {before:.2f} to {after:.2f} in 30 updates: does it learn?"
        )
    for network in run.world:
        norms += [p.grad.square().sum() for p in network.parameters()]
    assert torch.stack(norms).sum().sqrt() < 1 + 1e-4, "the gradient's norm is not cut to 1"


@pytest.mark.grades("train")
def test_parts_are_replaced(no_score, monkeypatch):
    """A control's networks are the ones that learn and dream; the denoiser learns from what `change` returns."""
    got, inner = [], core.denoiser_loss

    def spy(network, frames, actions, valid, **options):
        got.append((frames, actions, valid))
        return inner(network, frames, actions, valid, **options)

    def change(frames, actions, valid):
        assert frames.shape[:2] == (4, 6), f"change gets frames {tuple(frames.shape)}"
        assert actions.shape == (4, 5), f"change gets actions {tuple(actions.shape)}"
        return frames * 0.5, torch.full_like(actions, 2), torch.ones_like(valid)

    class Other(module.UNet):
        pass

    class Else(module.Outcome):
        pass

    monkeypatch.setattr(module, "denoiser_loss", spy, raising=False)
    run = module.train(tiny(((6, 2, 1),)), parts=module.Parts(denoiser=Other, outcome=Else, change=change))
    assert isinstance(run.denoiser, Other), "the denoiser is not replaced"
    assert isinstance(run.outcome, Else), "the outcome is not replaced"
    assert (got[0][1] == 2).all(), "what the denoiser learns from is not changed"
    assert got[0][2].all(), "what the denoiser learns from is not changed"
    assert got[0][0].abs().max() <= 0.5, "what the denoiser learns from is not changed"


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.grades("train")
def test_a_run_goes_on_where_it_stopped(no_score, monkeypatch, tmp_path):
    """Stopped in its second round, it ends as if it had never stopped, bit for bit; once complete it does nothing more."""
    whole = module.train(tiny(), seed=3)
    path, collect = tmp_path / "deep" / "run.pt", module.collect

    def stopping(n, agent, **options):
        if agent is not None:
            raise KeyboardInterrupt
        return collect(n, agent, **options)

    monkeypatch.setattr(module, "collect", stopping)
    with pytest.raises(KeyboardInterrupt):
        module.train(tiny(), seed=3, checkpoint=path)
    monkeypatch.setattr(module, "collect", collect)
    assert path.exists(), "nothing was saved after the first round"
    run = module.train(tiny(), seed=3, checkpoint=path)
    assert len(run.replay.frames) == 10, f"{len(run.replay.frames)} episodes after going on, expected 10"
    assert same(run, whole), "a run that was stopped ends otherwise"
    assert without_seconds(run.records) == without_seconds(whole.records), "its records are others"
    seconds = [record["seconds"] for record in run.records]
    assert seconds == sorted(seconds), "the clock starts again where a run goes on"
    monkeypatch.setattr(module, "collect", None)
    assert same(module.train(tiny(), seed=3, checkpoint=path), whole), "a complete run is not loaded"


@pytest.mark.grades("train")
@pytest.mark.parametrize("changed", ["seed", "gust", "rounds"])
def test_a_foreign_checkpoint_is_refused(no_score, tmp_path, changed):
    """One of another seed or other settings is refused, by the name of its file."""
    path = tmp_path / "run.pt"
    module.train(tiny(((3, 0, 1),)), seed=1, checkpoint=path)
    seed = 2 if changed == "seed" else 1
    settings = {
        "seed": tiny(((3, 0, 1),)),
        "gust": tiny(((3, 0, 1),), gust=0.2),
        "rounds": tiny(((3, 0, 1), (1, 0, 1))),
    }
    with expect_error(ValueError, path.name, otherwise=f"a checkpoint of another {changed} is accepted"):
        module.train(settings[changed], seed=seed, checkpoint=path)


@pytest.mark.grades("train")
def test_a_checkpoint_is_whole_or_not_there(no_score, monkeypatch, tmp_path):
    """A save that fails half-way leaves the file of before."""
    path = tmp_path / "run.pt"
    run = module.train(tiny(((3, 0, 1),)), checkpoint=path)
    before = path.read_bytes()

    def full(state, target):
        with open(target, "wb") as file:
            file.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(module.torch, "save", full)
    with pytest.raises(OSError, match="no space"):
        module.save_checkpoint(run, path)
    assert path.read_bytes() == before, "a save that fails destroys the checkpoint"


@pytest.fixture(scope="module")
def networks():
    """Three woken networks."""
    with torch.random.fork_rng():
        return {
            "denoiser": wake(module.UNet(), 1),
            "outcome": wake(module.Outcome(), 2),
            "agent": wake(module.ActorCritic(), 3),
        }


@pytest.mark.grades("save_weights", "load_weights")
def test_weights_come_back(networks, tmp_path):
    """All weights, in half precision; the note beside them; the networks are left as they are."""
    path = tmp_path / "deep" / "w.safetensors"
    before = {name: [p.detach().clone() for p in n.parameters()] for name, n in networks.items()}
    module.save_weights(networks, path, note={"gust": 0.4, "rounds": ((1, 2, 3),)})
    for name, n in networks.items():
        assert all(map(torch.equal, before[name], n.parameters())), f"saving changes the {name}"
    stored = load_file(path)
    assert {v.dtype for v in stored.values()} == {torch.float16}, "weights are not stored in half precision"
    assert (
        path.stat().st_size < 2.2 * sum(p.numel() for n in networks.values() for p in n.parameters()) + 10_000
    ), "the file is large"
    with safe_open(path, "pt") as file:
        assert file.metadata()["gust"] == "0.4", f"the note is {file.metadata()}"
    world, agent = module.load_weights(path)
    loaded = {"denoiser": world.denoiser, "outcome": world.outcome, "agent": agent}
    for name, n in loaded.items():
        assert not n.training, f"the {name} is not ready for use: eval()"
        for mine, kept in zip(n.parameters(), before[name], strict=True):
            assert mine.dtype == torch.float32, f"the {name} is {mine.dtype}"
            assert torch.equal(mine, kept.half().float()), f"the weights of {name} come back as others"


@pytest.mark.grades("save_weights", "load_weights")
@pytest.mark.parametrize("broken", ["missing", "shape", "unknown"])
def test_other_weights_are_refused(networks, tmp_path, broken):
    """Weights that are missing, of another shape or of no network: a ValueError that names the file and the network."""
    path = tmp_path / "w.safetensors"
    module.save_weights(networks, path, note={})
    tensors = load_file(path)
    if broken == "missing":
        tensors = {key: v for key, v in tensors.items() if not key.startswith("outcome.body.0")}
    elif broken == "shape":
        tensors["outcome.body.0.bias"] = torch.zeros(3)
    else:
        tensors["outcome2.weight"] = torch.zeros(3)
    save_file(tensors, path)
    mentions = ("outcome2",) if broken == "unknown" else ("outcome",)
    with expect_error(
        ValueError, path.name, *mentions, otherwise=f"weights are accepted though one is {broken}"
    ):
        module.load_weights(path)


@pytest.mark.grades
@pytest.mark.parametrize("gust", [0.0, 0.4])
def test_main(no_score, monkeypatch, tmp_path, capsys, gust):
    """It saves weights by the name of the game, and a checkpoint by the seed; it says what came out."""
    monkeypatch.setattr(module, "__file__", str(tmp_path / "train.py"))
    monkeypatch.setattr(module, "WINDY", ((2, 1, 1),))
    settings = module.Settings
    monkeypatch.setattr(module, "Settings", lambda **k: settings(**{**QUICK, "rounds": ((3, 1, 1),), **k}))
    monkeypatch.setattr("sys.argv", ["train.py", "--seed", "7", *(["--gust", str(gust)] if gust else [])])
    module.main()
    name = "gust" if gust else "catch"
    assert (tmp_path / "build" / f"{name}_7.pt").exists(), "no checkpoint is written"
    assert "0.25" in capsys.readouterr().out, "the score is not told"
    with safe_open(tmp_path / "weights" / f"{name}.safetensors", "pt") as file:
        assert file.metadata()["gust"] == str(gust), f"the note says {file.metadata()}"
    module.load_weights(tmp_path / "weights" / f"{name}.safetensors")
