"""Samplers that refuse what they cannot handle, and say in which step it came.

A grid that runs the wrong way, a denoiser that returns NaN or another shape: the plain loops of the core go on with it, and the
error shows at the end, as noise or as a wrong image. Checking costs one number read back per call of the denoiser: nothing on
a CPU; on a GPU each step waits for the network. Error messages contain what was refused.

A sampler is any callable with the contract of the core: a function, a partial, a wrapper. So nothing here asks which one it is.
The grid says what it holds, and the first question to the denoiser shows whether the sampler takes it so.
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

__all__ = ["checked", "sample"]

Denoiser = Callable[[Tensor, Tensor], Tensor]
Sampler = Callable[..., Iterator[Tensor]]


def checked(sampler: Sampler) -> Sampler:
    """Return the same sampler with checks: same arguments, same states, same draws.

    A grid that ends lower than it starts holds sigmas, any other alpha_bars. With the first step drawn: TypeError if x is not a
    floating-point tensor. ValueError if x is not finite; if the grid is not (n_steps + 1,) with at least one step; if sigmas are
    not finite and falling, positive but for the last, which may be 0; if alpha_bars do not rise from above 0 to at most 1; if the
    sampler does not first ask at the level at which the grid starts (churn may raise a sigma), so takes another kind of grid.
    Later ValueError if the denoiser returns another shape than that of x, a wider dtype, or a value that is not finite; large
    finite values are fine. The message names the step as "step 2", counted from 0; a step goes from one level to the next.
    """

    @wraps(sampler)
    def checked_sampler(denoiser: Denoiser, x: Tensor, grid: Tensor, **options: Any) -> Iterator[Tensor]:
        levels = _check_start(x, grid)
        _check_levels(levels)
        step, asked = 0, False

        def ask(x: Tensor, sigma: Tensor) -> Tensor:
            nonlocal asked
            first, asked = not asked, True
            if first:
                _check_first_question(levels, float(sigma))
            x0 = denoiser(x, sigma)
            if x0.shape != x.shape:
                raise ValueError(
                    f"step {step}: the denoiser returned shape {tuple(x0.shape)}, expected {tuple(x.shape)}"
                )
            if torch.promote_types(x0.dtype, x.dtype) != x.dtype:
                raise ValueError(
                    f"step {step}: the denoiser returned {x0.dtype}, wider than x, which is {x.dtype}"
                )
            # One pass and one number read back: a finite sum proves all finite, an infinite one may be an overflow.
            if not math.isfinite(x0.detach().sum().item()) and not bool(torch.isfinite(x0).all()):
                raise ValueError(
                    f"step {step}: the denoiser returned NaN or inf at sigma = {float(sigma):.6g}"
                )
            return x0

        try:
            for state in sampler(ask, x, grid, **options):
                yield state
                step += 1
        except (ValueError, ArithmeticError) as error:
            if asked:
                raise
            raise ValueError(
                f"step 0: the sampler stops on {_what(levels)} before it asks: {error}"
            ) from error

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

    The noise is multiplied by sigmas[0] if the grid falls; on alpha_bars, where states have variance one, it starts as it is. The
    bar, which names the sampler, is shown where ``progress=True`` and the output is a terminal, else nothing is printed. Errors
    are those of `checked`.
    """
    levels = _check_start(noise, grid)
    with torch.no_grad():
        x = noise * levels[0] if _falls(levels) else noise
        states = tqdm(
            checked(sampler)(denoiser, x, grid, **options),
            total=len(grid) - 1,
            desc=getattr(sampler, "__name__", ""),
            leave=False,
            disable=None if progress else True,
        )
        return deque(states, maxlen=1).pop()


def _check_start(x: Tensor, grid: Tensor) -> list[float]:
    """Refuse what is no state or no grid; return the levels."""
    if not x.is_floating_point():
        raise TypeError(f"x must be a floating-point tensor, got {x.dtype}")
    if not bool(torch.isfinite(x).all()):
        raise ValueError("x must be finite, it holds NaN or inf")
    if grid.ndim != 1 or len(grid) < 2:
        raise ValueError(
            f"the grid must be (n_steps + 1,) with at least one step, got shape {tuple(grid.shape)}"
        )
    return [float(level) for level in grid.tolist()]


def _falls(levels: list[float]) -> bool:
    """Say whether a grid holds sigmas."""
    return levels[0] > levels[-1]


def _what(levels: list[float]) -> str:
    return "a falling grid (sigmas)" if _falls(levels) else "a rising grid (alpha_bars)"


def _check_levels(levels: list[float]) -> None:
    for step, (level, after) in enumerate(pairwise(levels)):
        good = 0 <= after < level < math.inf if _falls(levels) else 0 < level < after <= 1
        if not good:
            raise ValueError(
                f"step {step}: levels must fall to 0 or more (sigmas) or rise within (0, 1] (alpha_bars), got {level} -> {after}"
            )


def _check_first_question(levels: list[float], sigma: float) -> None:
    """Refuse a sampler that starts elsewhere than its grid: 1 % is rounding, churn raises a sigma by sqrt(2) at most."""
    start = levels[0] if _falls(levels) else math.sqrt((1 - levels[0]) / levels[0])
    highest = math.sqrt(2) if _falls(levels) else 1.0
    if not 0.99 * start <= sigma <= 1.01 * highest * start:
        raise ValueError(
            f"step 0: on {_what(levels)} from sigma = {start:.6g} the sampler asks at {sigma:.6g}: it takes another kind"
        )
