"""blocked.py: what it has more than the core. Ranks, dtypes, errors that name what is wrong, probabilities, large logits.

test_blocked_as_core.py runs the tests of the core on it; test_blocked_with_all_options.py compares it with torch, and has
the edges.
"""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest
from oracles import BOTH, LOGITS, LOSSES, ONE_HOT, SOFTMAX, TARGETS, WEIGHT, WITH_INDICES, exact
from torch_oracles import random_probabilities, torch_oracle

import blocked
from shared.testing.checks import assert_close, expect_error, unchanged

pytestmark = pytest.mark.module("blocked")
LOG_PROBS = np.log(SOFTMAX)


# --- 1. the contract ----------------------------------------------------------------------------------------------


@WITH_INDICES
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64, np.uint8, np.bool_])
def test_dtype_of_the_result(function, dtype):
    """Floats keep their dtype, anything else becomes float64."""
    logits = np.array([[0, 1, 3], [1, 0, 0]]).astype(dtype)
    result = np.asarray(getattr(blocked, function)(logits, np.array([1, 0])))
    wanted = np.dtype(dtype if np.dtype(dtype).kind == "f" else np.float64)
    assert result.dtype == wanted, f"{np.dtype(dtype)} logits give {result.dtype}, expected {wanted}"


@WITH_INDICES
def test_byte_order(function):
    """Swapped bytes are the same numbers; the result has the order of the machine."""
    swapped, targets = (a.astype(a.dtype.newbyteorder()) for a in (LOG_PROBS, TARGETS))
    result = getattr(blocked, function)(swapped, targets, weight=WEIGHT.astype(swapped.dtype))
    assert result.dtype.isnative, f"byte-swapped logits give {result.dtype.str}"
    oracle = "cross_entropy" if function == "nll_loss" else function
    expected = exact(oracle, LOG_PROBS, TARGETS, weight=WEIGHT)
    assert_close(result, expected, what=f"{function} of byte-swapped logits")


@WITH_INDICES
@pytest.mark.parametrize("shape", [(5,), (4, 3), (4, 3, 2), (2, 5, 3, 4)])
def test_shape_of_the_result(function, shape, rng):
    """A scalar for mean and sum, one loss per position for none; the gradient has the shape of the logits."""
    positions = shape[:1] + shape[2:] if len(shape) > 1 else ()
    logits, targets = rng.standard_normal(shape), rng.integers(0, 3, positions)
    for reduction, wanted in (("mean", ()), ("sum", ()), ("none", positions)):
        wanted = shape if function == "cross_entropy_grad" else wanted
        got = np.shape(getattr(blocked, function)(logits, targets, reduction=reduction))
        assert got == wanted, (
            f"logits {shape} with reduction={reduction!r} give shape {got}, expected {wanted}"
        )


@BOTH
def test_inputs_are_unchanged(function, rng):
    """The caller still needs logits and probabilities."""
    logits, p, weight = (
        rng.standard_normal((6, 3)),
        random_probabilities(rng, (6, 3)),
        np.array([1.0, 0.5, 2.0]),
    )
    with unchanged(logits, p, weight):
        getattr(blocked, function)(logits, p, weight=weight, label_smoothing=0.1)


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
    "infinite weight": (0, {"weight": [1.0, 1.0, np.inf]}, ["inf", "2"], "an infinite weight is accepted"),
    "weight of NaN": (0, {"weight": [np.nan, 1.0, 1.0]}, ["nan", "0"], "a weight of NaN is accepted"),
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
        getattr(blocked, function)(np.zeros((3, 3, 2)), targets, **options)


@pytest.mark.grades("nll_loss")
def test_nll_names_bad_arguments():
    """The same of nll_loss, which refuses soft targets, too."""
    cases = {
        "a negative class index wraps around to the last class": (np.array([0, 1, -1, 2]), {}, ("-1", "2")),
        "a class index must be below C": (np.array([0, 3, 1, 2]), {}, ("3", "1")),
        "a negative weight is accepted": (TARGETS, {"weight": [1.0, -2.5, 1.0]}, ("-2.5", "1")),
        "an unknown reduction is accepted": (TARGETS, {"reduction": "average"}, ("average",)),
        "targets leave out the class axis": (TARGETS[:, None], {}, ("(4, 1)",)),
    }
    for diagnosis, (targets, options, mentions) in cases.items():
        with expect_error(ValueError, *mentions, otherwise=diagnosis):
            blocked.nll_loss(LOG_PROBS, targets, **options)
    with expect_error(TypeError, otherwise="nll_loss takes class indices, not probabilities"):
        blocked.nll_loss(LOG_PROBS, SOFTMAX)


@WITH_INDICES
def test_a_bad_target_far_inside(function):
    """Of 200,000 positions the 150,001st is wrong: the place that is named counts from the start."""
    logits, targets = np.zeros((2, 3, 100_000), np.float32), np.zeros((2, 100_000), np.int32)
    targets[1, 50_000] = 7
    with expect_error(ValueError, "7", "1, 50000", otherwise="a class index far inside is not checked"):
        getattr(blocked, function)(logits, targets)


@pytest.mark.grades("cross_entropy")
def test_weighted_mean_of_many_positions():
    """200,000 positions with the loss log 2 have that mean, whatever the weights."""
    targets = np.arange(200_000) % 2
    for ignore_index, weight in itertools.product((-100, 1), (None, [0.5, 2.0], [3.0, 1.0])):
        options = {"ignore_index": ignore_index, "weight": weight}
        loss = blocked.cross_entropy(np.zeros((200_000, 2)), targets, **options)
        hint = "whatever is done in blocks must also do the last, incomplete one"
        assert_close(loss, np.log(2.0), n=200_000, what=f"mean with {options}", hint=hint)


@WITH_INDICES
def test_no_class_at_all(function):
    """Softmax over nothing has no value."""
    for shape in ((2, 0), (2, 0, 3), (0,)):
        with expect_error(ValueError, str(shape), otherwise="logits without a class must be refused"):
            targets = np.zeros(shape[:1] + shape[2:] if len(shape) > 1 else (), int)
            getattr(blocked, function)(np.zeros(shape), targets)
    with expect_error(ValueError, "()", otherwise="a number has no class axis"):
        getattr(blocked, function)(np.zeros(()), np.zeros((), int))


@WITH_INDICES
def test_types_that_mean_nothing(function):
    """Complex logits have no order, bool targets could be an index or a probability."""
    too_wide = [np.longdouble] if np.dtype(np.longdouble).itemsize > 8 else []
    for dtype in (np.complex64, np.complex128, object, *too_wide):
        with expect_error(TypeError, "logits", otherwise=f"{np.dtype(dtype)} logits must be refused"):
            getattr(blocked, function)(LOGITS.astype(dtype), TARGETS)
        with expect_error(TypeError, "weight", otherwise=f"a weight of {np.dtype(dtype)} must be refused"):
            getattr(blocked, function)(LOGITS, TARGETS, weight=WEIGHT.astype(dtype))
    with expect_error(TypeError, otherwise="bool targets are ambiguous and must be refused"):
        getattr(blocked, function)(LOGITS, ONE_HOT.astype(bool))


# --- 2. ranks and probabilities ---------------------------------------------------------------------------------


@WITH_INDICES
def test_logits_of_rank_one(function):
    """A single position: logits (C,) and one class index, no batch axis."""
    expected = SOFTMAX[2] - ONE_HOT[2] if function == "cross_entropy_grad" else np.log(5.0)
    result = getattr(blocked, function)(LOG_PROBS[2], 1)
    assert_close(result, expected, what=f"{function} of one position")


@pytest.mark.grades("cross_entropy")
def test_probabilities(rng):
    """A floating target gives every class its share."""
    p = random_probabilities(rng, (4, 3))
    surprise = -LOG_PROBS
    expected = (p * surprise).sum(axis=1)
    hard = surprise[np.arange(4), p.argmax(axis=1)]
    mistakes = {
        "the most probable class is taken, the other shares are lost": hard,
        "the two distributions are exchanged": (SOFTMAX * -np.log(p)).sum(axis=1),
        "this is the KL divergence: the entropy of the targets is subtracted": expected
        + (p * np.log(p)).sum(axis=1),
    }
    assert_close(blocked.cross_entropy(LOGITS, p, reduction="none"), expected, mistakes=mistakes)
    assert_close(blocked.cross_entropy(LOGITS, ONE_HOT), LOSSES.mean(), what="loss of one-hot rows")
    assert_close(blocked.cross_entropy(LOGITS[2], p[2]), expected[2], what="loss of one position")
    assert_close(
        blocked.cross_entropy(LOGITS, p, label_smoothing=0.3),
        (0.7 * expected + 0.3 * surprise.mean(axis=1)).mean(),
        mistakes={"label_smoothing is ignored for probabilities": expected.mean()},
    )


@pytest.mark.grades("cross_entropy")
def test_probabilities_with_weight(rng):
    """With probabilities every class is weighted; the mean divides by the number of positions, as in torch."""
    p = random_probabilities(rng, (4, 3))
    surprise = -LOG_PROBS
    expected = (WEIGHT * p * surprise).sum(axis=1)
    by_weight = expected.sum() / (WEIGHT * p).sum()
    assert_close(
        blocked.cross_entropy(LOGITS, p, weight=WEIGHT),
        expected.mean(),
        mistakes={
            "weight is ignored for probabilities": (p * surprise).sum(axis=1).mean(),
            "for probabilities the mean divides by the number of positions": by_weight,
        },
    )
    whole = (p * surprise).sum(axis=1).mean()
    assert_close(
        blocked.cross_entropy(LOGITS, 0.5 * p),
        0.5 * whole,
        mistakes={"for probabilities the mean divides by the number of positions": whole},
    )


@pytest.mark.grades("cross_entropy_grad")
def test_gradient_of_probabilities_with_weight(rng):
    """Q softmax - q with q = w·p: weighting every entry of softmax - p is not the same."""
    p = random_probabilities(rng, (4, 3))
    q = WEIGHT * p
    columns = WEIGHT * (SOFTMAX - p)
    assert_close(
        blocked.cross_entropy_grad(LOGITS, p, weight=WEIGHT, reduction="sum"),
        q.sum(axis=1, keepdims=True) * SOFTMAX - q,
        mistakes={
            "the softmax is multiplied by Q = sum(w·p), not by the weight of its column": columns,
            "the softmax is multiplied by Q = sum(w·p), not by 1": SOFTMAX - q,
            "weight is ignored for probabilities": SOFTMAX - p,
        },
    )
    unnormalised = 0.5 * p
    assert_close(
        blocked.cross_entropy_grad(LOGITS, unnormalised, reduction="sum"),
        0.5 * SOFTMAX - unnormalised,
        mistakes={"probabilities that sum to Q multiply the softmax by Q": SOFTMAX - unnormalised},
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
        blocked.cross_entropy(logits, targets, reduction="none"),
        torch_oracle(logits, targets, reduction="none")[0],
        mistakes={
            "reshape(-1, C) tears classes apart: move the class axis to the end first": torn,
            "softmax runs over the last axis, not over axis 1": over_last,
        },
    )


# --- 3. exact for any size ----------------------------------------------------------------------------------------


@pytest.mark.grades("cross_entropy")
def test_exact_at_large_logits():
    """The differences of the logits count, not their size: x - logsumexp(x) would lose the digits of the third row."""
    logits = np.array([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4], [1e4 + 1, 1e4, -1e4], [0.0, 1e4, -1e4]])
    expected = np.array([2e4, 2e4 + np.log(2.0), np.log1p(np.exp(-1.0)), 1e4])
    assert_close(
        blocked.cross_entropy(logits, np.array([1, 0, 0, 0]), reduction="none"),
        expected,
        rtol=4e-16,
        atol=0.0,
        hint="a loss has the digits of its differences: subtract the maximum before anything else",
    )


@pytest.mark.grades("cross_entropy_grad")
def test_gradient_exact_at_large_logits():
    """Softmax of shifted logits is exact."""
    logits = np.array([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4], [0.0, 1e4, -1e4], [1e4 + 1, 1e4, -1e4]])
    share = 1 / (1 + np.exp(-1.0))
    assert_close(
        blocked.cross_entropy_grad(logits, np.array([1, 0, 1, 2]), reduction="sum"),
        np.array([[1.0, -1.0, 0.0], [-1.0, 0.5, 0.5], [0.0, 0.0, 0.0], [share, 1 - share, -1.0]]),
        rtol=4e-16,
        hint="subtract the maximum of each position first",
    )


@BOTH
@pytest.mark.parametrize("shape", [(2, 300_000), (2, 300_000, 2)])
def test_more_classes_than_fit_a_block(function, shape):
    """A position of 1.2 MB: all classes but two are equally probable, and these are e times as probable."""
    logits, targets = np.zeros(shape, np.float32), np.full((2, *shape[2:]), 299_999)
    logits[:, [0, -1]] = 1.0
    total = 299_998 + 2 * np.e
    expected = np.full(targets.shape, np.log(total) - 1.0)
    if function == "cross_entropy_grad":
        expected = np.exp(logits.astype(np.float64)) / total
        expected[:, -1] -= 1.0
    assert_close(
        getattr(blocked, function)(logits, targets, reduction="none"),
        expected,
        dtype=np.float32,
        n=300_000,
        what=f"{function} of 300,000 classes",
        vacuous_ok="the positions are alike, the classes are not",
    )


@pytest.mark.parametrize("function", ["cross_entropy", "nll_loss"])
def test_sums_in_float64(function):
    """One loss of 2²⁴ and 5000 of log 2: in float32, small losses vanish beside the large one."""
    log_probs = np.full((5001, 2), -np.log(2.0), np.float32)
    log_probs[0] = -(2.0**24), 0.0
    total = 2.0**24 + 5000 * np.log(2.0)
    for reduction, divisor in (("sum", 1), ("mean", 5001)):
        loss = getattr(blocked, function)(log_probs, np.zeros(5001, int), reduction=reduction)
        hint = "sums over positions are accumulated in float64"
        assert_close(loss, total / divisor, dtype=np.float32, rtol=1.2e-7, atol=0.0, hint=hint)


# --- 4. in one block of memory --------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("kind", ["class indices", "probabilities"])
@pytest.mark.parametrize("shape", [(4096, 2048), (8, 10, 60_000)])  # 32 and 19 MB
def test_memory(function, kind, shape, rng):
    """Beside the result: a block of a megabyte, two with probabilities, and two more for its positions."""
    logits = rng.standard_normal(shape, dtype=np.float32)
    positions = shape[:1] + shape[2:]
    is_index = kind == "class indices"
    targets = rng.integers(0, shape[1], positions) if is_index else np.full_like(logits, 1 / shape[1])
    beside, result = _memory(function, logits, targets, label_smoothing=0.1)
    assert np.all(np.isfinite(result)), "the result is not finite"
    allowed = (3 if is_index else 4) * 2**20
    assert beside <= allowed, (
        f"{beside / 1e6:.1f} MB beside the result, for logits of {logits.nbytes / 1e6:.0f} MB: "
        "work through a block of positions at a time, in memory that all blocks share"
    )


@pytest.mark.grades("nll_loss")
def test_memory_of_nll(rng):
    """One entry of each row is needed: no copy of the log-probabilities."""
    log_probs, targets = (
        rng.standard_normal((8, 10, 60_000), dtype=np.float32),
        rng.integers(0, 10, (8, 60_000)),
    )
    beside, _ = _memory("nll_loss", log_probs, targets)
    numbers = beside / 8 / targets.size
    assert numbers < 5, (
        f"{numbers:.1f} numbers of 8 bytes for each position: are all log-probabilities copied?"
    )


def _memory(function, *arguments, **options):
    """Return how many bytes stood beside the result at most, and the result."""
    tracemalloc.start()
    try:
        result = np.asarray(getattr(blocked, function)(*arguments, **options))
        return tracemalloc.get_traced_memory()[1] - result.nbytes, result
    finally:
        tracemalloc.stop()
