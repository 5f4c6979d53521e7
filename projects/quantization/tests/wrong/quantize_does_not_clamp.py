# diagnosis: no clamp


def quantize(x, scale, zero_point, *, n_bits=8, axis=None):
    _limits(n_bits)
    steps = (x.float() * _along(1 / scale, axis, x.ndim)).round() + _along(zero_point, axis, x.ndim)
    return steps.nan_to_num(0, 0, 0).clamp(-(2**31), 2**31 - 128).to(torch.int32).to(torch.int8)
