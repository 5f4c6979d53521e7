# diagnosis: a large negative number is not enough


def _wide_weights(query, key, mask, causal, scale):
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = (_widen(query) * scale) @ _widen(key).mT
    allowed = torch.ones(scores.shape, dtype=torch.bool)
    if causal:
        allowed = allowed & _causal_mask(*scores.shape[-2:], device=scores.device)
    if mask is not None and mask.dtype == torch.bool:
        allowed = allowed & mask
    elif mask is not None:
        scores, allowed = scores + mask.clamp(min=-1e38), allowed & ~mask.isneginf()
    weights = torch.softmax(scores.masked_fill(~allowed, -1e9), dim=-1)
    return weights.masked_fill(~allowed.any(dim=-1, keepdim=True), 0.0)
