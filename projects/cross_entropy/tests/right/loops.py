"""One position after the other, in Python numbers: math.fsum and math.log1p in place of arrays."""

import math
import operator

import numpy as np


def _real(x):
    x = np.asarray(x)
    if x.dtype.kind in "iub":
        x = x.astype(np.float64)
    if x.dtype != np.float32 and x.dtype != np.float64:
        raise TypeError(f"unsupported dtype {x.dtype}")
    return x


def _check(reduction, smoothing=0.0):
    if reduction not in ("none", "sum", "mean"):
        raise ValueError(f"unknown reduction {reduction!r}")
    if not 0 <= smoothing <= 1:
        raise ValueError(f"label_smoothing {smoothing} is outside [0, 1]")


def _positions(x, targets, weight, ignore_index):
    """Return one (row, class) for each position, or None where it is ignored, and the weights as a list."""
    targets = np.asarray(targets)
    if targets.dtype.kind not in "iu":
        raise TypeError(f"class indices must be integers, got {targets.dtype}")
    if x.ndim != 2 or targets.ndim != 1 or len(targets) != len(x):
        raise ValueError(f"shapes {x.shape} and {targets.shape} do not fit")
    n_classes = x.shape[1]
    weights = [1.0] * n_classes if weight is None else np.asarray(weight, np.float64).tolist()
    if not isinstance(weights, list) or len(weights) != n_classes or isinstance(weights[0], list):
        raise ValueError("weight needs one number for each class")
    positions = []
    for row, target in zip(x, targets, strict=True):
        target = operator.index(target)
        if target == ignore_index:
            positions.append(None)
        elif 0 <= target < n_classes:
            positions.append((row.tolist(), target))
        else:
            raise ValueError(f"{target} is not one of {n_classes} classes")
    return positions, weights


def _log_probabilities(row):
    top = max(row)
    # The largest term is 1, so log1p of the others keeps the digits of a small loss.
    rest = list(row)
    rest.remove(top)
    log_sum = math.log1p(math.fsum(math.exp(x - top) for x in rest))
    return [(x - top) - log_sum for x in row]


def _total(positions, weights):
    return math.fsum(weights[p[1]] for p in positions if p is not None)


def _finish(losses, reduction, dtype, divisor):
    if reduction == "none":
        return np.array(losses, dtype)
    total = math.fsum(losses)
    return dtype.type(total / divisor() if reduction == "mean" else total)


def _q(weights, target, s):
    return [w * ((1 - s) * (c == target) + s / len(weights)) for c, w in enumerate(weights)]


def cross_entropy(logits, targets, *, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    _check(reduction, label_smoothing)
    x = _real(logits)
    positions, weights = _positions(x, targets, weight, ignore_index)
    losses = []
    for position in positions:
        if position is None:
            losses.append(0.0)
            continue
        row, target = position
        terms = zip(_q(weights, target, label_smoothing), _log_probabilities(row), strict=True)
        losses.append(-math.fsum(q * log_p for q, log_p in terms))
    return _finish(losses, reduction, x.dtype, lambda: _total(positions, weights))


def cross_entropy_grad(
    logits, targets, *, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean"
):
    _check(reduction, label_smoothing)
    x = _real(logits)
    positions, weights = _positions(x, targets, weight, ignore_index)
    divisor = _total(positions, weights) if reduction == "mean" else 1.0
    gradient = np.zeros(x.shape, x.dtype)
    for n, position in enumerate(positions):
        if position is not None:
            row, target = position
            q = _q(weights, target, label_smoothing)
            log_p = _log_probabilities(row)
            gradient[n] = [(sum(q) * math.exp(lp) - c) / divisor for lp, c in zip(log_p, q, strict=True)]
    return gradient


def nll_loss(log_probs, targets, *, weight=None, ignore_index=-100, reduction="mean"):
    _check(reduction)
    x = _real(log_probs)
    positions, weights = _positions(x, targets, weight, ignore_index)
    losses = [0.0 if p is None else -weights[p[1]] * p[0][p[1]] for p in positions]
    return _finish(losses, reduction, x.dtype, lambda: _total(positions, weights))


def _softplus(x):
    return x + math.log1p(math.exp(-x)) if x > 0 else math.log1p(math.exp(x))


def binary_cross_entropy_with_logits(logits, targets, *, weight=None, pos_weight=None, reduction="mean"):
    _check(reduction)
    x, y = _real(logits), np.asarray(targets)
    if x.shape != y.shape:
        raise ValueError(f"shapes {x.shape} and {y.shape} differ")
    w = np.broadcast_to(1.0 if weight is None else weight, x.shape)
    v = np.broadcast_to(1.0 if pos_weight is None else pos_weight, x.shape)
    losses = [
        float(wi) * (float(vi) * float(yi) * _softplus(-float(xi)) + (1 - float(yi)) * _softplus(float(xi)))
        for xi, yi, wi, vi in zip(x.flat, y.flat, w.flat, v.flat, strict=True)
    ]
    result = _finish(losses, reduction, x.dtype, lambda: len(losses))
    return result.reshape(x.shape) if reduction == "none" else result


def mse_loss(prediction, target, *, reduction="mean"):
    _check(reduction)
    p, t = _real(prediction), _real(target)
    if p.shape != t.shape:
        raise ValueError(f"shapes {p.shape} and {t.shape} differ")
    losses = [(float(a) - float(b)) ** 2 for a, b in zip(p.flat, t.flat, strict=True)]
    result = _finish(losses, reduction, np.result_type(p, t), lambda: len(losses))
    return result.reshape(p.shape) if reduction == "none" else result
