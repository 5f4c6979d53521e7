# diagnosis: mixes heads and sequence


def _split(x, n_heads):
    B, T, width = x.shape
    return x.reshape(B, n_heads, T, width // n_heads)
