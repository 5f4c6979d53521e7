# diagnosis: is the result clamped?


_linear = quantized_linear


def quantized_linear(
    x, x_scale, x_zero_point, weight, weight_scale, bias=None, *, y_scale=None, y_zero_point=None
):
    if (y_scale is None) or (y_zero_point is None):
        return _linear(
            x, x_scale, x_zero_point, weight, weight_scale, bias, y_scale=y_scale, y_zero_point=y_zero_point
        )
    m = x_scale * weight_scale
    acc = int8_matmul(x, weight, x_zero_point).float()
    steps = acc if bias is None else acc + bias / m
    return ((steps * (m / y_scale)).round() + y_zero_point).to(torch.int32).to(torch.int8)
