# diagnosis: the scores are not scaled

_weights = _wide_weights


def _wide_weights(query, key, mask, causal, scale):
    return _weights(query, key, mask, causal, 1.0 if scale is None else scale)
