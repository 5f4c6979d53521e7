# diagnosis: the softmax is multiplied by Q = sum(w·p), not by the weight of its column

_right = cross_entropy_grad


def cross_entropy_grad(logits, targets, *, weight=None, **options):
    grad = _right(logits, targets, weight=weight, **options)
    if weight is None or np.asarray(targets).dtype.kind != "f":
        return grad
    columns = np.reshape(weight, (-1,) + (1,) * max(0, np.ndim(logits) - 2))
    return (columns * _right(logits, targets, **options)).astype(grad.dtype)
