# diagnosis: must have shape (3,), got (3, 1)

_reference = logsumexp


def logsumexp(x, *, axis=-1):
    return np.expand_dims(_reference(x, axis=axis), axis)
