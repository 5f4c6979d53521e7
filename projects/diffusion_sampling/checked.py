"""Samplers that refuse what they cannot handle, and say in which step it came.

A grid that runs the wrong way, a denoiser that returns NaN or another shape: the plain loops of the core go on with it, and the
error shows at the end, as noise or as a wrong image. Checking costs one number read back per call of the denoiser: nothing on
a CPU; on a GPU each step waits for the network. Error messages contain what was refused.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from functools import wraps
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from diffusion_sampling import ddim, ddpm

__all__ = ["checked", "sample"]

Denoiser = Callable[[Tensor, Tensor], Tensor]
Sampler = Callable[..., Iterator[Tensor]]


def checked(sampler: Sampler) -> Sampler:
    """Return the same sampler with checks: same arguments, same states, same draws.

    `ddpm` and `ddim` of the core take alpha_bars, any other sampler sigmas. With the first step drawn:
    TypeError if x is not a floating-point tensor. ValueError if the grid is not (n_steps + 1,) with at least one step; if sigmas
    are not finite and falling, positive but for the last, which may be 0; if alpha_bars do not rise from above 0 to exactly 1.
    Later ValueError if the denoiser returns another shape than that of x, or a value that is not finite; large finite values
    are fine. The message names the step as "step 2", counted from 0; a step goes from one level to the next.
    """

    @wraps(sampler)
    def checked_sampler(denoiser: Denoiser, x: Tensor, grid: Tensor, **options: Any) -> Iterator[Tensor]:
        _check_start(x, grid)
        (_check_alpha_bars if sampler in (ddpm, ddim) else _check_sigmas)(grid.tolist())
        step = 0

        def ask(x: Tensor, sigma: Tensor) -> Tensor:
            x0 = denoiser(x, sigma)
            if x0.shape != x.shape:
                raise ValueError(
                    f"step {step}: the denoiser returned shape {tuple(x0.shape)}, expected {tuple(x.shape)}"
                )
            # One pass and one number read back: a finite sum proves all finite, an infinite one may be an overflow.
            if not math.isfinite(x0.detach().sum().item()) and not bool(torch.isfinite(x0).all()):
                raise ValueError(
                    f"step {step}: the denoiser returned NaN or inf at sigma = {float(sigma):.6g}"
                )
            return x0

        for state in sampler(ask, x, grid, **options):
            yield state
            step += 1

    return checked_sampler


def sample(
    sampler: Sampler,
    denoiser: Denoiser,
    noise: Tensor,
    grid: Tensor,
    *,
    progress: bool = True,
    **options: Any,
) -> Tensor:
    """Run ``checked(sampler)`` from standard normal noise to its last state, without gradients, behind a progress bar.

    The noise is multiplied by sigmas[0]; for `ddpm` and `ddim`, whose states have variance one, it starts as it is. The bar
    is shown where ``progress=True`` and the output is a terminal, else nothing is printed. Errors are those of `checked`.
    """
    _check_start(noise, grid)
    with torch.no_grad():
        x = noise if sampler in (ddim, ddpm) else noise * float(grid[0])
        states = tqdm(
            checked(sampler)(denoiser, x, grid, **options),
            total=len(grid) - 1,
            desc=getattr(sampler, "__name__", ""),
            leave=False,
            disable=None if progress else True,
        )
        return deque(states, maxlen=1).pop()


def _check_start(x: Tensor, grid: Tensor) -> None:
    if not x.is_floating_point():
        raise TypeError(f"x must be a floating-point tensor, got {x.dtype}")
    if grid.ndim != 1 or len(grid) < 2:
        raise ValueError(
            f"the grid must be (n_steps + 1,) with at least one step, got shape {tuple(grid.shape)}"
        )


def _check_sigmas(levels: list[float]) -> None:
    for step, (sigma, sigma_next) in enumerate(pairwise(levels)):
        if not (sigma > 0 and 0 <= sigma_next < sigma < math.inf):
            raise ValueError(
                f"step {step}: sigmas must be positive and fall (only the last may be 0), got {sigma} -> {sigma_next}"
            )


def _check_alpha_bars(levels: list[float]) -> None:
    for step, (a_t, a_s) in enumerate(pairwise(levels)):
        if not 0 < a_t < a_s <= 1:
            raise ValueError(f"step {step}: alpha_bars must be positive and rise to 1, got {a_t} -> {a_s}")
    if levels[-1] != 1:
        raise ValueError(f"step {len(levels) - 2}: alpha_bars must end at 1, got {levels[-1]}")
