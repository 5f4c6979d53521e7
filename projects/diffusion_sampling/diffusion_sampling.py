"""The diffusion sampling loop: noise levels, the forward process, four samplers, and guidance.

A denoiser D(x, σ) answers one question: of all clean data that could hide behind x = x0 + σ·n, what is the mean? A sampler
starts from noise, asks, takes a step towards the answer, and asks again at the next lower level. A level is named by σ or
by ᾱ, and the two states differ in scale only: x = x_t/sqrt(ᾱ) with σ = sqrt((1 - ᾱ)/ᾱ).

    euler, heun    x   = x0 + σ·n                        sigmas fall, positive; the last may be 0          (EDM)
    ddpm, ddim     x_t = sqrt(ᾱ)·x0 + sqrt(1 - ᾱ)·n      alpha_bars rise, in (0, 1); the last may be 1     (DDPM)

All four are called as ``sampler(denoiser, x, grid)``. The grid, (n_steps + 1,), runs from most noise to least; x, the state
at its first level, is (batch, ...), float32 or float64, and not modified. ``denoiser(x, sigma)`` gets x0 + σ·n, from ddpm and
ddim too, and σ as a tensor of shape (), both in the dtype of x and free to be written to. It returns D in the shape of x and a
dtype no wider. A sampler yields the state after each step, a new tensor in dtype and device of x, and computes a step only when
asked. Coefficients are float64: float32 leaves nothing of 1 - ᾱ near 1. Noise comes from `generator`: one ``torch.randn`` of x's
shape and dtype in each step that adds noise, none in the others. Gradients flow. checked.py refuses what breaks this.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Generator, Tensor

__all__ = ["linear_alpha_bars", "karras_sigmas", "add_noise", "to_x0", "ddpm", "ddim", "euler", "heun", "guided", "sample"]  # fmt: skip

Denoiser = Callable[[Tensor, Tensor], Tensor]
Level = Tensor | float | None
States = Iterator[Tensor]
Sampler = Callable[..., States]


def linear_alpha_bars(n_steps: int = 1000, *, beta_start: float = 1e-4, beta_end: float = 0.02) -> Tensor:
    """Return ᾱ_T, ..., ᾱ_1, ᾱ_0 = 1 for T = n_steps, float64: ᾱ_t = Π_{i ≤ t} (1 - β_i), β linear from β_1 to β_T.

    β_1 is `beta_start`, alone if T = 1; β_T is `beta_end`. ValueError for n_steps < 1 or betas outside (0, 1). Source: Ho 2020.
    """
    if n_steps < 1 or not (0 < beta_start < 1 and 0 < beta_end < 1):
        raise ValueError(f"need {n_steps=} >= 1, {beta_start=} and {beta_end=} in (0, 1)")
    betas = torch.linspace(beta_start, beta_end, n_steps, dtype=torch.float64)
    return torch.cat([betas.new_ones(1), (1 - betas).cumprod(0)]).flip(0)


def karras_sigmas(
    n_steps: int, *, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0, to_zero: bool = True
) -> Tensor:
    """Return n_steps + 1 falling levels, float64, evenly spaced in σ^(1/ρ), so dense where σ is small.

        σ_i = (σ_max^(1/ρ) + i/(n - 1)·(σ_min^(1/ρ) - σ_max^(1/ρ)))^ρ,   i = 0..n-1;   n = 1 is σ_max alone
    ``to_zero=True``: n = n_steps such levels, then 0. False: n = n_steps + 1 levels, down to sigma_min.
    ValueError for n_steps < 1, and unless 0 < sigma_min < sigma_max and rho > 0, finite. Source: Karras et al. 2022, eq. 5.
    """
    if n_steps < 1 or not (0 < sigma_min < sigma_max < math.inf and 0 < rho < math.inf):
        raise ValueError(f"need {n_steps=} >= 1, 0 < {sigma_min=} < {sigma_max=} and {rho=} > 0, finite")
    first, last = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    sigmas = torch.linspace(first, last, n_steps + (not to_zero), dtype=torch.float64) ** rho
    return torch.cat([sigmas, sigmas.new_zeros(1)]) if to_zero else sigmas


def add_noise(x0: Tensor, noise: Tensor, *, sigma: Level = None, alpha_bar: Level = None) -> Tensor:
    """Run the forward process in one jump: ``x0 + σ·noise``, or ``sqrt(ᾱ)·x0 + sqrt(1 - ᾱ)·noise``, in the dtype of x0.

    A level is a float, σ ≥ 0 or ᾱ in [0, 1], or a tensor of shape (), (batch,) or (batch, 1, ...), one per sample; x0 has any rank.
    1 - ᾱ is computed in the level's dtype, float64 for a float, and then rounded. ValueError for another shape of level or noise,
    or not just one of `sigma` and `alpha_bar`. Sources: Ho et al. 2020, eq. 4; Karras et al. 2022, section 2.
    """
    if noise.shape != x0.shape or (sigma is None) == (alpha_bar is None):
        raise ValueError(f"need noise of {x0.shape}, got {noise.shape}, and either sigma or alpha_bar")
    if sigma is not None:
        return x0 + _per_sample(sigma, x0).to(x0.dtype) * noise
    a = _per_sample(alpha_bar, x0)
    return a.sqrt().to(x0.dtype) * x0 + (1 - a).sqrt().to(x0.dtype) * noise


def to_x0(prediction: Tensor, x: Tensor, sigma: Tensor | float, *, kind: str) -> Tensor:
    """Turn what a network predicts at x = x0 + σ·n into the x0 that it implies, in the shape and dtype of x.

        kind = "x0"        itself
        kind = "epsilon"   the noise:                      x0 = x - σ·ε
        kind = "v"         sqrt(ᾱ)·ε - sqrt(1 - ᾱ)·x0:     x0 = x/(1 + σ²) - σ/sqrt(1 + σ²)·v,   ᾱ = 1/(1 + σ²)
        kind = "score"     ∇ log p(x; σ):                  x0 = x + σ²·score
    `sigma` is a level as in `add_noise`. Further: float16 has no room for σ² where x0 fits, so nothing as large is
    computed in it; in both functions a level (batch, 1), and ValueError for integer data. ValueError for another kind, or a prediction of another shape than x. Source of v: Salimans and Ho 2022, arXiv 2202.00512.
    """
    if prediction.shape != x.shape:
        raise ValueError(f"need a prediction of {x.shape}, got {prediction.shape}")
    level = _per_sample(sigma, x).double()
    s, root = level.to(x.dtype), (1 + level**2).sqrt().to(x.dtype)
    if kind == "x0":
        return prediction.to(x.dtype)
    if kind == "epsilon":
        return x - s * prediction
    if kind == "v":
        return x / root / root - s / root * prediction
    if kind == "score":
        return x + s * (s * prediction)
    raise ValueError(f"kind must be x0, epsilon, v or score, got {kind!r}")


def ddpm(denoiser: Denoiser, x: Tensor, alpha_bars: Tensor, *, generator: Generator | None = None) -> States:
    """Draw x_s, the state at the next level ᾱ_s, from q(x_s | x_t, x0) with D in the place of x0. 1 call per step.

        mean     = sqrt(ᾱ_s)·β/(1 - ᾱ_t)·x0 + sqrt(α)·(1 - ᾱ_s)/(1 - ᾱ_t)·x_t          α = ᾱ_t/ᾱ_s,   β = 1 - α
        variance = β̃ = (1 - ᾱ_s)/(1 - ᾱ_t)·β                                            0 in a step to ᾱ_s = 1
    Source: Ho et al. 2020, arXiv 2006.11239, algorithm 2 and eq. 6 and 7.
    """
    for a_t, a_s in pairwise(alpha_bars.tolist()):
        x0 = denoiser(x / math.sqrt(a_t), x.new_tensor(math.sqrt((1 - a_t) / a_t)))
        alpha, beta = a_t / a_s, 1 - a_t / a_s
        x = math.sqrt(a_s) * beta / (1 - a_t) * x0 + math.sqrt(alpha) * (1 - a_s) / (1 - a_t) * x
        if a_s < 1:
            z = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
            x = x + math.sqrt((1 - a_s) / (1 - a_t) * beta) * z
        yield x


def ddim(
    denoiser: Denoiser, x: Tensor, alpha_bars: Tensor, *, eta: float = 0.0, generator: Generator | None = None
) -> States:
    """Step from x_t to x_s and keep the noise ε that D implies, or renew a part of it. 1 call per step.

        ε   = (x_t - sqrt(ᾱ_t)·x0)/sqrt(1 - ᾱ_t),   x0 = D(x_t/sqrt(ᾱ_t), sqrt((1 - ᾱ_t)/ᾱ_t))
        s²  = η²·(1 - ᾱ_s)/(1 - ᾱ_t)·(1 - ᾱ_t/ᾱ_s)
        x_s = sqrt(ᾱ_s)·x0 + sqrt(1 - ᾱ_s - s²)·ε + s·z
    η = 0 adds no noise, and is `euler` on rescaled states; η = 1 is `ddpm`. ValueError unless 0 <= eta <= 1.
    Source: Song et al. 2020, arXiv 2010.02502, eq. 12 and 16.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie in [0, 1], got {eta}")
    for a_t, a_s in pairwise(alpha_bars.tolist()):
        x0 = denoiser(x / math.sqrt(a_t), x.new_tensor(math.sqrt((1 - a_t) / a_t)))
        epsilon = (x - math.sqrt(a_t) * x0) / math.sqrt(1 - a_t)
        s = eta * math.sqrt((1 - a_s) / (1 - a_t) * (1 - a_t / a_s))
        x = math.sqrt(a_s) * x0 + math.sqrt(max(1 - a_s - s**2, 0)) * epsilon
        if s > 0:
            x = x + s * torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        yield x


def euler(denoiser: Denoiser, x: Tensor, sigmas: Tensor) -> States:
    """Follow dx/dσ = (x - D(x, σ))/σ in straight steps, ``x + (σ_next - σ)·(x - D(x, σ))/σ``. 1 call per step."""
    for sigma, sigma_next in pairwise(sigmas.tolist()):
        slope = (x - denoiser(x.clone(), x.new_tensor(sigma))) / sigma
        x = x + (sigma_next - sigma) * slope
        yield x


def heun(denoiser: Denoiser, x: Tensor, sigmas: Tensor) -> States:
    """Follow the same curve with the mean of the slopes at both ends of a step. 2 calls per step.

        d  = (x - D(x, σ))/σ                       x'   = x + (σ_next - σ)·d
        d' = (x' - D(x', σ_next))/σ_next           next = x + (σ_next - σ)·(d + d')/2
    A step to σ_next = 0 has no d': it ends at x', after 1 call. Source: Karras et al. 2022, arXiv 2206.00364, algorithm 1.
    """
    for sigma, sigma_next in pairwise(sigmas.tolist()):
        slope = (x - denoiser(x.clone(), x.new_tensor(sigma))) / sigma
        if sigma_next > 0:
            predicted = x + (sigma_next - sigma) * slope
            slope_next = (predicted - denoiser(predicted.clone(), x.new_tensor(sigma_next))) / sigma_next
            slope = (slope + slope_next) / 2
        x = x + (sigma_next - sigma) * slope
        yield x


def guided(conditional: Denoiser, unconditional: Denoiser, w: float) -> Denoiser:
    """Return the denoiser ``D_uncond + w·(D_cond - D_uncond)``: it exaggerates what the condition changes.

    w = 0 and w = 1 are the two models themselves, and there the other one is not called. ValueError for a `w` that is not
    finite. Source: Ho and Salimans 2022, arXiv 2207.12598, eq. 6, whose w is ours less 1.
    """
    if not math.isfinite(w):
        raise ValueError(f"w must be finite, got {w}")
    if w in (0, 1):
        return conditional if w else unconditional
    return lambda x, sigma: (1 - w) * unconditional(x.clone(), sigma.clone()) + w * conditional(x, sigma)


@torch.no_grad()
def sample(sampler: Sampler, denoiser: Denoiser, noise: Tensor, grid: Tensor, **options: Any) -> Tensor:
    """Run ``sampler(denoiser, x, grid, **options)`` from standard normal `noise`; return its last state, without gradients.

    x starts at ``sigmas[0]·noise`` if the grid falls, at `noise` if it rises (alpha_bars); that the sampler takes such a grid is
    the caller's to see to. ValueError unless it has two finite levels or more, and they fall, none below 0, or rise in (0, 1].
    """
    steps = list(pairwise(grid.tolist()))
    falls, rises = all(math.inf > a > b >= 0 for a, b in steps), all(0 < a < b <= 1 for a, b in steps)
    if not steps or not (falls or rises):
        raise ValueError(f"the grid must fall to 0 or more, or rise within (0, 1], got {grid.tolist()}")
    x = noise * steps[0][0] if falls else noise
    return deque(sampler(denoiser, x, grid, **options), maxlen=1).pop()


def _per_sample(level: Level, x: Tensor) -> Tensor:
    """Shape a level so that it multiplies x sample by sample: (batch,) becomes (batch, 1, ...)."""
    level = level if isinstance(level, Tensor) else torch.tensor(level, dtype=torch.float64, device=x.device)
    if not x.is_floating_point() or not (level.numel() == 1 or level.numel() == len(level) == len(x)):
        raise ValueError(f"need floats and a level of () or (batch,), got {x.dtype} {x.shape}, {level.shape}")
    return level.reshape(-1, *[1] * (x.ndim - 1)) if level.ndim else level
