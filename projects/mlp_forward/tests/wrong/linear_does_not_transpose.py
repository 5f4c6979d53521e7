# diagnosis: the weight is not transposed


def linear(x, weight, bias=None):
    y = np.asarray(x) @ np.asarray(weight)
    return y if bias is None else y + bias
