# diagnosis: looks like the sum runs over the whole array


def softmax(x, *, axis=-1, out=None):
    x = _as_float(x)
    e = np.exp(x - x.max(initial=-np.inf))
    return e / e.sum()
