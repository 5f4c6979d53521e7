"""The judge of collecting, of batches and of the files of weights. Oracles: the game played again by hand, numbered frames."""

import pytest
import torch
from episodes import numbered, played, seeded, wake
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import train as module
from shared.testing.checks import assert_close, expect_error, unchanged


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
    for first, said in ((4, "late"), (2, "early")):
        told = (paddle[:, :-1] + actions[:, first : first + 8] - 1).clamp(0, 8)
        assert not torch.equal(paddle[:, 1:], told), f"the actions are aligned one step {said}"
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
    inner = (place > 3) & (place < 11)
    late = any(torch.equal(reward[inner], (100 * who + place - 3 + by)[inner].float()) for by in (-1, 1))
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
