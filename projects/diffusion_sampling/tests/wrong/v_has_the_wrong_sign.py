# diagnosis: v is not turned back with the sign
# module: schedules


def to_x0(prediction: Tensor, x: Tensor, sigma: Tensor | float, *, kind: str) -> Tensor:
    sigma = _per_sample(sigma, x).to(x.dtype)
    if kind == "x0":
        return prediction
    if kind == "epsilon":
        return x - sigma * prediction
    if kind == "v":
        return x / (1 + sigma**2) + sigma / (1 + sigma**2).sqrt() * prediction
    if kind == "score":
        return x + sigma**2 * prediction
    raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
