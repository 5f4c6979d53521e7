"""The judge of the fast layer. Oracles: float64 layers on weights and inputs that torch's fake quantization rounded, laws."""

import copy

import pytest
import torch
from layers import linear_layer, rounded_input, rounded_weight
from torch import nn

from int8_kernel import QuantizedLinear
from shared.testing.checks import assert_close, expect_error, refuse_calls, unchanged

pytestmark = pytest.mark.module("int8_kernel")


@pytest.mark.grades("QuantizedLinear")
@pytest.mark.parametrize("per_channel", [True, False])
def test_linear_weight(per_channel):
    """Int8, symmetric, one scale per row (or one for all), no torch.qint8 anywhere."""
    layer = linear_layer()
    with unchanged(layer.weight, layer.bias):
        quantized = QuantizedLinear(layer, per_channel=per_channel)
    assert quantized.weight.dtype == torch.int8, (
        f"the weight must be plain int8, got {quantized.weight.dtype}"
    )
    assert quantized.weight.shape == (9, 24), f"weight (out, in), got {tuple(quantized.weight.shape)}"
    back = quantized.weight * quantized.weight_scale.reshape(-1, 1)
    mistakes = {
        "per-tensor where per-channel is asked": rounded_weight(layer.weight, per_channel=False),
        "per_channel=False is ignored": rounded_weight(layer.weight),
        "the weight is zero": torch.zeros(9, 24),
    }
    expected = rounded_weight(layer.weight, per_channel=per_channel)
    assert_close(back, expected, rtol=1e-6, what="weight · scale", mistakes=mistakes)
    assert_close(quantized.bias, layer.bias, what="bias")
    assert not list(quantized.parameters()), "a quantized layer has buffers, no parameters"


@pytest.mark.grades("QuantizedLinear")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("reduce_range", [True, False])
def test_linear_static(bias, reduce_range, generator):
    """One range for all rows; what lies outside saturates."""
    layer, x = linear_layer(bias=bias), torch.randn(5, 3, 24, generator=generator)
    observed = torch.tensor(-1.5), torch.tensor(2.5)
    quantized = QuantizedLinear(layer, mode="static", input_range=observed, reduce_range=reduce_range)
    with unchanged(x):
        got = quantized(x)
    weight = rounded_weight(layer.weight).double()

    def result(x):
        return torch.nn.functional.linear(x.double(), weight, layer.bias.detach().double() if bias else None)

    n_bits = 8 - reduce_range
    mistakes = {
        "reduce_range is ignored": lambda: result(rounded_input(x, *observed)),
        "the input is not quantized: dequantizes first and calls it int8": lambda: result(x),
        "the range is that of the input, not the observed one": lambda: result(
            rounded_input(x, x.min(), x.max(), n_bits=n_bits)
        ),
        "ignores the bias": lambda: (
            result(rounded_input(x, *observed, n_bits=n_bits)) - layer.bias.detach().double()
        ),
    }
    expected = result(rounded_input(x, *observed, n_bits=n_bits))
    assert_close(got, expected, dtype="float32", n=24, what="static linear", mistakes=mistakes)


@pytest.mark.grades("QuantizedLinear")
@pytest.mark.parametrize("reduce_range", [True, False])
def test_linear_dynamic(reduce_range, generator):
    """Each row has its own range."""
    layer = linear_layer()
    x = torch.randn(7, 24, generator=generator) * torch.logspace(-2, 2, 7)[:, None]
    n_bits = 8 - reduce_range
    got = QuantizedLinear(layer, reduce_range=reduce_range)(x)
    rows = torch.stack([rounded_input(row, row.min(), row.max(), n_bits=n_bits) for row in x])
    weight, bias = rounded_weight(layer.weight).double(), layer.bias.detach().double()
    mistakes = {
        "one range for the whole batch: each row needs its own": lambda: (
            rounded_input(x, x.min(), x.max(), n_bits=n_bits).double() @ weight.T + bias
        ),
        "the input is not quantized: dequantizes first and calls it int8": x.double() @ weight.T + bias,
    }
    assert_close(
        got, rows.double() @ weight.T + bias, dtype="float32", n=24, what="dynamic", mistakes=mistakes
    )


@pytest.mark.grades("QuantizedLinear")
def test_linear_computes_in_integers(generator):
    """Static and dynamic layers multiply integers: no float product of the rounded values."""
    x = torch.randn(6, 24, generator=generator)
    for mode, observed in (("dynamic", None), ("static", (x.min(), x.max()))):
        quantized = QuantizedLinear(linear_layer(), mode=mode, input_range=observed, reduce_range=True)
        with refuse_calls("functional.linear", "addmm"):
            assert quantized(x).shape == (6, 9)


@pytest.mark.grades("QuantizedLinear")
def test_linear_rows_are_independent(generator):
    """The result of a row does not depend on its neighbours, whatever their size."""
    quantized = QuantizedLinear(linear_layer())
    x = torch.randn(4, 24, generator=generator)
    alone = quantized(x[:2])
    together = quantized(torch.cat([x[:2], x[2:] * 1e4]))[:2]
    assert torch.equal(alone, together), "rows influence each other: each needs a range of its own"


@pytest.mark.grades("QuantizedLinear")
@pytest.mark.parametrize("bias", [True, False])
def test_linear_weight_only(bias, generator):
    """Float rows, rounded weights."""
    layer, x = linear_layer(bias=bias), torch.randn(5, 24, generator=generator)
    got = QuantizedLinear(layer, mode="weight_only")(x)
    expected = torch.nn.functional.linear(
        x.double(), rounded_weight(layer.weight).double(), layer.bias.detach().double() if bias else None
    )
    assert_close(got, expected, dtype="float32", n=24, what="weight only")


@pytest.mark.grades("QuantizedLinear")
def test_layer_bad_input():
    """Unknown modes, a static layer without a range, NaN; a constant, a zero and an empty input are fine."""
    layer = linear_layer()
    for mode in ("int8", "Static", ""):
        with expect_error(ValueError, mode, otherwise=f"mode={mode!r} is accepted"):
            QuantizedLinear(layer, mode=mode)
    with expect_error(ValueError, "input_range", otherwise="a static layer without a range is accepted"):
        QuantizedLinear(layer, mode="static")
    quantized = QuantizedLinear(layer)
    for bad in (torch.nan, torch.inf):
        with expect_error(ValueError, otherwise=f"{bad} is accepted"):
            quantized(torch.full((2, 24), bad))
    assert_close(quantized(torch.zeros(2, 24)), layer.bias.expand(2, 9), what="the result for a zero input")
    for options in ({}, {"mode": "static", "input_range": (-1.0, 1.0)}, {"mode": "weight_only"}):
        for shape in ((0, 24), (2, 0, 24)):
            got = QuantizedLinear(layer, **options)(torch.empty(shape))
            assert got.shape == (*shape[:-1], 9), (
                f"{options}: no rows in, no rows out, got {tuple(got.shape)}"
            )
    constant = torch.full((2, 24), 3.3)
    weight = rounded_weight(layer.weight).double()
    expected = constant.double() @ weight.T + layer.bias.double()
    assert_close(quantized(constant), expected, dtype="float32", n=24, what="the result for a constant input")
    broken = linear_layer()
    nn.init.constant_(broken.weight[3:4, 5:6], torch.nan)
    with expect_error(ValueError, "weight", otherwise="a weight of NaN gives an error that names no weight"):
        QuantizedLinear(broken)
    zero = nn.Linear(24, 9)
    nn.init.zeros_(zero.weight)
    got = QuantizedLinear(zero)(constant)
    assert_close(got, zero.bias.expand(2, 9), what="the result of an all-zero weight")


@pytest.mark.grades("QuantizedLinear")
def test_linear_tokens(generator):
    """In (batch, tokens, in) each token is a row, also in blocks of 1024 rows; half precision in, float32 out."""
    quantized = QuantizedLinear(linear_layer())
    x = torch.randn(3, 700, 24, generator=generator)
    x[1, 5] *= 1000
    one_by_one = torch.stack([quantized(sequence) for sequence in x])
    hint = "one range per sequence instead of per row: each token needs its own"
    assert_close(quantized(x), one_by_one, what="three sequences at once", hint=hint)
    alone = quantized(x[1, 4:5])
    assert_close(quantized(x)[1, 4], alone[0], what="the token beside a large one", hint=hint)
    half = x.half()
    assert_close(quantized(half), quantized(half.float()), what="the result for float16")


@pytest.mark.grades("QuantizedLinear")
def test_linear_is_the_core(generator):
    """The plain layer and the fast one agree to rounding, where no value is near a tie."""
    import quantization

    layer = linear_layer()
    steps = torch.randint(-90, 166, (5, 24), generator=generator).float()
    steps[:, 0], steps[:, 1] = -90, 165
    x = steps * torch.tensor([0.01, 1.0, 3.0, 50.0, 0.3])[:, None]
    for options in ({}, {"input_range": (-0.9, 1.65)}):
        mode = "static" if options else "dynamic"
        plain = quantization.QuantizedLinear(layer, **options)(x)
        fast = QuantizedLinear(layer, mode=mode, **options)(x)
        for row in range(5):
            assert_close(fast[row], plain[row], n=24, what=f"row {row}, {mode}")


@pytest.mark.grades("QuantizedLinear")
@pytest.mark.parametrize("mode", ["dynamic", "static", "weight_only"])
def test_linear_of_another_width(mode):
    """Rows of another width, and a number, are refused by their shape, not by a kernel's message."""
    quantized = QuantizedLinear(
        nn.Linear(64, 8), mode=mode, input_range=(-1.0, 1.0) if mode == "static" else None
    )
    for shape in ((3, 32), (64, 3), (65,), ()):
        with expect_error(
            ValueError, str(shape), "64", otherwise=f"{mode}: the error for x of {shape} names no shape"
        ):
            quantized(torch.ones(shape))


@pytest.mark.grades("QuantizedLinear")
def test_linear_options_without_effect():
    """An option that its mode would ignore is refused, and so is one of another type, or a range per channel."""
    layer = linear_layer()
    ends = torch.ones(24)
    cases = [
        ("input_range", {"input_range": (-1.0, 1.0)}),
        ("input_range", {"mode": "weight_only", "input_range": (-1.0, 1.0)}),
        ("input_range", {"mode": "static", "input_range": (-ends, ends)}),
        ("reduce_range", {"mode": "weight_only", "reduce_range": True}),
        *(("reduce_range", {"reduce_range": bad}) for bad in (2, 7, "x", None)),
        *(("per_channel", {"per_channel": bad}) for bad in (2, "no", None)),
    ]
    for name, options in cases:
        with expect_error(ValueError, name, otherwise=f"{options} is accepted"):
            QuantizedLinear(layer, **options)


@pytest.mark.grades("QuantizedLinear")
@pytest.mark.parametrize("mode", ["dynamic", "static", "weight_only"])
def test_linear_in_half_precision(mode, generator):
    """``.half()`` rounds the scales, small ones to 0: refused by name. A move to a device or a float32 cast is fine."""
    options = {"input_range": (-1.0, 1.0)} if mode == "static" else {}
    quantized, x = (
        QuantizedLinear(linear_layer(), mode=mode, **options),
        torch.randn(3, 24, generator=generator),
    )
    expected = quantized(x)
    assert_close(quantized.float().to("cpu")(x), expected, what="the result of the same precision")
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        with expect_error(TypeError, str(dtype), otherwise=f"scales of {dtype} are used"):
            QuantizedLinear(linear_layer(), mode=mode, **options).to(dtype)(x)


@pytest.mark.grades("QuantizedLinear")
@pytest.mark.parametrize(
    "options",
    [{}, {"reduce_range": True}, {"mode": "static", "input_range": (0.0, 1.0)}, {"mode": "weight_only"}],
    ids=str,
)
def test_linear_of_many_inputs(options, generator):
    """70,000 products of the largest bytes leave int32: the sum is made of parts."""
    layer, n = nn.utils.skip_init(nn.Linear, 70_000, 2), 70_000
    with torch.no_grad():
        layer.weight.copy_(torch.ones(2, n) * torch.tensor([[1.0], [0.5]]))
        layer.bias.copy_(torch.tensor([3.0, -2.0]))
    x = torch.stack([torch.ones(n), torch.arange(n) / (n - 1)])
    expected = torch.nn.functional.linear(x.double(), layer.weight.double(), layer.bias.double())
    got = QuantizedLinear(layer, **options)(x)
    hint = "the sum leaves int32"
    assert_close(got, expected, dtype="float32", rtol=1e-3, what="the sums", hint=hint)


@pytest.mark.grades("QuantizedLinear")
def test_linear_in_inference_mode(generator):
    """Torch counts the changes of no inference tensor: a weight that is changed in place still counts at once."""
    x = torch.randn(3, 24, generator=generator)
    layer, other = linear_layer(), linear_layer()
    with torch.no_grad():
        other.weight.neg_()
    wanted = QuantizedLinear(other)(x)
    with torch.inference_mode():
        for quantized in (QuantizedLinear(layer), copy.deepcopy(QuantizedLinear(layer))):
            quantized(x)
            quantized.load_state_dict(QuantizedLinear(other).state_dict())
            hint = "the weight was changed in place, but an old copy of it was multiplied"
            assert_close(quantized(x), wanted, what="the result", hint=hint)
