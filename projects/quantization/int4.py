"""Four bits: two weights per byte, and a linear layer whose weights have a scale per small group."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantization import choose_qparams, quantize

__all__ = ["pack_int4", "unpack_int4", "in_groups", "Int4Linear"]


def pack_int4(q: Tensor) -> Tensor:
    """Store two 4-bit integers per byte: ``byte = (q[2i] & 15) | (q[2i + 1] & 15) << 4``.

    (..., n) int8 of -8 to 7 to (..., n/2) uint8; TypeError if q is not int8, ValueError if n is odd or a value needs more bits.
    """
    if q.dtype != torch.int8:
        raise TypeError(f"q must be int8, got {q.dtype}")
    if not q.ndim or q.shape[-1] % 2:
        raise ValueError(f"an even number of integers is needed, got shape {tuple(q.shape)}")
    if q.numel() and (q.min() < -8 or q.max() > 7):
        raise ValueError(f"integers from -8 to 7 are needed, got {int(q.min())} to {int(q.max())}")
    nibbles = q.to(torch.uint8) & 15
    return nibbles[..., 0::2] | nibbles[..., 1::2] << 4


def unpack_int4(packed: Tensor) -> Tensor:
    """Undo `pack_int4`: (..., n/2) uint8 to (..., n) int8, with the sign of bit 3 restored; TypeError for another dtype."""
    if packed.dtype != torch.uint8:
        raise TypeError(f"packed must be uint8, got {packed.dtype}")
    nibbles = torch.stack([packed & 15, packed >> 4], dim=-1).flatten(-2)
    return (nibbles.to(torch.int8) ^ 8) - 8


def in_groups(linear: nn.Linear, group_size: int) -> Tensor:
    """Return the weight as (out, in/group_size, group_size), detached; ValueError as of `Int4Linear`."""
    if group_size not in range(2, linear.in_features + 1, 2) or linear.in_features % group_size:
        raise ValueError(f"group_size must be even and divide {linear.in_features}, got {group_size!r}")
    if not linear.weight.isfinite().all():
        raise ValueError("the layer's weight holds NaN or inf")
    return linear.weight.detach().reshape(linear.out_features, -1, int(group_size))


class Int4Linear(nn.Module):
    """`torch.nn.Linear` with 4-bit weights, weight-only: one symmetric scale per `group_size` neighbours in a row.

    Sixteen levels are so few that a scale per row is too coarse: the groups make 4 bits usable. The weights become float for
    the product, so this saves memory, not arithmetic. ``scale = max|group| / 7``.

    Buffers: packed (out, in/2) uint8 as from `pack_int4`, scale (out, in/group_size), bias (out,) or None. Input (..., in),
    output (..., out) float32. ValueError, with the group_size, unless it is an even integer above 0 and divides `in`; ValueError
    for x of another width. Scales stay float32: after ``.half()``, which would round them, forward raises TypeError.

    Source: Dettmers and Zettlemoyer 2023, arXiv 2212.09720 (small blocks make 4 bits work).
    """

    def __init__(self, linear: nn.Linear, *, group_size: int = 32) -> None:
        super().__init__()
        groups = in_groups(linear, group_size)
        largest = groups.abs().amax(-1, keepdim=True)
        scale, zero = choose_qparams(-largest, largest, n_bits=4, symmetric=True)
        self.packed = nn.Buffer(pack_int4(quantize(groups, scale, zero, n_bits=4).flatten(1)))
        self.scale = nn.Buffer(scale[..., 0])
        self.bias = None if linear.bias is None else nn.Buffer(linear.bias.detach().float().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer."""
        if self.scale.dtype != torch.float32:
            raise TypeError(
                f"scales must stay float32, got {self.scale.dtype}: quantize the float network again"
            )
        if not x.ndim or x.shape[-1] != 2 * self.packed.shape[1]:
            raise ValueError(f"x must be (..., {2 * self.packed.shape[1]}), got shape {tuple(x.shape)}")
        groups = unpack_int4(self.packed).reshape(*self.scale.shape, -1)
        return F.linear(x.float(), (groups * self.scale[..., None]).flatten(1), self.bias)
