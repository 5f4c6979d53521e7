"""Cross-entropy, its gradient and nll_loss for any rank, dtype and kind of target, in one block of memory.

The fast twin of cross_entropy.py. For a position with logits x, target probabilities t (one-hot for a class index), class
weights w and label smoothing s over C classes::

    q_c    = w_c ((1 - s) t_c + s / C)              Q = sum_c q_c
    loss   = Q log(sum_c exp(x_c)) - sum_c q_c x_c
    grad_c = Q softmax(x)_c - q_c

The contract, for every function:

- The class axis is 1: logits are (N, C, d1, ..., dk) or (N, C), or (C,) for a single position. The positions are the shape
  without the class axis: (N, d1, ..., dk), (N,) or (). An empty batch is fine, no class at all is a ValueError.
- float16, float32 and float64 keep their dtype (float16 is computed in float32); integers and bool become float64. Complex
  and object arrays raise TypeError, which names logits (in nll_loss, too) or weight. Nothing is modified.
- Options and results are those of torch's ``cross_entropy``. A `weight` is finite and not negative. Sums over positions are
  accumulated in float64.
- A mean over no weight (an empty batch, all ignored) is NaN, the sum 0. 0 log 0 = 0: a coefficient of zero contributes
  nothing, even where the logit is -inf (torch: NaN). A position with NaN, +inf or nothing but -inf is NaN. Nothing warns.
- ValueError names what is wrong: a class index out of range or a negative weight by its value and its index, targets or
  weight of a wrong shape by that shape, an unknown reduction, a label_smoothing outside [0, 1], and an ignore_index with
  probabilities by its value.
- The error is a few roundings of max(1, loss), for logits of any size: ±1e4 is as exact as ±1.
- Memory beside the result: a block of a megabyte (two with probabilities) and at most two more for its positions, whatever
  the size of the logits (in nll_loss: up to five numbers for each position); and copies of logits and targets whose strides
  do not allow d1, ..., dk to be merged.

How it is fast: a block of positions is copied, shifted by the maximum of each position and reduced while it is in cache, so
the array of log-probabilities never exists. Of a one-hot row only the one entry is touched.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["cross_entropy", "cross_entropy_grad", "nll_loss"]

Array = NDArray[Any]
Loss = NDArray[Any] | np.floating[Any]

# About a second-level cache. On an AMD EPYC with 1 MiB of it, half the size costs 8 % more time at (4096, 4096) in float32
# (twice as many calls), and twice the size gains nothing.
_BLOCK_BYTES = 1 << 20


def cross_entropy(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Loss:
    """Return the surprise at the targets: ``-sum_c q_c log(softmax(logits)_c)``.

    targets : the shape of the positions, integers, class indices; or the shape of the logits, floating, the probability of
        each class (neither their sign nor their sum is checked). Bool is ambiguous: TypeError.
    weight : (C,), the factor of each class
    ignore_index : a position with this class index has loss 0 and does not count in the mean, whatever its logits; it may
        be one of the classes. Only for class indices.
    label_smoothing : the share of each target that is spread evenly over all C classes
    reduction : "mean" divides by the summed weight of the target classes that are not ignored; with probabilities, by the
        number of positions. "none" gives one loss per position.

    A target class at -inf costs inf, other classes at -inf cost nothing.

    Source: Szegedy et al., arXiv 1512.00567, section 7 (label smoothing).
    """
    task = _check(logits, targets, weight, ignore_index, label_smoothing, reduction)
    N, _, D = task.logits.shape
    losses = np.empty((N, D) if reduction == "none" else (0, 0), task.dtype)
    total = 0.0
    with np.errstate(all="ignore"):
        for here, z, q in _blocks(task, task.weight):
            q_dot_z = q.dot(z)
            np.exp(z, out=z)
            loss = q.total * np.log(_sum(z, q.class_axis)) - q_dot_z
            loss[q.ignored] = 0.0
            if reduction == "none":
                losses[here] = loss.reshape(losses[here].shape)
            else:
                total += float(loss.sum(dtype=np.float64))
        if reduction == "none":
            return _as(task.dtype, losses.reshape(task.loss_shape))
        return _divided(total, task.counted_weight, reduction, task.dtype)


def cross_entropy_grad(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Array:
    """Differentiate `cross_entropy` by the logits: ``Q softmax(logits)_c - q_c``, in the shape of the logits.

    With "mean", divided by what the mean divides by: NaN where that is the weight 0 of positions that are not ignored. With
    "none" each position gets the gradient of its own loss, as with "sum". Ignored positions get exactly 0, whatever their
    logits; a logit of -inf gets ``-q_c``.
    """
    task = _check(logits, targets, weight, ignore_index, label_smoothing, reduction)
    grad = np.empty(task.logits.shape, task.dtype)
    # The gradient is linear in the weights: the mean's division goes there, not into a pass over the output.
    divisor = (task.counted_weight or math.nan) if reduction == "mean" else 1.0
    with np.errstate(all="ignore"):
        for here, z, q in _blocks(task, task.weight / task.weight.dtype.type(divisor)):
            np.exp(z, out=z)
            z *= np.expand_dims(q.total / _sum(z, q.class_axis), q.class_axis)
            q.subtract_from(z)
            block = _view(grad, here, q.class_axis)
            block[...] = z.reshape(block.shape)
    return grad.reshape(np.shape(logits))


def nll_loss(
    log_probs: ArrayLike,
    targets: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Loss:
    """Return ``-w_t log_probs_t`` for the target class t of each position: cross-entropy after log_softmax.

    targets : the shape of the positions, integers (else TypeError). The log-probabilities may be any numbers.
    """
    if np.asarray(targets).dtype.kind == "f":
        raise TypeError(
            "targets must be integer class indices; for probabilities use cross_entropy or kl_divergence"
        )
    task = _check(log_probs, targets, weight, ignore_index, 0.0, reduction)
    counted = task.targets != ignore_index
    index = np.where(counted, task.targets, 0)
    picked = np.take_along_axis(task.logits, index[:, None, :].astype(np.intp), axis=1)[:, 0, :]
    with np.errstate(all="ignore"):
        losses = -_times(np.where(counted, task.weight[index], 0), picked)
        if reduction == "none":
            return _as(task.dtype, losses.reshape(task.loss_shape))
        return _divided(float(losses.sum(dtype=np.float64)), task.counted_weight, reduction, task.dtype)


class _Task(NamedTuple):
    """Checked arguments, every rank brought to (N, C, D)."""

    logits: Array  # (N, C, D), in their own dtype
    targets: Array  # (N, D) class indices, or (N, C, D) probabilities
    weight: Array  # (C,), in the dtype of the computation
    ignore_index: int
    label_smoothing: float
    counted_weight: float  # what the mean divides by
    loss_shape: tuple[int, ...]
    dtype: np.dtype[Any]  # of the result


class _Coefficients(NamedTuple):
    """q of one block: what is `spread` over the classes, and what the target class `own`s besides."""

    class_axis: int
    spread: Array | None  # like the block, or broadcast to it
    own: Array | None  # (positions,)
    at: tuple[Array, ...]  # where `own` stands in the block
    total: Array  # (positions,), Q = sum_c q_c
    ignored: Array | slice  # positions without loss

    def dot(self, z: Array) -> Array:
        """Return sum_c q_c z_c."""
        own = 0.0 if self.own is None else _times(self.own, z[self.at])
        return np.asarray(own if self.spread is None else own + _dot(self.spread, z, self.class_axis))

    def subtract_from(self, z: Array) -> None:
        """Do z -= q, and set the ignored positions to 0."""
        if self.spread is not None:
            z -= self.spread
        if self.own is not None:
            z[self.at] -= self.own
        z[(slice(None), self.ignored) if self.class_axis == 0 else self.ignored] = 0.0


def _blocks(task: _Task, weight: Array) -> Iterator[tuple[tuple[slice, slice], Array, _Coefficients]]:
    """Yield where in (N, D) a block stands, its logits less each position's maximum, and its coefficients.

    A block is a matrix (positions, C) where C is large, otherwise (C, positions): NumPy reduces a short axis
    slowly. All blocks share their memory, as fresh memory would cost a page fault for every 4 KiB.
    """
    N, C, D = task.logits.shape
    rows_are_contiguous = task.logits.strides[1] == task.logits.itemsize
    class_axis = 1 if C >= (64 if rows_are_contiguous else 512) else 0
    positions = max(1, _BLOCK_BYTES // (max(C, 8) * weight.itemsize))  # 8: so much the position vectors take
    n_step, d_step = max(1, min(N, positions // max(1, D))), max(1, min(D, positions))
    z_buffer = np.empty(C * n_step * d_step, weight.dtype)
    q_buffer = np.empty(z_buffer.size if task.targets.ndim == 3 else 0, weight.dtype)
    for n in range(0, N, n_step):
        for d in range(0, D, d_step):
            here = slice(n, n + n_step), slice(d, d + d_step)
            block = _view(task.logits, here, class_axis)
            z = _matrix(z_buffer, block, class_axis)
            if class_axis == 1 and rows_are_contiguous:  # two passes instead of three
                np.subtract(
                    block, block.max(2, keepdims=True), out=z.reshape(block.shape), dtype=weight.dtype
                )
            else:
                np.copyto(z.reshape(block.shape), block)
                z -= z.max(class_axis, keepdims=True)
            yield here, z, _coefficients(task, weight, here, class_axis, q_buffer)


def _view(a: Array, here: tuple[slice, slice], class_axis: int) -> Array:
    """Return ``a[n, :, d]`` of an (N, C, D) array with its class axis first (0) or last (1)."""
    return a[here[0], :, here[1]].transpose((1, 0, 2) if class_axis == 0 else (0, 2, 1))


def _matrix(buffer: Array, block: Array, class_axis: int) -> Array:
    """Return the start of `buffer` as a matrix for such a block, n and d merged."""
    shape = (len(block), -1) if class_axis == 0 else (-1, block.shape[2])
    return buffer[: block.size].reshape(shape)


def _coefficients(
    task: _Task, weight: Array, here: tuple[slice, slice], class_axis: int, buffer: Array
) -> _Coefficients:
    keep, share = 1 - task.label_smoothing, task.label_smoothing / len(weight)
    class_weight = weight[:, None] if class_axis == 0 else weight
    if task.targets.ndim == 3:
        block = _view(task.targets, here, class_axis)
        q = _matrix(buffer, block, class_axis)
        np.multiply(block, keep, out=q.reshape(block.shape), dtype=weight.dtype)
        q += share
        q *= class_weight
        return _Coefficients(class_axis, q, None, (), _sum(q, class_axis), slice(0))
    index = task.targets[here].ravel()
    ignored = index == task.ignore_index
    index = np.where(ignored, 0, index).astype(np.intp, copy=False)
    own = np.where(ignored, 0, weight[index] * keep)
    positions = np.arange(len(index))
    at = (index, positions) if class_axis == 0 else (positions, index)
    if share == 0:
        return _Coefficients(class_axis, None, own, at, own, ignored)
    spread = np.broadcast_to(
        class_weight * share, (len(weight), len(index)) if class_axis == 0 else (len(index), len(weight))
    )
    return _Coefficients(class_axis, spread, own, at, own + weight.sum() * share, ignored)


def _sum(a: Array, axis: int) -> Array:
    """Sum a matrix over `axis` as a product with ones, which BLAS does faster than NumPy's sum."""
    ones = np.ones(a.shape[axis], a.dtype)
    return ones @ a if axis == 0 else a @ ones


def _dot(q: Array, z: Array, axis: int) -> Array:
    """Return the sum of q·z over `axis` without an array of products, with 0 · inf = 0."""
    dot: Array = np.einsum("cp,cp->p" if axis == 0 else "pc,pc->p", q, z)
    return _times(q, z).sum(axis) if np.isnan(dot).any() else dot


def _times(coefficient: Array, value: Array) -> Array:
    """Multiply, with 0 · inf = 0."""
    return np.where(coefficient == 0, 0, coefficient * value)


def _as(dtype: np.dtype[Any], losses: Array) -> Loss:
    """Cast to the dtype of the result; rank 0 becomes a scalar."""
    return losses.astype(dtype, copy=False)[()]


def _divided(total: float, counted_weight: float, reduction: str, dtype: np.dtype[Any]) -> Loss:
    if reduction == "mean":
        total = total / counted_weight if counted_weight > 0 else math.nan
    return _as(dtype, np.asarray(total))


# --- arguments ----------------------------------------------------------------------------------------------


def _check(
    logits: ArrayLike,
    targets: ArrayLike,
    weight: ArrayLike | None,
    ignore_index: int,
    label_smoothing: float,
    reduction: str,
) -> _Task:
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing must be in [0, 1], got {label_smoothing}")
    x, t = np.asarray(logits), np.asarray(targets)
    dtype, compute = _dtypes("logits", x)
    N, C, *rest = x.shape if x.ndim > 1 else (1, *x.shape, *([] if x.ndim else [0]))
    if C == 0:
        raise ValueError(f"logits must have a class axis with at least one class, got shape {x.shape}")
    D = math.prod(rest)
    loss_shape = (N, *rest) if x.ndim > 1 else ()
    if t.dtype.kind not in "iuf":
        raise TypeError(f"targets must be integer class indices or floating probabilities, got {t.dtype}")
    is_index = t.dtype.kind != "f"
    if t.shape != (loss_shape if is_index else x.shape):
        raise ValueError(
            f"logits {x.shape} take class indices of shape {loss_shape} or floating probabilities of shape "
            f"{x.shape}, got {t.dtype} targets of shape {t.shape}"
        )
    if not is_index and ignore_index != -100:
        raise ValueError(f"ignore_index={ignore_index} has no meaning for probabilities")
    w = _weights(weight, C, compute)
    counted_weight = float(N * D)
    if is_index:
        counted_weight = _counted_weight(t, w, ignore_index, weighted=weight is not None)
    t = t.reshape((N, D) if is_index else (N, C, D))
    return _Task(x.reshape(N, C, D), t, w, ignore_index, label_smoothing, counted_weight, loss_shape, dtype)


def _counted_weight(targets: Array, weight: Array, ignore_index: int, *, weighted: bool) -> float:
    """Sum the weights of the targets that count, and refuse a target that is no class."""
    C, flat, total = len(weight), targets.ravel(), 0.0
    step = _BLOCK_BYTES // 8
    for start in range(0, flat.size, step):
        chunk = flat[start : start + step]
        counted = chunk != ignore_index
        bad = counted & ((chunk < 0) | (chunk >= C))
        if bad.any():
            where = np.unravel_index(start + int(bad.argmax()), targets.shape)
            name = f"targets[{', '.join(map(str, where))}]" if where else "targets"
            raise ValueError(
                f"{name} is {targets[where]}: a class index must be in [0, {C}) or equal ignore_index={ignore_index}"
            )
        weights = weight[chunk[counted]].sum(dtype=np.float64) if weighted else np.count_nonzero(counted)
        total += float(weights)
    return total


def _weights(weight: ArrayLike | None, n_classes: int, dtype: np.dtype[Any]) -> Array:
    """Return the class weights in the dtype of the computation, and refuse what is none."""
    w = np.asarray(np.ones(n_classes) if weight is None else weight)
    if w.shape != (n_classes,):
        raise ValueError(f"weight must have shape ({n_classes},), one per class, got {w.shape}")
    _dtypes("weight", w)
    bad = ~((w >= 0) & (w < np.inf))
    if bad.any():
        c = int(bad.argmax())
        raise ValueError(f"weight[{c}] is {w[c]}: a weight must be finite and not negative")
    return w.astype(dtype, copy=False)


def _dtypes(name: str, a: Array) -> tuple[np.dtype[Any], np.dtype[Any]]:
    """Return the dtypes of the result and of the computation."""
    if a.dtype.kind not in "biuf" or a.itemsize > 8:
        raise TypeError(f"{name} must be real numbers of at most 64 bits, got {a.dtype}")
    dtype = np.dtype(f"f{a.itemsize}" if a.dtype.kind == "f" else "f8")
    return dtype, np.result_type(dtype, np.float32)
