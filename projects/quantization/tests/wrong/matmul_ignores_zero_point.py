# diagnosis: ignores the zero point


_exact = int8_matmul


def int8_matmul(x, weight, zero_point=0):
    return _exact(x, weight, 0)
