"""The judge of collecting and of the files of weights. Oracles: the game played again by hand, tokenizers that say what they saw."""

import pytest
import torch
from episodes import Shrinking, played, seeded, wake
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import train as module
from shared.testing.checks import assert_close, expect_error, unchanged


class Told(nn.Module):
    """A policy of fixed logits, which remembers the frames that it saw."""

    def __init__(self, *logits):
        super().__init__()
        self.logits, self.seen = nn.Parameter(torch.tensor(logits)), []

    def forward(self, frames):
        self.seen.append(frames.clone())
        return self.logits.expand(len(frames), -1), torch.zeros(len(frames))


def places(frames):
    """Column of the ball and of the paddle, by a search pixel by pixel: (n, t) each."""
    ball = (frames[..., 1:11, 1:11] == 1).any(-2).int().argmax(-1)
    paddle = (frames[..., 10, 1:11] == 0.5).int().argmax(-1)
    return ball, paddle


@pytest.mark.grades("collect", "Replay")
def test_collect_records_whole_episodes():
    """Shapes, text, the final frame; each frame is the game's answer to the action before it."""
    replay = module.collect(40, None, seed=5, generator=seeded(1))
    shapes = [tuple(c.shape) for c in replay]
    assert shapes == [(40,), (40, 10, 12, 12), (40, 9), (40, 9), (40, 9)], f"shapes {shapes}"
    kinds = [c.dtype for c in replay]
    assert kinds == [torch.int64, torch.float32, torch.int64, torch.float32, torch.bool], f"dtypes {kinds}"
    text, frames, actions, rewards, ends = replay
    assert (text == 1).all(), f"the text of calm games is {text.unique().tolist()}, expected 1"
    assert (frames[:, 0, 1] == 1).any(-1).all(), "the first frame is not in its place"
    assert (frames[:, -1, 10] == 1).any(-1).all(), (
        "the first frame of the next game is recorded as the last one: the last one is in infos['final_obs']"
    )
    _, paddle = places(frames[:, :9])  # in the last frame the ball may hide it
    for first, said in ((1, "late"), (-1, "early")):
        told = (paddle[:, 1:-1] + actions[:, 1 + first : 8 + first] - 1).clamp(0, 8)
        assert not torch.equal(paddle[:, 2:], told), f"the actions are aligned one step {said}"
    moved = (paddle[:, :-1] + actions[:, :8] - 1).clamp(0, 8)
    assert torch.equal(paddle[:, 1:], moved), "frames[:, t + 1] is not the game's answer to actions[:, t]"
    fresh = iter(actions.T.numpy())
    _, again, _, true_rewards, true_ends = played(40, seed=5, steps=lambda n, t: next(fresh))
    assert torch.equal(frames, again), "the frames are not those of the calm game that the seed starts"
    assert torch.equal(rewards, true_rewards), "the rewards are not those of the game"
    assert torch.equal(ends, true_ends), "the ends are not those of the game"


@pytest.mark.grades("collect")
def test_windy_games():
    """The text says which wind blows: none in calm games, 0.4 in windy ones; and it is kept."""
    for text, gust in ((1, 0.0), (2, 0.4)):
        replay = module.collect(300, None, text=text, seed=3, generator=seeded(1))
        assert (replay.text == text).all(), f"the text {text} is recorded as {replay.text.unique().tolist()}"
        fresh = iter(replay.actions.T.numpy())
        wanted = played(300, gust=gust, seed=3, steps=lambda n, t, fresh=fresh: next(fresh))[1]
        assert torch.equal(replay.frames, wanted), f"a game of text {text} is not one with gust {gust}"


@pytest.mark.grades("collect")
def test_who_acts():
    """Without an agent all actions alike; else the agent's, and with probability epsilon a random one."""
    assert_close(
        shares_of(None), torch.full((3,), 1 / 3), atol=0.03, what="shares of random actions", vacuous_ok="alike"
    )  # fmt: skip
    left = Told(50.0, 0.0, 0.0)
    random = module.collect(400, left, epsilon=0.5, generator=seeded(2)).actions != 0
    shares = random.float().mean(dim=0)
    assert shares.max() - shares.min() < 0.3, (
        f"one coin is thrown for all games: in the nine steps {shares.tolist()} of the actions are not the agent's"
    )
    for epsilon, other in ((0.0, 0.0), (0.3, 0.1), (1.0, 1 / 3)):
        assert_close(
            shares_of(left, epsilon=epsilon), torch.tensor([1 - 2 * other, other, other]), atol=0.03, vacuous_ok="shares",
            what=f"shares of the actions where the agent goes left and epsilon is {epsilon}",
        )  # fmt: skip
    likely = torch.tensor([0.5, 0.3, 0.2])
    drawn = shares_of(Told(*likely.log().tolist()))
    assert (drawn - likely).abs().max() < 0.03, (
        f"the policy's actions are not drawn by their probabilities: {drawn.tolist()}"
    )
    greedy = shares_of(Told(*likely.log().tolist()), greedy=True)
    assert greedy.tolist() == [1, 0, 0], f"played greedily, shares of the actions are {greedy.tolist()}"


def shares_of(agent, **options):
    """How often each action is taken."""
    actions = module.collect(400, agent, generator=seeded(2), **options).actions.flatten()
    return actions.bincount(minlength=3) / len(actions)


class Diagonal(nn.Module):
    """Stands for a tokenizer: the pixels of a frame's diagonal are kept, and come back as columns, a quarter as bright."""

    def encode(self, frames):
        """Twelve levels, in half units."""
        return (2 * frames.flatten(-2)[..., ::13]).long()

    def decode(self, tokens):
        """A frame whose columns are the tokens, in units of an eighth."""
        return (tokens / 8.0)[..., None, :].expand(*tokens.shape[:-1], 12, 12).clone()


@pytest.mark.grades("collect")
@pytest.mark.parametrize("tokenizer", [None, Diagonal()], ids=["without a tokenizer", "with one"])
def test_what_the_agent_sees(tokenizer):
    """The last four frames, the oldest first, as the tokenizer makes them; never the one that its own action leads to."""
    agent = Told(0.0, 0.3, 0.1)
    replay = module.collect(7, agent, tokenizer, generator=seeded(3))
    assert len(agent.seen) == 9, f"the agent is asked {len(agent.seen)} times in nine steps"
    raw = replay.frames
    shown = raw if tokenizer is None else torch.stack([tokenizer.decode(tokenizer.encode(f)) for f in raw.unbind(1)], 1)  # fmt: skip
    for t, seen in enumerate(agent.seen):
        window = torch.stack([shown[:, max(0, p)] for p in range(t - 3, t + 1)], dim=1)
        bare = torch.stack([raw[:, max(0, p)] for p in range(t - 3, t + 1)], dim=1)
        assert tokenizer is None or not torch.equal(seen, bare), (
            "the agent sees frames as they are, not what the tokenizer makes of them"
        )
        assert not (t and torch.equal(seen, window.flip(1))), "the agent sees the newest frame first"
        assert torch.equal(seen, window), f"at step {t} the agent does not see the last four frames"


@pytest.mark.grades("collect")
def test_collect_is_repeatable():
    """seed decides the games, the generator the actions; nothing else is drawn, and no gradient is kept."""
    state = torch.get_rng_state()
    plain = module.collect(9, Told(0.1, 0.2, 0.3), epsilon=0.5, seed=1, generator=seeded(1))
    again = module.collect(9, Told(0.1, 0.2, 0.3), epsilon=0.5, seed=1, generator=seeded(1))
    assert all(map(torch.equal, plain, again)), "seed and generator do not decide all"
    others = module.collect(9, Told(0.1, 0.2, 0.3), epsilon=0.5, seed=2, generator=seeded(1))
    assert not torch.equal(plain.frames[:, 0], others.frames[:, 0]), "the seed is ignored"
    assert torch.equal(torch.get_rng_state(), state), "random numbers are not drawn from the generator"


@pytest.mark.grades("score")
def test_score():
    """The mean return of games played greedily, by its seed and text; the tokenizer is used."""
    agent = Told(0.1, 0.0, 0.0)
    for n, text, seed in ((1000, 1, 10_000), (50, 2, 3)):
        options = {} if n == 1000 else {"n": n, "text": text, "seed": seed}
        rewards = played(
            n, gust=0.4 * (text - 1), seed=seed, steps=lambda n, t: torch.zeros(n, dtype=torch.int64).numpy()
        )[3]
        got, wanted = module.score(agent, **options), rewards.sum(1).mean().item()
        assert isinstance(got, float), f"score returns a {type(got).__name__}"
        assert abs(got - wanted) < 1e-5, (
            f"score {got} of a player that goes left in {n} games of text {text}, expected {wanted}"
        )
    tokenizer, agent = Diagonal(), Told(0.1, 0.0, 0.0)
    module.score(agent, tokenizer, n=4)
    assert agent.seen[0].abs().max() <= 0.25, "the agent does not see what the tokenizer makes of the frames"


@pytest.mark.grades("encode")
@pytest.mark.parametrize("n", [1, 100, 230])
def test_encode(n):
    """Every frame's tokens in its place, however many there are, without gradients."""
    frames = torch.arange(float(n * 3)).reshape(n, 3, 1, 1).expand(n, 3, 12, 12).clone()
    tokenizer = Shrinking()
    with unchanged(frames):
        tokens = module.encode(tokenizer, frames)
    assert tokens.shape == (n, 3, 9), f"tokens {tuple(tokens.shape)}, expected {(n, 3, 9)}"
    assert torch.equal(tokens[..., 4], torch.arange(n * 3).reshape(n, 3)), (
        "tokens are not in the place of their frames"
    )
    assert max(len(asked) for asked in tokenizer.encoded) <= 200, (
        "all frames are encoded in one part: too much for memory"
    )


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def networks():
    """Four woken networks: of catch, and the coarse ones."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        catch = {
            "tokenizer": module.Tokenizer(),
            "world": module.TokenWorld(module.Vocabulary()),
            "agent": module.ActorCritic(),
        }
        coarse = {"tokenizer": module.Tokenizer(module.COARSE), "decoder": module.Decoder()}
    for i, network in enumerate([*catch.values(), *coarse.values()]):
        wake(network, i)
    return catch, coarse


def kept(network):
    return {key: value.clone() for key, value in network.state_dict().items()}


@pytest.mark.grades("save_weights", "load_weights", "load_coarse")
@pytest.mark.parametrize("which", [0, 1], ids=["catch", "coarse"])
def test_weights_come_back(networks, tmp_path, which):
    """All weights, in half precision; the note beside them; the networks are left as they are."""
    path, mine = tmp_path / "deep" / "w.safetensors", networks[which]
    before = {name: kept(n) for name, n in mine.items()}
    module.save_weights(mine, path, note={"seed": 7, "rounds": ((1, 2, 3),)})
    for name, n in mine.items():
        assert all(torch.equal(v, before[name][key]) for key, v in n.state_dict().items()), (
            f"saving changes the {name}"
        )
    stored = load_file(path)
    assert {v.dtype for v in stored.values()} == {torch.float16}, "weights are not stored in half precision"
    n_numbers = sum(v.numel() for n in before.values() for v in n.values())
    assert path.stat().st_size < 2.2 * n_numbers + 10_000, "the file is large"
    with safe_open(path, "pt") as file:
        assert (file.metadata() or {}).get("seed") == "7", f"the note is {file.metadata()}"
    loaded = dict(zip(mine, (module.load_weights, module.load_coarse)[which](path), strict=True))
    for name, n in loaded.items():
        assert type(n) is type(mine[name]), f"the {name} is a {type(n).__name__}"
        assert not n.training, f"the {name} is not ready for use: eval()"
        for key, value in n.state_dict().items():
            assert value.dtype == torch.float32, f"the {name} is {value.dtype}"
            assert torch.equal(value, before[name][key].half().float()), (
                f"{key} of the {name} comes back as another"
            )


@pytest.mark.grades("save_weights", "load_weights")
@pytest.mark.parametrize("broken", ["missing", "shape", "unknown"])
def test_other_weights_are_refused(networks, tmp_path, broken):
    """Weights that are missing, of another shape or of no network: a ValueError that names the file and the network."""
    path = tmp_path / "w.safetensors"
    module.save_weights(networks[0], path, note={})
    tensors = load_file(path)
    one = min(key for key, v in tensors.items() if key.startswith("world.") and v.ndim == 1)
    if broken == "missing":
        del tensors[one]
    elif broken == "shape":
        tensors[one] = torch.zeros(3)
    else:
        tensors["outcome.weight"] = torch.zeros(3)
    save_file(tensors, path)
    with expect_error(
        ValueError, path.name, "outcome" if broken == "unknown" else "world", otherwise=f"weights are accepted though one is {broken}"
    ):  # fmt: skip
        module.load_weights(path)


@pytest.mark.grades("load_weights", "load_coarse")
def test_the_files_are_not_exchanged(networks, tmp_path):
    """The coarse file is no file of catch, nor the other way."""
    for which, load in ((0, module.load_coarse), (1, module.load_weights)):
        path = tmp_path / f"{which}.safetensors"
        module.save_weights(networks[which], path, note={})
        with expect_error(ValueError, path.name, otherwise="the weights of other networks are accepted"):
            load(path)
