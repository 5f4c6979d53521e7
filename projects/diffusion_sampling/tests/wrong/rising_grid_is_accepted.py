# diagnosis: are accepted


def _sigma_grid(sigmas: Tensor, x: Tensor) -> tuple[list[float], Tensor]:
    levels = _numbers(sigmas, "sigmas", x)
    for step, (sigma, sigma_next) in enumerate(pairwise(levels)):
        if sigma < 0:
            raise ValueError(
                f"step {step}: sigmas must be positive and fall (only the last may be 0), got {sigma} -> {sigma_next}"
            )
    return levels, sigmas.to(device=x.device, dtype=x.dtype)
