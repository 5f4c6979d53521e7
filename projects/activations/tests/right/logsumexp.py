"""Activations."""

from __future__ import annotations

import math

import numpy as np

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


def _arr(x):
    a = np.asarray(x)
    if a.dtype in (np.float32, np.float64):
        return a
    if a.dtype.kind in "iub":
        return a.astype(np.float64)
    raise TypeError(f"unsupported dtype {a.dtype}")


def sigmoid(x):
    x = _arr(x)
    e = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, 1 / (1 + e), e / (1 + e)), dtype=x.dtype)


def relu(x):
    x = _arr(x)
    return np.asarray(np.maximum(x, 0), dtype=x.dtype)


_erf = np.vectorize(math.erf, otypes=[np.float64])


def gelu(x, *, approximate="none"):
    x = _arr(x)
    z = x.astype(np.float64)
    with np.errstate(invalid="ignore"):
        if approximate == "none":
            phi = (1 + _erf(z / math.sqrt(2))) / 2
        elif approximate == "tanh":
            phi = (1 + np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))) / 2
        else:
            raise ValueError(approximate)
        out = np.where(z == -np.inf, 0.0, z * phi)
    return np.asarray(out, dtype=x.dtype)


def softmax(x, *, axis=-1):
    x = _arr(x)
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return np.asarray(e / e.sum(axis=axis, keepdims=True), dtype=x.dtype)


def log_softmax(x, *, axis=-1):
    x = _arr(x)
    m = x.max(axis=axis, keepdims=True)
    return np.asarray(x - (m + np.log(np.exp(x - m).sum(axis=axis, keepdims=True))), dtype=x.dtype)


def sigmoid_grad(x):
    x = _arr(x)
    e = np.exp(-np.abs(x))
    return np.asarray(e / (1 + e) ** 2, dtype=x.dtype)


def relu_grad(x):
    x = _arr(x)
    return np.asarray(x > 0, dtype=x.dtype)


def softmax_backward(y, grad_y, *, axis=-1):
    y, g = _arr(y), _arr(grad_y)
    if y.shape != g.shape:
        raise ValueError(f"{y.shape} != {g.shape}")
    return np.asarray(y * (g - (y * g).sum(axis=axis, keepdims=True)), dtype=y.dtype)
