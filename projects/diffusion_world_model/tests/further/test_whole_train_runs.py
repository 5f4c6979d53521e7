"""The judge of whole runs. Oracles: a clock that is told, data that is poisoned, runs that must end alike bit for bit."""

import itertools
import math
import types

import pytest
import torch
from episodes import seeded
from safetensors import safe_open

import agent as agent_module
import diffusion_world_model as core
import train as module
from dream import Dream
from shared.testing.checks import assert_close, expect_error
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
        replay.rewards.fill_(50.0)
        replay.ends.fill_(True)
        replay.frames[:, -1] = 50.0
        replay.actions[:, -1] = -99
        return beginnings(replay, **options)

    monkeypatch.setattr(module, "beginnings", poisoned)
    run = module.train(tiny(((6, 2, 3),)), seed=2)
    for mine, theirs in zip(run.agent.parameters(), clean.agent.parameters(), strict=True):
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


@pytest.mark.grades("ActorCritic", "improve")
def test_learns_a_toy():
    """Reward 1 for the action that the newest frame shows, else -1: after 25 batches of one-step dreams it is taken."""
    g = seeded(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        agent = agent_module.ActorCritic(width=8)
    optimizer = torch.optim.Adam(agent.parameters(), 3e-3)

    def scene(n):
        wanted = torch.randint(3, (n,), generator=g)
        history = -torch.ones(n, 4, 12, 12)
        history[torch.arange(n), -1, :, 4 * wanted] = 1.0
        return history, wanted

    for _ in range(25):
        history, wanted = scene(64)
        with torch.no_grad():
            logits, values = agent(history)
        action = torch.multinomial(logits.softmax(1), 1, generator=g)[:, 0]
        log_probs = logits.log_softmax(1).gather(1, action[:, None])[:, 0]
        rewards = torch.where(action == wanted, 1.0, -1.0)
        columns = (
            history,
            action,
            log_probs,
            values,
            torch.full((64,), 9.0),
            rewards,
            torch.ones(64, dtype=torch.bool),
        )
        agent_module.improve(agent, optimizer, Dream(*(c[None] for c in columns)), generator=g)
    history, wanted = scene(300)
    with torch.no_grad():
        right = (agent(history)[0].argmax(1) == wanted).float().mean()
    assert right > 0.9, f"the agent takes the rewarded action in {right:.0%} of cases"
