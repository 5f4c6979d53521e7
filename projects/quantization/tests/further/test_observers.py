"""The judge of the observers beyond MinMax, and of the ratio that says how good a range was.

Oracles: values worked by hand, NumPy's percentile, torch.fake_quantize, laws (6 dB per bit).
"""

import math

import numpy as np
import pytest
import torch

import observers as O
from shared.testing.checks import assert_close, expect_error, unchanged

# --- sqnr -------------------------------------------------------------------------------------------------------------


@pytest.mark.grades("sqnr")
def test_sqnr_by_hand(generator):
    """A tenth of the amplitude as noise is 20 dB; equal is inf; b bits of uniform noise give 6.02 b dB."""
    x = torch.tensor([3.0, -4.0])
    assert abs(O.sqnr(x, x * 1.1) - 20) < 1e-4, f"10 % error is 20 dB, got {O.sqnr(x, x * 1.1)}"
    assert O.sqnr(x, x) == math.inf, "no noise is inf"
    large = x * 1e30
    assert abs(O.sqnr(large, large * 1.1) - 20) < 1e-4, (
        "squares of 1e30 do not fit float32: compute in float64"
    )
    uniform = torch.rand(100_000, generator=generator) * 2 - 1
    noisy = torch.round(uniform * 128) / 128
    assert abs(O.sqnr(uniform, noisy) - 6.02 * 8) < 0.1, f"8 bits are 48.2 dB, got {O.sqnr(uniform, noisy)}"


@pytest.mark.grades("sqnr")
@pytest.mark.parametrize(
    ("reference", "actual"),
    [([0.0, 0.0], [1.0, 0.0]), ([], []), ([1.0], [1.0, 2.0]), ([1.0], [math.nan]), ([math.inf], [1.0])],
    ids=str,
)
def test_sqnr_bad_input(reference, actual):
    """No signal, other shapes and NaN have no ratio."""
    with expect_error(ValueError, otherwise=f"sqnr({reference}, {actual}) is accepted"):
        O.sqnr(torch.tensor(reference), torch.tensor(actual))


# --- observers --------------------------------------------------------------------------------------------------------

OBSERVERS = ["ChannelMinMax", "MovingAverage", "Percentile", "MeanSquaredError"]


def make(function):
    return O.ChannelMinMax(axis=0) if function == "ChannelMinMax" else getattr(O, function)()


@pytest.mark.parametrize("function", OBSERVERS)
def test_observer_that_never_ran(function):
    """A range that nobody saw is an error, not 0 dB."""
    observer = make(function)
    with expect_error(RuntimeError, otherwise=f"{function} gives a range although nothing was observed"):
        observer.range()


@pytest.mark.parametrize("function", OBSERVERS)
@pytest.mark.parametrize(
    "bad",
    [
        torch.empty(0, 3),
        torch.tensor([1.0, math.nan]),
        torch.tensor([math.inf, 0.0]),
        torch.tensor([-math.inf, 0.0]),
    ],
    ids=str,
)
def test_observer_bad_input(function, bad):
    """Empty batches, NaN and inf are refused and change nothing."""
    observer = make(function)
    observer.observe(torch.tensor([-1.0, 0.5, 2.0]))
    before = [torch.as_tensor(x).tolist() for x in observer.range()]
    with expect_error(ValueError, otherwise=f"{function} observes {bad}"):
        observer.observe(bad)
    assert [torch.as_tensor(x).tolist() for x in observer.range()] == before, (
        "a refused batch changed the range"
    )


@pytest.mark.grades("ChannelMinMax")
def test_channel_min_max(generator):
    """The extremes of each channel over all batches."""
    batches = [torch.randn(6, 3, 2, generator=generator) * k for k in (3, 1, 2)]
    for axis, others in ((1, (0, 2)), (-1, (0, 1))):
        observer = O.ChannelMinMax(axis=axis)
        for batch in batches:
            with unchanged(batch):
                observer.observe(batch)
        everything = torch.cat(batches)
        low, high = observer.range()
        mistake = {"only the last batch counts": batches[-1].amin(others)}
        hint = "per-tensor where per-channel is asked?"
        assert_close(low, everything.amin(others), what="low per channel", mistakes=mistake, hint=hint)
        assert_close(high, everything.amax(others), what="high per channel")


@pytest.mark.grades("MovingAverage")
def test_moving_average():
    """0.75 of the old, 0.25 of the new; the first batch is taken as it is."""
    slow = O.MovingAverage()
    slow.observe(torch.tensor([-1.0, 4.0]))
    slow.observe(torch.tensor([-2.0, 6.0]))
    got = np.array([float(x) for x in slow.range()])
    assert_close(got, [-1.01, 4.02], what="range", hint="without a momentum it is 0.99", rtol=1e-6)
    observer = O.MovingAverage(momentum=0.75)
    for low, high in [(-1.0, 4.0), (-5.0, 8.0), (-2.0, 1.0)]:
        observer.observe(torch.tensor([low, 0.0, high]))
    mistakes = {
        "momentum weighs the new batch, not the old range": [-2.5, 2.75],
        "takes the extremes of all batches, not their average": [-5.0, 8.0],
        "starts from 0 instead of from the first batch": [-1.578125, 1.9375],
    }
    assert_close(np.array([float(x) for x in observer.range()]), [-2.0, 4.0], what="range", mistakes=mistakes)


@pytest.mark.grades("MovingAverage")
def test_moving_average_away_from_zero():
    """[2, 3] and [-1, 3] with momentum 3/4 give [1.25, 3]: nothing is widened to 0 before its time."""
    observer = O.MovingAverage(momentum=0.75)
    observer.observe(torch.tensor([2.0, 3.0]))
    early = "the range is widened to 0 too early: choose_qparams does that"
    assert [float(x) for x in observer.range()] == [2.0, 3.0], f"the first batch is taken as it is; {early}"
    observer.observe(torch.tensor([-1.0, 3.0]))
    got = np.array([float(x) for x in observer.range()])
    assert_close(
        got, np.array([1.25, 3.0]), what="range of [2, 3] and [-1, 3]", mistakes={early: [-0.25, 3.0]}
    )


@pytest.mark.grades("MovingAverage")
def test_moving_average_of_channels():
    """With axis one average per channel."""
    observer = O.MovingAverage(momentum=0.75, axis=1)
    observer.observe(torch.tensor([[1.0, -4.0], [2.0, 8.0]]))
    observer.observe(torch.tensor([[5.0, 0.0], [-2.0, 4.0]]))
    low, high = observer.range()
    assert_close(low, torch.tensor([0.25, -3.0]), what="low per channel", hint="is axis ignored?")
    assert_close(high, torch.tensor([2.75, 7.0]), what="high per channel", hint="is axis ignored?")


@pytest.mark.grades("Percentile")
def test_percentile(generator):
    """As NumPy's percentile with linear interpolation, over all batches."""
    batches = [torch.randn(40, 5, generator=generator), torch.randn(333, generator=generator) * 2]
    observer = O.Percentile(percentile=97.3)
    for batch in batches:
        observer.observe(batch)
    values = np.concatenate([b.double().numpy().ravel() for b in batches])
    expected = np.percentile(values, [2.7, 97.3])
    assert_close(np.array([float(x) for x in observer.range()]), expected, rtol=1e-4, what="range")
    for batch in batches:
        batch += 100
    hint = "the caller reused its memory: what is kept must be a copy"
    assert_close(np.array([float(x) for x in observer.range()]), expected, rtol=1e-4, what="range", hint=hint)
    whole = O.Percentile(percentile=100)
    whole.observe(torch.tensor([3.0, -2.0, 1.0]))
    assert [float(x) for x in whole.range()] == [-2.0, 3.0], "percentile=100 is the extremes"
    one = O.Percentile(percentile=50.5)
    one.observe(torch.tensor([2.5]))
    assert [float(x) for x in one.range()] == [2.5, 2.5], "one value is all there is to a range"
    for percentile in (50, 100.5, 101):
        with expect_error(ValueError, str(percentile), otherwise=f"percentile={percentile} is accepted"):
            O.Percentile(percentile=percentile)


@pytest.mark.grades("MeanSquaredError")
@pytest.mark.parametrize(("n_bits", "symmetric"), [(4, False), (4, True), (8, False)])
def test_mean_squared_error(n_bits, symmetric, generator):
    """No other shrunken range has a smaller error, judged by torch's fake quantization, and few bits do clip."""
    x = torch.randn(3000, generator=generator)
    x[:3] = torch.tensor([9.0, -6.0, 8.0])
    observer = O.MeanSquaredError(n_bits=n_bits, symmetric=symmetric)
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


@pytest.mark.grades("MeanSquaredError")
def test_mean_squared_error_at_both_ends():
    """From the extremes themselves, where no wider range may be tried, to a hundredth, where one value stands alone."""
    whole = O.MeanSquaredError(n_bits=2)
    whole.observe(torch.tensor([0.0, 101.0, 202.0]).repeat(100))  # [0, 303] would hold them exactly
    whole.observe(torch.tensor([300.0]))
    got = [float(v) for v in whole.range()]
    assert got == [0.0, 300.0], f"the best range up to the extremes is [0, 300], got {got}"
    hundredth = O.MeanSquaredError(n_bits=2)
    hundredth.observe(torch.arange(4.0).repeat(20_000))
    hundredth.observe(torch.tensor([300.0]))
    got = [float(v) for v in hundredth.range()]
    assert got == [0.0, 3.0], f"80,000 values that 0 to 3 holds exactly outweigh one of 300, got {got}"


@pytest.mark.grades("MeanSquaredError")
def test_mean_squared_error_copies(generator):
    """The caller may reuse the memory of a batch."""
    x, observer = torch.randn(300, generator=generator), O.MeanSquaredError()
    observer.observe(x)
    before = [float(v) for v in observer.range()]
    x += 100
    assert [float(v) for v in observer.range()] == before, "the caller reused its memory: keep a copy"


@pytest.mark.grades("along")
def test_along():
    """One value per channel, shaped for any number of axes."""
    values = torch.tensor([1.0, 2.0, 3.0])
    for axis, ndim, shape in (
        (0, 1, (3,)),
        (1, 3, (1, 3, 1)),
        (-1, 2, (1, 3)),
        (-3, 4, (1, 3, 1, 1)),
        (0, 2, (3, 1)),
    ):
        got = O.along(values, axis, ndim)
        assert got.shape == shape, f"axis {axis} of {ndim}: shape {tuple(got.shape)}, expected {shape}"
        assert got.flatten().tolist() == [1.0, 2.0, 3.0]


@pytest.mark.grades("ChannelMinMax", "MovingAverage")
@pytest.mark.parametrize("make", [lambda: O.ChannelMinMax(axis=1), lambda: O.MovingAverage(axis=1)])
@pytest.mark.parametrize("channels", [1, 4])
def test_other_channels(make, channels, generator):
    """A batch of other channels is refused; one channel is not taken for all."""
    observer = make()
    observer.observe(torch.randn(5, 3, generator=generator))
    low, high = (end.clone() for end in observer.range())
    with expect_error(ValueError, str(channels), otherwise=f"{channels} channels after 3 are accepted"):
        observer.observe(100 * torch.randn(5, channels, generator=generator))
    assert torch.equal(observer.range()[0], low), "a refused batch changed the range"
    assert torch.equal(observer.range()[1], high), "a refused batch changed the range"


@pytest.mark.grades("MovingAverage")
def test_small_steps_are_not_lost():
    """With momentum 0.99999 a step is 1e-5 of the difference: in float32 it is lost where that is small."""
    observer = O.MovingAverage(momentum=0.99999)
    observer.observe(torch.tensor([1.0, 1000.0]))
    for _ in range(2000):
        observer.observe(torch.tensor([1.002, 1002.0]))
    moved = 1 - 0.99999**2000
    expected = torch.tensor([1 + 0.002 * moved, 1000 + 2 * moved])
    got = torch.stack(observer.range())
    assert_close(got, expected, rtol=1e-7, what="the average", hint="each step is rounded away in float32")
    forgetful = O.MovingAverage(momentum=0)
    for k in (1, 2):
        forgetful.observe(torch.tensor([-1.0, 3.0]) * k)
    assert torch.stack(forgetful.range()).tolist() == [-2.0, 6.0], "momentum 0 keeps the last batch only"
    for momentum in (1.0, -0.1, 1.5, math.nan):
        with expect_error(ValueError, "momentum", otherwise=f"momentum={momentum} is accepted"):
            O.MovingAverage(momentum=momentum)


@pytest.mark.grades("MeanSquaredError", "Percentile")
@pytest.mark.parametrize("size", [1e-25, 1e25])
def test_ranges_of_any_size(size, generator):
    """What is found does not depend on the unit: squares that underflow or overflow would say that no range is better."""
    x = torch.randn(2000, generator=generator)
    for make in (lambda: O.MeanSquaredError(n_bits=3), lambda: O.Percentile(percentile=99)):
        ends = []
        for values in (x, x * size):
            observer = make()
            observer.observe(values)
            ends.append(torch.stack(observer.range()))
        assert_close(ends[1] / size, ends[0], rtol=1e-5, what="the range", hint="squares leave float32")
    observer = O.Percentile(percentile=75)
    observer.observe(torch.tensor([-3e38, 3e38]))
    assert_close(
        torch.stack(observer.range()), torch.tensor([-1.5e38, 1.5e38]), rtol=1e-5, what="quartiles of ±3e38"
    )
    with expect_error(ValueError, "n_bits", otherwise="n_bits=9 is found wrong only after all the work"):
        O.MeanSquaredError(n_bits=9)


@pytest.mark.parametrize("function", ["ChannelMinMax", "MovingAverage", "Percentile", "MeanSquaredError"])
def test_values_beyond_float32(function):
    """1e300 is finite in float64, and has no range in float32: refused, and nothing changes."""
    made = getattr(O, function)(**({"axis": 0} if function == "ChannelMinMax" else {}))
    made.observe(torch.tensor([[-1.0, 2.0]]))
    with expect_error(ValueError, otherwise=f"{function} observes 1e300"):
        made.observe(torch.tensor([[1e300, 0.0]], dtype=torch.float64))
    assert all(torch.isfinite(end).all() for end in made.range()), "a refused batch changed the range"
