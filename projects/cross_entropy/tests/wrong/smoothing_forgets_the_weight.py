# diagnosis: the smoothed part forgets the class weights

_weighted = _coefficients


def _coefficients(task, weight, *block):
    q = _weighted(task, weight, *block)
    if q.spread is None or q.own is None:
        return q
    share = task.label_smoothing / len(weight)
    return q._replace(spread=np.full(q.spread.shape, share, weight.dtype), total=q.own + task.label_smoothing)
