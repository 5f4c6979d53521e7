# diagnosis: wrong dtype float64, expected float32

_reference = sigmoid


def sigmoid(x, *, out=None):
    if out is not None or np.size(x) == 0 or np.asarray(x).dtype.kind != "f":
        return _reference(x, out=out)
    return _reference(np.asarray(x, np.float64))
