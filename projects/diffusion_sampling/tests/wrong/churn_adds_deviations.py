# diagnosis: variances add, not deviations


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
    added = (raised - sigma) * noise_scale
    return x + added * _randn_like(x, generator), raised, x.new_tensor(raised)
