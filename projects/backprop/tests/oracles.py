"""What is right, what would be a likely mistake, and the checks that every layer has to pass.

The oracles are formulas that are differentiated by the complex step: never the answer's own forward, never its derivative.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from shared.testing.checks import assert_close, unchanged
from shared.testing.gradients import assert_gradient, random_cotangent


class Case(NamedTuple):
    """One layer, what it computes, and what its usual mistakes give."""

    make: Callable[..., Any]  # (rng, dtype)
    shape: tuple[int, ...]
    formula: Callable[..., Any]  # (x, parameters), for real and complex numbers
    forward_mistakes: Mapping[str, Callable] = {}  # diagnosis -> f(x, parameters)
    input_mistakes: Mapping[str, Callable] = {}  # diagnosis -> f(x, grad, parameters)
    parameter_mistakes: Mapping[str, Callable] = {}  # diagnosis -> f(x, grad, parameters, name)


class Double:
    """A correct stand-in layer without parameters, y = 2x."""

    parameters, gradients = {}, {}

    def forward(self, x, *, training=False, rng=None):
        return 2 * x

    def backward(self, grad):
        return 2 * grad


class Mix:
    """A correct stand-in layer, y = (x M)²: does not commute with another, so order shows."""

    def __init__(self, n, rng):
        self.parameters = {"mix": random_cotangent((n, n), rng) / n}
        self.gradients = {}
        self.calls = []

    def forward(self, x, *, training=False, rng=None):
        self.calls.append((training, rng))
        self.x, self.product = x, x @ self.parameters["mix"]
        return self.product**2

    def backward(self, grad):
        grad_product = grad * 2 * self.product
        self.gradients["mix"] = self.x.T @ grad_product
        return grad_product @ self.parameters["mix"].T


def build(case, rng, dtype=np.float64):
    """Return a layer with random parameters after a forward pass in training, its input, and a cotangent."""
    layer = case.make(rng, dtype)
    for parameter in layer.parameters.values():
        parameter[...] = random_cotangent(parameter.shape, rng)
    x = random_cotangent(case.shape, rng).astype(dtype)
    y = layer.forward(x.copy(), training=True)
    return layer, x, random_cotangent(np.shape(y), rng).astype(dtype)


def twin_of(case, layer, rng):
    """Return another layer with the same parameters."""
    twin = case.make(rng, np.float64)
    for name, value in layer.parameters.items():
        twin.parameters[name][...] = value
    return twin


def copies(arrays):
    return {name: value.copy() for name, value in arrays.items()}


def bind(mistakes, *arguments):
    """Turn diagnosis -> f into diagnosis -> value-on-demand for assert_close."""
    return {diagnosis: lambda f=f: f(*arguments) for diagnosis, f in mistakes.items()}


def check_dtype(case, rng):
    """float32 stays float32 forward, backward and in the gradients; float64 stays float64."""
    for dtype in (np.float32, np.float64):
        layer, x, grad = build(case, rng, dtype)
        results = {"training output": layer.forward(x, training=True), "input gradient": layer.backward(grad)}
        results |= {f"gradient of {name}": gradient for name, gradient in layer.gradients.items()}
        results |= {"evaluation output": layer.forward(x), "evaluation gradient": layer.backward(grad)}
        for what, value in results.items():
            assert value is not None, f"{what} is None: is a `return` missing?"
            assert value.dtype == dtype, f"{what} is {value.dtype} for {np.dtype(dtype)} input: a silent cast"


def check_nothing_is_modified(case, rng):
    """Neither x nor the gradient that came in, nor what was returned."""
    layer, x, grad = build(case, rng)
    with unchanged(x, grad):
        y = layer.forward(x, training=True)
        saved = y.copy()
        grad_x = layer.backward(grad)
    assert np.array_equal(y, saved), "backward modified the output that forward returned"
    saved = grad_x.copy()
    layer.forward(2 * x, training=True)
    layer.backward(3 * grad)
    assert np.array_equal(grad_x, saved), "a later pass modified the gradient that backward returned"


def check_forward(case, rng):
    """The output is the formula's, for the shape as it is and for a transposed view."""
    layer, x, _ = build(case, rng)
    parameters = copies(layer.parameters)
    views = {"output": x, "output for a transposed view": x.reshape(x.shape[::-1]).T}
    for what, value in views.items():
        assert_close(
            layer.forward(value, training=True),
            case.formula(value, parameters),
            n=x.shape[-1],
            what=what,
            mistakes=bind(case.forward_mistakes, value, parameters),
        )


def check_backward(case, rng):
    """The gradients of input and parameters equal the complex step's, to twelve digits."""
    layer, x, grad = build(case, rng)
    parameters = copies(layer.parameters)
    hint = "nearly right is not right: an approximation, or an eps in one pass only?"
    assert_gradient(
        layer.backward(grad),
        lambda z: case.formula(z, parameters),
        x,
        grad,
        method="complex",
        what="gradient of x",
        mistakes=bind(case.input_mistakes, x, grad, parameters),
        hint=hint,
    )
    for name, value in parameters.items():
        assert name in layer.gradients, f"backward did not set gradients[{name!r}]"
        assert_gradient(
            layer.gradients[name],
            lambda z, name=name: case.formula(x, parameters | {name: z}),
            value,
            grad,
            method="complex",
            what=f"gradient of {name}",
            mistakes=bind(case.parameter_mistakes, x, grad, parameters, name),
            hint=hint,
        )


def check_latest_forward(case, rng):
    """Nothing is left of an earlier forward and backward, though a step has changed the parameters in place since."""
    layer, x, grad = build(case, rng)
    layer.backward(grad)
    for parameter in layer.parameters.values():
        parameter += random_cotangent(parameter.shape, rng)
    fresh = twin_of(case, layer, rng)
    later, later_grad = random_cotangent(x.shape, rng), random_cotangent(grad.shape, rng)
    outputs, grads = [], []
    for each in (layer, fresh):
        outputs.append(each.forward(later, training=True))
        grads.append(each.backward(later_grad))
    hint = "the layer keeps copies of its parameters: a step changes the arrays in `parameters`, so read them each time"
    assert_close(outputs[0], outputs[1], rtol=1e-12, what="output after a step", hint=hint)
    hint = "backward uses what an earlier pass saved, the input or a copy of the weight: take both anew each time"
    assert_close(grads[0], grads[1], rtol=1e-12, what="gradient of x after another pass", hint=hint)
    hint = "the gradient depends on an earlier pass: overwrite it, do not accumulate, and save the input anew"
    for name, value in fresh.gradients.items():
        assert_close(layer.gradients[name], value, rtol=1e-12, what=f"gradient of {name}", hint=hint)


def check_two_share_nothing(case, rng):
    """Two layers on the same input keep their own memory."""
    (one, x, grad), two = build(case, rng), case.make(rng, np.float64)
    expected = one.backward(grad).copy()
    own = copies(one.gradients)
    one.forward(x, training=True)
    two.forward(3 * x[::-1], training=True)
    two.backward(grad)
    hint = "two layers of one class share what forward saved"
    assert_close(one.backward(grad), expected, rtol=1e-12, what="gradient of x", hint=hint)
    for name in own:
        assert two.parameters[name] is not one.parameters[name], "two layers share their parameters"
        assert two.gradients[name] is not one.gradients[name], (
            "two layers of one class share their gradients dict"
        )


def check_leading_axes(case, rng, leading):
    """One vector, a batch of one, more axes: the same rows give the same results, and the parameters' gradients add up."""
    layer = case.make(rng, np.float64)
    x = random_cotangent((*leading, case.shape[-1]), rng)
    flat = x.reshape(-1, x.shape[-1])
    y_flat = layer.forward(flat)
    grad = random_cotangent(y_flat.shape, rng)
    grad_flat = layer.backward(grad)
    expected = copies(layer.gradients)
    try:
        y = layer.forward(x)
        got = layer.backward(grad.reshape(y.shape))
    except (ValueError, IndexError) as error:
        raise AssertionError(f"an input of shape {x.shape} must work, too: {error}") from error
    empty = "an empty batch" if 0 in leading else None
    assert_close(y, y_flat.reshape((*leading, y_flat.shape[-1])), rtol=1e-12, what="output", vacuous_ok=empty)
    assert_close(got, grad_flat.reshape(x.shape), rtol=1e-12, what="gradient of x", vacuous_ok=empty)
    for name, value in expected.items():
        assert_close(layer.gradients[name], value, rtol=1e-12, what=f"gradient of {name}", vacuous_ok=empty)
