# diagnosis: the memory of a view is not the view

_right = vector_add


def _packed(array):
    if not isinstance(array, np.ndarray) or array.flags.c_contiguous or not array.size:
        return array
    while array.base is not None:
        array = array.base
    return array.ravel()


def vector_add(a, b, out=None, **options):
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and a.shape == b.shape:
        n, shape = a.size, a.shape
        flat_a, flat_b = (_packed(array).ravel()[:n].reshape(shape) for array in (a, b))
        return _right(flat_a, flat_b, out, **options)
    return _right(a, b, out, **options)
