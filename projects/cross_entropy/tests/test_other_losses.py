"""binary_cross_entropy_with_logits and mse_loss: the contract, by hand, options, extremes.

The fixture `module` is what is judged; tests/further/test_edge_cases.py puts edge_cases.py in its place.
"""

from __future__ import annotations

import numpy as np
import pytest
from oracles import binary, no_warning, reduced

import cross_entropy
from shared.testing.checks import assert_close, expect_error, unchanged

REDUCTIONS = ("mean", "sum", "none")
STABLE = "use max(x, 0) + log1p(exp(-|x|)): exp overflows, or 1 + tiny is rounded to 1 before the log"


@pytest.fixture
def module():
    return cross_entropy


# --- 1. binary_cross_entropy_with_logits --------------------------------------------------------------------------

ODDS = np.log([[3.0, 1 / 4], [1.0, 9.0], [1 / 7, 2.0]])  # probabilities 3/4, 1/5; 1/2, 9/10; 1/8, 2/3
LABELS = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
BINARY = np.log([[4 / 3, 5 / 4], [2.0, 10.0], [8 / 7, 3 / 2]])


@pytest.mark.grades("binary_cross_entropy_with_logits")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_binary_shape_and_dtype(dtype, module):
    """The dtype of the logits stays, whatever the dtype of labels and weights; nothing is modified."""
    logits, pos_weight, name = ODDS.astype(dtype), np.array([1.0, 2.0]), np.dtype(dtype).name
    for kind in (np.float64, np.float32, np.int64, np.uint8, np.bool_):
        for reduction in REDUCTIONS:
            labels = LABELS.astype(kind)
            with unchanged(logits, labels, pos_weight):
                loss = module.binary_cross_entropy_with_logits(
                    logits, labels, pos_weight=pos_weight, reduction=reduction
                )
            assert loss is not None, "the loss is None: is a `return` missing?"
            got, shape = np.asarray(loss), (3, 2) if reduction == "none" else ()
            assert got.shape == shape, f"reduction={reduction!r} gives shape {got.shape}, expected {shape}"
            labelled = f"{name} logits and {np.dtype(kind).name} labels"
            assert got.dtype == dtype, f"{labelled} give {got.dtype}, expected {name}"


@pytest.mark.grades("binary_cross_entropy_with_logits")
def test_binary_refuses(module):
    """Shapes must agree, though NumPy would broadcast them, and a misspelt reduction is an error."""
    for labels in (LABELS[0], LABELS[:, :1], LABELS.T, LABELS.ravel()):
        with expect_error(
            ValueError, otherwise=f"targets of shape {labels.shape} are broadcast to logits (3, 2)"
        ):
            module.binary_cross_entropy_with_logits(ODDS, labels)
    for option in ("weight", "pos_weight"):
        for shape in ((3,), (1, 3, 2), (2, 3, 2)):
            refused = (
                f"{option} of shape {shape} is taken for logits (3, 2): it must broadcast to their shape"
            )
            with expect_error(ValueError, otherwise=refused):
                module.binary_cross_entropy_with_logits(ODDS, LABELS, **{option: np.ones(shape)})
    for name in ("average", "MEAN", ""):
        with expect_error(ValueError, otherwise=f"an unknown reduction is accepted: {name!r}"):
            module.binary_cross_entropy_with_logits(ODDS, LABELS, reduction=name)


@pytest.mark.grades("binary_cross_entropy_with_logits")
def test_binary_by_hand(module):
    """Six labels whose probabilities are fractions."""
    bce = module.binary_cross_entropy_with_logits
    only_positive = np.where(LABELS == 1, BINARY, 0.0)
    exchanged = (BINARY + np.where(LABELS == 1, ODDS, -ODDS)).mean()
    assert_close(
        bce(ODDS, LABELS),
        BINARY.mean(),
        mistakes={
            "the term of the label 0 is missing: (1 - y) softplus(x)": only_positive.mean(),
            "the labels are exchanged": exchanged,
            "this is the sum, not the mean": BINARY.sum(),
            "the mean is over all elements, not over rows": BINARY.sum() / 3,
            "the sign: the log of a probability is negative, the loss is not": -BINARY.mean(),
        },
    )
    assert_close(bce(ODDS, LABELS, reduction="none"), BINARY)
    assert_close(bce(ODDS, LABELS, reduction="sum"), BINARY.sum())
    assert_close(bce(ODDS, LABELS.astype(bool)), BINARY.mean(), what="loss of bool labels")


@pytest.mark.grades("binary_cross_entropy_with_logits")
def test_binary_weights(module):
    """pos_weight is for the label 1 only; no weight changes what the mean divides by."""
    bce = module.binary_cross_entropy_with_logits
    weight, pos_weight = np.array([[1.0], [2.0], [0.5]]), np.array([3.0, 5.0])
    positive, negative = np.where(LABELS == 1, pos_weight, 1.0), np.where(LABELS == 0, pos_weight, 1.0)
    assert_close(
        bce(ODDS, LABELS, pos_weight=pos_weight),
        (positive * BINARY).mean(),
        mistakes={
            "pos_weight is ignored": BINARY.mean(),
            "pos_weight is for the label 1 only, not for both": (pos_weight * BINARY).mean(),
            "pos_weight is for the label 1, not for the label 0": (negative * BINARY).mean(),
        },
    )
    everything = weight * positive * BINARY
    assert_close(
        bce(ODDS, LABELS, weight=weight, pos_weight=pos_weight),
        everything.mean(),
        mistakes={
            "the mean divides by the number of elements, not by the weights": everything.sum()
            / np.broadcast_to(weight, ODDS.shape).sum(),
            "weight is ignored when pos_weight is given": (positive * BINARY).mean(),
        },
    )
    assert_close(bce(ODDS, LABELS, weight=2.0), 2 * BINARY.mean(), what="loss with weight=2.0")


@pytest.mark.grades("binary_cross_entropy_with_logits")
def test_binary_soft_labels(module):
    """A label of 1/4 costs a quarter of what the label 1 costs, and three quarters of what the label 0 costs."""
    bce, yes, no = module.binary_cross_entropy_with_logits, np.log([4 / 3, 5.0]), np.log([4.0, 5 / 4])
    x, y = ODDS[0], np.array([0.25, 0.75])
    rounded = {"labels between 0 and 1 are shares: they are not rounded": np.array([no[0], yes[1]])}
    assert_close(bce(x, y, reduction="none"), y * yes + (1 - y) * no, mistakes=rounded)
    assert_close(
        bce(x, y, pos_weight=3.0, reduction="none"),
        3 * y * yes + (1 - y) * no,
        mistakes={
            "pos_weight is ignored where a label is below 1": y * yes + (1 - y) * no,
            "pos_weight multiplies y softplus(-x) only, not the whole loss of a soft label": 3
            * (y * yes + (1 - y) * no),
        },
    )


@pytest.mark.grades("binary_cross_entropy_with_logits")
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_binary_with_all_options(reduction, module, rng):
    """Soft labels, any shape and transposed views, against log(1 + exp(x)) in 120 digits."""
    for shape in ((), (5,), (4, 4), (4, 3, 2)):
        for scale in (1.0, 1e4):
            x, y = np.asarray(scale * rng.standard_normal(shape)).T, np.asarray(rng.random(shape)).T
            weight, pos_weight = rng.uniform(0.5, 2.0, x.shape), rng.uniform(0.5, 2.0, x.shape[-1:])
            for w, v in ((None, None), (weight, None), (None, pos_weight), (weight, pos_weight)):
                with no_warning("exp overflows for large logits"):
                    loss = module.binary_cross_entropy_with_logits(
                        x, y, weight=w, pos_weight=v, reduction=reduction
                    )
                losses = binary(x, y, 1.0 if w is None else w, 1.0 if v is None else v)
                assert_close(
                    loss,
                    reduced(losses, reduction),
                    n=max(1, x.size),
                    what=f"loss of shape {x.shape} with logits of size {scale:g}",
                    hint=STABLE if scale > 1 else None,
                )


@pytest.mark.grades("binary_cross_entropy_with_logits")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_binary_extremes(dtype, module):
    """From exp(-80) to 1e4, a loss keeps its digits; small ones of the label 0 are left to edge_cases.py."""
    x = np.array([1e4, -1e4, 80, 40, 1e-8, -95, 95, 1e4, -0.5], dtype)
    y = np.array([0, 1, 1, 1, 1, 1, 0, 0.25, 1], dtype)
    with no_warning(STABLE), unchanged(x, y):
        losses = module.binary_cross_entropy_with_logits(x, y, reduction="none")
    assert_close(losses, binary(x, y), dtype=dtype, atol=0.0, hint=STABLE)


# --- 2. mse_loss ----------------------------------------------------------------------------------------------------


@pytest.mark.grades("mse_loss")
def test_squared_error_by_hand(module):
    """(1² + 2² + 3² + 0²) / 4 = 3.5."""
    prediction, target = np.array([[1.0, 4.0], [0.0, 5.0]]), np.array([[2.0, 2.0], [3.0, 5.0]])
    with unchanged(prediction, target):
        loss = module.mse_loss(prediction, target)
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
    assert_close(module.mse_loss(prediction, target, reduction="none"), np.array([[1.0, 4.0], [9.0, 0.0]]))
    assert_close(module.mse_loss(prediction, target, reduction="sum"), 14.0)


@pytest.mark.grades("mse_loss")
def test_squared_error_refuses_to_broadcast(module):
    """(N, 1) against (N,) is the classic bug: N² differences, and no error."""
    for a, b in (((4, 1), (4,)), ((4,), (4, 1)), ((4, 3), (3,)), ((4, 3), ())):
        count = np.prod(np.broadcast_shapes(a, b))
        with expect_error(ValueError, otherwise=f"{a} and {b} broadcast to {count} differences"):
            module.mse_loss(np.zeros(a), np.zeros(b))
    for name in ("average", "MEAN", ""):
        with expect_error(ValueError, otherwise=f"an unknown reduction is accepted: {name!r}"):
            module.mse_loss(np.zeros(4), np.zeros(4), reduction=name)


@pytest.mark.grades("mse_loss")
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_squared_error_of_any_shape_and_dtype(reduction, module, rng):
    """A number, a vector, a square view, three axes; of float32 and float64 the wider one counts."""
    for shape in ((), (7,), (4, 4), (3, 4, 5)):
        a, b = np.asarray(rng.standard_normal(shape)).T, np.asarray(rng.standard_normal(shape)).T
        for kinds in ((np.float64, np.float64), (np.float32, np.float32), (np.float32, np.float64)):
            p, t = a.astype(kinds[0]), b.astype(kinds[1])
            dtype = np.result_type(*kinds)
            differences = [u - v for u, v in zip(p.ravel().tolist(), t.ravel().tolist(), strict=True)]
            squares = np.reshape([d * d for d in differences], p.shape)
            names = " and ".join(np.dtype(kind).name for kind in kinds)
            assert_close(
                module.mse_loss(p, t, reduction=reduction),
                reduced(squares, reduction),
                dtype=dtype,
                n=max(1, p.size),
                what=f"squared error of {names}, shape {p.shape}",
            )
