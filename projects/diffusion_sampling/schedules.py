"""More about noise levels: the cosine schedule, and the way from ᾱ to σ, back, and to a timestep.

A grid runs from most noise to none and is float64. Error messages contain the value that is refused.

Sources: cosine schedule, Nichol and Dhariwal 2021, arXiv 2102.09672; EDM, Karras et al. 2022, arXiv 2206.00364.
"""

from __future__ import annotations

import math
from numbers import Integral

import torch
from torch import Tensor

__all__ = ["alpha_bar_to_sigma", "cosine_alpha_bars", "sigma_to_alpha_bar", "sigma_to_t"]


def cosine_alpha_bars(n_steps: int = 1000, *, offset: float = 0.008, max_beta: float = 0.999) -> Tensor:
    """Return the cosine schedule: ᾱ_t = f(t)/f(0), f(t) = cos²((t/T + s)/(1 + s)·π/2), with each β_t capped.

    The result is ᾱ_T, ..., ᾱ_1, ᾱ_0 = 1 for T = n_steps: (n_steps + 1,) float64. The cap on β_t = 1 - ᾱ_t/ᾱ_{t-1} keeps ᾱ_T
    above 0, where σ would be infinite; `offset` is s and keeps the first betas from being too small.
    ValueError if `n_steps` < 1, `offset` is not positive and finite or `max_beta` is outside (0, 1); TypeError if `n_steps` is no
    integer.

    Source: Nichol and Dhariwal 2021, arXiv 2102.09672, eq. 17.
    """
    if not isinstance(n_steps, Integral) or isinstance(n_steps, bool):
        raise TypeError(f"n_steps must be an int, got {n_steps!r}")
    if n_steps < 1:
        raise ValueError(f"n_steps must be at least 1, got {n_steps}")
    if not (0 < offset < math.inf and 0 < max_beta < 1):
        raise ValueError(f"offset must be positive and max_beta in (0, 1), got {offset} and {max_beta}")
    t = torch.arange(n_steps + 1, dtype=torch.float64) / n_steps
    f = torch.cos((t + offset) / (1 + offset) * math.pi / 2) ** 2
    betas = (1 - f[1:] / f[:-1]).clamp(max=max_beta)
    return torch.cat([betas.new_ones(1), (1 - betas).cumprod(0)]).flip(0)


def alpha_bar_to_sigma(alpha_bar: Tensor) -> Tensor:
    """Return σ = sqrt((1 - ᾱ)/ᾱ), the noise per unit of signal: ᾱ = 1 gives 0, ᾱ = 0 gives inf. Any shape and dtype."""
    # Two roots: the quotient itself may be too large for half precision.
    return (1 - alpha_bar).sqrt() / alpha_bar.sqrt()


def sigma_to_alpha_bar(sigma: Tensor) -> Tensor:
    """Return ᾱ = 1/(1 + σ²), the share of the signal in the variance. Any shape and dtype."""
    wide = sigma.double()  # σ² may be too large for half precision
    return (1 / (1 + wide**2)).to((1 / sigma).dtype)


def sigma_to_t(sigma: Tensor, alpha_bars: Tensor) -> Tensor:
    """Return the (fractional) timestep t of a noise level: what a network trained on t = 1..T must be told.

    `sigma` has any shape; `alpha_bars` is ᾱ_T, ..., ᾱ_0 = 1, (T + 1,). The result is float64 in 1..T, the shape of `sigma`:
    linear in log σ between two timesteps, 1 or T beyond the schedule's ends. Networks that count from 0 want one less.
    ValueError if `alpha_bars` does not rise from above 0 to 1: other libraries store ᾱ_1, ..., ᾱ_T, which falls.
    """
    if not (
        len(alpha_bars) > 1
        and alpha_bars[0] > 0
        and alpha_bars[-1] == 1
        and bool((alpha_bars.diff() > 0).all())
    ):
        raise ValueError(
            f"alpha_bars must rise from above 0 to 1, got {alpha_bars[:3].tolist()} ... {alpha_bars[-3:].tolist()}"
        )
    levels = alpha_bar_to_sigma(alpha_bars.double()).flip(0)[1:].log()  # of t = 1..T, rising
    wanted = sigma.double().log().clamp(levels[0], levels[-1])
    if len(levels) == 1:
        return torch.ones_like(wanted)
    above = torch.searchsorted(levels, wanted).clamp(1, len(levels) - 1)
    low, high = levels[above - 1], levels[above]
    return above + (wanted - low) / (high - low)  # levels[above - 1] is t = above
