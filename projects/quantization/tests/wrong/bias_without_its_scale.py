# diagnosis: the bias is added to the integer sums as it is


_linear = quantized_linear


def quantized_linear(
    x, x_scale, x_zero_point, weight, weight_scale, bias=None, *, y_scale=None, y_zero_point=None
):
    m = x_scale * weight_scale
    scaled = None if bias is None or m.ndim > 1 else bias * m
    return _linear(
        x, x_scale, x_zero_point, weight, weight_scale, scaled, y_scale=y_scale, y_zero_point=y_zero_point
    )
