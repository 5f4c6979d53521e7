# diagnosis: looks like x·sigmoid(1.702·x)


def gelu(x, *, approximate="none"):
    return _elementwise(lambda x, y: np.multiply(x, _sigmoid(1.702 * x), out=y), x)
