"""edge_cases.py: the core's tests of these two losses, then half precision, infinity, nothing, errors that name what is wrong."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import test_other_losses
import torch
from test_other_losses import LABELS, ODDS

import edge_cases
from shared.testing.checks import assert_close, expect_error, unchanged

pytestmark = pytest.mark.module("edge_cases")
globals().update({k: v for k, v in vars(test_other_losses).items() if k.startswith("test_")})
bce = edge_cases.binary_cross_entropy_with_logits


@pytest.fixture
def module():
    return edge_cases


# --- 1. binary_cross_entropy_with_logits --------------------------------------------------------------------------


@pytest.mark.grades("binary_cross_entropy_with_logits")
def test_binary_contract():
    """The dtype of the logits stays, weights are not negative, and an error names what is wrong."""
    for dtype in (np.float16, np.float32, np.float64, np.int64, np.uint8):
        got = np.asarray(bce(ODDS.astype(dtype), LABELS, pos_weight=[1.0, 2.0])).dtype
        wanted = dtype if np.dtype(dtype).kind == "f" else np.float64
        assert got == wanted, f"{np.dtype(dtype)} logits give {got}"
    with expect_error(
        ValueError, "logits", "targets", "(3, 2)", "(2,)", otherwise="targets of another shape are broadcast"
    ):
        bce(ODDS, LABELS[0])
    with expect_error(ValueError, "average", otherwise="an unknown reduction is accepted"):
        bce(ODDS, LABELS, reduction="average")
    for name in ("logits", "targets", "weight", "pos_weight"):
        for bad in (ODDS + 1j, ODDS.astype(object)):
            arguments = {"logits": ODDS, "targets": LABELS} | {name: bad}
            with expect_error(TypeError, name, otherwise=f"{name} of {bad.dtype} must be refused"):
                bce(**arguments)


BAD_WEIGHTS = [
    (np.ones(3), ["(3,)", "(3, 2)"]),
    (np.ones((1, 3, 2)), ["(1, 3, 2)", "(3, 2)"]),
    ([2.0, -1.25], ["-1.25", "1"]),
    ([[1.0], [1.0], [-3.5]], ["-3.5", "2, 0"]),
    (-0.5, ["-0.5"]),
    (np.inf, ["inf"]),
    ([np.nan, 1.0], ["nan", "0"]),
]


@pytest.mark.grades("binary_cross_entropy_with_logits")
@pytest.mark.parametrize("name", ["weight", "pos_weight"])
@pytest.mark.parametrize(("bad", "words"), BAD_WEIGHTS)
def test_binary_names_bad_weights(name, bad, words):
    """A weight is finite, not negative, and of a shape that broadcasts."""
    with expect_error(ValueError, name, *words, otherwise=f"{name}={bad} is accepted for logits (3, 2)"):
        bce(ODDS, LABELS, **{name: bad})


@pytest.mark.grades("binary_cross_entropy_with_logits")
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_binary_equals_torch(reduction, rng):
    """Soft labels, all options together."""
    for scale in (1.0, 1e4):
        x, y = scale * rng.standard_normal((4, 5, 3)), rng.random((4, 5, 3))
        weight, pos_weight = rng.uniform(0.5, 2.0, (5, 1)), rng.uniform(0.5, 2.0, 3)
        for w, v in ((None, None), (weight, None), (None, pos_weight), (weight, pos_weight)):
            expected = torch.nn.functional.binary_cross_entropy_with_logits(
                torch.tensor(x),
                torch.tensor(y),
                weight=None if w is None else torch.tensor(w),
                pos_weight=None if v is None else torch.tensor(v),
                reduction=reduction,
            ).numpy()
            with unchanged(x, y, weight, pos_weight):
                got = bce(x, y, weight=w, pos_weight=v, reduction=reduction)
            assert_close(got, expected, rtol=1e-12)


@pytest.mark.grades("binary_cross_entropy_with_logits")
def test_binary_in_half_precision(rng):
    """The sum of many losses passes 65504, where float16 ends: compute in float32, sum in float64."""
    x, y = (5 * rng.standard_normal(40_000)).astype(np.float16), rng.integers(0, 2, 40_000)
    z = np.where(y == 1, -1, 1) * x.astype(np.float64)
    expected = np.logaddexp(0, z)
    assert_close(bce(x, y), expected.mean(), dtype=np.float16, hint="compute float16 in float32")
    assert_close(bce(x, y, reduction="none"), expected, dtype=np.float16, rtol=1e-3, atol=6e-8)


@pytest.mark.grades("binary_cross_entropy_with_logits")
def test_binary_edges():
    """Right from 1e-300 to 1e4 and at infinity."""
    x = np.array([1e4, -1e4, 690.0, 40.0, -40.0, 1e-8])
    y = np.array([0.0, 1.0, 1.0, 1.0, 0.0, 1.0])
    with mpmath.workdps(400):
        z = [-xi if yi else xi for xi, yi in zip(x.tolist(), y.tolist(), strict=True)]
        expected = np.array([float(mpmath.log1p(mpmath.exp(zi))) for zi in z])
    assert_close(
        bce(x, y, reduction="none"),
        expected,
        rtol=1e-14,
        atol=0.0,
        hint="use max(x, 0) + log1p(exp(-|x|)): exp overflows, or 1 + tiny is rounded to 1 before the log",
    )
    infinite, labels = np.array([np.inf, -np.inf, np.inf, np.nan, 0.0]), np.array([1.0, 0.0, 0.0, 1.0, 1.0])
    assert_close(
        bce(infinite, labels, reduction="none"),
        np.array([0.0, 0.0, np.inf, np.nan, np.log(2.0)]),
        hint="0 · inf is NaN; a right answer at infinity costs 0",
    )
    nothing = np.zeros((0, 2))
    assert_close(bce(nothing, nothing), np.nan, vacuous_ok="mean of nothing")
    assert_close(bce(nothing, nothing, reduction="sum"), 0.0, vacuous_ok="sum of nothing")
    assert_close(bce(nothing, nothing, reduction="none"), nothing, vacuous_ok="losses of nothing")


@pytest.mark.grades("binary_cross_entropy_with_logits")
def test_binary_weights_of_zero():
    """A weight of 0 is none too little: its loss is 0, also where the logit is infinite."""
    x, y = np.array([0.0, -np.inf, np.inf, np.log(3.0)]), np.array([1.0, 1.0, 0.0, 0.0])
    hint = "a weight may be 0: 0 · inf is 0 here"
    losses = bce(x, y, weight=[1.0, 0.0, 0.0, 2.0], reduction="none")
    assert_close(losses, np.array([np.log(2.0), 0.0, 0.0, 2 * np.log(4.0)]), hint=hint)
    losses = bce(x, y, pos_weight=0.0, reduction="none")
    assert_close(losses, np.array([0.0, 0.0, np.inf, np.log(4.0)]), hint=hint)


@pytest.mark.parametrize("function", ["binary_cross_entropy_with_logits", "mse_loss"])
def test_sums_in_float64(function):
    """One loss of 2²⁴ and 5000 small ones: in float32, the small ones vanish beside the large one."""
    is_binary = function == "binary_cross_entropy_with_logits"
    x = np.full(5001, 0.0 if is_binary else 1.0, np.float32)
    x[0] = 2.0**24 if is_binary else 2.0**12
    total = 2.0**24 + 5000 * (np.log(2.0) if is_binary else 1.0)
    for reduction, divisor in (("sum", 1), ("mean", 5001)):
        loss = getattr(edge_cases, function)(x, np.zeros_like(x), reduction=reduction)
        hint = "sums are accumulated in float64"
        assert_close(loss, total / divisor, dtype=np.float32, rtol=1.2e-7, atol=0.0, hint=hint)


# --- 2. mse_loss ----------------------------------------------------------------------------------------------------


@pytest.mark.grades("mse_loss")
def test_squared_error_names_the_shapes():
    """Two shapes, an unknown reduction, complex numbers."""
    with expect_error(
        ValueError,
        "prediction",
        "target",
        "(4, 1)",
        "(4,)",
        otherwise="(4, 1) and (4,) broadcast to 16 differences",
    ):
        edge_cases.mse_loss(np.zeros((4, 1)), np.zeros(4))
    with expect_error(ValueError, "average", otherwise="an unknown reduction is accepted"):
        edge_cases.mse_loss(np.zeros(4), np.zeros(4), reduction="average")
    for name in ("prediction", "target"):
        for bad in (1j * np.zeros(4), np.zeros(4, object)):
            arguments = {"prediction": np.zeros(4), "target": np.zeros(4)} | {name: bad}
            with expect_error(TypeError, name, otherwise=f"{name} of {bad.dtype} must be refused"):
                edge_cases.mse_loss(**arguments)


@pytest.mark.grades("mse_loss")
def test_squared_error_dtypes(rng):
    """Common dtype; uint8 does not wrap around; float16 squares do not overflow on the way to the mean."""
    pixels = np.array([[0, 250], [3, 7]], dtype=np.uint8), np.array([[255, 0], [5, 7]], dtype=np.uint8)
    with unchanged(*pixels):
        loss = edge_cases.mse_loss(*pixels)
    assert_close(loss, (255**2 + 250**2 + 4) / 4, hint="uint8 differences wrap around")
    half = np.array([300.0, 1.0, 2.0, 0.0], dtype=np.float16)
    assert_close(
        edge_cases.mse_loss(half, 0 * half), 90_005 / 4, dtype=np.float16, hint="300² overflows float16"
    )
    single, double = rng.standard_normal((5, 3)).astype(np.float32), rng.standard_normal((5, 3))
    squares = np.square(single - double)
    assert_close(edge_cases.mse_loss(single, double), squares.mean())
    assert_close(
        edge_cases.mse_loss(single, double.astype(np.float32)), squares.mean(), dtype=np.float32, n=15
    )


@pytest.mark.grades("mse_loss")
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_squared_error_equals_torch(reduction, rng):
    """Any rank, including empty: the mean of nothing is NaN without a warning."""
    for shape in ((), (7,), (3, 4, 5), (0, 3)):
        a, b = rng.standard_normal(shape), rng.standard_normal(shape)
        expected = torch.nn.functional.mse_loss(torch.tensor(a), torch.tensor(b), reduction=reduction).numpy()
        got = edge_cases.mse_loss(a, b, reduction=reduction)
        assert_close(got, expected, rtol=1e-12, vacuous_ok="one shape is empty")
