# diagnosis: exp overflows
# module: triton_kernels

_right = softmax_triton


def softmax_triton(x):
    result = _right(x)
    if x.numel() and float(x.nan_to_num(0, 0, 0).abs().max()) > 1000:
        e = x.exp()
        return e / e.sum(-1, keepdim=True)
    return result
