"""The judge of the convolution. Oracle: float64 convolutions of images and filters that torch's fake quantization rounded."""

import pytest
import torch
from layers import conv_layer, rounded_input, rounded_weight
from torch import nn

from convolution import QuantizedConv2d
from shared.testing.checks import assert_close, expect_error, refuse_calls, unchanged

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
        got = QuantizedConv2d(layer, mode=mode, input_range=observed)(x)
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
def test_conv_follows_its_state(generator):
    """What load_state_dict changes counts at once."""
    x = torch.randn(2, 4, 9, 8, generator=generator)
    layer, other = conv_layer(padding=1, groups=2), conv_layer(padding=1, groups=2)
    with torch.no_grad():
        other.weight.neg_()
        other.bias.add_(1)
    quantized, wanted = QuantizedConv2d(layer), QuantizedConv2d(other)(x)
    quantized(x)
    quantized.load_state_dict(QuantizedConv2d(other).state_dict())
    assert_close(
        quantized(x),
        wanted,
        what="the result",
        hint="the weight was changed in place, but an old copy of it was multiplied",
    )
    assert not list(quantized.parameters()), "a quantized layer has buffers, no parameters"


@pytest.mark.grades("QuantizedConv2d")
def test_conv_bad_padding():
    """Padding that is not zeros, or a word, is refused instead of ignored."""
    for options in ({"padding_mode": "reflect", "padding": 1}, {"padding": "same"}):
        with expect_error(ValueError, "padding", otherwise=f"{options} is accepted"):
            QuantizedConv2d(nn.Conv2d(2, 3, 3, **options))


@pytest.mark.grades("QuantizedConv2d")
def test_conv_computes_in_integers(generator):
    """No float convolution runs, and 7 bits are used where asked for."""
    x = torch.randn(2, 4, 9, 8, generator=generator)
    quantized = QuantizedConv2d(conv_layer(), reduce_range=True)
    with refuse_calls("conv2d", "convolution"):
        got = quantized(x)
    images = torch.stack([rounded_input(i, i.min(), i.max(), n_bits=7) for i in x])
    filters = rounded_weight(conv_layer().weight)
    assert got.shape == torch.nn.functional.conv2d(images, filters).shape
    eight = QuantizedConv2d(conv_layer())(x)
    assert not torch.equal(got, eight), "reduce_range is ignored"


@pytest.mark.grades("QuantizedConv2d")
def test_conv_without_per_channel(generator):
    """One scale for all filters of a group."""
    layer, x = conv_layer(), torch.randn(2, 4, 9, 8, generator=generator)
    got = QuantizedConv2d(layer, mode="weight_only", per_channel=False)(x)
    filters = rounded_weight(layer.weight, per_channel=False).double()
    expected = torch.nn.functional.conv2d(x.double(), filters, layer.bias.detach().double())
    assert_close(
        got, expected, dtype="float32", n=24, what="one scale for all", hint="per_channel is ignored"
    )
    with expect_error(
        ValueError, "input_range", otherwise="a static convolution without a range is accepted"
    ):
        QuantizedConv2d(layer, mode="static")


@pytest.mark.grades("QuantizedConv2d")
@pytest.mark.parametrize("mode", ["dynamic", "static", "weight_only"])
def test_conv_of_another_shape(mode):
    """A single image, other channels, and an image smaller than the kernel are refused by shape, alike in every mode."""
    observed = (-1.0, 1.0) if mode == "static" else None
    quantized = QuantizedConv2d(conv_layer(padding=(1, 0), dilation=(1, 3)), mode=mode, input_range=observed)
    assert quantized(torch.ones(2, 4, 1, 4)).shape == (2, 6, 1, 1), "the smallest image that the kernel fits"
    for shape in ((4, 9, 8), (2, 3, 9, 8), (2, 5, 9, 8), (2, 4, 9, 3), (2, 4, 0, 8), (9, 8)):
        with expect_error(
            ValueError, str(shape), otherwise=f"{mode}: x of {shape} gives no error that names it"
        ):
            quantized(torch.ones(shape))
    with expect_error(TypeError, "float16", otherwise="scales of float16 are used"):
        quantized.half()(torch.ones(2, 4, 9, 8))
