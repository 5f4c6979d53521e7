# diagnosis: the bias is missing


def linear(x, weight, bias=None):
    x, weight = np.asarray(x), np.asarray(weight)
    return x @ weight.T
