"""blocked.nll_loss in any rank against torch, its dtypes and its edges."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from oracles import LOSSES, SOFTMAX, TARGETS, WEIGHT

import blocked
from shared.testing.checks import assert_close, unchanged

pytestmark = [pytest.mark.module("blocked"), pytest.mark.grades("nll_loss")]
LOG_PROBS = np.log(SOFTMAX)
ZERO = {"a mean over nothing is NaN, as in torch": 0.0}


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
        options = {"weight": weight, "ignore_index": ignore_index, "reduction": reduction}
        with unchanged(log_probs, targets, weight):
            got = blocked.nll_loss(log_probs, targets, **options)
        assert_close(got, expected, rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_nll_in_half_and_single_precision(dtype, rng):
    """The sum of many losses passes 65504, where float16 ends: sums are accumulated in float64."""
    log_probs, targets = (-5 * rng.random((40_000, 3))).astype(dtype), rng.integers(0, 3, 40_000)
    picked = -log_probs[np.arange(40_000), targets].astype(np.float64)
    assert_close(blocked.nll_loss(log_probs, targets), picked.mean(), dtype=dtype, hint="sum in float64")
    weight = WEIGHT.astype(dtype)
    weighted = (weight.astype(np.float64)[targets] * picked).sum() / weight.astype(np.float64)[targets].sum()
    assert_close(blocked.nll_loss(log_probs, targets, weight=weight), weighted, dtype=dtype)


def test_nll_edges():
    """An impossible target costs inf, an ignored or weightless one nothing; a mean over nothing is NaN."""
    log_probs = np.array([[0.0, -np.inf], [-np.inf, -0.5], [-2.0, -0.25]])
    losses = blocked.nll_loss(log_probs, np.array([1, 1, 0]), reduction="none")
    assert_close(losses, np.array([np.inf, 0.5, 2.0]))
    assert_close(
        blocked.nll_loss(log_probs, np.array([-100, -100, 0])),
        2.0,
        hint="0 · inf is NaN: an ignored target must contribute 0",
    )
    assert_close(
        blocked.nll_loss(log_probs, np.array([1, 0, 0]), weight=[3.0, 0.0], reduction="none"),
        np.array([0.0, np.inf, 6.0]),
        hint="0 · inf is NaN: a target of weight 0 must contribute 0",
    )
    for numbers, targets in ((log_probs, np.full(3, -100)), (np.zeros((0, 2)), np.zeros(0, int))):
        loss = blocked.nll_loss(numbers, targets)
        assert_close(loss, np.nan, vacuous_ok="mean over nothing", mistakes=ZERO)
    assert_close(
        blocked.nll_loss(log_probs, np.full(3, -100), reduction="sum"), 0.0, vacuous_ok="sum of nothing"
    )


def test_nll_of_any_integer_type():
    """Any integer type indexes, also those that cannot hold ignore_index."""
    for dtype in (np.uint8, np.int16, np.uint64):
        assert_close(blocked.nll_loss(LOG_PROBS, TARGETS.astype(dtype)), LOSSES.mean())
