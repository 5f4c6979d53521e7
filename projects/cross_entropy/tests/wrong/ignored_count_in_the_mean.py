# diagnosis: ignored positions still count in the mean

_checked = _counted_weight


def _counted_weight(targets, weight, ignore_index, *, weighted):
    counted = _checked(targets, weight, ignore_index, weighted=weighted)
    return counted if weighted else float(targets.size)
