# diagnosis: looks like the scale is 1/d, not 1/sqrt(d)

_weights = _wide_weights


def _wide_weights(query, key, mask, causal, scale):
    return _weights(query, key, mask, causal, 1 / query.shape[-1] if scale is None else scale)
