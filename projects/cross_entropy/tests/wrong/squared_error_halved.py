# diagnosis: there is no factor 1/2 in the squared error

_right = mse_loss


def mse_loss(prediction, target, *, reduction="mean"):
    return _right(prediction, target, reduction=reduction) / 2
