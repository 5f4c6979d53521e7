"""Coefficients are Python floats; a step is a weighted sum of the state, the answer and fresh noise; options are checked at the call."""

import math
from itertools import pairwise

import torch


def linear_alpha_bars(n_steps=1000, *, beta_start=1e-4, beta_end=0.02):
    if n_steps < 1:
        raise ValueError(f"n_steps is at least 1, got {n_steps}")
    for beta in (beta_start, beta_end):
        if not 0.0 < beta < 1.0:
            raise ValueError(f"a beta lies in (0, 1), got {beta}")
    levels = [1.0]
    for i in range(n_steps):
        share = i / (n_steps - 1) if n_steps > 1 else 0.0
        levels.append(levels[-1] * (1.0 - (beta_start + share * (beta_end - beta_start))))
    return torch.tensor(levels[::-1], dtype=torch.float64)


def karras_sigmas(n_steps, *, sigma_min=0.002, sigma_max=80.0, rho=7.0, to_zero=True):
    if n_steps < 1:
        raise ValueError(f"n_steps is at least 1, got {n_steps}")
    if not (0.0 < sigma_min < sigma_max):
        raise ValueError(f"0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}")
    if not rho > 0.0:
        raise ValueError(f"rho is positive, got {rho}")
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    n = n_steps if to_zero else n_steps + 1
    sigmas = [sigma_max] + [(high + i / (n - 1) * (low - high)) ** rho for i in range(1, n)]
    return torch.tensor(sigmas + [0.0] * to_zero, dtype=torch.float64)


def _column(level, like):
    """Return a level in float64 that broadcasts over the samples of `like`."""
    level = torch.as_tensor(level, dtype=torch.float64, device=like.device)
    if level.ndim == 1:
        level = level.view((-1,) + (1,) * (like.ndim - 1))
    return level


def add_noise(x0, noise, *, sigma=None, alpha_bar=None):
    if x0.shape != noise.shape:
        raise ValueError(f"noise has shape {tuple(noise.shape)}, x0 {tuple(x0.shape)}")
    if sigma is None and alpha_bar is None:
        raise ValueError("give sigma or alpha_bar")
    if sigma is not None and alpha_bar is not None:
        raise ValueError("give only one of sigma and alpha_bar")
    if alpha_bar is None:
        signal, scale = 1.0, _column(sigma, x0)
    else:
        level = _column(alpha_bar, x0)
        signal, scale = torch.sqrt(level), torch.sqrt(1.0 - level)
    return (signal * x0.double() + scale * noise.double()).to(x0.dtype)


def to_x0(prediction, x, sigma, *, kind):
    column = _column(sigma, x)
    variance = column.square()
    if kind == "x0":
        keep, add = torch.zeros_like(variance), torch.ones_like(variance)
    elif kind == "epsilon":
        keep, add = torch.ones_like(variance), -column
    elif kind == "v":
        keep, add = 1 / (1 + variance), -column * torch.rsqrt(1 + variance)
    elif kind == "score":
        keep, add = torch.ones_like(variance), variance
    else:
        raise ValueError(f"kind is x0, epsilon, v or score, got {kind!r}")
    return keep.to(x.dtype) * x + add.to(x.dtype) * prediction.to(x.dtype)


def _fresh(x, generator):
    return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)


def _ask(denoiser, x, alpha_bar):
    sigma = math.sqrt((1 - alpha_bar) / alpha_bar)
    return denoiser(x / math.sqrt(alpha_bar), torch.tensor(sigma, dtype=x.dtype, device=x.device))


def ddpm(denoiser, x, alpha_bars, *, generator=None):
    for now, then in pairwise(alpha_bars.tolist()):
        x0 = _ask(denoiser, x, now)
        alpha = now / then
        weight_x0 = math.sqrt(then) * (1 - alpha) / (1 - now)
        weight_x = math.sqrt(alpha) * (1 - then) / (1 - now)
        std = math.sqrt((1 - then) / (1 - now) * (1 - alpha))
        x = weight_x0 * x0 + weight_x * x
        if std > 0:
            x = x + std * _fresh(x, generator)
        yield x


def ddim(denoiser, x, alpha_bars, *, eta=0.0, generator=None):
    if not 0.0 <= eta <= 1.0:
        raise ValueError(f"eta lies in [0, 1], got {eta}")

    def steps(x):
        for now, then in pairwise(alpha_bars.tolist()):
            x0 = _ask(denoiser, x, now)
            renewed = eta**2 * (1 - then) / (1 - now) * (1 - now / then)
            kept = math.sqrt(max(1 - then - renewed, 0.0) / (1 - now))
            x = kept * x + (math.sqrt(then) - kept * math.sqrt(now)) * x0
            if renewed > 0:
                x = x + math.sqrt(renewed) * _fresh(x, generator)
            yield x

    return steps(x)


def euler(denoiser, x, sigmas):
    for sigma, sigma_next in pairwise(sigmas.tolist()):
        ratio = sigma_next / sigma
        answer = denoiser(x, torch.tensor(sigma, dtype=x.dtype, device=x.device))
        x = ratio * x + (1 - ratio) * answer
        yield x


def heun(denoiser, x, sigmas):
    for sigma, sigma_next in pairwise(sigmas.tolist()):
        answer = denoiser(x, torch.tensor(sigma, dtype=x.dtype, device=x.device))
        slope = (x - answer) / sigma
        if sigma_next == 0:
            x = answer.clone()
        else:
            guess = torch.add(x, slope, alpha=sigma_next - sigma)
            second = denoiser(guess, torch.tensor(sigma_next, dtype=x.dtype, device=x.device))
            slope_next = (guess - second) / sigma_next
            x = x + (sigma_next - sigma) * 0.5 * (slope + slope_next)
        yield x


def guided(conditional, unconditional, w):
    if not math.isfinite(w):
        raise ValueError(f"w is finite, got {w}")

    def denoiser(x, sigma):
        if w == 0:
            return unconditional(x, sigma)
        if w == 1:
            return conditional(x, sigma)
        return (1 - w) * unconditional(x, sigma) + w * conditional(x, sigma)

    return denoiser


@torch.no_grad()
def sample(sampler, denoiser, noise, grid, **options):
    levels = grid.tolist()
    if len(levels) < 2:
        raise ValueError(f"a grid has two levels or more, got {len(levels)}")
    if all(a > b for a, b in pairwise(levels)) and levels[-1] >= 0:
        state = noise * levels[0]
    elif all(a < b for a, b in pairwise(levels)) and levels[0] > 0 and levels[-1] <= 1:
        state = noise
    else:
        raise ValueError("the levels fall and are not below 0, or rise within (0, 1]")
    for after in sampler(denoiser, state, grid, **options):
        state = after
    return state
