# diagnosis: the second slope replaces the first


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
    levels, on_device = _sigma_grid(sigmas, x)
    gammas = _churn_factors(levels, churn, churn_min, churn_max)
    for step, (sigma, sigma_next) in enumerate(pairwise(levels)):
        x, sigma, level = _add_churn(x, sigma, on_device[step], gammas[step], noise_scale, generator)
        slope = (x - _call(denoiser, x, level, step)) / sigma
        x_next = x + (sigma_next - sigma) * slope
        if sigma_next > 0:
            slope_next = (x_next - _call(denoiser, x_next, on_device[step + 1], step)) / sigma_next
            x_next = x + (sigma_next - sigma) * slope_next
        x = x_next
        yield x
