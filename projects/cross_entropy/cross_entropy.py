"""Cross-entropy with its options, its gradient, and three other losses, in plain NumPy.

For a position with logits x and class t, with class weights w and label smoothing s over C classes::

    q_c    = w_c ((1 - s) [c = t] + s / C)          [c = t] is 1 for the class t, else 0
    loss   = -sum_c q_c log(softmax(x)_c)
    grad_c = Q softmax(x)_c - q_c                   Q = sum_c q_c

Without options q is a one-hot row: the loss is -log(softmax(x)_t), and its gradient is softmax minus one-hot.

The contract:

- Input is float32 or float64; integers, bool and lists count as float64, other dtypes raise TypeError. The result has the
  dtype of the first argument, whatever the dtype of targets and weights. Nothing is modified.
- Options and results are those of torch. `reduction` is "mean", "sum" (both return a number) or "none" (one loss for each
  position, or for each element).
- Logits of ±1e4 neither overflow nor warn. An error of a few roundings of the largest logit is fine.
- Shapes that do not fit, a class index that is no class, an unknown reduction and a label_smoothing outside [0, 1] raise
  ValueError.
- Not defined here: ±inf, NaN (except where it is ignored), no position at all, a mean over nothing but ignored positions.

blocked.py defines these, takes more axes and probabilities as targets, and is faster; this module is for reading.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["cross_entropy", "cross_entropy_grad", "nll_loss", "binary_cross_entropy_with_logits", "mse_loss"]

Array = NDArray[np.floating]
Loss = NDArray[np.floating] | np.floating


def cross_entropy(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Loss:
    """Return the surprise at the target classes: ``-sum_c q_c log(softmax(logits)_c)``, with q as above.

    logits : (N, C); targets : (N,) class indices from 0 to C - 1, or `ignore_index`; any type of integer, else TypeError
    weight : (C,), the factor of each class, 1 by default
    ignore_index : positions with this target have loss 0, whatever their logits (NaN, too); it may be one of the classes
    reduction : "mean" divides by the summed weight of the targets that are not ignored; smoothing does not change that

    Source: Goodfellow, Bengio and Courville, "Deep Learning", 2016, section 6.2.2.3; smoothing: arXiv 1512.00567, section 7.
    """
    x, t, counts, w = _check(logits, targets, weight, ignore_index, reduction)
    q = _coefficients(t, w, label_smoothing)
    losses = -(q * _log_softmax(x)).sum(axis=1)
    return _reduce(np.where(counts, losses, 0), w[t[counts]].sum(), reduction)


def cross_entropy_grad(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Array:
    """Differentiate `cross_entropy` by the logits: ``Q softmax(logits) - q``, for "mean" over what the mean divides by.

    The arguments are those of `cross_entropy`; the result has the shape of the logits, (N, C). Ignored positions get 0,
    whatever their logits. With "none" each position gets the gradient of its own loss, so the result is that of "sum".
    """
    x, t, counts, w = _check(logits, targets, weight, ignore_index, reduction)
    q = _coefficients(t, w, label_smoothing)
    grad = q.sum(axis=1, keepdims=True) * np.exp(_log_softmax(x)) - q
    grad = np.where(counts[:, None], grad, 0)
    return grad / w[t[counts]].sum() if reduction == "mean" else grad


def nll_loss(
    log_probs: ArrayLike,
    targets: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Loss:
    """Return ``-w_t log_probs_t``: what is left of `cross_entropy` once log_softmax is taken.

    log_probs : (N, C), any numbers: they are not normalised again. The other arguments are those of `cross_entropy`.
    """
    x, t, counts, w = _check(log_probs, targets, weight, ignore_index, reduction)
    losses = -w[t] * x[np.arange(len(t)), t]
    return _reduce(np.where(counts, losses, 0), w[t[counts]].sum(), reduction)


def binary_cross_entropy_with_logits(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    pos_weight: ArrayLike | None = None,
    reduction: str = "mean",
) -> Loss:
    """Return ``w (v y softplus(-x) + (1 - y) softplus(x))``: minus the log of the probability of each yes/no label.

    ``softplus(x) = log(1 + exp(x))``, and sigmoid(x) is the probability of yes. A label 1 that is surely right keeps the
    digits of its small loss: at x = 40 that is exp(-40) = 4e-18, not 0.

    logits : any shape; targets : the same shape, y from 0 to 1 (not checked)
    weight, pos_weight : w and v, broadcast to the shape of the logits, 1 by default
    reduction : "mean" divides by the number of elements, not by the weights
    """
    _check_reduction(reduction)
    x, y = _as_float(logits), _as_float(targets)
    _check_same_shape(x, y)
    w, v = (np.broadcast_to(1 if a is None else _as_float(a), x.shape) for a in (weight, pos_weight))
    losses = w * (v * y * _softplus(-x) + (1 - y) * _softplus(x))
    return _reduce(losses.astype(x.dtype), x.size, reduction)


def mse_loss(prediction: ArrayLike, target: ArrayLike, *, reduction: str = "mean") -> Loss:
    """Return the squared error ``(prediction - target)²``; "mean" divides by the number of elements.

    prediction, target : one shape, any. Two shapes raise ValueError, though NumPy would broadcast them: (N, 1) minus (N,)
    is (N, N). Of two dtypes, the result has the wider one.
    """
    _check_reduction(reduction)
    p, t = _as_float(prediction), _as_float(target)
    _check_same_shape(p, t)
    return _reduce(np.square(p - t), p.size, reduction)


def _check(
    logits: ArrayLike, targets: ArrayLike, weight: ArrayLike | None, ignore_index: int, reduction: str
) -> tuple[Array, NDArray[np.integer], NDArray[np.bool_], Array]:
    """Return the logits, the class of each position (0 where it is ignored), which positions count, and the weights."""
    _check_reduction(reduction)
    x, t = _as_float(logits), np.asarray(targets)
    if x.ndim != 2 or t.shape != x.shape[:1]:
        raise ValueError(f"expected logits (N, C) and targets (N,), got {x.shape} and {t.shape}")
    if t.dtype.kind not in "iu":
        raise TypeError(f"targets must be integers, got dtype {t.dtype}")
    n_classes, counts = x.shape[1], t != ignore_index
    bad = counts & ((t < 0) | (t >= n_classes))
    if bad.any():
        raise ValueError(f"target {t[bad][0]} is neither in [0, {n_classes}) nor ignore_index={ignore_index}")
    w = np.ones(n_classes, x.dtype) if weight is None else _as_float(weight).astype(x.dtype)
    if w.shape != (n_classes,):
        raise ValueError(f"weight must have shape ({n_classes},), got {w.shape}")
    return x, np.where(counts, t, 0), counts, w


def _coefficients(t: NDArray[np.integer], w: Array, label_smoothing: float) -> Array:
    """Return q, (N, C): how much each class counts at each position."""
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing must be in [0, 1], got {label_smoothing}")
    q = np.full((len(t), len(w)), label_smoothing / len(w), w.dtype)
    q[np.arange(len(t)), t] += 1 - label_smoothing
    return q * w


def _log_softmax(x: Array) -> Array:
    z = x - x.max(axis=1, keepdims=True)  # the largest is 0 now: exp cannot overflow, the sum is at least 1
    return z - np.log(np.exp(z).sum(axis=1, keepdims=True))


def _softplus(x: Array) -> Array:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))  # exp of what is not positive: it cannot overflow


def _reduce(losses: Array, divisor: int | np.floating, reduction: str) -> Loss:
    if reduction == "none":
        return losses
    return losses.sum() / divisor if reduction == "mean" else losses.sum()


def _check_reduction(reduction: str) -> None:
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")


def _check_same_shape(a: Array, b: Array) -> None:
    if a.shape != b.shape:
        raise ValueError(f"expected one shape, got {a.shape} and {b.shape}")


def _as_float(x: ArrayLike) -> Array:
    """Return `x` as an array of float32 or float64."""
    x = np.asarray(x)
    if x.dtype.kind in "biu":
        return x.astype(np.float64)
    if x.dtype not in (np.float32, np.float64):
        raise TypeError(f"expected float32, float64 or integers, got dtype {x.dtype}")
    return x
