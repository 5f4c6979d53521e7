# diagnosis: an argument that does not fit is accepted

_right = vector_add


def vector_add(a, b, out=None, **options):
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and a.dtype == b.dtype and a.shape != b.shape:
        try:
            a, b = (np.ascontiguousarray(array) for array in np.broadcast_arrays(a, b))
        except ValueError:
            pass
    return _right(a, b, out, **options)
