"""cross_entropy, cross_entropy_grad and nll_loss: the contract, by hand, one option at a time, everything.

The fixture `module` is what is judged; tests/further/test_blocked_as_core.py puts blocked.py in its place.
"""

from __future__ import annotations

import itertools

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
    WITH_INDICES,
    exact,
    no_warning,
    roundings,
)

import cross_entropy
from shared.testing.checks import assert_close, assert_imports_only, expect_error, unchanged
from shared.testing.gradients import assert_gradient

REDUCTIONS = ("mean", "sum", "none")
LOG_PROBS = np.log(SOFTMAX)
OVERFLOW = (
    "exp overflows, or the log of a vanished probability is -inf: subtract the row's maximum, stay in the log"
)


@pytest.fixture
def module():
    return cross_entropy


# --- 1. the contract ------------------------------------------------------------------------------------------


@pytest.mark.grades
def test_uses_numpy_only(module):
    """From scratch: no library that has the loss already."""
    assert_imports_only(module, {"numpy"})


@WITH_INDICES
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_shape_and_dtype(function, dtype, module):
    """A number, or one loss per position; the gradient has the shape of the logits. The dtype is that of the logits."""
    logits, wide = LOGITS.astype(dtype), np.array([1.0, 2.0, 3.0])
    for reduction, weight, kind in itertools.product(
        REDUCTIONS, (None, wide), (np.int64, np.int32, np.uint8)
    ):
        targets = TARGETS.astype(kind)
        result = getattr(module, function)(logits, targets, weight=weight, reduction=reduction)
        assert result is not None, f"{function} returns None: is a `return` missing?"
        shape = (4, 3) if function == "cross_entropy_grad" else (4,) if reduction == "none" else ()
        got, name = np.asarray(result), np.dtype(dtype).name
        assert got.shape == shape, (
            f"{function} with reduction={reduction!r}: shape {got.shape}, expected {shape}"
        )
        with_weight = "" if weight is None else " with a float64 weight"
        assert got.dtype == dtype, f"{name} logits give {got.dtype}, expected {name}: {function}{with_weight}"


@WITH_INDICES
def test_inputs_are_unchanged(function, module, rng):
    """The caller still needs the logits: also large ones, and those of ignored positions."""
    targets, weight = np.array([0, 2, -100, 1, 1, 0]), np.array([1.0, 0.5, 2.0])
    for scale in (1.0, 1e4):
        logits = scale * rng.standard_normal((6, 3))
        logits[2] = np.nan
        options = {} if function == "nll_loss" else {"label_smoothing": 0.1}
        with np.errstate(all="ignore"), unchanged(logits, targets, weight):
            for reduction in REDUCTIONS:
                getattr(module, function)(logits, targets, weight=weight, reduction=reduction, **options)


GOOD = np.array([0, 3, 1])
BAD_ARGUMENTS = {
    "a negative class index must be refused, or NumPy takes it for one of the last classes": [
        ({}, np.array([0, 3, -1])),
        ({}, np.array([-4, 3, 1])),
    ],
    "a class index must be below C": [({}, np.array([0, 4, 1])), ({}, np.array([70_000, 3, 1]))],
    "only ignore_index may be outside the classes": [({"ignore_index": -1}, np.array([0, -1, -2]))],
    "targets leave out the class axis": [({}, GOOD[:, None]), ({}, GOOD[:2]), ({}, np.zeros((3, 4), int))],
    "weight needs one entry per class": [({"weight": w}, GOOD) for w in (np.ones(3), np.ones(1), 2.0)],
    "an unknown reduction is accepted": [({"reduction": r}, GOOD) for r in ("average", "MEAN", "")],
    "label_smoothing is a share in [0, 1]": [({"label_smoothing": s}, GOOD) for s in (1.5, -0.1, 1 + 1e-9)],
}


@WITH_INDICES
@pytest.mark.parametrize("diagnosis", BAD_ARGUMENTS)
def test_bad_arguments(function, diagnosis, module):
    """What cannot be right is refused by a ValueError, not computed."""
    for options, targets in BAD_ARGUMENTS[diagnosis]:
        if function == "nll_loss" and "label_smoothing" in options:
            options, targets = {}, np.array([0, 3, 5])  # it has no smoothing
        shown = ", ".join([f"targets {targets.tolist()}", *(f"{k}={v!r}" for k, v in options.items())])
        with expect_error(ValueError, otherwise=f"{diagnosis}: {function} takes {shown} for 4 classes"):
            getattr(module, function)(np.zeros((3, 4)), targets, **options)


@WITH_INDICES
def test_other_ranks_are_refused(function, module):
    """This module takes logits (N, C): a vector, or three axes, would be something else."""
    for logits, targets in ((np.zeros(4), GOOD), (np.zeros(4), np.array(2)), (np.zeros((3, 4, 2)), GOOD)):
        shapes = f"logits {logits.shape} with targets {targets.shape}"
        with expect_error(ValueError, otherwise=f"{function} takes {shapes}: expected (N, C) and (N,)"):
            getattr(module, function)(logits, targets)


# --- 2. the loss by hand, one option at a time ------------------------------------------------------------------


@pytest.mark.grades("cross_entropy")
def test_by_hand(module):
    """Four rows whose softmax is a fraction: the loss is the mean of log(8/5), log 2, log 5 and log(5/3)."""
    over_batch = -np.log((COUNTS / COUNTS.sum(axis=0))[np.arange(4), TARGETS]).mean()
    assert_close(
        module.cross_entropy(LOGITS, TARGETS),
        LOSSES.mean(),
        what="loss",
        mistakes={
            "right to six digits only: is a constant added to the probability before the log? Or is it float32?": (
                LOSSES.mean()
            ),
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
def test_reductions(module):
    """None keeps the losses apart, sum adds them."""
    ignored = {"reduction is ignored: this is the mean": LOSSES.mean()}
    assert_close(module.cross_entropy(LOGITS, TARGETS, reduction="none"), LOSSES, mistakes=ignored)
    assert_close(module.cross_entropy(LOGITS, TARGETS, reduction="sum"), LOSSES.sum(), mistakes=ignored)


@pytest.mark.grades("cross_entropy")
def test_weight(module):
    """The mean is a weighted mean: it divides by the summed weight of the targets."""
    weighted = TARGET_WEIGHT * LOSSES
    assert_close(
        module.cross_entropy(LOGITS, TARGETS, weight=WEIGHT),
        weighted.sum() / TARGET_WEIGHT.sum(),
        mistakes={
            "the mean divides by N, not by the summed weight of the targets": weighted.mean(),
            "weight is ignored": LOSSES.mean(),
            "the mean divides by the sum of all class weights": weighted.sum() / WEIGHT.sum(),
        },
    )
    assert_close(
        module.cross_entropy(LOGITS, TARGETS, weight=WEIGHT, reduction="none"),
        weighted,
        mistakes={"reduction='none' forgets the weight": LOSSES},
    )


@pytest.mark.grades("cross_entropy")
@pytest.mark.parametrize("ignore_index", [-100, -1, 0, 255])
def test_ignore_index(ignore_index, module):
    """Ignored positions cost nothing and do not count, be the index a class, negative or large."""
    targets = np.where(TARGETS == 0, ignore_index, TARGETS)
    kept = np.array([True, False, True, False])
    weighted = (TARGET_WEIGHT * LOSSES)[kept].sum()
    honoured = {"ignore_index is not honoured: these positions have a loss": LOSSES}
    assert_close(
        module.cross_entropy(LOGITS, targets, ignore_index=ignore_index, reduction="none"),
        np.where(kept, LOSSES, 0.0),
        mistakes=honoured,
    )
    assert_close(
        module.cross_entropy(LOGITS, targets, ignore_index=ignore_index),
        LOSSES[kept].mean(),
        mistakes={"ignored positions still count in the mean": LOSSES[kept].sum() / 4},
    )
    assert_close(
        module.cross_entropy(LOGITS, targets, ignore_index=ignore_index, weight=WEIGHT),
        weighted / TARGET_WEIGHT[kept].sum(),
        mistakes={"ignored positions still count in the mean": weighted / TARGET_WEIGHT.sum()},
    )


@pytest.mark.grades("cross_entropy")
def test_label_smoothing(module):
    """A share of the target is spread over all C classes, the right one included."""
    surprise = -LOG_PROBS
    others = (surprise.sum(axis=1) - LOSSES) / 2
    assert_close(
        module.cross_entropy(LOGITS, TARGETS, label_smoothing=0.2, reduction="none"),
        0.8 * LOSSES + 0.2 * surprise.mean(axis=1),
        mistakes={
            "label_smoothing is ignored": LOSSES,
            "the share goes to the C - 1 wrong classes; it is spread over all C": 0.8 * LOSSES + 0.2 * others,
            "the share is not divided by C": 0.8 * LOSSES + 0.2 * surprise.sum(axis=1),
            "the target keeps its full mass": LOSSES + 0.2 * surprise.mean(axis=1),
        },
    )


@pytest.mark.grades("cross_entropy")
def test_label_smoothing_with_weight_and_ignored(module):
    """Each class of the smoothed target has its own weight; the mean still divides by the targets' weights."""
    surprise = -LOG_PROBS
    spread = 0.2 * (surprise * WEIGHT).mean(axis=1)
    expected = 0.8 * TARGET_WEIGHT * LOSSES + spread
    options = {"weight": WEIGHT, "label_smoothing": 0.2}
    unweighted = 0.8 * TARGET_WEIGHT * LOSSES + 0.2 * surprise.mean(axis=1)
    by_target = TARGET_WEIGHT * (0.8 * LOSSES + 0.2 * surprise.mean(axis=1))
    smoothed = (0.8 * TARGET_WEIGHT + 0.2 * WEIGHT.mean()).sum()
    assert_close(
        module.cross_entropy(LOGITS, TARGETS, **options, reduction="none"),
        expected,
        mistakes={
            "the smoothed part forgets the class weights": unweighted,
            "the smoothed part has the weight of the target, not of each class": by_target,
        },
    )
    assert_close(
        module.cross_entropy(LOGITS, TARGETS, **options),
        expected.sum() / TARGET_WEIGHT.sum(),
        mistakes={
            "the mean divides by N, not by the summed weight of the targets": expected.mean(),
            "the mean divides by the smoothed weights": expected.sum() / smoothed,
        },
    )
    targets = np.array([2, 0, -100, -100])
    kept = targets >= 0
    left = {"the smoothed part of ignored positions is still there": np.where(kept, expected, spread)}
    assert_close(
        module.cross_entropy(LOGITS, targets, **options, reduction="none"),
        np.where(kept, expected, 0.0),
        mistakes=left,
    )


# --- 3. the gradient by hand, one option at a time ----------------------------------------------------------------


@pytest.mark.grades("cross_entropy_grad")
def test_gradient_by_hand(module):
    """Softmax minus one-hot, divided by the number of positions."""
    expected = (SOFTMAX - ONE_HOT) / 4
    over_batch = (COUNTS / COUNTS.sum(axis=0) - ONE_HOT) / 4
    assert_close(
        module.cross_entropy_grad(LOGITS, TARGETS),
        expected,
        what="gradient",
        mistakes={
            "the sign is reversed: the gradient is softmax - one-hot": -expected,
            "the gradient of the sum: the division of the mean is missing": 4 * expected,
            "the one-hot row is not subtracted": SOFTMAX / 4,
            "divided by all N·C entries, not by the N positions": expected / 3,
            "softmax runs over the batch (axis 0), not over the classes": over_batch,
            "the derivative of the softmax is counted twice": SOFTMAX * (1 - SOFTMAX) * expected,
            "the gradient is zero": 0 * expected,
        },
    )


@pytest.mark.grades("cross_entropy_grad")
def test_gradient_of_reductions(module):
    """Sum, and none position by position, do not divide."""
    expected = SOFTMAX - ONE_HOT
    for reduction in ("sum", "none"):
        assert_close(
            module.cross_entropy_grad(LOGITS, TARGETS, reduction=reduction),
            expected,
            what=f"gradient with reduction={reduction!r}",
            mistakes={"reduction is ignored: this is the gradient of the mean": expected / 4},
        )


@pytest.mark.grades("cross_entropy_grad")
def test_gradient_with_weight(module):
    """The weight of the target multiplies the whole row."""
    expected = TARGET_WEIGHT[:, None] * (SOFTMAX - ONE_HOT)
    divisor = TARGET_WEIGHT.sum()
    assert_close(
        module.cross_entropy_grad(LOGITS, TARGETS, weight=WEIGHT),
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
@pytest.mark.parametrize("ignore_index", [-100, -1, 0, 255])
def test_gradient_of_ignored_positions(ignore_index, module):
    """Ignored rows are zero and do not count in the division."""
    targets = np.where(TARGETS == 0, ignore_index, TARGETS)
    kept = np.array([True, False, True, False])[:, None]
    expected = np.where(kept, SOFTMAX - ONE_HOT, 0.0)
    assert_close(
        module.cross_entropy_grad(LOGITS, targets, ignore_index=ignore_index),
        expected / 2,
        mistakes={
            "ignored positions still count in the mean": expected / 4,
            "ignored positions have a gradient": (SOFTMAX - ONE_HOT) / 2,
            "ignored positions keep their softmax": np.where(kept, SOFTMAX - ONE_HOT, SOFTMAX) / 2,
        },
    )


@pytest.mark.grades("cross_entropy_grad")
def test_gradient_with_label_smoothing(module):
    """The target row is smoothed, then subtracted; with weights each class of it has its own."""
    others = 0.8 * ONE_HOT + 0.1 * (1 - ONE_HOT)
    assert_close(
        module.cross_entropy_grad(LOGITS, TARGETS, label_smoothing=0.2, reduction="sum"),
        SOFTMAX - (0.8 * ONE_HOT + 0.2 / 3),
        mistakes={
            "label_smoothing is ignored in the gradient": SOFTMAX - ONE_HOT,
            "the share goes to the C - 1 wrong classes; it is spread over all C": SOFTMAX - others,
        },
    )
    q = WEIGHT * (0.8 * ONE_HOT + 0.2 / 3)
    asked, target = q.sum(axis=1, keepdims=True), TARGET_WEIGHT[:, None]
    assert_close(
        module.cross_entropy_grad(LOGITS, TARGETS, label_smoothing=0.2, weight=WEIGHT, reduction="sum"),
        asked * SOFTMAX - q,
        mistakes={
            "the softmax is multiplied by Q, the sum of q, not by the weight of the target": target * SOFTMAX
            - q,
            "the smoothed part has the weight of the target, not of each class": target
            * (SOFTMAX - q / WEIGHT),
            "the smoothed part forgets the class weights": SOFTMAX * (0.8 * target + 0.2)
            - (0.8 * WEIGHT * ONE_HOT + 0.2 / 3),
        },
    )


# --- 4. nll_loss by hand ------------------------------------------------------------------------------------------


@pytest.mark.grades("nll_loss")
def test_nll_by_hand(module):
    """Minus the target's log-probability, averaged."""
    shifted = LOG_PROBS - 1.0  # not normalised, so that a second log_softmax shows
    assert_close(
        module.nll_loss(shifted, TARGETS),
        LOSSES.mean() + 1.0,
        mistakes={
            "the sign: minus the log-probability": -LOSSES.mean() - 1.0,
            "the input is log-probabilities already: no second log_softmax": LOSSES.mean(),
            "this is the sum, not the mean": LOSSES.sum() + 4.0,
        },
    )


@pytest.mark.grades("nll_loss")
def test_nll_options(module):
    """Weight, ignore_index and reduction."""
    weighted = TARGET_WEIGHT * LOSSES
    assert_close(
        module.nll_loss(LOG_PROBS, TARGETS, weight=WEIGHT),
        weighted.sum() / TARGET_WEIGHT.sum(),
        mistakes={
            "nll_loss: the mean divides by N, not by the summed weight of the targets": weighted.mean(),
            "nll_loss: weight is ignored": LOSSES.mean(),
        },
    )
    for ignore_index in (9, -100, -1, 0):
        targets, kept = np.where(TARGETS == 0, ignore_index, TARGETS), TARGETS != 0
        counted = {"nll_loss: ignored positions still count in the mean": LOSSES[kept].sum() / 4}
        options = {"ignore_index": ignore_index}
        loss = module.nll_loss(LOG_PROBS, targets, **options)
        assert_close(loss, LOSSES[kept].mean(), mistakes=counted)
        losses = module.nll_loss(LOG_PROBS, targets, **options, reduction="none")
        assert_close(losses, np.where(kept, LOSSES, 0.0), hint="nll_loss: ignored positions have loss 0")
        weighted_mean = weighted[kept].sum() / TARGET_WEIGHT[kept].sum()
        counted = {
            "nll_loss: ignored positions still count in the mean": weighted[kept].sum() / TARGET_WEIGHT.sum()
        }
        loss = module.nll_loss(LOG_PROBS, targets, **options, weight=WEIGHT)
        assert_close(loss, weighted_mean, mistakes=counted)
    assert_close(module.nll_loss(LOG_PROBS, TARGETS, weight=WEIGHT, reduction="none"), weighted)
    assert_close(module.nll_loss(LOG_PROBS, TARGETS, weight=WEIGHT, reduction="sum"), weighted.sum())


@pytest.mark.grades("nll_loss")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nll_of_any_numbers(dtype, module, rng):
    """A square, a single row, more classes than positions, a transposed view: one entry of each row counts."""
    for shape in ((5, 5), (1, 7), (3, 40), (40, 3)):
        for numbers in (rng.normal(0, 30, shape), rng.normal(0, 30, shape[::-1]).T):
            numbers = numbers.astype(dtype)
            targets, weight = rng.integers(0, shape[1], shape[0]), rng.uniform(0.5, 2, shape[1])
            expected = [-weight[t] * float(row[t]) for row, t in zip(numbers, targets.tolist(), strict=True)]
            result = module.nll_loss(numbers, targets, weight=weight, reduction="none")
            assert_close(result, np.array(expected), dtype=dtype, what=f"nll_loss of shape {shape}")


# --- 5. everything together -------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(6, 5), (4, 4), (1, 6), (3, 12)])
def test_every_combination_of_options(function, shape, dtype, module, rng):
    """Equal to the textbook formula in 60 digits for each combination, a square among the shapes."""
    n_classes = shape[1]
    weights = [None, np.where(np.arange(n_classes) == 2, 0.0, rng.uniform(0.5, 2.0, n_classes))]
    for weight, ignore_index, smoothing in itertools.product(
        weights, [-100, 0, n_classes - 1], [0.0, 0.1, 1.0]
    ):
        logits, targets = rng.normal(0, 2, shape).astype(dtype), rng.integers(0, n_classes, shape[0])
        targets[0] = 1 if ignore_index == 0 else 0  # one position counts
        options = {"ignore_index": ignore_index, "label_smoothing": smoothing}
        shown = f"{'no weight' if weight is None else 'weight'}, {ignore_index=}, label_smoothing={smoothing}"
        for reduction in REDUCTIONS:
            assert_close(
                getattr(module, function)(logits, targets, weight=weight, **options, reduction=reduction),
                exact(function, logits, targets, weight=weight, **options, reduction=reduction),
                dtype=dtype,
                n=n_classes * shape[0],
                atol=shape[0] * roundings(logits, dtype),
                what=f"{function} of {shape} with {shown}, {reduction=}",
                vacuous_ok="where one position counts, the losses can be equal",
            )


@BOTH
def test_views(function, module, rng):
    """A transposed view, every other row and reversed classes: what counts is the class axis, not the memory."""
    for logits in (
        rng.normal(0, 2, (4, 4)).T,
        rng.normal(0, 2, (6, 5)).T,
        rng.normal(0, 2, (10, 5))[::2],
        rng.normal(0, 2, (5, 6))[:, ::-1],
    ):
        targets = rng.integers(0, logits.shape[1], 2 * len(logits))[::2]
        assert_close(
            getattr(module, function)(logits, targets, reduction="sum"),
            exact(function, logits, targets, reduction="sum"),
            n=logits.size,
            what=f"{function} of a view of shape {logits.shape}",
        )


@WITH_INDICES
@pytest.mark.parametrize("kind", [np.int16, np.uint16, np.uint64])
def test_many_classes(function, kind, module):
    """300 classes, more than a byte can name, with the probabilities 1/45150, 2/45150, ..., 300/45150."""
    counts = 1 + (np.arange(300)[:, None] + 11 * np.arange(300)) % 300
    p, targets = counts / 45_150, 7 * np.arange(300) % 300
    losses = np.log(45_150 / counts[np.arange(300), targets])
    assert_close(
        getattr(module, function)(np.log(p), targets.astype(kind), reduction="none"),
        p - np.eye(300)[targets] if function == "cross_entropy_grad" else losses,
        n=300,
        what=f"{function} of 300 classes with targets of {np.dtype(kind).name}",
        hint="right for few classes, wrong for 300: does a class index, or an index into N·C entries, fit its integer type?",
    )


@BOTH
def test_many_positions(function, module):
    """70,000 positions in float32: the four rows worked by hand, again and again."""
    logits, targets = (
        np.tile(LOGITS, (17_500, 1)).astype(np.float32),
        np.tile(TARGETS, 17_500).astype(np.int8),
    )
    expected = LOSSES.mean()
    if function == "cross_entropy_grad":
        expected = np.tile(SOFTMAX - ONE_HOT, (17_500, 1)) / 70_000
    assert_close(
        getattr(module, function)(logits, targets),
        expected,
        dtype=np.float32,
        n=70_000,
        hint="right for four positions, wrong for 70,000: whatever is done in blocks must also do the last, incomplete "
        "one; and an index into N·C entries does not fit the type of the targets",
    )


@pytest.mark.grades("cross_entropy")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_large_logits(dtype, module):
    """The loss of a confidently wrong answer is the difference of the logits: no overflow, no log of zero."""
    logits = np.array(
        [[1e4, -1e4, 0], [-1e4, 1e4, 1e4], [1e4 + 1, 1e4, -1e4], [0, 1e4, -1e4], [95, 0, 95], [1, 2, 0]],
        dtype,
    )
    targets = np.array([1, 0, 0, 0, 2, 0])
    expected = exact("cross_entropy", logits, targets, reduction="none")
    with no_warning(OVERFLOW), unchanged(logits):
        losses = module.cross_entropy(logits, targets, reduction="none")
    worst, bad = (float(np.asarray(losses).flat[n]) for n in (0, 3))  # 2e4 and 1e4
    stops_growing = bool(np.isfinite(worst)) and abs(worst - bad) < 1e-3
    assert not stops_growing, (
        f"the loss stops growing at {worst:g}: is exp(-{worst:g}) = {np.exp(-abs(worst)):.2g} added to the probability, or "
        "is the probability clipped to it? Or is the loss itself clipped?"
    )
    assert_close(losses, expected, dtype=dtype, atol=roundings(logits, dtype), hint=OVERFLOW)
    rows = np.array([[-1e4, -1e4 + 1, -1e4], [0, 2, 1], [1e4, 1e4 + 3, 1e4 + 2]], dtype)
    with no_warning("shift each row by its own maximum"):
        losses = module.cross_entropy(rows, np.array([0, 2, 1]), label_smoothing=0.1, reduction="none")
    expected = exact("cross_entropy", rows, [0, 2, 1], label_smoothing=0.1, reduction="none")
    assert_close(
        losses,
        expected,
        dtype=dtype,
        atol=roundings(rows, dtype),
        what="loss of rows near -1e4, 0 and 1e4",
        hint="shift each row by its own maximum: with another shift exp is 0 in a whole row, or overflows",
    )


@WITH_INDICES
def test_ignored_positions_may_hold_anything(function, module):
    """Padding is often uninitialised: its loss and gradient are 0 whatever the logits, not 0 · NaN."""
    logits, targets = LOG_PROBS.copy(), np.array([2, -100, 1, 0])
    logits[1] = np.nan
    expected = LOSSES[[0, 2, 3]].mean()
    if function == "cross_entropy_grad":
        expected = (SOFTMAX - ONE_HOT) / 3
        expected[1] = 0.0
    assert_close(
        getattr(module, function)(logits, targets),
        expected,
        what=f"{function} where an ignored position holds NaN",
        hint="an ignored position spoils the result: select positions instead of multiplying them by zero",
    )


@WITH_INDICES
def test_one_class(function, module):
    """With one class nothing surprises, and an ignored index stands for no other class."""
    log_probs, targets = np.array([[-1.0], [-2.0], [-4.0]]), np.array([0, -100, 0])
    expected = {"cross_entropy": 0.0, "cross_entropy_grad": np.zeros((3, 1)), "nll_loss": 2.5}[function]
    assert_close(
        getattr(module, function)(log_probs, targets),
        expected,
        atol=1e-15,
        what=f"{function} of one class",
        vacuous_ok="the softmax of one class is 1",
    )


@pytest.mark.grades("cross_entropy_grad")
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_gradient_is_the_derivative(smoothing, module, rng):
    """Complex-step derivative of the formula in the docstring, with weights."""
    logits, targets, weight = rng.standard_normal((4, 5)), rng.integers(0, 5, 4), rng.uniform(0.5, 2.0, 5)
    q = weight * ((1 - smoothing) * np.eye(5)[targets] + smoothing / 5) / weight[targets].sum()
    assert_gradient(
        module.cross_entropy_grad(logits, targets, weight=weight, label_smoothing=smoothing),
        lambda x: -(q * np.log(np.exp(x) / np.exp(x).sum(axis=1, keepdims=True))).sum(),
        logits,
        np.ones(()),
        method="complex",
    )


@pytest.mark.grades("cross_entropy_grad")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gradient_of_large_logits(dtype, module):
    """Softmax of shifted logits: no overflow and no NaN, one large row among small ones."""
    logits = np.array(
        [[1e4, -1e4, 0], [-1e4, 1e4, 1e4], [0, 1e4, -1e4], [1, 2, 0], [-1e4, -1e4 + 1, -1e4], [95, 0, 94]],
        dtype,
    )
    targets = np.array([1, 0, 1, 2, 1, 0])
    with no_warning(OVERFLOW), unchanged(logits):
        gradient = module.cross_entropy_grad(logits, targets, reduction="sum")
    assert_close(
        gradient,
        exact("cross_entropy_grad", logits, targets, reduction="sum"),
        dtype=dtype,
        atol=roundings(logits, dtype),
        hint="exp overflows: subtract the maximum of each position first",
    )
