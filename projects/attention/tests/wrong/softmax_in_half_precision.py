# diagnosis: more than one rounding to torch.float16

_weights = _wide_weights


def _wide_weights(query, key, mask, causal, scale):
    weights = _weights(query, key, mask, causal, scale)
    if query.dtype not in (torch.float16, torch.bfloat16) or mask is not None or causal:
        return weights
    scores = (query @ key.mT) * (query.shape[-1] ** -0.5 if scale is None else scale)
    return torch.softmax(scores, dim=-1).float()
