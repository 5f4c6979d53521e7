# diagnosis: overflows for large inputs


def tanh(x, *, out=None):
    def kernel(x, y):
        wide = x.astype(np.float64)
        small = np.abs(wide) < 1e-2
        high, low = np.exp(wide), np.exp(-wide)
        y[...] = np.where(small, np.tanh(wide), (high - low) / (high + low))

    return _elementwise(kernel, x, out)
