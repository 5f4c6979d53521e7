"""The core's affine map: contract, values worked by hand, rows with a scale of their own, gradients.

Oracles: values worked by hand, numbers known by construction (oracles.py), torch.fake_quantize (another implementation).
"""

import math

import numpy as np
import pytest
import torch
from oracles import integers, near

import quantization as Q
from shared.testing.checks import assert_close, assert_imports_only, expect_error, unchanged


@pytest.mark.grades
def test_imports():
    """The deliverable needs torch only."""
    assert_imports_only(Q, {"torch"})


def pair(scale, zero_point):
    return torch.tensor(scale), torch.tensor(zero_point, dtype=torch.int32)


# --- choose_qparams ---------------------------------------------------------------------------------------------------


@pytest.mark.grades("choose_qparams")
@pytest.mark.parametrize(
    ("low", "high", "options", "scale", "zero_point"),
    [
        (-1.0, 4.1, {}, 5.1 / 255, -78),  # -128 + round(1/0.02)
        (-51.0, 204.0, {}, 1.0, -77),
        (-0.3, 1.0, {}, 1.3 / 255, -69),  # -128 + round(58.85)
        (-0.7, 2.0, {}, 2.7 / 255, -62),  # -128 + round(66.11)
        (2.0, 5.1, {}, 5.1 / 255, -128),  # widened to contain 0
        (-5.1, -2.0, {}, 5.1 / 255, 127),
        (-3.0, 2.0, {"symmetric": True}, 3 / 127, 0),
        (0.0, 2.54, {"symmetric": True}, 2.54 / 127, 0),
        (0.5, 2.54, {"symmetric": True}, 2.54 / 127, 0),
        (-1.0, 2.0, {"n_bits": 4}, 0.2, -3),
        (-1.4, 0.7, {"n_bits": 4, "symmetric": True}, 0.2, 0),
        (-1.27, 0.0, {"n_bits": 7}, 0.01, 63),
        (-1.26, 1.0, {"n_bits": 7, "symmetric": True}, 0.02, 0),
        (-1.0, 2.0, {"n_bits": 2}, 1.0, -1),
        (0.0, 0.0, {}, 1.0, -128),
        (0.0, 0.0, {"symmetric": True}, 1.0, 0),
    ],
)
def test_qparams_by_hand(low, high, options, scale, zero_point):
    """Scale and zero point of ranges that are worked out by hand."""
    got_scale, got_zero_point = Q.choose_qparams(low, high, **options)
    biggest, levels = max(abs(low), abs(high)), 2 ** options.get("n_bits", 8)
    wide = max(high, 0) - min(low, 0)
    assert_close(
        got_scale,
        torch.tensor(scale),
        what=f"scale of [{low}, {high}] with {options}",
        hint="where low = high = 0 the scale is 1" if wide == 0 else None,
        mistakes={}
        if wide == 0
        else {
            "the range was not widened to contain 0": (high - low) / (levels - 1) if low * high > 0 else None,
            "the scale comes from the largest magnitude, not from the range": biggest / (levels / 2 - 1),
            "symmetric is ignored": wide / (levels - 1),
            "n_bits is ignored": wide / 255,
            "2^b levels have 2^b - 1 steps between them": wide / levels,
        },
    )
    assert got_zero_point.dtype == torch.int32, f"zero_point must be int32, got {got_zero_point.dtype}"
    assert int(got_zero_point) == zero_point, (
        f"zero point of [{low}, {high}] with {options}: got {int(got_zero_point)}, expected {zero_point}"
    )


@pytest.mark.grades("choose_qparams")
@pytest.mark.parametrize("shape", [(4, 1), (2, 2), (4,)])
def test_qparams_of_rows(shape):
    """Tensors give one pair per entry: rows around 0, above it, below it, and all zero."""
    low = torch.tensor([-51.0, 2.0, -51.0, 0.0]).reshape(shape)
    high = torch.tensor([204.0, 510.0, -2.0, 0.0]).reshape(shape)
    expected = {
        False: ([1.0, 2.0, 0.2, 1.0], [-77, -128, 127, -128]),
        True: ([204 / 127, 510 / 127, 51 / 127, 1.0], [0, 0, 0, 0]),
    }
    for symmetric, (scales, zero_points) in expected.items():
        with unchanged(low, high):
            scale, zero_point = Q.choose_qparams(low, high, symmetric=symmetric)
        hint = "one range for all where each entry has its own?"
        assert_close(scale, torch.tensor(scales).reshape(shape), what=f"scale, {symmetric=}", hint=hint)
        wanted = torch.tensor(zero_points, dtype=torch.int32).reshape(shape)
        law = "symmetric zero points are 0" if symmetric else None
        assert_close(zero_point, wanted, what=f"zero point, {symmetric=}", hint=hint, vacuous_ok=law)


@pytest.mark.grades("choose_qparams")
@pytest.mark.parametrize(
    ("low", "high"), [(math.nan, 1.0), (0.0, math.nan), (-math.inf, 0.0), (0.0, math.inf), (2.0, 1.0)]
)
def test_bad_range(low, high):
    """NaN, inf and low > high are refused, also in one row of several."""
    with expect_error(ValueError, otherwise=f"the range [{low}, {high}] is accepted"):
        Q.choose_qparams(low, high)
    with expect_error(ValueError, otherwise=f"[{low}, {high}] in one row of two is accepted"):
        Q.choose_qparams(torch.tensor([[-1.0], [low]]), torch.tensor([[1.0], [high]]))


@pytest.mark.parametrize("function", ["choose_qparams", "quantize", "fake_quantize"])
def test_bad_bits(function):
    """n_bits is 2 to 8: more do not fit int8."""
    arguments = (-1.0, 1.0) if function == "choose_qparams" else (torch.ones(2), *pair(1.0, 0))
    for n_bits in (1, 9, 16, 0, -3):
        with expect_error(ValueError, str(n_bits), otherwise=f"{function} accepts n_bits={n_bits}"):
            getattr(Q, function)(*arguments, n_bits=n_bits)


# --- quantize ---------------------------------------------------------------------------------------------------------


@pytest.mark.grades("quantize")
def test_quantize_by_hand():
    """Ties go to even, ends saturate, inf as well."""
    x = torch.tensor([0.0, 0.5, 1.5, 2.5, -0.5, -1.5, 0.9, -0.9, 200.0, -200.0, math.inf, -math.inf])
    with unchanged(x):
        got = Q.quantize(x, *pair(1.0, 3))
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
            "rounds after the zero point was added: ties go to another even number": np.int8(
                [3, 4, 4, 6, 2, 2, 4, 2, 127, -128, 127, -128]
            ),
            "clamped before the zero point was added": np.int8(
                [3, 3, 5, 5, 3, 1, 4, 2, 127, -125, 127, -125]
            ),
            "ignores the zero point": np.int8([0, 0, 2, 2, 0, -2, 1, -1, 127, -128, 127, -128]),
            "returns zeros": np.zeros(12, np.int8),
        },
        hint="no clamp? An integer beyond int8 wraps around",
    )


@pytest.mark.grades("quantize")
@pytest.mark.parametrize(("n_bits", "low", "high"), [(2, -2, 1), (4, -8, 7), (7, -64, 63), (8, -128, 127)])
def test_quantize_saturates(n_bits, low, high):
    """The integers end where n_bits says, and the zero point counts before the clamp."""
    q = Q.quantize(torch.tensor([-1e6, low - 1.0, high - 1.0, 1e6]), *pair(1.0, 1), n_bits=n_bits)
    wanted = [low, low, high, high]
    assert q.tolist() == wanted, f"no clamp to {n_bits} bits: got {q.tolist()}, expected {wanted}"


@pytest.mark.grades("quantize")
def test_quantize_bad_input():
    """NaN is refused."""
    with expect_error(ValueError, otherwise="NaN is accepted and becomes an arbitrary integer"):
        Q.quantize(torch.tensor([[1.0, 2.0], [math.nan, 0.0]]), *pair(0.1, 0))


@pytest.mark.grades("quantize")
@pytest.mark.parametrize("shape", [(5, 5), (3, 7), (2, 3, 4)])
def test_quantize_rows(shape, generator):
    """Each row has its own pair, of shape (…, 1); so has a transposed view, and a square."""
    rows = (*shape[:-1], 1)
    scale = torch.rand(rows, generator=generator) * 3 + 0.01
    zero_point = torch.randint(-60, 60, rows, generator=generator, dtype=torch.int32)
    steps = integers(shape, -70, 70, generator)
    x = near(steps, scale, generator)
    view = x.transpose(-1, -2).contiguous().transpose(-1, -2)
    for layout, given in (("", x), (" of a transposed view", view)):
        with unchanged(given, scale, zero_point):
            got = Q.quantize(given, scale, zero_point)
        expected = (steps + zero_point).clamp(-128, 127).to(torch.int8)
        assert_close(got, expected, what=f"integers{layout}", hint="one pair for all rows?")


# --- dequantize -------------------------------------------------------------------------------------------------------


@pytest.mark.grades("dequantize")
def test_dequantize_by_hand():
    """(q - zero_point) · scale, where q - zero_point does not fit int8."""
    q = torch.tensor([-128, 0, 127], dtype=torch.int8)
    with unchanged(q):
        got = Q.dequantize(q, *pair(0.5, 100))
    mistakes = {
        "ignores the zero point": [-64.0, 0.0, 63.5],
        "the difference wraps around in int8": [14.0, -50.0, 13.5],
        "the zero point is subtracted after scaling": [-164.0, -100.0, -36.5],
    }
    assert_close(got, torch.tensor([-114.0, -50.0, 13.5]), what="dequantize", mistakes=mistakes)


@pytest.mark.grades("dequantize")
@pytest.mark.parametrize("shape", [(5, 5), (3, 7), (2, 3, 4)])
def test_dequantize_rows(shape, generator):
    """Each row has its own pair."""
    rows = (*shape[:-1], 1)
    scale = torch.rand(rows, generator=generator) * 3 + 0.01
    zero_point = torch.randint(-128, 128, rows, generator=generator, dtype=torch.int32)
    q = torch.randint(-128, 128, shape, generator=generator, dtype=torch.int8)
    expected = (q.double() - zero_point) * scale.double()
    got = Q.dequantize(q, scale, zero_point)
    assert_close(got, expected, dtype="float32", what="dequantize by row", hint="one pair for all rows?")


# --- fake_quantize ----------------------------------------------------------------------------------------------------


@pytest.mark.grades("fake_quantize")
@pytest.mark.parametrize("n_bits", [4, 8])
def test_fake_quantize_values(n_bits, generator):
    """The nearest of the values that the integers stand for; beyond them the last one."""
    scale, top = torch.tensor(0.11), 2 ** (n_bits - 1)
    steps = integers((6, 40), -2 * top, 2 * top, generator)
    x = near(steps, scale, generator)
    expected = scale.double() * (steps.clamp(-top - 2, top - 1 - 2))
    with unchanged(x):
        got = Q.fake_quantize(x, scale, torch.tensor(2, dtype=torch.int32), n_bits=n_bits)
    mistakes = {"does not quantize: returns x": x, "ignores the zero point": expected + 2 * scale}
    atol = (
        4 * float(x.abs().max()) * 2**-23
    )  # x + (rounded - x).detach() is right too, and rounds at the level of x
    assert_close(got, expected, dtype="float32", atol=atol, what="fake_quantize", mistakes=mistakes)


@pytest.mark.grades("fake_quantize")
@pytest.mark.parametrize("n_bits", [4, 8])
def test_fake_quantize_gradient(n_bits, generator):
    """Straight-through: the cotangent passes inside the range and stops outside."""
    top = 2 ** (n_bits - 1)
    zero_point = -top // 4
    steps = torch.cat([integers((3, 50), -end, end, generator) for end in (2 * top, 170)])
    for end in (-top - zero_point, top - 1 - zero_point):  # the ends: next test
        steps[steps == end] -= end / abs(end)
    x = near(steps, 0.01, generator).requires_grad_()
    cotangent = torch.randn(6, 50, generator=generator)
    expected = cotangent * ((steps + zero_point >= -top) & (steps + zero_point < top))
    got = Q.fake_quantize(x, *pair(0.01, zero_point), n_bits=n_bits)
    assert got.requires_grad, "the graph is detached: rounding must count as the identity"
    (gradient,) = torch.autograd.grad(
        (got * cotangent).sum(), x
    )  # with a cotangent torch loads sympy, for a second
    mistakes = {
        "the gradient passes outside the range: it must stop where x was clamped": cotangent,
        "no gradient passes: rounding must count as the identity": torch.zeros(6, 50),
        "the range of the gradient ignores the zero point": cotangent * (steps.abs() < top),
        "the range of the gradient ignores n_bits": cotangent * ((steps + zero_point + 0.5).abs() < 128),
    }
    assert_close(gradient, expected, dtype="float32", what="gradient", mistakes=mistakes)


@pytest.mark.grades("fake_quantize")
def test_fake_quantize_gradient_at_the_ends():
    """At scale 0.01, 1.274 rounds to 127 and passes; 1.276 rounds to 128, which is clamped, and stops."""
    x = torch.tensor([1.266, 1.27, 1.274, 1.276, 1.29, -1.28, -1.284, -1.286, -1.3]).requires_grad_()
    (gradient,) = torch.autograd.grad(Q.fake_quantize(x, *pair(0.01, 0)).sum(), x)
    mistakes = {
        "the mask comes from the float range, not from the integers: 1.274 becomes 127, which is not clamped": [
            *(1.0, 1.0, 0.0, 0.0, 0.0),
            *(1.0, 0.0, 0.0, 0.0),
        ],
        "the last integers were not clamped: there the gradient passes": [1.0, *[0.0] * 8],
    }
    expected = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0])
    assert_close(gradient, expected, what="gradient at the ends of the range", mistakes=mistakes)


@pytest.mark.grades("fake_quantize")
def test_fake_quantize_rows(generator):
    """Rows with pairs of their own as torch.fake_quantize_per_channel_affine, value and gradient."""
    scale, zero_point = torch.tensor([0.01, 0.02, 0.004]), torch.tensor([0, 10, -30], dtype=torch.int32)
    steps = integers((3, 40), -170, 170, generator)
    x = near(steps, scale[:, None], generator).requires_grad_()
    cotangent = torch.randn(3, 40, generator=generator)
    expected = torch.fake_quantize_per_channel_affine(x, scale, zero_point, 0, -128, 127)
    got = Q.fake_quantize(x, scale[:, None], zero_point[:, None])
    assert_close(got, expected, what="fake_quantize by row", hint="one pair for all rows?")
    (gradient,) = torch.autograd.grad((got * cotangent).sum(), x)
    (wanted,) = torch.autograd.grad((expected * cotangent).sum(), x)
    assert_close(gradient, wanted, what="gradient by row")


# --- MinMax -----------------------------------------------------------------------------------------------------------


def ends(observer):
    return [float(value) for value in observer.range()]


@pytest.mark.grades("MinMax")
def test_min_max(generator):
    """The extremes over all batches, whatever their order and shape."""
    batches = [torch.randn(6, 3, 2, generator=generator) * k for k in (3, 1, 2)]
    batches += [torch.tensor([0.1]), torch.randn(4, 5, generator=generator).T]
    observer = Q.MinMax()
    for batch in batches:
        with unchanged(batch):
            observer.observe(batch)
    low, high = ends(observer)
    everything = torch.cat([batch.flatten() for batch in batches])
    assert [low, high] != [batches[-1].min(), batches[-1].max()], "only the last batch counts"
    assert [low, high] == [everything.min(), everything.max()], (
        f"the range is [{low}, {high}], the extremes are [{everything.min()}, {everything.max()}]"
    )


@pytest.mark.grades("MinMax")
def test_min_max_away_from_zero():
    """The first batch is taken as it is: nothing pulls the range to 0."""
    for sign in (1, -1):
        observer = Q.MinMax()
        observer.observe(torch.tensor([2.0, 3.0]) * sign)
        observer.observe(torch.tensor([2.5, 4.0]) * sign)
        observer.observe(torch.tensor([4.5, 5.0]) * sign)  # a narrow batch beyond the others
        wanted = sorted([2.0 * sign, 5.0 * sign])
        assert ends(observer) == wanted, f"the extremes are {wanted}, the range is {ends(observer)}"
    constant = Q.MinMax()
    constant.observe(torch.tensor([5.0]))
    assert ends(constant) == [5.0, 5.0], f"one value is a range, too: got {ends(constant)}"


@pytest.mark.grades("MinMax")
def test_min_max_never_ran():
    """A range that nobody saw is an error, not an invention."""
    with expect_error(RuntimeError, otherwise="MinMax gives a range although nothing was observed"):
        Q.MinMax().range()


@pytest.mark.grades("MinMax")
@pytest.mark.parametrize(
    "bad",
    [
        torch.empty(0, 3),
        *(torch.tensor([[a, 9.0], [b, -9.0]]) for a, b in ((9, math.nan), (9, math.inf), (-math.inf, 9))),
    ],
    ids=str,
)
def test_min_max_bad_batch(bad):
    """Empty batches, NaN and inf are refused and change nothing."""
    observer = Q.MinMax()
    observer.observe(torch.tensor([-1.0, 0.5, 2.0]))
    with expect_error(ValueError, otherwise=f"MinMax observes {bad}"):
        observer.observe(bad)
    assert ends(observer) == [-1.0, 2.0], f"a refused batch changed the range to {ends(observer)}"
