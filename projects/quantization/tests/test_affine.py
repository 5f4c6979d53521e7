"""The judge of the affine map, the observers and int4 packing.

Oracles: values worked by hand, torch.fake_quantize (another implementation), NumPy's percentile, laws (error ≤ scale/2).
"""

import math

import numpy as np
import pytest
import torch

import quantization as Q
from shared.testing.checks import assert_close, assert_imports_only, expect_error, unchanged


@pytest.mark.grades
def test_imports():
    """The deliverable needs torch and safetensors only."""
    assert_imports_only(Q, {"torch", "safetensors"})


# --- choose_qparams ---------------------------------------------------------------------------------------------------


@pytest.mark.grades("choose_qparams")
@pytest.mark.parametrize(
    ("low", "high", "options", "scale", "zero_point"),
    [
        (-1.0, 4.1, {}, 5.1 / 255, -78),  # -128 + round(1/0.02)
        (-51.0, 204.0, {}, 1.0, -77),
        (2.0, 5.1, {}, 5.1 / 255, -128),  # widened to contain 0
        (-5.1, -2.0, {}, 5.1 / 255, 127),
        (-3.0, 2.0, {"symmetric": True}, 3 / 127, 0),
        (0.0, 2.54, {"symmetric": True}, 2.54 / 127, 0),
        (-1.0, 2.0, {"n_bits": 4}, 0.2, -3),
        (-1.4, 0.7, {"n_bits": 4, "symmetric": True}, 0.2, 0),
        (-1.27, 0.0, {"reduce_range": True}, 0.01, 63),
        (-1.26, 1.0, {"reduce_range": True, "symmetric": True}, 0.02, 0),
        (0.0, 0.0, {}, 1.0, -128),
        (0.0, 0.0, {"symmetric": True}, 1.0, 0),
    ],
)
def test_qparams_by_hand(low, high, options, scale, zero_point):
    """Scale and zero point of ranges that are worked out by hand."""
    got_scale, got_zero_point = Q.choose_qparams(low, high, **options)
    biggest, levels = (
        max(abs(low), abs(high)),
        2 ** (options.get("n_bits", 8) - options.get("reduce_range", 0)),
    )
    assert_close(
        got_scale,
        np.float32(scale),
        what=f"scale of [{low}, {high}] with {options}",
        mistakes={
            "the scale comes from the largest magnitude, not from the range": biggest / (levels / 2 - 1),
            "symmetric is ignored": (max(high, 0) - min(low, 0)) / (levels - 1),
            "n_bits or reduce_range is ignored": (max(high, 0) - min(low, 0)) / 255,
            "the range was not widened to contain 0": (high - low) / (levels - 1),
        },
    )
    assert got_zero_point.dtype == torch.int32, f"zero_point must be int32, got {got_zero_point.dtype}"
    assert int(got_zero_point) == zero_point, (
        f"zero point of [{low}, {high}] with {options}: got {int(got_zero_point)}, expected {zero_point}"
    )


@pytest.mark.grades("quantize")
def test_quantize_by_hand():
    """Ties go to even, ends saturate, inf as well."""
    x = torch.tensor([0.0, 0.5, 1.5, 2.5, -0.5, -1.5, 0.9, -0.9, 200.0, -200.0, math.inf, -math.inf])
    got = Q.quantize(x, torch.tensor(1.0), torch.tensor(3, dtype=torch.int32))
    exact = [3, 3, 5, 5, 3, 1, 4, 2, 127, -128, 127, -128]
    assert_close(
        got,
        torch.tensor(exact, dtype=torch.int8),
        what="quantize",
        mistakes={
            "truncates instead of rounding": np.int8([3, 3, 4, 5, 3, 2, 3, 3, 127, -128, 127, -128]),
            "rounds down instead of to the nearest": np.int8([3, 3, 4, 5, 2, 1, 3, 2, 127, -128, 127, -128]),
            "ties are rounded up, not to even": np.int8([3, 4, 5, 6, 3, 2, 4, 2, 127, -128, 127, -128]),
            "ties are rounded away from zero, not to even": np.int8(
                [3, 4, 5, 6, 2, 1, 4, 2, 127, -128, 127, -128]
            ),
            "ignores the zero point": np.int8([0, 0, 2, 2, 0, -2, 1, -1, 127, -128, 127, -128]),
            "returns zeros": np.zeros(12, np.int8),
        },
        hint="no clamp? An integer beyond int8 wraps around",
    )


@pytest.mark.grades("quantize")
@pytest.mark.parametrize(("n_bits", "low", "high"), [(2, -2, 1), (4, -8, 7), (7, -64, 63), (8, -128, 127)])
def test_quantize_saturates(n_bits, low, high):
    """The integers end where n_bits says."""
    q = Q.quantize(torch.tensor([-1e6, 1e6]), torch.tensor(0.5), torch.tensor(1), n_bits=n_bits)
    assert q.tolist() == [low, high], f"no clamp to {n_bits} bits: got {q.tolist()}, expected {[low, high]}"


@pytest.mark.grades("dequantize")
def test_dequantize_by_hand():
    """(q - zero_point) · scale, where q - zero_point does not fit int8."""
    q = torch.tensor([-128, 0, 127], dtype=torch.int8)
    got = Q.dequantize(q, torch.tensor(0.5), torch.tensor(100, dtype=torch.int32))
    mistakes = {
        "ignores the zero point": [-64.0, 0.0, 63.5],
        "the difference wraps around in int8": [14.0, -50.0, 13.5],
    }
    assert_close(got, torch.tensor([-114.0, -50.0, 13.5]), what="dequantize", mistakes=mistakes)


@pytest.mark.grades("choose_qparams")
def test_qparams_per_channel(generator):
    """Tensors give one pair per entry, the same as one at a time."""
    low, high = -torch.rand(2, 3, generator=generator), torch.rand(2, 3, generator=generator) * 4
    scale, zero_point = Q.choose_qparams(low, high)
    assert scale.shape == zero_point.shape == (2, 3), (
        f"one pair per entry, got {scale.shape}, {zero_point.shape}"
    )
    for i, j in np.ndindex(2, 3):
        expected = (float(high[i, j]) - float(low[i, j])) / 255
        assert abs(float(scale[i, j]) - expected) < 1e-6, "per-tensor scale where one per channel is asked"


@pytest.mark.grades("choose_qparams", "quantize", "dequantize")
@pytest.mark.parametrize(
    "options", [{}, {"symmetric": True}, {"n_bits": 5}, {"n_bits": 8, "reduce_range": True}]
)
def test_zero_is_exact(options, rng):
    """Zero survives the round trip exactly, whatever the range: padding and ReLU depend on it."""
    for low, high in rng.uniform(-5, 5, size=(40, 2)):
        low, high = sorted((low, high))
        scale, zero_point = Q.choose_qparams(low, high, **options)
        n_bits = options.get("n_bits", 8) - options.get("reduce_range", 0)
        q = Q.quantize(torch.zeros(3), scale, zero_point, n_bits=n_bits)
        assert not Q.dequantize(q, scale, zero_point).any(), f"zero is not representable for [{low}, {high}]"
        assert q.unique().tolist() == [int(zero_point)], "the integer of 0 must be the zero point"


@pytest.mark.grades("choose_qparams")
@pytest.mark.parametrize(
    ("low", "high"), [(math.nan, 1.0), (0.0, math.nan), (-math.inf, 0.0), (0.0, math.inf), (2.0, 1.0)]
)
def test_bad_range(low, high):
    """NaN, inf and low > high are refused."""
    with expect_error(ValueError, str(low), otherwise=f"the range [{low}, {high}] is accepted"):
        Q.choose_qparams(low, high)
    with expect_error(ValueError, otherwise=f"[{low}, {high}] in one channel is accepted"):
        Q.choose_qparams(torch.tensor([-1.0, low]), torch.tensor([1.0, high]))


@pytest.mark.grades("choose_qparams", "quantize")
def test_bad_bits():
    """n_bits is 2 to 8: more do not fit int8."""
    for n_bits in (1, 9, 16):
        with expect_error(ValueError, str(n_bits), otherwise=f"n_bits={n_bits} is accepted"):
            Q.choose_qparams(-1.0, 1.0, n_bits=n_bits)
        with expect_error(ValueError, str(n_bits), otherwise=f"quantize accepts n_bits={n_bits}"):
            Q.quantize(torch.ones(2), torch.tensor(1.0), torch.tensor(0), n_bits=n_bits)


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


# --- quantize, dequantize ---------------------------------------------------------------------------------------------


@pytest.mark.grades("quantize")
def test_quantize_as_torch(generator):
    """Bit for bit what torch's own kernel gives, over a million values."""
    x = torch.randn(100_000, generator=generator) * 3
    for _ in range(10):
        scale = torch.rand((), generator=generator) * 0.1 + 1e-3
        zero_point = torch.randint(-128, 128, (), generator=generator)
        expected = torch.fake_quantize_per_tensor_affine(x, float(scale), int(zero_point), -128, 127)
        got = Q.dequantize(Q.quantize(x, scale, zero_point.int()), scale, zero_point.int())
        wrong = (got - expected).abs() > scale / 2
        assert not wrong.any(), (
            f"{int(wrong.sum())} of {len(x)} values differ from torch.fake_quantize by a whole step: "
            "multiply by 1/scale as torch does, x/scale differs in rare ties"
        )


@pytest.mark.grades("quantize", "dequantize")
def test_quantize_along_an_axis(generator):
    """With `axis`, index i of that axis has pair i; sizes differ, so that a wrong axis cannot broadcast."""
    x = torch.randn(3, 4, 5, generator=generator) * torch.tensor([1.0, 10.0, 0.1, 3.0])[:, None]
    scale, zero_point = (
        torch.tensor([0.01, 0.1, 0.001, 0.03]),
        torch.tensor([0, 5, -7, 20], dtype=torch.int32),
    )
    got = Q.quantize(x, scale, zero_point, axis=1)
    for i in range(4):
        expected = torch.clamp(torch.round(x[:, i] * (1 / scale[i])) + zero_point[i], -128, 127).to(
            torch.int8
        )
        assert_close(got[:, i], expected, what=f"channel {i}", hint="per-tensor where per-channel is asked?")
    back = Q.dequantize(got, scale, zero_point, axis=1)
    expected = (got.double() - zero_point[:, None]) * scale.double()[:, None]
    assert_close(back, expected, dtype="float32", what="dequantize along axis 1")


@pytest.mark.grades("quantize", "dequantize", "choose_qparams")
@pytest.mark.parametrize("n_bits", [2, 4, 8])
def test_round_trip_error(n_bits, generator):
    """Inside the range the error is at most half a step; inputs stay as they are."""
    x = torch.rand(4000, generator=generator) * 7 - 2
    scale, zero_point = Q.choose_qparams(x.min(), x.max(), n_bits=n_bits)
    with unchanged(x, scale, zero_point):
        q = Q.quantize(x, scale, zero_point, n_bits=n_bits)
        back = Q.dequantize(q, scale, zero_point)
    worst = ((back - x).abs().max() / scale).item()
    assert 0.4 < worst <= 0.5 + 1e-4, f"the largest error is {worst:.3f} steps, expected just under 0.5"
    assert len(q.unique()) == min(2**n_bits, 256), f"{len(q.unique())} of {2**n_bits} integers are used"


@pytest.mark.grades("quantize")
def test_quantize_bad_input():
    """NaN is refused, empty is empty, float16 and float64 work."""
    scale, zero_point = torch.tensor(0.1), torch.tensor(0, dtype=torch.int32)
    with expect_error(ValueError, "NaN", otherwise="NaN is accepted and becomes an arbitrary integer"):
        Q.quantize(torch.tensor([1.0, math.nan]), scale, zero_point)
    assert Q.quantize(torch.empty(0, 3), scale, zero_point).shape == (0, 3), "empty in, empty out"
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        q = Q.quantize(torch.tensor([1.0, -2.0], dtype=dtype), scale, zero_point)
        assert q.tolist() == [10, -20], f"{dtype}: got {q.tolist()}"


@pytest.mark.grades("choose_qparams", "quantize", "dequantize")
@pytest.mark.parametrize("value", [3.7, -0.002, 0.0])
def test_constant_tensor(value):
    """A constant tensor comes back (nearly) exactly, all zeros exactly."""
    x = torch.full((5,), value)
    scale, zero_point = Q.choose_qparams(x.min(), x.max())
    back = Q.dequantize(Q.quantize(x, scale, zero_point), scale, zero_point)
    assert ((back - x).abs() <= 1e-6 * abs(value)).all(), f"constant {value} comes back as {back[0].item()}"


# --- fake_quantize ----------------------------------------------------------------------------------------------------


@pytest.mark.grades("fake_quantize")
@pytest.mark.parametrize("n_bits", [4, 8])
def test_fake_quantize_values(n_bits, generator):
    """Values as torch.fake_quantize_per_tensor_affine."""
    x = torch.randn(50, 7, generator=generator)
    scale, zero_point = torch.tensor(0.11 if n_bits == 4 else 0.013), torch.tensor(2, dtype=torch.int32)
    limits = -(2 ** (n_bits - 1)), 2 ** (n_bits - 1) - 1
    expected = torch.fake_quantize_per_tensor_affine(x, float(scale), 2, *limits)
    got = Q.fake_quantize(x, scale, zero_point, n_bits=n_bits)
    mistakes = {"does not quantize: returns x": x, "ignores the zero point": lambda: expected + 2 * scale}
    assert_close(got, expected, what="fake_quantize", mistakes=mistakes)


@pytest.mark.grades("fake_quantize")
def test_fake_quantize_gradient(generator):
    """Straight-through: the cotangent passes inside the range and stops outside, as in torch."""
    scale, zero_point = torch.tensor(0.01), torch.tensor(-20, dtype=torch.int32)
    x = torch.randn(300, generator=generator).requires_grad_()
    cotangent = torch.randn(300, generator=generator)
    (expected,) = torch.autograd.grad(
        torch.fake_quantize_per_tensor_affine(x, 0.01, -20, -128, 127), x, cotangent
    )
    got = Q.fake_quantize(x, scale, zero_point)
    assert got.requires_grad, "the graph is detached: rounding must count as the identity"
    (gradient,) = torch.autograd.grad(got, x, cotangent)
    mistakes = {
        "the gradient passes outside the range: it must stop where x was clamped": cotangent,
        "no gradient passes: rounding must count as the identity": torch.zeros(300),
    }
    assert_close(gradient, expected, what="gradient", mistakes=mistakes)


@pytest.mark.grades("fake_quantize")
def test_fake_quantize_per_channel(generator):
    """Along an axis as torch.fake_quantize_per_channel_affine, value and gradient."""
    x = torch.randn(5, 4, 3, generator=generator).requires_grad_()
    scale = torch.tensor([0.01, 0.02, 0.004, 0.03])
    zero_point = torch.tensor([0, 10, -30, 4], dtype=torch.int32)
    cotangent = torch.randn(5, 4, 3, generator=generator)
    expected = torch.fake_quantize_per_channel_affine(x, scale, zero_point, 1, -128, 127)
    got = Q.fake_quantize(x, scale, zero_point, axis=1)
    assert_close(got, expected, what="fake_quantize along axis 1")
    (gradient,) = torch.autograd.grad(got, x, cotangent)
    (wanted,) = torch.autograd.grad(expected, x, cotangent)
    assert_close(gradient, wanted, what="gradient along axis 1")
    assert Q.fake_quantize(x.double(), scale, zero_point, axis=1).dtype == torch.float64, (
        "keep the dtype of x"
    )


# --- sqnr -------------------------------------------------------------------------------------------------------------


@pytest.mark.grades("sqnr")
def test_sqnr_by_hand(generator):
    """A tenth of the amplitude as noise is 20 dB; equal is inf; b bits of uniform noise give 6.02 b dB."""
    x = torch.tensor([3.0, -4.0])
    assert abs(Q.sqnr(x, x * 1.1) - 20) < 1e-4, f"10 % error is 20 dB, got {Q.sqnr(x, x * 1.1)}"
    assert Q.sqnr(x, x) == math.inf, "no noise is inf"
    uniform = torch.rand(100_000, generator=generator) * 2 - 1
    noisy = torch.round(uniform * 128) / 128
    assert abs(Q.sqnr(uniform, noisy) - 6.02 * 8) < 0.1, f"8 bits are 48.2 dB, got {Q.sqnr(uniform, noisy)}"


@pytest.mark.grades("sqnr")
@pytest.mark.parametrize(
    ("reference", "actual"),
    [([0.0, 0.0], [1.0, 0.0]), ([], []), ([1.0], [1.0, 2.0]), ([1.0], [math.nan]), ([math.inf], [1.0])],
    ids=str,
)
def test_sqnr_bad_input(reference, actual):
    """No signal, other shapes and NaN have no ratio."""
    with expect_error(ValueError, otherwise=f"sqnr({reference}, {actual}) is accepted"):
        Q.sqnr(torch.tensor(reference), torch.tensor(actual))


# --- observers --------------------------------------------------------------------------------------------------------

OBSERVERS = ["MinMax", "MovingAverage", "Percentile", "MeanSquaredError"]


@pytest.mark.parametrize("function", OBSERVERS)
def test_observer_that_never_ran(function):
    """A range that nobody saw is an error, not 0 dB."""
    observer = getattr(Q, function)()
    with expect_error(RuntimeError, otherwise=f"{function} gives a range although nothing was observed"):
        observer.range()


@pytest.mark.parametrize("function", OBSERVERS)
@pytest.mark.parametrize(
    "bad", [torch.empty(0, 3), torch.tensor([1.0, math.nan]), torch.tensor([math.inf, 0.0])], ids=str
)
def test_observer_bad_input(function, bad):
    """Empty batches, NaN and inf are refused and change nothing."""
    observer = getattr(Q, function)()
    observer.observe(torch.tensor([-1.0, 0.5, 2.0]))
    before = [float(x) for x in observer.range()]
    with expect_error(ValueError, otherwise=f"{function} observes {bad}"):
        observer.observe(bad)
    assert [float(x) for x in observer.range()] == before, "a refused batch changed the range"


@pytest.mark.grades("MinMax")
def test_min_max(generator):
    """The extremes over all batches, of the tensor or per index of an axis."""
    batches = [torch.randn(6, 3, 2, generator=generator) * k for k in (3, 1, 2)]
    observer, per_channel = Q.MinMax(), Q.MinMax(axis=1)
    for batch in batches:
        observer.observe(batch)
        per_channel.observe(batch)
    everything = torch.cat(batches)
    low, high = observer.range()
    mistake = {"only the last batch counts": batches[-1].min()}
    assert_close(low, everything.min(), what="low", mistakes=mistake)
    assert_close(high, everything.max(), what="high")
    low, high = per_channel.range()
    assert_close(
        low, everything.amin((0, 2)), what="low per channel", hint="per-tensor where per-channel is asked?"
    )
    assert_close(high, everything.amax((0, 2)), what="high per channel")


@pytest.mark.grades("MovingAverage")
def test_moving_average():
    """0.75 of the old, 0.25 of the new; the first batch is taken as it is."""
    observer = Q.MovingAverage(momentum=0.75)
    for low, high in [(-1.0, 4.0), (-5.0, 8.0), (-2.0, 1.0)]:
        observer.observe(torch.tensor([low, 0.0, high]))
    mistakes = {
        "momentum weighs the new batch, not the old range": [-2.5, 2.75],
        "takes the extremes of all batches, not their average": [-5.0, 8.0],
        "starts from 0 instead of from the first batch": [-1.578125, 1.9375],
    }
    assert_close(np.array([float(x) for x in observer.range()]), [-2.0, 4.0], what="range", mistakes=mistakes)


@pytest.mark.grades("Percentile")
def test_percentile(generator):
    """As NumPy's percentile with linear interpolation, over all batches."""
    batches = [torch.randn(40, 5, generator=generator), torch.randn(333, generator=generator) * 2]
    observer = Q.Percentile(percentile=97.3)
    for batch in batches:
        observer.observe(batch)
        batch += 100  # the caller may reuse its memory
    values = np.concatenate([(b - 100).double().numpy().ravel() for b in batches])
    low, high = (float(x) for x in observer.range())
    assert_close(np.array([low, high]), np.percentile(values, [2.7, 97.3]), rtol=1e-4, what="range")
    whole = Q.Percentile(percentile=100)
    whole.observe(torch.tensor([3.0, -2.0, 1.0]))
    assert [float(x) for x in whole.range()] == [-2.0, 3.0], "percentile=100 is the extremes"
    for percentile in (50, 101):
        with expect_error(ValueError, str(percentile), otherwise=f"percentile={percentile} is accepted"):
            Q.Percentile(percentile=percentile)


@pytest.mark.grades("MeanSquaredError")
@pytest.mark.parametrize(("n_bits", "symmetric"), [(4, False), (4, True), (8, False)])
def test_mean_squared_error(n_bits, symmetric, generator):
    """No other shrunken range has a smaller error, judged by torch's fake quantization, and few bits do clip."""
    x = torch.randn(3000, generator=generator)
    x[:3] = torch.tensor([9.0, -6.0, 8.0])
    observer = Q.MeanSquaredError(n_bits=n_bits, symmetric=symmetric)
    observer.observe(x[:1000])
    observer.observe(x[1000:])
    low, high = (float(v) for v in observer.range())

    def error(low, high):
        top = 2 ** (n_bits - 1) - 1
        scale = max(-low, high) / top if symmetric else (high - low) / (2**n_bits - 1)
        zero_point = 0 if symmetric else round(-top - 1 - low / scale)
        fake = torch.fake_quantize_per_tensor_affine(x, scale, zero_point, -top - 1, top)
        return float((fake - x).square().mean())

    best = min(error(-6 * k / 100, 9 * k / 100) for k in range(5, 101))
    assert error(low, high) <= best * 1.001, (
        f"[{low:.2f}, {high:.2f}] has {error(low, high):.2g}, the best is {best:.2g}"
    )
    if n_bits == 4:
        assert high < 8, (
            f"4 bits with rare outliers must clip, but high is {high:.2f}: the extremes are not the best"
        )


# --- int4 -------------------------------------------------------------------------------------------------------------


@pytest.mark.grades("pack_int4")
def test_pack_by_hand():
    """The first of two integers is in the low nibble."""
    q = torch.tensor([[1, 2, -1, 7], [-8, 0, 5, -3]], dtype=torch.int8)
    expected = torch.tensor([[0x21, 0x7F], [0x08, 0xD5]], dtype=torch.uint8)
    mistakes = {"the nibbles are swapped": np.uint8([[0x12, 0xF7], [0x80, 0x5D]])}
    assert_close(Q.pack_int4(q), expected, what="bytes", mistakes=mistakes)


@pytest.mark.grades("unpack_int4")
def test_unpack_by_hand():
    """The sign of bit 3 comes back."""
    packed = torch.tensor([[0x21, 0x7F], [0x08, 0xD5]], dtype=torch.uint8)
    expected = torch.tensor([[1, 2, -1, 7], [-8, 0, 5, -3]], dtype=torch.int8)
    mistakes = {"the sign is lost": np.int8([[1, 2, 15, 7], [8, 0, 5, 13]])}
    assert_close(Q.unpack_int4(packed), expected, what="integers", mistakes=mistakes)


@pytest.mark.grades("pack_int4", "unpack_int4")
def test_pack_round_trip(generator):
    """Any shape and value comes back."""
    q = torch.randint(-8, 8, (3, 5, 14), generator=generator, dtype=torch.int8)
    assert Q.pack_int4(q).shape == (3, 5, 7), "two integers per byte"
    assert torch.equal(Q.unpack_int4(Q.pack_int4(q)), q), "pack and unpack do not fit"


@pytest.mark.grades("pack_int4")
@pytest.mark.parametrize("bad", [[1, 2, 3], [8, 0], [0, -9]], ids=str)
def test_pack_bad_input(bad):
    """An odd number, or a value of more than 4 bits, is refused."""
    with expect_error(ValueError, otherwise=f"{bad} is packed although it does not fit"):
        Q.pack_int4(torch.tensor(bad, dtype=torch.int8))
