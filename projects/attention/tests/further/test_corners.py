"""What goes beyond the plain contract of the core: nothing to attend to, half types, NaN, empty axes, errors that say what came.

Oracles as in the core.
"""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from oracles import (
    BAD_SHAPES,
    FUNCTIONS,
    LIBRARY,
    causal_mask,
    check,
    check_finite_differences,
    double,
    gradients,
    oracle,
    random_inputs,
    random_mask,
    run,
    sdpa,
    sdpa_weights,
    weight_mistakes,
)
from torch.nn.functional import scaled_dot_product_attention

import attention
from shared.testing.checks import assert_close, expect_error, refuse_calls

INF = math.inf
HALVES = (torch.float16, torch.bfloat16)
both = pytest.mark.parametrize("function", FUNCTIONS)


def inputs_of(function, inputs):
    """Return what a function takes of query, key and value."""
    return inputs[:2] if function == "attention_weights" else inputs


# --- nothing to attend to ---------------------------------------------------------------------------------------------


@pytest.mark.grades("attention_weights")
def test_nothing_to_attend_to_by_hand():
    """Three queries and two keys, causal: the first query sees nothing and gets zeros, not NaN."""
    query = torch.tensor([[0.0, 2], [2, 0], [0, 2]], dtype=torch.float64)
    key = torch.tensor([[1.0, 4], [2, 1]], dtype=torch.float64).log() / math.sqrt(2)
    expected = torch.tensor([[0, 0], [1, 0], [4 / 5, 1 / 5]], dtype=torch.float64)
    sees_something = expected.sum(dim=-1, keepdim=True) > 0
    mistakes = {
        "a row with nothing to attend to is NaN: 0/0 in its softmax": expected.where(
            sees_something, math.nan
        ),
        "a row with nothing to attend to looks at every key alike: its weights must be 0": expected.where(
            sees_something, 0.5
        ),
        **weight_mistakes(query, key, causal=True),
    }
    got = attention.attention_weights(query, key, causal=True)
    assert_close(got, expected, what="weights", mistakes=mistakes)


def masks_with_empty_rows():
    """Return masks for (2, 5, 7) in which some rows allow nothing."""
    allowed = torch.ones(2, 5, 7, dtype=torch.bool)
    allowed[0, 1] = allowed[1, 4] = False
    allowed[:, 2, 3:] = False
    added = torch.linspace(-1, 1, 70, dtype=torch.float64).reshape(2, 5, 7).masked_fill(~allowed, -INF)
    padding = torch.tensor([[[True] * 7], [[False] * 7]])
    return {"boolean": allowed, "float": added, "a batch element that is all padding": padding}


@both
@pytest.mark.parametrize("kind", masks_with_empty_rows())
@pytest.mark.parametrize("causal", [False, True], ids=["", "causal"])
def test_rows_with_nothing_to_attend_to(kind, causal, function, generator):
    """They give exact zeros; the other rows are not touched."""
    inputs = random_inputs(generator, 2)
    hint = "a row with nothing to attend to must give zeros"
    check(function, *inputs, mask=masks_with_empty_rows()[kind], causal=causal, hint=hint)


@both
@pytest.mark.parametrize("kind", masks_with_empty_rows())
def test_gradients_where_there_is_nothing_to_attend_to(kind, function, generator):
    """Zeros come out there and zeros go back in: no NaN, although 0/0 lies on the way."""
    inputs = inputs_of(function, random_inputs(generator, 2))
    mask = masks_with_empty_rows()[kind]
    expected = oracle(function, *inputs, mask=mask)
    cotangent = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    right = gradients(expected, inputs, cotangent)
    got = gradients(run(function, *inputs, mask=mask), inputs, cotangent)
    hint = "NaN in the backward pass of a row with nothing to attend to: keep the 0/0 out of the forward pass"
    for name, mine, theirs in zip(("query", "key", "value"), got, right, strict=False):
        assert_close(mine, theirs, rtol=1e-12, what=f"gradient of {name}", hint=hint)


@pytest.mark.grades("attention")
@pytest.mark.parametrize(("causal", "dropout_p"), [(False, 0.0), (True, 0.0), (True, 0.3)])
def test_finite_differences_with_empty_rows(causal, dropout_p, generator):
    """Finite differences agree, with rows that see nothing (4 queries, 3 keys), a float mask, and dropout."""
    inputs = random_inputs(generator, 2, n_queries=4, n_keys=3, d=2, dv=2)
    mask = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    mask[2] = -INF

    def attend(*tensors):
        own = torch.Generator().manual_seed(5)
        return attention.attention(*tensors, mask=mask, causal=causal, dropout_p=dropout_p, generator=own)

    check_finite_differences(attend, inputs, generator=generator)


@pytest.mark.grades("attention")
def test_mask_of_the_smallest_number(generator):
    """finfo.min instead of -inf forbids as well, but a row full of it is a plain mean, as in torch."""
    query, key, value = random_inputs(generator, 2, dtype=torch.float32)
    mask = torch.zeros(5, 7).masked_fill(~causal_mask(5, 7), torch.finfo(torch.float32).min)
    mask[1] = torch.finfo(torch.float32).min
    expected = scaled_dot_product_attention(query, key, value, attn_mask=mask)
    got = attention.attention(query, key, value, mask=mask)
    assert_close(got, expected.detach(), rtol=1e-5, what="output")


@both
@pytest.mark.parametrize("sizes", [(0, 3, 5), (3, 0, 5), (3, 4, 0)], ids=str)
def test_empty(sizes, function):
    """No queries, no keys (zeros come out: there is nothing to attend to) or no batch element: no error."""
    n_queries, n_keys, n_batch = sizes
    query, key = torch.ones(n_batch, n_queries, 4), torch.ones(n_batch, n_keys, 4)
    for causal in (False, True):
        got = run(function, query, key, key[..., :2], causal=causal)
        expected = (n_batch, n_queries, n_keys if function == "attention_weights" else 2)
        assert got.shape == expected, f"got shape {tuple(got.shape)}, expected {expected}"
        assert n_keys or not got.any(), "without keys the output must be 0"


@both
@pytest.mark.parametrize("causal", [False, True], ids=["", "causal"])
@pytest.mark.parametrize("kind", ["boolean", "float"])
@pytest.mark.parametrize(
    "shape", [(), (1,), (7,), (1, 1), (5, 1), (1, 7), (2, 1, 1), (2, 1, 7), (2, 5, 1), (1, 5, 7)], ids=str
)
def test_every_shape_of_mask(shape, kind, causal, function, generator):
    """Whatever broadcasts to (..., Tq, Tk) is a mask, from a single number on."""
    inputs = random_inputs(generator, 2)
    mask = torch.randn(1, *shape, generator=generator, dtype=torch.float64)[0]
    if kind == "boolean":
        mask = mask < (0.5 if mask.numel() > 1 else INF)  # one False would be all there is
    check(function, *inputs, mask=mask, causal=causal)


@both
def test_width_of_zero(function):
    """Queries and keys of no numbers have scores of 0: every key counts alike."""
    query, key = torch.ones(2, 3, 0), torch.ones(2, 5, 0)
    value = torch.arange(10.0).view(5, 2)
    try:
        got = run(function, query, key, value)
    except ZeroDivisionError as error:
        raise AssertionError(f"the default scale of a width of 0 fails: {error}") from error
    expected = (
        torch.full((2, 3, 5), 0.2) if function == "attention_weights" else value.mean(0).expand(2, 3, 2)
    )
    assert_close(got, expected, what=function, vacuous_ok="every key counts alike")


# --- half types -------------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_half_types_are_rounded_once(dtype, masked, function, generator):
    """float16 and bfloat16 are computed in float32: the result is the exact one, rounded once; the mask is not rounded."""
    inputs = random_inputs(generator, 2, 3, n_queries=33, n_keys=300, d=16, dv=8, dtype=dtype)
    options = {"mask": torch.randn(33, 300, generator=generator), "causal": True} if masked else {}
    hint = f"more than one rounding to {dtype}: multiply and take the softmax in float32, round at the end"
    if masked:
        hint += f"; a float32 mask is added to float32 scores, not rounded to {dtype}"
    atol = 6e-8 if function == "attention_weights" else 1e-6  # float16's smallest numbers; sums that cancel
    check(function, *inputs, rtol=0.52 * torch.finfo(dtype).eps, atol=atol, hint=hint, **options)


@both
def test_half_scores_do_not_overflow(function):
    """A score of 80000 does not fit in float16; its softmax is 0 or 1."""
    query = torch.tensor([[200.0] * 4], dtype=torch.float16)
    key = torch.tensor([[200.0] * 4, [100] * 4], dtype=torch.float16)
    value = torch.tensor([[3.0, 5], [7, 11]], dtype=torch.float16)
    weights = torch.tensor([[1.0, 0]], dtype=torch.float16)
    expected = weights if function == "attention_weights" else value[:1]
    hint = "overflow: multiply query and key in float32, and subtract each row's largest score before exp"
    assert_close(run(function, query, key, value), expected, what=function, hint=hint)


@pytest.mark.grades("attention")
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_gradients_of_half_types(dtype, generator):
    """Rounded once, as the output."""
    inputs = random_inputs(generator, 2, n_queries=33, n_keys=65, d=16, dv=8, dtype=dtype)
    exact = [double(x).requires_grad_() for x in inputs]  # their gradients are not rounded at all
    expected = sdpa(*exact)
    cotangent = torch.randn(expected.shape, generator=generator, dtype=torch.float64).to(dtype)
    right = gradients(expected, exact, cotangent)
    got = gradients(attention.attention(*inputs), inputs, cotangent)
    rtol = 0.52 * torch.finfo(dtype).eps
    hint = "the weights are rounded on the way: keep them in float32"
    for name, mine, theirs in zip(("query", "key", "value"), got, right, strict=True):
        assert_close(mine, theirs, dtype=dtype, rtol=rtol, atol=1e-5, what=f"gradient of {name}", hint=hint)


@pytest.mark.grades("attention")
def test_dropout_of_half_types(generator):
    """The weights are dropped before they are rounded."""
    query, key = random_inputs(generator, 8, 3, n_queries=20, n_keys=30, dtype=torch.float16)[:2]
    value = torch.eye(30, dtype=torch.float16).expand(8, 3, -1, -1)
    before = sdpa_weights(query, key)
    after = attention.attention(query, key, value, dropout_p=0.4, generator=generator)
    kept = after != 0
    share, spread = 1 - kept.double().mean().item(), 5 * math.sqrt(0.24 / kept.numel())
    assert abs(share - 0.4) < spread, (
        f"a share {share:.3f} of the weights is dropped with dropout_p=0.4 in float16"
    )
    hint = "the weights are rounded before the dropout: round once, at the end"
    expected = torch.where(kept, before / 0.6, 0.0).detach()
    rtol = 0.52 * torch.finfo(torch.float16).eps
    assert_close(after, expected, dtype=torch.float16, rtol=rtol, atol=6e-8, what="weights", hint=hint)


@both
@pytest.mark.parametrize(
    ("dtype", "of_the_mask"), [(torch.float32, torch.float64), (torch.float64, torch.float16)]
)
def test_mask_of_another_float_dtype(dtype, of_the_mask, function, generator):
    """The mask is added, whatever float dtype it has; the result has that of the inputs."""
    inputs = random_inputs(generator, 2, dtype=dtype)
    mask = torch.randn(5, 7, generator=generator, dtype=torch.float64).to(of_the_mask)
    check(function, *inputs, mask=mask, rtol=1e-5 if dtype == torch.float32 else None)


@both
def test_half_types_do_not_call_the_library(function, generator):
    """The work is done by matrix products and a softmax, in these dtypes too."""
    with refuse_calls(*LIBRARY):
        run(function, *random_inputs(generator, 2, dtype=torch.float16)).sum().backward()


@pytest.mark.grades("attention")
def test_mask_with_the_axes_of_the_values(generator):
    """Where only the values have leading axes, a mask may have them too."""
    query, key, _ = random_inputs(generator)
    value = random_inputs(generator, 2, 3)[2]
    mask = random_mask("boolean", (2, 3), generator)
    check("attention", query, key, value, mask=mask)


# --- NaN and inf ------------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])
def test_nan_stays_in_its_row(masked, function, generator):
    """A NaN in one query spoils its own row and no other."""
    query, key, value = (x.detach() for x in random_inputs(generator, 2))
    options = {"mask": torch.ones(5, 7, dtype=torch.bool).tril(2)} if masked else {}
    expected = oracle(function, query, key, value, **options)
    query[1, 2, 0] = expected[1, 2] = math.nan
    if masked and function == "attention_weights":
        expected[1, 2, 5:] = 0.0  # forbidden keys
    got = run(function, query, key, value, **options)
    if masked and function == "attention_weights":
        got[1, 2, 5:] = 0.0  # 0 or NaN, as the softmax has it
    hint = "a NaN must show in its own row, and only there"
    assert_close(got, expected, n=11, what=function, hint=hint)


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


# --- errors that say what came ----------------------------------------------------------------------------------------


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


@both
@pytest.mark.parametrize("shape", [(7, 5), (5, 1, 7), (2, 2, 5, 7), (6,), (3, 5, 7)], ids=str)
def test_wrong_mask_shape(shape, function):
    """A mask that does not broadcast to (2, 5, 7) is refused, also one that would make the result larger."""
    query, key, value = torch.ones(2, 5, 4), torch.ones(2, 7, 4), torch.ones(2, 7, 3)
    mask = torch.ones(shape, dtype=torch.bool)
    problem = "a mask of a wrong shape is accepted: it must broadcast to (..., Tq, Tk)"
    with expect_error(ValueError, str(shape), otherwise=problem):
        run(function, query, key, value, mask=mask)


@both
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.complex64], ids=str)
def test_wrong_mask_dtype(dtype, function):
    """The message says which dtype the mask has."""
    query, key, mask = torch.ones(5, 4), torch.ones(7, 4), torch.ones(5, 7, dtype=dtype)
    problem = f"a {dtype} mask is accepted: only boolean and float masks have a meaning"
    with expect_error(TypeError, str(dtype), otherwise=problem):
        run(function, query, key, key, mask=mask)


@both
def test_wrong_dtypes(function):
    """Query, key and value are of one floating dtype."""
    x = torch.ones(5, 4)
    problem = "different dtypes are accepted: query, key and value must agree"
    with expect_error(TypeError, "float32", "float64", otherwise=problem):
        run(function, x, x.double(), x)
    if function == "attention":
        with expect_error(TypeError, "float32", "float16", otherwise=problem):
            attention.attention(x, x, x.half())
    for dtype in (torch.int64, torch.complex64):
        wrong = x.to(dtype)
        with expect_error(TypeError, str(dtype), otherwise=f"{dtype} is accepted"):
            run(function, wrong, wrong, wrong)


@pytest.mark.grades("attention")
@pytest.mark.parametrize("dropout_p", [-0.1, 1.0, math.nan, "0.1", None])
def test_wrong_dropout_is_named(dropout_p):
    """The message says which probability came."""
    x = torch.ones(5, 4)
    with expect_error(ValueError, str(dropout_p), otherwise=f"dropout_p={dropout_p} is accepted"):
        attention.attention(x, x, x, dropout_p=dropout_p)


@pytest.mark.grades("SingleHeadAttention")
@pytest.mark.parametrize(
    ("arguments", "options", "mentions"),
    [
        ((0,), {}, "0"),
        ((5, 0), {}, "0"),
        ((5, -3), {}, "-3"),
        ((5.0,), {}, "5.0"),
        (("5",), {}, "'5'"),
        ((5, 3.0), {}, "3.0"),
        ((5, True), {}, "True"),
        ((5,), {"dropout": "0.1"}, "'0.1'"),
        ((5,), {"dropout": 1.0}, "1.0"),
        ((5,), {"dropout": -0.5}, "-0.5"),
    ],
)
def test_wrong_arguments(arguments, options, mentions):
    """Widths are positive, dropout is in [0, 1): refused when the module is made."""
    with expect_error(ValueError, mentions, otherwise=f"{arguments} {options} are accepted"):
        attention.SingleHeadAttention(*arguments, **options)


@pytest.mark.grades("SingleHeadAttention")
def test_a_width_of_one():
    """The smallest width is 1."""
    head = attention.SingleHeadAttention(1, 1)
    assert head.query.weight.shape == (1, 1), "d_model = d_head = 1 gives projections of one number"


@pytest.mark.grades("SingleHeadAttention", "SingleHeadAttention.forward")
def test_wrong_width():
    """An input that is not d_model wide is a ValueError with the shape, not an error from inside torch."""
    head = attention.SingleHeadAttention(5, 3)
    for arguments in ((torch.ones(2, 4, 6),), (torch.ones(2, 4, 5), torch.ones(2, 4, 6))):
        with expect_error(ValueError, "(2, 4, 6)", "5", otherwise="a wrong width is not refused"):
            head(*arguments)


# --- last, since it imports torch's compiler --------------------------------------------------------------------------


@pytest.mark.timeout(60)  # the import alone takes five seconds, more on a busy machine
@pytest.mark.grades("attention")
@pytest.mark.parametrize(("n_queries", "n_keys"), [(5, 7), (7, 5), (6, 6)])
def test_causal_is_causal_lower_right(n_queries, n_keys, generator):
    """Causal is torch's causal_lower_right, also for more queries than keys."""
    from torch.nn.attention.bias import causal_lower_right

    query, key, value = random_inputs(generator, 2, 3, n_queries=n_queries, n_keys=n_keys)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that rows without a key may come out as NaN
        bias = causal_lower_right(n_queries, n_keys)
        expected = scaled_dot_product_attention(*(x.detach() for x in (query, key, value)), attn_mask=bias)
    if n_queries > n_keys:
        expected[..., : n_queries - n_keys, :] = 0.0
    got = attention.attention(query, key, value, causal=True)
    assert_close(got, expected, n=11, what="output", hint="the first Tq - Tk queries see nothing, and get 0")
