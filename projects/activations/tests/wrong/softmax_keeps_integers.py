# diagnosis: convert integers to float64 before any arithmetic

_reference = softmax


def softmax(x, *, axis=-1, out=None):
    x = np.asarray(x)
    if x.dtype.kind in "ui" and x.size and x.ndim:
        x = x - x.max(axis=axis, keepdims=True)
    return _reference(x, axis=axis, out=out)
