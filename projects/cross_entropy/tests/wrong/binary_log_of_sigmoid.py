# diagnosis: use max(x, 0) + log1p(exp(-|x|)): exp overflows, or 1 + tiny is rounded to 1 before the log


def binary_cross_entropy_with_logits(logits, targets, *, weight=None, pos_weight=None, reduction="mean"):
    _check_reduction(reduction)
    x, y = np.asarray(logits), np.asarray(targets)
    _check_same_shape("logits", x, "targets", y)
    dtype, compute = _dtypes("logits", x)
    w, w_positive = (
        _weights(n, v, x.shape, compute) for n, v in (("weight", weight), ("pos_weight", pos_weight))
    )
    x, y = x.astype(compute), y.astype(compute)
    with np.errstate(all="ignore"):
        softplus = np.where(x > 0, x + np.log(1 + np.exp(-x)), np.log(1 + np.exp(x)))
        losses = _times(w * w_positive * y, softplus - x) + _times(w * (1 - y), softplus)
        return _reduced(losses, reduction, dtype)
