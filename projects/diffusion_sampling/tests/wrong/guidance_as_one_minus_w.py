# diagnosis: guidance as (1 - w)
# module: guidance


def guided(conditional: Denoiser, unconditional: Denoiser, w: float) -> Denoiser:
    if not abs(w) < float("inf"):
        raise ValueError(f"w must be finite, got {w}")
    if w == 0:
        return unconditional
    if w == 1:
        return conditional

    def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
        x0 = unconditional(x, sigma)
        return x0 + (1 - w) * (conditional(x, sigma) - x0)

    return denoiser
