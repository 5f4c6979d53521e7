# diagnosis: softmax accepts axis 2 of a matrix

_reference = softmax


def softmax(x, *, axis=-1, out=None):
    return _reference(x, axis=axis % max(1, np.ndim(x)), out=out)
