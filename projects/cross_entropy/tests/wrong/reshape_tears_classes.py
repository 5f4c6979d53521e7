# diagnosis: reshape(-1, C) tears classes apart

_right = cross_entropy


def cross_entropy(logits, targets, *, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    task = _check(logits, targets, weight, ignore_index, label_smoothing, reduction)
    options = {"weight": weight, "ignore_index": ignore_index, "label_smoothing": label_smoothing}
    if np.ndim(logits) < 3 or task.targets.ndim == 3 or not task.targets.size:
        return _right(logits, targets, **options, reduction=reduction)
    rows = np.asarray(logits).reshape(-1, len(task.weight))
    losses = _right(rows, np.ravel(targets), **options, reduction=reduction)
    return losses.reshape(task.loss_shape) if reduction == "none" else losses
