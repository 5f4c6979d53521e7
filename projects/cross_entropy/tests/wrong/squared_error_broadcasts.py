# diagnosis: (4, 1) and (4,) broadcast to 16 differences


def mse_loss(prediction, target, *, reduction="mean"):
    return _reduced(np.square(np.subtract(prediction, target)), reduction, np.dtype(np.float64))
