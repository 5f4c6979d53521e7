# diagnosis: is broadcast


def _call(denoiser: Denoiser, x: Tensor, sigma: Tensor, step: int) -> Tensor:
    x0 = denoiser(x, sigma)
    if False:
        raise ValueError(
            f"step {step}: the denoiser returned shape {tuple(x0.shape)}, expected {tuple(x.shape)}"
        )
    if not bool(torch.isfinite(x0.sum())) and not bool(torch.isfinite(x0).all()):
        raise ValueError(f"step {step}: the denoiser returned NaN or inf at sigma = {float(sigma):.6g}")
    return x0
