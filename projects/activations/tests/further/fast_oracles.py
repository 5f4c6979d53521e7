"""The oracles of fast.py: those of the core, and closed forms for what it has more; none is the formula of fast.py."""

from __future__ import annotations

import math

import numpy as np
import scipy.special
from oracles import CORE, arguments, as_double, likely_mistakes
from oracles import ORACLES as CORE_ORACLES

import fast
from shared.testing.checks import assert_close

ELEMENTWISE = ["sigmoid", "tanh", "relu", "leaky_relu", "gelu", "silu"]
ALONG_AXIS = ["softmax", "log_softmax", "logsumexp"]
GRADIENTS = ["sigmoid_grad", "tanh_grad", "relu_grad", "leaky_relu_grad", "gelu_grad", "silu_grad"]
EVERY = [*ELEMENTWISE, *ALONG_AXIS, *GRADIENTS, "softmax_backward"]
UNARY = EVERY[:-1]
MORE = [name for name in EVERY if name not in CORE]  # test_fast_as_core.py has the others
WITH_OUT = ["sigmoid", "tanh", "relu", "softmax"]
WITH_AXIS = [*ALONG_AXIS, "softmax_backward"]


def tanh(x):
    return np.sign(x) * -np.expm1(-2 * np.abs(x)) / (1 + np.exp(-2 * np.abs(x)))


def leaky_relu(x, *, negative_slope=0.01):
    return np.where(x > 0, x, negative_slope * x)


def leaky_relu_grad(x, *, negative_slope=0.01):
    return np.where(np.isnan(x), x, np.where(x > 0, 1.0, negative_slope))


def silu_grad(x):
    s = scipy.special.expit(x)
    return s + np.clip(x, -1000, 1000) * s * scipy.special.expit(-x)


def gelu_grad(x, *, approximate="none"):
    x = np.clip(x, -100, 100)
    if approximate == "none":
        return scipy.special.ndtr(x) + x * np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    u, slope = SLOPE * (x + 0.044715 * x**3), SLOPE * (1 + 0.134145 * x**2)
    return scipy.special.expit(u) + x * scipy.special.expit(u) * scipy.special.expit(-u) * slope


SLOPE = math.sqrt(8 / math.pi)  # gelu's tanh formula is x·sigmoid(SLOPE·(x + 0.044715·x³))
ORACLES = {
    **CORE_ORACLES,
    "tanh": tanh,
    "leaky_relu": leaky_relu,
    "silu": lambda x: np.clip(x, -1000, np.inf) * scipy.special.expit(x),
    "logsumexp": lambda x, axis=-1: scipy.special.logsumexp(x, axis=axis),
    "relu_grad": lambda x: leaky_relu_grad(x, negative_slope=0.0),
    "tanh_grad": lambda x: 1 / np.cosh(np.clip(x, -700, 700)) ** 2,
    "leaky_relu_grad": leaky_relu_grad,
    "gelu_grad": gelu_grad,
    "silu_grad": silu_grad,
}


def mistakes(name, *inputs, **options):
    """Return what likely mistakes would give, by diagnosis, for float64 inputs."""
    x = inputs[0]
    if name == "logsumexp":
        options = {"axis": -1, **options}
    found = likely_mistakes(ORACLES, name, *inputs, **options)
    if "negative_slope" in options:
        found["looks like negative_slope is ignored"] = lambda: ORACLES[name](x)
    if name == "tanh_grad":
        found["looks like 1 - x²: the argument is tanh's input, not its output"] = 1 - x**2
    if name == "silu_grad":
        found["looks like sigmoid(x) alone: the product rule has a second term"] = scipy.special.expit(x)
    return found


def check(name, x, dtype=None, what=None, hint=None, **options):
    """Compare ``name(x)`` with its oracle, computed in float64 from the very numbers that the function got."""
    inputs = arguments(name, x, options.get("axis", -1))
    doubles = [as_double(value) for value in inputs]
    dtype = np.dtype(inputs[0].dtype if dtype is None else dtype)
    axis = options.get("axis", -1)
    # float16 is summed in float32 and rounded once (half an eps), not once per term; 6e-8 is its smallest number
    precision = {"rtol": float(np.finfo(dtype).eps), "atol": 6e-8} if dtype == np.float16 else {}
    assert_close(
        getattr(fast, name)(*inputs, **options),
        ORACLES[name](*doubles, **options),
        dtype=dtype,
        n=doubles[0].shape[axis] if name in WITH_AXIS and doubles[0].ndim else 1,
        what=what or f"{name}({', '.join(f'{k}={v!r}' for k, v in options.items()) or 'x'})",
        mistakes=mistakes(name, *doubles, **options),
        hint=hint,
        **precision,
    )
