"""What goes beyond the plain contract of the core: integers, lists, and types that it refuses."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from oracles import BOTH, LOGITS, ONE_HOT, SOFTMAX, TARGETS, WITH_INDICES, exact

import cross_entropy as core
from shared.testing.checks import assert_close, assert_imports_only, expect_error

LABELS = np.array([1.0, 0.0, 1.0])


@BOTH
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.bool_])
def test_integer_logits(function, dtype):
    """Converted before any arithmetic: a uint8 that is subtracted from wraps around."""
    logits = np.array([[0, 255, 3], [7, 2, 0]]).astype(np.uint8).astype(dtype)
    assert_close(
        getattr(core, function)(logits, np.array([0, 1]), reduction="none"),
        exact(function, logits.astype(float), [0, 1], reduction="none"),
        rtol=1e-12,
        what=f"{function} of {np.dtype(dtype).name} logits",
        hint="convert integers to float64 before any arithmetic: unsigned ones wrap around",
    )


@WITH_INDICES
def test_lists(function):
    """Lists of numbers are arrays of float64, lists of integers are targets."""
    result = getattr(core, function)(np.log(SOFTMAX).tolist(), TARGETS.tolist(), weight=[1.0, 2.5, 4.0])
    oracle = "cross_entropy" if function == "nll_loss" else function
    assert_close(result, exact(oracle, LOGITS, TARGETS, weight=[1.0, 2.5, 4.0]), what=f"{function} of lists")


@pytest.mark.parametrize("function", ["binary_cross_entropy_with_logits", "mse_loss"])
def test_other_losses_of_integers_and_lists(function):
    """uint8 differences wrap around, and so does minus a uint8, unless they are converted first."""
    x, y = np.array([0, 250, 3, 7], np.uint8), np.array([1, 0, 0, 1], np.uint8)
    expected = {
        "binary_cross_entropy_with_logits": (
            np.log(2) + 250 + 3 + np.log1p(np.exp(-3)) + np.log1p(np.exp(-7))
        ),
        "mse_loss": 1 + 250**2 + 9 + 36,
    }[function]
    wraps = "convert integers to float64 before any arithmetic: uint8 differences wrap around"
    for a, b in ((x, y), (x.tolist(), y.tolist())):
        assert_close(getattr(core, function)(a, b, reduction="sum"), np.float64(expected), hint=wraps)


@WITH_INDICES
def test_types_that_mean_nothing(function):
    """Complex logits have no order; targets that are not integers are no class indices."""
    for dtype in (np.complex64, object, np.float16):
        with expect_error(TypeError, otherwise=f"{function} takes logits of {np.dtype(dtype).name}"):
            getattr(core, function)(LOGITS.astype(dtype), TARGETS)
    for targets in (TARGETS.astype(np.float64), TARGETS.astype(bool)):
        with expect_error(TypeError, otherwise=f"{function} takes targets of {targets.dtype}"):
            getattr(core, function)(LOGITS, targets)
    with expect_error((TypeError, ValueError), otherwise=f"{function} takes probabilities as targets"):
        getattr(core, function)(LOGITS, ONE_HOT)


@pytest.mark.parametrize("function", ["binary_cross_entropy_with_logits", "mse_loss"])
def test_other_losses_refuse_what_is_not_real(function):
    """In either place: complex numbers, objects, half precision."""
    for dtype in (np.complex64, object, np.float16):
        with expect_error(TypeError, otherwise=f"{function} takes {np.dtype(dtype).name}"):
            getattr(core, function)(LABELS.astype(dtype), LABELS)
        with expect_error(TypeError, otherwise=f"{function} takes {np.dtype(dtype).name} as the second"):
            getattr(core, function)(LABELS, LABELS.astype(dtype))


@pytest.mark.grades
@pytest.mark.parametrize("module", ["blocked", "edge_cases", "kl_divergence"])
def test_further_modules_use_numpy_only(module):
    """From scratch, here too."""
    assert_imports_only(importlib.import_module(module), {"numpy"})
