# diagnosis: a sampler must not detach


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
        x, sigma, level = _add_churn(x, sigma, on_device[step], gammas[step], noise_scale, generator)
        x0 = _call(denoiser, x.detach(), level, step).detach()
        x = x + (sigma_next - sigma) / sigma * (x - x0)
        x = x.detach()
        yield x
