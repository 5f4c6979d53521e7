"""What the core does beyond its contract: empty batches, -inf, other integers."""

import numpy as np
import pytest
from oracles import Case, check_leading_axes

import backprop
from shared.testing.checks import assert_close

MAKE = {
    "Linear": lambda rng, dtype: backprop.Linear(5, 3, rng=rng, dtype=dtype),
    "ReLU": lambda rng, dtype: backprop.ReLU(),
    "Tanh": lambda rng, dtype: backprop.Tanh(),
}


@pytest.mark.parametrize("function", MAKE)
@pytest.mark.parametrize("leading", [(0,), (2, 0, 3)])
def test_empty_batch(function, leading, rng):
    """No rows in, no rows out, and gradients of zero."""
    check_leading_axes(Case(make=MAKE[function], shape=(4, 5), formula=None), rng, leading)


@pytest.mark.parametrize("function", MAKE)
def test_nan_propagates(function, rng):
    """A NaN that vanishes hides the bug behind it."""
    layer = MAKE[function](rng, np.float64)
    x = np.ones((2, 5))
    x[1, 2] = np.nan
    y = layer.forward(x)
    assert np.isnan(y[1]).any(), "a NaN in the input vanished"
    assert not np.isnan(y[0]).any(), "a NaN spread to another row"


@pytest.mark.grades("SoftmaxCrossEntropy")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_class_at_minus_infinity(dtype):
    """A class at -inf is a probability of 0."""
    loss = backprop.SoftmaxCrossEntropy()
    value = loss.forward(np.array([[0.0, -np.inf, 0.0]], dtype), np.array([0]))
    assert_close(np.float64(value), np.log(2), rtol=1e-6, what="loss")
    assert_close(loss.backward(), np.array([[-0.5, 0.0, 0.5]]), dtype=dtype, what="gradient")


@pytest.mark.grades("SoftmaxCrossEntropy")
@pytest.mark.parametrize(("dtype", "gap"), [(np.float64, 40.0), (np.float32, 20.0)])
def test_a_loss_near_zero(dtype, gap):
    """Logits far apart: log(1 + e^-40) is e^-40, not 0, and so is the gradient of the right class."""
    loss, n = backprop.SoftmaxCrossEntropy(), np.arange(3.0)
    logits = np.stack([-n - gap, n * 0, -2 * n - gap], axis=1).astype(dtype)
    value = loss.forward(logits, np.array([1, 1, 1]))
    others = np.exp(logits[:, ::2].astype(np.float64))
    hint = "log(1 + tiny) is rounded to 0: leave the largest term out of the sum, and take log1p of the rest"
    rtol = 16 * np.finfo(dtype).eps * gap  # the logits' own rounding
    assert_close(np.float64(value), others.sum(1).mean(), rtol=rtol, what="loss", hint=hint)
    expected = np.stack([others[:, 0], -others.sum(1), others[:, 1]], axis=1) / 3
    hint = "p - 1 is rounded to 0: it is minus the sum of the other probabilities"
    got = loss.backward()
    assert_close(got, expected, dtype=dtype, rtol=rtol, atol=0.0, what="gradient", hint=hint)


@pytest.mark.grades("SoftmaxCrossEntropy")
@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int32])
def test_any_integer_is_a_class(kind):
    """Class indices of other integer types."""
    loss = backprop.SoftmaxCrossEntropy()
    value = loss.forward(np.log([[1.0, 3.0], [3.0, 1.0]]), np.array([1, 1], kind))
    assert_close(np.float64(value), np.log([4 / 3, 4.0]).mean(), what="loss")
    assert_close(loss.backward(), np.array([[0.25, -0.25], [0.75, -0.75]]) / 2, what="gradient")
