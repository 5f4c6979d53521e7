"""The core's arithmetic on integers: the product, and the linear layer.

Oracles: int64 products in NumPy, float64 layers on numbers whose rounding is known by construction (oracles.py).
"""

import numpy as np
import pytest
import torch
from oracles import integers, near
from torch import nn

import quantization as Q
from shared.testing.checks import assert_close, expect_error, unchanged


def int8(shape, generator):
    return torch.randint(-128, 128, shape, generator=generator, dtype=torch.int8)


def product(x, weight, zero_point=0):
    """Multiply in int64."""
    z = zero_point.numpy() if isinstance(zero_point, torch.Tensor) else zero_point
    exact = (x.numpy().astype(np.int64) - z) @ weight.numpy().astype(np.int64).T
    return torch.from_numpy(exact).int()


NOT_EXACT = "the sums are not exact: saturated in int16, or rounded in float32?"


# --- int8_matmul ------------------------------------------------------------------------------------------------------


@pytest.mark.grades("int8_matmul")
def test_matmul_by_hand():
    """Two rows, two neurons, three inputs, zero point 10."""
    x = torch.tensor([[11, 8, 10], [-128, 127, 0]], dtype=torch.int8)
    weight = torch.tensor([[1, 2, 3], [-128, 127, 100]], dtype=torch.int8)
    expected = torch.tensor([[-3, -382], [66, 31523]], dtype=torch.int32)
    mistakes = {
        "ignores the zero point": product(x, weight),
        "accumulates in int8": expected.numpy().astype(np.int8).astype(np.int32),
        "accumulates in int16": expected.numpy().astype(np.int16).astype(np.int32),
        "returns zeros": np.zeros((2, 2), np.int32),
    }
    with unchanged(x, weight):
        got = Q.int8_matmul(x, weight, 10)
    assert_close(got, expected, what="int8_matmul", mistakes=mistakes)
    hint = "without a zero_point it is 0"
    assert_close(Q.int8_matmul(x, weight), product(x, weight), what="without zero_point", hint=hint)


@pytest.mark.grades("int8_matmul")
@pytest.mark.parametrize(("rows", "n_in", "n_out"), [(3, 5, 7), (6, 6, 6), (2, 513, 65), (17, 1025, 3)])
def test_matmul_is_exact(rows, n_in, n_out, generator):
    """As int64, for one zero point and for one per row; views count like arrays."""
    x, weight = int8((rows, n_in), generator), int8((n_out, n_in), generator)
    for zero_point in (0, -17, torch.tensor(90, dtype=torch.int32), int8((rows, 1), generator).int()):
        expected = product(x, weight, zero_point)
        mistakes = {
            "accumulates in int8": expected.numpy().astype(np.int8).astype(np.int32),
            "ignores the zero point": product(x, weight),
            "the zero point of the first row is used for all": product(
                x, weight, np.ravel(zero_point)[0].item()
            ),
            "the weight is not transposed": product(x, weight.T, zero_point) if n_in == n_out else None,
        }
        got = Q.int8_matmul(x, weight, zero_point)
        assert_close(got, expected, what="int8_matmul", mistakes=mistakes, hint=NOT_EXACT)
        view = Q.int8_matmul(x.T.contiguous().T, weight.T.contiguous().T, zero_point)
        assert_close(view, expected, what="int8_matmul of transposed views")


@pytest.mark.grades("int8_matmul")
@pytest.mark.parametrize("n_in", [2, 1024, 4097, 40000])
@pytest.mark.parametrize(("value", "zero_point"), [(127, -128), (-128, 127), (127, 0), (-66, 3)])
def test_matmul_of_the_largest_products(value, zero_point, n_in):
    """The largest sums there are: int16 pairs saturate, float32 would round, int32 holds them."""
    x = torch.full((2, n_in), value, dtype=torch.int8)
    weight = torch.tensor([[-128], [127], [1]], dtype=torch.int8).repeat(1, n_in)
    weight[:, -1] += 1 - 2 * (weight[:, -1] > 0).to(torch.int8)  # odd sums
    got = Q.int8_matmul(x, weight, zero_point)
    assert_close(got, product(x, weight, zero_point), what="int8_matmul", hint=NOT_EXACT)


@pytest.mark.grades("int8_matmul")
def test_matmul_bad_input(generator):
    """Operands are int8 matrices that fit."""
    x = int8((2, 3), generator)
    with expect_error(TypeError, otherwise="float operands are accepted"):
        Q.int8_matmul(x.float(), x)
    with expect_error(TypeError, otherwise="uint8 operands are accepted"):
        Q.int8_matmul(x, x.view(torch.uint8))
    for other in (int8((2, 4), generator), int8((3, 2), generator), int8((3,), generator)):
        with expect_error(ValueError, otherwise=f"a weight of shape {tuple(other.shape)} for x of (2, 3)"):
            Q.int8_matmul(x, other)
    for other in (x[0], x[None]):
        with expect_error(ValueError, otherwise=f"x of shape {tuple(other.shape)} is accepted"):
            Q.int8_matmul(other, x)


# --- QuantizedLinear --------------------------------------------------------------------------------------------------


def linear(generator, n_in=24, n_out=9, *, bias=True):
    """Return a layer whose rows differ in size by up to 30 times, and what its weight rounds to, float64."""
    steps = torch.randint(-120, 121, (n_out, n_in), generator=generator).double()
    steps[:, 3] = 127 * (1 - 2 * (torch.arange(n_out) % 2))  # the largest magnitude: at times negative
    scale = torch.linspace(0.1, 3, n_out, dtype=torch.float64)[:, None] / 127
    offset = torch.rand(steps.shape, generator=generator, dtype=torch.float64) * 0.8 - 0.4
    offset[:, 3] = 0
    layer = nn.Linear(n_in, n_out, bias=bias)
    with torch.no_grad():
        layer.weight.copy_((steps + offset) * scale)
        if bias:
            layer.bias.copy_(torch.randn(n_out, generator=generator))
    return layer, steps * scale


def apply(layer, weight, x):
    """Apply a float64 layer with another weight."""
    bias = 0 if layer.bias is None else layer.bias.detach().double()
    return x.double() @ weight.T + bias


def rows_of_their_own(generator, shape=(7, 24)):
    """Return x whose rows differ in size, and what each rounds to with its own range: around 0, above it and below it."""
    steps = integers(shape, -90, 165, generator)
    steps[1] = integers(shape[1:], 30, 255, generator)
    steps[2] = integers(shape[1:], -255, -20, generator)
    scale = torch.logspace(-2, 2, shape[0], dtype=torch.float64).reshape(-1, *[1] * (len(shape) - 1)) / 100
    return near(steps, scale, generator), steps * scale


def rounded_alone(x):
    """Return each row of x, as eight bits with the range of its own values represent it."""
    x = x.double()
    low, high = x.amin(-1, keepdim=True).clamp(max=0), x.amax(-1, keepdim=True).clamp(min=0)
    scale = (high - low) / 255
    lowest = torch.round(low / scale)
    return torch.round(x / scale).clamp(lowest, lowest + 255) * scale


@pytest.mark.grades("QuantizedLinear")
def test_linear_weight(generator):
    """Int8, symmetric, one scale per output, the error at most half a step."""
    layer, _ = linear(generator)
    with unchanged(layer.weight, layer.bias):
        quantized = Q.QuantizedLinear(layer)
    weight, scale = quantized.weight, quantized.weight_scale
    assert weight.dtype == torch.int8, f"the weight must be plain int8, got {weight.dtype}"
    assert weight.shape == (9, 24), f"weight (out, in), got {tuple(weight.shape)}"
    exact = layer.weight.detach()
    mistakes = {
        "per-tensor where one scale per output is asked": (exact.abs().max() / 127).expand(9),
        "one scale per input, not per output": exact.abs().amax(0)[:9] / 127,
        "signed: the largest magnitude counts": exact.amax(1) / 127,
    }
    assert_close(scale, exact.abs().amax(1) / 127, what="weight_scale", mistakes=mistakes)
    steps = (weight * scale[:, None] - exact).abs() / scale[:, None]
    assert steps.max() < 0.5 + 1e-4, f"weight · scale is {steps.max():.2f} steps from the float weight"
    assert_close(quantized.bias, layer.bias, what="bias")
    assert not list(quantized.parameters()), "a quantized layer has buffers, no parameters"
    state = quantized.state_dict()
    for name in ("weight", "weight_scale", "bias"):
        assert name in state, f"{name} must be a buffer: a saved layer would lose it, got {list(state)}"
        assert torch.equal(state[name], getattr(quantized, name)), f"the buffer {name} is not what is used"
    layer.bias = None
    assert Q.QuantizedLinear(layer).bias is None, "without a bias, bias is None"


@pytest.mark.grades("QuantizedLinear")
@pytest.mark.parametrize(("bias", "low"), [(True, -90), (False, -90), (True, 0), (True, -255)])
def test_linear_static(bias, low, generator):
    """One range for all rows, which may begin or end at 0; what lies outside saturates."""
    layer, weight = linear(generator, bias=bias)
    steps = integers((5, 3, 24), -280, 300, generator)
    x = near(steps, 0.02, generator)
    quantized = Q.QuantizedLinear(layer, input_range=(low * 0.02, (low + 255) * 0.02))
    with unchanged(x):
        got = quantized(x)
    expected = apply(layer, weight, steps.clamp(low, low + 255) * 0.02)
    mistakes = {
        "the input is not quantized: dequantizes first and calls it int8": lambda: apply(layer, weight, x),
        "input_range is ignored: each row has its own range": lambda: apply(layer, weight, rounded_alone(x)),
        "what lies outside input_range does not saturate": lambda: apply(layer, weight, steps * 0.02),
        "ignores the bias": lambda: expected - layer.bias.detach().double(),
        "ignores the zero point": lambda: apply(
            layer, weight, (steps.clamp(low, low + 255) - 128 - low) * 0.02
        ),
    }
    assert_close(got, expected, dtype="float32", n=24, rtol=1e-5, what="static linear", mistakes=mistakes)


@pytest.mark.grades("QuantizedLinear")
@pytest.mark.parametrize("bias", [True, False])
def test_linear_dynamic(bias, generator):
    """Each row has its own range, widened to contain 0."""
    layer, weight = linear(generator, bias=bias)
    x, rounded = rows_of_their_own(generator)
    with unchanged(x):
        got = Q.QuantizedLinear(layer)(x)

    mistakes = {
        "one range for the whole batch: each row needs its own": lambda: apply(
            layer, weight, rounded_alone(x.flatten()).view(x.shape)
        ),
        "the input is not quantized: dequantizes first and calls it int8": lambda: apply(layer, weight, x),
        "ignores the bias": lambda: rounded @ weight.T,
    }
    expected = apply(layer, weight, rounded)
    for row in range(7):  # by row: the rows differ in size by 10000
        what = f"dynamic, row {row}"
        mistake = {name: (lambda m=m, r=row: m()[r]) for name, m in mistakes.items()}
        assert_close(got[row], expected[row], dtype="float32", rtol=1e-5, what=what, mistakes=mistake)


@pytest.mark.grades("QuantizedLinear")
def test_linear_rows_are_the_last_axis(generator):
    """In (batch, tokens, in) each token is a row: one that is large leaves the others of its sequence as they are."""
    layer, weight = linear(generator)
    steps = integers((2, 3, 24), -90, 165, generator)
    scale = torch.tensor([[0.01, 0.02, 10.0], [0.03, 20.0, 0.01]], dtype=torch.float64)[..., None]
    got = Q.QuantizedLinear(layer)(near(steps, scale, generator))
    assert got.shape == (2, 3, 9), f"(2, 3, 24) in, (2, 3, 9) out, got {tuple(got.shape)}"
    expected = apply(layer, weight, steps * scale)
    for b, t in np.ndindex(2, 3):
        hint = "one range per sequence instead of per row: each token needs its own"
        what = f"token {t} of sequence {b}"
        assert_close(got[b, t], expected[b, t], dtype="float32", rtol=1e-5, what=what, hint=hint)
    x = near(steps, scale, generator)
    view = Q.QuantizedLinear(layer)(x.transpose(0, 1))
    assert_close(view.transpose(0, 1), Q.QuantizedLinear(layer)(x), what="the result of a transposed view")
    one = Q.QuantizedLinear(layer)(x[1, 1])
    assert one.shape == (9,), f"a single row (24,) gives (9,), got {tuple(one.shape)}"
    assert_close(one, expected[1, 1], dtype="float32", rtol=1e-5, what="the result of a single row")


@pytest.mark.grades("QuantizedLinear")
def test_linear_rows_are_independent(generator):
    """The result of a row does not depend on its neighbours, whatever their size."""
    quantized = Q.QuantizedLinear(linear(generator)[0])
    x = torch.randn(4, 24, generator=generator)
    alone, together = quantized(x[:2]), quantized(torch.cat([x[:2], x[2:] * 1e4]))[:2]
    hint = "rows influence each other: each needs a range of its own"
    assert_close(together, alone, what="rows beside larger ones", hint=hint)


@pytest.mark.grades("QuantizedLinear")
@pytest.mark.parametrize("static", [False, True])
def test_linear_multiplies_integers(static, generator):
    """With all scales 1 a sum of 20,000 products is right to one rounding: a float32 product rounds as it adds."""
    x, w = (torch.randint(100, 128, (rows, 20000), generator=generator).double() for rows in (3, 20))
    x[:, 0], x[:, 1], w[:, 0] = -128, 127, 127  # so that every scale is 1 and every zero point 0
    layer = nn.Linear(20000, 20, bias=False)
    with torch.no_grad():
        layer.weight.copy_(w)
    quantized = Q.QuantizedLinear(layer, input_range=(-128.0, 127.0) if static else None)
    hint = "the product is not exact: multiply the integers, not the rounded floats"
    one_rounding = 2**-23
    got, expected = quantized(x.float()), x @ w.T
    assert_close(got, expected, dtype="float32", rtol=one_rounding / 2, atol=0.0, what="sums", hint=hint)


@pytest.mark.grades("QuantizedLinear")
def test_linear_odd_input(generator):
    """NaN is refused; rows that are zero or constant, and an all-zero weight, are fine."""
    layer, weight = linear(generator)
    quantized = Q.QuantizedLinear(layer)
    bad = torch.zeros(2, 24)
    bad[1, 3] = torch.nan
    with expect_error(ValueError, otherwise="NaN is accepted by a dynamic layer"):
        quantized(bad)
    with expect_error(ValueError, otherwise="NaN is accepted by a static layer"):
        Q.QuantizedLinear(layer, input_range=(-1.0, 1.0))(bad)
    assert_close(quantized(torch.zeros(2, 24)), layer.bias.expand(2, 9), what="the result for a zero input")
    for constant in (3.3, -0.7):
        x = torch.full((2, 24), constant)
        what = f"the result for rows of {constant}"
        assert_close(quantized(x), apply(layer, weight, x), dtype="float32", n=24, rtol=1e-5, what=what)
    nn.init.zeros_(layer.weight)
    got = Q.QuantizedLinear(layer)(torch.full((2, 24), 3.3))
    assert_close(got, layer.bias.expand(2, 9), what="the result of an all-zero weight")
