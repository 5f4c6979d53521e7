"""What is right, what would be a likely mistake, and the comparison of an answer with both.

The oracles are SciPy and closed forms in float64: never the answer's own code, and never its formula again.
"""

from __future__ import annotations

import contextlib
import math
import warnings

import numpy as np
import scipy.special

from shared.testing.checks import assert_close

ELEMENTWISE = ["sigmoid", "relu", "gelu"]
ALONG_AXIS = ["softmax", "log_softmax"]
GRADIENTS = ["sigmoid_grad", "relu_grad"]
UNARY = [*ELEMENTWISE, *ALONG_AXIS, *GRADIENTS]
CORE = [*UNARY, "softmax_backward"]
WITH_AXIS = [*ALONG_AXIS, "softmax_backward"]


def gelu(x, *, approximate="none"):
    if approximate == "none":
        return x * scipy.special.ndtr(x)
    return x * scipy.special.expit(
        math.sqrt(8 / math.pi) * (x + 0.044715 * x**3)
    )  # (1 + tanh(u))/2 is expit(2u)


def jacobian_product(y, grad_y, *, axis=-1):
    """Build the Jacobian of softmax row by row: the slow way that leaves no doubt."""
    y, grad_y = np.moveaxis(y, axis, -1), np.moveaxis(grad_y, axis, -1)
    product = np.empty(y.shape)
    for row in np.ndindex(y.shape[:-1]):
        product[row] = (np.diag(y[row]) - np.outer(y[row], y[row])) @ grad_y[row]
    return np.moveaxis(product, -1, axis)


ORACLES = {
    "sigmoid": scipy.special.expit,
    "relu": lambda x: (x + np.abs(x)) / 2,
    "gelu": gelu,
    "softmax": lambda x, axis=-1: scipy.special.softmax(x, axis=axis),
    "log_softmax": lambda x, axis=-1: scipy.special.log_softmax(x, axis=axis),
    "sigmoid_grad": lambda x: 0.25 / np.cosh(np.clip(x, -700, 700) / 2) ** 2,
    "relu_grad": lambda x: np.heaviside(x, 0.0),
    "softmax_backward": jacobian_product,
}


def likely_mistakes(oracles, name, *inputs, **options):
    """Return what likely mistakes would give, by diagnosis, for float64 inputs."""
    x = inputs[0]
    found = {"looks like zeros": lambda: np.zeros(oracles[name](*inputs, **options).shape)}
    if (name in WITH_AXIS or "axis" in options) and x.ndim > 1:
        for axis in set(range(x.ndim)) - {options.get("axis", -1) % x.ndim}:
            where = f"looks like it works over axis {axis - x.ndim}, not over the axis asked for"
            found[where] = lambda axis=axis: oracles[name](*inputs, axis=axis)
        found["looks like the sum runs over the whole array, not along the axis"] = lambda: oracles[name](
            *(a.ravel() for a in inputs)
        ).reshape(x.shape if name != "logsumexp" else ())
    if "approximate" in options:
        found["looks like approximate is ignored"] = lambda: oracles[name](x)
    elif name in ("gelu", "gelu_grad"):
        exact = "looks like the tanh formula; approximate='none' asks for the exact one"
        found[exact] = lambda: oracles[name](x, approximate="tanh")
    with np.errstate(all="ignore"):
        found |= {
            "sigmoid": {
                "looks like sigmoid(-x): the sign of the exponent is wrong": scipy.special.expit(-x),
            },
            "gelu": {
                "looks like x·sigmoid(1.702·x), another approximation": x * scipy.special.expit(1.702 * x),
                "looks like Φ(x) alone: the input that it weights is missing": scipy.special.ndtr(x),
                "looks like erf(x) for erf(x/√2)": x * (1 + scipy.special.erf(x)) / 2,
            },
            "softmax": {"looks like exp(x): it is not divided by the sum": np.exp(x)},
            "log_softmax": {
                "looks like the probabilities: the logarithm is missing": lambda: scipy.special.softmax(
                    x, **options
                ),
                "looks like a logarithm to base 2": lambda: oracles[name](x, **options) / math.log(2),
            },
            "relu_grad": {"looks like relu itself, not its derivative": np.maximum(x, 0)},
            "sigmoid_grad": {
                "looks like x·(1 - x): the argument is sigmoid's input, not its output": x * (1 - x),
                "looks like sigmoid itself, not its derivative": scipy.special.expit(x),
            },
            "softmax_backward": {
                "looks like y·(1 - y)·grad_y, the diagonal of the Jacobian: the logits share one denominator": (
                    x * (1 - x) * inputs[-1]
                ),
                "looks like y·grad_y: the part through the denominator is missing": x * inputs[-1],
                "looks like grad_y·(y - sum): y and grad_y are exchanged": lambda: (
                    inputs[-1] * (x - (x * inputs[-1]).sum(axis=options.get("axis", -1), keepdims=True))
                ),
                "looks like the sign of the sum is wrong": lambda: (
                    2 * x * inputs[-1] - jacobian_product(x, inputs[-1], **options)
                ),
            },
        }.get(name, {})
    return found


def as_double(value):
    return np.asarray(value).astype(np.float64)


def arguments(name, x, axis=-1):
    """Return the inputs for a function: `x`, or probabilities along `axis` and a cotangent, in the dtype of `x`."""
    if name != "softmax_backward":
        return (x,)
    x = np.asarray(x)
    if x.size == 0:
        return x, x
    dtype = x.dtype if x.dtype.kind == "f" else np.float64
    return scipy.special.softmax(as_double(x), axis=axis).astype(dtype), np.cos(5 * as_double(x)).astype(
        dtype
    )


def check(module, name, x, dtype=None, what=None, hint=None, **options):
    """Compare ``module.name(x)`` with its oracle, computed in float64 from the very numbers that the function got."""
    inputs = arguments(name, x, options.get("axis", -1))
    doubles = [as_double(value) for value in inputs]
    assert_close(
        getattr(module, name)(*inputs, **options),
        ORACLES[name](*doubles, **options),
        dtype=np.dtype(inputs[0].dtype if dtype is None else dtype),
        n=doubles[0].shape[options.get("axis", -1)] if name in WITH_AXIS and doubles[0].ndim else 1,
        what=what or f"{name}({', '.join(f'{k}={v!r}' for k, v in options.items()) or 'x'})",
        mistakes=likely_mistakes(ORACLES, name, *doubles, **options),
        hint=hint,
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
