# diagnosis: the mean divides by the number of elements, not by the weights

_right = binary_cross_entropy_with_logits


def binary_cross_entropy_with_logits(logits, targets, *, weight=None, pos_weight=None, reduction="mean"):
    loss = _right(logits, targets, weight=weight, pos_weight=pos_weight, reduction=reduction)
    if weight is None or reduction != "mean":
        return loss
    return loss / np.broadcast_to(weight, np.shape(logits)).mean()
