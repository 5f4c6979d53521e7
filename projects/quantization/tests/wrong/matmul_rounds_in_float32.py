# diagnosis: the sums are not exact


_exact = int8_matmul


def int8_matmul(x, weight, zero_point=0):
    if x.dtype != torch.int8 or weight.dtype != torch.int8 or x.shape[1] != weight.shape[1]:
        return _exact(x, weight, zero_point)
    return ((x.float() - zero_point) @ weight.float().T).int()
