"""The KL divergence of two softmaxes: what it costs to believe one distribution where the other is true."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["kl_divergence"]


def kl_divergence(
    p_logits: ArrayLike, q_logits: ArrayLike, *, axis: int = -1
) -> NDArray[Any] | np.floating[Any]:
    """Return ``KL(p ‖ q) = sum_c p_c (log p_c - log q_c)`` in nats, p and q being the softmax of the logits along `axis`.

    It is the cross-entropy of q under p less the entropy of p. It is not symmetric, and zero only where p = q. Where the
    logits differ by a small d only, the result is about d², with an error of a few roundings times d.

    p_logits, q_logits : one shape, with at least one class along `axis`, else ValueError, which names the shapes. The result
        has that shape without `axis`, and the wider dtype of the two: float16 is computed in float32, integers and bool
        become float64, other dtypes raise TypeError, which names the argument. Nothing is modified, nothing warns.

    A class with p = 0 contributes 0, whatever q is; q = 0 where p > 0 gives inf. NaN where a logit along the axis is NaN or
    +inf, or all of them are -inf.

    Source: Kullback and Leibler, "On Information and Sufficiency", 1951.
    """
    p, q = np.asarray(p_logits), np.asarray(q_logits)
    if p.shape != q.shape:
        raise ValueError(f"p_logits and q_logits must have the same shape, got {p.shape} and {q.shape}")
    dtype = np.result_type(_dtype("p_logits", p), _dtype("q_logits", q))
    if not (-p.ndim <= axis < p.ndim) or p.shape[axis] == 0:
        raise ValueError(f"there must be at least one class along axis {axis}, got shape {p.shape}")
    compute = np.result_type(dtype, np.float32)
    with np.errstate(all="ignore"):
        p, q = (a.astype(compute) - a.max(axis, keepdims=True) for a in (p, q))
        exp_p, exp_q = np.exp(p), np.exp(q)
        sum_p, sum_q = exp_p.sum(axis, keepdims=True), exp_q.sum(axis, keepdims=True)
        log_ratio = (p - q) - (np.log(sum_p) - np.log(sum_q))
        p, q = exp_p / sum_p, exp_q / sum_q
        # q - p adds up to 0, and makes each term positive: nothing cancels. Near p = q, q - p is p·expm1(-log_ratio).
        near = p * (log_ratio + np.expm1(-log_ratio))
        far = np.where(p == 0, 0, p * log_ratio) - p + q  # 0 · inf is 0 here
        terms = np.where(np.abs(log_ratio) < 0.5, near, far)
        return terms.sum(axis).astype(dtype, copy=False)[()]


def _dtype(name: str, a: NDArray[Any]) -> np.dtype[Any]:
    """Return the dtype of the result."""
    if a.dtype.kind not in "biuf" or a.itemsize > 8:
        raise TypeError(f"{name} must be real numbers of at most 64 bits, got {a.dtype}")
    return np.dtype(f"f{a.itemsize}" if a.dtype.kind == "f" else "f8")
