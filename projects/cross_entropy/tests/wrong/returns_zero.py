# diagnosis: the loss is zero whatever the logits


def cross_entropy(logits, targets, *, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    task = _check(logits, targets, weight, ignore_index, label_smoothing, reduction)
    return np.zeros(task.loss_shape if reduction == "none" else (), task.dtype)
