"""The shortest stable answer: each unit is its formula."""

import math

import torch


def linear_alpha_bars(n_steps=1000, *, beta_start=1e-4, beta_end=0.02):
    if n_steps < 1 or not 0 < beta_start < 1 or not 0 < beta_end < 1:
        raise ValueError("n_steps must be at least 1 and the betas in (0, 1)")
    betas = torch.linspace(beta_start, beta_end, n_steps, dtype=torch.float64)
    alpha_bars = torch.cumprod(1 - betas, 0)
    return torch.cat([alpha_bars.flip(0), torch.ones(1, dtype=torch.float64)])


def karras_sigmas(n_steps, *, sigma_min=0.002, sigma_max=80.0, rho=7.0, to_zero=True):
    if n_steps < 1 or not 0 < sigma_min < sigma_max or not rho > 0:
        raise ValueError("need n_steps >= 1, 0 < sigma_min < sigma_max and rho > 0")
    n = n_steps if to_zero else n_steps + 1
    roots = torch.linspace(sigma_max ** (1 / rho), sigma_min ** (1 / rho), n, dtype=torch.float64)
    sigmas = roots**rho
    return torch.cat([sigmas, sigmas.new_zeros(1)]) if to_zero else sigmas


def _spread(level, x):
    if not isinstance(level, torch.Tensor):
        level = torch.tensor(level, dtype=torch.float64)
    return level.reshape(-1, *[1] * (x.ndim - 1))


def add_noise(x0, noise, *, sigma=None, alpha_bar=None):
    if noise.shape != x0.shape or (sigma is None) == (alpha_bar is None):
        raise ValueError("noise must have the shape of x0; give either sigma or alpha_bar")
    if sigma is not None:
        return x0 + _spread(sigma, x0).to(x0.dtype) * noise
    level = _spread(alpha_bar, x0)
    return level.sqrt().to(x0.dtype) * x0 + (1 - level).sqrt().to(x0.dtype) * noise


def to_x0(prediction, x, sigma, *, kind):
    sigma = _spread(sigma, x).to(x.dtype)
    if kind == "x0":
        return prediction
    if kind == "epsilon":
        return x - sigma * prediction
    if kind == "v":
        return x / (1 + sigma**2) - sigma / (1 + sigma**2).sqrt() * prediction
    if kind == "score":
        return x + sigma**2 * prediction
    raise ValueError(f"unknown kind {kind!r}")


def ddpm(denoiser, x, alpha_bars, *, generator=None):
    alpha_bars = alpha_bars.double()
    for t, s in zip(alpha_bars[:-1], alpha_bars[1:]):
        x0 = denoiser(x / t.sqrt(), ((1 - t) / t).sqrt().to(x.dtype))
        alpha = t / s
        beta = 1 - alpha
        x = s.sqrt() * beta / (1 - t) * x0 + alpha.sqrt() * (1 - s) / (1 - t) * x
        if s < 1:
            std = ((1 - s) / (1 - t) * beta).sqrt()
            x = x + std * torch.randn(x.shape, dtype=x.dtype, generator=generator)
        yield x


def ddim(denoiser, x, alpha_bars, *, eta=0.0, generator=None):
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must be in [0, 1], got {eta}")
    alpha_bars = alpha_bars.double()
    for t, s in zip(alpha_bars[:-1], alpha_bars[1:]):
        x0 = denoiser(x / t.sqrt(), ((1 - t) / t).sqrt().to(x.dtype))
        epsilon = (x - t.sqrt() * x0) / (1 - t).sqrt()
        variance = eta**2 * (1 - s) / (1 - t) * (1 - t / s)
        x = s.sqrt() * x0 + (1 - s - variance).sqrt() * epsilon
        if variance > 0:
            x = x + variance.sqrt() * torch.randn(x.shape, dtype=x.dtype, generator=generator)
        yield x


def euler(denoiser, x, sigmas):
    sigmas = sigmas.double()
    for sigma, sigma_next in zip(sigmas[:-1], sigmas[1:]):
        x = x + (sigma_next - sigma) / sigma * (x - denoiser(x, sigma.to(x.dtype)))
        yield x


def heun(denoiser, x, sigmas):
    sigmas = sigmas.double()
    for sigma, sigma_next in zip(sigmas[:-1], sigmas[1:]):
        d = (x - denoiser(x, sigma.to(x.dtype))) / sigma
        x_next = x + (sigma_next - sigma) * d
        if sigma_next > 0:
            d_next = (x_next - denoiser(x_next, sigma_next.to(x.dtype))) / sigma_next
            x_next = x + (sigma_next - sigma) * (d + d_next) / 2
        x = x_next
        yield x


def guided(conditional, unconditional, w):
    if not math.isfinite(w):
        raise ValueError(f"w must be finite, got {w}")
    if w == 0:
        return unconditional
    if w == 1:
        return conditional

    def denoiser(x, sigma):
        without = unconditional(x, sigma)
        return without + w * (conditional(x, sigma) - without)

    return denoiser


@torch.no_grad()
def sample(sampler, denoiser, noise, grid, **options):
    steps = grid.diff()
    falls = len(grid) > 1 and bool((steps < 0).all()) and bool((grid >= 0).all())
    rises = len(grid) > 1 and bool((steps > 0).all()) and bool((grid > 0).all() and (grid <= 1).all())
    if not falls and not rises:
        raise ValueError("the grid must fall to 0 or above, or rise within (0, 1]")
    x = grid[0] * noise if falls else noise
    for x in sampler(denoiser, x, grid, **options):  # noqa: B007
        pass
    return x
