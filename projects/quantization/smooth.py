"""SmoothQuant: move outliers from the activations into the weights, which can bear them."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["smooth"]


def smooth(activation_max: Tensor, weight: Tensor, *, alpha: float = 0.5) -> Tensor:
    """Return factors s, (in,) float32 and positive, for ``(x / s) @ (weight · s)ᵀ = x @ weightᵀ``.

    ``s[j] = activation_max[j]^alpha / max_n |weight[n, j]|^(1 - alpha)``: alpha 0 leaves the trouble in the activations,
    1 moves all of it. In a network 1/s goes into the layer before (a LayerNorm's weight).

    activation_max : (in,), the largest magnitude of each input channel; weight : (out, in). A channel, or a column of
    weight, that is all zero gets s = 1. ValueError for other shapes, alpha outside 0 to 1, and maxima that are negative,
    NaN or inf.

    Source: Xiao et al. 2023, arXiv 2211.10438, eq. 4.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be 0 to 1, got {alpha}")
    if weight.ndim != 2 or activation_max.shape != weight.shape[1:]:
        raise ValueError(f"(in,) and (out, in) are needed, got {activation_max.shape} and {weight.shape}")
    if not ((activation_max >= 0) & (activation_max < torch.inf)).all() or not weight.isfinite().all():
        raise ValueError("activation_max must be finite magnitudes, and weight finite")
    columns = weight.detach().abs().amax(0).float()
    factors = activation_max.float() ** alpha / columns ** (1 - alpha)
    return factors.where((activation_max > 0) & (columns > 0), 1.0)
