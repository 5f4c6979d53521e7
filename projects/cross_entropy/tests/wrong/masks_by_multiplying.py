# diagnosis: an ignored position spoils the result

_right = _coefficients


def _coefficients(task, weight, *block):
    q = _right(task, weight, *block)
    return q._replace(ignored=slice(0)) if q.spread is None else q
