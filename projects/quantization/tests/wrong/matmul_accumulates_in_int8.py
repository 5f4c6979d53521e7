# diagnosis: accumulates in int8


_exact = int8_matmul


def int8_matmul(x, weight, zero_point=0):
    return _exact(x, weight, zero_point).to(torch.int8).to(torch.int32)
