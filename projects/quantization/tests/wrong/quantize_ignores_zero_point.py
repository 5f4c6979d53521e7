# diagnosis: ignores the zero point


def quantize(x, scale, zero_point, *, n_bits=8, axis=None):
    q_min, q_max = _limits(n_bits)
    return (x.float() * _along(1 / scale, axis, x.ndim)).round().clamp(q_min, q_max).to(torch.int8)
