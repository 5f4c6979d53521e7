"""The judge of the evaluation. Oracles: worlds that are told what to say, counts one by one, the game itself, Bayes' rule by hand."""

import itertools
import math
import types

import matplotlib.pyplot as plt
import pytest
import torch
from episodes import Shrinking, drawn, numbered, played, seeded, wake
from oracles import interleave as tokens_of
from oracles import next_frame
from torch import nn

import evaluate as module
from shared.testing.checks import assert_close, unchanged
from token_world_model import TokenWorld
from train import Parts, Replay, Settings
from truth import next_column
from world import PLAIN, Cache, Episodes, Output, Sampling, Vocabulary

DOUBLE = torch.float64
WORDS = Vocabulary(n_codes=7, n_image=4, n_texts=3, n_actions=3)
CONTROLS = [
    "agent trained in the dream", "untrained world", "shuffled actions", "no action", "last frame", "model-free",
]  # fmt: skip
RESULT = """player,seed,real_steps,cpu_seconds,return
agent trained in the dream,0,10800,200,0.9
agent trained in the dream,1,10800,220,0.75
agent trained in the dream,2,10800,260,0.8
no action,0,10800,190,-0.4
no action,1,10800,191,0.1
no action,2,10800,192,-0.2
"""


def episodes(n, n_steps, *, seed=1, last_action=True):
    """Texts, images and actions of WORDS."""
    g = seeded(seed)
    text = torch.randint(1, 3, (n,), generator=g)
    images = torch.randint(WORDS.n_codes, (n, n_steps, WORDS.n_image), generator=g)
    return text, images, torch.randint(3, (n, n_steps - (not last_action)), generator=g)


def small(kind):
    """A small world, woken: two of a kind have the same weights."""
    return wake(kind(WORDS, d=8, n_heads=2, n_layers=2, window=9), 3).eval()


def at_image(rows, n):
    """The rows (B, tokens, ...) that say image tokens, (B, T, n, ...)."""
    place = torch.arange(rows.shape[1]) % (n + 2)
    return rows[:, place < n].unflatten(1, (-1, n))


# --- controls ---------------------------------------------------------------------------------------------------------


@pytest.mark.grades("NoAction")
def test_no_action():
    """Its answer is a world's that is told "stay", whatever was done; also where it goes on."""
    world, twin, (text, images, actions) = small(module.NoAction), small(TokenWorld), episodes(5, 4)
    tokens, told = tokens_of(text, images, actions, WORDS), tokens_of(text, images, 0 * actions + 1, WORDS)
    with torch.no_grad(), unchanged(tokens):
        output, cache = world(tokens[:, :14])
        later, cache = world(tokens[:, 14:], cache)
        wanted, _ = twin(told)
        seen, _ = twin(tokens)
    assert cache.position == tokens.shape[1], (
        f"the cache stands at {cache.position}, expected {tokens.shape[1]}"
    )
    for name, a, b, plain, true in zip(Output._fields, output, later, wanted, seen, strict=True):
        assert_close(
            torch.cat([a, b], dim=1), plain, rtol=1e-4, what=f"{name} logits", mistakes={"the action is seen": true}, hint='the world is not told "stay"'
        )  # fmt: skip


@pytest.mark.grades("CopyLast")
def test_copy_last_in_one_call():
    """At each token it says the one that stood there a step ago; reward and end as any other world."""
    world, twin, (text, images, actions) = small(module.CopyLast), small(TokenWorld), episodes(5, 4)
    tokens = tokens_of(text, images, actions, WORDS)
    with torch.no_grad(), unchanged(tokens):
        output, cache = world(tokens)
        wanted, _ = twin(tokens)
    said = at_image(output.image, 4)
    assert (said.softmax(-1).amax(-1) > 0.99).all(), "the copy is not certain"
    got = said.argmax(-1)
    assert not torch.equal(got[:, 2:], images[:, :-2]), "it copies the image of two steps ago"
    assert torch.equal(got[:, 1:], images[:, :-1]), "it does not copy the last image"
    assert not got[:, 0].any(), "before the first step stands another code than 0"
    assert_close(output.reward, wanted.reward, rtol=1e-4, what="reward logits")
    assert_close(output.end, wanted.end, rtol=1e-4, what="end logits")
    assert cache.position == tokens.shape[1], (
        f"the cache stands at {cache.position}, expected {tokens.shape[1]}"
    )


@pytest.mark.grades("CopyLast")
@pytest.mark.parametrize("cuts", [(1, 2, 3), (5, 6, 13), (2, 11, 12, 17), tuple(range(1, 24))], ids=str)
def test_copy_last_goes_on(cuts):
    """In pieces of any size it says what it says in one call."""
    world, (text, images, actions) = small(module.CopyLast), episodes(3, 4)
    tokens = tokens_of(text, images, actions, WORDS)
    with torch.no_grad():
        whole, _ = world(tokens)
        cache, parts = None, []
        for a, b in itertools.pairwise((0, *cuts, tokens.shape[1])):
            output, cache = world(tokens[:, a:b], cache)
            parts.append(output)
    for name, rows, true in zip(Output._fields, zip(*parts, strict=True), whole, strict=True):
        assert_close(torch.cat(rows, dim=1), true, rtol=1e-4, atol=1e-4, what=f"{name} logits in pieces cut at {cuts}", hint="it forgets its cache: in pieces it says something else")  # fmt: skip


@pytest.mark.grades("CopyLast")
def test_copy_last_dreams_a_still():
    """Image after image is the last one, whatever is done."""
    world, (text, images, actions) = small(module.CopyLast), episodes(4, 2, last_action=False)
    _, cache = world(tokens_of(text, images, actions, WORDS))
    for t in range(3):
        image, _, _, cache = next_frame(world, text, torch.full((4,), t), cache, generator=seeded(t))
        assert torch.equal(image, images[:, -1]), f"image {t} of the dream is another one than the last"


@pytest.mark.grades
def test_shuffle():
    """Every episode gets the actions of another one; all else stays."""
    text, images, actions = episodes(5, 3, last_action=False)
    actions = torch.arange(10).reshape(5, 2)
    batch = Episodes(text, images, actions, torch.rand(5, 2), torch.rand(5, 2) < 0.5)
    with unchanged(*batch):
        mixed = module.shuffle(batch)
    assert (mixed.actions[:, 0] != actions[:, 0]).all(), "an episode keeps its actions: shuffle moves nothing"
    assert torch.equal(mixed.actions[:, 1], mixed.actions[:, 0] + 1), "the order within an episode is broken"
    assert torch.equal(mixed.actions[:, 0].sort().values, actions[:, 0]), (
        "the actions are not those of the episodes"
    )
    assert all(torch.equal(a, b) for i, (a, b) in enumerate(zip(mixed, batch, strict=True)) if i != 2), (
        "more than the actions changes"
    )


@pytest.mark.grades("model_free")
def test_each_control_differs_by_one_thing(monkeypatch):
    """Which settings and parts each player is trained with; each is scored with its own tokenizer."""
    asked = {}
    settings = Settings(rounds=((5, 7, 3), (2, 4, 1)), n_dreams=11)

    def told(settings, *, seed, parts=None):
        asked[name] = settings, seed, parts or Parts()
        return types.SimpleNamespace(agent=name, tokenizer=f"tokenizer of {name}")

    monkeypatch.setattr(module, "train", told, raising=False)
    monkeypatch.setattr(module, "score", lambda agent, tokenizer=None: (agent, tokenizer), raising=False)
    assert list(module.CONTROLS) == CONTROLS, f"controls {list(module.CONTROLS)}"
    for name in CONTROLS[:-1]:
        got = module.CONTROLS[name](settings, 6)
        assert got == (name, f"tokenizer of {name}"), (
            f"{name}: scored is {got}, expected the agent of the run with its tokenizer"
        )
        assert asked[name][1] == 6, f"{name}: the seed is ignored"
    wanted = {
        "agent trained in the dream": {}, "untrained world": {}, "shuffled actions": {"change": module.shuffle},
        "no action": {"world": module.NoAction}, "last frame": {"world": module.CopyLast},
    }  # fmt: skip
    plain = Parts()
    for name, changed in wanted.items():
        parts = asked[name][2]
        assert parts.world is changed.get("world", plain.world), (
            f"{name} has the world {parts.world.__name__}"
        )
        assert parts.change is changed.get("change", plain.change), f"{name} learns from other episodes"
        rounds = ((5, 0, 3), (2, 0, 1)) if name == "untrained world" else settings.rounds
        assert asked[name][0].rounds == rounds, (
            f"{name} has the rounds {asked[name][0].rounds}, expected {rounds}"
        )
        assert asked[name][0].n_dreams == 11, f"{name} has other settings"
    monkeypatch.setattr(module, "model_free", lambda settings, *, seed: (settings, seed))
    got = module.CONTROLS["model-free"](settings, 6)
    assert got == ((settings, 6), None), (
        "model-free has other settings or another seed, or does not see frames as they are"
    )


@pytest.mark.grades("model_free")
def test_model_free(monkeypatch):
    """As many real steps, a few games at a time, other ones each time; the agent improves by each batch once."""
    collected, improved = [], []

    def told(n, agent, tokenizer=None, *, text=1, seed, generator):
        collected.append((n, text, seed))
        assert tokenizer is None, "it sees frames through a tokenizer, expected frames as they are"
        return Replay(*played(n, text=text, seed=seed))

    def improve(agent, optimizer, dream, frames, *, n_epochs, generator):
        rate, parameters = optimizer.param_groups[0]["lr"], {id(p) for p in agent.parameters()}
        improved.append((dream, frames.clone(), n_epochs, rate, parameters))

    monkeypatch.setattr(module, "collect", told, raising=False)
    monkeypatch.setattr(module, "improve", improve, raising=False)
    monkeypatch.setattr(
        module, "Adam", lambda p, lr, **k: types.SimpleNamespace(param_groups=[{"lr": lr, "params": list(p)}]), raising=False,
    )  # fmt: skip
    state = torch.get_rng_state()
    settings = Settings(rounds=((20, 9, 9), (10, 9, 9)), agent_rate=0.03)
    agent = module.model_free(settings, seed=2, n_games=6, n_epochs=7)
    assert torch.equal(torch.get_rng_state(), state), "torch's own random numbers are used"
    assert sum(n for n, _, _ in collected) == 30, (
        f"{sum(n for n, _, _ in collected)} games are played, expected 30"
    )
    assert {(n, text) for n, text, _ in collected} == {(6, 1)}, (
        "games at a time are others, or not all are calm"
    )
    seeds = {seed for _, _, seed in collected}
    assert len(seeds) == 5, f"the same games are played again: {len(seeds)} different batches, expected 5"
    assert len(improved) == 5, f"{len(improved)} batches improve the agent, expected 5"
    for (dream, frames, n_epochs, rate, parameters), (n, text, seed) in zip(improved, collected, strict=True):
        assert (n_epochs, rate) == (7, 0.03), f"{n_epochs} passes at the rate {rate}, expected 7 at 0.03"
        assert parameters == {id(p) for p in agent.parameters()}, "another agent is improved than is returned"
        real = Replay(*played(n, text=text, seed=seed))
        assert torch.equal(frames, real.frames), "the frames are not those of the games that were played"
        assert torch.equal(dream.actions, real.actions.T), (
            "the actions are not those of the games that were played"
        )
    collected.clear()
    other = module.model_free(settings, seed=3, n_games=6)
    assert not seeds & {seed for _, _, seed in collected}, "two seeds play the same games"
    first = [next(iter(a.parameters())).detach() for a in (agent, other, module.model_free(settings, seed=2))]
    assert not torch.equal(first[0], first[1]), "the seed does not decide how the agent starts"
    assert torch.equal(first[0], first[2]), "the same seed starts another agent"


class Teller(nn.Module):
    """An agent whose logits and value depend on each of the four frames and its place."""

    def __init__(self):
        super().__init__()
        weights = [[1.0, -2.0, 0.5, 1.0], [0.3, 1.0, -1.0, 10.0], [2.0, 0.1, 0.2, 100.0], [-1.0, 0.4, 1.5, 1000.0]]  # fmt: skip
        self.weights = nn.Parameter(torch.tensor(weights))

    def forward(self, frames):
        out = frames.mean((2, 3)) @ self.weights
        return out[:, :3], out[:, 3]


@pytest.mark.grades("as_dream")
def test_as_dream():
    """Actions, rewards and ends of the same step, time first; what the agent thinks before and after it; all is alive."""
    replay = Replay(*numbered(4))
    replay = replay._replace(frames=replay.frames / 500)
    with unchanged(*replay):
        dream = module.as_dream(replay, Teller())
    shapes = [tuple(c.shape) for c in dream[1:]]
    assert shapes == [(9, 4)] * 7, f"columns {shapes}, expected (9, 4): time first"
    assert dream.alive.all(), "a step of a real game is not alive"
    assert not any(c.requires_grad for c in dream), "a dream carries gradients"
    for t in range(9):
        window, following = (
            torch.stack([replay.frames[:, max(0, p)] for p in range(n - 3, n + 1)], dim=1) for n in (t, t + 1)
        )
        assert torch.equal(dream.actions[t], replay.actions[:, t]), "the actions are shifted"
        assert torch.equal(dream.rewards[t], replay.rewards[:, t]), "the rewards are shifted"
        assert torch.equal(dream.ends[t], replay.ends[:, t]), "the ends are shifted"
        logits, values = Teller()(window)
        log_p = [
            math.log(math.exp(row[a]) / sum(map(math.exp, row)))
            for row, a in zip(logits.tolist(), replay.actions[:, t].tolist(), strict=True)
        ]
        after = Teller()(following)[1]
        assert_close(
            dream.log_probs[t], torch.tensor(log_p), rtol=1e-4, what="log-probabilities of the actions taken"
        )
        assert_close(dream.values[t], values, rtol=1e-5, what="values before the step", mistakes={"values are shifted: those after the step": after})  # fmt: skip
        assert_close(dream.next_values[t], after, rtol=1e-5, what="values after the step", mistakes={"values are shifted: those before the step": values})  # fmt: skip


@pytest.mark.grades
def test_measure(monkeypatch):
    """A row of the result: who, which seed, how many real steps, seconds, and the return of 1,000 real games."""
    monkeypatch.setitem(module.CONTROLS, "tracker", lambda settings, seed: 0.123456 if seed == 5 else None)
    row = module.measure(("tracker", 5, Settings(rounds=((20, 9, 9), (10, 9, 9)))))
    assert row == {"player": "tracker", "seed": 5, "real_steps": 270, "cpu_seconds": 0, "return": 0.123}, (
        f"the row is {row}"
    )


# --- what the tokens are worth ----------------------------------------------------------------------------------------


class Saying(nn.Module):
    """A world that says given logits (B, T, N, n_codes) at the tokens before those of the images, and nonsense elsewhere."""

    def __init__(self, logits):
        super().__init__()
        self.vocabulary, self.logits, self.read = WORDS, logits, []

    def forward(self, tokens, cache=None):
        self.read.append((tokens.clone(), cache))
        rows = torch.full((*tokens.shape, WORDS.n_codes), 9.0)
        rows[..., 0] = 50.0
        place = torch.arange(tokens.shape[1]) % WORDS.step
        rows[:, place < WORDS.n_image] = self.logits.flatten(1, 2)
        return Output(rows, torch.zeros(*tokens.shape, 3), torch.zeros(*tokens.shape, 2)), Cache(
            (), tokens.shape[1]
        )


def accuracy_by_hand(logits, images, *, first=1, shift=0):
    """Five numbers, counted one by one in lists; `first` is the first image that counts, `shift` compares with another one."""
    right = changed = n_changed = whole = n = n_images = 0
    losses = [[] for _ in range(WORDS.n_image)]
    for b in range(len(images)):
        for t in range(first, images.shape[1]):
            n_images, hits = n_images + 1, []
            for i in range(WORDS.n_image):
                row, true = logits[b, t - shift, i].double(), int(images[b, t, i])
                hits.append(int(row.argmax()) == true)
                n += 1
                right += hits[-1]
                if true != int(images[b, max(t - 1, 0), i]):
                    n_changed += 1
                    changed += hits[-1]
                losses[i].append(float(row.exp().sum().log() - row[true]))
            whole += all(hits)
    return (
        right / n,
        changed / n_changed,
        whole / n_images,
        1 - n_changed / n,
        [math.exp(sum(x) / len(x)) for x in losses],
    )


@pytest.mark.grades("accuracy")
@pytest.mark.parametrize("last_action", [True, False], ids=["with the last action", "without"])
def test_accuracy(last_action):
    """Shares of tokens, of changed tokens and of whole images, the share that a copy has right, perplexity at each place."""
    text, images, actions = episodes(6, 5, last_action=last_action)
    g = seeded(2)
    same = torch.rand(6, 5, 4, generator=g) < 0.5
    for t in range(1, 5):
        images[:, t] = torch.where(same[:, t], images[:, t - 1], images[:, t])
    known = torch.rand(6, 5, 4, generator=g) < torch.tensor([0.95, 0.9, 0.8, 0.7])
    said = torch.where(known, images, torch.randint(7, images.shape, generator=g))
    logits = 2.5 * nn.functional.one_hot(said, 7).float() + 0.3 * torch.randn(6, 5, 4, 7, generator=g)
    world = Saying(logits)
    with unchanged(text, images, actions):
        got = module.accuracy(world, text, images, actions)
    assert torch.equal(world.read[0][0], tokens_of(text, images, actions, WORDS)), (
        "the world reads other tokens"
    )
    wanted = accuracy_by_hand(logits, images)
    first, late = (accuracy_by_hand(logits, images, **o) for o in ({"first": 0}, {"shift": 1}))
    names = ("tokens", "changed", "frames", "copied")
    for i, name in enumerate(names):
        value = getattr(got, name)
        assert not (
            i < 3 and value == pytest.approx(late[i], abs=1e-6) != pytest.approx(wanted[i], abs=1e-6)
        ), f"{name}: what is said is compared with the image a step later"
        assert not (
            value == pytest.approx(first[i], abs=1e-6) and first[i] != pytest.approx(wanted[i], abs=1e-6)
        ), f"{name}: the first image counts"
        assert value == pytest.approx(wanted[i], abs=1e-5), (
            f"{name} is {value:.4f}, counted one by one {wanted[i]:.4f}"
        )
    assert len(got.perplexity) == 4, (
        f"{len(got.perplexity)} perplexities, expected one for each of the 4 tokens of an image"
    )
    assert got.perplexity == pytest.approx(wanted[4], rel=1e-4), (
        f"perplexities {got.perplexity}, by hand {wanted[4]}"
    )


def many(n=4):
    """Real games whose frames are numbers that the toy tokenizer reads, and as tokens."""
    text, _, actions, rewards, ends = numbered(n)
    numbers = (3 * torch.arange(n)[:, None] + torch.arange(10)) % 7
    frames = numbers[:, :, None, None].float().expand(n, 10, 12, 12).clone()
    return Replay(text, frames, actions, rewards, ends), numbers[..., None].expand(n, 10, 9)


@pytest.mark.grades("dream_beside")
@pytest.mark.parametrize(
    ("sampling", "own"),
    [(PLAIN, True), (Sampling(guidance=2.0, k=3), False)],
    ids=["plain", "guided, another text"],
)
def test_dream_beside(monkeypatch, sampling, own):
    """It reads the first frames and the actions between, with guidance also without text; then it dreams under the real actions."""
    real, tokens = many()
    words, asked, g = Vocabulary(n_codes=7), [], seeded(0)
    text = real.text if own else 3 - real.text

    class World:
        vocabulary = words

        def __call__(self, tokens, cache=None):
            assert cache is None, "the world reads on where another dream ended"
            asked.append(tokens.clone())
            return None, "cache 0"

    def told(world, text, actions, cache, sampling=PLAIN, *, generator=None):
        asked.append((world, text.clone(), actions.clone(), cache, sampling, generator))
        number = len(asked) - 1
        return torch.full((4, 9), number), None, None, f"cache {number}"

    monkeypatch.setattr(module, "next_frame", told, raising=False)
    world = World()
    options = {} if own else {"text": text}
    with unchanged(*real):
        got = module.dream_beside(
            world, Shrinking(), real, first=3, n_steps=4, sampling=sampling, generator=g, **options
        )
    assert got.shape == (4, 4, 9), f"tokens {tuple(got.shape)}, expected (4, 4, 9)"
    assert torch.equal(got, torch.arange(1, 5)[None, :, None].expand(4, 4, 9)), (
        "the images are not those of the dream, in their order"
    )
    texts = [text] if sampling.guidance == 1 else [text, 0 * text]
    wanted = torch.cat([tokens_of(t, tokens[:, :3], real.actions[:, :2], words) for t in texts])
    assert asked[0].shape == wanted.shape, (
        f"the world reads tokens {tuple(asked[0].shape)} of the beginning, expected {tuple(wanted.shape)}"
    )
    assert torch.equal(asked[0], wanted), (
        "the world reads another beginning: texts, the first images, the actions between"
    )
    for t, (who, said, actions, cache, how, generator) in enumerate(asked[1:]):
        assert who is world, "another world is asked"
        assert not torch.equal(actions, real.actions[:, 3 + t]), "the actions are one step late"
        assert torch.equal(actions, real.actions[:, 2 + t]), "the actions are not the real ones of that time"
        assert torch.equal(said, text), (
            "the text is not the one that is given" if not own else "the text is not the games' own"
        )
        assert cache == f"cache {t}", "the dream does not go on from its own last image"
        assert how == sampling, f"the sampling is {how}"
        assert generator is g, "the generator is not handed on"


class Columns(nn.Module):
    """Stands for a tokenizer that decodes the first token of an image as the ball's column."""

    def decode(self, tokens):
        return torch.stack([drawn((4, int(c)), 3) for c in tokens[..., 0].flatten()]).unflatten(
            0, tokens.shape[:-1]
        )


@pytest.mark.grades("futures")
def test_futures(monkeypatch):
    """How many paths differ among the dreams of each history; how far the first step is from what can be known."""
    asked, collected = [], []

    def collect(n, agent, tokenizer=None, *, text=1, seed=0, generator=None):
        collected.append((n, agent, text, seed))
        return Replay(*played(n, gust=0.4 * (text == 2), text=text, seed=seed))

    def dreams(column_of):
        def told(world, tokenizer, real, *, first, n_steps, text=None, sampling=PLAIN, generator=None):
            assert isinstance(tokenizer, Columns), "the tokenizer is not handed on"
            assert generator is not None, "the dreams are not drawn by the generator of the seed"
            asked.append((world, real, first, n_steps, text, sampling))
            columns = column_of(real, n_steps, generator)
            return columns[..., None].expand(*columns.shape, 9)

        return told

    def futures(column_of, **options):
        monkeypatch.setattr(module, "dream_beside", dreams(column_of))
        return module.futures("a world", Columns(), sampling=Sampling(k=5), **options)

    monkeypatch.setattr(module, "collect", collect, raising=False)
    still = lambda real, n_steps, g: torch.zeros(len(real.text), n_steps, dtype=torch.int64)  # noqa: E731
    different, distance = futures(still, n_histories=3, n_draws=4, n_steps=2, seed=5)
    assert collected == [(3, None, 2, 5)], (
        f"{collected} is collected, expected three windy games of seed 5, played at random"
    )
    world, real, first, n_steps, text, sampling = asked[0]
    games = Replay(*played(3, gust=0.4, text=2, seed=5))
    assert torch.equal(real.frames, games.frames.repeat_interleave(4, dim=0)), (
        "not each history is dreamt on from n_draws times"
    )
    assert (world, first, n_steps, sampling) == ("a world", 4, 2, Sampling(k=5)), (
        f"{first} first frames, {n_steps} steps, {sampling}"
    )
    assert text is None or torch.equal(text, real.text), "the dreams are not windy"
    assert different == 1, f"dreams that are all alike take {different} paths, expected 1"
    chance = next_column(games.frames[:, :4], 0.4)[:, 0]
    assert distance == pytest.approx((1 - chance).mean().item(), abs=1e-5), (
        f"a ball that is always at column 0 is at a distance of {distance:.4f}, expected {(1 - chance).mean().item():.4f}: half the sum, a mean over histories"
    )

    def some(real, n_steps, g):
        paths = torch.zeros(3, 6, 3, dtype=torch.int64)
        paths[0, 1:4, 2] = torch.tensor([5, 5, 6])  # three paths
        paths[1, :, 0] = torch.tensor([1, 2, 1, 2, 1, 1])  # two paths
        paths[1, 4, 2] = 4  # one more
        return paths.flatten(0, 1)

    different, _ = futures(some, n_histories=3, n_draws=6, n_steps=3)
    assert different == pytest.approx(7 / 3), (
        f"{different:.3f} paths, expected 7/3: a path is all its columns, and each history is counted by itself"
    )

    def truth(real, n_steps, g):
        chances = next_column(real.frames[:, :4], 0.4)
        first = torch.multinomial(chances, 1, generator=g)
        return torch.cat([first, torch.zeros(len(first), n_steps - 1, dtype=torch.int64)], dim=1)

    _, distance = futures(truth, n_histories=4, n_draws=300, n_steps=2)
    assert distance < 0.1, (
        f"first steps that are drawn from the truth are at a distance of {distance:.3f}: the first column counts"
    )


@pytest.mark.grades("gusts")
def test_gusts(monkeypatch):
    """Calm games, dreamt on by one frame under another text; only balls that no wall is near to count."""
    asked, collected = [], []

    def collect(n, agent, tokenizer=None, *, text=1, seed=0, generator=None):
        collected.append((n, agent, text, seed))
        return Replay(*played(n, text=text, seed=seed))

    def told(world, tokenizer, real, *, first, n_steps, text=None, sampling=PLAIN, generator=None):
        assert isinstance(tokenizer, Columns), "the tokenizer is not handed on"
        assert generator is not None, "the dreams are not drawn by the generator of the seed"
        asked.append((world, first, n_steps, text, sampling))
        column = columns_of(real)
        free = (column > 0) & (column < 9)
        blown = torch.where(
            free, (torch.arange(len(column)) % 4 == 0).long(), 1
        )  # a quarter, and all near walls
        blown = torch.where(column == 9, -blown, blown)
        return (column + blown)[:, None, None].expand(len(column), 1, 9)

    def columns_of(real):
        return (real.frames[:, 4, 1:11, 1:11] == 1).any(1).int().argmax(-1)

    monkeypatch.setattr(module, "collect", collect, raising=False)
    monkeypatch.setattr(module, "dream_beside", told)
    share = module.gusts("a world", Columns(), text=2, sampling=Sampling(guidance=3.0), n=80, seed=7)
    assert collected == [(80, None, 1, 7)], (
        f"{collected} is collected, expected 80 calm games of seed 7, played at random"
    )
    world, first, n_steps, text, sampling = asked[0]
    assert (world, first, n_steps) == ("a world", 4, 1), (
        f"{first} first frames and {n_steps} steps, expected 4 and 1"
    )
    assert text.tolist() == [2] * 80, "the dreams have another text than the one that is given"
    assert sampling == Sampling(guidance=3.0), f"the sampling is {sampling}"
    column = columns_of(Replay(*played(80, seed=7)))
    free = (column > 0) & (column < 9)
    assert not free.all(), "defect in the test: no ball is near a wall"
    wanted = (torch.arange(80) % 4 == 0)[free].float().mean().item()
    walls = ((torch.arange(80) % 4 == 0) | ~free).float().mean().item()
    assert share != pytest.approx(walls, abs=1e-6), "balls near a wall count"
    assert share == pytest.approx(wanted, abs=1e-6), (
        f"the share of gusts is {share:.3f}, counted by hand {wanted:.3f}"
    )


@pytest.mark.grades("guided_gusts")
def test_guided_gusts():
    """Without the text Bayes' rule, with it 0.4; beyond, the odds grow by the same factor each time."""
    prior = 0.5 * 0.6**3 / (0.5 * 0.6**3 + 0.5)
    assert module.guided_gusts(1.0) == pytest.approx(0.4), (
        f"guidance 1 is plain: {module.guided_gusts(1.0):.4f}, expected 0.4"
    )
    assert module.guided_gusts(0.0) == pytest.approx(prior * 0.4), (
        f"guidance 0 leaves the text out: {module.guided_gusts(0.0):.4f}, expected {prior * 0.4:.4f} by Bayes' rule"
    )
    odds = [p / (1 - p) for p in (module.guided_gusts(float(w)) for w in range(5))]
    assert_close(
        torch.tensor(odds), torch.tensor([odds[0] * (odds[1] / odds[0]) ** w for w in range(5)]), rtol=1e-5,
        what="the odds of a gust at guidance 0, 1, 2, 3, 4", hint="guidance multiplies the odds by the same factor each time",
    )  # fmt: skip


# --- the result -------------------------------------------------------------------------------------------------------


@pytest.mark.grades
def test_the_rules_of_the_table():
    """Random play, the tracker and the optimum, in 1,000 games."""
    got = module.rules()
    assert list(got) == ["random", "follow the ball", "optimum"], f"rules {list(got)}"
    assert -0.7 < got["random"] < -0.4, f"random play returns {got['random']}"
    assert got["random"] < got["follow the ball"] < got["optimum"] == 1.0, f"the rules return {got}"


@pytest.fixture
def result(monkeypatch, tmp_path):
    """A result that was made up."""
    path = tmp_path / "evaluation.csv"
    path.write_text(RESULT, encoding="utf-8")
    monkeypatch.setattr(module, "RESULT", path)
    monkeypatch.setattr(module, "HERE", tmp_path)
    return path


def print_table(table):
    """Print a table of rich without its frame."""
    for cells in zip(*(column.cells for column in table.columns), strict=True):
        print(*cells)


@pytest.mark.grades
def test_main_shows_the_result(result, monkeypatch, capsys):
    """The table, whether the target is met, the figure's file."""
    monkeypatch.setattr("sys.argv", ["evaluate.py"])
    monkeypatch.setattr(module, "rules", lambda: {"random": -0.57, "optimum": 1.0})
    monkeypatch.setattr(module, "Console", lambda: types.SimpleNamespace(print=print_table))
    module.main()
    said = capsys.readouterr().out
    for wanted in ("agent trained in the dream", "10,800", "220", "0.75", "-0.57", "no action"):
        assert wanted in said, f"the table lacks {wanted}: {said}"
    assert "least agent 0.75 (target 0.5), best control 0.10" in said, f"the target: {said}"
    assert (result.parent / "build" / "evaluation.svg").read_text(encoding="utf-8").startswith("<?xml"), (
        "no figure is written"
    )
    plt.close("all")


class Here:
    """A pool that works at once, in this process."""

    def __init__(self, jobs, mp_context=None):
        self.jobs = jobs

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    map = staticmethod(map)


@pytest.mark.grades
def test_main_trains_everything(result, monkeypatch, capsys):
    """With --train every player is measured with three seeds, and the result is written."""
    monkeypatch.setattr("sys.argv", ["evaluate.py", "--train", "--jobs", "1"])
    monkeypatch.setattr(module, "rules", lambda: {"random": -0.57})
    monkeypatch.setattr(module, "ProcessPoolExecutor", Here)
    monkeypatch.setattr(module, "tqdm", lambda rows, **options: rows)
    monkeypatch.setattr(
        module, "measure",
        lambda task: {"player": task[0], "seed": task[1], "real_steps": 9, "cpu_seconds": 1, "return": 0.5},
    )  # fmt: skip
    module.main()
    players = module.load_result(result)
    seeds = {name: [row["seed"] for row in rows] for name, rows in players.items()}
    assert seeds == {key: [0, 1, 2] for key in CONTROLS}, f"measured is {seeds}"
    assert "untrained world" in capsys.readouterr().out, "the table is not shown"
    plt.close("all")
