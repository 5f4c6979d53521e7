# diagnosis: was modified: work on a copy
_weights = _wide_weights


def _wide_weights(query, key, mask, causal, scale):
    if causal and mask is not None and mask.dtype == torch.bool:
        mask &= _causal_mask(query.shape[-2], key.shape[-2], device=mask.device)
        causal = False
    return _weights(query, key, mask, causal, scale)
