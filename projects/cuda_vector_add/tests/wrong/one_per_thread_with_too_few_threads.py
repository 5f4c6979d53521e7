# diagnosis: one_per_thread accepts a grid with too few threads

_right = vector_add


def vector_add(a, b, out=None, *, kernel="vectorized", n_blocks=None, **options):
    n_blocks = None if kernel == "one_per_thread" else n_blocks
    return _right(a, b, out, kernel=kernel, n_blocks=n_blocks, **options)
