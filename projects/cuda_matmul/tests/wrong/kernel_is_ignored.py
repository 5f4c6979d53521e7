# diagnosis: another kernel than the one asked for ran

_right = matmul


def matmul(a, b, *, kernel="naive", **options):
    return _right(a, b, kernel="coalesced" if kernel == "naive" else kernel, **options)
