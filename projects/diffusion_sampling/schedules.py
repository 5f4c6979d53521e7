"""Noise levels: which ones to visit, how to add noise, and what a network may predict at each of them.

Noise has two bookkeepings. In DDPM's a state stays at variance one, in EDM's it grows with the noise:

    x_t = sqrt(ᾱ)·x0 + sqrt(1 - ᾱ)·n        (DDPM: ᾱ falls from 1 to nearly 0)
    x   = x0 + σ·n                          (EDM: σ grows from 0)

They are one: x = x_t/sqrt(ᾱ) with σ = sqrt((1 - ᾱ)/ᾱ). A grid here always runs the way a sampler does, from most noise
to none, and is float64: 1 - ᾱ is what matters near the end, and float32 would keep three digits of it.

Sources: DDPM, Ho et al. 2020, arXiv 2006.11239; cosine schedule, Nichol and Dhariwal 2021, arXiv 2102.09672; EDM,
Karras et al. 2022, arXiv 2206.00364; v-prediction, Salimans and Ho 2022, arXiv 2202.00512.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "add_noise",
    "alpha_bar_to_sigma",
    "cosine_alpha_bars",
    "edm_preconditioning",
    "from_x0",
    "karras_sigmas",
    "linear_alpha_bars",
    "precondition",
    "sigma_to_alpha_bar",
    "sigma_to_t",
    "to_x0",
]

KINDS = ("x0", "epsilon", "v", "score")


# --- grids --------------------------------------------------------------------------------------------------


def linear_alpha_bars(n_steps: int = 1000, *, beta_start: float = 1e-4, beta_end: float = 0.02) -> Tensor:
    """Return DDPM's schedule: β_t linear in t = 1..T, ᾱ_t = Π_{s ≤ t} (1 - β_s).

    Parameters
    ----------
    n_steps : int
        T, at least 1.
    beta_start, beta_end : float
        β_1 and β_T, in (0, 1).

    Returns
    -------
    (n_steps + 1,) float64 tensor
        ᾱ_T, ..., ᾱ_1, ᾱ_0 = 1: entry i belongs to t = T - i.

    Raises
    ------
    ValueError
        If `n_steps` < 1 or a beta is outside (0, 1).

    Source: Ho et al. 2020, arXiv 2006.11239, section 4 (the betas) and eq. 4 (ᾱ).
    """
    _check_steps(n_steps)
    if not (0 < beta_start < 1 and 0 < beta_end < 1):
        raise ValueError(f"betas must lie in (0, 1), got {beta_start} and {beta_end}")
    betas = torch.linspace(beta_start, beta_end, n_steps, dtype=torch.float64)
    return _from_betas(betas)


def cosine_alpha_bars(n_steps: int = 1000, *, offset: float = 0.008, max_beta: float = 0.999) -> Tensor:
    """Return the cosine schedule: ᾱ_t = f(t)/f(0), f(t) = cos²((t/T + s)/(1 + s)·π/2), with each β_t capped.

    The cap keeps ᾱ_T above 0, where σ would be infinite.

    Parameters
    ----------
    n_steps : int
        T, at least 1.
    offset : float
        s > 0: keeps the first betas from being too small.
    max_beta : float
        Cap of β_t = 1 - ᾱ_t/ᾱ_{t-1}, in (0, 1).

    Returns
    -------
    (n_steps + 1,) float64 tensor
        ᾱ_T, ..., ᾱ_1, ᾱ_0 = 1.

    Raises
    ------
    ValueError
        If `n_steps` < 1, `offset` is not positive or `max_beta` is outside (0, 1).

    Source: Nichol and Dhariwal 2021, arXiv 2102.09672, eq. 17.
    """
    _check_steps(n_steps)
    if not (offset > 0 and 0 < max_beta < 1):
        raise ValueError(f"offset must be positive and max_beta in (0, 1), got {offset} and {max_beta}")
    t = torch.arange(n_steps + 1, dtype=torch.float64) / n_steps
    f = torch.cos((t + offset) / (1 + offset) * math.pi / 2) ** 2
    return _from_betas((1 - f[1:] / f[:-1]).clamp(max=max_beta))


def karras_sigmas(
    n_steps: int,
    *,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
    to_zero: bool = True,
) -> Tensor:
    """Return EDM's noise levels for `n_steps` steps: evenly spaced in σ^(1/ρ), so dense where σ is small.

        σ_i = (σ_max^(1/ρ) + i/(n - 1)·(σ_min^(1/ρ) - σ_max^(1/ρ)))^ρ,   i = 0..n-1

    Parameters
    ----------
    n_steps : int
        Number of steps, at least 1.
    sigma_min, sigma_max : float
        Ends of the spaced part, 0 < sigma_min < sigma_max.
    rho : float
        Positive; 1 spaces evenly, 7 is EDM's (and DIAMOND's) choice.
    to_zero : bool
        True: n = n_steps spaced levels, then 0 (the paper's grid; one step goes from sigma_max to 0). False:
        n = n_steps + 1 spaced levels, the last of which is sigma_min.

    Returns
    -------
    (n_steps + 1,) float64 tensor
        Falling, from sigma_max.

    Raises
    ------
    ValueError
        If `n_steps` < 1, ``0 < sigma_min < sigma_max`` does not hold or `rho` is not positive.

    Source: Karras et al. 2022, arXiv 2206.00364, eq. 5.
    """
    _check_steps(n_steps)
    if not (0 < sigma_min < sigma_max < math.inf and rho > 0):
        raise ValueError(
            f"need 0 < sigma_min < sigma_max and rho > 0, got {sigma_min}, {sigma_max} and {rho}"
        )
    n = n_steps if to_zero else n_steps + 1
    ramp = torch.linspace(0, 1, n, dtype=torch.float64)
    sigmas = (sigma_max ** (1 / rho) + ramp * (sigma_min ** (1 / rho) - sigma_max ** (1 / rho))) ** rho
    sigmas[-1], sigmas[0] = sigma_min, sigma_max  # not 79.99999999999997; one level is sigma_max
    return torch.cat([sigmas, sigmas.new_zeros(1)]) if to_zero else sigmas


# --- from one bookkeeping to the other ----------------------------------------------------------------------


def alpha_bar_to_sigma(alpha_bar: Tensor) -> Tensor:
    """Return σ = sqrt((1 - ᾱ)/ᾱ), the noise per unit of signal: ᾱ = 1 gives 0, ᾱ = 0 gives inf. Any shape."""
    return ((1 - alpha_bar) / alpha_bar).sqrt()


def sigma_to_alpha_bar(sigma: Tensor) -> Tensor:
    """Return ᾱ = 1/(1 + σ²), the share of the signal in the variance. Any shape."""
    return 1 / (1 + sigma**2)


def sigma_to_t(sigma: Tensor, alpha_bars: Tensor) -> Tensor:
    """Return the (fractional) timestep t of a noise level: what a network trained on t = 1..T must be told.

    Linear in log σ between two timesteps; a σ beyond the schedule's ends gives 1 or T.

    Parameters
    ----------
    sigma : (...) tensor
    alpha_bars : (T + 1,) tensor
        ᾱ_T, ..., ᾱ_0 = 1, as `linear_alpha_bars` returns it.

    Returns
    -------
    (...) float64 tensor
        In 1..T (networks that count from 0 want one less).
    """
    levels = alpha_bar_to_sigma(alpha_bars.double()).flip(0)[1:].log()  # of t = 1..T, rising
    wanted = sigma.double().log().clamp(levels[0], levels[-1])
    above = torch.searchsorted(levels, wanted).clamp(1, len(levels) - 1) if len(levels) > 1 else None
    if above is None:
        return torch.ones_like(wanted)
    low, high = levels[above - 1], levels[above]
    return above + (wanted - low) / (high - low)  # levels[above - 1] is t = above


# --- the forward process ------------------------------------------------------------------------------------


def add_noise(
    x0: Tensor, noise: Tensor, *, sigma: Tensor | float | None = None, alpha_bar: Tensor | float | None = None
) -> Tensor:
    """Run the forward process in one jump: x0 + σ·noise, or sqrt(ᾱ)·x0 + sqrt(1 - ᾱ)·noise.

    Parameters
    ----------
    x0 : (batch, ...) tensor
        Clean data.
    noise : (batch, ...) tensor
        Standard normal, the shape of `x0`.
    sigma, alpha_bar : float, or tensor of shape (), (batch,) or (batch, 1, ...)
        Exactly one of the two; it also says which of the two states you get. A (batch,) tensor holds one level per
        sample, whatever the rank of `x0`.

    Returns
    -------
    (batch, ...) tensor
        In the dtype of `x0`.

    Raises
    ------
    ValueError
        If `noise` has another shape than `x0`, or not exactly one of `sigma` and `alpha_bar` is given.

    Source: Ho et al. 2020, eq. 4 (alpha_bar); Karras et al. 2022, section 2 (sigma).
    """
    if noise.shape != x0.shape:
        raise ValueError(f"noise must have the shape of x0, {tuple(x0.shape)}, got {tuple(noise.shape)}")
    if (sigma is None) == (alpha_bar is None):
        raise ValueError("give exactly one of sigma and alpha_bar")
    if sigma is not None:
        return x0 + _per_sample(sigma, x0).to(x0.dtype) * noise
    a = _per_sample(alpha_bar, x0)
    return a.sqrt().to(x0.dtype) * x0 + (1 - a).sqrt().to(x0.dtype) * noise


# --- what a network predicts --------------------------------------------------------------------------------


def to_x0(prediction: Tensor, x: Tensor, sigma: Tensor | float, *, kind: str) -> Tensor:
    """Turn a network's prediction at the state x = x0 + σ·n into the clean data it implies.

        x0       itself
        epsilon  the noise:          x0 = x - σ·ε
        v        sqrt(ᾱ)·ε - sqrt(1 - ᾱ)·x0 with ᾱ = 1/(1 + σ²):   x0 = x/(1 + σ²) - σ/sqrt(1 + σ²)·v
        score    ∇ log p(x; σ):      x0 = x + σ²·score

    Parameters
    ----------
    prediction, x : (batch, ...) tensors
    sigma : float, or tensor of shape (), (batch,) or (batch, 1, ...)
        Positive.
    kind : {"x0", "epsilon", "v", "score"}

    Returns
    -------
    (batch, ...) tensor

    Raises
    ------
    ValueError
        For another kind; the message names it.

    Source: Salimans and Ho 2022, arXiv 2202.00512, appendix D (v); Karras et al. 2022, eq. 3 (score).
    """
    sigma = _per_sample(sigma, x).to(x.dtype)
    if kind == "x0":
        return prediction
    if kind == "epsilon":
        return x - sigma * prediction
    if kind == "v":
        return x / (1 + sigma**2) - sigma / (1 + sigma**2).sqrt() * prediction
    if kind == "score":
        return x + sigma**2 * prediction
    raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")


def from_x0(x0: Tensor, x: Tensor, sigma: Tensor | float, *, kind: str) -> Tensor:
    """Return the prediction of `kind` that implies `x0` at the state x: the inverse of `to_x0`, same arguments."""
    sigma = _per_sample(sigma, x).to(x.dtype)
    if kind == "x0":
        return x0
    if kind == "epsilon":
        return (x - x0) / sigma
    if kind == "v":
        return ((x - x0) / sigma - sigma * x0) / (1 + sigma**2).sqrt()
    if kind == "score":
        return (x0 - x) / sigma**2
    raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")


class Preconditioning(NamedTuple):
    """EDM's four factors at a noise level, D(x, σ) = c_skip·x + c_out·F(c_in·x, c_noise): see `edm_preconditioning`."""

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor
    c_noise: Tensor


def edm_preconditioning(sigma: Tensor, *, sigma_data: float = 0.5) -> Preconditioning:
    """Return EDM's factors, which keep the network's input and target at variance one for every σ.

        c_skip  = σ_data²/(σ² + σ_data²)           c_in    = 1/sqrt(σ² + σ_data²)
        c_out   = σ·σ_data/sqrt(σ² + σ_data²)      c_noise = ln(σ)/4

    With much noise c_skip is 0 and the network predicts x0; with little noise c_skip is 1 and it predicts the noise.
    Its error reaches the result times c_out, which never exceeds σ_data: a pure noise prediction multiplies it by σ.

    Parameters
    ----------
    sigma : (...) tensor
        Positive.
    sigma_data : float
        Standard deviation of the data.

    Returns
    -------
    Preconditioning
        Four tensors of the shape of `sigma`.

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

    Parameters
    ----------
    network : callable
        Gets c_in·x of shape (batch, ...), c_noise of shape (batch,) and the condition as it came.
    sigma_data : float
        Standard deviation of the data.

    Returns
    -------
    callable
        ``D(x, sigma, *condition)`` with sigma a float, or a tensor of shape (), (batch,) or (batch, 1, ...).

    Source: Karras et al. 2022, eq. 7.
    """

    def denoiser(x: Tensor, sigma: Tensor | float, *condition: object) -> Tensor:
        level = _per_sample(sigma, x).to(x.dtype)
        c = edm_preconditioning(level, sigma_data=sigma_data)
        return c.c_skip * x + c.c_out * network(c.c_in * x, c.c_noise.reshape(-1).expand(len(x)), *condition)

    return denoiser


def _check_steps(n_steps: int) -> None:
    if n_steps < 1:
        raise ValueError(f"n_steps must be at least 1, got {n_steps}")


def _from_betas(betas: Tensor) -> Tensor:
    """Return ᾱ_T..ᾱ_0 for β_1..β_T."""
    alpha_bars = torch.cat([betas.new_ones(1), (1 - betas).cumprod(0)])
    return alpha_bars.flip(0)


def _per_sample(level: Tensor | float | None, x: Tensor) -> Tensor:
    """Return a noise level so that it multiplies x sample by sample: (batch,) becomes (batch, 1, ...)."""
    if not isinstance(level, Tensor):  # torch would make a float32 tensor of a Python float
        level = torch.tensor(level, dtype=torch.float64, device=x.device)
    return level.reshape(-1, *[1] * (x.ndim - 1)) if level.ndim == 1 else level
