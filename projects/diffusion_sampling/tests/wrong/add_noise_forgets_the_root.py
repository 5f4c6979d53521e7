# diagnosis: ᾱ is used where its root belongs
# module: schedules


def add_noise(
    x0: Tensor, noise: Tensor, *, sigma: Tensor | float | None = None, alpha_bar: Tensor | float | None = None
) -> Tensor:
    if noise.shape != x0.shape:
        raise ValueError(f"noise must have the shape of x0, {tuple(x0.shape)}, got {tuple(noise.shape)}")
    if (sigma is None) == (alpha_bar is None):
        raise ValueError("give exactly one of sigma and alpha_bar")
    if sigma is not None:
        return x0 + _per_sample(sigma, x0).to(x0.dtype) * noise
    a = _per_sample(alpha_bar, x0)
    return a.to(x0.dtype) * x0 + (1 - a).to(x0.dtype) * noise
