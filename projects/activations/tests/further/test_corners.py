"""What goes beyond the plain contract of the core: other inputs than float arrays, infinities, NaN, errors."""

from __future__ import annotations

import numpy as np
import pytest
from oracles import ALONG_AXIS, CORE, ELEMENTWISE, ORACLES, UNARY, arguments, check, no_warning

import activations
from shared.testing.checks import assert_close, expect_error


@pytest.fixture
def module():
    return activations


@pytest.mark.parametrize("function", UNARY)
def test_integers_and_lists_become_float64(function, module):
    """Converted before any arithmetic: a uint8 that is subtracted from wraps around."""
    hint = "convert integers to float64 before any arithmetic: unsigned ones wrap around"
    for dtype in (np.bool_, np.int8, np.uint8, np.int64):
        x = np.array([[0, 1, 3], [7, 2, 5]]).astype(dtype)
        check(module, function, x, dtype=np.float64, what=f"{function} of {np.dtype(dtype).name}", hint=hint)
    numbers = np.array([[0.5, -1.5], [2.0, 0.25]])
    result = getattr(module, function)(numbers.tolist())
    assert_close(result, ORACLES[function](numbers), what=f"{function} of a list")


@pytest.mark.grades("softmax_backward")
def test_softmax_backward_of_integers(module):
    """Integers become float64."""
    result = np.asarray(module.softmax_backward(np.array([1, 0, 0]), np.array([2, 5, 3])))
    assert result.dtype == np.float64, f"integers must give float64, got {result.dtype}"


@pytest.mark.parametrize("function", UNARY)
def test_a_number_has_rank_0(function, module):
    """A number counts as one class."""
    result = np.asarray(getattr(module, function)(0.75))
    assert result.shape == (), f"{function}(0.75) must have rank 0, got shape {result.shape}"
    one_class = "with one class softmax is 1 and its logarithm 0"
    expected = np.reshape(ORACLES[function](np.array([0.75])), ())
    assert_close(result, expected, what=f"{function}(0.75)", vacuous_ok=one_class)


@pytest.mark.parametrize("function", [*ELEMENTWISE, "sigmoid_grad", "relu_grad"])
def test_nothing_in_nothing_out(function, module):
    """An empty array has a shape and a dtype too."""
    result = np.asarray(getattr(module, function)(np.zeros((0, 3), np.float32)))
    assert result.shape == (0, 3), f"{function} of shape (0, 3) has shape {result.shape}"
    assert result.dtype == np.float32, (
        f"wrong dtype {result.dtype}, expected float32: {function} of an empty array"
    )


@pytest.mark.parametrize("function", CORE)
def test_refuses_what_is_not_real(function, module):
    """No order, no maximum: complex numbers and objects raise TypeError."""
    for dtype in (np.complex64, object):
        inputs = arguments(function, np.array([[0.5, 0.25], [0.5, 0.75]]))
        inputs = tuple(value.astype(dtype) for value in inputs)
        with expect_error(TypeError, otherwise=f"{function} accepts dtype {np.dtype(dtype).name}"):
            getattr(module, function)(*inputs)


@pytest.mark.grades("softmax_backward")
def test_softmax_backward_refuses_other_shapes(module):
    """A cotangent that would only broadcast is a mistake of the caller."""
    with expect_error(ValueError, otherwise="softmax_backward broadcasts grad_y to y"):
        module.softmax_backward(np.full((2, 3), 1 / 3), np.ones(3))


@pytest.mark.parametrize("function", ["sigmoid", "relu"])
def test_infinities(function, module):
    """±inf gives the limit."""
    with no_warning("infinities are legal inputs"):
        result = np.asarray(getattr(module, function)(np.array([-np.inf, np.inf])))
    limits = {"sigmoid": [0, 1], "relu": [0, np.inf]}[function]
    assert np.array_equal(result, limits), f"{function}([-inf, inf]) must be {limits}, got {result}"


@pytest.mark.parametrize("function", [*ELEMENTWISE, "sigmoid_grad", *ALONG_AXIS])
def test_nan_stays_nan(function, module):
    """NaN in, NaN out, and the row beside it is not disturbed: hiding a NaN hides the bug that made it."""
    x = np.array([[-1.0, np.nan, 2.0], [0.5, 3.0, -2.0]])
    with no_warning("NaN is a legal input"):
        result = np.asarray(getattr(module, function)(x))
    spoiled = result[0] if function in ALONG_AXIS else result[0, 1:2]
    assert np.all(np.isnan(spoiled)), (
        f"{function}(NaN) must be NaN: a NaN that vanishes hides the bug behind it"
    )
    assert_close(result[1], ORACLES[function](x[1]), n=3, what=f"{function} in the row below a NaN")


@pytest.mark.grades("relu_grad")
def test_relu_grad_of_nan_is_a_number(module):
    """A comparison with NaN is false, so the plain relu_grad gives 0, as its module says."""
    assert np.array_equal(module.relu_grad(np.array([np.nan, 1.0])), [0.0, 1.0]), "relu_grad(NaN) is 0 here"
