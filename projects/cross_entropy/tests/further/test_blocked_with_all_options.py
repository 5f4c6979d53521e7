"""blocked.py: all options together against torch, large and strided arrays, half precision, then the edges."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from oracles import BOTH, LOGITS, LOSSES, ONE_HOT, SOFTMAX, TARGETS, WITH_INDICES
from sklearn.metrics import log_loss
from torch_oracles import oracle_of, random_probabilities, torch_oracle

import blocked
from shared.testing.checks import assert_close, unchanged
from shared.testing.gradients import assert_gradient

pytestmark = pytest.mark.module("blocked")

# --- everything together ------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("kind", ["class indices", "probabilities"])
@pytest.mark.parametrize("shape", [(5,), (7, 3), (1, 4), (3, 70), (3, 5, 2), (2, 4, 3, 5)])
def test_every_combination_of_options(function, shape, kind, rng):
    """Equal to torch in float64 for each combination, at logits of ordinary and of large size."""
    C = shape[min(1, len(shape) - 1)]
    positions = shape[:1] + shape[2:] if len(shape) > 1 else ()
    weights = [None, rng.uniform(0.5, 2.0, C), np.where(np.arange(C) == 0, 0.0, rng.uniform(0.5, 2.0, C))]
    choices = itertools.product([1.0, 1e4], weights, [0.0, 0.1, 1.0], ["mean", "sum", "none"])
    for scale, weight, smoothing, reduction in choices:
        logits = scale * rng.standard_normal(shape)
        options = {"weight": weight, "label_smoothing": smoothing, "reduction": reduction}
        if kind == "probabilities":
            cases = [(random_probabilities(rng, shape), {})]
        else:
            indices = rng.integers(0, C, positions)
            blanked = np.where(rng.random(positions) < 0.4, -1, indices)
            for targets in (indices, blanked):  # one position counts
                targets[(0,) * len(positions)] = C - 1
            cases = [(indices, {}), (indices, {"ignore_index": 0}), (blanked, {"ignore_index": -1})]
        for targets, ignore in cases:
            assert_close(
                getattr(blocked, function)(logits, targets, **options, **ignore),
                oracle_of(function, logits, targets, **options, **ignore),
                rtol=1e-12,
                what=f"{function} with {options | ignore} at logits of size {scale:g}",
                vacuous_ok="where a single position counts, the losses can be equal",
            )


@BOTH
@pytest.mark.parametrize("kind", ["class indices", "probabilities"])
@pytest.mark.parametrize("shape", [(30_001, 10), (301, 2003), (2, 3, 50_001), (39, 601, 9)])
def test_large_arrays(function, shape, kind, rng):
    """Whatever is done in blocks must also do the last, incomplete one."""
    C, positions = shape[1], shape[:1] + shape[2:]
    logits = rng.standard_normal(shape)
    targets = rng.integers(-1, C, positions) if kind == "class indices" else random_probabilities(rng, shape)
    options = {"weight": rng.uniform(0.5, 2.0, C), "label_smoothing": 0.1, "reduction": "none"}
    if kind == "class indices":
        options["ignore_index"] = -1
    assert_close(
        getattr(blocked, function)(logits, targets, **options),
        oracle_of(function, logits, targets, **options),
        rtol=1e-12,
        hint="whatever is done in blocks must also do the last, incomplete one",
    )


@BOTH
@pytest.mark.parametrize("layout", ["transposed", "every other row", "channels last", "reversed"])
def test_strided_input(function, layout, rng):
    """Views of other arrays need no copy by the caller."""
    logits, targets = {
        "transposed": lambda: (rng.standard_normal((70, 9)).T, rng.integers(0, 70, 9)),
        "every other row": lambda: (rng.standard_normal((18, 80))[::2], rng.integers(0, 80, 18)[::2]),
        "channels last": lambda: (
            np.moveaxis(rng.standard_normal((2, 3, 4, 70)), -1, 1),
            rng.integers(0, 70, (2, 3, 4)),
        ),
        "reversed": lambda: (rng.standard_normal((4, 5, 3))[:, ::-1], rng.integers(0, 5, (3, 4)).T),
    }[layout]()
    with unchanged(logits, targets):
        result = getattr(blocked, function)(logits, targets, reduction="none")
    assert_close(result, oracle_of(function, logits, targets, reduction="none"), rtol=1e-12)


@pytest.mark.grades("cross_entropy")
def test_equals_scikit_learn(rng):
    """A second library, which starts from probabilities and takes the weight per sample."""
    logits, targets, weight = rng.standard_normal((50, 4)), rng.integers(0, 4, 50), rng.uniform(0.5, 2.0, 4)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = log_loss(targets, p, labels=range(4), sample_weight=weight[targets])
    assert_close(blocked.cross_entropy(logits, targets, weight=weight), expected, rtol=1e-12)


@pytest.mark.grades("cross_entropy_grad")
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_gradient_is_the_derivative(smoothing, rng):
    """Complex-step derivative of the formula in the docstring, with weights, in three dimensions."""
    logits, targets = rng.standard_normal((3, 5, 2)), rng.integers(0, 5, (3, 2))
    weight = rng.uniform(0.5, 2.0, 5)
    t = np.moveaxis(np.eye(5)[targets], -1, 1)
    q = weight[:, None] * ((1 - smoothing) * t + smoothing / 5) / weight[targets].sum()
    assert_gradient(
        blocked.cross_entropy_grad(logits, targets, weight=weight, label_smoothing=smoothing),
        lambda x: (q.sum(axis=1) * np.log(np.exp(x).sum(axis=1))).sum() - (q * x).sum(),
        logits,
        np.ones(()),
        method="complex",
    )


# --- edge cases ---------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_masked_classes(function, smoothing, rng):
    """Other classes at -inf cost nothing, a target at -inf costs inf; the gradient stays finite."""
    logits = np.array([[1.0, -np.inf, 2.0, 0.5], [0.3, -np.inf, 1.0, 2.0], [1.0, 0.5, -np.inf, 0.1]])
    targets, options = np.array([0, 1, 3]), {"label_smoothing": smoothing, "reduction": "none"}
    assert_close(
        getattr(blocked, function)(logits, targets, **options),
        oracle_of(function, logits, targets, **options),
        vacuous_ok="smoothing makes every loss inf",
    )


@BOTH
def test_nothing_times_infinity_is_nothing(function):
    """0 log 0 = 0: a masked class with probability 0, or with weight 0, contributes nothing."""
    logits = np.array([[0.0, -np.inf, np.log(3.0)]])
    one_hot, weight = np.array([[0.25, 0.0, 0.75]]), np.array([1.0, 0.0, 2.0])
    is_loss = function == "cross_entropy"
    entropy = 0.25 * np.log(4.0) + 0.75 * np.log(4 / 3)
    assert_close(
        getattr(blocked, function)(logits, one_hot, reduction="sum"),
        entropy if is_loss else np.zeros((1, 3)),
        atol=1e-15,
        hint="0 · (-inf) is NaN; a probability of 0 must contribute 0",
        vacuous_ok=None if is_loss else "the gradient vanishes where the model is right",
    )
    spread = 0.7 * 2 * np.log(4 / 3) + 0.1 * np.log(4.0) + 0.1 * 2 * np.log(4 / 3)
    q = np.array([[0.1, 0.0, 0.7 * 2 + 0.2]])
    assert_close(
        getattr(blocked, function)(
            logits, np.array([2]), weight=weight, label_smoothing=0.3, reduction="sum"
        ),
        spread if is_loss else q.sum() * np.array([[0.25, 0.0, 0.75]]) - q,
        hint="0 · (-inf) is NaN; a class of weight 0 must contribute 0",
    )
    result = getattr(blocked, function)(logits, np.array([1]), weight=weight, reduction="sum")
    assert not np.any(result), f"a target of weight 0 costs nothing, even at a logit of -inf; got {result}"


@BOTH
@pytest.mark.parametrize("copies", [1, 40])
def test_masked_classes_of_probability_zero(function, copies):
    """Each position leaves out a class of its own, in blocks of either layout (3 classes, and 120)."""
    p = np.tile([[0.25, 0.0, 0.75], [0.5, 0.5, 0.0]], copies) / copies
    model = np.tile([[0.25, 0.0, 0.75], [2 / 3, 1 / 3, 0.0]], copies) / copies
    with np.errstate(divide="ignore"):
        logits = np.log(model)
    losses = np.array([0.25 * np.log(4) + 0.75 * np.log(4 / 3), 0.5 * np.log(3 / 2) + 0.5 * np.log(3)])
    assert_close(
        getattr(blocked, function)(logits, p, reduction="none"),
        losses + np.log(copies) if function == "cross_entropy" else model - p,
        atol=1e-15,
        hint="0 · (-inf) is NaN; a probability of 0 must contribute 0, in its own position",
    )


@BOTH
@pytest.mark.parametrize("row", [[np.nan, 0.0, 1.0], [np.inf, 0.0, 1.0], [-np.inf, -np.inf, -np.inf]])
def test_undefined_positions(function, row):
    """NaN, +inf or nothing but -inf makes a position NaN, and only that position."""
    logits = np.array([row, LOGITS[1], LOGITS[2]])
    options = {"reduction": "none"}
    assert_close(
        getattr(blocked, function)(logits, np.array([1, 0, 1]), **options),
        oracle_of(function, logits, [1, 0, 1], **options),
    )


@BOTH
@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_ignored_positions_may_hold_anything(function, poison):
    """Padding is often uninitialised: its loss and gradient are 0 whatever the logits, not 0 · NaN."""
    logits, targets = LOGITS.copy(), np.array([2, -100, 1, 0])
    logits[1, 2] = poison
    clean = {"cross_entropy": LOSSES[[0, 2, 3]].mean(), "cross_entropy_grad": (SOFTMAX - ONE_HOT) / 3}[
        function
    ]
    if function == "cross_entropy_grad":
        clean[1] = 0.0
    assert_close(
        getattr(blocked, function)(logits, targets),
        clean,
        hint="an ignored position spoils the result: select positions instead of multiplying them by zero",
    )


@BOTH
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_nothing_counts(function, smoothing):
    """All ignored: mean NaN, sum 0, gradient 0. All of weight 0: the gradient of the mean is NaN as well."""
    targets, is_loss = np.full(4, -100), function == "cross_entropy"
    for reduction in ("mean", "sum"):
        assert_close(
            getattr(blocked, function)(LOGITS, targets, label_smoothing=smoothing, reduction=reduction),
            (np.nan if reduction == "mean" else 0.0) if is_loss else np.zeros((4, 3)),
            what=f"{reduction} of nothing",
            mistakes={"a mean over nothing is NaN, as in torch": 0.0 if is_loss else np.full((4, 3), np.nan)},
            vacuous_ok="all positions are ignored",
        )
    weightless = np.array([0.0, 1.0, 1.0])
    assert_close(
        getattr(blocked, function)(LOGITS, np.zeros(4, int), weight=weightless, label_smoothing=smoothing),
        np.nan if is_loss else np.full((4, 3), np.nan),
        what="mean over no weight",
        vacuous_ok="0/0",
    )


@BOTH
@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 4), (2, 3, 0)])
def test_empty_batch(function, shape):
    """No position: the mean is NaN without a warning, the sum 0, the gradient empty."""
    for targets in (np.zeros(shape[:1] + shape[2:], int), np.zeros(shape)):
        for reduction in ("mean", "sum", "none"):
            assert_close(
                getattr(blocked, function)(np.zeros(shape), targets, reduction=reduction),
                oracle_of(function, np.zeros(shape), targets, reduction=reduction),
                what=f"{reduction} of an empty batch",
                vacuous_ok="empty",
            )


@BOTH
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint64])
def test_integer_types_of_targets(function, dtype):
    """Any integer type indexes, also those that cannot hold ignore_index."""
    targets = TARGETS.astype(dtype)
    assert_close(
        getattr(blocked, function)(LOGITS, targets), oracle_of(function, LOGITS, TARGETS), rtol=1e-12
    )


@BOTH
@pytest.mark.parametrize("n_classes", [3, 70])
def test_integer_logits(function, n_classes):
    """Differences of uint8 must not wrap around: 0 - 255 is not 1. In few classes as in many."""
    logits = (252 - np.arange(2 * n_classes).reshape(2, n_classes)).astype(np.uint8)
    logits[0, :2] = 0, 255
    assert_close(
        getattr(blocked, function)(logits, np.array([0, 1]), reduction="none"),
        oracle_of(function, logits, [0, 1], reduction="none"),
        rtol=1e-12,
        what=f"{function} of {n_classes} classes",
        hint="convert integers to float64 before any arithmetic: unsigned ones wrap around",
    )


@pytest.mark.grades("cross_entropy")
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_single_and_half_precision(dtype, rng):
    """As accurate as the dtype allows, for large logits too; float16 overflows unless computed in float32."""
    logits, targets = rng.standard_normal((3, 3000)).astype(dtype), np.array([5, 2999, 0])
    for scale in (0.1, 1.0, 100.0):
        scaled = (scale * logits).astype(dtype)
        assert_close(
            blocked.cross_entropy(scaled, targets, reduction="none"),
            torch_oracle(scaled, targets, reduction="none")[0],
            dtype=dtype,
            n=3000 if dtype == np.float32 else 1,
        )
    logits, targets = rng.standard_normal((40_000, 3)).astype(dtype), rng.integers(0, 3, 40_000)
    assert_close(
        blocked.cross_entropy(logits, targets, weight=[2.0, 3.0, 4.0]),
        torch_oracle(logits, targets, weight=[2.0, 3.0, 4.0])[0],
        dtype=dtype,
        hint="the sum of the losses passes 65504, where float16 ends: compute in float32",
    )


@WITH_INDICES
def test_half_precision_is_computed_in_single(function):
    """70,000 classes of weight 100,000: float16 ends at 65504, which the sum of the classes passes, and each weight."""
    logits, targets = np.zeros((2, 70_000), np.float16), np.array([0, 1])
    logits[:, 0] = 4.0
    powers = np.exp(logits.astype(np.float64))
    gradient = powers / powers.sum(axis=1, keepdims=True)
    gradient[[0, 1], targets] -= 1
    expected = {
        "cross_entropy": np.log(powers[0].sum()) - 2.0,
        "cross_entropy_grad": gradient / 2,
        "nll_loss": -2.0,
    }
    assert_close(
        getattr(blocked, function)(logits, targets, weight=np.full(70_000, 1e5)),
        expected[function],
        dtype=np.float16,
        what=f"{function} of 70,000 classes in float16",
        hint="compute float16 in float32, the weights too",
    )


@pytest.mark.grades("cross_entropy_grad")
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_gradient_in_single_and_half_precision(dtype, rng):
    """Weights and probabilities of another dtype do not change the dtype of the result."""
    logits, p = rng.standard_normal((6, 40)).astype(dtype), random_probabilities(rng, (6, 40))
    weight = rng.uniform(0.5, 2.0, 40)
    assert_close(
        blocked.cross_entropy_grad(logits, p, weight=weight, label_smoothing=0.1),
        torch_oracle(logits, p, weight=weight, label_smoothing=0.1)[1],
        dtype=dtype,
        n=40,
    )
