# diagnosis: a NaN that vanishes hides the bug behind it


def relu(x, *, out=None):
    def kernel(x, y):
        y[...] = np.where(x > 0, x, 0)

    return _elementwise(kernel, x, out)
