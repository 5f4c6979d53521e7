# diagnosis: looks like negative_slope is ignored

_reference = leaky_relu


def leaky_relu(x, *, negative_slope=0.01):
    return _reference(x)
