"""The core: contract, values worked by hand, laws, every function compared with its oracle, gradients.

The fixture `module` is what is judged; tests/further/test_fast_as_core.py puts fast.py in its place.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from oracles import CORE, ORACLES, UNARY, WITH_AXIS, arguments, check, likely_mistakes, no_warning

import activations
from shared.testing.checks import assert_close, assert_imports_only, expect_error, unchanged
from shared.testing.gradients import assert_gradient, random_cotangent


@pytest.fixture
def module():
    return activations


# --- 1. the contract ------------------------------------------------------------------------------------------


@pytest.mark.grades
def test_only_numpy_is_imported(module):
    """Written with NumPy, not fetched from another library."""
    assert_imports_only(module, allowed={"numpy"})


@pytest.mark.parametrize("function", CORE)
def test_shape_and_dtype(function, module, rng):
    """One number per number, in the dtype of the input."""
    for dtype in (np.float64, np.float32):
        for shape in ((5,), (3, 5), (2, 3, 4)):
            x = rng.uniform(-3, 3, shape).astype(dtype)
            result = getattr(module, function)(*arguments(function, x))
            assert result is not None, f"{function} returns None: is a `return` missing?"
            result = np.asarray(result)
            name = np.dtype(dtype).name
            assert result.shape == shape, (
                f"{function} of shape {shape} must have that shape, got {result.shape}"
            )
            assert result.dtype == dtype, f"wrong dtype {result.dtype}, expected {name}: {function} of {name}"


@pytest.mark.parametrize("function", CORE)
def test_input_is_not_modified(function, module, rng):
    """The caller still needs its array."""
    for dtype in (np.float32, np.float64):
        inputs = arguments(function, rng.uniform(-3, 3, (3, 5)).astype(dtype))
        with unchanged(*inputs):
            getattr(module, function)(*inputs)


# --- 2. worked by hand ----------------------------------------------------------------------------------------

LOG_1_2_5 = np.log([1.0, 2.0, 5.0])
BY_HAND = {
    "sigmoid": ([-math.log(3), 0, math.log(3)], [1 / 4, 1 / 2, 3 / 4]),
    "relu": ([-2, 0, 3], [0, 0, 3]),
    "gelu": ([-1, 0, 2], [-0.15865525393145705, 0, 1.9544997361036416]),  # Φ(1), Φ(2) from tables
    "softmax": (LOG_1_2_5, [1 / 8, 2 / 8, 5 / 8]),
    "log_softmax": (LOG_1_2_5, np.log([1 / 8, 2 / 8, 5 / 8])),
    "sigmoid_grad": ([-math.log(3), 0, math.log(3)], [3 / 16, 1 / 4, 3 / 16]),
    "relu_grad": ([-2, 0, 3], [0, 0, 1]),
}


@pytest.mark.parametrize("function", list(BY_HAND))
def test_worked_by_hand(function, module):
    """The values that pencil and paper give."""
    x, expected = (np.array(values, np.float64) for values in BY_HAND[function])
    assert_close(
        getattr(module, function)(x),
        expected,
        what=f"{function}({np.array2string(x, precision=4)})",
        mistakes=likely_mistakes(ORACLES, function, x),
        hint="at the kink x = 0 the derivative is 0, by convention" if function == "relu_grad" else None,
    )


@pytest.mark.grades("softmax_backward")
def test_softmax_backward_worked_by_hand(module):
    """y = (1, 2, 5)/8 and twice the first probability as the loss: 2·(y₀·(1 - y₀), -y₁·y₀, -y₂·y₀)."""
    y, grad_y = np.array([1, 2, 5]) / 8, np.array([2.0, 0.0, 0.0])
    assert_close(
        module.softmax_backward(y, grad_y),
        np.array([7, -2, -5]) / 32,
        what="softmax_backward((1, 2, 5)/8, (2, 0, 0))",
        mistakes=likely_mistakes(ORACLES, "softmax_backward", y, grad_y),
    )


# --- 3. everything, compared ----------------------------------------------------------------------------------


@pytest.mark.parametrize("function", CORE)
def test_matches_the_oracle(function, module, rng):
    """Random matrices, a rank-3 array and a transposed view, in both dtypes."""
    for shape in ((13, 37), (3, 4, 5)):
        x = rng.normal(0, 2, shape)
        for dtype in (np.float64, np.float32):
            check(module, function, x.astype(dtype))
            view = "the elements of a transposed view came back in another order"
            check(module, function, x.astype(dtype).T, what=f"{function} of a transposed view", hint=view)


@pytest.mark.grades("softmax")
def test_softmax_is_a_distribution(module, rng):
    """Each row is positive and sums to 1, and adding one number to a row's logits changes nothing."""
    x = rng.normal(0, 3, (7, 11))
    y = np.asarray(module.softmax(x))
    assert np.all(y > 0), "the probability of a finite logit is positive"
    law = "the law says 1 everywhere"
    assert_close(np.sum(y, axis=-1), np.ones(7), n=11, what="sum of each row", vacuous_ok=law)
    shifted = module.softmax(x + rng.integers(-20, 20, (7, 1)))
    assert_close(shifted, y, rtol=1e-13, what="softmax after adding a number to each row")


CUT_OFF = "cut off for large inputs? Clipping x or adding a bound does that; so does a large number that swallows a small one"


@pytest.mark.parametrize("function", UNARY)
def test_large_inputs(function, module):
    """±1e4 beside small numbers: exp overflows from 89 on in float32, from 710 on in float64."""
    overflow = "overflows for large inputs: shift or rearrange, so that exp only sees what it can represent"
    rows = [[-1e4, 0, 1], [1e4, 0, 1], [1e4, 1e4, 0], [-1e4, 0.5, 1e4], [-120, 0.5, 120], [95, 0, 1]]
    rows += [[-99, -98, -99]] if function in WITH_AXIS else []  # the others would be tiny everywhere
    for dtype in (np.float32, np.float64):
        for x in np.array(rows, dtype):
            with no_warning(overflow), unchanged(x):
                result = getattr(module, function)(x)
            expected = ORACLES[function](x.astype(np.float64))
            hint = CUT_OFF if np.isfinite(result).all() else overflow
            # x - logsumexp(x) is right too, and rounds at the level of x
            atol = 8 * np.finfo(dtype).eps * np.abs(x).max() if function == "log_softmax" else None
            assert_close(result, expected, dtype=dtype, n=3, atol=atol, what=f"{function}({x})", hint=hint)


# --- 4. options -----------------------------------------------------------------------------------------------


@pytest.mark.grades("gelu")
def test_gelu_approximate(module, rng):
    """The tanh formula is the other one."""
    for dtype in (np.float64, np.float32):
        check(module, "gelu", rng.normal(0, 2, (5, 9)).astype(dtype), approximate="tanh")


@pytest.mark.grades("gelu")
def test_gelu_refuses_another_approximation(module):
    """A misspelt name is an error, not one of the two formulas."""
    for name in ("tahn", "TANH", "tan", ""):
        with expect_error(ValueError, otherwise=f"gelu accepts approximate={name!r}"):
            module.gelu(np.ones(3), approximate=name)


@pytest.mark.parametrize("function", WITH_AXIS)
def test_any_axis(function, module, rng):
    """Every axis of a rank-3 array, counted from either end, and of a square, where a missing keepdims does not show."""
    x, square = rng.normal(0, 2, (3, 4, 5)), rng.normal(0, 2, (4, 4))
    for axis in (0, 1, 2, -1, -2, -3):
        check(module, function, x, axis=axis)
    for axis in (0, 1):
        check(module, function, square, axis=axis, what=f"{function} of a square, axis={axis}")


@pytest.mark.parametrize("function", ["softmax", "log_softmax"])
def test_rows_of_different_levels(function, module):
    """One row near -1e4, one near 0, one near 1e4: each needs its own shift."""
    x = np.array([[-1e4, -1e4 + 1], [0, 2], [1e4, 1e4 + 3]])
    hint = "shift each row by its own maximum: with another shift exp is 0 in a whole row, or overflows"
    with no_warning(hint):
        result = getattr(module, function)(x)
    # x - logsumexp(x) is right too, and rounds at the level of x
    atol = 8 * np.finfo(np.float64).eps * 1e4
    assert_close(
        result, ORACLES[function](x), atol=atol, what=f"{function} of rows at -1e4, 0, 1e4", hint=CUT_OFF
    )


@pytest.mark.parametrize("function", ["softmax", "log_softmax"])
def test_a_masked_class(function, module):
    """A logit of -inf is a class that cannot be: probability 0, and the others share the rest."""
    x = np.array([[0.5, -np.inf, 2.0, 1.0], [-np.inf, 3.0, -1.0, -np.inf]])
    masked = "a logit of -inf is a masked class: its probability is 0 and its logarithm -inf"
    with no_warning(masked), unchanged(x):
        result = np.asarray(getattr(module, function)(x))
    expected = {"softmax": 0.0, "log_softmax": -np.inf}[function]
    assert result.shape == x.shape, f"wrong shape {result.shape}, expected {x.shape}"
    assert np.all(result[np.isinf(x)] == expected), f"{function}: {masked}, got {result[np.isinf(x)]}"
    assert_close(result, ORACLES[function](x), n=4, what=f"{function} with masked classes", hint=masked)


# --- 5. gradients ---------------------------------------------------------------------------------------------


@pytest.mark.grades("sigmoid_grad")
def test_sigmoid_grad_by_the_complex_step(module, rng):
    """Against the imaginary part of 1/(1 + exp(-x)), exact to rounding."""
    x, cotangent = rng.uniform(-4, 4, (5, 7)), random_cotangent((5, 7), rng)
    actual = cotangent * module.sigmoid_grad(x)
    assert_gradient(
        actual, lambda z: 1 / (1 + np.exp(-z)), x, cotangent, method="complex", what="sigmoid_grad"
    )


@pytest.mark.grades("relu_grad")
def test_relu_grad_by_central_differences(module, rng):
    """Against differences of max(x, 0), away from the kink."""
    x, cotangent = rng.uniform(0.1, 4, (5, 7)) * rng.choice([-1, 1], (5, 7)), random_cotangent((5, 7), rng)
    actual = cotangent * module.relu_grad(x)
    assert_gradient(actual, lambda z: np.maximum(z, 0), x, cotangent, what="relu_grad")


@pytest.mark.grades("relu_grad")
def test_relu_grad_has_no_threshold(module):
    """The smallest positive number is positive, too."""
    for dtype in (np.float32, np.float64):
        tiny = np.finfo(dtype).tiny
        x = np.array([-1e-3, -tiny, 0, tiny, 1e-9, 1e-3], dtype)
        expected = np.array([0, 0, 0, 1, 1, 1], dtype)
        hint = "1 for every positive number, however small: is x compared with something else than 0?"
        assert_close(module.relu_grad(x), expected, what=f"relu_grad({x})", hint=hint)


@pytest.mark.grades("softmax_backward")
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_softmax_backward_by_the_complex_step(axis, module, rng):
    """From logits through softmax to a random weighting of the probabilities."""
    x, cotangent = rng.normal(0, 1.5, (3, 4, 5)), random_cotangent((3, 4, 5), rng)

    def forward(z):
        e = np.exp(z)
        return e / e.sum(axis=axis, keepdims=True)

    y = forward(x)
    actual = module.softmax_backward(y, cotangent, axis=axis)
    found = likely_mistakes(ORACLES, "softmax_backward", y, cotangent, axis=axis)
    assert_gradient(actual, forward, x, cotangent, method="complex", what="softmax_backward", mistakes=found)
