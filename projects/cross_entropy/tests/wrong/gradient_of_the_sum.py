# diagnosis: the gradient of the sum: the division of the mean is missing

_right = cross_entropy_grad


def cross_entropy_grad(logits, targets, *, reduction="mean", **options):
    _check_reduction(reduction)
    return _right(logits, targets, reduction="sum", **options)
