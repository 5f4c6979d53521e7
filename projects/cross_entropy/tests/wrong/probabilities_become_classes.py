# diagnosis: the most probable class is taken, the other shares are lost

_right = cross_entropy


def cross_entropy(logits, targets, **options):
    result = _right(logits, targets, **options)
    targets = np.asarray(targets)
    if targets.dtype.kind == "f" and targets.size:
        return _right(logits, targets.argmax(axis=min(1, targets.ndim - 1)), **options)
    return result
