# diagnosis: weight is ignored for probabilities

_right = cross_entropy


def cross_entropy(logits, targets, *, weight=None, **options):
    result = _right(logits, targets, weight=weight, **options)
    return _right(logits, targets, **options) if np.asarray(targets).dtype.kind == "f" else result
