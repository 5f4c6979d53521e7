"""binary_cross_entropy_with_logits and mse_loss, right in the last corner: half precision, infinity, nothing, bad weights.

The formulas are those of cross_entropy.py. The contract that this module adds:

- float16, float32 and float64 keep their dtype (float16 is computed in float32); integers and bool become float64, so that
  uint8 differences do not wrap around. Complex and object arrays raise TypeError. Nothing is modified.
- `reduction` is "mean", "sum" or "none". Sums are accumulated in float64. The mean of nothing is NaN. Nothing warns.
- An error names the argument and what is wrong with it: two shapes that differ, a weight whose shape does not broadcast, a
  negative weight by its value and its index, an unknown reduction, a dtype.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["binary_cross_entropy_with_logits", "mse_loss"]

Array = NDArray[Any]
Loss = NDArray[Any] | np.floating[Any]


def binary_cross_entropy_with_logits(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    pos_weight: ArrayLike | None = None,
    reduction: str = "mean",
) -> Loss:
    """Return ``w (v y softplus(-x) + (1 - y) softplus(x))`` for logits x and labels y in [0, 1], which is not checked.

    Both terms are non-negative, so nothing cancels: even a loss of 1e-300 is right to a few roundings. A logit of +inf or
    -inf costs inf if it is wrong and 0 if it is right (torch: NaN). NaN logits give NaN.

    targets : the shape of the logits, any real dtype; the result has the dtype of the logits
    weight, pos_weight : w and v, finite and not negative, broadcast to the shape of the logits, 1 by default
    reduction : "mean" divides by the number of elements, not by the weights
    """
    _check_reduction(reduction)
    x, y = np.asarray(logits), np.asarray(targets)
    _check_same_shape("logits", x, "targets", y)
    dtype, compute = _dtypes("logits", x)
    _dtypes("targets", y)
    x, y = x.astype(compute), y.astype(compute)
    w = _weights("weight", weight, x.shape, compute)
    w_positive = w * _weights("pos_weight", pos_weight, x.shape, compute)
    with np.errstate(all="ignore"):
        log1p_exp = np.log1p(np.exp(-np.abs(x)))
        positive = _times(w_positive * y, np.maximum(-x, 0) + log1p_exp)
        negative = _times(w * (1 - y), np.maximum(x, 0) + log1p_exp)
        return _reduced(positive + negative, reduction, dtype)


def mse_loss(prediction: ArrayLike, target: ArrayLike, *, reduction: str = "mean") -> Loss:
    """Return the squared error ``(prediction - target)²`` in the wider dtype of the two, which have one shape."""
    _check_reduction(reduction)
    p, t = np.asarray(prediction), np.asarray(target)
    _check_same_shape("prediction", p, "target", t)
    dtype = np.result_type(_dtypes("prediction", p)[0], _dtypes("target", t)[0])
    compute = np.result_type(dtype, np.float32)
    with np.errstate(all="ignore"):
        return _reduced(np.square(np.subtract(p, t, dtype=compute)), reduction, dtype)


def _reduced(losses: Array, reduction: str, dtype: np.dtype[Any]) -> Loss:
    if reduction == "none":
        return losses.astype(dtype, copy=False)[()]
    total = float(losses.sum(dtype=np.float64))
    if reduction == "mean":
        total = total / losses.size if losses.size else math.nan
    return np.asarray(total).astype(dtype)[()]


def _times(coefficient: Array, value: Array) -> Array:
    """Multiply, with 0 · inf = 0."""
    return np.where(coefficient == 0, 0, coefficient * value)


# --- arguments --------------------------------------------------------------------------------------------------


def _weights(name: str, weight: ArrayLike | None, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    w = np.asarray(1.0 if weight is None else weight)
    _dtypes(name, w)
    bad = ~((w >= 0) & (w < np.inf))
    if bad.any():
        where = np.unravel_index(int(bad.argmax()), w.shape)
        item = f"{name}[{', '.join(map(str, where))}]" if where else name
        raise ValueError(f"{item} is {w[where]}: a weight must be finite and not negative")
    try:
        return np.broadcast_to(w.astype(dtype), shape)
    except ValueError:
        raise ValueError(f"{name} of shape {w.shape} does not broadcast to {shape}") from None


def _check_reduction(reduction: str) -> None:
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")


def _check_same_shape(name: str, a: Array, other_name: str, b: Array) -> None:
    if a.shape != b.shape:
        raise ValueError(f"{name} and {other_name} must have the same shape, got {a.shape} and {b.shape}")


def _dtypes(name: str, a: Array) -> tuple[np.dtype[Any], np.dtype[Any]]:
    """Return the dtypes of the result and of the computation."""
    if a.dtype.kind not in "biuf" or a.itemsize > 8:
        raise TypeError(f"{name} must be real numbers of at most 64 bits, got {a.dtype}")
    dtype = np.dtype(f"f{a.itemsize}" if a.dtype.kind == "f" else "f8")
    return dtype, np.result_type(dtype, np.float32)
