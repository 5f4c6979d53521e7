# diagnosis: invalid argument

_right = vector_add


def vector_add(a, b, out=None, **options):
    result = _right(a, b, out, **options)
    if isinstance(result, np.ndarray) and result.size == 0:
        _function("grid_stride", "float16").prepared_call((0, 1), (256, 1, 1), 0, 0, 0, 0)
    return result
