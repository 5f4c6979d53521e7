# diagnosis: an argument that does not fit is accepted

_right = softmax


def softmax(x, out=None, **options):
    if isinstance(x, np.ndarray) and x.dtype == np.float64:
        x = x.astype(np.float32)
    return _right(x, out, **options)
