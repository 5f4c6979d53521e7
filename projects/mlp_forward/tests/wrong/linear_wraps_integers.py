# diagnosis: integers wrap around

_right = linear


def linear(x, weight, bias=None):
    if bias is None and np.asarray(x).dtype.kind in "iub":
        return (np.asarray(x) @ np.asarray(weight).T).astype(np.float64)
    return _right(x, weight, bias)
