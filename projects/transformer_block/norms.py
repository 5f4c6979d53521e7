"""RMS norm, and layer norm as today's models use it: half types, no bias, an error for a wrong shape.

Both are written without torch's own norms. They accept float16, bfloat16, float32 and float64 and give back the dtype they got; the
half types are computed in float32 and rounded once, after weight and bias. NaN and inf propagate within their token; so do
features beyond 1e19, whose squares overflow float32: they give NaN. An empty batch is fine. ValueError for another last axis
(the message holds d_model and the shape of x) and for an eps below 0, TypeError for another dtype.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["LayerNorm", "RMSNorm"]


class LayerNorm(nn.Module):
    """Give each token mean 0 and variance 1: ``(x - mean) / sqrt(variance + eps) · weight + bias``.

    Equal features give exactly 0 before weight and bias.

    weight, bias : (d_model,) Parameter, starting at one and at zero; with bias=False, `bias` is None.

    Source: Ba, Kiros and Hinton, arXiv 1607.06450, eq. 3 and 4.
    """

    def __init__(self, d_model: int, *, eps: float = 1e-5, bias: bool = True) -> None:
        super().__init__()
        self.eps = _checked(eps)
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x : (..., d_model)."""
        wide = _widened(x, self.weight)
        shifted = wide - wide[..., :1].detach()  # equal features are 0 now; their mean may be rounded
        centred = shifted - shifted.mean(dim=-1, keepdim=True)
        return _scaled(centred, self.weight, self.bias, self.eps).to(x.dtype)


class RMSNorm(nn.Module):
    """Give each token the root mean square 1: ``x / sqrt(mean(x²) + eps) · weight``.

    Layer norm without the mean and without the bias: one reduction less, and as good in practice.

    weight : (d_model,) Parameter, starting at one.

    Source: Zhang and Sennrich, arXiv 1910.07467, eq. 4.
    """

    def __init__(self, d_model: int, *, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = _checked(eps)
        self.weight = nn.Parameter(torch.ones(d_model))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x : (..., d_model)."""
        return _scaled(_widened(x, self.weight), self.weight, None, self.eps).to(x.dtype)


def _checked(eps: float) -> float:
    if not 0 <= eps < math.inf:
        raise ValueError(f"eps must be at least 0 and finite, got {eps}")
    return eps


def _widened(x: Tensor, weight: Tensor) -> Tensor:
    """Return `x` in float32 or wider, or raise for a last axis that is not the weight's, and for whole numbers."""
    if not x.is_floating_point():
        raise TypeError(f"x must be floating, got {x.dtype}")
    if x.shape[-1:] != weight.shape:
        raise ValueError(f"x must be (..., {len(weight)}), got {tuple(x.shape)}")
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _scaled(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """Return x / sqrt(mean(x²) + eps) · weight + bias."""
    mean_square = x.square().mean(dim=-1, keepdim=True)
    scale = torch.rsqrt(mean_square + eps) + 0 * mean_square  # where a square is inf: NaN, not zeros
    y = x * scale * weight
    return y if bias is None else y + bias
