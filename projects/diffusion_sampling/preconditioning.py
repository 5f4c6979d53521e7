"""What a network predicts at a noise level, and EDM's factors that keep its input and target at variance one.

A noise level is positive: a float, or a tensor of shape (), (batch,) or (batch, 1, ...): (batch,) is one level per sample, and
ValueError says that another shape came. Results have the dtype of x, and are right where they fit into it: what half precision
has no room for, as σ² from 256 on, is computed in a wider one.

Sources: EDM, Karras et al. 2022, arXiv 2206.00364; v-prediction, Salimans and Ho 2022, arXiv 2202.00512.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["edm_preconditioning", "from_x0", "precondition"]


def from_x0(x0: Tensor, x: Tensor, sigma: Tensor | float, *, kind: str) -> Tensor:
    """Return the prediction of `kind` that implies `x0` at the state x = x0 + σ·n: the inverse of `to_x0` of the core.

        x0       itself
        epsilon  the noise                        ε = (x - x0)/σ
        v        sqrt(ᾱ)·ε - sqrt(1 - ᾱ)·x0       (ε - σ·x0)/sqrt(1 + σ²)
        score    ∇ log p(x; σ)                    (x0 - x)/σ²

    ValueError for another kind, or an x0 of another shape than x.
    """
    if x0.shape != x.shape:
        raise ValueError(f"need x0 and x of one shape, got {tuple(x0.shape)} and {tuple(x.shape)}")
    level = _per_sample(sigma, x).double()
    s, root = level.to(x.dtype), (1 + level**2).sqrt().to(x.dtype)
    if kind == "x0":
        return x0.to(x.dtype)
    if kind == "epsilon":
        return (x - x0) / s
    if kind == "v":
        return (x - x0) / s / root - s / root * x0
    if kind == "score":
        return (x0 - x) / s / s
    raise ValueError(f"kind must be x0, epsilon, v or score, got {kind!r}")


class Preconditioning(NamedTuple):
    """EDM's four factors at a noise level, D(x, σ) = c_skip·x + c_out·F(c_in·x, c_noise)."""

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor
    c_noise: Tensor


def edm_preconditioning(sigma: Tensor | float, *, sigma_data: float = 0.5) -> Preconditioning:
    """Return EDM's factors, four tensors of shape and dtype of `sigma`, for data of standard deviation `sigma_data`.

        c_skip  = σ_data²/(σ² + σ_data²)           c_in    = 1/sqrt(σ² + σ_data²)
        c_out   = σ·σ_data/sqrt(σ² + σ_data²)      c_noise = ln(σ)/4

    With much noise c_skip is 0 and the network predicts x0; with little noise c_skip is 1 and it predicts the noise.
    Its error reaches the result times c_out, which never exceeds σ_data: a pure noise prediction multiplies it by σ.
    A float gives float64. ValueError for a σ_data that is not positive and finite.

    Source: Karras et al. 2022, arXiv 2206.00364, table 1 (column "Ours") and appendix B.6.
    """
    if not 0 < sigma_data < math.inf:
        raise ValueError(f"sigma_data must be positive and finite, got {sigma_data}")
    sigma = sigma if isinstance(sigma, Tensor) else torch.tensor(sigma, dtype=torch.float64)
    level, dtype = sigma.double(), (1 / sigma).dtype
    total = level**2 + sigma_data**2
    return Preconditioning(
        c_skip=(sigma_data**2 / total).to(dtype),
        c_out=(level * sigma_data / total.sqrt()).to(dtype),
        c_in=(1 / total.sqrt()).to(dtype),
        c_noise=(level.log() / 4).to(dtype),
    )


def precondition(network: Callable[..., Tensor], *, sigma_data: float = 0.5) -> Callable[..., Tensor]:
    """Wrap a raw network F(scaled x, c_noise, *condition) as a denoiser D(x, sigma, *condition) -> x0.

    The network gets c_in·x of shape (batch, ...), c_noise of shape (batch,), both in the dtype of x, and the condition as it came.
    ValueError for a σ_data that is not positive and finite.

    Source: Karras et al. 2022, eq. 7.
    """
    edm_preconditioning(1.0, sigma_data=sigma_data)  # refuses now, not at the first call

    def denoiser(x: Tensor, sigma: Tensor | float, *condition: object) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))  # float32 and float64 stay what they are
        factors = edm_preconditioning(_per_sample(sigma, x).double(), sigma_data=sigma_data)
        c = Preconditioning(*(factor.to(wide.dtype) for factor in factors))
        c_noise = c.c_noise.to(x.dtype).reshape(-1).expand(len(x))
        output = network((c.c_in * wide).to(x.dtype), c_noise, *condition)
        return (c.c_skip * wide + c.c_out * output.to(wide.dtype)).to(x.dtype)

    return denoiser


def _per_sample(level: Tensor | float, x: Tensor) -> Tensor:
    """Shape a level so that it multiplies x sample by sample: (batch,) becomes (batch, 1, ...)."""
    level = level if isinstance(level, Tensor) else torch.tensor(level, dtype=torch.float64, device=x.device)
    if not x.is_floating_point() or not (level.numel() == 1 or level.numel() == len(level) == len(x)):
        raise ValueError(f"need floats and a level of () or (batch,), got {x.dtype} {x.shape}, {level.shape}")
    return level.reshape(-1, *[1] * (x.ndim - 1)) if level.ndim else level
