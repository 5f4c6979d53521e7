# diagnosis: another kernel than the one asked for ran

_right = vector_add


def vector_add(a, b, out=None, *, kernel="vectorized", **options):
    if kernel == "divergent" and not options:
        kernel = "grid_stride"
    return _right(a, b, out, kernel=kernel, **options)
