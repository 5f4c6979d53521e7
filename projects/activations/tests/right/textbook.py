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


def _float(x):
    x = np.asarray(x, dtype=getattr(x, "dtype", float))  # lists become float64
    if x.dtype.kind in "iu":
        x = x.astype(float)
    if x.dtype not in (np.float32, np.float64):
        raise TypeError(f"expected float32 or float64, got {x.dtype}")
    return x


def sigmoid(x):
    x = _float(x)
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, e) / (1 + e)


def relu(x):
    return np.maximum(_float(x), 0)


def gelu(x, *, approximate="none"):
    x = _float(x)
    if approximate == "none":
        t = np.vectorize(math.erf, otypes=[float])(x / math.sqrt(2))
    elif approximate == "tanh":
        t = np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
    else:
        raise ValueError(f"approximate must be 'none' or 'tanh', got {approximate!r}")
    return (x * (1 + t) / 2).astype(x.dtype)


def softmax(x, *, axis=-1):
    x = _float(x)
    e = np.exp(x - x.max(axis=axis, keepdims=True, initial=-np.inf))
    return e / e.sum(axis=axis, keepdims=True)


def log_softmax(x, *, axis=-1):
    x = _float(x)
    z = x - x.max(axis=axis, keepdims=True, initial=-np.inf)
    return z - np.log(np.exp(z).sum(axis=axis, keepdims=True))


def sigmoid_grad(x):
    s = sigmoid(x)
    return s * (1 - s)


def relu_grad(x):
    x = _float(x)
    return (x > 0).astype(x.dtype)


def softmax_backward(y, grad_y, *, axis=-1):
    y, grad_y = _float(y), _float(grad_y)
    if y.shape != grad_y.shape:
        raise ValueError(f"shapes differ: {y.shape} and {grad_y.shape}")
    return y * (grad_y - (y * grad_y).sum(axis=axis, keepdims=True))
