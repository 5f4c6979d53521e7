"""Diffusion sampling: five ways to turn noise into data, each a short loop around one denoiser.

A denoiser D(x, σ) answers one question: of all clean data that could hide behind x = x0 + σ·noise, what is the mean?
Everything else is arithmetic. A sampler starts with much noise, asks, takes a step towards the answer, and asks again
at the next lower noise level.

    euler, heun, dpm_solver_2m     state x   = x0 + σ·n                       (EDM; σ grows from 0)
    ddim, ddpm                     state x_t = sqrt(ᾱ)·x0 + sqrt(1 - ᾱ)·n     (DDPM; ᾱ falls from 1)

The two states are one, x = x_t/sqrt(ᾱ) with σ = sqrt((1 - ᾱ)/ᾱ), so all five call the same denoiser.

Each sampler is a generator of the state after every step, so a caller can watch, plot or stop; `sample` runs one to
its end. Every state is a new tensor in the dtype of `x`; the coefficients are computed in float64. Gradients flow
through the steps unless you turn them off (`sample` does).

Sources: DDPM, Ho et al. 2020, arXiv 2006.11239; DDIM, Song et al. 2020, arXiv 2010.02502; EDM, Karras et al. 2022,
arXiv 2206.00364; DPM-Solver++, Lu et al. 2022, arXiv 2211.01095.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

__all__ = ["ddim", "ddpm", "dpm_solver_2m", "euler", "heun", "sample"]

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""``D(x, sigma) -> x0``: x is (batch, ...), sigma a tensor that broadcasts against it, () here."""


def euler(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    *,
    churn: float = 0.0,
    churn_min: float = 0.0,
    churn_max: float = math.inf,
    noise_scale: float = 1.0,
    generator: torch.Generator | None = None,
) -> Iterator[Tensor]:
    """Follow the probability-flow ODE dx/dσ = (x - D(x, σ))/σ in straight steps, first order; 1 call per step.

        x̂ = x + sqrt(σ̂² - σ²)·noise_scale·z,   σ̂ = σ·(1 + γ)           only where churn adds noise
        d  = (x̂ - D(x̂, σ̂))/σ̂
        x  = x̂ + (σ_next - σ̂)·d

    Churn adds fresh noise before a step and lets the step remove it: γ = min(churn/n_steps, sqrt(2) - 1) for σ in
    [churn_min, churn_max], else 0. It corrects earlier errors, at the price of more steps.

    Parameters
    ----------
    denoiser : callable
        ``D(x, sigma) -> x0``.
    x : (batch, ...) float tensor
        The state at sigmas[0], so about sigmas[0] times standard normal noise. It is not modified.
    sigmas : (n_steps + 1,) tensor
        Falling; positive but for the last, which may be 0.
    churn, churn_min, churn_max, noise_scale : float
        S_churn, S_tmin, S_tmax and S_noise of the paper.
    generator : torch.Generator, optional
        Source of the fresh noise; nothing is drawn where γ is 0.

    Yields
    ------
    (batch, ...) tensor
        The state at sigmas[1], sigmas[2], ...

    Raises
    ------
    ValueError
        With the first step drawn, if the grid is not as described (the message names the step) or `churn` is negative or NaN.
        Later, if the denoiser returns another shape or a value that is not finite; the message names the step,
        counted from 0.
    TypeError
        If `x` is not a floating-point tensor.

    Source: Karras et al. 2022, arXiv 2206.00364, algorithm 2 without its second-order correction.
    """
    levels, on_device = _sigma_grid(sigmas, x)
    gammas = _churn_factors(levels, churn, churn_min, churn_max)
    for step, (sigma, sigma_next) in enumerate(pairwise(levels)):
        x, sigma, level = _add_churn(x, sigma, on_device[step], gammas[step], noise_scale, generator)
        x0 = _call(denoiser, x, level, step)
        x = x + (sigma_next - sigma) / sigma * (x - x0)
        yield x


def heun(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    *,
    churn: float = 0.0,
    churn_min: float = 0.0,
    churn_max: float = math.inf,
    noise_scale: float = 1.0,
    generator: torch.Generator | None = None,
) -> Iterator[Tensor]:
    """Follow the same ODE with the mean of the slopes at both ends of a step, second order; 2 calls per step.

        d     = (x̂ - D(x̂, σ̂))/σ̂                          as in `euler`, churn included
        x'    = x̂ + (σ_next - σ̂)·d
        d'    = (x' - D(x', σ_next))/σ_next
        x     = x̂ + (σ_next - σ̂)·(d + d')/2              but x = x' where σ_next is 0: there is no slope

    Parameters, yields and errors are those of `euler`. A grid of n steps that ends at 0 takes 2n - 1 calls.

    Source: Karras et al. 2022, arXiv 2206.00364, algorithm 2.
    """
    levels, on_device = _sigma_grid(sigmas, x)
    gammas = _churn_factors(levels, churn, churn_min, churn_max)
    for step, (sigma, sigma_next) in enumerate(pairwise(levels)):
        x, sigma, level = _add_churn(x, sigma, on_device[step], gammas[step], noise_scale, generator)
        slope = (x - _call(denoiser, x, level, step)) / sigma
        x_next = x + (sigma_next - sigma) * slope
        if sigma_next > 0:
            slope_next = (x_next - _call(denoiser, x_next, on_device[step + 1], step)) / sigma_next
            x_next = x + (sigma_next - sigma) / 2 * (slope + slope_next)
        x = x_next
        yield x


def dpm_solver_2m(denoiser: Denoiser, x: Tensor, sigmas: Tensor) -> Iterator[Tensor]:
    """Solve the ODE in λ = -ln σ, where only D is curved, with a line through its last two values; 1 call per step.

        h = λ_next - λ,   r = (λ - λ_previous)/h
        D' = (1 + 1/(2r))·D - 1/(2r)·D_previous            D in the first step, and in a last one to σ = 0
        x  = (σ_next/σ)·x + (1 - e^-h)·D'

    Second order for the price of `euler`, because it remembers one answer ("2M": second order, multistep).

    Parameters
    ----------
    denoiser, x, sigmas
        As in `euler`.

    Yields
    ------
    (batch, ...) tensor
        The state at sigmas[1], sigmas[2], ...

    Raises
    ------
    ValueError, TypeError
        As `euler`.

    Source: Lu et al. 2022, arXiv 2211.01095, algorithm 2, for α = 1.
    """
    levels, on_device = _sigma_grid(sigmas, x)
    previous: Tensor | None = None
    h_previous = math.nan
    for step, (sigma, sigma_next) in enumerate(pairwise(levels)):
        x0 = _call(denoiser, x, on_device[step], step)
        h = math.log(sigma / sigma_next) if sigma_next > 0 else math.inf
        estimate = x0
        if previous is not None and sigma_next > 0:
            r = h_previous / h
            estimate = (1 + 1 / (2 * r)) * x0 - 1 / (2 * r) * previous
        x = sigma_next / sigma * x - math.expm1(-h) * estimate
        previous, h_previous = x0, h
        yield x


def ddim(
    denoiser: Denoiser,
    x: Tensor,
    alpha_bars: Tensor,
    *,
    eta: float = 0.0,
    generator: torch.Generator | None = None,
) -> Iterator[Tensor]:
    """Step from x_t to x_s by keeping the noise that D implies, or renewing a part of it; 1 call per step.

        ε   = (x_t - sqrt(ᾱ_t)·x0)/sqrt(1 - ᾱ_t),   x0 = D(x_t/sqrt(ᾱ_t), sqrt((1 - ᾱ_t)/ᾱ_t))
        s²  = η²·(1 - ᾱ_s)/(1 - ᾱ_t)·(1 - ᾱ_t/ᾱ_s)
        x_s = sqrt(ᾱ_s)·x0 + sqrt(1 - ᾱ_s - s²)·ε + s·z

    η = 0 draws nothing: the same noise always gives the same sample, and the walk is `euler` on rescaled states.
    η = 1 is `ddpm`.

    Parameters
    ----------
    denoiser : callable
        ``D(x, sigma) -> x0``: it sees the state rescaled to x0 + σ·n, as in `euler`.
    x : (batch, ...) float tensor
        The state at alpha_bars[0], about standard normal noise. It is not modified.
    alpha_bars : (n_steps + 1,) tensor
        Rising, in (0, 1), and 1 at the end; any part of a schedule will do. float64 keeps 1 - ᾱ accurate.
    eta : float
        In [0, 1].
    generator : torch.Generator, optional
        Source of z; nothing is drawn where s is 0.

    Yields
    ------
    (batch, ...) tensor
        The state at alpha_bars[1], alpha_bars[2], ...; the last is the sample.

    Raises
    ------
    ValueError
        With the first step drawn, if the grid is not as described (the message names the step) or `eta` is outside
        [0, 1]. Later, for the denoiser as in `euler`.
    TypeError
        If `x` is not a floating-point tensor.

    Source: Song et al. 2020, arXiv 2010.02502, eq. 12 and 16.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie in [0, 1], got {eta}")
    grid = _alpha_bar_grid(alpha_bars, x)
    for step, (a_t, a_s) in enumerate(pairwise(grid)):
        x0 = _call_rescaled(denoiser, x, a_t, step)
        epsilon = (x - math.sqrt(a_t) * x0) / math.sqrt(1 - a_t)
        s = eta * math.sqrt((1 - a_s) / (1 - a_t) * (1 - a_t / a_s))
        x = math.sqrt(a_s) * x0 + math.sqrt(max(1 - a_s - s**2, 0.0)) * epsilon
        if s > 0:
            x = x + s * _randn_like(x, generator)
        yield x


def ddpm(
    denoiser: Denoiser, x: Tensor, alpha_bars: Tensor, *, generator: torch.Generator | None = None
) -> Iterator[Tensor]:
    """Draw x_s from the posterior q(x_s | x_t, x0) with D for x0: ancestral sampling; 1 call per step.

        α = ᾱ_t/ᾱ_s,   β = 1 - α
        mean     = sqrt(ᾱ_s)·β/(1 - ᾱ_t)·x0 + sqrt(α)·(1 - ᾱ_s)/(1 - ᾱ_t)·x_t
        variance = β̃ = (1 - ᾱ_s)/(1 - ᾱ_t)·β                    0 in the last step, where nothing is drawn

    Parameters, yields and errors are those of `ddim`, without `eta`. Built for many steps: with few, β̃ is far from the
    true variance of x_s given x_t, which includes how unsure D is about x0.

    Source: Ho et al. 2020, arXiv 2006.11239, algorithm 2 and eq. 6 and 7.
    """
    grid = _alpha_bar_grid(alpha_bars, x)
    for step, (a_t, a_s) in enumerate(pairwise(grid)):
        x0 = _call_rescaled(denoiser, x, a_t, step)
        alpha = a_t / a_s
        beta = 1 - alpha
        mean_x0 = math.sqrt(a_s) * beta / (1 - a_t)
        mean_xt = math.sqrt(alpha) * (1 - a_s) / (1 - a_t)
        variance = (1 - a_s) / (1 - a_t) * beta
        x = mean_x0 * x0 + mean_xt * x
        if variance > 0:
            x = x + math.sqrt(variance) * _randn_like(x, generator)
        yield x


def sample(
    sampler: Callable[..., Iterator[Tensor]],
    denoiser: Denoiser,
    noise: Tensor,
    grid: Tensor,
    *,
    progress: bool = True,
    **options: Any,
) -> Tensor:
    """Run a sampler from pure noise to its last state, without gradients.

    Parameters
    ----------
    sampler : callable
        One of `euler`, `heun`, `dpm_solver_2m`, `ddim`, `ddpm`.
    denoiser : callable
    noise : (batch, ...) float tensor
        Standard normal. It is scaled here to the noise level at which the grid starts: times sigmas[0] for the EDM
        samplers, as it is for `ddim` and `ddpm`, whose states have variance one. So the same `noise` starts all five.
    grid : (n_steps + 1,) tensor
        sigmas, or alpha_bars for `ddim` and `ddpm`.
    progress : bool
        Show a bar where the output is a terminal.
    **options
        Handed to the sampler: `churn`, `eta`, `generator`, ...

    Returns
    -------
    (batch, ...) tensor
        The last state.

    Raises
    ------
    ValueError, TypeError
        As the sampler.
    """
    with torch.no_grad():
        x = noise if sampler in (ddim, ddpm) else noise * float(grid[0])
        states = sampler(denoiser, x, grid, **options)
        bar = tqdm(
            states,
            total=len(grid) - 1,
            desc=sampler.__name__,
            leave=False,
            disable=None if progress else True,
        )
        for state in bar:
            x = state
    return x


# --- one call of the denoiser ---------------------------------------------------------------------------------


def _call(denoiser: Denoiser, x: Tensor, sigma: Tensor, step: int) -> Tensor:
    """Return D(x, sigma), or say in which step it went wrong: a NaN found at the end could come from any of them."""
    x0 = denoiser(x, sigma)
    if x0.shape != x.shape:
        raise ValueError(
            f"step {step}: the denoiser returned shape {tuple(x0.shape)}, expected {tuple(x.shape)}"
        )
    # One pass and one number read back; a finite sum proves all finite, an infinite one may be an overflow.
    if not math.isfinite(x0.detach().sum().item()) and not bool(torch.isfinite(x0).all()):
        raise ValueError(f"step {step}: the denoiser returned NaN or inf at sigma = {float(sigma):.6g}")
    return x0


def _call_rescaled(denoiser: Denoiser, x: Tensor, alpha_bar: float, step: int) -> Tensor:
    """Return D for a state of DDPM's kind: x/sqrt(ᾱ) is x0 plus noise of σ = sqrt((1 - ᾱ)/ᾱ)."""
    sigma = x.new_tensor(math.sqrt((1 - alpha_bar) / alpha_bar))
    return _call(denoiser, x / math.sqrt(alpha_bar), sigma, step)


# --- churn ----------------------------------------------------------------------------------------------------


def _churn_factors(levels: list[float], churn: float, low: float, high: float) -> list[float]:
    """Return γ for each step."""
    if not churn >= 0:
        raise ValueError(f"churn must not be negative, got {churn}")
    gamma = min(churn / (len(levels) - 1), math.sqrt(2) - 1)
    return [gamma if low <= sigma <= high else 0.0 for sigma in levels[:-1]]


def _add_churn(
    x: Tensor,
    sigma: float,
    level: Tensor,
    gamma: float,
    noise_scale: float,
    generator: torch.Generator | None,
) -> tuple[Tensor, float, Tensor]:
    """Raise the state's noise from σ to σ̂; return the state, σ̂ and σ̂ as the tensor that the denoiser gets."""
    if gamma == 0:
        return x, sigma, level
    raised = sigma * (1 + gamma)
    added = math.sqrt(raised**2 - sigma**2) * noise_scale
    return x + added * _randn_like(x, generator), raised, x.new_tensor(raised)


def _randn_like(x: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)


# --- grids ----------------------------------------------------------------------------------------------------


def _sigma_grid(sigmas: Tensor, x: Tensor) -> tuple[list[float], Tensor]:
    """Return the noise levels as float64 numbers, and as a tensor beside `x`; refuse what is no falling grid."""
    levels = _numbers(sigmas, "sigmas", x)
    for step, (sigma, sigma_next) in enumerate(pairwise(levels)):
        if not (sigma > 0 and 0 <= sigma_next < sigma < math.inf):
            raise ValueError(
                f"step {step}: sigmas must be positive and fall (only the last may be 0), got {sigma} -> {sigma_next}"
            )
    return levels, sigmas.to(device=x.device, dtype=x.dtype)


def _alpha_bar_grid(alpha_bars: Tensor, x: Tensor) -> list[float]:
    """Return the ᾱ as float64 numbers; refuse what is no grid rising to 1."""
    levels = _numbers(alpha_bars, "alpha_bars", x)
    for step, (a_t, a_s) in enumerate(pairwise(levels)):
        if not 0 < a_t < a_s <= 1:
            raise ValueError(
                f"step {step}: alpha_bars must be positive and rise, from most noise to none, got {a_t} -> {a_s}"
            )
    if levels[-1] != 1:
        raise ValueError(f"step {len(levels) - 2}: alpha_bars must end at 1, got {levels[-1]}")
    return levels


def _numbers(grid: Tensor, name: str, x: Tensor) -> list[float]:
    if not x.is_floating_point():
        raise TypeError(f"x must be a floating-point tensor, got {x.dtype}")
    if grid.ndim != 1 or len(grid) < 2:
        raise ValueError(
            f"{name} must be (n_steps + 1,) with at least one step, got shape {tuple(grid.shape)}"
        )
    return [float(level) for level in grid.tolist()]
