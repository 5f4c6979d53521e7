# diagnosis: the boolean mask is added as 0 and 1

_weights = _wide_weights


def _wide_weights(query, key, mask, causal, scale):
    mask = mask.to(query.dtype) if mask is not None else None
    return _weights(query, key, mask, causal, scale)
