# diagnosis: the weight is missing
# module: train


def edm_loss(
    denoiser: Denoiser, x0: Tensor, sigma: Tensor, noise: Tensor, labels: Tensor, *, sigma_data: float
) -> Tensor:
    weight = (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2
    error = denoiser(add_noise(x0, noise, sigma=sigma), sigma, labels) - x0
    return (error.square().flatten(1).mean(dim=1)).mean()
