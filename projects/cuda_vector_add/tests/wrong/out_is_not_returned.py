# diagnosis: returns out itself

_right = vector_add


def vector_add(a, b, out=None, **options):
    result = _right(a, b, out, **options)
    return result.copy() if out is not None and isinstance(out, np.ndarray) and out.ndim == 1 else result
