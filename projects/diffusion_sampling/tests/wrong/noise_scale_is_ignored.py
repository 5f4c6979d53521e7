# diagnosis: noise_scale is ignored


def _add_churn(
    x: Tensor,
    sigma: float,
    level: Tensor,
    gamma: float,
    noise_scale: float,
    generator: torch.Generator | None,
) -> tuple[Tensor, float, Tensor]:
    if gamma == 0:
        return x, sigma, level
    raised = sigma * (1 + gamma)
    added = math.sqrt(raised**2 - sigma**2)
    return x + added * _randn_like(x, generator), raised, x.new_tensor(raised)
