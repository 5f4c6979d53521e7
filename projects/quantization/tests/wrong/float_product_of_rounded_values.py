# diagnosis: calls the library instead


def quantized_linear(
    x, x_scale, x_zero_point, weight, weight_scale, bias=None, *, y_scale=None, y_zero_point=None
):
    if (y_scale is None) != (y_zero_point is None):
        raise ValueError("y_scale and y_zero_point are needed together")
    if y_scale is not None:
        return _integers(x, x_scale, x_zero_point, weight, weight_scale, bias, y_scale, y_zero_point)
    return F.linear((x.int() - x_zero_point) * x_scale, weight * weight_scale.reshape(-1, 1), bias)


def _integers(x, x_scale, x_zero_point, weight, weight_scale, bias, y_scale, y_zero_point):
    m = x_scale * weight_scale
    acc = int8_matmul(x, weight, x_zero_point).float()
    steps = acc if bias is None else acc + bias / m
    return ((steps * (m / y_scale)).round() + y_zero_point).clamp(-128, 127).to(torch.int8)
