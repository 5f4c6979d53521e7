# diagnosis: label_smoothing is ignored

_right = cross_entropy


def cross_entropy(logits, targets, *, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    _check(logits, targets, weight, ignore_index, label_smoothing, reduction)
    return _right(logits, targets, weight=weight, ignore_index=ignore_index, reduction=reduction)
