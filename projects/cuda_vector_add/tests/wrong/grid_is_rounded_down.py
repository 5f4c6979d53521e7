# diagnosis: the grid is rounded down

_right = vector_add


def vector_add(a, b, out=None, *, kernel="vectorized", block_size=256, n_blocks=None):
    if kernel == "one_per_thread" and isinstance(a, np.ndarray) and a.size > block_size and n_blocks is None:
        n = a.size // block_size * block_size
        result = np.full_like(a, np.nan)
        _right(a[:n], b[:n], result[:n], kernel=kernel)
        return result
    return _right(a, b, out, kernel=kernel, block_size=block_size, n_blocks=n_blocks)
