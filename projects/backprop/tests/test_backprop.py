"""Judge of the layers: contract, hand values, then torch, the complex step and central differences.

The complex step goes through formulas written in oracles.py, never through the answer's own forward.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from oracles import norm_mistakes, normalise, sigmoid
from torch.nn import functional as F

import backprop
from shared.testing.checks import assert_close, assert_imports_only, expect_error, unchanged
from shared.testing.gradients import assert_gradient, random_cotangent


class Case(NamedTuple):
    """One layer, the independent ways to compute it, and what its usual mistakes give."""

    make: Callable[..., Any]
    shape: tuple[int, ...]
    torch: Callable[..., torch.Tensor]  # (x, **parameters) in torch
    formula: Callable[..., Any] | None = None  # (x, parameters), analytic
    forward_mistakes: Mapping[str, Callable] = {}  # diagnosis -> f(x, parameters)
    input_mistakes: Mapping[str, Callable] = {}  # diagnosis -> f(x, grad_output, parameters)
    parameter_mistakes: Mapping[str, Callable] = {}  # diagnosis -> f(x, grad_output, parameters, name)


CASES = {
    "Linear": Case(
        make=lambda rng, dtype: backprop.Linear(5, 3, rng=rng, dtype=dtype),
        shape=(4, 5),
        torch=lambda x, weight, bias: F.linear(x, weight, bias),
        formula=lambda x, p: x @ p["weight"].T + p["bias"],
        forward_mistakes={
            "the bias is missing": lambda x, p: x @ p["weight"].T,
            "the bias is subtracted": lambda x, p: x @ p["weight"].T - p["bias"],
        },
        parameter_mistakes={
            "the gradient is a mean over the batch: the loss has divided by the batch size already, sum here": (
                lambda x, g, p, name: {"weight": g.T @ x, "bias": g.sum(0)}[name] / len(x)
            ),
        },
    ),
    "ReLU": Case(
        make=lambda rng, dtype: backprop.ReLU(),
        shape=(4, 5),
        torch=F.relu,
        forward_mistakes={"this is the absolute value": lambda x, p: np.abs(x)},
        input_mistakes={
            "the gradient is cut where it is negative itself: cut it where the input was": (
                lambda x, g, p: np.maximum(g, 0)
            ),
            "the gradient also has to be positive to pass: only the input decides": (
                lambda x, g, p: np.maximum(g, 0) * (x > 0)
            ),
            "the gradient passes everywhere": lambda x, g, p: g,
            "grad_output is not multiplied in": lambda x, g, p: (x > 0) * 1.0,
        },
    ),
    "Sigmoid": Case(
        make=lambda rng, dtype: backprop.Sigmoid(),
        shape=(4, 5),
        torch=torch.sigmoid,
        formula=lambda x, p: sigmoid(x),
        input_mistakes={
            "the derivative is taken at the output y instead of x: y (1 - y) already is it": (
                lambda x, g, p: g * sigmoid(sigmoid(x)) * (1 - sigmoid(sigmoid(x)))
            ),
            "the derivative is x (1 - x), with the input where the output belongs": lambda x, g, p: (
                g * x * (1 - x)
            ),
            "grad_output is not multiplied in": lambda x, g, p: sigmoid(x) * (1 - sigmoid(x)),
        },
    ),
    "Tanh": Case(
        make=lambda rng, dtype: backprop.Tanh(),
        shape=(4, 5),
        torch=torch.tanh,
        formula=lambda x, p: np.tanh(x),
        input_mistakes={
            "the derivative is 1 - x², with the input where the output belongs": lambda x, g, p: (
                g * (1 - x**2)
            ),
            "the derivative is 1 - y instead of 1 - y²": lambda x, g, p: g * (1 - np.tanh(x)),
            "grad_output is not multiplied in": lambda x, g, p: 1 - np.tanh(x) ** 2,
        },
    ),
    "BatchNorm": Case(
        make=lambda rng, dtype: backprop.BatchNorm(3, momentum=0.3, eps=1e-2, dtype=dtype),
        shape=(5, 3),
        torch=lambda x, weight, bias: F.batch_norm(x, None, None, weight, bias, training=True, eps=1e-2),
        formula=lambda x, p: normalise(x, p, 0, 1e-2),
        forward_mistakes={
            "each row is normalised over its features: batch norm goes over the batch, axis 0": (
                lambda x, p: normalise(x, p, -1, 1e-2)
            ),
            "x is divided by the unbiased standard deviation: divide the squares by n here": (
                lambda x, p: normalise(x, p, 0, 1e-2, ddof=1)
            ),
            "eps is not the one that was given": lambda x, p: normalise(x, p, 0, 1e-5),
            "weight and bias are not applied": lambda x, p: normalise(
                x, {"weight": 1.0, "bias": 0.0}, 0, 1e-2
            ),
            "training=True uses the running statistics instead of the batch's": lambda x, p: (
                x / np.sqrt(1 + 1e-2) * p["weight"] + p["bias"]
            ),
        },
        input_mistakes=norm_mistakes(0, 1e-2),
    ),
    "LayerNorm": Case(
        make=lambda rng, dtype: backprop.LayerNorm(4, eps=1e-2, dtype=dtype),
        shape=(2, 3, 4),
        torch=lambda x, weight, bias: F.layer_norm(x, (4,), weight, bias, eps=1e-2),
        formula=lambda x, p: normalise(x, p, -1, 1e-2),
        forward_mistakes={
            "each feature is normalised over the batch: layer norm goes over the last axis": (
                lambda x, p: normalise(x, p, 0, 1e-2)
            ),
            "x is divided by the unbiased standard deviation: divide the squares by n": (
                lambda x, p: normalise(x, p, -1, 1e-2, ddof=1)
            ),
            "eps is not the one that was given": lambda x, p: normalise(x, p, -1, 1e-5),
            "eps is added to the standard deviation: it belongs to the variance, under the root": lambda x, p: (
                p["weight"] * (x - x.mean(-1, keepdims=True)) / (x.std(-1, keepdims=True) + 1e-2) + p["bias"]
            ),
            "weight and bias are not applied": lambda x, p: normalise(
                x, {"weight": 1.0, "bias": 0.0}, -1, 1e-2
            ),
        },
        input_mistakes=norm_mistakes(-1, 1e-2),
    ),
}
every_layer = pytest.mark.parametrize("function", CASES)
with_parameters = pytest.mark.parametrize("function", ["Linear", "BatchNorm", "LayerNorm"])


def build(function, rng, dtype=np.float64):
    """Return a layer with random parameters, an input with a few negative entries, and a cotangent."""
    layer = CASES[function].make(rng, dtype)
    for parameter in layer.parameters.values():
        parameter[...] = random_cotangent(parameter.shape, rng)
    x = random_cotangent(CASES[function].shape, rng).astype(dtype)
    y = layer.forward(x.copy(), training=True)
    return layer, x, random_cotangent(np.shape(y), rng).astype(dtype)


def bind(mistakes, *arguments):
    """Turn diagnosis -> f into diagnosis -> value-on-demand for assert_close."""
    return {diagnosis: lambda f=f: f(*arguments) for diagnosis, f in mistakes.items()}


# --- contract: imports, names, shapes, dtypes, errors ---------------------------------------------------------


@pytest.mark.grades
def test_imports_only_numpy():
    """The answer is written with NumPy alone."""
    assert_imports_only(backprop, allowed={"numpy"})


@pytest.mark.grades("Linear")
def test_linear_parameters(rng):
    """Linear starts with He-normal weights and zero biases of the dtype asked for."""
    layer = backprop.Linear(200, 300, rng=rng)
    assert set(layer.parameters) == {"weight", "bias"}, f"parameters are named {set(layer.parameters)}"
    assert dict(layer.gradients) == {}, "gradients must be an empty dict until backward has run"
    weight, bias = layer.parameters["weight"], layer.parameters["bias"]
    assert weight.shape == (300, 200), f"weight has shape {weight.shape}, expected (out, in) = (300, 200)"
    assert weight.dtype == bias.dtype == np.float32, (
        "float32 is the default; np.sqrt(...) is a float64 scalar"
    )
    assert_close(bias, np.zeros(300), dtype=np.float32, vacuous_ok="biases start at zero", what="bias")
    spread = float(weight.std())
    assert abs(spread - 0.1) < 0.002, (
        f"weights have standard deviation {spread:.4f}, not sqrt(2 / n_in) = 0.1"
    )
    assert abs(float(weight.mean())) < 0.002, "weights are not centred at zero"
    one, same, other = (
        backprop.Linear(4, 3, rng=np.random.default_rng(s)).parameters["weight"] for s in (1, 1, 2)
    )
    assert np.array_equal(one, same), "the weights must be drawn from rng, so that a seed repeats them"
    assert not np.array_equal(one, other), "the weights do not depend on rng"
    wide = backprop.Linear(4, 3, rng=rng, bias=False, dtype=np.float64).parameters
    assert set(wide) == {"weight"}, "bias=False leaves out the bias"
    assert wide["weight"].dtype == np.float64, "dtype=np.float64 is ignored"


@pytest.mark.parametrize("function", ["BatchNorm", "LayerNorm"])
def test_norm_parameters(function):
    """A norm starts as the identity on normalised data: weight one, bias zero."""
    for layer, dtype in [
        (getattr(backprop, function)(3), np.float32),
        (getattr(backprop, function)(3, dtype=np.float64), np.float64),
    ]:
        assert set(layer.parameters) == {"weight", "bias"}, f"parameters are named {set(layer.parameters)}"
        for name, value in (("weight", 1.0), ("bias", 0.0)):
            assert_close(
                layer.parameters[name], np.full(3, value), dtype=dtype, what=name, vacuous_ok="starting value"
            )
        assert dict(layer.gradients) == {}, "gradients must be an empty dict until backward has run"


@every_layer
def test_backward_before_forward(function, rng):
    """Backward without forward says so."""
    layer = CASES[function].make(rng, np.float64)
    with expect_error(
        RuntimeError, otherwise="backward before forward must raise a RuntimeError that says so"
    ):
        layer.backward(np.ones((4, 3)))


@every_layer
def test_backward_checks_the_shape(function, rng):
    """A gradient that does not have the output's shape is refused, with both shapes."""
    layer, _x, cotangent = build(function, rng)
    wrong = cotangent[:1]
    with expect_error(
        ValueError,
        str(wrong.shape),
        str(cotangent.shape),
        otherwise="a gradient of another shape than the output's must be refused: it would broadcast silently",
    ):
        layer.backward(wrong)


@with_parameters
def test_forward_checks_the_width(function, rng):
    """An input of another width is refused by name of its shape."""
    layer = CASES[function].make(rng, np.float64)
    with expect_error(ValueError, "(4, 1)", otherwise="an input of another width must be a ValueError"):
        layer.forward(np.ones((4, 1)), training=True)


@every_layer
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_is_kept(function, dtype, rng):
    """float32 stays float32 forward, backward and in the gradients; float64 stays float64."""
    layer, x, cotangent = build(function, rng, dtype)
    results = {
        "training output": layer.forward(x, training=True),
        "input gradient": layer.backward(cotangent),
    }
    results |= {f"gradient of {name}": gradient for name, gradient in layer.gradients.items()}
    results |= {"evaluation output": layer.forward(x), "evaluation gradient": layer.backward(cotangent)}
    for what, value in results.items():
        assert value.dtype == dtype, f"{what} is {value.dtype} for {np.dtype(dtype)} input: a silent cast"


@every_layer
def test_inputs_stay_as_they_are(function, rng):
    """Neither x nor grad_output is modified."""
    layer, x, cotangent = build(function, rng)
    with unchanged(x, cotangent):
        y = layer.forward(x, training=True)
        saved = y.copy()
        layer.backward(cotangent)
    assert np.array_equal(y, saved), "backward modified the output that forward returned"


# --- by hand --------------------------------------------------------------------------------------------------


@pytest.mark.grades("Linear")
def test_linear_by_hand():
    """Output x Wᵀ + b and its three gradients on a 2x2 example."""
    layer = backprop.Linear(2, 2, rng=np.random.default_rng(0), dtype=np.float64)
    layer.parameters["weight"][...] = [[1, 2], [3, 4]]
    layer.parameters["bias"][...] = [10, 20]
    y = layer.forward(np.array([[1.0, 1.0], [0.0, 2.0]]))
    assert_close(
        y,
        [[13.0, 27.0], [14.0, 28.0]],
        what="y",
        mistakes={"this is x W: use Wᵀ": [[14.0, 26.0], [16.0, 28.0]]},
    )
    grad_x = layer.backward(np.array([[1.0, 0.0], [10.0, 100.0]]))
    assert_close(
        layer.gradients["weight"],
        [[1.0, 21.0], [0.0, 200.0]],
        what="gradient of weight",
        mistakes={"this is the gradient of Wᵀ: weight is (out, in)": [[1.0, 0.0], [21.0, 200.0]]},
    )
    assert_close(
        layer.gradients["bias"],
        [11.0, 100.0],
        what="gradient of bias",
        mistakes={
            "the gradient is a mean over the batch: the loss has divided by the batch size already, sum here": [
                5.5,
                50,
            ]
        },
    )
    assert_close(
        grad_x,
        [[1.0, 2.0], [310.0, 420.0]],
        what="gradient of x",
        mistakes={"this is grad_output Wᵀ: use W": [[1.0, 3.0], [210.0, 430.0]]},
    )


@pytest.mark.grades("ReLU")
def test_relu_by_hand():
    """The gradient passes where x > 0, and not at 0."""
    layer = backprop.ReLU()
    assert_close(layer.forward(np.array([-2.0, 0.0, 3.0, 4.0])), [0.0, 0.0, 3.0, 4.0], what="y")
    assert_close(
        layer.backward(np.array([5.0, 6.0, 7.0, -8.0])),
        [0.0, 0.0, 7.0, -8.0],
        what="gradient of x",
        mistakes={
            "the gradient passes at x = 0": [0.0, 6.0, 7.0, -8.0],
            "the gradient also has to be positive to pass: only the input decides": [0.0, 0.0, 7.0, 0.0],
        },
    )


@pytest.mark.grades("Sigmoid")
def test_sigmoid_saturates_quietly():
    """Large inputs of both signs give 0 and 1, without an overflow."""
    layer = backprop.Sigmoid()
    try:
        y = layer.forward(np.array([-1e4, -800.0, 0.0, 800.0, 1e4]))
    except RuntimeWarning as warning:
        raise AssertionError(
            f"exp overflows for large negative x ({warning}): use exp(-|x|), or tanh"
        ) from warning
    assert_close(y, [0.0, 0.0, 0.5, 1.0, 1.0], what="y")
    mistakes = {
        "the derivative is taken at the output y instead of x: y (1 - y) already is it": sigmoid(y)
        * (1 - sigmoid(y))
    }
    assert_close(
        layer.backward(np.ones(5)), [0.0, 0.0, 0.25, 0.0, 0.0], what="gradient of x", mistakes=mistakes
    )


@pytest.mark.parametrize("function", ["BatchNorm", "LayerNorm"])
def test_norm_by_hand(function):
    """Normalising 1, 3 gives -1, 1."""
    layer = getattr(backprop, function)(2, eps=0.0, dtype=np.float64)
    x = np.array([[1.0, 10.0], [3.0, 14.0]])
    expected = {"BatchNorm": [[-1.0, -1.0], [1.0, 1.0]], "LayerNorm": [[-1.0, 1.0], [-1.0, 1.0]]}
    swapped = {"BatchNorm": "LayerNorm", "LayerNorm": "BatchNorm"}[function]
    diagnosis = {
        "BatchNorm": "each row is normalised over its features: batch norm goes over the batch, axis 0",
        "LayerNorm": "each feature is normalised over the batch: layer norm goes over the last axis",
    }[function]
    assert_close(
        layer.forward(x, training=True), expected[function], what="y", mistakes={diagnosis: expected[swapped]}
    )


# --- against torch, the complex step and central differences --------------------------------------------------


@every_layer
def test_forward_matches_torch(function, rng):
    """The output equals torch's in float64."""
    layer, x, _ = build(function, rng)
    case, parameters = CASES[function], {k: v.copy() for k, v in layer.parameters.items()}
    expected = case.torch(torch.from_numpy(x), **{k: torch.from_numpy(v) for k, v in parameters.items()})
    assert_close(
        layer.forward(x, training=True),
        expected.detach().numpy(),
        rtol=1e-12,
        what=f"{function} output",
        mistakes=bind(case.forward_mistakes, x, parameters),
    )


@every_layer
def test_backward_matches_torch(function, rng):
    """The gradients of input and parameters equal torch autograd's to 1e-10."""
    layer, x, cotangent = build(function, rng)
    case, parameters = CASES[function], {k: v.copy() for k, v in layer.parameters.items()}
    x_torch = torch.tensor(x, requires_grad=True)
    p_torch = {k: torch.tensor(v, requires_grad=True) for k, v in parameters.items()}
    (case.torch(x_torch, **p_torch) * torch.from_numpy(cotangent)).sum().backward()
    got = layer.backward(cotangent)
    assert_close(
        got,
        x_torch.grad.numpy(),
        rtol=1e-10,
        what=f"gradient of {function}'s input",
        mistakes=bind(case.input_mistakes, x, cotangent, parameters),
    )
    for name, parameter in p_torch.items():
        assert name in layer.gradients, f"backward did not set gradients[{name!r}]"
        assert_close(
            layer.gradients[name],
            parameter.grad.numpy(),
            rtol=1e-10,
            what=f"gradient of {function}'s {name}",
            mistakes=bind(case.parameter_mistakes, x, cotangent, parameters, name),
        )


@pytest.mark.parametrize("function", [name for name, case in CASES.items() if case.formula])
def test_backward_matches_complex_step(function, rng):
    """Where the layer is analytic, the gradients are right to twelve digits."""
    layer, x, cotangent = build(function, rng)
    formula, parameters = CASES[function].formula, {k: v.copy() for k, v in layer.parameters.items()}
    hint = "nearly right is not right: an approximation, or an eps in one pass only?"
    got = layer.backward(cotangent)
    assert_gradient(
        got, lambda z: formula(z, parameters), x, cotangent, method="complex", what="gradient of x", hint=hint
    )
    for name, value in parameters.items():
        assert_gradient(
            layer.gradients[name],
            lambda z, name=name: formula(x, parameters | {name: z}),
            value,
            cotangent,
            method="complex",
            what=f"gradient of {name}",
            hint=hint,
        )


@every_layer
def test_backward_matches_own_forward(function, rng):
    """Backward is the derivative of this very forward, by central differences."""
    layer, x, cotangent = build(function, rng)
    twin = CASES[function].make(rng, np.float64)
    for name, value in layer.parameters.items():
        twin.parameters[name][...] = value
    assert_gradient(layer.backward(cotangent), lambda z: twin.forward(z, training=True), x, cotangent)


@every_layer
def test_backward_belongs_to_the_latest_forward(function, rng):
    """Nothing is left of an earlier forward and backward: neither what was saved nor the gradients."""
    layer, x, cotangent = build(function, rng)
    fresh = CASES[function].make(rng, np.float64)
    for name, value in layer.parameters.items():
        fresh.parameters[name][...] = value
    layer.backward(cotangent)
    later, later_cotangent = random_cotangent(x.shape, rng), random_cotangent(cotangent.shape, rng)
    grads = []
    for each in (layer, fresh):
        each.forward(later, training=True)
        grads.append(each.backward(later_cotangent))
    hint = "backward uses what an earlier forward saved: save it anew each time"
    assert_close(grads[0], grads[1], rtol=1e-12, what="gradient of x after another pass", hint=hint)
    hint = "the gradient depends on an earlier pass: overwrite it, do not accumulate, and save the input anew"
    for name, value in fresh.gradients.items():
        assert_close(layer.gradients[name], value, rtol=1e-12, what=f"gradient of {name}", hint=hint)


@every_layer
def test_two_layers_share_nothing(function, rng):
    """Two layers on the same input keep their own memory: nothing lives on the class."""
    (one, x, cotangent), two = build(function, rng), CASES[function].make(rng, np.float64)
    expected = one.backward(cotangent).copy()
    one.forward(x, training=True)
    two.forward(3 * x[::-1], training=True)
    hint = "two layers of one class share what forward saved"
    assert_close(one.backward(cotangent), expected, rtol=1e-12, what="gradient of x", hint=hint)
    for name, gradient in one.gradients.items():
        assert two.gradients.get(name) is not gradient, "two layers of one class share their gradients dict"
        assert two.parameters[name] is not one.parameters[name], "two layers share their parameters"


@pytest.mark.parametrize("function", ["Linear", "LayerNorm", "ReLU", "Sigmoid", "Tanh"])
@pytest.mark.parametrize("leading", [(), (1,), (7,), (2, 3), (0,)])
def test_any_leading_shape(function, leading, rng):
    """One vector, a batch of one, more axes, and an empty batch."""
    layer = CASES[function].make(rng, np.float64)
    x = random_cotangent((*leading, CASES[function].shape[-1]), rng)
    flat = x.reshape(-1, x.shape[-1])
    y_flat = layer.forward(flat)
    cotangent = random_cotangent(y_flat.shape, rng)
    grad_flat = layer.backward(cotangent)
    expected = {name: gradient.copy() for name, gradient in layer.gradients.items()}
    y = layer.forward(x)
    empty = "an empty batch" if 0 in leading else None
    assert_close(y, y_flat.reshape((*leading, y_flat.shape[-1])), rtol=1e-12, what="output", vacuous_ok=empty)
    got = layer.backward(cotangent.reshape(y.shape))
    assert_close(got, grad_flat.reshape(x.shape), rtol=1e-12, what="gradient of x", vacuous_ok=empty)
    for name, value in expected.items():
        assert_close(layer.gradients[name], value, rtol=1e-12, what=f"gradient of {name}", vacuous_ok=empty)


@pytest.mark.grades("Linear")
def test_linear_without_bias(rng):
    """bias=False: no bias, and no gradient of one."""
    layer = backprop.Linear(5, 3, rng=rng, bias=False, dtype=np.float64)
    x = random_cotangent((4, 5), rng)
    assert_close(layer.forward(x), x @ layer.parameters["weight"].T, rtol=1e-12, what="output")
    layer.backward(np.ones((4, 3)))
    assert set(layer.gradients) == {"weight"}, f"gradients are {set(layer.gradients)}, expected only weight"
