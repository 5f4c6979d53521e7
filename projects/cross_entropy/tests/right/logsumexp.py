"""logsumexp minus the logit in the input's own dtype, through np.logaddexp.reduce; softmax as exp(x - logsumexp)."""

import numpy as np

_DTYPES = {np.dtype(np.float32), np.dtype(np.float64)}


def _as_float(a):
    a = np.asarray(a)
    if a.dtype.kind in "?biu":
        a = a.astype(float)
    if a.dtype not in _DTYPES:
        raise TypeError(f"dtype {a.dtype} is not supported")
    return a


def _setup(x, t, weight, ignore_index):
    x, t = _as_float(x), np.asarray(t)
    if not np.issubdtype(t.dtype, np.integer):
        raise TypeError(f"integer targets, please, not {t.dtype}")
    if x.ndim != 2 or t.ndim != 1 or len(x) != len(t):
        raise ValueError(f"{x.shape} and {t.shape} do not fit together")
    n_classes = x.shape[1]
    w = np.ones(n_classes, x.dtype) if weight is None else np.asarray(weight).astype(x.dtype)
    if w.shape != (n_classes,):
        raise ValueError(f"{w.shape} weights for {n_classes} classes")
    ignored = t == ignore_index
    if np.any(~ignored & ((t < 0) | (t >= n_classes))):
        raise ValueError("class index out of range")
    x = x.copy()
    x[ignored] = 0
    t = np.where(ignored, 0, t).astype(int)
    return x, t, w, np.where(ignored, 0, w[t]), ~ignored


def _reduced(losses, reduction, divisor):
    match reduction:
        case "none":
            return losses
        case "sum":
            return np.sum(losses)
        case "mean":
            return np.sum(losses) / losses.dtype.type(divisor)
        case _:
            raise ValueError(f"reduction {reduction!r}")


def _smoothing(s, n_classes):
    if not 0.0 <= s <= 1.0:
        raise ValueError(f"label_smoothing {s!r}")
    return s / n_classes


def cross_entropy(logits, targets, *, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    x, t, w, w_t, keep = _setup(logits, targets, weight, ignore_index)
    share = _smoothing(label_smoothing, x.shape[1])
    lse = np.logaddexp.reduce(x, axis=1)
    hard = w_t * (lse - x[np.arange(len(x)), t])
    losses = hard
    if share:
        soft = np.where(keep, np.einsum("nc,c->n", lse[:, None] - x, w), 0)
        losses = (1 - label_smoothing) * hard + share * soft
    return _reduced(losses.astype(x.dtype), reduction, w_t.sum())


def cross_entropy_grad(
    logits, targets, *, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean"
):
    x, t, w, w_t, keep = _setup(logits, targets, weight, ignore_index)
    share = _smoothing(label_smoothing, x.shape[1])
    q = np.zeros_like(x) + share * w
    q[np.arange(len(x)), t] += (1 - label_smoothing) * w_t
    softmax = np.exp(x - np.logaddexp.reduce(x, axis=1, keepdims=True))
    grad = np.where(keep[:, None], q.sum(axis=1, keepdims=True) * softmax - q, 0)
    _reduced(np.zeros(1), reduction, 1)
    return (grad / w_t.sum() if reduction == "mean" else grad).astype(x.dtype)


def nll_loss(log_probs, targets, *, weight=None, ignore_index=-100, reduction="mean"):
    x, t, _, w_t, _ = _setup(log_probs, targets, weight, ignore_index)
    return _reduced(-w_t * x[np.arange(len(x)), t], reduction, w_t.sum())


def binary_cross_entropy_with_logits(logits, targets, *, weight=None, pos_weight=None, reduction="mean"):
    x = _as_float(logits)
    y = np.asarray(targets).astype(x.dtype)
    if y.shape != x.shape:
        raise ValueError(f"{y.shape} targets for {x.shape} logits")
    if pos_weight is None:
        losses = np.maximum(x, 0) - x * y + np.log1p(np.exp(-np.abs(x)))
    else:
        v = np.broadcast_to(np.asarray(pos_weight).astype(x.dtype), x.shape)
        losses = (1 - y) * x + (1 + (v - 1) * y) * (np.log1p(np.exp(-np.abs(x))) + np.maximum(-x, 0))
    if weight is not None:
        losses = losses * np.broadcast_to(np.asarray(weight).astype(x.dtype), x.shape)
    return _reduced(losses, reduction, losses.size)


def mse_loss(prediction, target, *, reduction="mean"):
    p, t = _as_float(prediction), _as_float(target)
    if p.shape != t.shape:
        raise ValueError(f"{p.shape} is not {t.shape}")
    return _reduced((p - t) ** 2, reduction, p.size)
