# diagnosis: guidance as (1 - w)
# module: guidance


def guided_labels(denoiser: Callable[..., Tensor], labels: Tensor, w: float, *, no_class: int) -> Denoiser:
    nothing = torch.full_like(labels, no_class)
    if w in (0, 1):
        chosen = labels if w == 1 else nothing
        return lambda x, sigma: denoiser(x, sigma, chosen)
    if not abs(w) < float("inf"):
        raise ValueError(f"w must be finite, got {w}")
    both = torch.cat([labels, nothing])

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        level = torch.cat([sigma, sigma]) if sigma.ndim else sigma
        unconditional, conditional = denoiser(torch.cat([x, x]), level, both).chunk(2)
        return unconditional + w * (conditional - unconditional)

    return denoise
