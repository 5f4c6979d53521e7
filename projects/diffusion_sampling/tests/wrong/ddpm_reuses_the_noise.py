# diagnosis: draw again in each step


def ddpm(
    denoiser: Denoiser, x: Tensor, alpha_bars: Tensor, *, generator: torch.Generator | None = None
) -> Iterator[Tensor]:
    grid = _alpha_bar_grid(alpha_bars, x)
    z = _randn_like(x, generator)
    for step, (a_t, a_s) in enumerate(pairwise(grid)):
        x0 = _call_rescaled(denoiser, x, a_t, step)
        alpha = a_t / a_s
        beta = 1 - alpha
        mean_x0 = math.sqrt(a_s) * beta / (1 - a_t)
        mean_xt = math.sqrt(alpha) * (1 - a_s) / (1 - a_t)
        variance = (1 - a_s) / (1 - a_t) * beta
        x = mean_x0 * x0 + mean_xt * x
        if variance > 0:
            x = x + math.sqrt(variance) * z
        yield x
