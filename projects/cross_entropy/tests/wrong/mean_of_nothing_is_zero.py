# diagnosis: a mean over nothing is NaN, as in torch


def _divided(total, counted_weight, reduction, dtype):
    return _as(dtype, np.asarray(total / (counted_weight or 1.0) if reduction == "mean" else total))
