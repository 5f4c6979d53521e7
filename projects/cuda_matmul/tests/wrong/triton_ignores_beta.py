# diagnosis: beta is ignored
# module: triton_kernels

_right = matmul_triton


def matmul_triton(a, b, *, alpha=1.0, beta=0.0, c=None):
    if c is not None:
        c.zero_()
    return _right(a, b, alpha=alpha, beta=beta, c=c)
