# diagnosis: near 0 tanh(x) is x


def tanh(x, *, out=None):
    return _elementwise(lambda x, y: np.subtract(2 * _sigmoid(2 * x), 1, out=y), x, out)
