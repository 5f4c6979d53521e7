# diagnosis: is x read after out is written?

_reference = softmax


def softmax(x, *, axis=-1, out=None):
    if out is None or out.shape != np.shape(x) or out.dtype != np.asarray(x).dtype:
        return _reference(x, axis=axis, out=out)
    for row in range(len(out)):
        np.exp(x[row], out=out[row])
        out[row] = _reference(x[row], axis=axis)
    return out
