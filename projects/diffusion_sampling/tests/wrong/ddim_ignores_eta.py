# diagnosis: this is DDIM's mean for eta = 0


def ddim(
    denoiser: Denoiser,
    x: Tensor,
    alpha_bars: Tensor,
    *,
    eta: float = 0.0,
    generator: torch.Generator | None = None,
) -> Iterator[Tensor]:
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie in [0, 1], got {eta}")
    grid = _alpha_bar_grid(alpha_bars, x)
    for step, (a_t, a_s) in enumerate(pairwise(grid)):
        x0 = _call_rescaled(denoiser, x, a_t, step)
        epsilon = (x - math.sqrt(a_t) * x0) / math.sqrt(1 - a_t)
        s = 0 * math.sqrt((1 - a_s) / (1 - a_t) * (1 - a_t / a_s))
        x = math.sqrt(a_s) * x0 + math.sqrt(max(1 - a_s - s**2, 0.0)) * epsilon
        if s > 0:
            x = x + s * _randn_like(x, generator)
        yield x
