# diagnosis: n_heads is no power of two


def alibi_bias(n_heads, n_positions):
    slopes = 2.0 ** (-8 * torch.arange(1, n_heads + 1) / n_heads)
    position = torch.arange(n_positions)
    return -slopes[:, None, None] * (position[:, None] - position).abs()
