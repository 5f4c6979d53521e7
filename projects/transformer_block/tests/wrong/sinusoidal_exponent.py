# diagnosis: the exponent is i / d_model, not 2i / d_model


def sinusoidal_encoding(n_positions, d_model):
    if d_model % 2:
        raise ValueError(f"d_model must be even, got {d_model}")
    i = torch.arange(d_model // 2, dtype=torch.float64)
    angles = torch.arange(n_positions)[:, None] * 10000.0 ** (-i / d_model)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2).float()
