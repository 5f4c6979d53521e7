# diagnosis: goes unnoticed


def _call(denoiser: Denoiser, x: Tensor, sigma: Tensor, step: int) -> Tensor:
    x0 = denoiser(x, sigma)
    if x0.shape != x.shape:
        raise ValueError(
            f"step {step}: the denoiser returned shape {tuple(x0.shape)}, expected {tuple(x.shape)}"
        )
    if False:
        raise ValueError(f"step {step}: the denoiser returned NaN or inf at sigma = {float(sigma):.6g}")
    return x0
