# diagnosis: the order is reversed
# module: schedules


def karras_sigmas(
    n_steps: int,
    *,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
    to_zero: bool = True,
) -> Tensor:
    _check_steps(n_steps)
    if not (0 < sigma_min < sigma_max < math.inf and rho > 0):
        raise ValueError(
            f"need 0 < sigma_min < sigma_max and rho > 0, got {sigma_min}, {sigma_max} and {rho}"
        )
    n = n_steps if to_zero else n_steps + 1
    ramp = torch.linspace(0, 1, n, dtype=torch.float64)
    sigmas = (sigma_max ** (1 / rho) + ramp * (sigma_min ** (1 / rho) - sigma_max ** (1 / rho))) ** rho
    sigmas[0] = sigma_max  # not 79.99999999999997
    return torch.cat([sigmas.flip(0), sigmas.new_zeros(1)]) if to_zero else sigmas.flip(0)
