# diagnosis: a float32 mask is added to float32 scores
_weights = _wide_weights


def _wide_weights(query, key, mask, causal, scale):
    mask = mask if mask is None or mask.dtype == torch.bool else mask.to(query.dtype)
    return _weights(query, key, mask, causal, scale)
