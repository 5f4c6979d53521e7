# diagnosis: an empty sum is 0

_right = matmul


def matmul(a, b, **options):
    if isinstance(a, np.ndarray) and a.ndim == 2 and a.shape[1] == 0:
        return np.full((a.shape[0], b.shape[1]), np.nan, np.float32)  # memory that nobody has written
    return _right(a, b, **options)
