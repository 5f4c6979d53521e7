# diagnosis: it must take the slice h * d_head


def _split(x, n_heads):
    B, T, _ = x.shape
    return x.reshape(B, T, -1, n_heads).permute(0, 3, 1, 2)
