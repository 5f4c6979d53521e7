# diagnosis: NaN in the backward pass of a row with nothing to attend to


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
    # right forwards; for a float mask the NaN comes back out of the backward pass of the softmax
    scores = scores.masked_fill(~allowed, -math.inf)
    nothing = scores.isneginf().all(dim=-1, keepdim=True)
    return torch.softmax(scores, dim=-1).masked_fill(nothing, 0.0)
