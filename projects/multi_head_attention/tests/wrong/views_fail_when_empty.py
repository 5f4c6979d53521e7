# diagnosis: an empty input fails: -1 in a view has no size to find


def _split(x, n_heads):
    B, T, _ = x.shape
    return x.view(B, T, n_heads, -1).transpose(1, 2)
