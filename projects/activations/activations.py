"""Activation functions and three of their gradients, in plain NumPy.

The contract: the input is a float32 or float64 array of any shape, and the result has its shape and dtype. Integers, bool
and lists of numbers become float64; complex numbers and objects raise TypeError. The input is not modified. Inputs of ±1e4
neither overflow nor warn. Errors are counted against the largest value: a tiny result may lose its digits. NaN gives NaN
(0 in `relu_grad`), in softmax for its whole row. Rows of nothing but -inf, +inf in a row and empty rows are not defined here.

fast.py defines those, has more functions, more dtypes and `out`, and is faster; this module is for reading.
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


def sigmoid(x: ArrayLike) -> Array:
    """Squash to (0, 1): ``1 / (1 + exp(-x))``; -inf gives 0, +inf gives 1."""
    x = _as_float(x)
    e = np.exp(-np.abs(x))  # at most 1, so it cannot overflow
    return np.where(x < 0, e, 1) / (1 + e)


def relu(x: ArrayLike) -> Array:
    """Keep what is positive: ``max(x, 0)``; -inf gives 0, +inf gives +inf.

    Source: Nair and Hinton, ICML 2010.
    """
    return np.maximum(_as_float(x), 0)


def gelu(x: ArrayLike, *, approximate: str = "none") -> Array:
    """Weight the input by the probability that a standard normal is below it: ``x·Φ(x)``.

    ``Φ(x) = (1 + erf(x/√2)) / 2``; with ``approximate="tanh"`` instead ``(1 + tanh(√(2/π)·(x + 0.044715·x³))) / 2``.
    Any other value of `approximate` raises ValueError. ±inf is not defined here.

    Source: Hendrycks and Gimpel, arXiv 1606.08415, section 2.
    """
    x = _as_float(x)
    if approximate == "none":
        cdf = (1 + _erf(x / math.sqrt(2))) / 2
    elif approximate == "tanh":
        cdf = (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2
    else:
        raise ValueError(f"approximate must be 'none' or 'tanh', got {approximate!r}")
    return (x * cdf).astype(x.dtype)


def softmax(x: ArrayLike, *, axis: int = -1) -> Array:
    """Turn logits into probabilities: ``exp(x) / sum(exp(x))`` along `axis`; a logit of -inf gets probability 0.

    Source: Bridle, "Probabilistic Interpretation of Feedforward Classification Network Outputs", 1990.
    """
    x = _as_float(x)
    e = np.exp(x - x.max(axis=axis, keepdims=True))  # the same number off each logit changes nothing
    return e / e.sum(axis=axis, keepdims=True)


def log_softmax(x: ArrayLike, *, axis: int = -1) -> Array:
    """Logarithm of `softmax` that does not underflow: ``x - log(sum(exp(x)))`` along `axis`; -inf stays -inf."""
    x = _as_float(x)
    shifted = x - x.max(axis=axis, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))


def sigmoid_grad(x: ArrayLike) -> Array:
    """Differentiate `sigmoid` at its input `x`: ``s·(1 - s)`` with ``s = sigmoid(x)``, at most 1/4."""
    return sigmoid(x) * sigmoid(-_as_float(x))  # 1 - s is sigmoid(-x), which does not cancel


def relu_grad(x: ArrayLike) -> Array:
    """Differentiate `relu` at its input `x`: 1 where ``x > 0``, else 0, by convention also at the kink."""
    x = _as_float(x)
    return (x > 0).astype(x.dtype)


def softmax_backward(y: ArrayLike, grad_y: ArrayLike, *, axis: int = -1) -> Array:
    """Gradient of a loss by the logits, from the gradient by the probabilities: ``y·(grad_y - sum(y·grad_y))`` along `axis`.

    `y` is the output of `softmax`, `grad_y` the loss differentiated by it. They have one shape and dtype; two shapes raise
    ValueError. This multiplies by the Jacobian ``diag(y) - y·yᵀ`` without building it.
    """
    y, grad_y = _as_float(y), _as_float(grad_y)
    if y.shape != grad_y.shape:
        raise ValueError(f"grad_y must have the shape of y, {y.shape}, but has {grad_y.shape}")
    return y * (grad_y - (y * grad_y).sum(axis=axis, keepdims=True))


_erf = np.vectorize(math.erf, otypes=[np.float64])  # NumPy has none


def _as_float(x: ArrayLike) -> Array:
    """Return `x` as an array of float32 or float64."""
    x = np.asarray(x)
    if x.dtype.kind in "biu":
        return x.astype(np.float64)
    if x.dtype not in (np.float32, np.float64):
        raise TypeError(f"expected float32, float64 or integers, got dtype {x.dtype}")
    return x
