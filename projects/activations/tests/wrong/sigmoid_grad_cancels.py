# diagnosis: s·(1 - s) cancels for large x


def sigmoid_grad(x):
    def kernel(x, y):
        s = _sigmoid(x)
        y[...] = s * (1 - s)

    return _elementwise(kernel, x)
