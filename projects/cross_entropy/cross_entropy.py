"""Cross-entropy and its relatives, from scratch, in NumPy.

For one position with logits x, target probabilities t (one-hot for a class index) and class weights w::

    loss   = Q log(sum_c exp(x_c)) - sum_c q_c x_c
    grad_c = Q softmax(x)_c - q_c

    q_c = w_c ((1 - label_smoothing) t_c + label_smoothing / C)        Q = sum_c q_c

The first two functions are these two lines, evaluated block by block: a block of positions is copied, shifted
by the maximum of each position and reduced while it is in cache, so the array of log-probabilities never
exists. Of a one-hot row only the one entry is touched.

Everywhere 0 log 0 = 0: a coefficient of zero contributes nothing, even against an infinite log-probability.

This file is longer than 150 lines of code: it has two kinds of targets and every option of torch's loss.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "cross_entropy",
    "cross_entropy_grad",
    "nll_loss",
    "binary_cross_entropy_with_logits",
    "mse_loss",
    "kl_divergence",
]

Array = NDArray[Any]
Loss = NDArray[Any] | np.floating[Any]

# About a second-level cache. On an AMD EPYC with 1 MiB of it, half the size costs 8 % more time at
# (4096, 4096) in float32 (twice as many calls), and twice the size gains nothing.
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
    """Return the cross-entropy between softmax(logits) and the targets.

    ``loss = -sum_c q_c log(softmax(logits)_c)`` with the target coefficients
    ``q_c = w_c ((1 - label_smoothing) t_c + label_smoothing / C)``, where t is one-hot for a class index. The
    class axis is 1, or 0 for logits of rank 1. Options and results are those of torch's ``cross_entropy``.

    Parameters
    ----------
    logits : (N, C, d1, ..., dk) or (N, C) or (C,) real
        Unnormalised scores, at least one class. float16, float32 and float64 keep their dtype (float16 is
        computed in float32); integers and bool become float64. Not modified.
    targets : logits.shape without the class axis, integer; or logits.shape, floating
        Class indices in [0, C), or the probability of each class (neither their sign nor their sum is
        checked).
    weight : (C,) real, optional
        Factor of each class, finite and not negative; the default is 1.
    ignore_index : int
        Positions with this class index have loss 0 and do not count in the mean, whatever their logits; it
        may lie inside or outside [0, C). Only for class indices.
    label_smoothing : float
        Share of each target, in [0, 1], that is spread evenly over all C classes.
    reduction : {"mean", "sum", "none"}
        "mean" divides the sum by the summed weight of the target classes that are not ignored; with
        probabilities, by the number of positions. Sums over positions are accumulated in float64.

    Returns
    -------
    scalar, or with reduction="none" an array of logits.shape without the class axis
        In the dtype of the logits. A mean over no weight (empty batch, all ignored) is NaN, the sum 0. A
        target class whose logit is -inf costs inf, other classes at -inf cost nothing; a class with
        coefficient 0 contributes 0 even where its logit is -inf (torch: NaN). A position with NaN, +inf, or
        only -inf is NaN. Nothing of this warns.

    Raises
    ------
    ValueError
        Class index out of range or weight negative (the message names the value and its index), targets or
        weight of the wrong shape or no class at all (names the shape), label_smoothing outside [0, 1],
        probabilities with an ignore_index other than the default, unknown reduction (all name the value).
    TypeError
        Complex or object logits; targets that are neither integers nor floats (bool is refused as ambiguous).

    Notes
    -----
    The error is a few roundings of max(1, loss), for logits of any size: ±1e4 is as exact as ±1. Memory
    beside the result: a block of a megabyte (two with probabilities) and as much again for its positions,
    whatever the size of the logits; and copies of logits and targets whose strides do not allow d1, ..., dk to
    be merged.

    Source: Goodfellow, Bengio and Courville, "Deep Learning", section 6.2.2.3, 2016; label smoothing:
    Szegedy et al., arXiv 1512.00567, section 7, 2015.
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
    """Return the gradient of `cross_entropy` with respect to the logits: in the plain case, softmax - one-hot.

    ``grad_c = Q softmax(logits)_c - q_c`` with q as in `cross_entropy` and ``Q = sum_c q_c``; with
    reduction="mean" divided by what the mean divides by.

    Parameters
    ----------
    logits, targets, weight, ignore_index, label_smoothing, reduction
        As in `cross_entropy`. With "none", each position gets the gradient of its own loss, which makes it
        equal to "sum".

    Returns
    -------
    array of logits.shape
        In the dtype of the logits. Exactly 0 at ignored positions, whatever their logits. For "mean" over
        positions that all have weight 0: NaN. A logit of -inf gets ``-q_c``; a position with NaN, +inf or
        only -inf is NaN.

    Raises
    ------
    ValueError, TypeError
        As `cross_entropy`.

    Notes
    -----
    Memory beside the result as in `cross_entropy`.

    Source: Goodfellow, Bengio and Courville, "Deep Learning", section 6.2.2.3, 2016.
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

    Parameters
    ----------
    log_probs : (N, C, d1, ..., dk) or (N, C) or (C,) real
        Log-probabilities (any numbers are accepted). Dtypes as the logits of `cross_entropy`. Not modified.
    targets : log_probs.shape without the class axis, integer
        Class indices in [0, C), or ignore_index.
    weight, ignore_index, reduction
        As in `cross_entropy`.

    Returns
    -------
    scalar, or with reduction="none" an array of log_probs.shape without the class axis
        In the dtype of `log_probs`. A mean over no weight is NaN, the sum 0. A target of weight 0 contributes
        0, even where its log-probability is -inf (torch: NaN).

    Raises
    ------
    ValueError
        Class index out of range, negative weight, wrong shape, unknown reduction; named as by `cross_entropy`.
    TypeError
        Complex or object log-probabilities, targets that are not integers.
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


def binary_cross_entropy_with_logits(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    pos_weight: ArrayLike | None = None,
    reduction: str = "mean",
) -> Loss:
    """Return ``w (pos_weight y softplus(-x) + (1 - y) softplus(x))``: cross-entropy of yes/no labels.

    Both terms are non-negative for y in [0, 1] and ``softplus(x) = max(x, 0) + log1p(exp(-|x|))`` neither
    overflows nor cancels, so that even a loss of 1e-300 is right to a few roundings.

    Parameters
    ----------
    logits : (...) real
        Log-odds x of the label 1. float16, float32 and float64 keep their dtype (float16 is computed in
        float32); integers and bool become float64. Not modified.
    targets : (...) real, the same shape
        y in [0, 1] (not checked); any real dtype.
    weight, pos_weight : real, broadcast to the shape of logits, optional
        Factor of each loss, and of its y = 1 part; finite and not negative. The default is 1.
    reduction : {"mean", "sum", "none"}
        "mean" divides by the number of elements (not by the weights), as torch does; the mean of nothing is
        NaN. Sums are accumulated in float64.

    Returns
    -------
    scalar, or with reduction="none" an array of logits.shape
        In the dtype of the logits. NaN logits give NaN. A logit of +inf or -inf costs inf if it is wrong and
        0 if it is right (torch: NaN).

    Raises
    ------
    ValueError
        Shapes differ (they are not broadcast; both are named), a weight does not broadcast (names its shape)
        or is negative (names the value and its index), unknown reduction (names it).
    TypeError
        Complex or object input.
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
        losses = _times(w_positive * y, np.maximum(-x, 0) + log1p_exp) + _times(
            w * (1 - y), np.maximum(x, 0) + log1p_exp
        )
        return _reduced(losses, reduction, dtype)


def mse_loss(prediction: ArrayLike, target: ArrayLike, *, reduction: str = "mean") -> Loss:
    """Return the squared error ``(prediction - target)²``, per element or reduced over all of them.

    Parameters
    ----------
    prediction, target : (...) real, the same shape
        The result has their common dtype; float16 is computed in float32, integers and bool become float64
        (so that uint8 differences do not wrap around). Not modified.
    reduction : {"mean", "sum", "none"}
        "mean" divides by the number of elements; the mean of nothing is NaN. Sums are accumulated in float64.

    Returns
    -------
    scalar, or with reduction="none" an array of that shape

    Raises
    ------
    ValueError
        Shapes differ (both are named): (N, 1) against (N,) would broadcast to (N, N) and average differences
        that mean nothing. Unknown reduction (names it).
    TypeError
        Complex or object input.
    """
    _check_reduction(reduction)
    p, t = np.asarray(prediction), np.asarray(target)
    _check_same_shape("prediction", p, "target", t)
    dtype = np.result_type(_dtypes("prediction", p)[0], _dtypes("target", t)[0])
    compute = np.result_type(dtype, np.float32)
    with np.errstate(all="ignore"):
        return _reduced(np.square(np.subtract(p, t, dtype=compute)), reduction, dtype)


def kl_divergence(p_logits: ArrayLike, q_logits: ArrayLike, *, axis: int = -1) -> Loss:
    """Return KL(p ‖ q) in nats for p = softmax(p_logits) and q = softmax(q_logits) along `axis`.

    ``KL = sum_c p_c (log p_c - log q_c)`` is the cross-entropy of q under p less the entropy of p: what is
    paid for believing q where p is true. Not symmetric. Zero, up to rounding, only where p = q.

    Parameters
    ----------
    p_logits, q_logits : (..., C, ...) real, the same shape
        The result has their common dtype; float16 is computed in float32, integers and bool become float64.
        Not modified.
    axis : int
        The class axis.

    Returns
    -------
    array of that shape without `axis` (a scalar for rank 1)
        A class with p = 0 contributes 0, whatever q is; q = 0 where p > 0 gives inf. NaN where a logit along
        the axis is NaN or +inf or all of them are -inf.

    Raises
    ------
    ValueError
        Shapes differ (both are named), or no class along the axis.
    TypeError
        Complex or object input.

    Source: Kullback and Leibler, "On Information and Sufficiency", 1951.
    """
    p, q = np.asarray(p_logits), np.asarray(q_logits)
    _check_same_shape("p_logits", p, "q_logits", q)
    dtype = np.result_type(_dtypes("p_logits", p)[0], _dtypes("q_logits", q)[0])
    compute = np.result_type(dtype, np.float32)
    if not (-p.ndim <= axis < p.ndim) or p.shape[axis] == 0:
        raise ValueError(f"there must be at least one class along axis {axis}, got shape {p.shape}")
    with np.errstate(all="ignore"):
        p, q = (a.astype(compute) - a.max(axis, keepdims=True) for a in (p, q))
        exp_p, exp_q = np.exp(p), np.exp(q)
        sum_p, sum_q = exp_p.sum(axis, keepdims=True), exp_q.sum(axis, keepdims=True)
        log_ratio = (p - q) - (np.log(sum_p) - np.log(sum_q))
        return _as(dtype, _times(exp_p / sum_p, log_ratio).sum(axis))


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


def _reduced(losses: Array, reduction: str, dtype: np.dtype[Any]) -> Loss:
    if reduction == "none":
        return _as(dtype, losses)
    return _divided(float(losses.sum(dtype=np.float64)), losses.size, reduction, dtype)


# --- arguments ----------------------------------------------------------------------------------------------


def _check(
    logits: ArrayLike,
    targets: ArrayLike,
    weight: ArrayLike | None,
    ignore_index: int,
    label_smoothing: float,
    reduction: str,
) -> _Task:
    _check_reduction(reduction)
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
    if weight is not None and np.shape(weight) != (C,):
        raise ValueError(f"weight must have shape ({C},), one per class, got {np.shape(weight)}")
    w = _weights("weight", weight, (C,), compute)
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
            raise ValueError(
                f"{_item('targets', where)} is {targets[where]}: a class index must be in [0, {C}) "
                f"or equal ignore_index={ignore_index}"
            )
        weights = weight[chunk[counted]].sum(dtype=np.float64) if weighted else np.count_nonzero(counted)
        total += float(weights)
    return total


def _weights(name: str, weight: ArrayLike | None, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    w = np.asarray(1.0 if weight is None else weight)
    _dtypes(name, w)
    bad = ~((w >= 0) & (w < np.inf))
    if bad.any():
        where = np.unravel_index(int(bad.argmax()), w.shape)
        raise ValueError(f"{_item(name, where)} is {w[where]}: a weight must be finite and not negative")
    try:
        return np.broadcast_to(w.astype(dtype), shape)
    except ValueError:
        raise ValueError(f"{name} of shape {w.shape} does not broadcast to {shape}") from None


def _item(name: str, index: tuple[Any, ...]) -> str:
    return f"{name}[{', '.join(map(str, index))}]" if index else name


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
