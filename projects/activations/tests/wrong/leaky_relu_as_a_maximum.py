# diagnosis: looks like max(x, slope·x)


def leaky_relu(x, *, negative_slope=0.01):
    return _elementwise(lambda x, y: np.maximum(x, negative_slope * x, out=y), x)
