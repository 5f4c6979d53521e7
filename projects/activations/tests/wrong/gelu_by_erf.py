# diagnosis: 1 + erf cancels for negative x

_erf = np.vectorize(math.erf, otypes=[np.float64])
_reference = gelu


def gelu(x, *, approximate="none"):
    def kernel(x, y):
        z = np.maximum(x, -100)
        y[...] = z * (0.5 * (1 + _erf(z / math.sqrt(2))))

    return _elementwise(kernel, x) if approximate == "none" else _reference(x, approximate=approximate)
