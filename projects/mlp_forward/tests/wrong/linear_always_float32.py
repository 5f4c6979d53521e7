# diagnosis: wrong dtype float32

_right = linear


def linear(x, weight, bias=None):
    return _right(x, weight, bias).astype(np.float32)
