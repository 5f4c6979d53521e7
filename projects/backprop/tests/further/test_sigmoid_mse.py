"""The sigmoid layer and the mean squared error."""

import numpy as np
import pytest
import torch
from oracles import (
    Case,
    check_backward,
    check_dtype,
    check_forward,
    check_latest_forward,
    check_leading_axes,
    check_nothing_is_modified,
    check_two_share_nothing,
)
from torch.nn import functional as F

import sigmoid_mse
from shared.testing.checks import assert_close, assert_imports_only, expect_error, unchanged
from shared.testing.gradients import assert_gradient, random_cotangent


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


CASE = Case(
    make=lambda rng, dtype: sigmoid_mse.Sigmoid(),
    shape=(4, 5),
    formula=lambda x, p: sigmoid(x),
    input_mistakes={
        "the derivative is taken at the output y instead of x: y (1 - y) already is it": (
            lambda x, g, p: g * sigmoid(sigmoid(x)) * (1 - sigmoid(sigmoid(x)))
        ),
        "the derivative is x (1 - x), with the input where the output belongs": lambda x, g, p: (
            g * x * (1 - x)
        ),
        "the gradient that came in is not multiplied in": lambda x, g, p: sigmoid(x) * (1 - sigmoid(x)),
    },
)


@pytest.mark.grades
def test_sigmoid_mse_imports_only_numpy():
    """The module stands alone."""
    assert_imports_only(sigmoid_mse, allowed={"numpy"})


@pytest.mark.grades("Sigmoid")
def test_sigmoid_saturates_quietly():
    """Large inputs of both signs give 0 and 1, without an overflow."""
    layer = sigmoid_mse.Sigmoid()
    try:
        y = layer.forward(np.array([-1e4, -800.0, 0.0, 800.0, 1e4]))
    except RuntimeWarning as warning:
        raise AssertionError(
            f"exp overflows for large negative x ({warning}): use exp(-|x|), or tanh"
        ) from warning
    assert_close(y, [0.0, 0.0, 0.5, 1.0, 1.0], what="y")
    mistakes = {
        "the derivative is taken at the output y instead of x: y (1 - y) already is it": sigmoid(y)
        * (1 - sigmoid(y))
    }
    assert_close(
        layer.backward(np.ones(5)), [0.0, 0.0, 0.25, 0.0, 0.0], what="gradient of x", mistakes=mistakes
    )


@pytest.mark.grades("Sigmoid")
@pytest.mark.parametrize(("dtype", "last"), [(np.float32, 80.0), (np.float64, 700.0)])
def test_sigmoid_in_the_tails(dtype, last):
    """Far from 0 the output and its slope are e^-|x|, not 0."""
    x = np.linspace(-last, last, 41).astype(dtype)
    wide = x.astype(np.float64)
    e = np.exp(-np.abs(wide))
    layer = sigmoid_mse.Sigmoid()
    rtol = 8 * np.finfo(dtype).eps
    hint = "below 0 the output is a difference of nearly equal numbers: there it is e^x / (1 + e^x)"
    expected = np.where(wide < 0, e, 1) / (1 + e)
    assert_close(layer.forward(x), expected, dtype=dtype, rtol=rtol, atol=0.0, what="y", hint=hint)
    hint = "1 - y is rounded to 0 where y is nearly 1: the slope is e^-|x| / (1 + e^-|x|)²"
    slope = layer.backward(np.ones_like(x))
    assert_close(slope, e / (1 + e) ** 2, dtype=dtype, rtol=rtol, atol=0.0, what="gradient of x", hint=hint)


@pytest.mark.grades("Sigmoid")
def test_sigmoid_of_complex_numbers(rng):
    """A complex step goes through the layer itself, and its imaginary part is the derivative, on both sides of 0."""
    x = random_cotangent((4, 5), rng)
    got = sigmoid_mse.Sigmoid().forward(x + 1e-30j).imag / 1e-30
    hint = "the absolute value has no complex derivative: take x where it is negative, else -x"
    assert_close(got, sigmoid(x) * sigmoid(-x), rtol=1e-12, what="derivative by the complex step", hint=hint)


CHECKS = [
    check_dtype,
    check_nothing_is_modified,
    check_forward,
    check_backward,
    check_latest_forward,
    check_two_share_nothing,
]


@pytest.mark.grades("Sigmoid")
@pytest.mark.parametrize("check", CHECKS, ids=[check.__name__ for check in CHECKS])
def test_sigmoid(check, rng):
    """What every layer has to pass."""
    check(CASE, rng)


@pytest.mark.grades("Sigmoid")
@pytest.mark.parametrize("leading", [(), (2, 3), (0,)])
def test_sigmoid_takes_any_leading_axes(leading, rng):
    """One vector, more axes, and an empty batch."""
    check_leading_axes(CASE, rng, leading)


@pytest.mark.grades("MeanSquaredError")
@pytest.mark.parametrize("shape", [(4, 3), (5,), (2, 3, 2)])
def test_mean_squared_error(shape, rng):
    """Loss and gradient by formula and complex step, any shape."""
    loss = sigmoid_mse.MeanSquaredError()
    p, t = random_cotangent(shape, rng), random_cotangent(shape, rng)
    with unchanged(p, t):
        value, gradient = loss.forward(p, t), loss.backward()
    difference = p - t
    mean = F.mse_loss(torch.tensor(p), torch.tensor(t))
    assert_close(
        np.float64(value),
        mean.numpy(),
        rtol=1e-12,
        what="loss",
        mistakes={
            "this is the sum of squares: take the mean": (difference**2).sum(),
            "this is half the mean": mean / 2,
            "this is the mean over the batch of the sum over the rest: divide by all entries": (
                (difference**2).sum() / len(p)
            ),
        },
    )
    assert_gradient(
        gradient,
        lambda z: ((z - t) ** 2).mean(),
        p,
        np.float64(1.0),
        method="complex",
        mistakes={
            "the factor 2 is missing": difference / p.size,
            "the gradient is not divided by the number of entries: the loss is a mean": 2 * difference,
            "the gradient is divided by the batch size only: the mean is over all entries": 2
            * difference
            / len(p),
        },
    )
    loss.forward(p.astype(np.float32), t.astype(np.float32))
    assert loss.backward().dtype == np.float32, "the gradient of float32 is not float32: a silent cast"


@pytest.mark.grades("MeanSquaredError")
def test_mean_squared_error_errors():
    """Shapes must agree: no broadcasting."""
    loss = sigmoid_mse.MeanSquaredError()
    broadcast = "(4, 1) minus (4,) broadcasts to (4, 4) and averages the wrong differences: refuse it"
    with expect_error(ValueError, "(4, 1)", "(4,)", otherwise=broadcast):
        loss.forward(np.ones((4, 1)), np.ones(4))
    with expect_error(ValueError, "(0, 3)", otherwise="the mean of nothing is undefined: ValueError"):
        loss.forward(np.ones((0, 3)), np.ones((0, 3)))
