# diagnosis: a NaN must show in its own row


def _wide_weights(query, key, mask, causal, scale):
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = (_widen(query) * scale) @ _widen(key).mT
    allowed = torch.ones(scores.shape, dtype=torch.bool)
    if mask is not None and mask.dtype == torch.bool:
        allowed = allowed & mask
    elif mask is not None:
        scores = scores + mask.to(scores.dtype)
    if causal:
        allowed = allowed & _causal_mask(*scores.shape[-2:], device=scores.device)
    return torch.softmax(scores.masked_fill(~allowed, -math.inf), dim=-1).nan_to_num(0.0)
