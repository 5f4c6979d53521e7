"""The judge of the written-out attention; test_attention_module.py and test_chunked_attention.py go on from here.

Oracles: values worked by hand, torch's scaled_dot_product_attention in float64, laws (rows sum to 1, order does not
matter), finite differences (torch.autograd.gradcheck).
"""

import math
import warnings

import pytest
import torch
from oracles import (
    causal_mask,
    check_finite_differences,
    double,
    gradients,
    output_mistakes,
    random_inputs,
    sdpa,
    sdpa_weights,
    weight_mistakes,
)
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention

import attention
from shared.testing.checks import assert_close, assert_imports_only, expect_error, refuse_calls, unchanged

LIBRARY = ("scaled_dot_product", "multi_head_attention", "flex_attention", "flash_attention")
INF = math.inf


@pytest.mark.grades
def test_imports():
    """The deliverable uses torch, nothing else."""
    assert_imports_only(attention, {"torch"})


# --- worked by hand ---------------------------------------------------------------------------------------------------
# d = 4, so a score is half a dot product: query 0 gets the scores ln(1), ln(2), ln(5), query 1 gets ln(4), ln(1), ln(3).

QUERY = torch.tensor([[2.0, 0, 0, 0], [0, 2, 0, 0]], dtype=torch.float64)
KEY = torch.tensor([[1.0, 4, 1, 1], [2, 1, 1, 1], [5, 3, 1, 1]], dtype=torch.float64).log()
VALUE = torch.tensor([[8.0, 80], [16, 0], [0, 8]], dtype=torch.float64)
WEIGHTS = torch.tensor([[1 / 8, 2 / 8, 5 / 8], [4 / 8, 1 / 8, 3 / 8]], dtype=torch.float64)


@pytest.mark.grades("attention_weights")
def test_weights_by_hand():
    """Two queries, three keys: the weights are 1:2:5 and 4:1:3."""
    got = attention.attention_weights(QUERY, KEY)
    assert_close(got, WEIGHTS, what="weights", mistakes=weight_mistakes(QUERY, KEY))


@pytest.mark.grades("attention")
def test_attention_by_hand():
    """The same weights on two numbers per key: (8 + 2·16)/8, (80 + 5·8)/8 and (4·8 + 16)/8, (4·80 + 3·8)/8."""
    expected = torch.tensor([[5.0, 15], [6, 43]], dtype=torch.float64)
    got = attention.attention(QUERY, KEY, VALUE)
    assert_close(got, expected, what="output", mistakes=output_mistakes(QUERY, KEY, VALUE))


MASKS_BY_HAND = {
    "boolean": (
        torch.tensor([[True, False, True], [True, True, False]]),
        [[1 / 6, 0, 5 / 6], [4 / 5, 1 / 5, 0]],
    ),
    "float": (  # adding ln(3) to a score triples its share
        torch.tensor([[math.log(3), 0, -INF], [0, math.log(5), 0]], dtype=torch.float64),
        [[3 / 5, 2 / 5, 0], [4 / 12, 5 / 12, 3 / 12]],
    ),
    "one row for all queries": (torch.tensor([False, True, True]), [[0, 2 / 7, 5 / 7], [0, 1 / 4, 3 / 4]]),
}


@pytest.mark.grades("attention_weights")
@pytest.mark.parametrize("kind", MASKS_BY_HAND)
def test_mask_by_hand(kind):
    """A boolean mask allows where it is True, a float mask is added; the rest of each row is shared out anew."""
    mask, expected = MASKS_BY_HAND[kind]
    got = attention.attention_weights(QUERY, KEY, mask=mask)
    expected = torch.tensor(expected, dtype=torch.float64)
    assert_close(got, expected, what="weights", mistakes=weight_mistakes(QUERY, KEY, mask=mask))


@pytest.mark.grades("attention_weights")
def test_causal_by_hand():
    """Two queries and four keys: the first sees three keys, the last sees all, as if the queries came last."""
    key = torch.cat([KEY, torch.tensor([[1.0, 2, 1, 1]], dtype=torch.float64).log()])
    expected = torch.tensor([[1 / 8, 2 / 8, 5 / 8, 0], [0.4, 0.1, 0.3, 0.2]], dtype=torch.float64)
    got = attention.attention_weights(QUERY, key, causal=True)
    assert_close(got, expected, what="weights", mistakes=weight_mistakes(QUERY, key, causal=True))


@pytest.mark.grades("attention_weights")
def test_nothing_to_attend_to_by_hand():
    """Three queries and two keys, causal: the first query sees nothing and gets zeros, not NaN."""
    query = torch.cat([QUERY.flip(0), QUERY[:1]])
    expected = torch.tensor([[0, 0], [1, 0], [1 / 3, 2 / 3]], dtype=torch.float64)
    got = attention.attention_weights(query, KEY[:2], causal=True)
    mistakes = {
        "a row with nothing to attend to is NaN: 0/0 in its softmax": torch.where(
            expected.sum(dim=-1, keepdim=True) > 0, expected, math.nan
        ),
        "a row with nothing to attend to looks at every key alike: its weights must be 0": torch.where(
            expected.sum(dim=-1, keepdim=True) > 0, expected, 0.5
        ),
        **weight_mistakes(query, KEY[:2], causal=True),
    }
    assert_close(got, expected, what="weights", mistakes=mistakes)


# --- shapes, dtypes and what is refused -------------------------------------------------------------------------------


@pytest.mark.grades("attention")
def test_nothing_leaks_between_batches(generator):
    """What happens in one batch element or head does not show in another."""
    query, key, value = random_inputs(generator, 2, 3)
    before = attention.attention(query, key, value)
    changed = [x.detach().clone() for x in (query, key, value)]
    for x in changed:
        x[0, 1] *= -2.0
    after = attention.attention(*changed)
    others = torch.ones(2, 3, dtype=torch.bool)
    others[0, 1] = False
    hint = "one batch element or head changes the result of another: the batch leaks"
    assert_close(after[others], before[others], what="the other elements", hint=hint)
    assert not torch.allclose(after[0, 1], before[0, 1]), "the output does not depend on the input"


@pytest.mark.grades("attention_weights", "attention")
@pytest.mark.parametrize("leading", [(), (2,), (2, 3), (2, 1, 3)], ids=str)
def test_leading_axes(leading, generator):
    """Any number of leading axes, all other sizes different."""
    query, key, value = random_inputs(generator, *leading)
    options = {"what": "weights", "mistakes": weight_mistakes(query, key)}
    assert_close(attention.attention_weights(query, key), sdpa_weights(query, key), n=11, **options)
    options = {"what": "output", "mistakes": output_mistakes(query, key, value)}
    assert_close(attention.attention(query, key, value), sdpa(query, key, value), n=11, **options)


@pytest.mark.grades("attention_weights", "attention")
def test_leading_axes_broadcast(generator):
    """Leading axes broadcast: three heads of queries may share one key and value."""
    query, _, _ = random_inputs(generator, 2, 3)
    _, key, value = random_inputs(generator, 2, 1)
    expanded = [x.expand(2, 3, -1, -1) for x in (key, value)]
    assert_close(
        attention.attention_weights(query, key), sdpa_weights(query, expanded[0]), n=11, what="weights"
    )
    assert_close(attention.attention(query, key, value), sdpa(query, *expanded), n=11, what="output")
    query = query[0, 0]  # no leading axis, the values have both
    got = attention.attention(query, key[:1], value.expand(2, 3, -1, -1))
    assert_close(got, sdpa(query.expand(2, 3, -1, -1), key[:1].expand(2, 3, -1, -1), expanded[1]), n=11)


@pytest.mark.grades("attention")
def test_order_of_the_keys_does_not_matter(generator):
    """Attention sees a set: moving keys and values together changes nothing, moving queries moves the output."""
    query, key, value = random_inputs(generator, 2)
    order = torch.randperm(7, generator=generator)
    expected = attention.attention(query, key, value)
    got = attention.attention(query, key[:, order], value[:, order])
    assert_close(got, expected, n=11, hint="the output depends on the order of the keys")
    got = attention.attention(query.flip(-2), key, value)
    assert_close(got, expected.flip(-2), n=11, hint="a query's output depends on the other queries")


@pytest.mark.grades("attention")
@pytest.mark.parametrize(("d", "dv"), [(1, 3), (2, 5), (16, 9)])
def test_scale_comes_from_the_keys(d, dv, generator):
    """The default scale is 1/sqrt(d) with d the width of query and key, whatever the width of the values."""
    query, key, value = random_inputs(generator, 2, d=d, dv=dv)
    mistakes = output_mistakes(query, key, value)
    assert_close(attention.attention(query, key, value), sdpa(query, key, value), n=30, mistakes=mistakes)


@pytest.mark.grades("attention_weights", "attention")
@pytest.mark.parametrize("scale", [0.3, 1.0, 0.0, -0.7])
def test_scale_is_an_option(scale, generator):
    """The option `scale` replaces 1/sqrt(d); 0 is a scale too: the weights are then all alike."""
    query, key, value = random_inputs(generator, 2)
    mistakes = weight_mistakes(query, key, scale=scale)
    got = attention.attention_weights(query, key, scale=scale)
    alike = "scale 0 is not None" if scale == 0 else None
    assert_close(
        got,
        sdpa_weights(query, key, scale=scale),
        n=11,
        what="weights",
        mistakes=mistakes,
        vacuous_ok=alike and "scale 0 gives 1/7 everywhere, and an ignored scale does not",
    )
    mistakes = output_mistakes(query, key, value, scale=scale)
    got = attention.attention(query, key, value, scale=scale)
    assert_close(got, sdpa(query, key, value, scale=scale), n=11, what="output", mistakes=mistakes)


@pytest.mark.grades("attention_weights", "attention")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_dtype(dtype, generator):
    """float32 and float64 come back as they went in, right to 1e-6 and 1e-12."""
    query, key, value = random_inputs(generator, 2, 3, n_queries=33, n_keys=65, d=16, dv=8, dtype=dtype)
    rtol = {torch.float32: 1e-5, torch.float64: 1e-12}[dtype]
    got = attention.attention_weights(query, key)
    assert_close(got, sdpa_weights(query, key), dtype=dtype, rtol=rtol, what="weights")
    got = attention.attention(query, key, value)
    assert_close(got, sdpa(query, key, value), dtype=dtype, rtol=rtol, what="output")


@pytest.mark.grades("attention_weights", "attention")
@pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_types_are_rounded_once(dtype, masked, generator):
    """float16 and bfloat16 are computed in float32: the result is the exact one, rounded once; the mask is not rounded."""
    query, key, value = random_inputs(generator, 2, 3, n_queries=33, n_keys=300, d=16, dv=8, dtype=dtype)
    options = {"mask": torch.randn(33, 300, generator=generator), "causal": True} if masked else {}
    eps = torch.finfo(dtype).eps
    hint = f"more than one rounding to {dtype}: multiply and take the softmax in float32, round at the end"
    if masked:
        hint += f"; a float32 mask is added to float32 scores, not rounded to {dtype}"
    got = attention.attention_weights(query, key, **options)
    assert_close(
        got,
        sdpa_weights(query, key, **options),
        dtype=dtype,
        rtol=0.52 * eps,
        atol=6e-8,
        what="weights",
        hint=hint,
        mistakes=weight_mistakes(query, key, **options),
    )
    got = attention.attention(query, key, value, **options)
    expected = sdpa(query, key, value, **options)
    assert_close(got, expected, dtype=dtype, rtol=0.52 * eps, atol=1e-6, what="output", hint=hint)


@pytest.mark.grades("attention_weights", "attention")
def test_half_scores_do_not_overflow():
    """A score of 80000 does not fit in float16; its softmax is 0 or 1."""
    query = torch.tensor([[200.0] * 4], dtype=torch.float16)
    key = torch.tensor([[200.0] * 4, [100] * 4], dtype=torch.float16)
    value = torch.tensor([[3.0, 5], [7, 11]], dtype=torch.float16)
    expected = torch.tensor([[1.0, 0]], dtype=torch.float16)
    hint = "overflow: multiply query and key in float32, and subtract each row's largest score before exp"
    assert_close(attention.attention_weights(query, key), expected, what="weights", hint=hint)
    assert_close(attention.attention(query, key, value), value[:1], what="output", hint=hint)


@pytest.mark.grades("attention_weights", "attention")
def test_inputs_and_views(generator):
    """Views with any strides work, and no argument is modified."""
    query = torch.randn(4, 10, 2, generator=generator, dtype=torch.float64).permute(2, 1, 0)[:, ::2]
    key, value = (torch.randn(2, 4, 7, generator=generator, dtype=torch.float64).mT for _ in range(2))
    mask = (torch.rand(7, 5, generator=generator) > 0.3).mT
    options = {"mask": mask, "causal": True}
    with unchanged(query, key, value, mask):
        got = attention.attention(query, key, value, **options)
    mistakes = output_mistakes(query, key, value, **options)
    assert_close(got, sdpa(query, key, value, **options), n=11, what="output of views", mistakes=mistakes)
    bias = torch.randn(5, 7, generator=generator, dtype=torch.float64)
    with unchanged(query, key, bias):
        got = attention.attention_weights(query, key, mask=bias, causal=True)
    mistakes = weight_mistakes(query, key, mask=bias, causal=True)
    expected = sdpa_weights(query, key, mask=bias, causal=True)
    assert_close(got, expected, n=11, what="weights of views", mistakes=mistakes)


BAD_SHAPES = {
    "query and key of different width": ((2, 5, 4), (2, 7, 3), (2, 7, 6)),
    "key and value of different length": ((2, 5, 4), (2, 7, 4), (2, 6, 4)),
    "leading axes that do not broadcast": ((2, 5, 4), (3, 7, 4), (3, 7, 6)),
    "values of another batch": ((2, 5, 4), (2, 7, 4), (3, 7, 6)),
    "a vector": ((4,), (7, 4), (7, 6)),
    "value as a vector": ((5, 4), (7, 4), (7,)),
}


@pytest.mark.grades("attention")
@pytest.mark.parametrize("case", BAD_SHAPES)
def test_wrong_shapes(case):
    """Shapes that do not fit are refused, with the shapes in the message."""
    shapes = BAD_SHAPES[case]
    with expect_error(ValueError, *map(str, shapes), otherwise=f"{case}: not refused with a ValueError"):
        attention.attention(*map(torch.ones, shapes))


@pytest.mark.grades("attention_weights")
@pytest.mark.parametrize("shapes", [((5, 4), (7, 3)), ((2, 5, 4), (3, 7, 4)), ((4,), (7, 4))], ids=str)
def test_wrong_shapes_of_weights(shapes):
    """The same for the weights alone."""
    with expect_error(ValueError, *map(str, shapes), otherwise="shapes that do not fit are accepted"):
        attention.attention_weights(*map(torch.ones, shapes))


@pytest.mark.grades("attention_weights", "attention")
@pytest.mark.parametrize("shape", [(7, 5), (5, 1, 7), (2, 2, 5, 7), (6,), (3, 5, 7)], ids=str)
def test_wrong_mask_shape(shape):
    """A mask that does not broadcast to (2, 5, 7) is refused, also one that would make the result larger."""
    query, key, value = torch.ones(2, 5, 4), torch.ones(2, 7, 4), torch.ones(2, 7, 3)
    mask = torch.ones(shape, dtype=torch.bool)
    problem = "a mask of a wrong shape is accepted: it must broadcast to (..., Tq, Tk)"
    with expect_error(ValueError, str(shape), otherwise=problem):
        attention.attention_weights(query, key, mask=mask)
    with expect_error(ValueError, str(shape), otherwise=problem):
        attention.attention(query, key, value, mask=mask)


@pytest.mark.grades("attention_weights", "attention")
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.complex64], ids=str)
def test_wrong_mask_dtype(dtype):
    """A mask of 0 and 1 as integers could mean two things; it is refused."""
    query, key, mask = torch.ones(5, 4), torch.ones(7, 4), torch.ones(5, 7, dtype=dtype)
    problem = f"a {dtype} mask is accepted: only boolean and float masks have a meaning"
    with expect_error(TypeError, str(dtype), otherwise=problem):
        attention.attention_weights(query, key, mask=mask)
    with expect_error(TypeError, str(dtype), otherwise=problem):
        attention.attention(query, key, key, mask=mask)


@pytest.mark.grades("attention_weights", "attention")
def test_wrong_dtypes():
    """Query, key and value are of one floating dtype."""
    x = torch.ones(5, 4)
    problem = "different dtypes are accepted: query, key and value must agree"
    with expect_error(TypeError, "float32", "float64", otherwise=problem):
        attention.attention_weights(x, x.double())
    with expect_error(TypeError, "float32", "float16", otherwise=problem):
        attention.attention(x, x, x.half())
    with expect_error(TypeError, "int64", otherwise="integers are accepted"):
        attention.attention(x.long(), x.long(), x.long())


@pytest.mark.grades("attention")
@pytest.mark.parametrize("dropout_p", [-0.1, 1.0, 1.5, math.nan])
def test_wrong_dropout(dropout_p):
    """A probability outside [0, 1) is refused: with 1 nothing would be left to rescale."""
    x = torch.ones(5, 4)
    with expect_error(ValueError, str(dropout_p), otherwise=f"dropout_p={dropout_p} is accepted"):
        attention.attention(x, x, x, dropout_p=dropout_p)


# --- masks, in full ---------------------------------------------------------------------------------------------------


def random_mask(kind, leading, generator):
    """Return a mask for (*leading, 5, 7) in which no row is all masked; "key padding" and "per head" broadcast."""
    full = torch.Size((*leading, 5, 7))
    shape = {"key padding": (full[0], *(1,) * (len(full) - 2), 7), "per query": (5, 1)}.get(kind, full)
    allowed = torch.rand(shape, generator=generator) > 0.4
    allowed[..., 0] = True
    if kind in ("boolean", "key padding"):
        return allowed
    bias = torch.randn(shape, generator=generator, dtype=torch.float64)
    return (bias if kind == "per query" else bias.masked_fill(~allowed, -INF)).requires_grad_()


KINDS = ("none", "boolean", "float", "key padding", "per query")


@pytest.mark.grades("attention_weights", "attention")
@pytest.mark.parametrize("causal", [False, True], ids=["", "causal"])
@pytest.mark.parametrize("kind", KINDS)
def test_masks(kind, causal, generator):
    """Masks of every kind, alone and together with causal, as torch's attention in float64."""
    query, key, value = random_inputs(generator, 2, 3)
    mask = None if kind == "none" else random_mask(kind, (2, 3), generator)
    options = {"mask": mask, "causal": causal}
    got = attention.attention_weights(query, key, **options)
    mistakes = weight_mistakes(query, key, **options)
    assert_close(got, sdpa_weights(query, key, **options), n=11, what="weights", mistakes=mistakes)
    got = attention.attention(query, key, value, **options)
    mistakes = output_mistakes(query, key, value, **options)
    assert_close(got, sdpa(query, key, value, **options), n=11, what="output", mistakes=mistakes)


@pytest.mark.grades("attention")
@pytest.mark.parametrize(("n_queries", "n_keys"), [(5, 7), (7, 5), (6, 6), (1, 4), (4, 1)])
def test_causal_is_causal_lower_right(n_queries, n_keys, generator):
    """Causal is torch's causal_lower_right, also for more keys than queries and the other way round."""
    query, key, value = random_inputs(generator, 2, 3, n_queries=n_queries, n_keys=n_keys)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that rows without a key may come out as NaN
        bias = causal_lower_right(n_queries, n_keys)
        expected = scaled_dot_product_attention(*(x.detach() for x in (query, key, value)), attn_mask=bias)
    if n_queries > n_keys:
        expected[..., : n_queries - n_keys, :] = 0.0
    mistakes = output_mistakes(query, key, value, causal=True)
    got = attention.attention(query, key, value, causal=True)
    assert_close(got, expected, n=11, what="output", mistakes=mistakes)


@pytest.mark.grades("attention_weights")
def test_causal_remembers_nothing(generator):
    """The same number of queries over more keys, then fewer: no mask of an earlier call is used again."""
    for n_keys in (7, 5, 9, 3):
        query, key, _ = random_inputs(generator, n_queries=5, n_keys=n_keys)
        expected = sdpa_weights(query, key, causal=True)
        hint = f"5 queries and {n_keys} keys, after another number of keys: is the mask of an earlier call used again?"
        got = attention.attention_weights(query, key, causal=True)
        assert_close(got, expected, n=11, mistakes=weight_mistakes(query, key, causal=True), hint=hint)


@pytest.mark.grades("attention_weights")
@pytest.mark.parametrize("kind", ["boolean", "causal"])
def test_only_minus_infinity_forbids(kind):
    """Scores of -1e12, but a forbidden key with a larger one: a number like -1e9 in its place would win."""
    query = torch.tensor([[1e6], [1e6]], dtype=torch.float64)
    key = torch.tensor([[-1e6], [-1e6], [3]], dtype=torch.float64)
    mask = torch.tensor([[True, True, False], [True] * 3]) if kind == "boolean" else None
    got = attention.attention_weights(query, key, mask=mask, causal=kind == "causal")
    expected = torch.tensor([[0.5, 0.5, 0], [0, 0, 1]], dtype=torch.float64)
    hint = "a forbidden key gets a weight: fill its score with -inf, a large negative number is not enough"
    assert_close(got, expected, what="weights", hint=hint)


@pytest.mark.grades("attention")
def test_causal_does_not_see_the_future(generator):
    """Whatever stands at later positions, even NaN-free nonsense of 1e6, does not change earlier outputs."""
    query, key, value = (x.detach() for x in random_inputs(generator, 2, n_queries=6, n_keys=6))
    before = attention.attention(query, key, value, causal=True)
    key, value = key.clone(), value.clone()
    key[:, 4:], value[:, 4:] = 1e6, -1e6
    after = attention.attention(query, key, value, causal=True)
    hint = "earlier positions see later ones: causal leaks"
    assert_close(after[:, :4], before[:, :4], what="output before the change", hint=hint)


def masks_with_empty_rows():
    """Return masks for (2, 5, 7) in which some rows allow nothing."""
    allowed = torch.ones(2, 5, 7, dtype=torch.bool)
    allowed[0, 1] = allowed[1, 4] = False
    allowed[:, 2, 3:] = False
    added = torch.linspace(-1, 1, 70, dtype=torch.float64).reshape(2, 5, 7).masked_fill(~allowed, -INF)
    padding = torch.tensor([[[True] * 7], [[False] * 7]])
    return {"boolean": allowed, "float": added, "a batch element that is all padding": padding}


@pytest.mark.grades("attention_weights", "attention")
@pytest.mark.parametrize("kind", masks_with_empty_rows())
@pytest.mark.parametrize("causal", [False, True], ids=["", "causal"])
def test_rows_with_nothing_to_attend_to(kind, causal, generator):
    """They give exact zeros; the other rows are not touched."""
    query, key, value = random_inputs(generator, 2)
    options = {"mask": masks_with_empty_rows()[kind], "causal": causal}
    weights = attention.attention_weights(query, key, **options)
    hint = "a row with nothing to attend to must give zeros"
    assert_close(weights, sdpa_weights(query, key, **options), n=11, what="weights", hint=hint)
    output = attention.attention(query, key, value, **options)
    assert_close(output, sdpa(query, key, value, **options), n=11, what="output", hint=hint)


@pytest.mark.grades("attention")
def test_mask_of_the_smallest_number(generator):
    """finfo.min instead of -inf forbids as well, but a row full of it is a plain mean, as in torch."""
    query, key, value = random_inputs(generator, 2, dtype=torch.float32)
    mask = torch.zeros(5, 7).masked_fill(~causal_mask(5, 7), torch.finfo(torch.float32).min)
    mask[1] = torch.finfo(torch.float32).min
    expected = scaled_dot_product_attention(query, key, value, attn_mask=mask)
    got = attention.attention(query, key, value, mask=mask)
    assert_close(got, expected.detach(), rtol=1e-5, what="output")


@pytest.mark.grades("attention_weights", "attention")
@pytest.mark.parametrize("sizes", [(0, 3, 5), (3, 0, 5), (3, 4, 0)], ids=str)
def test_empty(sizes):
    """No queries, no keys (zeros come out: there is nothing to attend to) or no batch element: no error."""
    n_queries, n_keys, n_batch = sizes
    query, key = torch.ones(n_batch, n_queries, 4), torch.ones(n_batch, n_keys, 4)
    assert attention.attention_weights(query, key).shape == (n_batch, n_queries, n_keys)
    for causal in (False, True):
        output = attention.attention(query, key, key[..., :2], causal=causal)
        assert output.shape == (n_batch, n_queries, 2), f"got shape {tuple(output.shape)}"
        assert n_keys or not output.any(), "without keys the output must be 0"


@pytest.mark.grades("attention_weights")
@pytest.mark.parametrize("size", [1e2, 1e4])
def test_large_scores(size, generator):
    """Scores of ±1e4 neither overflow nor lose the differences between them."""
    query = torch.full((1, 4), 1.0, dtype=torch.float32)
    key = (torch.randn(2, 7, 4, generator=generator) + size) * torch.tensor([[[1.0]], [[-1.0]]])
    hint = "exp overflows: subtract the largest score of each row first (torch.softmax does)"
    got = attention.attention_weights(query, key)
    assert_close(got, sdpa_weights(query, key), dtype=torch.float32, rtol=size * 1e-6, atol=1e-9, hint=hint)


@pytest.mark.grades("attention_weights", "attention")
def test_nan_stays_in_its_row(generator):
    """A NaN in one query spoils its own row and no other."""
    query, key, value = (x.detach() for x in random_inputs(generator, 2))
    expected = [sdpa_weights(query, key), sdpa(query, key, value)]
    query[1, 2, 0] = math.nan
    for name, got, right in zip(
        ("weights", "output"),
        (attention.attention_weights(query, key), attention.attention(query, key, value)),
        expected,
        strict=True,
    ):
        right[1, 2] = math.nan
        assert_close(got, right, n=11, what=name, hint="a NaN must show in its own row, and only there")


@pytest.mark.grades("attention")
@pytest.mark.parametrize("bad", [math.nan, INF])
def test_values_that_are_no_numbers(bad, generator):
    """NaN and inf in one value show in its column for every query, also where its weight is 0: they are not hidden."""
    query, key, value = (x.detach() for x in random_inputs(generator, 2))
    mask = torch.ones(5, 7, dtype=torch.bool)
    mask[1:3, 4] = False
    expected = sdpa(query, key, value, mask=mask)
    value[1, 4, 2] = bad
    got = attention.attention(query, key, value, mask=mask)
    spoilt = torch.zeros_like(expected, dtype=torch.bool)
    spoilt[1, :, 2] = True
    assert not got[spoilt].isfinite().any(), f"{bad} in a value is hidden from some queries: {got[1, :, 2]}"
    assert_close(got[~spoilt], expected[~spoilt], n=11, hint=f"{bad} in a value shows in other columns")


# --- dropout ----------------------------------------------------------------------------------------------------------


def dropped_weights(p, generator, shape=(8, 3, 20, 30), dtype=torch.float64, **options):
    """Return the weights before and after dropout: the identity as values gives them away."""
    query = torch.randn(*shape[:-1], 4, generator=generator, dtype=torch.float64).to(dtype)
    key = torch.randn(*shape[:-2], shape[-1], 4, generator=generator, dtype=torch.float64).to(dtype)
    value = torch.eye(shape[-1], dtype=dtype).expand(*shape[:-2], -1, -1)
    got = attention.attention(query, key, value, dropout_p=p, generator=generator, **options)
    return sdpa_weights(query, key, **options), got


@pytest.mark.grades("attention")
@pytest.mark.parametrize("p", [0.1, 0.4, 0.75])
def test_dropout_zeroes_and_rescales(p, generator):
    """A share p of the weights is 0, the others are divided by 1 - p, so that the mean stays."""
    before, after = dropped_weights(p, generator)
    kept = after != 0
    spread = 5 * math.sqrt(p * (1 - p) / kept.numel())  # five standard deviations
    share = 1 - kept.double().mean().item()
    assert share > 0, "dropout_p is ignored: no weight is dropped"
    assert abs(share - (1 - p)) > spread or abs(p - 0.5) < spread, (
        f"a share {share:.3f} is dropped with dropout_p={p}: this is the probability to keep"
    )
    assert abs(share - p) < spread, f"a share {share:.3f} of the weights is dropped, expected {p}"
    expected = torch.where(kept, before / (1 - p), 0.0)
    mistakes = {
        "dropout without rescaling: divide what is kept by 1 - dropout_p": torch.where(kept, before, 0.0),
        "what dropout keeps is normalised again: only divide by 1 - dropout_p": torch.where(kept, before, 0.0)
        / torch.where(kept, before, 0.0).sum(dim=-1, keepdim=True),
        "dropout multiplies by 1 - dropout_p instead of dividing": torch.where(kept, before * (1 - p), 0.0),
    }
    assert_close(after, expected, n=34, what="weights after dropout", mistakes=mistakes)


@pytest.mark.grades("attention")
def test_dropout_is_independent(generator):
    """Each weight of each batch element, head, query and key is dropped on its own."""
    _, after = dropped_weights(0.5, generator)
    kept = (after != 0).double()
    for axis, name in enumerate(("batch elements", "heads", "queries", "keys")):
        neighbours = (kept.narrow(axis, 0, 1) == kept.narrow(axis, 1, 1)).double()
        spread = 5 * 0.5 / math.sqrt(neighbours.numel())
        assert abs(neighbours.mean().item() - 0.5) < spread, (
            f"dropout is not independent across {name}: draw one number for each weight"
        )


@pytest.mark.grades("attention")
def test_dropout_draws_from_the_generator(generator):
    """One seed, one result; the generator moves on; torch's global generator is left alone."""
    query, key, value = random_inputs(generator, 2, n_queries=20, n_keys=30)

    def run(seed):
        own = torch.Generator().manual_seed(seed)
        first = attention.attention(query, key, value, dropout_p=0.5, generator=own)
        return first, attention.attention(query, key, value, dropout_p=0.5, generator=own)

    state = torch.get_rng_state()
    first, second = run(1)
    again, _ = run(1)
    other, _ = run(2)
    assert torch.equal(first, again), "the generator is ignored: the same seed gives another result"
    assert not torch.equal(first, other), "the generator is ignored: another seed gives the same result"
    assert not torch.equal(first, second), "the generator does not move on: two calls drop the same weights"
    assert torch.equal(torch.get_rng_state(), state), (
        "torch's global generator was used although one is given"
    )


@pytest.mark.grades("attention")
def test_dropout_without_a_generator(generator):
    """Without a generator torch's global one is used, so that torch.manual_seed repeats a run."""
    query, key, value = random_inputs(generator, 2, n_queries=20, n_keys=30)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        first = attention.attention(query, key, value, dropout_p=0.5)
        second = attention.attention(query, key, value, dropout_p=0.5)
        torch.manual_seed(3)
        again = attention.attention(query, key, value, dropout_p=0.5)
    assert torch.equal(first, again), (
        "torch.manual_seed does not repeat the dropout: use the global generator"
    )
    assert not torch.equal(first, second), "two calls drop the same weights"


@pytest.mark.grades("attention")
@pytest.mark.parametrize("kind", ["causal", "boolean", "float", "float16"])
def test_dropout_beside_other_options(kind, generator):
    """Masks and the half types do not switch it off, and round nothing on the way."""
    dtype = torch.float16 if kind == "float16" else torch.float64
    mask = {"boolean": torch.ones(20, 30, dtype=torch.bool).triu(-9), "float": torch.linspace(-2, 2, 30)}.get(
        kind
    )
    before, after = dropped_weights(0.4, generator, dtype=dtype, mask=mask, causal=kind == "causal")
    seen = before > 0
    kept = (after != 0) & seen
    share, spread = 1 - kept.sum().item() / seen.sum().item(), 5 * math.sqrt(0.24 / seen.sum().item())
    problem = f"a share {share:.3f} of the weights is dropped with dropout_p=0.4 and {kind}"
    assert abs(share - 0.4) < spread, f"{problem}: the option {kind} changes the dropout"
    expected = torch.where(kept, before / 0.6, 0.0)
    rtol = 0.52 * torch.finfo(dtype).eps if kind == "float16" else 1e-12
    hint = "the weights are rounded before the dropout: round once, at the end" if kind == "float16" else None
    assert_close(after, expected, dtype=dtype, rtol=rtol, atol=6e-8 if hint else None, what=kind, hint=hint)


@pytest.mark.grades("attention")
def test_no_dropout_draws_nothing(generator):
    """dropout_p=0 is plain attention, and takes no random numbers."""
    query, key, value = random_inputs(generator, 2)
    state = generator.get_state()
    got = attention.attention(query, key, value, dropout_p=0.0, generator=generator)
    assert_close(got, sdpa(query, key, value), n=11, what="output")
    assert torch.equal(generator.get_state(), state), "dropout_p=0 draws random numbers"


# --- gradients --------------------------------------------------------------------------------------------------------


@pytest.mark.grades("attention")
@pytest.mark.parametrize("causal", [False, True], ids=["", "causal"])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients(kind, causal, generator):
    """Gradients of query, key, value and a float mask, for a random cotangent, as torch's to 1e-12."""
    inputs = random_inputs(generator, 2, 3)
    mask = None if kind == "none" else random_mask(kind, (2, 3), generator)
    leaves = inputs if mask is None or mask.dtype == torch.bool else [*inputs, mask]
    expected = sdpa(*inputs, mask=mask, causal=causal, scale=0.4)
    cotangent = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    right = torch.autograd.grad(expected, leaves, cotangent)
    got = gradients(attention.attention(*inputs, mask=mask, causal=causal, scale=0.4), leaves, cotangent)
    for name, mine, oracle in zip(("query", "key", "value", "mask"), got, right, strict=False):
        # One number added to a whole row changes nothing: its gradient is 0, known to rounding only.
        ok = "a mask per query has no effect" if (name, kind) == ("mask", "per query") else None
        assert_close(mine, oracle, rtol=1e-12, atol=1e-13, what=f"gradient of {name}", vacuous_ok=ok)


@pytest.mark.grades("attention_weights")
def test_gradients_of_weights(generator):
    """The weights are differentiable too."""
    query, key, _ = random_inputs(generator, 2, 3)
    expected = sdpa_weights(query, key, causal=True)
    cotangent = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    right = torch.autograd.grad(expected, [query, key], cotangent)
    got = gradients(attention.attention_weights(query, key, causal=True), [query, key], cotangent)
    for name, mine, oracle in zip(("query", "key"), got, right, strict=True):
        assert_close(mine, oracle, rtol=1e-12, what=f"gradient of {name}")


@pytest.mark.grades("attention")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_gradients_of_other_dtypes(dtype, generator):
    """In float32 to 1e-5; of the half types rounded once, as the output."""
    inputs = random_inputs(generator, 2, n_queries=33, n_keys=65, d=16, dv=8, dtype=dtype)
    exact = [double(x).requires_grad_() for x in inputs]  # their gradients are not rounded at all
    expected = sdpa(*exact)
    cotangent = torch.randn(expected.shape, generator=generator, dtype=torch.float64).to(dtype)
    right = torch.autograd.grad(expected, exact, cotangent.double())
    got = gradients(attention.attention(*inputs), inputs, cotangent)
    rtol = 1e-5 if dtype == torch.float32 else 0.52 * torch.finfo(dtype).eps
    hint = None if dtype == torch.float32 else "the weights are rounded on the way: keep them in float32"
    for name, mine, oracle in zip(("query", "key", "value"), got, right, strict=True):
        assert_close(mine, oracle, dtype=dtype, rtol=rtol, atol=1e-5, what=f"gradient of {name}", hint=hint)


@pytest.mark.grades("attention_weights", "attention")
@pytest.mark.parametrize("kind", masks_with_empty_rows())
def test_gradients_where_there_is_nothing_to_attend_to(kind, generator):
    """Zeros come out there and zeros go back in: no NaN, although 0/0 lies on the way."""
    inputs = random_inputs(generator, 2)
    mask = masks_with_empty_rows()[kind]
    expected = sdpa(*inputs, mask=mask)
    cotangent = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    right = torch.autograd.grad(expected, inputs, cotangent)
    got = gradients(attention.attention(*inputs, mask=mask), inputs, cotangent)
    hint = "NaN in the backward pass of a row with nothing to attend to: keep the 0/0 out of the forward pass"
    for name, mine, oracle in zip(("query", "key", "value"), got, right, strict=True):
        assert_close(mine, oracle, rtol=1e-12, what=f"gradient of {name}", hint=hint)
    weights = attention.attention_weights(*inputs[:2], mask=mask)
    cotangent = torch.randn(weights.shape, generator=generator, dtype=torch.float64)
    right = torch.autograd.grad(sdpa_weights(*inputs[:2], mask=mask), inputs[:2], cotangent)
    for name, mine, oracle in zip(
        ("query", "key"), gradients(weights, inputs[:2], cotangent), right, strict=True
    ):
        assert_close(mine, oracle, rtol=1e-12, what=f"gradient of {name} through the weights", hint=hint)


@pytest.mark.grades("attention")
@pytest.mark.parametrize(("causal", "dropout_p"), [(False, 0.0), (True, 0.0), (True, 0.3)])
def test_gradcheck(causal, dropout_p, generator):
    """Finite differences agree, with rows that see nothing (4 queries, 3 keys), a float mask, and dropout."""
    inputs = random_inputs(generator, 2, n_queries=4, n_keys=3, d=2, dv=2)
    mask = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    mask[2] = -INF

    def run(*tensors):
        own = torch.Generator().manual_seed(5)
        return attention.attention(
            *tensors, mask=mask, causal=causal, dropout_p=dropout_p, generator=own if dropout_p else None
        )

    check_finite_differences(run, inputs)


# --- is it written out? -----------------------------------------------------------------------------------------------


@pytest.mark.grades("attention_weights", "attention")
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_does_not_call_the_library(dtype, generator):
    """The work is done by matrix products and a softmax, not by torch's own attention."""
    inputs = random_inputs(generator, 2, dtype=dtype)
    with refuse_calls(*LIBRARY):
        attention.attention_weights(*inputs[:2], causal=True)
        for options in ({}, {"causal": True}, {"mask": torch.ones(5, 7, dtype=torch.bool)}):
            attention.attention(*inputs, **options).sum().backward()
        attention.attention(*inputs, dropout_p=0.5, generator=generator)
