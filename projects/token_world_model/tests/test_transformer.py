"""The transformer. An attention is lent that remembers what it was asked, and hooks see what the Linear layers get.

The parts are found by their sizes, which all differ: a right answer may name them as it likes.
"""

import pytest
import torch
from oracles import (
    DOUBLE,
    WORDS,
    CausalSelfAttention,
    gradients,
    interleave,
    layer_norm,
    lend,
    normal,
    pieces,
    seeded,
)
from torch import nn

import token_world_model
from shared.testing.checks import assert_close, unchanged
from world import Cache, Output

pytestmark = pytest.mark.grades("TokenWorld")
D, HEADS = 12, 3


@pytest.fixture(autouse=True)
def lent(monkeypatch):
    """The other units of the learner's need not be written."""
    lend(monkeypatch, "interleave", "rotate", "CausalSelfAttention")


class Opened:
    """A learner's world with loud weights, its parts found by type and size, and what they were asked in the last call."""

    def __init__(self, *, n_layers=2, window=20, dtype=torch.float32, seed=0):
        self.world = token_world_model.TokenWorld(WORDS, d=D, n_heads=HEADS, n_layers=n_layers, window=window)
        modules = list(self.world.modules())
        self.attentions = [m for m in modules if isinstance(m, CausalSelfAttention)]
        linear = [m for m in modules if isinstance(m, nn.Linear)]
        self.up = [m for m in linear if (m.in_features, m.out_features) == (D, 4 * D)]
        self.down = [m for m in linear if (m.in_features, m.out_features) == (4 * D, D)]
        self.heads = {
            n: [m for m in linear if (m.in_features, m.out_features) == (D, n)] for n in (WORDS.n_codes, 3, 2)
        }
        tables = {m.num_embeddings: m for m in modules if isinstance(m, nn.Embedding)}
        self.tokens, self.places = tables.get(WORDS.size), tables.get(WORDS.step)
        generator = seeded(seed)
        biases = {id(m.bias) for m in linear}  # other vectors belong to LayerNorm: they stay as they begin
        with torch.no_grad():
            for parameter in self.world.parameters():
                if parameter.ndim == 2 or id(parameter) in biases:
                    scale = 1.0 if parameter.shape[0] in (WORDS.size, WORDS.step) else 1.5 * D**-0.5
                    parameter.copy_(normal(*parameter.shape, generator=generator, scale=scale))
        self.world.to(dtype)
        self.asked, self.said = {}, {}
        for m in (*self.up, *self.down, *(h for hs in self.heads.values() for h in hs)):
            m.register_forward_hook(self._note)

    def _note(self, module, asked, said):
        self.asked[module], self.said[module] = asked[0].detach().clone(), said.detach().clone()

    @torch.no_grad()
    def __call__(self, tokens, cache=None):
        for attention in self.attentions:
            attention.asked.clear()
            attention.said.clear()
        return self.world(tokens, cache)

    def embedded(self, tokens, places=None):
        """Embeddings of tokens and places, float64."""
        places = torch.arange(tokens.shape[1]) % WORDS.step if places is None else places
        return self.tokens.weight.detach().double()[tokens] + self.places.weight.detach().double()[places]


def sequence(n, n_steps, generator):
    """Tokens of n games."""
    return interleave(*pieces(n, n_steps, generator), WORDS)


def stack(output):
    """All logits side by side."""
    return torch.cat(tuple(output), dim=-1)


HOW = {"dtype": torch.float32, "rtol": 1e-3}


# --- the contract -----------------------------------------------------------------------------------------------------


def test_options_of_the_world():
    """d, heads and window reach each layer's attention; there are as many as n_layers says."""
    for n_layers, window in ((1, 7), (3, 11)):
        attentions = Opened(n_layers=n_layers, window=window).attentions
        assert len(attentions) == n_layers, (
            f"{len(attentions)} layers have attention, n_layers is {n_layers}: a plain list hides them, an nn.ModuleList does not"
        )
        for attention in attentions:
            got = attention.qkv.in_features, attention.n_heads, attention.window
            assert got == (D, HEADS, window), (
                f"attention gets d, n_heads and window {got}, expected {(D, HEADS, window)}"
            )
    default = [m for m in token_world_model.TokenWorld(WORDS).modules() if isinstance(m, CausalSelfAttention)]
    got = (
        len(default),
        *((default[0].qkv.in_features, default[0].n_heads, default[0].window) if default else ()),
    )
    assert got == (3, 96, 4, 44), (
        f"by default layers, d, n_heads and window are {got}, expected (3, 96, 4, 44)"
    )


def test_world_contract(generator):
    """Output of logits at each token, and a Cache with a past per layer and the number of tokens."""
    opened, tokens = Opened(n_layers=3), sequence(2, 2, generator)
    with unchanged(tokens):
        answer, again = opened(tokens), opened(tokens)
    assert len(answer) == 2, f"{len(answer)} things are returned: the Output and the new cache"
    output, cache = answer
    assert isinstance(output, Output), f"the first thing is a {type(output).__name__}, expected an Output"
    assert isinstance(cache, Cache), f"the second thing is a {type(cache).__name__}, expected a Cache"
    for name, n in (("image", WORDS.n_codes), ("reward", 3), ("end", 2)):
        got = tuple(getattr(output, name).shape)
        assert got == (2, 12, n), f"{name} has shape {got}, expected {(2, 12, n)}: logits at each token"
        assert getattr(output, name).dtype == torch.float32, (
            f"{name} is {getattr(output, name).dtype}, expected float32"
        )
    assert torch.equal(stack(output), stack(again[0])), (
        "the same tokens give two answers: something is random"
    )
    assert len(cache.layers) == 3, f"the cache has {len(cache.layers)} pasts for 3 layers"
    assert cache.position == 12, f"the cache says {cache.position} tokens after 12"


def test_what_the_world_keeps():
    """The vocabulary, by that name: who asks a world reads it there."""
    world = Opened().world
    kept = getattr(world, "vocabulary", None)
    assert kept == WORDS, f"world.vocabulary is {kept}, expected the one that it was made with"


def test_parts_of_the_world():
    """Two embeddings, three heads, and an MLP of 4·d hidden numbers in each layer."""
    opened = Opened(n_layers=2)
    assert opened.tokens is not None, f"there is no Embedding of all {WORDS.size} tokens of the vocabulary"
    assert opened.places is not None, f"there is no Embedding of the {WORDS.step} places of a step"
    for n, what in ((WORDS.n_codes, "the next code"), (3, "reward"), (2, "end")):
        assert opened.heads[n], f"there is no Linear head of {n} logits for {what}"
        assert opened.heads[n][-1].bias is not None, f"the head for {what} has no bias: nn.Linear has one"
    wide = [
        tuple(p.shape)
        for p in opened.world.parameters()
        if 4 * D in p.shape and p.ndim > 1 and (3 * D) not in p.shape
    ]
    assert len(wide) >= 4, (
        f"two layers have {len(wide)} matrices with 4·d = {4 * D} hidden numbers: each layer has an MLP of its own, of two"
    )


# --- stage by stage ---------------------------------------------------------------------------------------------------


def need_mlps(opened):
    """Whoever builds the MLPs of something else than modules is judged by the laws below."""
    mlps = [*opened.up, *opened.down]
    alike = len(opened.up) == len(opened.down) == len(opened.attentions)
    if not alike or not all(m in opened.asked for m in mlps):
        pytest.skip("the MLPs are no nn.Linear here: the laws judge them")
    for layers in (opened.up, opened.down):
        layers.sort(key=list(opened.asked).index)  # in the order of the calls, not of the declarations


def test_first_layer_is_asked(generator):
    """LayerNorm(embedding of the token + embedding of its place in the step)."""
    opened, tokens = Opened(), sequence(2, 3, generator)
    opened(tokens)
    x, _, _ = opened.attentions[0].asked[0]
    places = torch.arange(18)
    without = opened.tokens.weight.detach().double()[tokens]
    mistakes = {
        "the embeddings go into the attention as they are: LayerNorm comes before it": opened.embedded(
            tokens
        ),
        "the place in the step is not embedded": layer_norm(without),
        "the token is not embedded, its place alone is": layer_norm(opened.embedded(tokens) - without),
        "the place is counted from 1": layer_norm(opened.embedded(tokens, (places + 1) % WORDS.step)),
        "the place is that of a step without its text: a step has n_image + 2 tokens": layer_norm(
            opened.embedded(tokens, places % (WORDS.step - 1))
        ),
        "the embeddings are multiplied: they are added": layer_norm(
            without * (opened.embedded(tokens) - without)
        ),
    }
    assert_close(
        x, layer_norm(opened.embedded(tokens)), what="what the first attention gets", mistakes=mistakes, **HOW
    )


def test_mlp_is_asked(generator):
    """LayerNorm(x + attention), in each layer."""
    opened = Opened()
    tokens = sequence(2, 3, generator)
    opened(tokens)
    need_mlps(opened)
    x = opened.embedded(tokens)
    said = opened.attentions[0].said[0].double()
    mistakes = {
        "attention replaces x: it is added to it": layer_norm(said),
        "attention is added to LayerNorm(x): it is added to x itself": layer_norm(layer_norm(x) + said),
        "the MLP does not see what attention added": layer_norm(x),
        "the MLP gets x as it is: LayerNorm comes before it": x + said,
        "LayerNorm comes after the attention, not before it": layer_norm(x) + said,
    }
    got = opened.asked[opened.up[0]]
    assert_close(
        got, layer_norm(x + said), what="what the MLP of the first layer gets", mistakes=mistakes, **HOW
    )


def test_mlp_bends(generator):
    """Between its two layers something that is not linear acts on each number alone."""
    opened = Opened()
    opened(sequence(2, 3, generator))
    need_mlps(opened)
    for up, down in zip(opened.up, opened.down, strict=True):
        before, after = opened.said[up].flatten().double(), opened.asked[down].flatten().double()
        assert not torch.allclose(before, after), (
            "there is no nonlinearity in the MLP: two Linear in a row are one"
        )
        share = torch.corrcoef(torch.stack([before, after]))[0, 1].abs()
        assert share < 0.9999, "the MLP has no nonlinearity: what follows its first layer is linear in it"


def test_second_layer_is_asked(generator):
    """LayerNorm(x + MLP)."""
    opened = Opened()
    tokens = sequence(2, 3, generator)
    opened(tokens)
    need_mlps(opened)
    x = opened.embedded(tokens) + opened.attentions[0].said[0].double()
    added = opened.said[opened.down[0]].double()
    mistakes = {
        "the MLP replaces x: it is added to it": layer_norm(added),
        "the MLP is added to LayerNorm(x): it is added to x itself": layer_norm(layer_norm(x) + added),
        "the MLP is left out": layer_norm(x),
        "the MLP is added to what was there before the attention": layer_norm(
            opened.embedded(tokens) + added
        ),
    }
    got, _, _ = opened.attentions[1].asked[0]
    assert_close(got, layer_norm(x + added), what="what the second attention gets", mistakes=mistakes, **HOW)


def test_heads_are_asked(generator):
    """LayerNorm(x) of the last layer, all three."""
    opened = Opened()
    tokens = sequence(2, 3, generator)
    output, _ = opened(tokens)
    need_mlps(opened)
    x = opened.embedded(tokens)
    for attention, down in zip(opened.attentions, opened.down, strict=True):
        x = x + attention.said[0].double() + opened.said[down].double()
    for name, n in (("image", WORDS.n_codes), ("reward", 3), ("end", 2)):
        head = opened.heads[n][-1]
        assert head in opened.asked, f"the head of the {name} is never called"
        mistakes = {"the last LayerNorm, before the heads, is missing": x}
        assert_close(
            opened.asked[head],
            layer_norm(x),
            what=f"what the head of the {name} gets",
            mistakes=mistakes,
            **HOW,
        )
        assert_close(
            getattr(output, name),
            opened.said[head],
            rtol=1e-5,
            what=f"logits of the {name}",
            hint="they are the head's",
        )


def test_norms_are_different():
    """Two LayerNorms in each layer and a last one, none of them used twice."""
    norms = [m for m in Opened(n_layers=3).world.modules() if isinstance(m, nn.LayerNorm)]
    if norms:  # or they are of the learner's own make
        assert len(norms) == 7, (
            f"three layers have {len(norms)} LayerNorms, expected 7, two a layer and a last one: is one used twice?"
        )


def test_layers_are_different(generator):
    """Three layers have three attentions and three MLPs of their own."""
    opened = Opened(n_layers=3)
    assert len({id(a) for a in opened.attentions}) == 3, "the layers share one attention: each has its own"
    opened(sequence(2, 2, generator))
    counts = [len(a.asked) for a in opened.attentions]
    assert counts == [1, 1, 1], (
        f"the attentions of three layers are asked {counts} times in one call: each once"
    )


# --- laws -------------------------------------------------------------------------------------------------------------


def test_world_looks_back(generator):
    """Another token at 7 changes what is said at 7 and later, never before."""
    opened, tokens = Opened(window=30), sequence(2, 3, generator)
    changed = tokens.clone()
    changed[:, 7] = (tokens[:, 7] + 1) % WORDS.n_codes
    differs = (stack(opened(tokens)[0]) != stack(opened(changed)[0])).any(-1).all(0)
    moved = differs.nonzero()[:, 0].tolist()
    assert moved, "another token at 7 changes nothing of what is said"
    assert min(moved) >= 7, f"another token at 7 changes what is said at {min(moved)}: the world looks ahead"
    assert moved == list(range(7, 18)), (
        f"another token at 7 changes what is said at {moved}: from 7 to the end it should"
    )


def test_reach_of_the_window(generator):
    """Two layers of a window of 3 see 4 positions back; what is further away is forgotten."""
    opened, tokens = Opened(window=3), sequence(3, 3, generator)
    changed = tokens.clone()
    changed[:, 8] = (tokens[:, 8] + 1) % WORDS.n_codes
    differs = (stack(opened(tokens)[0]) != stack(opened(changed)[0])).any(-1).all(0)
    moved = differs.nonzero()[:, 0].tolist()
    assert moved == list(range(8, 13)), (
        f"with two layers and a window of 3 another token at 8 changes what is said at {moved}, expected 8 to 12"
    )


def test_places_of_later_parts(generator):
    """The place in the step goes on where the cache ends, however many tokens the window forgot."""
    opened, tokens = Opened(window=5), sequence(2, 5, generator)
    _, cache = opened(tokens[:, :20])
    opened(tokens[:, 20:23], cache)
    x, past, position = opened.attentions[0].asked[-1]
    assert past, "the cache is not handed on: a layer's attention gets no past"
    assert position == 20, (
        f"after 20 tokens the attention is told the position {position}: it goes on where the cache ends"
    )
    part = tokens[:, 20:23]
    right = torch.arange(20, 23) % WORDS.step

    def at(places):
        return layer_norm(opened.embedded(part, places % WORDS.step))

    mistakes = {
        "the places begin anew in each part: they go on where the cache ends": at(torch.arange(3)),
        "the places count from what the window has kept: from the start of the sequence they count": at(
            torch.arange(5, 8)
        ),
        "the places are one too few": at(right - 1),
        "the places are one too many": at(right + 1),
        "all of a part get the place of its first token": at(right[:1].expand(3)),
    }
    assert_close(
        x,
        layer_norm(opened.embedded(part, right)),
        what="what the first attention gets of a later part",
        mistakes=mistakes,
        **HOW,
    )


PARTS = [(1,) * 24, (6, 1, 5, 2, 10), (11, 13), (5, 19)]


@pytest.mark.parametrize(
    ("sizes", "window"), [(PARTS[0], 5), (PARTS[0], 30), (PARTS[1], 5), (PARTS[2], 7), (PARTS[3], 1)], ids=str
)
def test_world_in_parts(sizes, window, generator):
    """With a cache it says what it says of the whole: token by token, in unequal parts, when the window has slid far."""
    opened, tokens = Opened(n_layers=3, window=window), sequence(2, 4, generator)
    whole = stack(opened(tokens)[0])
    said, cache, at = [], None, 0
    for size in sizes:
        output, cache = opened(tokens[:, at : at + size], cache)
        said.append(stack(output))
        told = [attention.asked[-1][1:] for attention in opened.attentions]
        pasts, positions = ([x[i] for x in told] for i in (0, 1))
        if at:
            assert None not in pasts, "the cache is not handed on: a layer's attention gets no past"
            kept = min(at, window)
            assert pasts == 3 * [kept], (
                f"after {at} tokens the attentions get pasts of {pasts} positions, expected {kept}"
            )
        assert positions == 3 * [at], (
            f"after {at} tokens the attentions are told the positions {positions}: they go on where the cache ends"
        )
        at += size
        assert cache.position == at, f"the cache says {cache.position} tokens after {at}"
    hint = "read in parts, the world says something else than of the whole: does the place in the step go on where the cache ends?"
    assert_close(torch.cat(said, dim=1), whole, rtol=1e-4, atol=1e-4, what="logits of parts", hint=hint)


def test_two_futures_of_one_cache(generator):
    """A cache that was used once gives the same again: nothing changes it."""
    opened, tokens = Opened(window=9), sequence(2, 3, generator)
    _, cache = opened(tokens[:, :12])
    kept = [part for past in cache.layers for part in past]
    other = tokens[:, 12:].flip(0)
    with unchanged(*kept):
        ways = [opened(way, cache) for way in (tokens[:, 12:], other, tokens[:, 12:], other)]
    assert cache.position == 12, "the cache that was handed in has changed: a new one is returned"
    for i in (0, 1):
        assert torch.equal(stack(ways[i][0]), stack(ways[i + 2][0])), (
            "a cache that was used once says something else: nothing may change it"
        )
    whole = stack(opened(tokens)[0])[:, 12:]
    assert_close(
        stack(ways[0][0]),
        whole,
        rtol=1e-4,
        atol=1e-4,
        what="one of two futures",
        hint="the future is not that of the whole",
    )


def test_no_cache_no_memory(generator):
    """Without a cache a call knows nothing of the one before."""
    opened, tokens = Opened(), sequence(2, 2, generator)
    one = stack(opened(tokens)[0])
    opened(tokens.flip(0))
    again = stack(opened(tokens)[0])
    assert torch.equal(one, again), (
        "without a cache a call still knows the one before: nothing is kept in the world"
    )


def test_sequences_apart(generator):
    """A sequence alone gives what it gives beside others."""
    opened, tokens = Opened(), sequence(3, 2, generator)
    alone = torch.cat([stack(opened(tokens[i : i + 1])[0]) for i in range(3)])
    assert_close(
        stack(opened(tokens)[0]),
        alone,
        rtol=1e-4,
        atol=1e-4,
        what="logits of a batch",
        hint="sequences of one batch see each other",
    )


def test_all_parameters_learn(generator):
    """Each has a gradient; and the logits lead back to the weights."""
    opened, tokens = Opened(n_layers=2), sequence(3, 6, generator)
    output, _ = opened.world(tokens)
    cotangents = [normal(*x.shape, generator=generator) for x in output]
    parameters = dict(opened.world.named_parameters())
    frozen = [name for name, p in parameters.items() if not p.requires_grad]
    assert not frozen, f"these parameters are frozen: {frozen}"
    got = gradients(
        sum((x * c).sum() for x, c in zip(output, cotangents, strict=True)), tuple(parameters.values())
    )
    idle = [name for name, g in zip(parameters, got, strict=True) if not g.any()]
    assert not idle, f"these parameters have no gradient: {idle}"


def test_gradients_by_differences(generator):
    """A step along the gradient changes the logits as much as it says, in float64: nothing is detached on the way."""
    opened, tokens = Opened(dtype=DOUBLE), sequence(2, 2, generator)
    parameters = tuple(opened.world.parameters())
    cotangents = [normal(*x.shape, generator=generator, dtype=DOUBLE) for x in opened(tokens)[0]]
    ways = [normal(*p.shape, generator=generator, dtype=DOUBLE) for p in parameters]

    def total():
        return sum((x * c).sum() for x, c in zip(opened.world(tokens)[0], cotangents, strict=True))

    slope = sum((g * w).sum() for g, w in zip(gradients(total(), parameters), ways, strict=True))
    ends = []
    for step in (1e-7, -1e-7):
        with torch.no_grad():
            for p, w in zip(parameters, ways, strict=True):
                p.add_(step * w)
            ends.append(total())
            for p, w in zip(parameters, ways, strict=True):
                p.sub_(step * w)
    hint = "the gradient is not the slope: something is detached, or acts otherwise the second time"
    assert_close(
        slope, (ends[0] - ends[1]) / 2e-7, rtol=1e-3, what="slope along a random direction", hint=hint
    )


def test_world_in_double_precision(generator):
    """After .double() it says float64, and the same."""
    tokens = sequence(2, 3, generator)
    wide, narrow = Opened(dtype=DOUBLE)(tokens)[0], Opened()(tokens)[0]
    assert stack(wide).dtype == DOUBLE, f"after .double() the logits are {stack(wide).dtype}"
    assert_close(
        stack(narrow),
        stack(wide),
        dtype=torch.float32,
        rtol=1e-3,
        atol=1e-3,
        what="logits in float32",
        hint="float64 says otherwise",
    )
