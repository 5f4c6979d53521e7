"""Extreme numbers: infinities, NaN, overflow, lost digits; and the gradients against two independent methods."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import scipy.special
from fast_oracles import ALONG_AXIS, ELEMENTWISE, GRADIENTS, ORACLES, SLOPE, UNARY, check
from oracles import no_warning

import fast
from shared.testing.checks import assert_close
from shared.testing.gradients import assert_gradient, random_cotangent

pytestmark = pytest.mark.module("fast")

# --- 1. extreme numbers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", UNARY)
def test_large_inputs(function):
    """±1e4 and ±3e38: no overflow, no NaN, no warning. exp overflows from 89 on in float32, from 710 on in float64."""
    overflow = "overflows for large inputs: shift or rearrange, so that exp only sees what it can represent"
    clipped = "cut off for large inputs: is x clipped, or a bound added?"
    for dtype, large in ((np.float32, 3e38), (np.float64, 1e300)):
        for m in (120.0, 1e4, large):
            for x in np.array([[-m, 0, 1], [m, 0, 1], [m, m, 0]], dtype):
                with no_warning(overflow):
                    result = getattr(fast, function)(x)
                with np.errstate(all="ignore"):
                    expected = ORACLES[function](x.astype(np.float64))
                assert_close(
                    result,
                    expected,
                    dtype=dtype,
                    n=3,
                    what=f"{function}({x})",
                    hint=overflow if np.isnan(result).any() else clipped,
                )


@pytest.mark.grades("logsumexp")
def test_rows_of_different_levels():
    """One row near -1e4, one near 0, one near 1e4: each needs its own shift."""
    x = np.array([[-1e4, -1e4 + 1], [0, 2], [1e4, 1e4 + 3]])
    hint = "shift each row by its own maximum"
    with no_warning(hint):
        result = fast.logsumexp(x)
    assert_close(result, ORACLES["logsumexp"](x), what="logsumexp of rows at -1e4, 0, 1e4", hint=hint)


@pytest.mark.parametrize("function", [*ELEMENTWISE, *GRADIENTS])
def test_infinities(function):
    """±inf gives the limit, element by element."""
    x = np.array([-np.inf, np.inf])
    limits = {
        **{"sigmoid": (0, 1), "tanh": (-1, 1), "relu": (0, np.inf), "leaky_relu": (-np.inf, np.inf)},
        **{"gelu": (0, np.inf), "silu": (0, np.inf), "sigmoid_grad": (0, 0), "tanh_grad": (0, 0)},
        **{"relu_grad": (0, 1), "leaky_relu_grad": (0.01, 1), "gelu_grad": (0, 1), "silu_grad": (0, 1)},
    }
    calls = [({}, "", limits[function])]
    if "gelu" in function:
        calls.append(({"approximate": "tanh"}, ", approximate='tanh'", limits[function]))
    if "leaky_relu" in function:
        calls.append(
            ({"negative_slope": 0.0}, ", negative_slope=0.0", limits[function.removeprefix("leaky_")])
        )
    for options, shown, wanted in calls:
        with no_warning("infinities are legal inputs"):
            result = np.asarray(getattr(fast, function)(x, **options))
        message = (
            f"{function}([-inf, inf]{shown}) must be {wanted}, got {result}: inf·0 is NaN, not the limit"
        )
        same = np.array_equal(result, wanted)
        assert same, message


@pytest.mark.parametrize("function", [*ELEMENTWISE, *GRADIENTS])
def test_nan_stays_nan(function):
    """NaN in, NaN out, and the neighbours are not disturbed: hiding a NaN hides the bug that made it."""
    x = np.array([-1.0, np.nan, 2.0])
    with no_warning("NaN is a legal input"):
        result = np.asarray(getattr(fast, function)(x))
    kept = bool(np.isnan(result[1]))
    assert kept, f"{function}(NaN) must be NaN, got {result[1]}: a NaN that vanishes hides the bug behind it"
    assert_close(result[::2], ORACLES[function](x[::2]), what=f"{function} beside a NaN")


@pytest.mark.grades("softmax", "log_softmax", "logsumexp")
def test_rows_with_infinities_or_nan():
    """-inf is a forbidden class; nothing but -inf, a +inf or a NaN spoils its own row and no other."""
    inf, nan = np.inf, np.nan
    x = np.array([[0, 1, 2], [0, -inf, 2], [-inf] * 3, [0, inf, 2], [0, nan, 2], [inf, inf, 0], [1, 2, 4.0]])
    spoiled = {"softmax": [2, 3, 4, 5], "log_softmax": [2, 3, 4, 5], "logsumexp": [4]}
    limits = {2: -inf, 3: inf, 5: inf}  # logsumexp: the logarithm of a sum that is 0 or infinite
    reasons = {
        2: "a row of nothing but -inf has no distribution: NaN, not zeros and not 1/n",
        3: "a row with +inf is inf/inf: NaN",
        4: "a row with NaN is NaN",
        5: "a row with +inf is inf/inf: NaN",
    }
    for axis, data in ((-1, x), (0, x.T.copy())):
        for name in ALONG_AXIS:
            with no_warning(f"{name}: infinities and NaN are legal inputs"):
                result = np.asarray(getattr(fast, name)(data, axis=axis))
            rows = result.T if axis == 0 and result.ndim == 2 else result
            for row in (0, 1, 6):  # the healthy ones
                message = (
                    f"{name} of {x[row]}: a spoiled row beside it, or its own -inf, must not reach the others"
                )
                assert_close(rows[row], ORACLES[name](x[row]), n=3, what=f"{name} of {x[row]}", hint=message)
            for row in spoiled[name]:
                spoilt = bool(np.isnan(rows[row]).all())
                assert spoilt, f"{name} of {x[row]}: {reasons[row]}, got {rows[row]}"
        sums = fast.logsumexp(data, axis=axis)
        for row, limit in limits.items():
            same = bool(sums[row] == limit)
            assert same, f"logsumexp of {x[row]} is {limit}, got {sums[row]}: take care of inf - inf"


@pytest.mark.grades("softmax", "log_softmax", "logsumexp")
def test_spoiled_rows_among_many(rng):
    """A few masked and spoiled rows among thousands, so that every way through the code meets them."""
    x = rng.normal(0, 2, (9001, 10)).astype(np.float32)
    x[rng.random(x.shape) < 0.2] = -np.inf
    x[::17] += 300
    x[5::500] = np.nan
    check("softmax", x)
    check("log_softmax", x)
    check("logsumexp", x)


@pytest.mark.grades("softmax")
def test_where_others_go_wrong():
    """Integers that wrap around, and 70 000 classes in float16, whose sum float16 cannot hold."""
    result = fast.softmax(np.uint8([0, 255]))
    wraps = "uint8 0 - 255 wraps around to 1: convert to float64 before subtracting"
    assert_close(
        result, np.array([1.8e-111, 1.0]), rtol=0.01, atol=0.0, what="softmax(uint8 [0, 255])", hint=wraps
    )
    many = fast.softmax(np.linspace(0, 1, 70_000, dtype=np.float16))
    expected = scipy.special.softmax(np.linspace(0, 1, 70_000, dtype=np.float16).astype(np.float64))
    narrow = "sum float16 in float32: 65504 is the largest float16, and 2048 + 1 is 2048 in it"
    assert_close(
        many, expected, dtype=np.float16, rtol=1e-3, atol=6e-8, what="softmax of 70 000 float16", hint=narrow
    )


TAILS = {  # what mpmath says, and where the digits are in danger
    "sigmoid": (lambda x: 1 / (1 + mpmath.exp(-x)), (-80, 80)),
    "tanh": (mpmath.tanh, (-1e-3, 1e-3)),
    "gelu": (lambda x: x * mpmath.erfc(-x / mpmath.sqrt(2)) / 2, (-12, 6)),
    "silu": (lambda x: x / (1 + mpmath.exp(-x)), (-80, 80)),
    "sigmoid_grad": (lambda x: 1 / (4 * mpmath.cosh(x / 2) ** 2), (-80, 80)),
    "tanh_grad": (lambda x: mpmath.sech(x) ** 2, (-40, 40)),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("function", list(TAILS))
def test_tiny_results_keep_their_digits(function, dtype):
    """Relative accuracy, checked in 30 digits: log(sigmoid(-20)) must not be log(0)."""
    formula, (low, high) = TAILS[function]
    x = np.linspace(low, high, 211).astype(dtype)
    with mpmath.workdps(30):
        expected = np.array([float(formula(mpmath.mpf(float(value)))) for value in x])
    eps = float(np.finfo(dtype).eps)
    # rounding x by eps moves exp(-x²/2) by x²·eps, which no formula in this dtype can avoid by itself
    condition = 1 + x.astype(np.float64) ** 2 if function == "gelu" else 1.0
    scale = np.abs(expected) * condition
    scale[scale == 0] = 1
    cancels = {
        "sigmoid": "0.5 + tanh(x/2)/2 cancels for negative x: its smallest result is eps",
        "tanh": "near 0 tanh(x) is x: 2·sigmoid(2x) - 1 cancels there",
        "gelu": "1 + erf cancels for negative x: use erfc, the complement",
        "sigmoid_grad": "s·(1 - s) cancels for large x: 1 - s is sigmoid(-x)",
        "tanh_grad": "1 - tanh² cancels in both tails: use sigmoid(2x)·sigmoid(-2x)",
    }
    assert_close(
        np.asarray(getattr(fast, function)(x)) / scale,
        expected / scale,
        dtype=np.float64,
        rtol=8 * eps,
        atol=8 * eps,
        what=f"relative error of {function} in its tails",
        hint=f"loses the digits of tiny results. {cancels.get(function, '')}",
        vacuous_ok="ratios to the oracle: 1 or -1 everywhere is the point",
    )


@pytest.mark.grades("softmax", "log_softmax", "logsumexp")
@pytest.mark.parametrize("axis", [-1, 0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_two_logits_far_apart_keep_the_digits_of_the_smaller(dtype, axis):
    """Two logits at distance d: softmax is exp(-d) and log_softmax of the larger -exp(-d), far below eps beside 1."""
    far = 92 if dtype == np.float32 else 720  # from where on exp(-d) is subnormal, d is 87 and 708
    d = np.arange(1, far, 0.25)  # quarters: no subtraction rounds
    larger = np.array([[0.0], [-13.0], [60.0]])
    x = np.stack(np.broadcast_arrays(larger, larger - d), axis=-1).reshape(-1, 2).astype(dtype)
    with mpmath.workdps(40):
        tiny = np.tile([float(mpmath.exp(-value)) for value in d], 3)
        log_of_sum = np.tile([float(mpmath.log1p(mpmath.exp(-value))) for value in d], 3)
    limits = np.finfo(dtype)
    close = {"dtype": dtype, "rtol": 8 * float(limits.eps), "atol": 2 * float(limits.smallest_subnormal)}
    data = x if axis == -1 else x.T.copy()
    smaller = np.moveaxis(fast.softmax(data, axis=axis), axis, -1)[:, 1]
    hint = "softmax loses the digits of a tiny probability: where exp(x) is tiny, take the maximum off before exp"
    assert_close(smaller, tiny / (1 + tiny), **close, what="softmax of the smaller of two logits", hint=hint)
    hint = "log(1 + tiny) is 0: give log1p what is left of the sum without its largest term, which is 1"
    top = np.moveaxis(fast.log_softmax(data, axis=axis), axis, -1)[:, 0]
    assert_close(top, -log_of_sum, **close, what="log_softmax of the larger of two logits", hint=hint)
    at_zero = fast.logsumexp(data, axis=axis)[: len(d)]  # elsewhere the sum with the maximum rounds
    assert_close(at_zero, log_of_sum[: len(d)], **close, what="logsumexp([0, -d])", hint=hint)


# --- 2. gradients -------------------------------------------------------------------------------------------

ANALYTIC = {
    "tanh_grad": (np.tanh, {}),
    "silu_grad": (lambda z: z / (1 + np.exp(-z)), {}),
    "gelu_grad": (lambda z: z / (1 + np.exp(-SLOPE * (z + 0.044715 * z**3))), {"approximate": "tanh"}),
}


@pytest.mark.parametrize("function", list(ANALYTIC))
def test_gradient_by_the_complex_step(function, rng):
    """Each derivative against the imaginary part of its function, exact to rounding."""
    forward, options = ANALYTIC[function]
    x, cotangent = rng.uniform(-4, 4, (5, 7)), random_cotangent((5, 7), rng)
    actual = cotangent * getattr(fast, function)(x, **options)
    assert_gradient(actual, forward, x, cotangent, method="complex", what=function)


@pytest.mark.grades("gelu_grad")
def test_gelu_gradient_by_central_differences(rng):
    """The exact gelu against differences of SciPy's normal distribution function."""
    x, cotangent = rng.uniform(-4, 4, (5, 7)), random_cotangent((5, 7), rng)
    actual = cotangent * fast.gelu_grad(x)
    assert_gradient(actual, lambda z: z * scipy.special.ndtr(z), x, cotangent, rtol=1e-9, what="gelu_grad")
