# diagnosis: looks like it works over axis -2, not over the axis asked for


def softmax(x, *, axis=-1, out=None):
    x = _as_float(x)
    e = np.exp(x)
    return e / e.sum(axis=0)
