"""The oracles of fast.py: those of the core, and torch for what it has more."""

from __future__ import annotations

import numpy as np
import scipy.special
import torch
import torch.nn.functional as F
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


def by_torch(function):
    return lambda x, **options: function(torch.tensor(x), **options).numpy()


def by_autograd(function):
    def derivative(x, **options):
        point = torch.tensor(x, requires_grad=True)
        function(point, **options).sum().backward()
        return point.grad.numpy()

    return derivative


ORACLES = {
    **CORE_ORACLES,
    "tanh": by_torch(torch.tanh),
    "leaky_relu": by_torch(F.leaky_relu),
    "silu": by_torch(F.silu),
    "logsumexp": lambda x, axis=-1: scipy.special.logsumexp(x, axis=axis),
    "tanh_grad": lambda x: 1 / np.cosh(np.clip(x, -700, 700)) ** 2,
    "leaky_relu_grad": by_autograd(F.leaky_relu),
    "gelu_grad": by_autograd(F.gelu),
    "silu_grad": by_autograd(F.silu),
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
    inputs = arguments(name, x)
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
