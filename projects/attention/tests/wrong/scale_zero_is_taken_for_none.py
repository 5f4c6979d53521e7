# diagnosis: the argument scale is ignored

_weights = _wide_weights


def _wide_weights(query, key, mask, causal, scale):
    return _weights(query, key, mask, causal, scale or None)
