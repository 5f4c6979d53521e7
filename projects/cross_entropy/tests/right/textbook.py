"""The shortest stable answer: a matrix of coefficients, a matrix of log-probabilities, and sums."""

import numpy as np


def _floats(x):
    x = np.asarray(x)
    if x.dtype.kind in "biu":
        return x.astype(np.float64)
    if x.dtype not in (np.float32, np.float64):
        raise TypeError(f"expected float32 or float64, got {x.dtype}")
    return x


def _reduce(losses, reduction, total):
    if reduction == "none":
        return losses
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction must be mean, sum or none, got {reduction!r}")
    return losses.dtype.type(losses.sum() / (total if reduction == "mean" else 1))


def _prepare(x, targets, weight, ignore_index, smoothing):
    """Return the logits with ignored rows zeroed, the coefficients q, and the summed weight."""
    x, t = _floats(x), np.asarray(targets)
    if t.dtype.kind not in "iu":
        raise TypeError("targets must be integers")
    if x.ndim != 2 or t.shape != x.shape[:1]:
        raise ValueError(f"expected (N, C) and (N,), got {x.shape} and {t.shape}")
    if not 0 <= smoothing <= 1:
        raise ValueError("label_smoothing must be in [0, 1]")
    w = np.ones(x.shape[1], x.dtype) if weight is None else np.asarray(weight, x.dtype)
    if w.shape != x.shape[1:]:
        raise ValueError(f"expected one weight for each of {x.shape[1]} classes, got {w.shape}")
    keep = (t != ignore_index)[:, None]
    t = np.where(keep[:, 0], t, 0).astype(np.int64)
    if ((t < 0) | (t >= x.shape[1])).any():
        raise ValueError("a target is no class")
    one_hot = np.eye(x.shape[1], dtype=x.dtype)[t]
    q = w * ((1 - smoothing) * one_hot + smoothing / x.shape[1]) * keep
    return np.where(keep, x, 0), q, (w[t] * keep[:, 0]).sum()


def _log_softmax(x):
    x = x - x.max(axis=1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


def cross_entropy(logits, targets, *, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    x, q, total = _prepare(logits, targets, weight, ignore_index, label_smoothing)
    return _reduce(-(q * _log_softmax(x)).sum(axis=1), reduction, total)


def cross_entropy_grad(
    logits, targets, *, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean"
):
    x, q, total = _prepare(logits, targets, weight, ignore_index, label_smoothing)
    grad = q.sum(axis=1, keepdims=True) * np.exp(_log_softmax(x)) - q
    if reduction not in ("mean", "sum", "none"):
        raise ValueError("reduction must be mean, sum or none")
    return grad / total if reduction == "mean" else grad


def nll_loss(log_probs, targets, *, weight=None, ignore_index=-100, reduction="mean"):
    x, q, total = _prepare(log_probs, targets, weight, ignore_index, 0)
    return _reduce(-(q * x).sum(axis=1), reduction, total)


def binary_cross_entropy_with_logits(logits, targets, *, weight=None, pos_weight=None, reduction="mean"):
    x = _floats(logits)
    y = np.asarray(targets, x.dtype)
    if x.shape != y.shape:
        raise ValueError(f"logits {x.shape} and targets {y.shape} differ")
    w = np.broadcast_to(np.asarray(1 if weight is None else weight, x.dtype), x.shape)
    v = np.broadcast_to(np.asarray(1 if pos_weight is None else pos_weight, x.dtype), x.shape)
    losses = w * (v * y * np.logaddexp(0, -x) + (1 - y) * np.logaddexp(0, x))
    return _reduce(losses, reduction, x.size)


def mse_loss(prediction, target, *, reduction="mean"):
    p, t = _floats(prediction), _floats(target)
    if p.shape != t.shape:
        raise ValueError(f"prediction {p.shape} and target {t.shape} differ")
    return _reduce(np.square(p - t), reduction, p.size)
