"""What is right, what would be a likely mistake, and the comparison of an answer with both.

The oracles are SciPy, torch and closed forms in float64: never the answer's own code.
"""

from __future__ import annotations

import contextlib
import warnings

import numpy as np
import scipy.special
import torch
import torch.nn.functional as F

import activations
from shared.testing.checks import assert_close

ELEMENTWISE = ["sigmoid", "tanh", "relu", "leaky_relu", "gelu", "silu"]
ALONG_AXIS = ["softmax", "log_softmax", "logsumexp"]
GRADIENTS = ["sigmoid_grad", "tanh_grad", "relu_grad", "leaky_relu_grad", "gelu_grad", "silu_grad"]
EVERY = [*ELEMENTWISE, *ALONG_AXIS, *GRADIENTS, "softmax_backward"]
UNARY = EVERY[:-1]
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


def closed_form(function):
    def value(x):
        with np.errstate(over="ignore"):  # cosh overflows where its inverse is 0
            return function(x)

    return value


def jacobian_product(y, grad_y, *, axis=-1):
    """Build the Jacobian of softmax row by row: the slow way that leaves no doubt."""
    y, grad_y = np.moveaxis(y, axis, -1), np.moveaxis(grad_y, axis, -1)
    product = np.empty(y.shape)
    for row in np.ndindex(y.shape[:-1]):
        product[row] = (np.diag(y[row]) - np.outer(y[row], y[row])) @ grad_y[row]
    return np.moveaxis(product, -1, axis)


ORACLES = {
    "sigmoid": scipy.special.expit,
    "tanh": by_torch(torch.tanh),
    "relu": by_torch(F.relu),
    "leaky_relu": by_torch(F.leaky_relu),
    "gelu": by_torch(F.gelu),
    "silu": by_torch(F.silu),
    "softmax": lambda x, axis=-1: scipy.special.softmax(x, axis=axis),
    "log_softmax": lambda x, axis=-1: scipy.special.log_softmax(x, axis=axis),
    "logsumexp": lambda x, axis=-1: scipy.special.logsumexp(x, axis=axis),
    "sigmoid_grad": closed_form(lambda x: 0.25 / np.cosh(x / 2) ** 2),  # autograd's s·(1 - s) cancels
    "tanh_grad": closed_form(lambda x: 1 / np.cosh(x) ** 2),
    "relu_grad": by_autograd(F.relu),
    "leaky_relu_grad": by_autograd(F.leaky_relu),
    "gelu_grad": by_autograd(F.gelu),
    "silu_grad": by_autograd(F.silu),
    "softmax_backward": jacobian_product,
}


def mistakes(name, *inputs, **options):
    """Return what likely mistakes would give, by diagnosis, for float64 inputs."""
    x = inputs[0]
    found = {"looks like zeros": lambda: np.zeros(ORACLES[name](*inputs, **options).shape)}
    if name in WITH_AXIS and x.ndim > 1:
        for axis in set(range(x.ndim)) - {options.get("axis", -1) % x.ndim}:
            where = f"looks like it works over axis {axis - x.ndim}, not over the axis asked for"
            found[where] = lambda axis=axis: ORACLES[name](*inputs, axis=axis)
        found["looks like the sum runs over the whole array, not along the axis"] = lambda: ORACLES[name](
            *(a.ravel() for a in inputs)
        ).reshape(x.shape if name != "logsumexp" else ())
    if "negative_slope" in options:
        found["looks like negative_slope is ignored"] = lambda: ORACLES[name](x)
    if "approximate" in options:
        found["looks like approximate is ignored"] = lambda: ORACLES[name](x)
    elif name in ("gelu", "gelu_grad"):
        exact = "looks like the tanh formula; approximate='none' asks for the exact one"
        found[exact] = lambda: ORACLES[name](x, approximate="tanh")
    with np.errstate(all="ignore"):
        found |= {
            "gelu": {
                "looks like x·sigmoid(1.702·x), another approximation": x * scipy.special.expit(1.702 * x)
            },
            "sigmoid_grad": {
                "looks like x·(1 - x): the argument is sigmoid's input, not its output": x * (1 - x)
            },
            "tanh_grad": {"looks like 1 - x²: the argument is tanh's input, not its output": 1 - x**2},
            "silu_grad": {
                "looks like sigmoid(x) alone: the product rule has a second term": scipy.special.expit(x)
            },
            "softmax_backward": {
                "looks like y·(1 - y)·grad_y, the diagonal of the Jacobian: the logits share one denominator": (
                    x * (1 - x) * inputs[-1]
                ),
                "looks like y·grad_y: the part through the denominator is missing": x * inputs[-1],
            },
        }.get(name, {})
    return found


def as_double(value):
    return np.asarray(value).astype(np.float64)


def arguments(name, x):
    """Return the inputs for a function: `x`, or probabilities and a cotangent made from it, in the dtype of `x`."""
    if name != "softmax_backward":
        return (x,)
    x = np.asarray(x)
    if x.size == 0:
        return x, x
    dtype = x.dtype if x.dtype.kind == "f" else np.float64
    return scipy.special.softmax(as_double(x), axis=-1).astype(dtype), np.cos(5 * as_double(x)).astype(dtype)


def check(name, x, dtype=None, what=None, hint=None, **options):
    """Compare ``name(x)`` with its oracle, computed in float64 from the very numbers that the function got."""
    inputs = arguments(name, x)
    doubles = [as_double(value) for value in inputs]
    dtype = np.dtype(inputs[0].dtype if dtype is None else dtype)
    axis = options.get("axis", -1)
    # float16 is summed in float32 and rounded once (half an eps), not once per term; 6e-8 is its smallest number
    precision = {"rtol": float(np.finfo(dtype).eps), "atol": 6e-8} if dtype == np.float16 else {}
    assert_close(
        getattr(activations, name)(*inputs, **options),
        ORACLES[name](*doubles, **options),
        dtype=dtype,
        n=doubles[0].shape[axis] if name in WITH_AXIS and doubles[0].ndim else 1,
        what=what or f"{name}({', '.join(f'{k}={v!r}' for k, v in options.items()) or 'x'})",
        mistakes=mistakes(name, *doubles, **options),
        hint=hint,
        **precision,
    )


@contextlib.contextmanager
def no_warning(diagnosis):
    """Turn a floating-point warning into a failure that says what it means."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            yield
        except RuntimeWarning as warning:
            raise AssertionError(f"{diagnosis} (NumPy warns: {warning})") from warning
