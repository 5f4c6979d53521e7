"""Activation functions and three of their gradients, in plain NumPy.

Every public function first passes its input through `_as_float_array`; below that line everything is a float32 or
float64 array, possibly the caller's own, so nothing below may write into it.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "sigmoid",
    "relu",
    "gelu",
    "softmax",
    "log_softmax",
    "sigmoid_grad",
    "relu_grad",
    "softmax_backward",
]

Array = NDArray[np.floating]

# Python floats, not NumPy scalars: a np.float64 constant would promote float32 input to float64.
_INV_SQRT_2 = 1.0 / math.sqrt(2.0)
_SQRT_2_OVER_PI = math.sqrt(2.0 / math.pi)
_GELU_CUBIC = 0.044715


def _as_float_array(x: ArrayLike, name: str = "x") -> Array:
    """Return `x` as a float32 or float64 array; copies only when a conversion is needed."""
    has_dtype = hasattr(x, "dtype")
    array = np.asarray(x)
    if array.dtype.kind in "iu":
        return array.astype(np.float64)
    if array.dtype.type not in (np.float32, np.float64):
        raise TypeError(f"{name} must be float32, float64 or integers, not {array.dtype}")
    if not has_dtype:
        # Lists become float64, also a list of np.float32 scalars.
        return array.astype(np.float64, copy=False)
    return array


def _normal_cdf(x: Array) -> Array:
    """Standard normal distribution function, in float64."""
    # (1 + erf(z)) / 2 == erfc(-z) / 2, but erfc keeps its relative precision in the left tail.
    values = [0.5 * math.erfc(-v * _INV_SQRT_2) for v in x.ravel().tolist()]
    return np.array(values, dtype=np.float64).reshape(x.shape)


def _shift_to_max(x: Array, axis: int) -> Array:
    """Subtract the maximum along `axis`, so that exp() of the result is at most 1."""
    # `initial` makes an axis of length 0 legal.
    peak = np.max(x, axis=axis, keepdims=True, initial=-np.inf)
    # Where everything is -inf there is nothing to shift by, and -inf - (-inf) would be NaN.
    peak = np.where(peak == -np.inf, x.dtype.type(0), peak)
    return np.asarray(x - peak)


def sigmoid(x: ArrayLike) -> Array:
    """Squash to (0, 1): ``1 / (1 + exp(-x))``; -inf gives 0, +inf gives 1."""
    x = _as_float_array(x)
    result = np.empty(x.shape, dtype=x.dtype)

    # exp() only ever sees arguments <= 0 (or NaN), so it cannot overflow.
    negative = x < 0
    exp_x = np.exp(x[negative])
    result[negative] = exp_x / (1.0 + exp_x)

    rest = ~negative  # x >= 0 and NaN
    result[rest] = 1.0 / (1.0 + np.exp(-x[rest]))
    return result


def relu(x: ArrayLike) -> Array:
    """Keep what is positive: ``max(x, 0)``; -inf gives 0, +inf gives +inf."""
    x = _as_float_array(x)
    # np.maximum propagates NaN; np.fmax would turn it into 0, and x * (x > 0) would turn -inf into NaN.
    return np.asarray(np.maximum(x, 0.0))


def gelu(x: ArrayLike, *, approximate: str = "none") -> Array:
    """Weight the input by the probability that a standard normal is below it: ``x * Phi(x)``."""
    if approximate not in ("none", "tanh"):
        raise ValueError(f"approximate must be 'none' or 'tanh', not {approximate!r}")
    x = _as_float_array(x)

    if approximate == "tanh":
        inner = _SQRT_2_OVER_PI * (x + _GELU_CUBIC * x * x * x)
        cdf = 0.5 * (1.0 + np.tanh(inner))
    else:
        cdf = _normal_cdf(x)
    return np.asarray(x * cdf, dtype=x.dtype)


def softmax(x: ArrayLike, *, axis: int = -1) -> Array:
    """Turn logits into probabilities: ``exp(x) / sum(exp(x))`` along `axis`; -inf gets probability 0."""
    x = _as_float_array(x)
    weights = np.asarray(np.exp(_shift_to_max(x, axis)))
    total = np.sum(weights, axis=axis, keepdims=True)
    # The total is 0 only where all logits are -inf; each of them gets 0 then, as the docstring says.
    # (Otherwise the largest weight is 1, so the total is at least 1, or NaN.)
    return np.divide(weights, total, out=np.zeros_like(weights), where=total != 0)


def log_softmax(x: ArrayLike, *, axis: int = -1) -> Array:
    """Logarithm of `softmax` that does not underflow: ``x - log(sum(exp(x)))``; -inf stays -inf."""
    x = _as_float_array(x)
    shifted = _shift_to_max(x, axis)
    total = np.sum(np.exp(shifted), axis=axis, keepdims=True)
    # A total of 0 means only -inf (or no logits at all); -inf - log(1) is -inf, without a warning.
    total = np.where(total == 0, x.dtype.type(1), total)
    return np.asarray(shifted - np.log(total))


def sigmoid_grad(x: ArrayLike) -> Array:
    """Differentiate `sigmoid` at its input `x`: ``s * (1 - s)`` with ``s = sigmoid(x)``, at most 1/4."""
    x = _as_float_array(x)
    # 1 - sigmoid(x) is sigmoid(-x), which does not cancel for large x.
    product = sigmoid(x) * sigmoid(-x)
    # The two factors are rounded separately, so hold the product to its maximum.
    return np.asarray(np.minimum(product, 0.25))


def relu_grad(x: ArrayLike) -> Array:
    """Differentiate `relu` at its input `x`: 1 where ``x > 0``, else 0, by convention also at the kink."""
    x = _as_float_array(x)
    result = np.zeros(x.shape, dtype=x.dtype)
    result[x > 0] = 1.0  # NaN > 0 is false, so NaN gives 0
    return result


def softmax_backward(y: ArrayLike, grad_y: ArrayLike, *, axis: int = -1) -> Array:
    """Gradient of a loss by the logits, from the gradient by the probabilities: ``y * (grad_y - sum(y * grad_y))``."""
    y = _as_float_array(y, "y")
    grad_y = _as_float_array(grad_y, "grad_y")
    # Checked explicitly: broadcasting would accept some other shapes and return a wrong gradient.
    if y.shape != grad_y.shape:
        raise ValueError(f"y and grad_y must have the same shape, not {y.shape} and {grad_y.shape}")
    inner = np.sum(y * grad_y, axis=axis, keepdims=True)
    return np.asarray(y * (grad_y - inner))
