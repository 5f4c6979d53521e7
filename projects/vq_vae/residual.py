"""Residual quantisation: a second codebook for what the first left over, a third for what the second left over, and so on.

    r_1 = z,   k_n = argmin_j ‖r_n - e_nj‖²,   r_{n+1} = r_n - e_{n,k_n},   z_q = Σ_n e_{n,k_n}

N levels of K codes have K^N sums, but only N·K vectors to learn and to compare with. The first few levels alone are a coarser
code: a stream may stop there. The choice is greedy, level by level, so it need not be the nearest of all sums.

The contract is the core's: vectors (..., d), codebooks (N, K, d), indices int64; feature maps (B, d, H, W).

Sources: Zeghidour et al. 2021 (SoundStream), arXiv 2107.03312; of images, Lee et al. 2022 (RQ-VAE), arXiv 2203.01941.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import Generator, Tensor, nn

from vq_vae import VectorQuantizer, nearest_codes, restart_dead_codes

__all__ = ["ResidualQuantizer", "decode_residual", "residual_codes"]


def residual_codes(z: Tensor, codebooks: Tensor) -> tuple[Tensor, Tensor]:
    """Return for each vector its code at each level, indices (..., N), and the sum of these codes, (..., d)."""
    codes, indices = torch.zeros_like(z), []
    for codebook in codebooks:
        indices.append(nearest_codes(z - codes, codebook))
        codes = codes + codebook[indices[-1]]
    return torch.stack(indices, dim=-1), codes


def decode_residual(indices: Tensor, codebooks: Tensor) -> Tensor:
    """Return the sums of codes that the indices name, (..., n) to (..., d); n ≤ N: the first n levels alone."""
    n = indices.shape[-1]
    if n > len(codebooks):
        raise ValueError(f"{n} indices for {len(codebooks)} levels")
    return codebooks[torch.arange(n), indices].sum(dim=-2)


class ResidualQuantizer(nn.Module):
    """The core's VectorQuantizer, once per level.

    levels : nn.ModuleList of N `VectorQuantizer`, drawn with `generator` one after the other; with `decay`, each moves its
        codes in training by the moving average of what the levels before left over.
    """

    def __init__(
        self,
        n_levels: int,
        n_codes: int,
        d: int,
        *,
        decay: float | None = None,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        quantizers = [VectorQuantizer(n_codes, d, decay=decay, generator=generator) for _ in range(n_levels)]
        self.levels = nn.ModuleList(quantizers)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sums of codes (B, d, H, W), all from before this batch moves them, and the indices (B, H, W, N).

        A gradient goes from the sum to the codes, none to z.
        """
        codes, indices = torch.zeros_like(z), []
        for level in self.levels:
            chosen, index = level((z - codes).detach())
            codes = codes + chosen
            indices.append(index)
        return codes, torch.stack(indices, dim=-1)

    @torch.no_grad()
    def restart(self, usage: Tensor, z: Tensor, *, generator: Generator | None = None) -> int:
        """Restart the dead codes of each level, ``usage == 0`` in (N, K), as the core does; return how many.

        They become what the levels before, already restarted, leave over of the vectors z (n, d).
        """
        n_restarted = 0
        levels = cast(Iterable[VectorQuantizer], self.levels)
        for level, used in zip(levels, usage, strict=True):
            state = level.codebook, level.counts, level.sums
            n_restarted += restart_dead_codes(*state, used, z, generator=generator)
            z = z - level.codebook[nearest_codes(z, level.codebook)]
        return n_restarted
