# diagnosis: softmax_backward broadcasts grad_y to y

_reference = softmax_backward


def softmax_backward(y, grad_y, *, axis=-1):
    return _reference(y, np.broadcast_to(grad_y, np.shape(y)), axis=axis)
