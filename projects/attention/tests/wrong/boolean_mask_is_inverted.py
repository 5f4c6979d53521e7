# diagnosis: the boolean mask is inverted

_weights = _wide_weights


def _wide_weights(query, key, mask, causal, scale):
    inverted = ~mask if mask is not None and mask.dtype == torch.bool else mask
    return _weights(query, key, inverted, causal, scale)
