# diagnosis: the diagonal of the Jacobian


def softmax_backward(y, grad_y, *, axis=-1):
    y, grad_y = _as_float(y), _as_float(grad_y)
    return y * (1 - y) * grad_y
