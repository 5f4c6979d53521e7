# diagnosis: at the kink x = 0


def relu_grad(x):
    x = _as_float(x)
    return np.where(np.isnan(x), x, x >= 0).astype(x.dtype)
