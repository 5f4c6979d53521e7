# diagnosis: is ignored: the first block adds

_right = vector_add


def vector_add(a, b, out=None, *, kernel="vectorized", block_size=256, n_blocks=None):
    """Check n_blocks, and let the default grid run."""
    if n_blocks is not None:
        _right(a, b, kernel=kernel, block_size=block_size, n_blocks=n_blocks)
    return _right(a, b, out, kernel=kernel, block_size=block_size)
