# diagnosis: the input was modified

_reference = softmax


def softmax(x, *, axis=-1, out=None):
    x = np.asarray(x)
    if x.dtype.kind == "f" and x.size and x.ndim:
        x -= x.max(axis=axis, keepdims=True)
        np.exp(x, out=x)
        x /= x.sum(axis=axis, keepdims=True)
        return x if out is None else _deliver(x, out)
    return _reference(x, axis=axis, out=out)
