"""SmoothQuant: move outliers from the activations into the weights, which can bear them."""

from __future__ import annotations

from torch import Tensor

__all__ = ["smooth"]


def smooth(activation_max: Tensor, weight: Tensor, *, alpha: float = 0.5) -> Tensor:
    """Return factors s, (in,) float32 and positive, for ``(x / s) @ (weight · s)ᵀ = x @ weightᵀ``.

    ``s[j] = activation_max[j]^alpha / max_n |weight[n, j]|^(1 - alpha)``: alpha 0 leaves the trouble in the activations,
    1 moves all of it. In a network 1/s goes into the layer before (a LayerNorm's weight).

    activation_max : (in,), the largest magnitude of each input channel; weight : (out, in). A channel, or a column of
    weight, that is all zero gets s = 1.

    Source: Xiao et al. 2023, arXiv 2211.10438, eq. 4.
    """
    columns = weight.detach().abs().amax(0).float()
    factors = activation_max.float() ** alpha / columns ** (1 - alpha)
    return factors.where((activation_max > 0) & (columns > 0), 1.0)
