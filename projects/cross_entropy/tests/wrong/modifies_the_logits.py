# diagnosis: was modified: work on a copy

_right = cross_entropy


def cross_entropy(logits, targets, **options):
    result = _right(logits, targets, **options)
    if isinstance(logits, np.ndarray) and logits.dtype.kind == "f" and logits.size:
        logits -= logits.max(axis=min(1, logits.ndim - 1), keepdims=True)
    return result
