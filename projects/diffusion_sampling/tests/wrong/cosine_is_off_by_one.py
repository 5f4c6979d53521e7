# diagnosis: off by one
# module: schedules


def cosine_alpha_bars(n_steps: int = 1000, *, offset: float = 0.008, max_beta: float = 0.999) -> Tensor:
    _check_steps(n_steps)
    if not (offset > 0 and 0 < max_beta < 1):
        raise ValueError(f"offset must be positive and max_beta in (0, 1), got {offset} and {max_beta}")
    t = torch.arange(n_steps + 1, dtype=torch.float64) / (n_steps + 1)
    f = torch.cos((t + offset) / (1 + offset) * math.pi / 2) ** 2
    return _from_betas((1 - f[1:] / f[:-1]).clamp(max=max_beta))
