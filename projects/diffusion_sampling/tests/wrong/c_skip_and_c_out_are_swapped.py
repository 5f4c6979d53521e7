# diagnosis: c_skip and c_out swapped
# module: schedules


def edm_preconditioning(sigma: Tensor, *, sigma_data: float = 0.5) -> Preconditioning:
    total = sigma**2 + sigma_data**2
    return Preconditioning(
        c_out=sigma_data**2 / total,
        c_skip=sigma * sigma_data / total.sqrt(),
        c_in=1 / total.sqrt(),
        c_noise=sigma.log() / 4,
    )
