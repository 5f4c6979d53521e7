# diagnosis: calls the library instead


def sigmoid(x, *, out=None):
    from scipy.special import expit

    return expit(_as_float(x), out=out)
