"""What goes beyond the core's plain contract: extreme ranges, other float types, empty and constant tensors."""

import math

import pytest
import torch

import quantization as Q
from shared.testing.checks import assert_close


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


@pytest.mark.grades("torch_dynamic")
def test_encoder_layer_needs_the_slow_path(generator):
    """In evaluation the fast path of nn.TransformerEncoderLayer reads a weight that is now a method, and crashes."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    x = torch.randn(2, 5, 16, generator=generator)
    quantized = Q.torch_dynamic(layer)
    was = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        with torch.no_grad():
            noise = (layer(x) - quantized(x)).square().sum() / layer(x).square().sum()
    finally:
        torch.backends.mha.set_fastpath_enabled(was)
    assert 1e-7 < noise < 10**-2.5, f"{-10 * torch.log10(noise):.1f} dB without the fast path"
    if was:
        with torch.no_grad(), pytest.raises(AttributeError, match="device"):
            quantized(x)
