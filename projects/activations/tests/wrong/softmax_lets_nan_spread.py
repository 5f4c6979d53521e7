# diagnosis: a spoiled row beside it

_reference = softmax


def softmax(x, *, axis=-1, out=None):
    y = _reference(x, axis=axis, out=out)
    if np.isnan(y).any():
        y[...] = np.nan
    return y
