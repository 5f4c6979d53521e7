"""Attention in a window. Oracle: one query of one head at a time, over the whole sequence, in float64."""

import pytest
import torch
from oracles import DOUBLE, attend, gradients, lend, normal, seeded

import token_world_model
from shared.testing.checks import assert_close, unchanged

pytestmark = pytest.mark.grades("CausalSelfAttention")
WRONG = {
    "the scores are not scaled: divide by the root of d/n_heads": "no scale",
    "the scores are scaled by the root of d: each head has d/n_heads numbers": "scale of d",
    "the heads take every n_heads-th number: each takes d/n_heads that follow one another": "heads interleaved",
    "the heads' results are put together in another order than they were taken apart": "heads put together interleaved",
    "the heads' results are not put side by side: exchange heads and time before they are joined": "heads and time mixed up",
    "queries and keys are exchanged: queries come first": "query and key exchanged",
    "keys and values are exchanged: queries, keys, values is the order": "key and value exchanged",
    "queries and keys are not rotated": "no rotation",
    "the values are rotated too: queries and keys are": "values rotated",
    "the window is one too wide: the position itself and the window - 1 before it": "window too wide",
    "the window is one too narrow: the position itself and the window - 1 before it": "window too narrow",
    "the window is ignored: what is further away is forgotten": "no window",
    "later positions are seen: the mask is missing, or is not -inf before the softmax": "sees ahead",
    "the next position is seen: the mask is off by one": "sees one ahead",
    "a position does not see itself": "not itself",
    "the last layer, out, is missing": "no out",
}


@pytest.fixture(autouse=True)
def lent(monkeypatch):
    """rotate need not be written."""
    lend(monkeypatch, "rotate")


def layer(d=12, n_heads=3, window=4, *, seed=0, dtype=torch.float32):
    """The learner's layer, with loud weights."""
    made = token_world_model.CausalSelfAttention(d, n_heads, window)
    generator = seeded(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            scale = 1.5 * d**-0.5 if parameter.ndim == 2 else 0.5
            parameter.copy_(normal(*parameter.shape, generator=generator, scale=scale))
    return made.to(dtype)


def by_hand(made, x, n_heads, window, wrong=""):
    """The oracle with a layer's own weights."""
    pairs = ((linear.weight, linear.bias) for linear in (made.qkv, made.out))
    return attend(x, *pairs, n_heads, window, wrong=wrong)


def in_parts(made, x, sizes, start=0, *, moved=True):
    """What the layer says of x when it reads it in parts; the pasts between them. Unless `moved`, it is told `start` each time."""
    said, pasts, past, at = [], [], None, 0
    for size in sizes:
        part, past = made(x[:, at : at + size], past, start + at * moved)
        said.append(part)
        pasts.append(past)
        at += size
    assert at == x.shape[1], "defect in the test: the parts are not the whole"
    return torch.cat(said, dim=1), pasts


def unless_right(mistaken, right):
    """The value of a mistake, or None where it changes nothing."""
    return None if torch.allclose(mistaken, right.float(), atol=1e-4) else mistaken


# --- the contract -----------------------------------------------------------------------------------------------------


def test_attention_parameters():
    """qkv and out, two Linear."""
    got = {
        name: tuple(p.shape) for name, p in token_world_model.CausalSelfAttention(12, 3, 4).named_parameters()
    }
    expected = {"qkv.weight": (36, 12), "qkv.bias": (36,), "out.weight": (12, 12), "out.bias": (12,)}
    assert got == expected, f"the parameters are {got}, expected {expected}"


def test_attention_contract(generator):
    """x's shape and dtype; a past is keys and values (B, n_heads, P, d/n_heads), P at most the window."""
    made, x = layer(), normal(2, 7, 12, generator=generator)
    with unchanged(x):
        answer = made(x)
    assert isinstance(answer, tuple), (
        f"a {type(answer).__name__} is returned: the result and what the next call needs"
    )
    assert len(answer) == 2, f"{len(answer)} things are returned: the result and what the next call needs"
    got, past = answer
    assert got.shape == x.shape, f"x {tuple(x.shape)} becomes {tuple(got.shape)}: the shape stays"
    assert got.dtype == x.dtype, f"x of {x.dtype} becomes {got.dtype}: the dtype stays"
    assert len(past) == 2, f"a past has {len(past)} parts, expected keys and values"
    for name, part in zip(("keys", "values"), past, strict=True):
        shape = tuple(part.shape)
        assert part.ndim == 4, f"{name} have shape {shape}, expected (B, n_heads, P, d/n_heads)"
        assert shape[:2] + shape[3:] == (2, 3, 4), (
            f"{name} have shape {shape}, expected (2, 3, P, 4): (B, n_heads, P, d/n_heads)"
        )
        assert shape[2] <= 4, f"{shape[2]} positions are kept with a window of 4: at most the window"


# --- by hand ----------------------------------------------------------------------------------------------------------


def test_nothing_ahead(generator):
    """A change at position 6 changes no earlier one, in a window that holds all."""
    made, x = layer(window=20), normal(2, 9, 12, generator=generator)
    changed = x.clone()
    changed[:, 6] += 1
    with torch.no_grad():
        got = made(x)[0]
        differs = (got != made(changed)[0]).any(-1).all(0)[:6]
        moved = differs.nonzero()[:, 0].tolist()
        if not moved:
            return
        assert torch.equal(got, made(x)[0]), "the same input gives two results: something is random"
        mixed_up = by_hand(made, x, 3, 20, "heads and time mixed up")
    assert not torch.allclose(got, mixed_up.float(), atol=1e-4), (
        "the heads' results are not put side by side: exchange heads and time before they are joined"
    )
    hint = {
        1: "the next position is seen: the mask is off by one",
        6: "later positions are seen: the mask is missing, or is not -inf before the softmax",
    }
    hint = hint.get(len(moved), "later positions are seen")
    raise AssertionError(f"{hint}; a change at position 6 changes what comes of the positions {moved}")


def test_window_of_one(generator):
    """Each position sees itself alone: its own value goes through out."""
    made, x = layer(window=1), normal(2, 5, 12, generator=generator)
    values = x @ made.qkv.weight[24:].T + made.qkv.bias[24:]
    expected = values @ made.out.weight.T + made.out.bias
    mistakes = {said: lambda wrong=wrong: by_hand(made, x, 3, 1, wrong) for said, wrong in WRONG.items()}
    assert_close(made(x)[0], expected, rtol=1e-4, what="attention in a window of one", mistakes=mistakes)


def test_first_position(generator):
    """It has nobody else to see, in whatever window."""
    made, x = layer(window=5), normal(2, 3, 12, generator=generator)
    values = x[:, :1] @ made.qkv.weight[24:].T + made.qkv.bias[24:]
    expected = values @ made.out.weight.T + made.out.bias
    mistakes = {
        said: lambda wrong=wrong: by_hand(made, x, 3, 5, wrong)[:, :1] for said, wrong in WRONG.items()
    }
    assert_close(
        made(x)[0][:, :1], expected, rtol=1e-4, what="attention of the first position", mistakes=mistakes
    )


# --- the whole --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_heads", "window", "length"), [(3, 4, 9), (1, 3, 5), (6, 20, 8), (2, 8, 8)])
def test_attention(n_heads, window, length, generator):
    """Several heads and windows, longer and shorter than the sequence."""
    made, x = layer(n_heads=n_heads, window=window), normal(3, length, 12, generator=generator)
    with torch.no_grad():
        got, expected = made(x)[0], by_hand(made, x, n_heads, window)
        mistakes = {
            said: lambda wrong=wrong: by_hand(made, x, n_heads, window, wrong)
            for said, wrong in WRONG.items()
        }
        assert_close(got, expected, dtype=torch.float32, rtol=1e-4, what="attention", mistakes=mistakes)


def test_attention_in_double_precision(generator):
    """After .double()."""
    made, x = layer(dtype=DOUBLE), normal(2, 9, 12, generator=generator, dtype=DOUBLE)
    with torch.no_grad():
        got = made(x)[0]
    assert_close(got, by_hand(made, x, 3, 4), rtol=1e-5, what="attention in float64")


def test_gradients_of_attention(generator):
    """Of x and of all parameters: the oracle's own, in float64."""
    made, x = layer(), normal(2, 7, 12, generator=generator).requires_grad_()
    cotangent = normal(2, 7, 12, generator=generator)
    inputs = (x, *made.parameters())
    got = gradients((made(x)[0] * cotangent).sum(), inputs)
    expected = gradients((by_hand(made, x, 3, 4) * cotangent).sum(), inputs)
    names = ("x", *dict(made.named_parameters()))
    for name, mine, right in zip(names, got, expected, strict=True):
        hint = f"the gradient of {name} is not that of the attention"
        scale = float(right.abs().max())
        assert_close(mine, right, rtol=1e-3, atol=1e-3 * scale, what=f"gradient of {name}", hint=hint)


def test_large_scores(generator):
    """Scores in the hundreds: the softmax does not overflow."""
    made, x = layer(), 20 * normal(2, 7, 12, generator=generator)
    with torch.no_grad():
        got = made(x)[0]
    assert got.isfinite().all(), (
        "large scores overflow in the softmax: subtract the greatest of those that are seen first"
    )
    assert_close(
        got, by_hand(made, x, 3, 4), dtype=torch.float32, rtol=1e-3, what="attention with large scores"
    )


# --- laws -------------------------------------------------------------------------------------------------------------


def test_attention_looks_back(generator):
    """A change at position 5 changes the positions 5 to 5 + window - 1, and no other."""
    made, x = layer(window=4), normal(2, 12, 12, generator=generator)
    changed = x.clone()
    changed[:, 5] += 1
    with torch.no_grad():
        differs = (made(x)[0] != made(changed)[0]).any(-1).all(0)
    moved = differs.nonzero()[:, 0].tolist()
    assert moved, "a change at position 5 changes nothing"
    assert min(moved) >= 5, f"a change at position 5 changes position {min(moved)}: later positions are seen"
    assert moved == [5, 6, 7, 8], (
        f"with a window of 4 a change at position 5 changes the positions {moved}, expected 5, 6, 7 and 8"
    )


def test_attention_of_a_batch(generator):
    """A sequence alone gives what it gives beside others."""
    made, x = layer(), normal(3, 6, 12, generator=generator)
    with torch.no_grad():
        alone = [made(x[i : i + 1])[0] for i in range(3)]
        shape = tuple(alone[0].shape)
        assert shape == (1, 6, 12), f"one sequence, x (1, 6, 12), becomes {shape}: the shape stays"
        alone = torch.cat(alone)
        assert_close(
            made(x)[0],
            alone,
            rtol=1e-4,
            what="attention of a batch",
            hint="sequences of one batch see each other",
        )


# --- the past ---------------------------------------------------------------------------------------------------------


PARTS = [(1,) * 11, (3, 2, 1, 5), (6, 5), (1, 9, 1), (2, 3, 3, 3)]


@pytest.mark.parametrize(
    ("sizes", "window"),
    [(PARTS[1], 3), (PARTS[0], 4), (PARTS[0], 1), (PARTS[2], 4), (PARTS[3], 20), (PARTS[4], 3)],
    ids=str,
)
def test_attention_in_parts(sizes, window, generator):
    """Read in parts it says what it says of the whole: token by token, in parts of unequal size, longer than the window too."""
    made, x = layer(window=window), normal(2, 11, 12, generator=generator)
    with torch.no_grad():
        whole = by_hand(made, x, 3, window)
        got, pasts = in_parts(made, x, sizes)
    mistakes = {
        "the past is ignored: keys and values before the part are seen as well": lambda: torch.cat(
            [made(part)[0] for part in x.split(sizes, dim=1)], dim=1
        ),
        "the position is ignored: those of a later part go on from there": lambda: unless_right(
            in_parts(made, x, sizes, moved=False)[0], whole
        ),
    }
    hint = "read in parts, attention is not what it is of the whole: which past positions are kept, in which order, and is each key rotated once?"
    assert_close(
        got, whole, dtype=torch.float32, rtol=1e-4, what="attention in parts", mistakes=mistakes, hint=hint
    )
    most = max(past[0].shape[2] for past in pasts)
    assert most <= window, f"{most} positions are kept with a window of {window}: at most the window"


def test_attention_far_from_the_start(generator):
    """From position 500 on it says the same: only distances count."""
    made, x = layer(), normal(2, 11, 12, generator=generator)
    with torch.no_grad():
        got, _ = in_parts(made, x, (3, 1, 1, 4, 2), start=500)
    hint = "far from the start attention says something else: the position of the past or of the new part is lost"
    assert_close(
        got,
        by_hand(made, x, 3, 4),
        dtype=torch.float32,
        rtol=1e-3,
        what="attention from position 500 on",
        hint=hint,
    )


def test_two_futures_of_one_past(generator):
    """A past that was used once gives the same again: nothing is written into it."""
    made, x = layer(), normal(2, 6, 12, generator=generator)
    ways = normal(2, 2, 3, 12, generator=generator)
    with torch.no_grad():
        _, past = made(x)
        with unchanged(*past):
            first = [made(way, past, 6)[0] for way in ways]
            again = [made(way, past, 6)[0] for way in ways]
        for way, one, other in zip(ways, first, again, strict=True):
            expected = by_hand(made, torch.cat([x, way], dim=1), 3, 4)[:, 6:]
            assert_close(one, expected, dtype=torch.float32, rtol=1e-4, what="one of two futures")
            assert torch.equal(one, other), (
                "a past that was used once gives something else: nothing may be written into it"
            )
