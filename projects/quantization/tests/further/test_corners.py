"""What goes beyond the core's plain contract: extreme ranges, other float types, empty and constant tensors."""

import math

import numpy as np
import pytest
import torch
from oracles import decibels

import quantization as Q
from shared.testing.checks import assert_close, expect_error


@pytest.mark.grades("choose_qparams", "quantize", "dequantize")
@pytest.mark.parametrize("size", [3e38, 1e-30, 1e-37, 1e-44])
def test_extreme_ranges(size):
    """The range of ±3e38 overflows float32, that of ±1e-44 would give scale 0: both stay finite and positive."""
    scale, zero_point = Q.choose_qparams(-size, size)
    assert 0 < scale < math.inf, f"the scale of ±{size} is {scale.item()}"
    x = torch.tensor([-size, 0.0, size])
    back = Q.dequantize(Q.quantize(x, scale, zero_point), scale, zero_point)
    assert torch.isfinite(back).all(), f"the round trip of ±{size} gives {back.tolist()}"
    assert ((back.double() - x.double()).abs() <= scale.double() * 0.51).all(), f"±{size}: {back.tolist()}"


@pytest.mark.grades("choose_qparams", "quantize", "dequantize")
@pytest.mark.parametrize("options", [{}, {"symmetric": True}, {"n_bits": 5}, {"n_bits": 7}, {"n_bits": 2}])
def test_zero_is_exact(options, rng):
    """Zero survives the round trip exactly, whatever the range: padding and ReLU depend on it."""
    for low, high in rng.uniform(-5, 5, size=(40, 2)):
        low, high = sorted((low, high))
        scale, zero_point = Q.choose_qparams(low, high, **options)
        q = Q.quantize(torch.zeros(3), scale, zero_point, n_bits=options.get("n_bits", 8))
        assert not Q.dequantize(q, scale, zero_point).any(), f"zero is not representable for [{low}, {high}]"
        assert q.unique().tolist() == [int(zero_point)], "the integer of 0 must be the zero point"


@pytest.mark.grades("quantize", "dequantize", "choose_qparams")
@pytest.mark.parametrize("n_bits", [2, 4, 8])
def test_round_trip_error(n_bits, generator):
    """Inside the range the error is at most half a step, and all integers are used."""
    x = torch.rand(4000, generator=generator) * 7 - 2
    scale, zero_point = Q.choose_qparams(x.min(), x.max(), n_bits=n_bits)
    q = Q.quantize(x, scale, zero_point, n_bits=n_bits)
    worst = ((Q.dequantize(q, scale, zero_point) - x).abs().max() / scale).item()
    assert 0.4 < worst <= 0.5 + 1e-4, f"the largest error is {worst:.3f} steps, expected just under 0.5"
    assert len(q.unique()) == 2**n_bits, f"{len(q.unique())} of {2**n_bits} integers are used"


@pytest.mark.grades("quantize", "dequantize")
def test_quantize_as_torch(generator):
    """What torch's own kernel gives, over a million values: it multiplies by 1/scale, so a rare tie may differ by a step."""
    x = torch.randn(100_000, generator=generator) * 3
    for _ in range(10):
        scale = torch.rand((), generator=generator) * 0.1 + 1e-3
        zero_point = torch.randint(-128, 128, (), generator=generator).int()
        expected = torch.fake_quantize_per_tensor_affine(x, float(scale), int(zero_point), -128, 127)
        steps = (Q.dequantize(Q.quantize(x, scale, zero_point), scale, zero_point) - expected).abs() / scale
        assert steps.max() < 1.5, f"{steps.max():.1f} steps from torch.fake_quantize"
        assert (steps > 0.5).float().mean() < 1e-4, (
            f"{int((steps > 0.5).sum())} of {len(x)} values differ by a step"
        )


@pytest.mark.grades("quantize", "fake_quantize")
def test_other_inputs():
    """Empty is empty; float16, bfloat16 and float64 are computed in float32 or better."""
    scale, zero_point = torch.tensor(0.1), torch.tensor(0, dtype=torch.int32)
    assert Q.quantize(torch.empty(0, 3), scale, zero_point).shape == (0, 3), "empty in, empty out"
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        x = torch.tensor([1.0, -2.0, 12.7, -300.0], dtype=dtype)
        assert Q.quantize(x, scale, zero_point).tolist() == [10, -20, 127, -128], f"{dtype}"
        assert_close(
            Q.fake_quantize(x, scale, zero_point).float(), torch.tensor([1.0, -2.0, 12.7, -12.8]), what="fake"
        )


@pytest.mark.grades("fake_quantize")
def test_fake_quantize_of_large_values():
    """Far outside the range the value is the last one, exactly: x + (rounded - x) would lose it, and give NaN for inf."""
    x = torch.tensor([1e6, -1e30, math.inf, -math.inf, 0.42]).requires_grad_()
    got = Q.fake_quantize(x, torch.tensor(0.125), torch.tensor(-3, dtype=torch.int32))
    hint = "inf · 0 and inf - inf are NaN, and x + (rounded - x) rounds at the level of x"
    expected = torch.tensor([16.25, -15.625, 16.25, -15.625, 0.375])
    assert_close(got.detach(), expected, what="large values", hint=hint)
    (gradient,) = torch.autograd.grad(got.sum(), x)
    assert gradient.tolist() == [0, 0, 0, 0, 1], (
        f"only 0.42 was not clamped, the gradient is {gradient.tolist()}"
    )


@pytest.mark.grades("choose_qparams", "quantize", "dequantize")
@pytest.mark.parametrize("value", [3.7, -0.002, 0.0])
def test_constant_tensor(value):
    """A constant tensor comes back (nearly) exactly, all zeros exactly."""
    x = torch.full((5,), value)
    scale, zero_point = Q.choose_qparams(x.min(), x.max())
    back = Q.dequantize(Q.quantize(x, scale, zero_point), scale, zero_point)
    assert ((back - x).abs() <= 1e-6 * abs(value)).all(), f"constant {value} comes back as {back[0].item()}"


@pytest.mark.grades("int8_matmul")
def test_matmul_of_nothing(generator):
    """Any of the three sizes may be 0."""
    for rows, n_in, n_out in [(0, 3, 2), (2, 0, 3), (2, 3, 0)]:
        empty = Q.int8_matmul(*(torch.zeros(n, n_in, dtype=torch.int8) for n in (rows, n_out)))
        assert empty.tolist() == torch.zeros(rows, n_out).tolist(), f"empty {rows, n_in, n_out}"


@pytest.mark.grades("quantize_model")
def test_attention_is_kept(generator):
    """Attention reads the weight of its own kind of linear layer, which must stay."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        attention = torch.nn.MultiheadAttention(8, 2, batch_first=True).eval()
    x = torch.randn(2, 3, 8, generator=generator)
    quantized = Q.quantize_model(attention)
    assert_close(quantized(x, x, x)[0].detach(), attention(x, x, x)[0].detach(), what="attention")


@pytest.mark.grades("torch_dynamic")
def test_dynamic_of_one_layer():
    """torch replaces the children of a model: one that is an nn.Linear itself would stay float."""
    quantized = Q.torch_dynamic(torch.nn.Linear(4, 3))
    assert "quantized" in type(quantized).__module__, f"a single layer became {type(quantized)}"


@pytest.mark.grades("torch_dynamic", "torch_static", "quantize_model")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", ["quantize_model", "torch_dynamic", "torch_static"])
def test_layer_in_three_places(how, generator):
    """A layer that is used in three places is quantized in all of them."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        shared = torch.nn.Linear(8, 8)
    model = torch.nn.Sequential(shared, torch.nn.ReLU(), shared, shared).eval()
    x = torch.randn(50, 8, generator=generator)
    quantized = getattr(Q, how)(model, *([[x]] if how == "torch_static" else []))
    left = [name for name, m in quantized.named_modules(remove_duplicate=False) if type(m) is torch.nn.Linear]
    assert not left, f"a layer in three places is still float in {left}"
    with torch.no_grad():
        ratio = decibels(model(x), quantized(x))
    assert 25 < ratio < 70, f"{ratio:.1f} dB"


@pytest.mark.grades("quantize_model", "torch_dynamic")
@pytest.mark.parametrize("how", ["dynamic", "static", "torch_dynamic"])
def test_encoder_layer(how, generator):
    """In evaluation the fast path of nn.TransformerEncoderLayer reads float weights: the copy must not take it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    x = torch.randn(2, 5, 16, generator=generator)
    quantized = (
        Q.torch_dynamic(layer)
        if how == "torch_dynamic"
        else Q.quantize_model(layer, mode=how, calibration=[x])
    )
    try:
        with torch.no_grad():
            ratio = decibels(layer(x), quantized(x))
    except (RuntimeError, AttributeError) as error:
        raise AssertionError(
            f"the fast path of the encoder layer reads a weight that is no float: {error}"
        ) from None
    assert 25 < ratio < 70, f"{ratio:.1f} dB"


@pytest.mark.grades("QuantizedLinear")
def test_static_layer_is_its_state(generator):
    """What a static layer knows of its input is in its state_dict: a layer that loads it computes the same."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = torch.nn.Linear(8, 5)
    x = torch.randn(30, 8, generator=generator)
    saved, other = (Q.QuantizedLinear(layer, input_range=ends) for ends in ((-3.0, 4.0), (-1.0, 1.0)))
    other.load_state_dict(saved.state_dict())
    hint = "the input's range is not in the state_dict: loading keeps the old one without a word"
    assert_close(other(x), saved(x), what="the result after loading", hint=hint)
    with pytest.raises((ValueError, TypeError, RuntimeError)):
        Q.QuantizedLinear(layer, input_range=(x.amin(0), x.amax(0)))(x)


@pytest.mark.grades("choose_qparams", "quantize", "fake_quantize")
@pytest.mark.parametrize("n_bits", [4.5, 7.9, math.nan, "8", None, True], ids=repr)
def test_bits_that_are_no_count(n_bits):
    """Half a bit, a word and nothing are refused by name; a NumPy integer counts."""
    scale, zero_point, x = torch.tensor(0.1), torch.tensor(0, dtype=torch.int32), torch.ones(2)
    for call in (
        lambda n: Q.choose_qparams(-1.0, 1.0, n_bits=n),
        lambda n: Q.quantize(x, scale, zero_point, n_bits=n),
        lambda n: Q.fake_quantize(x, scale, zero_point, n_bits=n),
    ):
        with expect_error(ValueError, "n_bits", str(n_bits), otherwise=f"n_bits={n_bits!r} is accepted"):
            call(n_bits)
        call(np.int64(4))


@pytest.mark.grades("fake_quantize")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_gradient_of_half_types(dtype):
    """Where the value was not clamped the gradient passes, also where x / scale in half precision would round further."""
    scale, zero_point = torch.tensor(0.0131), torch.tensor(0, dtype=torch.int32)
    x = torch.linspace(1.6, 1.72, 400).to(dtype).requires_grad_()
    (gradient,) = torch.autograd.grad(Q.fake_quantize(x, scale, zero_point).sum(), x)
    expected = (torch.round(x.detach().double() / scale.double()) <= 127).to(dtype)
    assert_close(gradient, expected, what="the gradient", hint="the mask is computed in half precision")


@pytest.mark.grades("quantize_model")
def test_every_layer_is_in_evaluation_mode():
    """The new layers too, though they do the same in both modes."""
    quantized = Q.quantize_model(
        torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    )
    training = [name for name, module in quantized.named_modules() if module.training]
    assert not training, f"the quantized model must be in evaluation mode: layers {training} are not"


@pytest.mark.grades("int8_matmul")
def test_matmul_limits():
    """More than 65,536 products of bytes may leave int32: refused. A vector of zero points is one per row."""
    ones = torch.full((1, 65536), 127, dtype=torch.int8)
    got = Q.int8_matmul(ones, ones, -128)
    assert got.item() == 255 * 127 * 65536, f"the largest sum that fits: {got.item()}"
    more = torch.full((1, 65537), 127, dtype=torch.int8)
    with expect_error(ValueError, otherwise="a sum that may leave int32 is computed"):
        Q.int8_matmul(more, more)
    x = torch.arange(-8, 8, dtype=torch.int8).reshape(4, 4)
    per_row = torch.tensor([1, 2, 3, 4], dtype=torch.int32)
    for zero_point in (0.5, torch.tensor(0.5)):
        with expect_error(TypeError, otherwise="a zero point of 0.5 is cut to 0 without a word"):
            Q.int8_matmul(x, x, zero_point)
    hint = "a vector of zero points was taken as one per column"
    assert_close(
        Q.int8_matmul(x, x, per_row), Q.int8_matmul(x, x, per_row[:, None]), what="the product", hint=hint
    )
