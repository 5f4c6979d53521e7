# diagnosis: a bias of a wrong shape is accepted

_right = linear


def linear(x, weight, bias=None):
    y = _right(x, weight)
    return y if bias is None else y + np.asarray(bias, y.dtype)
