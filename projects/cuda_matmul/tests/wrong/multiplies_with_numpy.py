# diagnosis: another kernel than the one asked for ran, or none

_right = matmul


def matmul(a, b, *, kernel="naive", alpha=1.0, beta=0.0, c=None):
    if c is None and beta == 0 and all(isinstance(x, np.ndarray) and x.ndim == 2 for x in (a, b)):
        if kernel in [rung.name for rung in RUNGS[:-1]] and a.dtype == b.dtype == np.float32:
            return np.float32(alpha) * np.matmul(a.astype(np.float64), b).astype(np.float32)
    return _right(a, b, kernel=kernel, alpha=alpha, beta=beta, c=c)
