"""What a network predicts at a noise level, and EDM's factors that keep its input and target at variance one.

A noise level is a float, or a tensor of shape (), (batch,) or (batch, 1, ...): (batch,) is one level per sample. Results have
the dtype of x.

Sources: EDM, Karras et al. 2022, arXiv 2206.00364; v-prediction, Salimans and Ho 2022, arXiv 2202.00512.
"""

from __future__ import annotations

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

    Another kind raises ValueError.
    """
    sigma = _per_sample(sigma, x).to(x.dtype)
    if kind == "x0":
        return x0
    if kind == "epsilon":
        return (x - x0) / sigma
    if kind == "v":
        return ((x - x0) / sigma - sigma * x0) / (1 + sigma**2).sqrt()
    if kind == "score":
        return (x0 - x) / sigma**2
    raise ValueError(f"kind must be x0, epsilon, v or score, got {kind!r}")


class Preconditioning(NamedTuple):
    """EDM's four factors at a noise level, D(x, σ) = c_skip·x + c_out·F(c_in·x, c_noise)."""

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor
    c_noise: Tensor


def edm_preconditioning(sigma: Tensor, *, sigma_data: float = 0.5) -> Preconditioning:
    """Return EDM's factors, four tensors of the shape of `sigma`, for data of standard deviation `sigma_data`.

        c_skip  = σ_data²/(σ² + σ_data²)           c_in    = 1/sqrt(σ² + σ_data²)
        c_out   = σ·σ_data/sqrt(σ² + σ_data²)      c_noise = ln(σ)/4

    With much noise c_skip is 0 and the network predicts x0; with little noise c_skip is 1 and it predicts the noise.
    Its error reaches the result times c_out, which never exceeds σ_data: a pure noise prediction multiplies it by σ.

    Source: Karras et al. 2022, arXiv 2206.00364, table 1 (column "Ours") and appendix B.6.
    """
    total = sigma**2 + sigma_data**2
    return Preconditioning(
        c_skip=sigma_data**2 / total,
        c_out=sigma * sigma_data / total.sqrt(),
        c_in=1 / total.sqrt(),
        c_noise=sigma.log() / 4,
    )


def precondition(network: Callable[..., Tensor], *, sigma_data: float = 0.5) -> Callable[..., Tensor]:
    """Wrap a raw network F(scaled x, c_noise, *condition) as a denoiser D(x, sigma, *condition) -> x0.

    The network gets c_in·x of shape (batch, ...), c_noise of shape (batch,), and the condition as it came.

    Source: Karras et al. 2022, eq. 7.
    """

    def denoiser(x: Tensor, sigma: Tensor | float, *condition: object) -> Tensor:
        level = _per_sample(sigma, x).to(x.dtype)
        c = edm_preconditioning(level, sigma_data=sigma_data)
        return c.c_skip * x + c.c_out * network(c.c_in * x, c.c_noise.reshape(-1).expand(len(x)), *condition)

    return denoiser


def _per_sample(level: Tensor | float, x: Tensor) -> Tensor:
    """Shape a level so that it multiplies x sample by sample: (batch,) becomes (batch, 1, ...)."""
    level = level if isinstance(level, Tensor) else torch.tensor(level, dtype=torch.float64, device=x.device)
    return level.reshape(-1, *[1] * (x.ndim - 1)) if level.ndim == 1 else level
