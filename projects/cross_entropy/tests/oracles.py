"""What is right: fractions worked out by hand, and the textbook formula in 60 decimal digits, where nothing needs a shift.

The gradient of the second is a difference quotient of its loss, so it knows nothing of softmax minus one-hot.
"""

from __future__ import annotations

import contextlib
import decimal
import functools
import math
import warnings
from decimal import Decimal

import numpy as np
import pytest

BOTH = pytest.mark.parametrize("function", ["cross_entropy", "cross_entropy_grad"])
WITH_INDICES = pytest.mark.parametrize("function", ["cross_entropy", "cross_entropy_grad", "nll_loss"])

# Softmax of these rows has the denominators 8, 8, 10 and 5; the targets have 5/8, 1/2, 1/5 and 3/5 of it.
COUNTS = np.array([[1.0, 2.0, 5.0], [4.0, 3.0, 1.0], [2.0, 2.0, 6.0], [3.0, 1.0, 1.0]])
LOGITS = np.log(COUNTS)
SOFTMAX = COUNTS / COUNTS.sum(axis=1, keepdims=True)
TARGETS = np.array([2, 0, 1, 0])
ONE_HOT = np.eye(3)[TARGETS]
LOSSES = np.log([8 / 5, 2.0, 5.0, 5 / 3])
WEIGHT = np.array([1.0, 2.5, 4.0])
TARGET_WEIGHT = WEIGHT[TARGETS]
DIGITS, STEP = 60, Decimal("1e-20")


def exact(
    function, logits, targets, *, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean"
):
    """Return what `function` (cross_entropy or cross_entropy_grad) is for logits (N, C) and class indices (N,)."""
    logits, targets = np.asarray(logits, np.float64), np.asarray(targets).tolist()
    n_classes = logits.shape[1]
    weight = [1.0] * n_classes if weight is None else np.asarray(weight, np.float64).tolist()
    counts = [t != ignore_index for t in targets]
    divisor = sum(weight[t] for t, counted in zip(targets, counts, strict=True) if counted)
    losses, gradients = np.zeros(len(logits)), np.zeros(logits.shape)
    for n, (row, t) in enumerate(zip(logits.tolist(), targets, strict=True)):
        if counts[n]:
            q = [label_smoothing / n_classes * w for w in weight]
            q[t] += (1 - label_smoothing) * weight[t]
            losses[n], gradients[n] = _position(tuple(row), tuple(q), function == "cross_entropy_grad")
    if function == "cross_entropy_grad":
        return gradients / divisor if reduction == "mean" else gradients
    if reduction == "none":
        return losses
    return np.float64(math.fsum(losses) / (divisor if reduction == "mean" else 1.0))


@functools.cache
def _position(row, q, with_gradient):
    """Return ``-sum_c q_c log(exp(x_c) / sum(exp(x)))`` and, where it is asked for, its difference quotients."""
    with decimal.localcontext() as context:
        context.prec = DIGITS
        x, q = [Decimal(value) for value in row], [Decimal(value) for value in q]
        powers = [value.exp() for value in x]
        total, asked = sum(powers), sum(q)
        fixed = sum(share * value for share, value in zip(q, x, strict=True))
        loss = asked * total.ln() - fixed
        if not with_gradient:
            return float(loss), 0.0
        gradient = []
        for value, power, share in zip(x, powers, q, strict=True):
            higher = asked * (total - power + (value + STEP).exp()).ln() - share * STEP
            lower = asked * (total - power + (value - STEP).exp()).ln() + share * STEP
            gradient.append(float((higher - lower) / (2 * STEP)))
        return float(loss), gradient


def softplus(x):
    """Return ``log(1 + exp(x))`` of a number, right to the last digit."""
    with decimal.localcontext() as context:
        context.prec = 2 * DIGITS
        return float((1 + Decimal(x).exp()).ln())


def binary(x, y, weight=1.0, pos_weight=1.0):
    """Return the binary cross-entropy of each element, in float64."""
    w, v = np.broadcast_to(weight, x.shape), np.broadcast_to(pos_weight, x.shape)
    losses = [
        wi * (vi * yi * softplus(-xi) + (1 - yi) * softplus(xi))
        for xi, yi, wi, vi in zip(*(a.ravel().tolist() for a in (x, y, w, v)), strict=True)
    ]
    return np.reshape(losses, x.shape)


def reduced(losses, reduction):
    """Return the losses of a loss whose mean divides by their number."""
    if reduction == "none":
        return losses
    return np.float64(math.fsum(losses.ravel()) / (losses.size if reduction == "mean" else 1))


def roundings(logits, dtype=np.float64):
    """Return the error that is fine: a few roundings of the largest logit, since x - logsumexp(x) is right, too."""
    return 8 * float(np.finfo(dtype).eps) * max(1.0, float(np.abs(logits).max()))


@contextlib.contextmanager
def no_warning(diagnosis):
    """Turn a floating-point warning into a failure that says what it means."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            yield
        except RuntimeWarning as warning:
            raise AssertionError(f"{diagnosis} (NumPy warns: {warning})") from warning
