# diagnosis: inf·0 is NaN, not the limit

_reference = gelu


def gelu(x, *, approximate="none"):
    y = np.asarray(_reference(x, approximate=approximate))
    y[np.isneginf(np.asarray(x, np.float64))] = np.nan
    return y
