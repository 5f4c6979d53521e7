"""The cross-entropy and its gradient: the contract, then one option at a time, by hand."""

import numpy as np
import pytest
from oracles import (
    BOTH,
    COUNTS,
    LOGITS,
    LOSSES,
    ONE_HOT,
    SOFTMAX,
    TARGET_WEIGHT,
    TARGETS,
    WEIGHT,
    random_probabilities,
    torch_oracle,
)

import cross_entropy as ce
from shared.testing.checks import assert_close, assert_imports_only, expect_error, unchanged

# --- contract -----------------------------------------------------------------------------------------------


@pytest.mark.grades
def test_uses_numpy_only():
    """From scratch: no library that has the loss already."""
    assert_imports_only(ce, {"numpy"})


@BOTH
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64, np.uint8, np.bool_])
def test_dtype_of_the_result(function, dtype):
    """Floats keep their dtype, anything else becomes float64."""
    result = np.asarray(
        getattr(ce, function)(np.array([[0, 1, 3], [1, 0, 0]]).astype(dtype), np.array([1, 0]))
    )
    wanted = dtype if np.dtype(dtype).kind == "f" else np.float64
    assert result.dtype == wanted, (
        f"{np.dtype(dtype)} logits give {result.dtype}, expected {np.dtype(wanted)}"
    )


@pytest.mark.grades("cross_entropy")
@pytest.mark.parametrize("shape", [(5,), (4, 3), (4, 3, 2), (2, 5, 3, 4)])
def test_shape_of_the_loss(shape, rng):
    """A scalar for mean and sum, one loss per position for none."""
    positions = shape[:1] + shape[2:] if len(shape) > 1 else ()
    logits, targets = rng.standard_normal(shape), rng.integers(0, 3, positions)
    for reduction, wanted in (("mean", ()), ("sum", ()), ("none", positions)):
        got = np.shape(ce.cross_entropy(logits, targets, reduction=reduction))
        assert got == wanted, (
            f"logits {shape} with reduction={reduction!r} give shape {got}, expected {wanted}"
        )


@pytest.mark.grades("cross_entropy_grad")
@pytest.mark.parametrize("shape", [(5,), (4, 3), (2, 5, 3, 4)])
def test_shape_of_the_gradient(shape, rng):
    """The gradient has the shape of the logits, whatever the reduction."""
    targets = rng.integers(0, 3, shape[:1] + shape[2:] if len(shape) > 1 else ())
    for reduction in ("mean", "sum", "none"):
        got = np.shape(ce.cross_entropy_grad(rng.standard_normal(shape), targets, reduction=reduction))
        assert got == shape, f"logits {shape} with reduction={reduction!r} give a gradient of shape {got}"


@BOTH
@pytest.mark.parametrize("kind", ["class indices", "probabilities"])
def test_inputs_are_unchanged(function, kind, rng):
    """The caller still needs the logits."""
    logits, weight = rng.standard_normal((6, 3)), np.array([1.0, 0.5, 2.0])
    targets = (
        np.array([0, 2, -100, 1, 1, 0]) if kind == "class indices" else random_probabilities(rng, (6, 3))
    )
    with unchanged(logits, targets, weight):
        getattr(ce, function)(logits, targets, weight=weight, label_smoothing=0.1)


BAD = {
    "negative index": ([[0, 1], [1, 2], [2, -1]], {}, ["-1", "2, 1"], "a negative class index wraps around"),
    "index too large": ([[0, 1], [7, 2], [2, 1]], {}, ["7", "1, 0"], "a class index must be below C"),
    "index beside ignored": (
        [[0, 1], [-1, 2], [2, -2]],
        {"ignore_index": -1},
        ["-2", "2, 1"],
        "only ignore_index",
    ),
    "negative weight": (0, {"weight": [1.0, -0.5, 1.0]}, ["-0.5", "1"], "a negative weight is accepted"),
    "short weight": (0, {"weight": [1.0, 2.0]}, ["(2,)"], "weight needs one entry per class"),
    "scalar weight": (0, {"weight": 2.0}, ["()"], "weight needs one entry per class"),
    "probabilities and ignore_index": (
        np.full((3, 3, 2), 1 / 3),
        {"ignore_index": 1},
        ["1"],
        "ignore_index means nothing for probabilities",
    ),
    "reduction": (0, {"reduction": "average"}, ["average"], "an unknown reduction is accepted"),
    "smoothing above one": (0, {"label_smoothing": 1.5}, ["1.5"], "label_smoothing is a share in [0, 1]"),
    "smoothing below zero": (0, {"label_smoothing": -0.1}, ["-0.1"], "label_smoothing is a share in [0, 1]"),
    "shape of indices": (np.zeros((3, 3, 2), int), {}, ["(3, 3, 2)"], "indices leave out the class axis"),
    "shape of probabilities": (
        np.ones((3, 2)),
        {},
        ["(3, 2)"],
        "floating targets are probabilities: shape of logits",
    ),
}


@BOTH
@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_named(function, case):
    """ValueError that says which value is wrong and where it stands."""
    targets, options, mentions, diagnosis = BAD[case]
    targets = np.zeros((3, 2), int) if np.ndim(targets) == 0 else np.asarray(targets)
    with expect_error(ValueError, *mentions, otherwise=diagnosis):
        getattr(ce, function)(np.zeros((3, 3, 2)), targets, **options)


@BOTH
def test_no_class_at_all(function):
    """Softmax over nothing has no value."""
    with expect_error(ValueError, "(2, 0)", otherwise="logits without a class must be refused"):
        getattr(ce, function)(np.zeros((2, 0)), np.zeros(2, int))


@BOTH
def test_types_that_mean_nothing(function):
    """Complex logits have no order, bool targets could be an index or a probability."""
    with expect_error(TypeError, otherwise="complex logits must be refused"):
        getattr(ce, function)(LOGITS + 1j, TARGETS)
    with expect_error(TypeError, otherwise="bool targets are ambiguous and must be refused"):
        getattr(ce, function)(LOGITS, ONE_HOT.astype(bool))


# --- the loss, one option at a time -------------------------------------------------------------------------


@pytest.mark.grades("cross_entropy")
def test_by_hand():
    """Four rows whose softmax is a fraction: the loss is the mean of log(8/5), log 2, log 5 and log(5/3)."""
    over_batch = -np.log((COUNTS / COUNTS.sum(axis=0))[np.arange(4), TARGETS]).mean()
    assert_close(
        ce.cross_entropy(LOGITS, TARGETS),
        LOSSES.mean(),
        what="loss",
        mistakes={
            "right to six digits only: is a constant added to the probability before the log?": LOSSES.mean(),
            "softmax runs over the batch (axis 0), not over the classes (axis 1)": over_batch,
            "the sign: the log of a probability is negative, the loss is not": -LOSSES.mean(),
            "this is the sum of the losses, not their mean": LOSSES.sum(),
            "the mean is over positions, not over all N·C entries": LOSSES.mean() / 3,
            "the logarithm has base 2; the loss is in nats": LOSSES.mean() / np.log(2),
            "the softmax is missing: this is minus the target's logit": -LOGITS[np.arange(4), TARGETS].mean(),
            "the log is missing: this is 1 - probability": 1 - (SOFTMAX * ONE_HOT).sum(axis=1).mean(),
            "the loss is zero whatever the logits": 0.0,
        },
    )


@pytest.mark.grades("cross_entropy")
def test_reductions():
    """None keeps the losses apart, sum adds them."""
    ignored = {"reduction is ignored: this is the mean": LOSSES.mean()}
    assert_close(ce.cross_entropy(LOGITS, TARGETS, reduction="none"), LOSSES, mistakes=ignored)
    assert_close(ce.cross_entropy(LOGITS, TARGETS, reduction="sum"), LOSSES.sum(), mistakes=ignored)


@pytest.mark.grades("cross_entropy")
def test_logits_of_rank_one():
    """A single position: logits (C,) and one class index, no batch axis."""
    loss = ce.cross_entropy(LOGITS[2], 1)
    assert_close(loss, np.log(5.0), what="loss of one position")


@pytest.mark.grades("cross_entropy")
def test_weight():
    """The mean is a weighted mean: it divides by the summed weight of the targets."""
    weighted = TARGET_WEIGHT * LOSSES
    assert_close(
        ce.cross_entropy(LOGITS, TARGETS, weight=WEIGHT),
        weighted.sum() / TARGET_WEIGHT.sum(),
        mistakes={
            "the mean divides by N, not by the summed weight of the targets": weighted.mean(),
            "weight is ignored": LOSSES.mean(),
            "the mean divides by the sum of all class weights": weighted.sum() / WEIGHT.sum(),
        },
    )
    assert_close(
        ce.cross_entropy(LOGITS, TARGETS, weight=WEIGHT, reduction="none"),
        weighted,
        mistakes={"reduction='none' forgets the weight": LOSSES},
    )


@pytest.mark.grades("cross_entropy")
@pytest.mark.parametrize("ignore_index", [-100, 0, 255])
def test_ignore_index(ignore_index):
    """Ignored positions cost nothing and do not count, be the index a class, negative or large."""
    targets = np.where(TARGETS == 0, ignore_index, TARGETS)
    kept = np.array([True, False, True, False])
    options = {"ignore_index": ignore_index, "reduction": "none"}
    assert_close(
        ce.cross_entropy(LOGITS, targets, **options),
        np.where(kept, LOSSES, 0.0),
        mistakes={"ignore_index is not honoured: these positions have a loss": LOSSES},
    )
    assert_close(
        ce.cross_entropy(LOGITS, targets, ignore_index=ignore_index),
        LOSSES[kept].mean(),
        mistakes={
            "ignored positions still count in the mean": LOSSES[kept].sum() / 4,
            "ignore_index is not honoured: these positions have a loss": LOSSES.mean(),
        },
    )
    assert_close(
        ce.cross_entropy(LOGITS, targets, ignore_index=ignore_index, weight=WEIGHT),
        (TARGET_WEIGHT * LOSSES)[kept].sum() / TARGET_WEIGHT[kept].sum(),
        mistakes={
            "ignored positions still count in the mean": (TARGET_WEIGHT * LOSSES)[kept].sum()
            / TARGET_WEIGHT.sum()
        },
    )


@pytest.mark.grades("cross_entropy")
def test_label_smoothing():
    """A share of the target is spread over all C classes, the right one included."""
    surprise = -np.log(SOFTMAX)
    expected = 0.8 * LOSSES + 0.2 * surprise.mean(axis=1)
    others = (surprise.sum(axis=1) - LOSSES) / 2
    assert_close(
        ce.cross_entropy(LOGITS, TARGETS, label_smoothing=0.2, reduction="none"),
        expected,
        mistakes={
            "label_smoothing is ignored": LOSSES,
            "the share goes to the C - 1 wrong classes; it is spread over all C": 0.8 * LOSSES + 0.2 * others,
            "the share is not divided by C": 0.8 * LOSSES + 0.2 * surprise.sum(axis=1),
            "the target keeps its full mass": LOSSES + 0.2 * surprise.mean(axis=1),
        },
    )


@pytest.mark.grades("cross_entropy")
def test_label_smoothing_with_weight_and_ignored():
    """Each class of the smoothed target has its own weight; the mean still divides by the targets' weights."""
    surprise = -np.log(SOFTMAX)
    spread = 0.2 * (surprise * WEIGHT).mean(axis=1)
    expected = 0.8 * TARGET_WEIGHT * LOSSES + spread
    options = {"weight": WEIGHT, "label_smoothing": 0.2}
    unweighted = 0.8 * TARGET_WEIGHT * LOSSES + 0.2 * surprise.mean(axis=1)
    by_target = TARGET_WEIGHT * (0.8 * LOSSES + 0.2 * surprise.mean(axis=1))
    total = (0.8 + 0.2 / 3) * TARGET_WEIGHT.sum()
    mistakes = {
        "the smoothed part forgets the class weights": unweighted,
        "the smoothed part has the weight of the target, not of each class": by_target,
    }
    assert_close(ce.cross_entropy(LOGITS, TARGETS, **options, reduction="none"), expected, mistakes=mistakes)
    assert_close(
        ce.cross_entropy(LOGITS, TARGETS, **options),
        expected.sum() / TARGET_WEIGHT.sum(),
        mistakes={
            "the mean divides by N, not by the summed weight of the targets": expected.mean(),
            "the mean divides by the smoothed weights": expected.sum() / total,
        },
    )
    ignored = np.array([2, 0, -100, -100])
    assert_close(
        ce.cross_entropy(LOGITS, ignored, **options, reduction="none"),
        np.where(ignored >= 0, expected, 0.0),
        mistakes={
            "the smoothed part of ignored positions is still there": np.where(ignored >= 0, expected, spread)
        },
    )


@pytest.mark.grades("cross_entropy")
def test_probabilities(rng):
    """A floating target gives every class its share."""
    p = random_probabilities(rng, (4, 3))
    surprise = -np.log(SOFTMAX)
    expected = (p * surprise).sum(axis=1)
    hard = surprise[np.arange(4), p.argmax(axis=1)]
    mistakes = {
        "the most probable class is taken, the other shares are lost": hard,
        "the two distributions are exchanged": (SOFTMAX * -np.log(p)).sum(axis=1),
        "this is the KL divergence: the entropy of the targets is subtracted": expected
        + (p * np.log(p)).sum(axis=1),
    }
    assert_close(ce.cross_entropy(LOGITS, p, reduction="none"), expected, mistakes=mistakes)
    assert_close(ce.cross_entropy(LOGITS, ONE_HOT), LOSSES.mean(), what="loss of one-hot rows")
    assert_close(ce.cross_entropy(LOGITS[2], p[2]), expected[2], what="loss of one position")
    assert_close(
        ce.cross_entropy(LOGITS, p, label_smoothing=0.3),
        (0.7 * expected + 0.3 * surprise.mean(axis=1)).mean(),
        mistakes={"label_smoothing is ignored for probabilities": expected.mean()},
    )


@pytest.mark.grades("cross_entropy")
def test_probabilities_with_weight(rng):
    """With probabilities every class is weighted; the mean divides by the number of positions, as in torch."""
    p = random_probabilities(rng, (4, 3))
    surprise = -np.log(SOFTMAX)
    expected = (WEIGHT * p * surprise).sum(axis=1)
    assert_close(
        ce.cross_entropy(LOGITS, p, weight=WEIGHT),
        expected.mean(),
        mistakes={
            "weight is ignored for probabilities": (p * surprise).sum(axis=1).mean(),
            "for probabilities the mean divides by the number of positions": expected.sum()
            / (WEIGHT * p).sum(),
        },
    )
    assert_close(
        ce.cross_entropy(LOGITS, 0.5 * p),
        0.5 * (p * surprise).sum(axis=1).mean(),
        mistakes={
            "for probabilities the mean divides by the number of positions": (p * surprise).sum(axis=1).mean()
        },
    )


@pytest.mark.grades("cross_entropy")
@pytest.mark.parametrize("shape", [(2, 5, 3), (2, 5, 3, 4)])
def test_class_axis_is_one(shape, rng):
    """Images and sequences: (N, C, d1, ..., dk) has its classes in the middle."""
    logits, targets = rng.standard_normal(shape), rng.integers(0, 5, (2, *shape[2:]))
    torn = torch_oracle(logits.reshape(-1, 5), targets.ravel(), reduction="none")[0].reshape(targets.shape)
    exp = np.exp(logits)
    over_last = -np.log(np.take_along_axis(exp / exp.sum(axis=-1, keepdims=True), targets[:, None], 1)[:, 0])
    assert_close(
        ce.cross_entropy(logits, targets, reduction="none"),
        torch_oracle(logits, targets, reduction="none")[0],
        mistakes={
            "reshape(-1, C) tears classes apart: move the class axis to the end first": torn,
            "softmax runs over the last axis, not over axis 1": over_last,
        },
    )


@pytest.mark.grades("cross_entropy")
def test_large_logits():
    """The loss of a confidently wrong answer is the difference of the logits: no overflow, no log of zero."""
    logits = np.array([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4], [1e4 + 1, 1e4, -1e4], [0.0, 1e4, -1e4]])
    targets = np.array([1, 0, 0, 0])
    expected = np.array([2e4, 2e4 + np.log(2.0), np.log1p(np.exp(-1.0)), 1e4])
    clipped = np.array([-np.log(1e-12), -np.log(1e-12), expected[2], -np.log(1e-12)])
    with np.errstate(all="ignore"):
        losses = ce.cross_entropy(logits, targets, reduction="none")
    floor = next((tiny for tiny in 10.0 ** -np.arange(5, 308) if abs(losses[0] + np.log(tiny)) < 1e-3), None)
    assert floor is None, (
        f"a constant like {floor:g} is added to the probability: the loss stops growing there"
    )
    assert_close(
        losses,
        expected,
        rtol=4e-16,
        atol=0.0,
        hint="exp overflows, or the log of a vanished probability is -inf: subtract the maximum, "
        "stay in the log",
        mistakes={"the probability is clipped before the log": clipped},
    )


# --- the gradient, one option at a time ---------------------------------------------------------------------


@pytest.mark.grades("cross_entropy_grad")
def test_gradient_by_hand():
    """Softmax minus one-hot, divided by the number of positions."""
    expected = (SOFTMAX - ONE_HOT) / 4
    assert_close(
        ce.cross_entropy_grad(LOGITS, TARGETS),
        expected,
        what="gradient",
        mistakes={
            "the sign is reversed: the gradient is softmax - one-hot": -expected,
            "the gradient of the sum: the division of the mean is missing": 4 * expected,
            "the one-hot row is not subtracted": SOFTMAX / 4,
            "divided by all N·C entries, not by the N positions": expected / 3,
            "softmax runs over the batch (axis 0), not over the classes": (
                COUNTS / COUNTS.sum(axis=0) - ONE_HOT
            )
            / 4,
            "the derivative of the softmax is counted twice": SOFTMAX
            * (1 - SOFTMAX)
            * (SOFTMAX - ONE_HOT)
            / 4,
            "the gradient is zero": 0 * expected,
        },
    )


@pytest.mark.grades("cross_entropy_grad")
def test_gradient_of_reductions():
    """Sum, and none position by position, do not divide."""
    expected = SOFTMAX - ONE_HOT
    for reduction in ("sum", "none"):
        assert_close(
            ce.cross_entropy_grad(LOGITS, TARGETS, reduction=reduction),
            expected,
            mistakes={"reduction is ignored: this is the gradient of the mean": expected / 4},
        )


@pytest.mark.grades("cross_entropy_grad")
def test_gradient_with_weight():
    """The weight of the target multiplies the whole row."""
    expected = TARGET_WEIGHT[:, None] * (SOFTMAX - ONE_HOT)
    divisor = TARGET_WEIGHT.sum()
    assert_close(
        ce.cross_entropy_grad(LOGITS, TARGETS, weight=WEIGHT),
        expected / divisor,
        mistakes={
            "weight is ignored in the gradient": (SOFTMAX - ONE_HOT) / 4,
            "the mean divides by N, not by the summed weight of the targets": expected / 4,
            "only the one-hot row is weighted, the softmax is not": (SOFTMAX - WEIGHT * ONE_HOT) / divisor,
            "each column has its own weight; the row has the target's": WEIGHT
            * (SOFTMAX - ONE_HOT)
            / divisor,
        },
    )


@pytest.mark.grades("cross_entropy_grad")
@pytest.mark.parametrize("ignore_index", [-100, 0, 255])
def test_gradient_of_ignored_positions(ignore_index):
    """Ignored rows are zero and do not count in the division."""
    targets = np.where(TARGETS == 0, ignore_index, TARGETS)
    kept = np.array([True, False, True, False])[:, None]
    expected = np.where(kept, SOFTMAX - ONE_HOT, 0.0)
    assert_close(
        ce.cross_entropy_grad(LOGITS, targets, ignore_index=ignore_index),
        expected / 2,
        mistakes={
            "ignored positions still count in the mean": expected / 4,
            "ignored positions have a gradient": (SOFTMAX - ONE_HOT) / 2,
            "ignored positions keep their softmax": np.where(kept, SOFTMAX - ONE_HOT, SOFTMAX) / 2,
        },
    )


@pytest.mark.grades("cross_entropy_grad")
def test_gradient_with_label_smoothing():
    """The target row is smoothed, then subtracted."""
    others = 0.8 * ONE_HOT + 0.1 * (1 - ONE_HOT)
    assert_close(
        ce.cross_entropy_grad(LOGITS, TARGETS, label_smoothing=0.2, reduction="sum"),
        SOFTMAX - (0.8 * ONE_HOT + 0.2 / 3),
        mistakes={
            "label_smoothing is ignored in the gradient": SOFTMAX - ONE_HOT,
            "the share goes to the C - 1 wrong classes; it is spread over all C": SOFTMAX - others,
        },
    )


@pytest.mark.grades("cross_entropy_grad")
def test_gradient_of_probabilities_with_weight(rng):
    """Q softmax - q with q = w·p: weighting every entry of softmax - p is not the same."""
    p = random_probabilities(rng, (4, 3))
    q = WEIGHT * p
    assert_close(
        ce.cross_entropy_grad(LOGITS, p, weight=WEIGHT, reduction="sum"),
        q.sum(axis=1, keepdims=True) * SOFTMAX - q,
        mistakes={
            "the softmax is multiplied by Q = sum(w·p), not by the weight of its column": WEIGHT
            * (SOFTMAX - p),
            "the softmax is multiplied by Q = sum(w·p), not by 1": SOFTMAX - q,
            "weight is ignored for probabilities": SOFTMAX - p,
        },
    )
    unnormalised = 0.5 * p
    assert_close(
        ce.cross_entropy_grad(LOGITS, unnormalised, reduction="sum"),
        0.5 * SOFTMAX - unnormalised,
        mistakes={"probabilities that sum to Q multiply the softmax by Q": SOFTMAX - unnormalised},
    )


@pytest.mark.grades("cross_entropy_grad")
def test_gradient_of_large_logits():
    """Softmax of shifted logits: no overflow and no NaN."""
    logits = np.array([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4], [0.0, 1e4, -1e4]])
    with np.errstate(all="ignore"):
        gradient = ce.cross_entropy_grad(logits, np.array([1, 0, 1]), reduction="sum")
    assert_close(
        gradient,
        np.array([[1.0, -1.0, 0.0], [-1.0, 0.5, 0.5], [0.0, 0.0, 0.0]]),
        hint="exp overflows: subtract the maximum of each position first",
    )
