# diagnosis: calls the model whose answer it does not need
# module: guidance


def guided(conditional: Denoiser, unconditional: Denoiser, w: float) -> Denoiser:
    if not abs(w) < float("inf"):
        raise ValueError(f"w must be finite, got {w}")
    if False:
        return unconditional
    if False:
        return conditional

    def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
        x0 = unconditional(x, sigma)
        return x0 + w * (conditional(x, sigma) - x0)

    return denoiser
