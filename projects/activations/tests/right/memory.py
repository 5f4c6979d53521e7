"""Activation functions and three of their gradients, with few temporaries: each result is worked out in place.

Nothing here writes into the caller's array: every in-place step is on an array made by `_new` or by a reduction.
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


def _input(x: ArrayLike) -> Array:
    dtype = getattr(x, "dtype", None)
    if dtype is None:
        x = np.asarray(x)
        dtype = x.dtype
        if dtype.kind in "iuf":
            return x.astype(np.float64, copy=False)
    if dtype in (np.float32, np.float64):
        return np.asarray(x)
    if np.issubdtype(dtype, np.integer):
        return np.asarray(x, dtype=np.float64)
    raise TypeError(f"unsupported dtype: {dtype}")


def _new(x: Array) -> Array:
    return np.empty(x.shape, x.dtype)


def _exp_minus_abs(x: Array) -> Array:
    t = np.abs(x, out=_new(x))
    np.negative(t, out=t)
    return np.exp(t, out=t)


def _shifted(x: Array, axis: int) -> Array:
    peak = np.maximum.reduce(x, axis=axis, keepdims=True, initial=-np.inf)
    return np.subtract(x, peak, out=_new(x))


def sigmoid(x: ArrayLike) -> Array:
    """Squash to (0, 1): exp(min(x, 0)) / (1 + exp(-|x|))."""
    x = _input(x)
    out = np.clip(x, None, 0, out=_new(x))
    np.exp(out, out=out)
    below = _exp_minus_abs(x)
    below += 1
    out /= below
    return out


def relu(x: ArrayLike) -> Array:
    """Keep what is positive."""
    x = _input(x)
    return np.clip(x, 0, None, out=_new(x))


def gelu(x: ArrayLike, *, approximate: str = "none") -> Array:
    """Weight the input by the probability that a standard normal is below it."""
    if approximate != "none" and approximate != "tanh":
        raise ValueError(f"approximate is 'none' or 'tanh', not {approximate!r}")
    x = _input(x)
    out = _new(x)
    if approximate == "tanh":
        np.multiply(x, x, out=out)
        out *= 0.044715
        out += 1
        out *= x
        out *= math.sqrt(2 / math.pi)
        np.tanh(out, out=out)
    else:
        np.divide(x, math.sqrt(2), out=out)
        out.flat = [math.erf(v) for v in out.flat]
    out += 1
    out *= x
    out *= 0.5
    return out


def softmax(x: ArrayLike, *, axis: int = -1) -> Array:
    """Turn logits into probabilities along `axis`."""
    out = _shifted(_input(x), axis)
    np.exp(out, out=out)
    out /= np.add.reduce(out, axis=axis, keepdims=True)
    return out


def log_softmax(x: ArrayLike, *, axis: int = -1) -> Array:
    """Logarithm of `softmax` that does not underflow."""
    out = _shifted(_input(x), axis)
    with np.errstate(invalid="ignore"):  # logaddexp warns about NaN
        out -= np.logaddexp.reduce(out, axis=axis, keepdims=True)
    return out


def sigmoid_grad(x: ArrayLike) -> Array:
    """Differentiate `sigmoid` at its input: e / (1 + e)^2 with e = exp(-|x|)."""
    x = _input(x)
    out = _exp_minus_abs(x)
    below = np.add(out, 1, out=_new(x))
    out /= below
    out /= below
    return np.clip(out, None, 0.25, out=out)  # rounding may end one ulp above 1/4


def relu_grad(x: ArrayLike) -> Array:
    """Differentiate `relu` at its input: 1 where x > 0, else 0."""
    x = _input(x)
    return np.greater(x, 0, out=_new(x), casting="unsafe")


def softmax_backward(y: ArrayLike, grad_y: ArrayLike, *, axis: int = -1) -> Array:
    """Gradient of a loss by the logits, from the gradient by the probabilities."""
    y, grad_y = _input(y), _input(grad_y)
    if y.shape != grad_y.shape:
        raise ValueError(f"y and grad_y differ in shape: {y.shape}, {grad_y.shape}")
    out = np.multiply(y, grad_y, out=np.empty(y.shape, np.result_type(y, grad_y)))
    inner = np.add.reduce(out, axis=axis, keepdims=True)
    np.subtract(grad_y, inner, out=out)
    out *= y
    return out
