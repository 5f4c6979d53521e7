# diagnosis: NaN is accepted


def quantize(x, scale, zero_point, *, n_bits=8, axis=None):
    q_min, q_max = _limits(n_bits)
    steps = (x.float() * _along(1 / scale, axis, x.ndim)).round() + _along(zero_point, axis, x.ndim)
    return steps.clamp(q_min, q_max).to(torch.int8)
