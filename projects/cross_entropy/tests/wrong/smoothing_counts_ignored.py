# diagnosis: the smoothed part of ignored positions is still there

_right = _coefficients


def _coefficients(task, weight, *block):
    q = _right(task, weight, *block)
    return q if q.spread is None else q._replace(ignored=slice(0))
