# diagnosis: the float mask is scaled too

_weights = _wide_weights


def _wide_weights(query, key, mask, causal, scale):
    if mask is not None and mask.dtype != torch.bool:
        mask = mask * (query.shape[-1] ** -0.5 if scale is None else scale)
    return _weights(query, key, mask, causal, scale)
