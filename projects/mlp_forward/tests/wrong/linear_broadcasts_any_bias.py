# diagnosis: a bias of a wrong shape is accepted

_right = linear


def linear(x, weight, bias=None):
    if bias is not None:
        bias = (
            np.broadcast_to(bias, len(weight))
            if np.size(bias) in (1, len(weight)) and np.ndim(bias) < 2
            else bias
        )
    return _right(x, weight, bias)
