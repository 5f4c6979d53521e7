# diagnosis: only the one-hot row is weighted, the softmax is not


def cross_entropy_grad(
    logits, targets, *, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean"
):
    task = _check(logits, targets, weight, ignore_index, label_smoothing, reduction)
    grad = np.empty(task.logits.shape, task.dtype)
    divisor = (task.counted_weight or np.nan) if reduction == "mean" else 1.0
    with np.errstate(all="ignore"):
        for here, z, q in _blocks(task, task.weight):
            np.exp(z, out=z)
            z /= np.expand_dims(_sum(z, q.class_axis), q.class_axis)
            q.subtract_from(z)
            block = _view(grad, here, q.class_axis)
            block[...] = z.reshape(block.shape) / divisor
    return grad.reshape(np.shape(logits))
