# diagnosis: the step starts from sigma although the state is at sigma-hat


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
    levels, on_device = _sigma_grid(sigmas, x)
    gammas = _churn_factors(levels, churn, churn_min, churn_max)
    for step, (sigma, sigma_next) in enumerate(pairwise(levels)):
        before = sigma
        x, sigma, level = _add_churn(x, sigma, on_device[step], gammas[step], noise_scale, generator)
        x0 = _call(denoiser, x, level, step)
        x = x + (sigma_next - before) / sigma * (x - x0)
        yield x
