"""The judge of the quantized layers, one at a time.

Oracles: float64 layers on weights and inputs that torch's fake quantization rounded, and laws (rows are independent).
"""

import functools

import pytest
import torch
from torch import nn

import quantization as Q
from shared.testing.checks import assert_close, expect_error, refuse_calls, unchanged

torch_fake = torch.fake_quantize_per_tensor_affine


@functools.cache
def _generator():
    return torch.Generator().manual_seed(5)


def linear_layer(n_in=24, n_out=9, *, bias=True):
    """Return a layer whose rows differ in size by up to 30 times."""
    layer = nn.Linear(n_in, n_out, bias=bias)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(n_out, n_in, generator=_generator()))
        layer.weight.mul_(torch.linspace(0.1, 3, n_out)[:, None])
        if bias:
            layer.bias.copy_(torch.randn(n_out, generator=_generator()))
    return layer


def conv_layer(*, bias=True, **options):
    """Return a convolution from 4 to 6 channels whose filters differ in size."""
    layer = nn.Conv2d(4, 6, (3, 2), bias=bias, **options)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=_generator()))
        layer.weight.mul_(torch.linspace(0.1, 3, 6)[:, None, None, None])
        if bias:
            layer.bias.copy_(torch.randn(6, generator=_generator()))
    return layer


def rounded_weight(weight, *, per_channel=True, n_bits=8):
    """Round a weight as torch does, symmetrically, in float32."""
    top = 2 ** (n_bits - 1) - 1
    rows = weight.detach().flatten(1)
    scale = rows.abs().amax(1) / top if per_channel else (rows.abs().max() / top).expand(len(rows))
    zeros = torch.zeros(len(rows), dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight.detach(), scale, zeros, 0, -top - 1, top)


def rounded_input(x, low, high, *, n_bits=8):
    """Round an input as torch does, with the affine map of [low, high]."""
    low, high, q_min = min(float(low), 0.0), max(float(high), 0.0), -(2 ** (n_bits - 1))
    scale = (high - low) / (2**n_bits - 1)
    return torch_fake(x, scale, round(q_min - low / scale), q_min, -q_min - 1)


# --- QuantizedLinear --------------------------------------------------------------------------------------------------


@pytest.mark.grades("QuantizedLinear")
@pytest.mark.parametrize("per_channel", [True, False])
def test_linear_weight(per_channel):
    """Int8, symmetric, one scale per row (or one for all), no torch.qint8 anywhere."""
    layer = linear_layer()
    with unchanged(layer.weight, layer.bias):
        quantized = Q.QuantizedLinear.from_float(layer, per_channel=per_channel)
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
    quantized = Q.QuantizedLinear.from_float(
        layer, mode="static", input_range=observed, reduce_range=reduce_range
    )
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
    got = Q.QuantizedLinear.from_float(layer, reduce_range=reduce_range)(x)
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
        quantized = Q.QuantizedLinear.from_float(
            linear_layer(), mode=mode, input_range=observed, reduce_range=True
        )
        with refuse_calls("functional.linear", "addmm"):
            assert quantized(x).shape == (6, 9)


@pytest.mark.grades("QuantizedLinear")
def test_linear_rows_are_independent(generator):
    """The result of a row does not depend on its neighbours, whatever their size."""
    quantized = Q.QuantizedLinear.from_float(linear_layer())
    x = torch.randn(4, 24, generator=generator)
    alone = quantized(x[:2])
    together = quantized(torch.cat([x[:2], x[2:] * 1e4]))[:2]
    assert torch.equal(alone, together), "rows influence each other: each needs a range of its own"


@pytest.mark.grades("QuantizedLinear")
@pytest.mark.parametrize("bias", [True, False])
def test_linear_weight_only(bias, generator):
    """Float rows, rounded weights."""
    layer, x = linear_layer(bias=bias), torch.randn(5, 24, generator=generator)
    got = Q.QuantizedLinear.from_float(layer, mode="weight_only")(x)
    expected = torch.nn.functional.linear(
        x.double(), rounded_weight(layer.weight).double(), layer.bias.detach().double() if bias else None
    )
    assert_close(got, expected, dtype="float32", n=24, what="weight only")


@pytest.mark.grades("QuantizedLinear", "QuantizedConv2d")
def test_layer_bad_input(generator):
    """Unknown modes, a static layer without a range, NaN; a constant, a zero and an empty input are fine."""
    layer = linear_layer()
    with expect_error(ValueError, "int8", otherwise="mode='int8' is accepted"):
        Q.QuantizedLinear.from_float(layer, mode="int8")
    with expect_error(ValueError, "input_range", otherwise="a static layer without a range is accepted"):
        Q.QuantizedLinear.from_float(layer, mode="static")
    with expect_error(
        ValueError, "input_range", otherwise="a static convolution without a range is accepted"
    ):
        Q.QuantizedConv2d.from_float(conv_layer(), mode="static")
    quantized = Q.QuantizedLinear.from_float(layer)
    with expect_error(ValueError, otherwise="NaN is accepted"):
        quantized(torch.full((2, 24), torch.nan))
    assert_close(quantized(torch.zeros(2, 24)), layer.bias.expand(2, 9), what="the result for a zero input")
    assert quantized(torch.empty(0, 24)).shape == (0, 9), "no rows in, no rows out"
    constant = torch.full((2, 24), 3.3)
    weight = rounded_weight(layer.weight).double()
    expected = constant.double() @ weight.T + layer.bias.double()
    assert_close(quantized(constant), expected, dtype="float32", n=24, what="the result for a constant input")
    zero = nn.Linear(24, 9)
    nn.init.zeros_(zero.weight)
    got = Q.QuantizedLinear.from_float(zero)(constant)
    assert_close(got, zero.bias.expand(2, 9), what="the result of an all-zero weight")


# --- QuantizedConv2d --------------------------------------------------------------------------------------------------

GEOMETRIES = [
    {},
    {"padding": (2, 1)},
    {"stride": (2, 3)},
    {"dilation": (1, 2), "padding": 1},
    {"groups": 2, "padding": 1},
    {"bias": False, "padding": 1},
    {"stride": 2, "padding": (1, 0), "dilation": 2, "groups": 2},
]


@pytest.mark.grades("QuantizedConv2d")
@pytest.mark.parametrize("mode", ["static", "dynamic", "weight_only"])
@pytest.mark.parametrize("options", GEOMETRIES, ids=str)
def test_conv(options, mode, generator):
    """As a float64 convolution of rounded images with rounded filters; the images' mean is not 0."""
    layer = conv_layer(**options)
    x = torch.randn(3, 4, 9, 8, generator=generator) * torch.tensor([0.1, 1, 20])[:, None, None, None] + 0.7
    observed = (x.min(), x.max()) if mode == "static" else None
    with unchanged(x, layer.weight):
        got = Q.QuantizedConv2d.from_float(layer, mode=mode, input_range=observed)(x)
    ranges = [(image.min(), image.max()) for image in x]

    def result(images, weight=None):
        weight = rounded_weight(layer.weight) if weight is None else weight
        bias = None if layer.bias is None else layer.bias.detach().double()
        geometry = layer.stride, layer.padding, layer.dilation, layer.groups
        return torch.nn.functional.conv2d(images.double(), weight.double(), bias, *geometry)

    one_range = rounded_input(x, x.min(), x.max())
    images = {
        "static": one_range,
        "dynamic": torch.stack([rounded_input(i, *r) for i, r in zip(x, ranges, strict=True)]),
        "weight_only": x,
    }
    mistakes = {
        "per-tensor where per-channel is asked": lambda: result(
            images[mode], rounded_weight(layer.weight, per_channel=False)
        ),
        "one range for the whole batch: each image needs its own": lambda: result(one_range),
    }
    hint = "is the padding the number 0, whose integer is the zero point?"
    expected = result(images[mode])
    assert_close(got, expected, dtype="float32", n=24, what="convolution", mistakes=mistakes, hint=hint)


@pytest.mark.grades("QuantizedConv2d")
def test_conv_follows_its_weight(generator):
    """A weight that is changed in place, as load_state_dict does it, counts at once."""
    quantized = Q.QuantizedConv2d.from_float(conv_layer(bias=False))
    x = torch.randn(2, 4, 9, 8, generator=generator)
    before = quantized(x)
    quantized.weight.neg_()
    assert_close(quantized(x), -before, what="the result", hint="an old copy of the weight was used")


@pytest.mark.grades("QuantizedConv2d")
def test_conv_bad_padding():
    """Padding that is not zeros, or a word, is refused instead of ignored."""
    for options in ({"padding_mode": "reflect", "padding": 1}, {"padding": "same"}):
        with expect_error(ValueError, "padding", otherwise=f"{options} is accepted"):
            Q.QuantizedConv2d.from_float(nn.Conv2d(2, 3, 3, **options))


@pytest.mark.grades("QuantizedConv2d")
def test_conv_computes_in_integers(generator):
    """No float convolution runs, and 7 bits are used where asked for."""
    x = torch.randn(2, 4, 9, 8, generator=generator)
    quantized = Q.QuantizedConv2d.from_float(conv_layer(), reduce_range=True)
    with refuse_calls("conv2d", "convolution"):
        got = quantized(x)
    images = torch.stack([rounded_input(i, i.min(), i.max(), n_bits=7) for i in x])
    filters = rounded_weight(conv_layer().weight)
    assert got.shape == torch.nn.functional.conv2d(images, filters).shape
    eight = Q.QuantizedConv2d.from_float(conv_layer())(x)
    assert not torch.equal(got, eight), "reduce_range is ignored"


# --- Int4Linear -------------------------------------------------------------------------------------------------------


@pytest.mark.grades("Int4Linear")
@pytest.mark.parametrize(("group_size", "bias"), [(8, True), (4, False), (24, True)])
def test_int4(group_size, bias, generator):
    """Each group of a row has its own scale; two weights share a byte."""
    layer = linear_layer(bias=bias)
    with torch.no_grad():
        layer.weight.mul_(torch.linspace(0.2, 5, 24))  # so that groups of a row differ
    x = torch.randn(3, 5, 24, generator=generator)
    quantized = Q.Int4Linear.from_float(layer, group_size=group_size)
    assert quantized.packed.shape == (9, 12), "two weights per byte"
    assert quantized.scale.shape == (9, 24 // group_size), "one scale per group of a row"

    def result(groups):
        weight = rounded_weight(groups, n_bits=4).reshape(9, 24).double()
        return torch.nn.functional.linear(x.double(), weight, layer.bias.detach().double() if bias else None)

    mistakes = {
        "one scale per row, not per group": lambda: result(layer.weight),
        "one scale for all": lambda: result(layer.weight.reshape(1, -1)),
        "the groups run down the columns": lambda: result(layer.weight.T.reshape(-1, group_size)),
    }
    expected = result(layer.weight.reshape(-1, group_size))
    assert_close(quantized(x), expected, dtype="float32", n=24, what="int4", mistakes=mistakes)


@pytest.mark.grades("Int4Linear")
@pytest.mark.parametrize("group_size", [7, 16, 3])
def test_int4_groups_that_do_not_fit(group_size):
    """Groups divide the row and are even."""
    with expect_error(ValueError, str(group_size), otherwise=f"groups of {group_size} in rows of 24"):
        Q.Int4Linear.from_float(linear_layer(), group_size=group_size)


# --- smooth -----------------------------------------------------------------------------------------------------------


@pytest.mark.grades("smooth")
def test_smooth_by_hand():
    """Square roots of the ratio for alpha 1/2; the extremes move nothing or all."""
    activation_max, weight = (
        torch.tensor([100.0, 1.0, 4.0]),
        torch.tensor([[1.0, -4.0, 0.5], [0.25, 1.0, -1.0]]),
    )
    mistakes = {
        "the factor is upside down": [0.1, 2.0, 0.5],
        "takes the largest weight of each row, not of each column": [5.0, 0.5, 2.0],
        "signs: the largest magnitude counts": [10.0, 1.0, 8**0.5],
    }
    got = Q.smooth(activation_max, weight)
    assert_close(got, torch.tensor([10.0, 0.5, 2.0]), what="factors", mistakes=mistakes)
    expected = torch.tensor([100**0.75, 1 / 4**0.25, 4**0.75])
    assert_close(Q.smooth(activation_max, weight, alpha=0.75), expected, what="factors with alpha 0.75")
    dead = Q.smooth(torch.tensor([0.0, 2.0]), torch.tensor([[1.0, 0.0]]))
    assert dead.tolist() == [1.0, 1.0], f"a channel that is all zero gets the factor 1, got {dead.tolist()}"


@pytest.mark.grades("smooth")
def test_smooth_helps_against_an_outlier(generator):
    """One channel 100 times larger: smoothed, a per-tensor int8 product is at least 10 dB better, and equal in float."""
    x, weight = torch.randn(200, 32, generator=generator), torch.randn(16, 32, generator=generator)
    x[:, 5] *= 100
    factors = Q.smooth(x.abs().amax(0), weight)
    assert_close((x / factors) @ (weight * factors).T, x @ weight.T, n=320, what="the float product")

    def noise(x, weight):
        return rounded_input(x, x.min(), x.max()) @ rounded_weight(weight).T

    reference = x.double() @ weight.double().T

    def quality(y):
        return float(10 * torch.log10(reference.square().sum() / (reference - y).square().sum()))

    plain, smoothed = quality(noise(x, weight)), quality(noise(x / factors, weight * factors))
    assert smoothed > plain + 6, f"{plain:.1f} dB without and {smoothed:.1f} dB with smoothing"
