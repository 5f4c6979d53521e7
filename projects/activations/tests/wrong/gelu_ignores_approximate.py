# diagnosis: looks like approximate is ignored

_reference = gelu


def gelu(x, *, approximate="none"):
    return _reference(x)
