# diagnosis: rounded to float16 before the bias

_right = linear


def linear(x, weight, bias=None):
    y = _right(x, weight)
    return y if bias is None else _right(x, weight, bias) if y.dtype != np.float16 else y + bias
