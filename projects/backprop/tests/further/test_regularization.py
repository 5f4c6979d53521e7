"""The norms and the residual connection: contract, values worked by hand, the complex step, torch."""

import numpy as np
import pytest
import torch
from norm_oracles import norm_mistakes, normalise
from oracles import (
    Case,
    Mix,
    build,
    check_backward,
    check_dtype,
    check_forward,
    check_latest_forward,
    check_leading_axes,
    check_nothing_is_modified,
    check_two_share_nothing,
    copies,
)
from torch.nn import functional as F

import regularization
from shared.testing.checks import assert_close, assert_imports_only, expect_error, unchanged
from shared.testing.gradients import assert_gradient, random_cotangent

CASES = {
    "BatchNorm": Case(
        make=lambda rng, dtype: regularization.BatchNorm(3, momentum=0.3, eps=1e-2, dtype=dtype),
        shape=(5, 3),
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
        make=lambda rng, dtype: regularization.LayerNorm(4, eps=1e-2, dtype=dtype),
        shape=(2, 3, 4),
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
TORCH = {
    "BatchNorm": lambda x, weight, bias: F.batch_norm(x, None, None, weight, bias, training=True, eps=1e-2),
    "LayerNorm": lambda x, weight, bias: F.layer_norm(x, (4,), weight, bias, eps=1e-2),
}
every_norm = pytest.mark.parametrize("function", CASES)

# --- the contract ---------------------------------------------------------------------------------------------


@pytest.mark.grades
def test_regularization_imports_only_numpy():
    """The module stands alone."""
    assert_imports_only(regularization, allowed={"numpy"})


@every_norm
def test_norm_parameters(function):
    """A norm starts as the identity on normalised data: weight one, bias zero."""
    for layer, dtype in [
        (getattr(regularization, function)(3), np.float32),
        (getattr(regularization, function)(3, dtype=np.float64), np.float64),
    ]:
        assert set(layer.parameters) == {"weight", "bias"}, f"parameters are named {set(layer.parameters)}"
        for name, value in (("weight", 1.0), ("bias", 0.0)):
            assert_close(
                layer.parameters[name], np.full(3, value), dtype=dtype, what=name, vacuous_ok="starting value"
            )


@every_norm
def test_norm_checks_the_width(function, rng):
    """An input of another width is refused by its shape."""
    layer = CASES[function].make(rng, np.float64)
    for shape in [(4, 1), (4, 7)]:
        with expect_error(
            ValueError, str(shape), otherwise=f"an input of shape {shape} must be a ValueError"
        ):
            layer.forward(np.ones(shape), training=True)


@every_norm
def test_norm_keeps_the_dtype(function, rng):
    """float32 stays float32 forward, backward and in the gradients; float64 stays float64."""
    check_dtype(CASES[function], rng)


@every_norm
def test_norm_modifies_nothing(function, rng):
    """Neither x nor the gradient that came in, nor what was returned."""
    check_nothing_is_modified(CASES[function], rng)


# --- by hand and compared -------------------------------------------------------------------------------------


@every_norm
def test_norm_by_hand(function):
    """Normalising 1, 3 gives -1, 1."""
    layer = getattr(regularization, function)(2, eps=0.0, dtype=np.float64)
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


@every_norm
def test_norm_matches_the_formula(function, rng):
    """The output for random numbers, and for a transposed view."""
    check_forward(CASES[function], rng)


@every_norm
def test_norm_backward_matches_the_complex_step(function, rng):
    """The gradients of input and parameters, right to twelve digits."""
    check_backward(CASES[function], rng)


@every_norm
def test_norm_matches_torch(function, rng):
    """Output and gradients equal torch's."""
    layer, x, grad = build(CASES[function], rng)
    tensors = {k: torch.tensor(v, requires_grad=True) for k, v in {"x": x, **layer.parameters}.items()}
    y = TORCH[function](**tensors)
    (y * torch.from_numpy(grad)).sum().backward()
    assert_close(layer.forward(x, training=True), y.detach().numpy(), rtol=1e-12, what="output")
    got = {"x": layer.backward(grad), **layer.gradients}
    for name, tensor in tensors.items():
        assert_close(got[name], tensor.grad.numpy(), rtol=1e-10, what=f"gradient of {name}")


@every_norm
def test_norm_backward_belongs_to_the_latest_forward(function, rng):
    """Nothing is left of an earlier forward and backward."""
    check_latest_forward(CASES[function], rng)


@every_norm
def test_two_norms_share_nothing(function, rng):
    """Two layers on the same input keep their own memory."""
    check_two_share_nothing(CASES[function], rng)


@pytest.mark.grades("LayerNorm")
@pytest.mark.parametrize("leading", [(), (1,), (7,), (2, 3), (0,)])
def test_layer_norm_takes_any_leading_axes(leading, rng):
    """One vector, a batch of one, more axes, and an empty batch."""
    check_leading_axes(CASES["LayerNorm"], rng, leading)


# --- Residual -------------------------------------------------------------------------------------------------


@pytest.mark.grades("Residual")
def test_residual(rng):
    """Output x + body(x); the gradient takes both ways."""
    body = Mix(3, rng)
    layer = regularization.Residual(body)
    assert set(layer.parameters) == {"mix"}, (
        f"parameters are named {set(layer.parameters)}, expected the body's"
    )
    assert layer.parameters["mix"] is body.parameters["mix"], (
        "parameters must be the body's arrays, not copies"
    )
    x, grad = random_cotangent((4, 3), rng), random_cotangent((4, 3), rng)
    matrix = copies(body.parameters)["mix"]
    with unchanged(x):
        y = layer.forward(x)
    assert_close(
        y,
        x + (x @ matrix) ** 2,
        rtol=1e-12,
        what="output",
        mistakes={"x is not added to the body's output": (x @ matrix) ** 2},
    )
    body_gradient = body.backward(grad)
    with unchanged(grad):
        got = layer.backward(grad)
    assert_gradient(
        got,
        lambda z: z + (z @ matrix) ** 2,
        x,
        grad,
        method="complex",
        what="gradient of x",
        mistakes={
            "the gradient of the direct path is missing: x reaches the output twice": body_gradient,
            "the gradient of the body is missing": grad,
        },
    )
    assert_gradient(
        layer.gradients["mix"],
        lambda m: x + (x @ m) ** 2,
        matrix,
        grad,
        method="complex",
        what="gradient of mix",
    )


@pytest.mark.grades("Residual")
def test_residual_hands_on_mode_and_rng(rng):
    """Training and rng reach the body; the default is evaluation."""
    body = Mix(3, rng)
    layer = regularization.Residual(body)
    layer.forward(np.ones((2, 3)), training=True, rng=rng)
    layer.forward(np.ones((2, 3)))
    assert body.calls[0][0] is True, "training=True does not reach the body: dropout would stay off"
    assert body.calls[0][1] is rng, "rng does not reach the body"
    assert body.calls[1] == (False, None), "the default must be evaluation, without an rng"


@pytest.mark.grades("Residual")
def test_residual_keeps_the_shape():
    """A body that changes the shape is refused: the sum would broadcast."""

    class First(Mix):
        def forward(self, x, *, training=False, rng=None):
            return x[:, :1]

    layer = regularization.Residual(First(3, np.random.default_rng(0)))
    with expect_error(
        ValueError, "(4, 3)", "(4, 1)", otherwise="x + body(x) must not broadcast: compare the shapes"
    ):
        layer.forward(np.ones((4, 3)))


@pytest.mark.grades("Residual")
@pytest.mark.parametrize(("shape", "made"), [((4, 3), (1, 3)), ((1, 3), (4, 3)), ((3,), (4, 3))], ids=str)
def test_residual_does_not_broadcast(shape, made):
    """A body whose output would broadcast with x is refused too."""
    body = Mix(3, np.random.default_rng(0))
    body.forward = lambda x, *, training=False, rng=None: np.ones(made)
    with expect_error(
        ValueError, otherwise=f"x {shape} plus a body's {made} broadcasts without a word: refuse it"
    ):
        regularization.Residual(body).forward(np.ones(shape))


@pytest.mark.grades("Residual")
def test_residual_modifies_nothing(rng):
    """A body may hand back the very array that came in."""
    body = Mix(3, rng)
    body.forward, body.backward = lambda x, *, training=False, rng=None: x, lambda grad: grad
    block, x, grad = (
        regularization.Residual(body),
        random_cotangent((4, 3), rng),
        random_cotangent((4, 3), rng),
    )
    with unchanged(x, grad):
        y, grad_x = block.forward(x), block.backward(grad)
    assert_close(y, 2 * x, rtol=1e-12, what="x + x")
    assert_close(grad_x, 2 * grad, rtol=1e-12, what="gradient of x + x")


@every_norm
def test_norm_of_a_large_mean(function, rng):
    """float32 values near 10 000: mean(x²) - mean(x)² would lose everything."""
    layer = getattr(regularization, function)(40, dtype=np.float32)
    x = (1e4 + rng.standard_normal((30, 40))).astype(np.float32)
    ones = {"weight": 1.0, "bias": 0.0}
    expected = normalise(x.astype(np.float64), ones, 0 if function == "BatchNorm" else -1, 1e-5)
    hint = "the variance is lost to rounding: subtract the mean first, then square"
    got = layer.forward(x, training=True)
    assert_close(
        got, expected, dtype=np.float32, atol=3e-3, what="output", hint=hint, vacuous_ok="the mean rounds"
    )


EQUAL = 10.0 ** np.linspace(-3, 15, 400) * (1 - 2 * (np.arange(400) % 2))


@every_norm
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [3, 64, 768])
def test_norm_of_equal_numbers(function, n, dtype, rng):
    """Numbers that are all equal give exactly 0 before weight and bias; so do gradients that are, behind them."""
    shape, axis = ((n, len(EQUAL)), 0) if function == "BatchNorm" else ((len(EQUAL), n), -1)
    layer = getattr(regularization, function)(shape[1], dtype=dtype)
    for parameter in layer.parameters.values():
        parameter[...] = rng.standard_normal(shape[1])
    values = EQUAL.astype(dtype)
    x = np.broadcast_to(values if axis == 0 else values[:, None], shape)
    rounding = "x - x.mean() leaves the rounding of the mean, and 1/sqrt(eps) makes it 300 times as large"
    worst = np.abs(layer.forward(x, training=True) - layer.parameters["bias"]).max()
    assert worst == 0, f"{n} equal numbers give {worst:.2g} instead of 0 before weight and bias: {rounding}"
    layer.parameters["weight"][...] = 0.7
    grad = rng.standard_normal(shape).astype(dtype)
    through = 0.7 * grad.astype(np.float64)
    expected = (through - through.mean(axis, keepdims=True)) / 1e-5**0.5
    rtol = 64 * np.finfo(dtype).eps  # some roundings, and the sum
    assert_close(layer.backward(grad), expected, dtype=dtype, rtol=rtol, what="gradient by equal numbers")
    if function == "BatchNorm":
        moved = layer.running_mean, layer.running_var
        assert_close(moved[0], 0.1 * values.astype(np.float64), dtype=dtype, what="running_mean", atol=0.0)
        spread = np.full(shape[1], 0.9)
        assert_close(
            moved[1], spread, dtype=dtype, what="running_var", vacuous_ok="no spread: 0.9 · 1 + 0.1 · 0"
        )
    x = rng.standard_normal(shape).astype(dtype)
    layer.forward(x, training=True)
    grad = np.broadcast_to(
        rng.standard_normal(shape[1 - axis % 2]).astype(dtype), shape[::-1] if axis else shape
    )
    grad = grad.T if axis else grad
    got = np.abs(layer.backward(grad)).max()
    limit = 64 * np.finfo(dtype).eps * np.abs(grad).max()
    hint = "a gradient that is equal everywhere moves the mean alone, which is subtracted"
    assert got <= limit, f"{hint}: its effect is 0, got {got:.2g}"


@every_norm
def test_norm_of_complex_numbers(function, rng):
    """A complex step goes through the layer itself, and its imaginary part is the derivative."""
    layer, x, _ = build(CASES[function], rng)
    step = random_cotangent(x.shape, rng)
    expected = CASES[function].formula(x + 1e-30j * step, layer.parameters).imag / 1e-30
    got = layer.forward(x + 1e-30j * step, training=True).imag / 1e-30
    assert_close(got, expected, rtol=1e-11, what="derivative by the complex step")


@every_norm
def test_norm_of_nearly_equal_numbers(function, rng):
    """float32 numbers that differ in their last two bits keep what they differ by."""
    layer = getattr(regularization, function)(40)
    x = (12345 + rng.integers(0, 4, (40, 40)) / 1024).astype(np.float32)  # exact
    ones = {"weight": 1.0, "bias": 0.0}
    expected = normalise(x.astype(np.float64), ones, 0 if function == "BatchNorm" else -1, 1e-5)
    hint = "numbers that differ in their last bits lose them: subtract one of them before the mean is taken"
    got = layer.forward(x, training=True)
    assert_close(got, expected, dtype=np.float32, rtol=1e-5, what="output", hint=hint)


@every_norm
@pytest.mark.parametrize("dtype", [np.float16, np.uint8, np.int64, bool], ids=str)
def test_norm_refuses_other_dtypes(function, dtype):
    """Squares of float16 overflow at 256, differences of uint8 wrap: refused by name."""
    layer = getattr(regularization, function)(3)
    x = np.ones((4, 3), dtype)
    with expect_error(TypeError, function, str(x.dtype), otherwise=f"an input of {x.dtype} is accepted"):
        layer.forward(x, training=True)


@every_norm
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("momentum", -0.1),
        ("momentum", 1.5),
        ("momentum", float("nan")),
        ("eps", -1e-5),
        ("eps", float("nan")),
    ],
)
def test_norm_refuses_options(function, option, value):
    """An option that is out of range is refused when the layer is made, not NaN in the first evaluation."""
    if function == "BatchNorm" or option == "eps":
        with expect_error(ValueError, option, str(value), otherwise=f"{option}={value} is accepted"):
            getattr(regularization, function)(3, **{option: value})
    with expect_error(TypeError, "float16", otherwise="parameters of float16 are accepted"):
        getattr(regularization, function)(3, dtype=np.float16)
