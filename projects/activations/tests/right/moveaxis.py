"""Activation functions and three of their gradients; the axis functions work on the last axis and move it back."""

from __future__ import annotations

import math
from collections.abc import Callable

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

_erf = np.frompyfunc(math.erf, 1, 1)


def _floats(x: ArrayLike) -> Array:
    a = np.asarray(x)
    if np.issubdtype(a.dtype, np.integer) or (isinstance(x, list) and a.dtype == np.float32):
        return a.astype(np.float64)
    if a.dtype == np.float32 or a.dtype == np.float64:
        return a
    raise TypeError(f"dtype {a.dtype} is neither float32 nor float64")


def _along(axis: int, f: Callable[..., Array], *arrays: Array) -> Array:
    """Call `f` with `axis` moved to the end, and move it back; a single number counts as an axis of length 1."""
    shape = arrays[0].shape
    moved = [np.moveaxis(np.atleast_1d(a), axis, -1) for a in arrays]
    return np.moveaxis(f(*moved), -1, axis).reshape(shape)


def _peak(rows: Array) -> Array:
    return rows.max(axis=-1, initial=-np.inf)[..., np.newaxis]


def sigmoid(x: ArrayLike) -> Array:
    """Squash to (0, 1); the logistic curve is a tanh at half scale."""
    return 0.5 * np.tanh(0.5 * _floats(x)) + 0.5


def relu(x: ArrayLike) -> Array:
    """Keep what is positive."""
    x = _floats(x)
    return np.where(x <= 0, x.dtype.type(0), x)


def gelu(x: ArrayLike, *, approximate: str = "none") -> Array:
    """Weight the input by the probability that a standard normal is below it."""
    x = _floats(x)
    match approximate:
        case "none":
            t = np.asarray(_erf(x / math.sqrt(2)), dtype=x.dtype)
        case "tanh":
            t = np.tanh(math.sqrt(2 / math.pi) * x * (1 + 0.044715 * np.square(x)))
        case _:
            raise ValueError(f"unknown approximation {approximate!r}")
    return x * (0.5 * (1 + t))


def softmax(x: ArrayLike, *, axis: int = -1) -> Array:
    """Turn logits into probabilities along `axis`."""

    def last(rows: Array) -> Array:
        e = np.exp(rows - _peak(rows))
        return e / np.einsum("...i->...", e)[..., np.newaxis]

    return _along(axis, last, _floats(x))


def log_softmax(x: ArrayLike, *, axis: int = -1) -> Array:
    """Logarithm of `softmax` that does not underflow."""

    def last(rows: Array) -> Array:
        if rows.shape[-1] == 0:
            return rows.copy()
        d = rows - _peak(rows)
        return d - np.log(np.exp(d).sum(axis=-1))[..., np.newaxis]

    return _along(axis, last, _floats(x))


def sigmoid_grad(x: ArrayLike) -> Array:
    """Differentiate `sigmoid` at its input."""
    s = sigmoid(x)
    return s * (1 - s)


def relu_grad(x: ArrayLike) -> Array:
    """Differentiate `relu` at its input."""
    x = _floats(x)
    # heaviside passes NaN through, but the gradient of NaN is to be 0
    return np.heaviside(np.where(np.isnan(x), x.dtype.type(0), x), x.dtype.type(0))


def softmax_backward(y: ArrayLike, grad_y: ArrayLike, *, axis: int = -1) -> Array:
    """Gradient of a loss by the logits, from the gradient by the probabilities."""
    y, grad_y = _floats(y), _floats(grad_y)
    if y.shape != grad_y.shape:
        raise ValueError(f"y has shape {y.shape}, grad_y {grad_y.shape}")

    def last(p: Array, g: Array) -> Array:
        return p * (g - np.einsum("...i,...i->...", p, g)[..., np.newaxis])

    return _along(axis, last, y, grad_y)
