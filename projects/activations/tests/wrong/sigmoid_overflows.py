# diagnosis: overflows for large inputs


def sigmoid(x, *, out=None):
    x = _as_float(x)
    result = _result(x, out)
    result[...] = 1 / (1 + np.exp(-x.astype(np.result_type(x, np.float32))))
    return _deliver(result, out)
