# diagnosis: subtract each row's largest score before exp


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
    e = torch.exp(scores.masked_fill(~allowed, -math.inf))
    total = e.sum(dim=-1, keepdim=True)
    return e / total.masked_fill(total == 0, 1.0)
