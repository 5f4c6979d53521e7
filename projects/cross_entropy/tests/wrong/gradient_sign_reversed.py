# diagnosis: the sign is reversed: the gradient is softmax - one-hot

_right = cross_entropy_grad


def cross_entropy_grad(*args, **options):
    return -_right(*args, **options)
