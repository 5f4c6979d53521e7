# diagnosis: pos_weight is for the label 1 only, not for both

_right = binary_cross_entropy_with_logits


def binary_cross_entropy_with_logits(logits, targets, *, weight=None, pos_weight=None, reduction="mean"):
    result = _right(logits, targets, weight=weight, pos_weight=pos_weight, reduction=reduction)
    if pos_weight is None:
        return result
    both = np.asarray(pos_weight) * (1.0 if weight is None else np.asarray(weight))
    return _right(logits, targets, weight=both, reduction=reduction)
