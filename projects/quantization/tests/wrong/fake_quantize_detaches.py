# diagnosis: the graph is detached


def fake_quantize(x, scale, zero_point, *, n_bits=8, axis=None):
    q = quantize(x.detach(), scale, zero_point, n_bits=n_bits, axis=axis)
    return dequantize(q, scale, zero_point, axis=axis).to(x.dtype)
