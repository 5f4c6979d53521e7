"""The relatives: negative log-likelihood, binary cross-entropy, squared error, KL divergence."""

import mpmath
import numpy as np
import pytest
import torch
from oracles import COUNTS, LOGITS, LOSSES, SOFTMAX, TARGET_WEIGHT, TARGETS, WEIGHT
from scipy.special import rel_entr, softmax

import cross_entropy as ce
from shared.testing.checks import assert_close, expect_error, unchanged

LOG_PROBS = np.log(SOFTMAX)
ZERO = {"a mean over nothing is NaN, as in torch": 0.0}


# --- nll_loss -----------------------------------------------------------------------------------------------


@pytest.mark.grades("nll_loss")
def test_nll_contract():
    """The dtype of the log-probabilities stays, bad class indices and soft targets are refused."""
    for dtype in (np.float16, np.float32, np.float64):
        got = np.asarray(ce.nll_loss(LOG_PROBS.astype(dtype), TARGETS)).dtype
        assert got == dtype, f"{np.dtype(dtype)} log-probabilities give {got}"
    with unchanged(LOG_PROBS, TARGETS, WEIGHT):
        ce.nll_loss(LOG_PROBS, TARGETS, weight=WEIGHT)
    with expect_error(
        ValueError, "-1", "2", otherwise="a negative class index wraps around to the last class"
    ):
        ce.nll_loss(LOG_PROBS, np.array([0, 1, -1, 2]))
    with expect_error(ValueError, "3", "1", otherwise="a class index must be below C"):
        ce.nll_loss(LOG_PROBS, np.array([0, 3, 1, 2]))
    with expect_error(ValueError, "-2.5", "1", otherwise="a negative weight is accepted"):
        ce.nll_loss(LOG_PROBS, TARGETS, weight=[1.0, -2.5, 1.0])
    with expect_error(ValueError, "average", otherwise="an unknown reduction is accepted"):
        ce.nll_loss(LOG_PROBS, TARGETS, reduction="average")
    with expect_error(ValueError, "(4, 1)", otherwise="targets leave out the class axis"):
        ce.nll_loss(LOG_PROBS, TARGETS[:, None])
    with expect_error(TypeError, otherwise="nll_loss takes class indices, not probabilities"):
        ce.nll_loss(LOG_PROBS, SOFTMAX)


@pytest.mark.grades("nll_loss")
def test_nll_by_hand():
    """Minus the target's log-probability, averaged."""
    shifted = LOG_PROBS - 1.0  # not normalised, so that a second log_softmax shows
    assert_close(
        ce.nll_loss(shifted, TARGETS),
        LOSSES.mean() + 1.0,
        mistakes={
            "the sign: minus the log-probability": -LOSSES.mean() - 1.0,
            "the input is log-probabilities already: no second log_softmax": LOSSES.mean(),
            "this is the sum, not the mean": LOSSES.sum() + 4.0,
        },
    )


@pytest.mark.grades("nll_loss")
def test_nll_options():
    """Weight, ignore_index and reduction."""
    weighted = TARGET_WEIGHT * LOSSES
    assert_close(
        ce.nll_loss(LOG_PROBS, TARGETS, weight=WEIGHT),
        weighted.sum() / TARGET_WEIGHT.sum(),
        mistakes={
            "nll_loss: the mean divides by N, not by the summed weight of the targets": weighted.mean(),
            "nll_loss: weight is ignored": LOSSES.mean(),
        },
    )
    ignored = np.array([2, 9, 1, 9])
    assert_close(
        ce.nll_loss(LOG_PROBS, ignored, ignore_index=9),
        (LOSSES[0] + LOSSES[2]) / 2,
        mistakes={"nll_loss: ignored positions still count in the mean": (LOSSES[0] + LOSSES[2]) / 4},
    )
    assert_close(ce.nll_loss(LOG_PROBS, TARGETS, weight=WEIGHT, reduction="none"), weighted)
    assert_close(ce.nll_loss(LOG_PROBS, TARGETS, weight=WEIGHT, reduction="sum"), weighted.sum())


@pytest.mark.grades("nll_loss")
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("shape", [(5,), (7, 4), (3, 5, 2), (2, 5, 3, 4)])
def test_nll_equals_torch(shape, reduction, rng):
    """All options together, in any rank."""
    C = shape[min(1, len(shape) - 1)]
    positions = shape[:1] + shape[2:] if len(shape) > 1 else ()
    log_probs, weight = rng.standard_normal(shape), rng.uniform(0.5, 2.0, C)
    for ignore_index in (1, -1):
        targets = np.where(rng.random(positions) < 0.3, ignore_index, rng.integers(0, C, positions))
        targets[(0,) * len(positions)] = 2
        expected = torch.nn.functional.nll_loss(
            torch.tensor(log_probs),
            torch.tensor(targets),
            weight=torch.tensor(weight),
            ignore_index=ignore_index,
            reduction=reduction,
        ).numpy()
        got = ce.nll_loss(log_probs, targets, weight=weight, ignore_index=ignore_index, reduction=reduction)
        assert_close(got, expected, rtol=1e-12)


@pytest.mark.grades("nll_loss")
def test_nll_edges():
    """An impossible target costs inf, an ignored or weightless one nothing; a mean over nothing is NaN."""
    log_probs = np.array([[0.0, -np.inf], [-np.inf, -0.5], [-2.0, -0.25]])
    losses = ce.nll_loss(log_probs, np.array([1, 1, 0]), reduction="none")
    assert_close(losses, np.array([np.inf, 0.5, 2.0]))
    assert_close(
        ce.nll_loss(log_probs, np.array([-100, -100, 0])),
        2.0,
        hint="0 · inf is NaN: an ignored target must contribute 0",
    )
    assert_close(
        ce.nll_loss(log_probs, np.array([1, 0, 0]), weight=[3.0, 0.0], reduction="none"),
        np.array([0.0, np.inf, 6.0]),
        hint="0 · inf is NaN: a target of weight 0 must contribute 0",
    )
    assert_close(
        ce.nll_loss(log_probs, np.full(3, -100)), np.nan, vacuous_ok="mean over nothing", mistakes=ZERO
    )
    assert_close(
        ce.nll_loss(np.zeros((0, 2)), np.zeros(0, int)), np.nan, vacuous_ok="mean over nothing", mistakes=ZERO
    )


# --- binary_cross_entropy_with_logits -----------------------------------------------------------------------

ODDS = np.log([[3.0, 1 / 4], [1.0, 9.0], [1 / 7, 2.0]])  # probabilities 3/4, 1/5; 1/2, 9/10; 1/8, 2/3
LABELS = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
BINARY = np.log([[4 / 3, 5 / 4], [2.0, 10.0], [8 / 7, 3 / 2]])


@pytest.mark.grades("binary_cross_entropy_with_logits")
def test_binary_contract():
    """Shapes must agree, the dtype of the logits stays, weights are not negative."""
    bce = ce.binary_cross_entropy_with_logits
    for dtype in (np.float16, np.float32, np.float64):
        got = np.asarray(bce(ODDS.astype(dtype), LABELS, pos_weight=[1.0, 2.0])).dtype
        assert got == dtype, f"{np.dtype(dtype)} logits give {got}"
    with unchanged(ODDS, LABELS):
        bce(ODDS, LABELS)
    with expect_error(ValueError, "(3, 2)", "(2,)", otherwise="targets of another shape are broadcast"):
        bce(ODDS, LABELS[0])
    with expect_error(ValueError, "(3,)", otherwise="a weight that does not broadcast is accepted"):
        bce(ODDS, LABELS, weight=np.ones(3))
    with expect_error(ValueError, "-1", "1", otherwise="a negative pos_weight is accepted"):
        bce(ODDS, LABELS, pos_weight=[2.0, -1.0])
    with expect_error(ValueError, "-3", "2, 0", otherwise="a negative weight is accepted"):
        bce(ODDS, LABELS, weight=[[1.0], [1.0], [-3.0]])
    with expect_error(ValueError, "average", otherwise="an unknown reduction is accepted"):
        bce(ODDS, LABELS, reduction="average")
    with expect_error(TypeError, otherwise="complex logits must be refused"):
        bce(ODDS + 1j, LABELS)


@pytest.mark.grades("binary_cross_entropy_with_logits")
def test_binary_by_hand():
    """Six labels whose probabilities are fractions."""
    bce = ce.binary_cross_entropy_with_logits
    only_positive = np.where(LABELS == 1, BINARY, 0.0)
    assert_close(
        bce(ODDS, LABELS),
        BINARY.mean(),
        mistakes={
            "the term of the label 0 is missing: (1 - y) softplus(x)": only_positive.mean(),
            "the labels are exchanged": (BINARY + np.where(LABELS == 1, ODDS, -ODDS)).mean(),
            "this is the sum, not the mean": BINARY.sum(),
            "the mean is over all elements, not over rows": BINARY.sum() / 3,
            "the sign: the log of a probability is negative, the loss is not": -BINARY.mean(),
        },
    )
    assert_close(bce(ODDS, LABELS, reduction="none"), BINARY)
    assert_close(bce(ODDS, LABELS, reduction="sum"), BINARY.sum())
    assert_close(bce(ODDS, LABELS.astype(bool)), BINARY.mean())


@pytest.mark.grades("binary_cross_entropy_with_logits")
def test_binary_weights():
    """pos_weight is for the label 1 only; no weight changes what the mean divides by."""
    bce = ce.binary_cross_entropy_with_logits
    weight, pos_weight = np.array([[1.0], [2.0], [0.5]]), np.array([3.0, 5.0])
    positive = np.where(LABELS == 1, pos_weight, 1.0)
    assert_close(
        bce(ODDS, LABELS, pos_weight=pos_weight),
        (positive * BINARY).mean(),
        mistakes={
            "pos_weight is ignored": BINARY.mean(),
            "pos_weight is for the label 1 only, not for both": (pos_weight * BINARY).mean(),
            "pos_weight is for the label 1, not for the label 0": (
                np.where(LABELS == 0, pos_weight, 1.0) * BINARY
            ).mean(),
        },
    )
    assert_close(
        bce(ODDS, LABELS, weight=weight, pos_weight=pos_weight),
        (weight * positive * BINARY).mean(),
        mistakes={
            "the mean divides by the number of elements, not by the weights": (
                weight * positive * BINARY
            ).sum()
            / np.broadcast_to(weight, ODDS.shape).sum(),
            "weight is ignored when pos_weight is given": (positive * BINARY).mean(),
        },
    )


@pytest.mark.grades("binary_cross_entropy_with_logits")
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_binary_equals_torch(reduction, rng):
    """Soft labels, all options together."""
    for scale in (1.0, 1e4):
        x, y = scale * rng.standard_normal((4, 5, 3)), rng.random((4, 5, 3))
        weight, pos_weight = rng.uniform(0.5, 2.0, (5, 1)), rng.uniform(0.5, 2.0, 3)
        for w, pw in ((None, None), (weight, None), (None, pos_weight), (weight, pos_weight)):
            expected = torch.nn.functional.binary_cross_entropy_with_logits(
                torch.tensor(x),
                torch.tensor(y),
                weight=None if w is None else torch.tensor(w),
                pos_weight=None if pw is None else torch.tensor(pw),
                reduction=reduction,
            ).numpy()
            got = ce.binary_cross_entropy_with_logits(x, y, weight=w, pos_weight=pw, reduction=reduction)
            assert_close(got, expected, rtol=1e-12)


@pytest.mark.grades("binary_cross_entropy_with_logits")
def test_binary_edges():
    """Right from 1e-300 to 1e4 and at infinity."""
    bce = ce.binary_cross_entropy_with_logits
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
    assert_close(
        bce(
            np.array([np.inf, -np.inf, np.inf, np.nan, 0.0]),
            np.array([1.0, 0.0, 0.0, 1.0, 1.0]),
            reduction="none",
        ),
        np.array([0.0, 0.0, np.inf, np.nan, np.log(2.0)]),
        hint="0 · inf is NaN; a right answer at infinity costs 0",
    )
    assert_close(bce(np.zeros((0, 2)), np.zeros((0, 2))), np.nan, vacuous_ok="mean of nothing")


# --- mse_loss -----------------------------------------------------------------------------------------------


@pytest.mark.grades("mse_loss")
def test_squared_error_by_hand():
    """(1² + 2² + 3² + 0²) / 4 = 3.5."""
    prediction, target = np.array([[1.0, 4.0], [0.0, 5.0]]), np.array([[2.0, 2.0], [3.0, 5.0]])
    with unchanged(prediction, target):
        loss = ce.mse_loss(prediction, target)
    assert_close(
        loss,
        3.5,
        mistakes={
            "there is no factor 1/2 in the squared error": 1.75,
            "this is the absolute error": 1.5,
            "no square root: this is the root of the mean square": 3.5**0.5,
            "this is the sum, not the mean": 14.0,
            "the mean is over all elements, not over rows": 7.0,
        },
    )
    assert_close(ce.mse_loss(prediction, target, reduction="none"), np.array([[1.0, 4.0], [9.0, 0.0]]))
    assert_close(ce.mse_loss(prediction, target, reduction="sum"), 14.0)


@pytest.mark.grades("mse_loss")
def test_squared_error_refuses_to_broadcast():
    """(N, 1) against (N,) is the classic bug: N² differences, and no error."""
    with expect_error(ValueError, "(4, 1)", "(4,)", otherwise="(4, 1) and (4,) broadcast to 16 differences"):
        ce.mse_loss(np.zeros((4, 1)), np.zeros(4))
    with expect_error(ValueError, "average", otherwise="an unknown reduction is accepted"):
        ce.mse_loss(np.zeros(4), np.zeros(4), reduction="average")
    with expect_error(TypeError, otherwise="complex numbers must be refused"):
        ce.mse_loss(np.zeros(4), 1j * np.zeros(4))


@pytest.mark.grades("mse_loss")
def test_squared_error_dtypes(rng):
    """Common dtype; uint8 does not wrap around; float16 squares do not overflow on the way to the mean."""
    pixels = np.array([[0, 250], [3, 7]], dtype=np.uint8), np.array([[255, 0], [5, 7]], dtype=np.uint8)
    assert_close(ce.mse_loss(*pixels), (255**2 + 250**2 + 4) / 4, hint="uint8 differences wrap around")
    half = np.array([300.0, 1.0, 2.0, 0.0], dtype=np.float16)
    assert_close(ce.mse_loss(half, 0 * half), 90_005 / 4, dtype=np.float16, hint="300² overflows float16")
    single = rng.standard_normal((5, 3)).astype(np.float32)
    double = rng.standard_normal((5, 3))
    assert_close(ce.mse_loss(single, double), np.square(single - double).mean())
    assert_close(
        ce.mse_loss(single, double.astype(np.float32)),
        np.square(single - double).mean(),
        dtype=np.float32,
        n=15,
    )


@pytest.mark.grades("mse_loss")
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_squared_error_equals_torch(reduction, rng):
    """Any rank, including empty: the mean of nothing is NaN without a warning."""
    for shape in ((), (7,), (3, 4, 5), (0, 3)):
        a, b = rng.standard_normal(shape), rng.standard_normal(shape)
        expected = torch.nn.functional.mse_loss(torch.tensor(a), torch.tensor(b), reduction=reduction).numpy()
        assert_close(
            ce.mse_loss(a, b, reduction=reduction), expected, rtol=1e-12, vacuous_ok="one shape is empty"
        )


# --- kl_divergence ------------------------------------------------------------------------------------------


@pytest.mark.grades("kl_divergence")
def test_kl_by_hand():
    """p = (1, 2, 5)/8 against q = (4, 3, 1)/8, and (2, 2, 6)/10 against (3, 1, 1)/5."""
    p, q = SOFTMAX[[0, 2]], SOFTMAX[[1, 3]]
    expected = (p * np.log(p / q)).sum(axis=1)
    with unchanged(LOGITS):
        got = ce.kl_divergence(LOGITS[[0, 2]], LOGITS[[1, 3]])
    cross = -(p * np.log(q)).sum(axis=1)
    assert_close(
        got,
        expected,
        mistakes={
            "p and q are exchanged: this is KL(q ‖ p)": (q * np.log(q / p)).sum(axis=1),
            "this is the cross-entropy: the entropy of p is not subtracted": cross,
            "the softmax is missing": (COUNTS[[0, 2]] * np.log(p / q)).sum(axis=1),
            "the sign: KL is never negative": -expected,
            "the logarithm has base 2; the divergence is in nats": expected / np.log(2),
            "summed over the classes, not averaged": expected / 3,
        },
    )


@pytest.mark.grades("kl_divergence")
def test_kl_contract():
    """Shapes must agree, there must be a class; the common dtype stays."""
    for p, q, wanted in ((np.float16, np.float16, np.float16), (np.float32, np.float64, np.float64)):
        got = np.asarray(ce.kl_divergence(LOGITS.astype(p), LOGITS[::-1].astype(q))).dtype
        assert got == wanted, f"{np.dtype(p)} and {np.dtype(q)} logits give {got}"
    with expect_error(ValueError, "(4, 3)", "(3,)", otherwise="logits of another shape are broadcast"):
        ce.kl_divergence(LOGITS, LOGITS[0])
    with expect_error(ValueError, otherwise="at least one class is needed"):
        ce.kl_divergence(np.zeros((2, 0)), np.zeros((2, 0)))
    with expect_error(TypeError, otherwise="complex logits must be refused"):
        ce.kl_divergence(LOGITS, 1j * LOGITS)


@pytest.mark.grades("kl_divergence")
@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_kl_equals_scipy(axis, rng):
    """Along any axis, against SciPy's relative entropy."""
    p, q = rng.standard_normal((2, 3, 4, 5))
    assert_close(
        ce.kl_divergence(p, q, axis=axis),
        rel_entr(softmax(p, axis=axis), softmax(q, axis=axis)).sum(axis=axis),
        rtol=1e-12,
        hint="axis is ignored",
    )
    assert_close(
        ce.kl_divergence(p[0, 0], q[0, 0]), rel_entr(softmax(p[0, 0]), softmax(q[0, 0])).sum(), rtol=1e-12
    )


@pytest.mark.grades("kl_divergence")
def test_kl_of_the_same_distribution():
    """Zero for p = q, also when the logits differ by a constant."""
    assert_close(
        ce.kl_divergence(LOGITS, LOGITS + np.array([[1.0], [-5.0], [100.0], [0.0]])),
        np.zeros(4),
        atol=1e-13,
        vacuous_ok="the law is that it is zero",
    )


@pytest.mark.grades("kl_divergence")
def test_kl_edges():
    """Exact at ±1e4; masked classes contribute nothing; an impossible event costs inf; a rare one counts."""
    p = np.array([[1e4, 0.0, -1e4], [0.0, 0.0, -np.inf], [0.0, 0.0, -np.inf], [0.0, 1.0, 0.0]])
    q = np.array([[0.0, 1e4, -1e4], [0.0, -np.inf, 0.0], [0.0, np.log(3.0), -np.inf], [0.0, np.nan, 0.0]])
    assert_close(
        ce.kl_divergence(p, q),
        np.array([1e4, np.inf, 0.5 * np.log(4 / 3), np.nan]),
        hint="stay in the log: softmax underflows, its log is -inf, and 0 · (-inf) is NaN but contributes 0",
    )
    rare = 1 / (1 + np.exp(20.0))  # p of the second class, which q all but excludes
    assert_close(
        ce.kl_divergence(np.array([0.0, -20.0]), np.array([0.0, -1e4])),
        rare * (np.log(rare) + 1e4) + (1 - rare) * np.log1p(-rare),
        rtol=1e-9,
        hint="a class of small probability is dropped",
    )
