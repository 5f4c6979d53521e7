"""Stochastic sampling of EDM: churn adds fresh noise before a step, and the step removes it again.

    γ  = min(churn/n_steps, sqrt(2) - 1) where churn_min ≤ σ ≤ churn_max, else 0
    σ̂  = σ·(1 + γ)
    x̂  = x + sqrt(σ̂² - σ²)·noise_scale·z

Then one ordinary step goes from (x̂, σ̂) to σ_next. The fresh noise corrects earlier errors, at the price of more steps.

Source: Karras et al. 2022, arXiv 2206.00364, algorithm 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor

from diffusion_sampling import heun

__all__ = ["churned"]


def churned(
    denoiser: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    sigmas: Tensor,
    *,
    churn: float,
    step: Callable[..., Iterator[Tensor]] = heun,
    churn_min: float = 0.0,
    churn_max: float = math.inf,
    noise_scale: float = 1.0,
    generator: torch.Generator | None = None,
) -> Iterator[Tensor]:
    """Run `step`, which is `heun`, `euler` or another one-step sampler of σ-levels, with fresh noise before each step.

    A sampler like those of the core, whose contract it keeps. `churn`, `churn_min`, `churn_max` and `noise_scale` are S_churn,
    S_tmin, S_tmax and S_noise of the paper. Where γ is 0 nothing is drawn, else one ``torch.randn`` of x's shape.
    ValueError, with the first step drawn, if `churn` is negative or NaN, the window is empty or `noise_scale` is not finite; the
    message contains it.
    """
    if not (churn >= 0 and churn_min <= churn_max and math.isfinite(noise_scale)):
        raise ValueError(f"need {churn=} >= 0, {churn_min=} <= {churn_max=} and a finite {noise_scale=}")
    levels = sigmas.tolist()
    gamma = min(churn / (len(levels) - 1), math.sqrt(2) - 1)
    for sigma, sigma_next in pairwise(levels):
        raised = sigma
        if gamma > 0 and churn_min <= sigma <= churn_max:
            raised = sigma * (1 + gamma)
            z = torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)
            x = x + math.sqrt(gamma * (2 + gamma)) * sigma * noise_scale * z  # sqrt(raised² - sigma²)
        x = next(step(denoiser, x, torch.tensor([raised, sigma_next], dtype=torch.float64)))
        yield x
