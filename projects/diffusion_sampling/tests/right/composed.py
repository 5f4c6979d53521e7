"""All coefficients at once as vectors, and units made of units: DDPM is DDIM with eta = 1, DDIM works on the unscaled state."""

from collections import deque

import torch


def linear_alpha_bars(n_steps=1000, *, beta_start=1e-4, beta_end=0.02):
    if n_steps < 1 or min(beta_start, beta_end) <= 0 or max(beta_start, beta_end) >= 1:
        raise ValueError(f"n_steps {n_steps}, beta_start {beta_start}, beta_end {beta_end}")
    betas = torch.linspace(beta_start, beta_end, n_steps, dtype=torch.double)
    logs = torch.cat([torch.zeros(1, dtype=torch.double), torch.log1p(-betas).cumsum(0)])
    return logs.exp().flip(0)


def karras_sigmas(n_steps, *, sigma_min=0.002, sigma_max=80.0, rho=7.0, to_zero=True):
    if n_steps < 1 or not (sigma_max > sigma_min > 0 and rho > 0):
        raise ValueError(f"n_steps {n_steps}, sigma_min {sigma_min}, sigma_max {sigma_max}, rho {rho}")
    steps = torch.arange(n_steps + 1, dtype=torch.double)
    last = max(n_steps - 1, 1) if to_zero else n_steps
    ends = torch.tensor([sigma_max, sigma_min], dtype=torch.double) ** (1 / rho)
    sigmas = torch.lerp(ends[0], ends[1], (steps / last).clamp(max=1.0)).pow(rho)
    if to_zero:
        sigmas[-1] = 0
    return sigmas


def _along_batch(level, x):
    level = level if torch.is_tensor(level) else x.new_tensor(level, dtype=torch.double)
    return level[(...,) + (None,) * (x.ndim - 1)] if level.ndim == 1 else level


def add_noise(x0, noise, *, sigma=None, alpha_bar=None):
    if noise.shape != x0.shape:
        raise ValueError("x0 and noise differ in shape")
    match sigma, alpha_bar:
        case (None, None):
            raise ValueError("neither sigma nor alpha_bar")
        case (_, None):
            return torch.addcmul(x0, noise, _along_batch(sigma, x0).type_as(x0))
        case (None, _):
            level = _along_batch(alpha_bar, x0)
            return x0 * level.sqrt().type_as(x0) + noise * (1 - level).sqrt().type_as(x0)
    raise ValueError("both sigma and alpha_bar")


def to_x0(prediction, x, sigma, *, kind):
    sigma = _along_batch(sigma, x)
    cos, sin = (
        1 / torch.hypot(sigma, torch.ones_like(sigma)),
        sigma / torch.hypot(sigma, torch.ones_like(sigma)),
    )
    answers = {
        "x0": lambda: prediction + 0,
        "epsilon": lambda: x - sigma * prediction,
        "v": lambda: cos * (cos * x) - sin * prediction,
        "score": lambda: x + sigma * (sigma * prediction),
    }
    if kind not in answers:
        raise ValueError(f"{kind} is none of {', '.join(answers)}")
    return answers[kind]().to(x.dtype)


def ddpm(denoiser, x, alpha_bars, *, generator=None):
    return ddim(denoiser, x, alpha_bars, eta=1.0, generator=generator)


def ddim(denoiser, x, alpha_bars, *, eta=0.0, generator=None):
    if eta < 0 or eta > 1:
        raise ValueError(f"eta {eta} is outside [0, 1]")
    bars = alpha_bars.to(torch.float64)
    now, then = bars[:-1], bars[1:]
    renewed = eta * ((1 - then) / (1 - now) * (1 - now / then)).sqrt()
    kept = (1 - then - renewed**2).clamp(min=0).sqrt()
    sigmas = ((1 - now) / now).sqrt()
    for i in range(len(now)):
        unscaled = x / now[i].sqrt()
        x0 = denoiser(unscaled, sigmas[i].to(x.dtype))
        epsilon = (unscaled - x0) / sigmas[i]
        x = then[i].sqrt() * x0 + kept[i] * epsilon
        if renewed[i]:
            z = torch.randn(*x.shape, generator=generator, dtype=x.dtype, device=x.device)
            x = x + renewed[i] * z
        yield x


def _slope(denoiser, x, sigma):
    return (x - denoiser(x, sigma.to(x.dtype))) / sigma


def euler(denoiser, x, sigmas):
    sigmas = sigmas.to(torch.float64)
    for i, width in enumerate(sigmas.diff()):
        x = x + width * _slope(denoiser, x, sigmas[i])
        yield x


def heun(denoiser, x, sigmas):
    sigmas = sigmas.to(torch.float64)
    for i, width in enumerate(sigmas.diff()):
        first = _slope(denoiser, x, sigmas[i])
        end = x + width * first
        if sigmas[i + 1] != 0:
            second = _slope(denoiser, end, sigmas[i + 1])
            end = end + width / 2 * (second - first)
        x = end
        yield x


class guided:
    def __init__(self, conditional, unconditional, w):
        if w != w or w in (float("inf"), float("-inf")):
            raise ValueError(f"w = {w} is not finite")
        self.conditional, self.unconditional, self.w = conditional, unconditional, w

    def __call__(self, x, sigma):
        if self.w == 1:
            return self.conditional(x, sigma)
        if self.w == 0:
            return self.unconditional(x, sigma)
        return torch.lerp(self.unconditional(x, sigma), self.conditional(x, sigma), self.w)


@torch.no_grad()
def sample(sampler, denoiser, noise, grid, **options):
    if grid.numel() < 2:
        raise ValueError("fewer than two levels")
    if torch.all(grid[1:] < grid[:-1]) and grid[-1] >= 0:
        x = noise * grid[0].to(noise.dtype)
    elif torch.all(grid[1:] > grid[:-1]) and grid[0] > 0 and grid[-1] <= 1:
        x = noise.clone()
    else:
        raise ValueError("the grid neither falls to 0 or above nor rises in (0, 1]")
    return deque(sampler(denoiser, x, grid, **options), maxlen=1).pop()
