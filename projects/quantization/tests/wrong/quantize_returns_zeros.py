# diagnosis: returns zeros


def quantize(x, scale, zero_point, *, n_bits=8, axis=None):
    _limits(n_bits)
    return torch.zeros_like(x, dtype=torch.int8)
