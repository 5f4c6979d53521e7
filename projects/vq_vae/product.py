"""Product quantisation: cut each vector into groups, each with a codebook of its own.

    z = (z_1, …, z_G),   k_g = argmin_j ‖z_g - e_gj‖²,   z_q = (e_{1,k_1}, …, e_{G,k_G})

The squared distance is the sum of those of the groups, so this is the nearest of all K^G combinations, found with G·K
comparisons. It cannot save bits by what two groups have in common.

The contract is the core's: vectors (..., d), codebooks (G, K, d/G), indices int64; feature maps (B, d, H, W). A group is d/G
channels that follow one another. ValueError where G does not divide d.

Source: Jégou, Douze and Schmid, "Product Quantization for Nearest Neighbor Search", TPAMI 2011.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import Generator, Tensor, nn

from vq_vae import VectorQuantizer, nearest_codes, restart_dead_codes

__all__ = ["ProductQuantizer", "decode_product", "product_codes"]


def product_codes(z: Tensor, codebooks: Tensor) -> tuple[Tensor, Tensor]:
    """Return for each vector the index of the nearest code of each group, (..., G), and these codes side by side, (..., d)."""
    groups = _split(z, len(codebooks), dim=-1)
    chosen = [nearest_codes(group, codebooks[g]) for g, group in enumerate(groups)]
    indices = torch.stack(chosen, dim=-1)
    return indices, decode_product(indices, codebooks)


def decode_product(indices: Tensor, codebooks: Tensor) -> Tensor:
    """Return the vectors that the indices name, (..., G) to (..., d)."""
    return codebooks[torch.arange(len(codebooks)), indices].flatten(-2)


class ProductQuantizer(nn.Module):
    """The core's VectorQuantizer, once per group of channels.

    groups : nn.ModuleList of G `VectorQuantizer` of d/G channels, drawn with `generator` one after the other; with `decay`,
        each moves its codes in training by its own moving average.
    """

    def __init__(
        self,
        n_groups: int,
        n_codes: int,
        d: int,
        *,
        decay: float | None = None,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        if d % n_groups:
            raise ValueError(f"d must be a multiple of n_groups, got {d} and {n_groups}")
        width = d // n_groups
        quantizers = [
            VectorQuantizer(n_codes, width, decay=decay, generator=generator) for _ in range(n_groups)
        ]
        self.groups = nn.ModuleList(quantizers)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the codes (B, d, H, W), from before this batch moves them, and the indices (B, H, W, G)."""
        parts = _split(z, len(self.groups), dim=1)
        codes, indices = [], []
        for g, group in enumerate(self.groups):
            chosen, index = group(parts[g])
            codes.append(chosen)
            indices.append(index)
        return torch.cat(codes, dim=1), torch.stack(indices, dim=-1)

    @torch.no_grad()
    def restart(self, usage: Tensor, z: Tensor, *, generator: Generator | None = None) -> int:
        """Restart the dead codes of each group, ``usage == 0`` in (G, K), as the core does, from z (n, d); return how many."""
        n_restarted = 0
        groups = cast(Iterable[VectorQuantizer], self.groups)
        for group, used, part in zip(groups, usage, _split(z, len(self.groups), dim=-1), strict=True):
            state = group.codebook, group.counts, group.sums
            n_restarted += restart_dead_codes(*state, used, part, generator=generator)
        return n_restarted


def _split(z: Tensor, n_groups: int, *, dim: int) -> tuple[Tensor, ...]:
    """Cut an axis into groups of equal width."""
    if z.shape[dim] % n_groups:
        raise ValueError(f"{z.shape[dim]} channels do not split into {n_groups} groups")
    return z.split(z.shape[dim] // n_groups, dim=dim)
