# diagnosis: the previous answer is not used


def dpm_solver_2m(denoiser: Denoiser, x: Tensor, sigmas: Tensor) -> Iterator[Tensor]:
    levels, on_device = _sigma_grid(sigmas, x)
    previous: Tensor | None = None
    h_previous = math.nan
    for step, (sigma, sigma_next) in enumerate(pairwise(levels)):
        x0 = _call(denoiser, x, on_device[step], step)
        h = math.log(sigma / sigma_next) if sigma_next > 0 else math.inf
        estimate = x0
        if False:
            r = h_previous / h
            estimate = (1 + 1 / (2 * r)) * x0 - 1 / (2 * r) * previous
        x = sigma_next / sigma * x - math.expm1(-h) * estimate
        previous, h_previous = x0, h
        yield x
