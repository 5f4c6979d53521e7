"""Finite scalar quantisation (FSQ): squash each of a few channels, and round it to one of a few levels. Nothing can die.

    half = (L - 1)/2,   offset = ½ where L is even, else 0
    bounded = tanh(z + artanh(offset/half))·half - offset            L integers lie within its range; 0 goes to 0
    code = round(bounded)/⌊L/2⌋                                      from -1 to 1, or to just under 1 where L is even
    index = Σ_i (round(bounded)_i + ⌊L_i/2⌋)·L_0·…·L_{i-1}           a number with mixed radix: channel 0 counts ones

No codebook, no codebook loss, no commitment: the gradient passes the rounding as if it were not there, then the tanh.

`levels` is one L per channel, such as (8, 5, 5, 5), which makes 1000 codes. Vectors are (..., len(levels)), float32 or float64,
indices int64. ValueError for levels under 3 (with 2, artanh is infinite), for 2^63 codes and more, and for another number of
channels.

Source: Mentzer et al. 2023, arXiv 2309.15505. Their listing has tan for artanh, which moves 0, and an ε, which L > 2 needs not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["FiniteScalarQuantizer", "bound", "codes_to_indices", "indices_to_codes", "round_straight_through"]


def bound(z: Tensor, levels: Sequence[int]) -> Tensor:
    """Return `bounded` of each channel, (..., len(levels)), before it is rounded."""
    L = _checked(levels, z).to(z.dtype)
    half, offset = (L - 1) / 2, (L % 2 == 0) / 2
    return torch.tanh(z + torch.atanh(offset / half)) * half - offset


def round_straight_through(x: Tensor) -> Tensor:
    """Return x rounded, with the gradient of x."""
    return x + (x.round() - x).detach()


def codes_to_indices(codes: Tensor, levels: Sequence[int]) -> Tensor:
    """Return the index of each code, (..., len(levels)) to (...)."""
    L = _checked(levels, codes)
    digits = (codes.double() * (L // 2)).round().long() + L // 2
    return (digits * _place_values(L)).sum(dim=-1)


def indices_to_codes(indices: Tensor, levels: Sequence[int]) -> Tensor:
    """Return the code of each index, (...) to (..., len(levels)), float32."""
    L = _checked(levels)
    digits = indices[..., None] // _place_values(L) % L
    return (digits - L // 2) / (L // 2)


class FiniteScalarQuantizer(nn.Module):
    """Round a feature map with one channel per entry of `levels`. It has no parameters and no buffers."""

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        self.levels = tuple(levels)
        _checked(levels)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the codes (B, d, H, W), whose gradient goes to z, of the feature map z (B, d, H, W), and indices (B, H, W)."""
        L = _checked(self.levels)
        codes = round_straight_through(bound(z.movedim(1, -1), self.levels)) / (L // 2)
        return codes.movedim(-1, 1), codes_to_indices(codes, self.levels)


def _checked(levels: Sequence[int], vectors: Tensor | None = None) -> Tensor:
    """Return the levels as a tensor (n,), int64, or raise for those that cannot be."""
    if min(levels) < 3 or math.prod(levels) >= 2**63:
        raise ValueError(f"levels must be at least 3, for less than 2^63 codes, got {tuple(levels)}")
    if vectors is not None and vectors.shape[-1] != len(levels):
        raise ValueError(f"{len(levels)} levels for vectors of shape {tuple(vectors.shape)}")
    return torch.tensor(levels)


def _place_values(L: Tensor) -> Tensor:
    """Return what a one in each channel counts: 1, L_0, L_0·L_1 and so on."""
    return L.cumprod(dim=0) // L
