# diagnosis: for probabilities the mean divides by the number of positions

_by_count = _check


def _check(logits, targets, weight, *options):
    task = _by_count(logits, targets, weight, *options)
    if task.targets.ndim < 3 or weight is None:
        return task
    return task._replace(counted_weight=float((task.weight[:, None] * task.targets).sum()))
