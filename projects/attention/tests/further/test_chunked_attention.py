"""The judge of attention in tiles: the same results, memory that grows with T, skipped tiles.

Oracles: values worked by hand, torch's scaled_dot_product_attention in float64, finite differences, and torch's own
account of what ran: the sizes of tensors, of what is kept for the backward pass, and the FLOPs.
"""

import math
import weakref

import numpy as np
import pytest
import torch
from oracles import (
    BAD_SHAPES,
    LIBRARY,
    causal_mask,
    check_finite_differences,
    double,
    gradients,
    output_mistakes,
    random_inputs,
    sdpa,
)
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode

import chunked_attention
from shared.testing.checks import assert_close, expect_error, refuse_calls, unchanged

INF = math.inf
CHUNKS = [(1, 1), (2, 3), (4, 4), (5, 2), (3, 100), (100, 3), (100, 100)]
pytestmark = [pytest.mark.module("chunked_attention"), pytest.mark.grades("chunked_attention")]


def chunked(*inputs, chunks=(2, 3), **options):
    return chunked_attention.chunked_attention(*inputs, query_chunk=chunks[0], key_chunk=chunks[1], **options)


def test_two_tiles_by_hand():
    """One query, two keys, one key per tile: the scores are ln(1) and ln(3), the values 8 and 16: (8 + 3·16)/4."""
    query = torch.tensor([[1.0]], dtype=torch.float64)
    key = torch.tensor([[1.0], [3.0]], dtype=torch.float64).log()
    value = torch.tensor([[8.0], [16.0]], dtype=torch.float64)
    mistakes = {
        "the running sums are not shrunk when a tile raises the maximum": torch.tensor([[12.0]]),
        "only the first tile arrives in the output": torch.tensor([[8.0]]),
        "only the last tile arrives in the output": torch.tensor([[16.0]]),
        "the output is not divided by the sum of exponentials": torch.tensor([[56 / 3]]),
        "the output is shrunk but the sum is not": torch.tensor([[(8 / 3 + 16) / 2]]),
        "the sum is shrunk but the output is not": torch.tensor([[24 / (4 / 3)]]),
        "each tile has a softmax of its own": torch.tensor([[24.0]]),
    }
    got = chunked(query, key, value, chunks=(1, 1))
    assert_close(got, torch.tensor([[14.0]], dtype=torch.float64), what="output", mistakes=mistakes)
    got = chunked(query, key.flip(0), value.flip(0), chunks=(1, 1))
    assert_close(got, torch.tensor([[14.0]], dtype=torch.float64), what="output, larger score first")


def test_gradients_by_hand():
    """The same weights p = (1, 3)/4 at scale 1/2: p' = (8, 16), so s' = p·(p' - 14) = (-3/2, 3/2)."""
    query = torch.tensor([[2.0]], dtype=torch.float64, requires_grad=True)
    key = torch.tensor([[1.0], [3.0]], dtype=torch.float64).log().requires_grad_()
    value = torch.tensor([[8.0], [16.0]], dtype=torch.float64, requires_grad=True)
    output = chunked(query, key, value, scale=0.5, chunks=(1, 1))
    found = gradients(output, [query, key, value], torch.ones(1, 1, dtype=torch.float64))
    right = [[[0.75 * math.log(3)]], [[-1.5], [1.5]], [[0.25], [0.75]]]
    mistakes = {
        "query": {
            "the gradient of the query lacks the scale": [[1.5 * math.log(3)]],
            "the mean is not subtracted in the backward pass: s' = p·(p' - Σ p p')": [[6 * math.log(3)]],
        },
        "key": {
            "the gradient of the key lacks the scale": [[-3.0], [3.0]],
            "the mean is not subtracted in the backward pass: s' = p·(p' - Σ p p')": [[2.0], [12.0]],
        },
        "value": {},
    }
    for (name, likely), mine, expected in zip(mistakes.items(), found, right, strict=True):
        expected = torch.tensor(expected, dtype=torch.float64)
        assert_close(mine, expected, what=f"gradient of {name}", mistakes=likely)


@pytest.mark.parametrize("chunks", CHUNKS, ids=str)
@pytest.mark.parametrize("leading", [(), (2,), (3, 4)], ids=str)
def test_any_chunks(leading, chunks, generator):
    """Every size of tile gives the same, also where the last one is incomplete or one tile is enough."""
    query, key, value = random_inputs(generator, *leading, n_queries=7, n_keys=11)
    mistakes = {
        "the incomplete last tile of keys is dropped": lambda: sdpa(
            query, *(x[..., : 11 - 11 % chunks[1], :] for x in (key, value))
        ),
        "only the first tile of keys arrives in the output": lambda: sdpa(
            query, *(x[..., : chunks[1], :] for x in (key, value))
        ),
        **output_mistakes(query, key, value),
    }
    expected = sdpa(query, key, value)
    rows = 7 - 7 % chunks[0]
    if rows < 7:
        mistakes["the incomplete last block of queries is dropped"] = torch.cat(
            [expected[..., :rows, :], torch.zeros_like(expected[..., rows:, :])], dim=-2
        )
    assert_close(chunked(query, key, value, chunks=chunks), expected, n=15, what="output", mistakes=mistakes)


@pytest.mark.parametrize("kind", ["boolean", "float"])
def test_first_tiles_all_masked(kind, generator):
    """A row whose first tiles are masked entirely must not turn NaN before its first key comes."""
    inputs = random_inputs(generator, 2, n_queries=4, n_keys=9)
    mask = torch.ones(4, 9, dtype=torch.bool)
    mask[1, :6] = mask[2, :3] = False
    mask = mask if kind == "boolean" else torch.zeros(4, 9, dtype=torch.float64).masked_fill(~mask, -INF)
    expected = sdpa(*inputs, mask=mask)
    hint = "-inf minus -inf is NaN: before its first key a row's maximum must be a finite number"
    got = chunked(*inputs, mask=mask)
    assert_close(got, expected, n=15, hint=hint)
    cotangent = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    right = gradients(expected, inputs, cotangent)
    for name, mine, oracle in zip("qkv", gradients(got, inputs, cotangent), right, strict=True):
        hint = "beside masked rows: no weight there may be NaN or come from another row in the backward pass"
        assert_close(mine, oracle, rtol=1e-12, what=f"gradient of {name}", hint=hint)


@pytest.mark.parametrize("kind", ["boolean", "float"])
def test_nothing_to_attend_to(kind, generator):
    """A row whose tiles are masked, all of them, gives zeros and gets zeros back."""
    inputs = random_inputs(generator, 2, n_queries=4, n_keys=9)
    mask = torch.ones(4, 9, dtype=torch.bool)
    mask[2] = False
    mask = mask if kind == "boolean" else torch.zeros(4, 9, dtype=torch.float64).masked_fill(~mask, -INF)
    expected = sdpa(*inputs, mask=mask)
    hint = "a row with nothing to attend to must give zeros: its sum of exponentials is 0, and 0/0 is NaN"
    got = chunked(*inputs, mask=mask)
    assert_close(got, expected, n=15, hint=hint)
    cotangent = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    right = gradients(expected, inputs, cotangent)
    for name, mine, oracle in zip("qkv", gradients(got, inputs, cotangent), right, strict=True):
        hint = "a row with nothing to attend to has a gradient: its weights are 0 in the backward pass too"
        assert_close(mine, oracle, rtol=1e-12, what=f"gradient of {name}", hint=hint)


@pytest.mark.parametrize("chunks", CHUNKS, ids=str)
@pytest.mark.parametrize(("n_queries", "n_keys"), [(7, 11), (11, 7), (8, 8), (1, 9), (9, 1)])
def test_causal_any_chunks(n_queries, n_keys, chunks, generator):
    """The diagonal crosses tiles anywhere; queries before the first key get zeros."""
    query, key, value = random_inputs(generator, 2, n_queries=n_queries, n_keys=n_keys)
    mistakes = output_mistakes(query, key, value, causal=True)
    hint = "is a tile skipped that the last query of its block may still see, or the diagonal not masked?"
    got = chunked(query, key, value, causal=True, chunks=chunks)
    assert_close(got, sdpa(query, key, value, causal=True), n=15, mistakes=mistakes, hint=hint)


MASK_SHAPES = [(2, 3, 7, 11), (1, 3, 7, 11), (7, 11), (2, 1, 1, 11), (3, 7, 1), (1, 1), (11,), ()]


@pytest.mark.parametrize("causal", [False, True], ids=["", "causal"])
@pytest.mark.parametrize("shape", MASK_SHAPES, ids=str)
def test_boolean_masks(shape, causal, generator):
    """Boolean masks of any shape that broadcasts; rows with nothing to attend to give zeros."""
    inputs = random_inputs(generator, 2, 3, n_queries=7, n_keys=11)
    mask = torch.rand(shape, generator=generator) > 0.5
    if mask.numel() == 1:
        mask = torch.ones_like(mask)
    options = {"mask": mask, "causal": causal}
    with unchanged(*inputs, mask):
        got = chunked(*inputs, **options)
    assert_close(got, sdpa(*inputs, **options), n=15, mistakes=output_mistakes(*inputs, **options))


@pytest.mark.parametrize("causal", [False, True], ids=["", "causal"])
@pytest.mark.parametrize("shape", MASK_SHAPES, ids=str)
def test_float_masks(shape, causal, generator):
    """Float masks of any shape that broadcasts, with -inf in them, and their gradient."""
    inputs = random_inputs(generator, 2, 3, n_queries=7, n_keys=11)
    mask = torch.randn(shape, generator=generator, dtype=torch.float64)
    if mask.numel() > 1:
        mask = mask.masked_fill(torch.rand(shape, generator=generator) > 0.7, -INF)
    mask.requires_grad_()
    options = {"mask": mask, "causal": causal}
    expected = sdpa(*inputs, **options)
    got = chunked(*inputs, **options)
    assert_close(got, expected, n=15, mistakes=output_mistakes(*inputs, **options))
    cotangent = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    right = gradients(expected, [*inputs, mask], cotangent)
    found = gradients(got, [*inputs, mask], cotangent)
    for name, mine, oracle in zip(("query", "key", "value", "mask"), found, right, strict=True):
        # A number added to a whole row changes nothing: its gradient is 0, known to rounding only.
        assert_close(mine, oracle, rtol=1e-12, atol=1e-13, what=f"gradient of {name}", vacuous_ok="see above")


@pytest.mark.parametrize("kind", ["boolean", "float"])
def test_mask_of_two_rows_and_columns(kind, generator):
    """The smallest mask that is cut: its two rows and columns are no broadcast ones."""
    inputs = random_inputs(generator, 3, n_queries=2, n_keys=2)
    mask = torch.tensor([[1.0, -1.0], [-2.0, 2.0]], dtype=torch.float64)
    mask = mask if kind == "float" else torch.tensor([[True, False], [True, True]])
    assert_close(chunked(*inputs, mask=mask, chunks=(1, 1)), sdpa(*inputs, mask=mask), n=15, what="output")


ORDERS = {"rising": 1.0, "falling": -1.0}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("size", [1.0, 1e2, 1e4])
def test_maximum_in_the_last_or_first_tile(order, size, generator):
    """Scores from -size to size, rising or falling from tile to tile: nothing overflows, nothing is lost."""
    query = torch.ones(2, 3, 1)
    key = torch.linspace(-size, size, 12)[:, None] * ORDERS[order] + torch.rand(12, 1, generator=generator)
    value = torch.randn(12, 5, generator=generator)
    hint = "the maximum moves from tile to tile: subtract the running one, and shrink the sums when it rises"
    got = chunked(query, key, value)
    assert_close(got, sdpa(query, key, value), dtype=torch.float32, rtol=1e-5, hint=hint)


def test_scores_far_below_zero(generator):
    """All scores near -1e4: the running maximum is one of them, not the 0 that it may have started at."""
    query = torch.ones(2, 3, 1)
    key = torch.rand(12, 1, generator=generator) - 1e4
    value = torch.randn(12, 5, generator=generator)
    hint = "exp underflows: the running maximum must start below every score, at 0 it is too large for these"
    # A score of 1e4 is known to 5e-4 in float32, which the weights inherit.
    got = chunked(query, key, value)
    assert_close(got, sdpa(query, key, value), dtype=torch.float32, rtol=2e-3, hint=hint)


def test_only_minus_infinity_forbids():
    """Scores of -1e10, but a forbidden key with a larger one: a number like -1e9 in its place would win."""
    query = torch.tensor([[1e5], [1e5]], dtype=torch.float64)
    key = torch.tensor([[-1e5], [-1e5], [3]], dtype=torch.float64)
    value = torch.tensor([[2.0], [4.0], [7.0]], dtype=torch.float64)
    mask = torch.tensor([[True, True, False], [True] * 3])
    hint = "a forbidden key gets a weight: fill its score with -inf, a large negative number is not enough"
    for options in ({"mask": mask}, {"causal": True}):
        got = chunked(query, key, value, **options)
        # Scores of 1e10 are known to 1e-6, which the weights may inherit.
        assert_close(got, torch.tensor([[3.0], [7.0]], dtype=torch.float64), rtol=1e-4, hint=hint)


@pytest.mark.parametrize("where", ["query", "key", "value"])
def test_nan_is_not_hidden(where, generator):
    """A NaN in a query spoils its row, in a key every row of its batch element, in a value its column."""
    inputs = [x.detach() for x in random_inputs(generator, 2)]
    expected = sdpa(*inputs)
    spoilt = torch.zeros_like(expected, dtype=torch.bool)
    inputs[("query", "key", "value").index(where)][1, 3, 2] = math.nan
    spoilt[{"query": (1, 3), "key": (1,), "value": (1, slice(None), 2)}[where]] = True
    got = chunked(*inputs)
    assert got[spoilt].isnan().all(), f"a NaN in the {where} does not show in the output"
    assert_close(
        got[~spoilt], expected[~spoilt], n=15, hint=f"a NaN in the {where} shows where it should not"
    )


def test_gradients_of_large_scores(generator):
    """With scores of 1e4 the weights must come out as exactly in the backward pass as in the forward pass."""
    query = torch.full((1, 3, 1), 1e4, requires_grad=True)
    key = (1 + 1e-4 * torch.randn(1, 9, 1, generator=generator)).requires_grad_()
    value = torch.randn(1, 9, 4, generator=generator, requires_grad=True)
    inputs = [query, key, value]
    expected = sdpa(*inputs)
    cotangent = torch.randn(expected.shape, generator=generator)
    right = gradients(expected, [key, value], cotangent)
    found = gradients(chunked(*inputs), [key, value], cotangent)
    # A score of 1e4 is known to 5e-4 in float32, which the weights inherit.
    hint = "m + log(z) in one float32 number is too coarse for scores of 1e4: keep m and z apart"
    for name, mine, oracle in zip(("key", "value"), found, right, strict=True):
        assert_close(
            mine, double(oracle), dtype=torch.float32, rtol=2e-3, what=f"gradient of {name}", hint=hint
        )


def test_mask_of_the_smallest_number(generator):
    """finfo.min instead of -inf: a row full of it is a plain mean, as in torch."""
    query, key, value = random_inputs(generator, 2, dtype=torch.float32)
    mask = torch.zeros(5, 7).masked_fill(~causal_mask(5, 7), torch.finfo(torch.float32).min)
    mask[1] = torch.finfo(torch.float32).min
    expected = scaled_dot_product_attention(query, key, value, attn_mask=mask)
    hint = "a mask of finfo.min became -inf: was it multiplied with something?"
    got = chunked(query, key, value, mask=mask)
    assert_close(got, expected.detach(), rtol=1e-5, what="output", hint=hint)


@pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_dtypes(dtype, masked, generator):
    """Output and gradients in every dtype; the half types are rounded once, a float32 mask not at all."""
    inputs = random_inputs(generator, 2, n_queries=33, n_keys=65, d=16, dv=8, dtype=dtype)
    half = dtype in (torch.float16, torch.bfloat16)
    rtol = {torch.float32: 1e-5, torch.float64: 1e-12}.get(dtype, 0.52 * torch.finfo(dtype).eps)
    exact = [double(x).requires_grad_() for x in inputs]  # their gradients are not rounded at all
    mask = torch.randn(33, 65, generator=generator) if masked else None
    expected = sdpa(*exact, causal=True, mask=mask)
    got = chunked(*inputs, causal=True, mask=mask, chunks=(16, 20))
    options = {"dtype": dtype, "rtol": rtol, "atol": 1e-5 if half else None}
    hint = f"more than one rounding to {dtype}: compute the tiles in float32" if half else None
    assert_close(got, double(expected), what="output", hint=hint, **options)
    cotangent = torch.randn(expected.shape, generator=generator, dtype=torch.float64).to(dtype)
    right = gradients(expected, exact, cotangent)
    for name, mine, oracle in zip("qkv", gradients(got, inputs, cotangent), right, strict=True):
        assert_close(mine, oracle, what=f"gradient of {name}", hint=hint, **options)


@pytest.mark.parametrize("scale", [0.3, 0.0, -0.7])
def test_scale(scale, generator):
    """The option `scale` replaces 1/sqrt(d)."""
    inputs = random_inputs(generator, 2)
    mistakes = output_mistakes(*inputs, scale=scale)
    assert_close(chunked(*inputs, scale=scale), sdpa(*inputs, scale=scale), n=15, mistakes=mistakes)


@pytest.mark.parametrize("causal", [False, True], ids=["", "causal"])
@pytest.mark.parametrize("chunks", [(1, 1), (2, 3), (5, 2), (100, 100)], ids=str)
def test_gradients(chunks, causal, generator):
    """Gradients of query, key and value for a random cotangent, as torch's to 1e-12; the first query sees nothing."""
    inputs = random_inputs(generator, 2, 3, n_queries=8, n_keys=7)
    expected = sdpa(*inputs, causal=causal, scale=0.4)
    cotangent = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    right = gradients(expected, inputs, cotangent)
    found = gradients(chunked(*inputs, causal=causal, scale=0.4, chunks=chunks), inputs, cotangent)
    for name, mine, oracle in zip(("query", "key", "value"), found, right, strict=True):
        assert_close(mine, oracle, rtol=1e-12, what=f"gradient of {name}")


@pytest.mark.parametrize("wanted", [0, 1, 2])
def test_gradient_of_one_input(wanted, generator):
    """A frozen input asks for no gradient, the others get theirs."""
    inputs = [x.detach() for x in random_inputs(generator, 2)]
    inputs[wanted].requires_grad_()
    expected = sdpa(*inputs)
    cotangent = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    (right,) = gradients(expected, [inputs[wanted]], cotangent)
    (mine,) = gradients(chunked(*inputs), [inputs[wanted]], cotangent)
    assert_close(mine, right, rtol=1e-12, what=f"gradient of {('query', 'key', 'value')[wanted]}")


def test_leading_axes_broadcast(generator):
    """Leading axes broadcast, and what was broadcast gets the sum of the gradients."""
    query, _, _ = random_inputs(generator, 2, 3)
    _, key, value = random_inputs(generator, 2, 1)
    check_broadcast(query, key, value, generator)
    check_broadcast(query[0, 0].detach().requires_grad_(), key, random_inputs(generator, 1, 3)[2], generator)


def check_broadcast(query, key, value, generator):
    """Compare with inputs whose leading axes are written out, to (2, 3)."""
    inputs = [query, key, value]
    expected = sdpa(*(x.expand(2, 3, -1, -1) for x in inputs))
    try:
        got = chunked(*inputs)
    except NotImplementedError:  # a RuntimeError too
        raise
    except RuntimeError as error:
        raise AssertionError(f"leading axes of the three inputs must broadcast together: {error}") from error
    assert_close(got, expected, n=15, what="output")
    cotangent = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    right = gradients(expected, inputs, cotangent)
    for name, mine, oracle in zip("qkv", gradients(got, inputs, cotangent), right, strict=True):
        assert_close(mine, oracle, rtol=1e-12, what=f"gradient of {name}")


def test_views(generator):
    """Transposed and strided inputs, as they come out of a projection that is split into heads."""
    x = torch.randn(2, 9, 3, 3, 4, generator=generator, dtype=torch.float64)  # (batch, T, q/k/v, head, d)
    query, key, value = x.permute(2, 0, 3, 1, 4).unbind(0)
    with unchanged(x):
        got = chunked(query, key, value, causal=True)
    assert_close(got, sdpa(query, key, value, causal=True), n=15, what="output of views")


@pytest.mark.parametrize("where", [0, 1, 2])
def test_mask_with_the_axes_of_one_input(where, generator):
    """Where only one of the three inputs has leading axes, a mask may have them too."""
    inputs = random_inputs(generator)
    inputs[where] = random_inputs(generator, 2, 3)[where]
    mask = torch.rand(2, 3, 5, 7, generator=generator) > 0.4
    expected = sdpa(*(x.expand(2, 3, -1, -1) for x in inputs), mask=mask)
    assert_close(chunked(*inputs, mask=mask), expected, n=15, what="output")


@pytest.mark.parametrize("sizes", [(0, 3, 5), (3, 0, 5), (3, 4, 0)], ids=str)
def test_empty(sizes):
    """No queries, no keys or no batch element: no error, and zeros where there is nothing to attend to."""
    n_queries, n_keys, n_batch = sizes
    query, key = torch.ones(n_batch, n_queries, 4), torch.ones(n_batch, n_keys, 4)
    output = chunked(query, key, key[..., :2], causal=True)
    assert output.shape == (n_batch, n_queries, 2), f"got shape {tuple(output.shape)}"
    assert n_keys or not output.any(), "without keys the output must be 0"


@pytest.mark.parametrize("bad", [0, -1, 2.0, None, True, "2"])
@pytest.mark.parametrize("name", ["query_chunk", "key_chunk"])
def test_wrong_chunks(name, bad):
    """A chunk is a positive integer."""
    x = torch.ones(5, 4)
    with expect_error(ValueError, name, str(bad), otherwise=f"{name}={bad} is not refused"):
        chunked_attention.chunked_attention(x, x, x, **{name: bad})
    with pytest.raises(ValueError, match=rf"\b{name}\b"):  # the whole name
        chunked_attention.chunked_attention(x, x, x, **{name: bad})


def test_chunks_of_numpy(generator):
    """An integer of NumPy is an integer."""
    inputs = random_inputs(generator, 2)
    try:
        got = chunked(*inputs, chunks=(np.int64(2), np.int32(3)))
    except ValueError as error:
        raise AssertionError(f"np.int64(2) is refused, and it is a positive integer: {error}") from error
    assert_close(got, sdpa(*inputs), n=15)


def test_width_of_zero():
    """Queries and keys of no numbers have scores of 0: every key counts alike."""
    value = torch.arange(10.0).view(5, 2)
    try:
        got = chunked(torch.ones(2, 3, 0), torch.ones(2, 5, 0), value)
    except ZeroDivisionError as error:
        raise AssertionError(f"the default scale of a width of 0 fails: {error}") from error
    assert_close(got, value.mean(0).expand(2, 3, 2), vacuous_ok="every key counts alike")


@pytest.mark.parametrize("of_the_mask", [torch.float16, torch.float64, torch.float8_e5m2], ids=str)
def test_mask_of_any_float_dtype(of_the_mask, generator):
    """The mask is added, whatever float dtype it has."""
    inputs = random_inputs(generator, 2, dtype=torch.float32)
    mask = torch.randn(5, 7, generator=generator).to(of_the_mask)
    try:
        got = chunked(*inputs, mask=mask)
    except NotImplementedError:  # a RuntimeError too
        raise
    except RuntimeError as error:
        raise AssertionError(f"a {of_the_mask} mask fails: convert it first. {error}") from error
    assert_close(got, sdpa(*inputs, mask=mask.double()), dtype=torch.float32, rtol=1e-5)


def test_wrong_inputs():
    """What attention refuses is refused here too."""
    x = torch.ones(2, 5, 4)
    for case, shapes in BAD_SHAPES.items():
        with expect_error(ValueError, *map(str, shapes), otherwise=f"{case}: not refused with a ValueError"):
            chunked(*map(torch.ones, shapes))
    with expect_error(ValueError, "(4, 5)", otherwise="a mask of a wrong shape is accepted"):
        chunked(x, x, x, mask=torch.ones(4, 5, dtype=torch.bool))
    with expect_error(TypeError, "int64", otherwise="an integer mask is accepted"):
        chunked(x, x, x, mask=torch.ones(5, 5, dtype=torch.int64))
    with expect_error(TypeError, "float64", otherwise="different dtypes are accepted"):
        chunked(x, x, x.double())


@pytest.mark.parametrize("causal", [False, True], ids=["", "causal"])
def test_gradcheck(causal, generator):
    """Finite differences agree, also for the mask, with rows that see nothing."""
    inputs = random_inputs(generator, 2, n_queries=4, n_keys=3, d=2, dv=2)
    mask = torch.randn(4, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    forbidden = torch.tensor([[False], [False], [True], [False]])

    def run(query, key, value, mask):
        mask = mask.masked_fill(forbidden, -INF)
        return chunked(query, key, value, mask=mask, causal=causal, chunks=(3, 2))

    check_finite_differences(run, [*inputs, mask], generator=generator)


def test_second_derivative(generator):
    """A second derivative is right or refused, never silently wrong."""
    inputs = random_inputs(generator, 2)

    def second(function):
        output = function(*inputs)
        (first,) = torch.autograd.grad(output.square().sum(), inputs[0], create_graph=True)
        return torch.autograd.grad(first.square().sum(), inputs[0])[0]

    def plain(query, key, value):
        return torch.softmax(query @ key.mT / 2, dim=-1) @ value

    try:
        got = second(chunked)
    except NotImplementedError:  # a RuntimeError too
        raise
    except RuntimeError:
        return
    assert_close(got, second(plain), rtol=1e-10, what="second derivative")


def test_default_chunks(generator):
    """With the default tiles: 300 queries and 600 keys make incomplete tiles both ways, and ten heads are many."""
    inputs = random_inputs(generator, 2, 5, n_queries=300, n_keys=600, d=8, dv=4, dtype=torch.float32)
    cotangent = torch.randn(2, 5, 300, 4, generator=generator)
    mask = torch.rand(2, 1, 300, 600, generator=generator) > 0.3
    for options in ({"causal": False}, {"causal": True}, {"mask": mask}):
        got = chunked_attention.chunked_attention(*inputs, **options)
        expected = sdpa(*inputs, **options)
        mistakes = {
            f"only the first {n} heads arrive in the output": torch.cat(
                [expected.flatten(0, 1)[:n], torch.zeros(10 - n, 300, 4)]
            ).view_as(expected)
            for n in (1, 2, 4, 5, 8)
        }
        assert_close(got, double(expected), dtype=torch.float32, rtol=1e-5, what="output", mistakes=mistakes)
        wanted = gradients(expected, inputs, cotangent)
        for name, gradient, oracle in zip(
            "query key value".split(), gradients(got, inputs, cotangent), wanted, strict=True
        ):
            assert_close(gradient, double(oracle), dtype=torch.float32, rtol=1e-5, what=f"gradient of {name}")


# --- what it costs ----------------------------------------------------------------------------------------------------


class Watch(TorchDispatchMode):
    """See every operator that runs in the block."""

    @classmethod
    def _should_skip_dynamo(cls):
        return False  # else torch imports its compiler, which takes longer than all tests here


class LiveMemory(Watch):
    """Count the bytes of the tensors that arise in the block: how many are alive, and how many were at most.

    Views share the memory of what they look at, and `given` costs nothing. What an operator needs inside is not seen.
    """

    def __init__(self, *given):
        super().__init__()
        self.live = self.peak = 0
        self.known = {x.untyped_storage()._cdata for x in given if x is not None}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for x in result if isinstance(result, tuple | list) else [result]:
            if isinstance(x, torch.Tensor) and x.untyped_storage()._cdata not in self.known:
                self._add(x.untyped_storage())
        return result

    def _add(self, storage):
        self.known.add(storage._cdata)
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._remove, storage._cdata, storage.nbytes())

    def _remove(self, address, n_bytes):
        self.known.discard(address)
        self.live -= n_bytes


@pytest.mark.grades
def test_memory_is_counted():
    """The counter itself: it sees what is kept for the backward pass, and what is freed."""
    x = torch.ones(100, dtype=torch.float64, requires_grad=True)
    with LiveMemory(x) as memory:
        y = x.exp()
        z = (y * y).sum()
        del y
        assert (memory.live, memory.peak) == (808, 1608), "exp and its square arise, exp and the sum stay"
        z.backward()
        assert memory.live == 808, "the sum and the gradient stay"


KEPT = "the tiles of weights must not be stored but computed again"


@pytest.mark.parametrize("mask", [None, "boolean", "float", "per query", "none, float16"])
@pytest.mark.parametrize("causal", [False, True], ids=["", "causal"])
def test_memory(causal, mask, generator):
    """Forward, between the passes, and backward: what the docstring allows, which no row of tiles fits in."""
    n_heads, n_tokens, d, dv, chunks = 2, 512, 2, 3, (64, 8)
    half = mask == "none, float16"
    dtype = torch.float16 if half else torch.float64
    inputs = random_inputs(generator, n_heads, n_queries=n_tokens, n_keys=n_tokens, d=d, dv=dv, dtype=dtype)
    masks = {
        "boolean": torch.rand(1, 1, n_tokens, generator=generator) > 0.3,  # broadcasts over the queries
        "float": torch.randn(1, 1, n_tokens, generator=generator, dtype=torch.float64),
        "per query": torch.rand(n_tokens, n_tokens, generator=generator) > 0.3,
    }
    options = {"mask": masks.get(mask), "causal": causal}
    # the three inputs, their gradients, the output and its gradient: (Tq + Tk)·(d + dv) numbers each time
    own, few, tiles = n_heads * 1024 * (d + dv), n_heads * 1024 * (d + dv + 4), n_heads * 8 * 64 * 8
    size, copies = (4, 2 * own) if half else (8, 0)  # bytes of a number
    with LiveMemory(*inputs, *masks.values()) as memory:
        output = chunked(*inputs, chunks=chunks, **options)
        forward, between = memory.peak / size, memory.live / size
        output.sum().backward()
    allowed = n_heads * n_tokens * dv + few + copies
    said = f"T² is {n_heads * n_tokens**2}, a row of tiles {n_heads * 64 * n_tokens}, a tile {n_heads * 64 * 8} numbers"
    assert between <= allowed, (
        f"{between:.0f} numbers are kept for the backward pass, {allowed} are allowed: {KEPT} ({said})"
    )
    assert forward <= allowed + tiles, (
        f"the forward pass holds {forward:.0f} numbers at once, {allowed + tiles} are allowed: {said}"
    )
    assert memory.peak / size <= own + few + copies + tiles, (
        f"the backward pass holds {memory.peak / size:.0f} numbers at once, {own + few + copies + tiles} are allowed: "
        f"compute one tile at a time again, and add up its gradients in place ({said})"
    )
    found = [x.grad for x in inputs]  # and with this many tiles the numbers are right too
    exact = [double(x).requires_grad_() for x in inputs]
    expected = sdpa(*exact, **options)
    expected.sum().backward()
    rtol = 1e-3 if half else 1e-11
    hint = "right with few tiles, wrong with many"
    assert_close(output, expected, dtype=dtype, rtol=rtol, what="output", hint=hint)
    for name, mine, oracle in zip(("query", "key", "value"), found, exact, strict=True):
        assert_close(mine, oracle.grad, dtype=dtype, rtol=rtol, what=f"gradient of {name}", hint=hint)


class MatmulFlops(Watch):
    """Count matrix products and their FLOPs (torch's own counter passes over those that work in place)."""

    def __init__(self):
        super().__init__()
        self.total = self.calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__.rstrip("_")
        if name in ("mm", "bmm", "addmm", "baddbmm"):
            a, b = args[-2:]
            self.total += 2 * a.numel() * b.shape[-1]
            self.calls += 1
        return func(*args, **(kwargs or {}))


def test_chunks_are_used(generator):
    """Larger tiles make fewer products, in both directions."""
    inputs = random_inputs(generator, 2, n_queries=32, n_keys=32, d=4, dv=4)
    calls = {}
    for chunks in ((4, 4), (4, 32), (32, 4)):
        with MatmulFlops() as counted:
            chunked(*inputs, chunks=chunks)
        calls[chunks] = counted.calls
    for name, chunks in (("key_chunk", (4, 32)), ("query_chunk", (32, 4))):
        assert calls[chunks] * 4 <= calls[4, 4], (
            f"{name} is ignored: eight times as large, it changes {calls[4, 4]} products to {calls[chunks]}"
        )


def test_masked_tiles_are_skipped(generator):
    """Causal does about half of the multiplications, forward and backward: tiles above the diagonal are skipped."""
    inputs = random_inputs(generator, 2, n_queries=128, n_keys=128, d=4, dv=4)
    flops = {}
    for causal in (False, True):
        with MatmulFlops() as forward:
            output = chunked(*inputs, causal=causal, chunks=(8, 8))
        with MatmulFlops() as backward:
            output.sum().backward()
        flops[causal] = forward.total, backward.total
    least = 2 * 2 * 128 * 128 * (4 + 4)
    assert flops[False][0] >= least, f"{flops[False][0]} FLOPs counted, a full attention needs {least}"
    for name, full, half in zip(("forward", "backward"), flops[False], flops[True], strict=True):
        share = half / full
        assert share < 0.56, (
            f"causal does {share:.0%} of the full work in the {name} pass: skip the tiles that are all masked "
            "(16 tiles each way leave 17/32 of it)"
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_does_not_call_the_library(dtype, generator):
    """The tiles are computed by matrix products and exponentials, not by torch's own attention."""
    inputs = random_inputs(generator, 2, dtype=dtype)
    with refuse_calls(*LIBRARY):
        for options in ({}, {"causal": True}, {"mask": torch.ones(5, 7, dtype=torch.bool)}):
            chunked(*inputs, **options).sum().backward()
