# diagnosis: a row of nothing but -inf has no distribution

_reference = softmax


def softmax(x, *, axis=-1, out=None):
    y = _reference(x, axis=axis, out=out)
    dead = np.all(np.isneginf(np.asarray(x, float)), axis=axis, keepdims=True) if y.ndim else np.False_
    np.copyto(y, 0, where=dead)
    return y
