# diagnosis: the float mask is multiplied

_weights = _wide_weights


def _wide_weights(query, key, mask, causal, scale):
    if mask is None or mask.dtype == torch.bool:
        return _weights(query, key, mask, causal, scale)
    scores = (query @ key.mT) * (query.shape[-1] ** -0.5 if scale is None else scale) * mask
    return _weights(torch.ones_like(query[..., :1]), torch.zeros_like(key[..., :1]), scores, causal, scale)
