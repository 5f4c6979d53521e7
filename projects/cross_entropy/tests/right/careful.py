"""Only the positions that count are gathered, and every sum is taken in float64; log-sum-exp instead of log-softmax."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

REDUCTIONS = frozenset({"mean", "sum", "none"})


def as_real(name: str, value) -> np.ndarray:
    array = np.array(value)
    if array.dtype == np.bool_ or np.issubdtype(array.dtype, np.integer):
        array = array.astype(np.float64)
    if array.dtype.type not in (np.float32, np.float64):
        raise TypeError(f"{name} must be float32, float64, integer or bool, not {array.dtype}")
    return array


def check_reduction(reduction) -> None:
    if not isinstance(reduction, str) or reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {sorted(REDUCTIONS)}, not {reduction!r}")


def logsumexp(x: np.ndarray) -> np.ndarray:
    top = np.max(x, axis=-1)
    return top + np.log(np.einsum("nc->n", np.exp(x - top[:, np.newaxis])))


@dataclass
class Problem:
    """The positions that count (`rows`), their logits in float64 and classes, and the weight of every class."""

    dtype: np.dtype
    shape: tuple[int, int]
    rows: np.ndarray
    x: np.ndarray
    classes: np.ndarray
    weight: np.ndarray

    @classmethod
    def read(cls, name, logits, targets, weight, ignore_index) -> Problem:
        logits = as_real(name, logits)
        if logits.ndim != 2:
            raise ValueError(f"{name} must be (N, C), not of shape {logits.shape}")
        n, n_classes = logits.shape
        targets = np.array(targets)
        if not np.issubdtype(targets.dtype, np.integer):
            raise TypeError(f"targets must be integers, not {targets.dtype}")
        if targets.shape != (n,):
            raise ValueError(f"targets must be ({n},), not {targets.shape}")
        weight = np.ones(n_classes) if weight is None else as_real("weight", weight).astype(np.float64)
        if weight.shape != (n_classes,):
            raise ValueError(f"weight must be ({n_classes},), not {weight.shape}")
        rows = np.flatnonzero(targets != ignore_index)
        classes = targets[rows]
        for row, c in zip(rows, classes, strict=True):
            if not 0 <= c < n_classes:
                raise ValueError(f"targets[{row}] is {c}, which is none of the {n_classes} classes")
        return cls(
            logits.dtype, logits.shape, rows, logits[rows].astype(np.float64), classes.astype(np.intp), weight
        )

    @property
    def target_weight(self) -> np.ndarray:
        return self.weight[self.classes]

    def reduce(self, losses: np.ndarray, reduction: str):
        if reduction == "none":
            out = np.zeros(self.shape[0], self.dtype)
            out[self.rows] = losses
            return out
        total = losses.sum()
        if reduction == "mean":
            total = total / self.target_weight.sum()
        return self.dtype.type(total)


def check_smoothing(s: float) -> None:
    if not (s >= 0 and s <= 1):
        raise ValueError(f"label_smoothing must be between 0 and 1, not {s}")


def cross_entropy(logits, targets, *, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    check_reduction(reduction)
    check_smoothing(label_smoothing)
    problem = Problem.read("logits", logits, targets, weight, ignore_index)
    lse = logsumexp(problem.x)
    picked = np.take_along_axis(problem.x, problem.classes[:, np.newaxis], axis=1)[:, 0]
    losses = (1 - label_smoothing) * problem.target_weight * (lse - picked)
    if label_smoothing:
        losses += label_smoothing / problem.shape[1] * ((lse[:, np.newaxis] - problem.x) @ problem.weight)
    return problem.reduce(losses, reduction)


def cross_entropy_grad(
    logits, targets, *, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean"
):
    check_reduction(reduction)
    check_smoothing(label_smoothing)
    problem = Problem.read("logits", logits, targets, weight, ignore_index)
    n_classes = problem.shape[1]
    probability = np.exp(problem.x - logsumexp(problem.x)[:, np.newaxis])
    share = label_smoothing / n_classes * problem.weight
    hard = (1 - label_smoothing) * problem.target_weight
    gradient = (hard + share.sum())[:, np.newaxis] * probability - share
    np.subtract.at(gradient, (np.arange(len(hard)), problem.classes), hard)
    if reduction == "mean":
        gradient /= problem.target_weight.sum()
    out = np.zeros(problem.shape, problem.dtype)
    out[problem.rows] = gradient
    return out


def nll_loss(log_probs, targets, *, weight=None, ignore_index=-100, reduction="mean"):
    check_reduction(reduction)
    problem = Problem.read("log_probs", log_probs, targets, weight, ignore_index)
    picked = problem.x[np.arange(len(problem.rows)), problem.classes]
    return problem.reduce(-problem.target_weight * picked, reduction)


def binary_cross_entropy_with_logits(logits, targets, *, weight=None, pos_weight=None, reduction="mean"):
    check_reduction(reduction)
    logits = as_real("logits", logits)
    x, y = logits.astype(np.float64), np.array(targets).astype(np.float64)
    if x.shape != y.shape:
        raise ValueError(f"targets must have the shape of the logits, {x.shape}, not {y.shape}")

    def factor(name, value):
        if value is None:
            return np.ones(x.shape)
        try:
            return np.broadcast_to(as_real(name, value).astype(np.float64), x.shape)
        except ValueError:
            raise ValueError(f"{name} of shape {np.shape(value)} does not fit {x.shape}") from None

    small = np.log1p(np.exp(-np.abs(x)))
    yes, no = small + np.maximum(-x, 0), small + np.maximum(x, 0)
    losses = factor("weight", weight) * (factor("pos_weight", pos_weight) * y * yes + (1 - y) * no)
    if reduction == "none":
        return losses.astype(logits.dtype)
    return logits.dtype.type(losses.mean() if reduction == "mean" else losses.sum())


def mse_loss(prediction, target, *, reduction="mean"):
    check_reduction(reduction)
    prediction, target = as_real("prediction", prediction), as_real("target", target)
    if prediction.shape != target.shape:
        raise ValueError(
            f"prediction and target must have one shape, not {prediction.shape} and {target.shape}"
        )
    difference = prediction - target
    if reduction == "none":
        return difference**2
    flat = difference.ravel()
    return flat.dtype.type(flat @ flat / (flat.size if reduction == "mean" else 1))
