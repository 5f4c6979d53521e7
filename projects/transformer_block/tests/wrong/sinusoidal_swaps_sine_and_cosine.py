# diagnosis: sine and cosine are swapped


def sinusoidal_encoding(n_positions, d_model):
    angles = _angles(torch.arange(n_positions), d_model, 10000.0)
    return torch.stack((angles.cos(), angles.sin()), dim=-1).flatten(-2).float()
