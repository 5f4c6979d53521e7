"""The layers with a forward and a backward of their own: contract, values worked by hand, formulas, options."""

import numpy as np
import pytest
from oracles import (
    Case,
    bind,
    check_backward,
    check_dtype,
    check_forward,
    check_latest_forward,
    check_leading_axes,
    check_nothing_is_modified,
    check_two_share_nothing,
)

import backprop
from shared.testing.checks import assert_close, assert_imports_only
from shared.testing.gradients import random_cotangent

CASES = {
    "Linear": Case(
        make=lambda rng, dtype: backprop.Linear(5, 3, rng=rng, dtype=dtype),
        shape=(5, 5),
        formula=lambda x, p: np.einsum("...i,oi->...o", x, p["weight"]) + p["bias"],
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
        formula=lambda x, p: np.where(x.real > 0, x, 0),
        forward_mistakes={"this is the absolute value": lambda x, p: np.abs(x)},
        input_mistakes={
            "the gradient is cut where it is negative itself: cut it where the input was": (
                lambda x, g, p: np.maximum(g, 0)
            ),
            "the gradient also has to be positive to pass: only the input decides": (
                lambda x, g, p: np.maximum(g, 0) * (x > 0)
            ),
            "the gradient passes everywhere": lambda x, g, p: g,
            "the gradient that came in is not multiplied in": lambda x, g, p: (x > 0) * 1.0,
        },
    ),
    "Tanh": Case(
        make=lambda rng, dtype: backprop.Tanh(),
        shape=(4, 5),
        formula=lambda x, p: np.tanh(x),
        input_mistakes={
            "the derivative is 1 - x², with the input where the output belongs": lambda x, g, p: (
                g * (1 - x**2)
            ),
            "the derivative is 1 - y instead of 1 - y²": lambda x, g, p: g * (1 - np.tanh(x)),
            "the gradient that came in is not multiplied in": lambda x, g, p: 1 - np.tanh(x) ** 2,
        },
    ),
}
every_layer = pytest.mark.parametrize("function", CASES)

# --- 1. the contract ------------------------------------------------------------------------------------------


@pytest.mark.grades
def test_imports_only_numpy():
    """The answer is written with NumPy alone."""
    assert_imports_only(backprop, allowed={"numpy"})


@pytest.mark.grades("Linear")
def test_linear_parameters(rng):
    """Linear starts with He-normal weights and zero biases of the dtype asked for."""
    layer = backprop.Linear(200, 300, rng=rng)
    assert set(layer.parameters) == {"weight", "bias"}, f"parameters are named {set(layer.parameters)}"
    weight, bias = layer.parameters["weight"], layer.parameters["bias"]
    assert weight.shape == (300, 200), f"weight has shape {weight.shape}, expected (out, in) = (300, 200)"
    assert weight.dtype == bias.dtype == np.float32, (
        "float32 is the default; np.sqrt(...) is a float64 scalar"
    )
    assert_close(bias, np.zeros(300), dtype=np.float32, vacuous_ok="biases start at zero", what="bias")
    spread = float(weight.std())  # of 60,000 numbers: its own deviation is 0.1/√120000 = 0.0003
    assert abs(spread - 0.1) < 0.002, (
        f"weights have standard deviation {spread:.4f}, not sqrt(2 / n_in) = 0.1"
    )
    assert abs(float(weight.mean())) < 0.002, "weights are not centred at zero"
    fourth = float(np.mean((weight / spread) ** 4))
    assert abs(fourth - 3) < 0.2, f"the weights are not normal: mean(w⁴)/std⁴ is {fourth:.2f}, expected 3"


@pytest.mark.grades("Linear")
def test_linear_draws_from_rng(rng):
    """The seed decides the weights, and nothing else does."""
    seeds = [np.random.default_rng(seed) for seed in (1, 1, 2)]
    one, same, other = (backprop.Linear(4, 3, rng=each).parameters["weight"] for each in seeds)
    assert np.array_equal(one, same), "the weights must be drawn from rng, so that a seed repeats them"
    assert not np.array_equal(one, other), "the weights do not depend on rng"
    first, second = (backprop.Linear(4, 3, rng=rng).parameters["weight"] for _ in range(2))
    assert not np.array_equal(first, second), (
        "two layers from one rng start with the same weights: draw from rng"
    )


@every_layer
def test_dtype_is_kept(function, rng):
    """float32 stays float32 forward, backward and in the gradients; float64 stays float64."""
    check_dtype(CASES[function], rng)


@every_layer
def test_nothing_is_modified(function, rng):
    """Neither x nor the gradient that came in, nor what was returned."""
    check_nothing_is_modified(CASES[function], rng)


# --- 2. worked by hand ----------------------------------------------------------------------------------------


@pytest.mark.grades("Linear")
def test_linear_by_hand():
    """Output x Wᵀ + b and its three gradients on a 2x2 example."""
    layer = backprop.Linear(2, 2, rng=np.random.default_rng(0), dtype=np.float64)
    layer.parameters["weight"][...] = [[1, 2], [3, 4]]
    layer.parameters["bias"][...] = [10, 20]
    assert_close(
        layer.forward(np.array([[1.0, 1.0], [0.0, 2.0]])),
        [[13.0, 27.0], [14.0, 28.0]],
        what="y",
        mistakes={
            "this is x W: use Wᵀ": [[14.0, 26.0], [16.0, 28.0]],
            "the bias is missing": [[3.0, 7.0], [4.0, 8.0]],
            "the bias is subtracted": [[-7.0, -13.0], [-6.0, -12.0]],
        },
    )
    grad_x = layer.backward(np.array([[1.0, 0.0], [10.0, 100.0]]))
    mean = "the gradient is a mean over the batch: the loss has divided by the batch size already, sum here"
    assert_close(
        layer.gradients["weight"],
        [[1.0, 21.0], [0.0, 200.0]],
        what="gradient of weight",
        mistakes={
            "this is the gradient of Wᵀ: weight is (out, in)": [[1.0, 0.0], [21.0, 200.0]],
            mean: [[0.5, 10.5], [0.0, 100.0]],
        },
    )
    assert_close(
        layer.gradients["bias"], [11.0, 100.0], what="gradient of bias", mistakes={mean: [5.5, 50.0]}
    )
    assert_close(
        grad_x,
        [[1.0, 2.0], [310.0, 420.0]],
        what="gradient of x",
        mistakes={"this is the gradient times Wᵀ: use W": [[1.0, 3.0], [210.0, 430.0]]},
    )


@pytest.mark.grades("ReLU")
def test_relu_by_hand():
    """The gradient passes where x > 0, however small x is, and not at 0."""
    layer, tiny = backprop.ReLU(), np.finfo(np.float64).tiny
    x = np.array([-2.0, -tiny, -0.0, 0.0, tiny, 3.0, 4.0])
    assert_close(layer.forward(x), [0.0, 0.0, 0.0, 0.0, tiny, 3.0, 4.0], what="y")
    grad = np.array([5.0, 6.0, 7.0, 8.0, 9.0, 10.0, -11.0])
    assert_close(
        layer.backward(grad),
        [0.0, 0.0, 0.0, 0.0, 9.0, 10.0, -11.0],
        what="gradient of x",
        mistakes={
            "the gradient passes at x = 0": [0.0, 0.0, 7.0, 8.0, 9.0, 10.0, -11.0],
            "the gradient also has to be positive to pass: only the input decides": (
                [0.0, 0.0, 0.0, 0.0, 9.0, 10.0, 0.0]
            ),
        },
    )


@pytest.mark.grades("Tanh")
def test_tanh_by_hand():
    """tanh(log 2) is 3/5, so the slope there is 16/25; far out it is 0, without a warning; tanh(1e-9) is 1e-9."""
    layer = backprop.Tanh()
    x, grad = np.array([-1e4, -np.log(2.0), 0.0, np.log(2.0), 1e4]), np.array([1.0, 2.0, 3.0, -4.0, 5.0])
    try:
        y, grad_x = layer.forward(x), layer.backward(grad)
    except RuntimeWarning as warning:
        raise AssertionError(
            f"tanh of ±1e4 is ±1 and its slope 0: something overflows ({warning})"
        ) from warning
    assert_close(y, [-1.0, -0.6, 0.0, 0.6, 1.0], what="y")
    hint = "1 - 2 / (exp(2x) + 1) loses the digits of a small x: np.tanh keeps them"
    small = np.array([1e-9, -1e-9])
    assert_close(backprop.Tanh().forward(small), small, rtol=1e-12, what="tanh of a small x", hint=hint)
    assert_close(
        grad_x,
        [0.0, 1.28, 3.0, -2.56, 0.0],
        what="gradient of x",
        mistakes=bind(CASES["Tanh"].input_mistakes, x, grad, {}),
    )


# --- 3. everything, compared with its formula -----------------------------------------------------------------


@every_layer
def test_forward_matches_the_formula(function, rng):
    """The output for random numbers, and for a transposed view."""
    check_forward(CASES[function], rng)


@every_layer
def test_backward_matches_the_complex_step(function, rng):
    """The gradients of input and parameters, right to twelve digits."""
    check_backward(CASES[function], rng)


@every_layer
def test_backward_belongs_to_the_latest_forward(function, rng):
    """Nothing is left of an earlier forward and backward: neither what was saved nor the gradients."""
    check_latest_forward(CASES[function], rng)


@every_layer
def test_two_layers_share_nothing(function, rng):
    """Two layers on the same input keep their own memory: nothing lives on the class."""
    check_two_share_nothing(CASES[function], rng)


# --- 4. shapes and options ------------------------------------------------------------------------------------


@every_layer
@pytest.mark.parametrize("leading", [(), (1,), (7,), (2, 3), (2, 3, 2)])
def test_any_leading_axes(function, leading, rng):
    """One vector, a batch of one, and more axes."""
    check_leading_axes(CASES[function], rng, leading)


@pytest.mark.grades("Linear")
def test_linear_without_bias(rng):
    """bias=False: no bias, and no gradient of one."""
    layer = backprop.Linear(5, 3, rng=rng, bias=False, dtype=np.float64)
    assert set(layer.parameters) == {"weight"}, "bias=False leaves out the bias"
    assert layer.parameters["weight"].dtype == np.float64, "dtype=np.float64 is ignored"
    x, grad = random_cotangent((4, 5), rng), random_cotangent((4, 3), rng)
    weight = layer.parameters["weight"]
    assert_close(layer.forward(x), np.einsum("bi,oi->bo", x, weight), n=5, what="output")
    assert_close(layer.backward(grad), np.einsum("bo,oi->bi", grad, weight), n=3, what="gradient of x")
    assert set(layer.gradients) == {"weight"}, f"gradients are {set(layer.gradients)}, expected only weight"
