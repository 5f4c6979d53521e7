# diagnosis: overflows for large inputs


def softmax(x, *, axis=-1, out=None):
    x = _as_float(x)
    slabs = _slabs(x.shape, axis)
    e = np.exp(x.astype(np.result_type(x, np.float32))).reshape(slabs)
    result = _result(x, out)
    result[...] = (e / e.sum(axis=1, keepdims=True)).reshape(x.shape)
    return _deliver(result, out)
