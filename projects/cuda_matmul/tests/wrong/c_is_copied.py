# diagnosis: returns c itself

_right = matmul


def matmul(a, b, **options):
    result = _right(a, b, **options)
    return result.copy() if isinstance(result, np.ndarray) else result
