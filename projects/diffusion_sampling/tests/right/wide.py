"""States are carried in float64 and rounded where they leave; one loop serves all four samplers, each of which is a step."""

import math
from functools import partial, reduce

import torch


def linear_alpha_bars(n_steps=1000, *, beta_start=1e-4, beta_end=0.02):
    if int(n_steps) < 1:
        raise ValueError("n_steps")
    if not all(0 < beta < 1 for beta in (beta_start, beta_end)):
        raise ValueError("beta")
    width = (beta_end - beta_start) / max(n_steps - 1, 1)
    keep = [1 - beta_start - width * i for i in range(n_steps)]
    return torch.tensor([math.prod(keep[:t]) for t in reversed(range(n_steps + 1))], dtype=torch.float64)


def karras_sigmas(n_steps, *, sigma_min=0.002, sigma_max=80.0, rho=7.0, to_zero=True):
    if n_steps < 1 or sigma_min <= 0 or sigma_max <= sigma_min or rho <= 0:
        raise ValueError("n_steps, sigma_min, sigma_max or rho")
    intervals = n_steps - 1 if to_zero else n_steps
    share = torch.arange(intervals + 1, dtype=torch.float64) / max(intervals, 1)
    levels = ((1 - share) * sigma_max ** (1 / rho) + share * sigma_min ** (1 / rho)) ** rho
    return torch.nn.functional.pad(levels, (0, int(to_zero)))


def _level(value, x):
    value = torch.as_tensor(value, dtype=getattr(value, "dtype", torch.float64)).double()
    while 0 < value.ndim < x.ndim:
        value = value.unsqueeze(-1)
    return value


def add_noise(x0, noise, *, sigma=None, alpha_bar=None):
    if x0.shape != noise.shape:
        raise ValueError("shapes")
    if len([level for level in (sigma, alpha_bar) if level is not None]) != 1:
        raise ValueError("one level")
    if sigma is not None:
        return x0 + (_level(sigma, x0) * noise).to(x0.dtype)
    level = _level(alpha_bar, x0)
    return (x0 * level**0.5 + noise * (1 - level) ** 0.5).to(x0.dtype)


def to_x0(prediction, x, sigma, *, kind):
    s = _level(sigma, x)
    cosine = (1 + s * s) ** -0.5
    match kind:
        case "x0":
            x0 = prediction.clone()
        case "epsilon":
            x0 = x - s * prediction
        case "v":
            x0 = cosine**2 * x - s * cosine * prediction
        case "score":
            x0 = x + s**2 * prediction
        case _:
            raise ValueError(kind)
    return x0.to(x.dtype)


def _walk(step, denoiser, x, grid, generator=None):
    dtype = x.dtype

    def ask(state, sigma):
        return denoiser(state.to(dtype), sigma.to(dtype)).double()

    def draw():
        return torch.randn(x.shape, generator=generator, dtype=dtype, device=x.device).double()

    state, grid = x.double(), grid.double()
    for now, then in zip(grid, grid[1:]):
        state = step(ask, draw, state, now, then)
        yield state.to(dtype, copy=True)


def _vp_step(ask, draw, x, a_t, a_s, *, eta):
    """The general step: x0 and noise of the next level, of which a share is drawn anew."""
    sigma = (1 / a_t - 1).sqrt()
    x0 = ask(x / a_t.sqrt(), sigma)
    fresh = eta**2 * (1 - a_s) * (a_s - a_t) / (a_s * (1 - a_t))
    old = (1 - a_s - fresh).clamp(min=0).sqrt()
    x = a_s.sqrt() * x0 + old * (x - a_t.sqrt() * x0) / (1 - a_t).sqrt()
    return x + fresh.sqrt() * draw() if fresh > 0 else x


def ddpm(denoiser, x, alpha_bars, *, generator=None):
    yield from _walk(partial(_vp_step, eta=1.0), denoiser, x, alpha_bars, generator)


def ddim(denoiser, x, alpha_bars, *, eta=0.0, generator=None):
    if not (eta >= 0 and eta <= 1):
        raise ValueError("eta")
    yield from _walk(partial(_vp_step, eta=eta), denoiser, x, alpha_bars, generator)


def euler(denoiser, x, sigmas):
    def step(ask, draw, x, now, then):
        return torch.lerp(ask(x, now), x, then / now)

    return _walk(step, denoiser, x, sigmas)


def heun(denoiser, x, sigmas):
    def step(ask, draw, x, now, then):
        end = torch.lerp(ask(x, now), x, then / now)
        if then == 0:
            return end
        # a second Euler step from the state's own place, with the slope of its end; the mean of both
        return (end + x + (then - now) * (end - ask(end, then)) / then) / 2

    return _walk(step, denoiser, x, sigmas)


def guided(conditional, unconditional, w):
    w = float(w)
    if abs(w) == math.inf or math.isnan(w):
        raise ValueError("w")
    if w == 0 or w == 1:
        return (unconditional, conditional)[int(w)]

    def both(x, sigma):
        yes, no = conditional(x, sigma), unconditional(x, sigma)
        return yes + (w - 1) * (yes - no)

    return both


def sample(sampler, denoiser, noise, grid, **options):
    levels = grid.tolist()
    order = sorted(set(levels))
    falls = levels == order[::-1] and order[:1] >= [0]
    rises = levels == order and order[:1] > [0] and order[-1:] <= [1]
    if len(levels) < 2 or not (falls or rises):
        raise ValueError("grid")
    with torch.no_grad():
        start = noise * levels[0] if falls else noise.clone()
        return reduce(lambda _, state: state, sampler(denoiser, start, grid, **options))
