# diagnosis: is -inf, got nan: take care of inf - inf

_reference = logsumexp


def logsumexp(x, *, axis=-1):
    y = _reference(x, axis=axis)
    return np.where(np.isinf(y), np.nan, y).astype(y.dtype) if np.size(x) else y
