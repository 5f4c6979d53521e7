# diagnosis: the share goes to the C - 1 wrong classes; it is spread over all C

_over_all = _coefficients


def _coefficients(task, weight, *block):
    C = len(weight)
    return _over_all(task._replace(label_smoothing=task.label_smoothing * C / max(1, C - 1)), weight, *block)
