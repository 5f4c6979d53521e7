# diagnosis: the mean divides by N, not by the summed weight of the targets

_checked = _counted_weight


def _counted_weight(targets, weight, ignore_index, *, weighted):
    _checked(targets, weight, ignore_index, weighted=weighted)
    return float(np.count_nonzero(targets != ignore_index))
