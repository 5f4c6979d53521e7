# diagnosis: a padding token that sees nothing gives NaN


_bias = _attention_bias


def _attention_bias(mask, causal, query):
    _bias(mask, causal, query)
    T = query.shape[-2]
    bias = query.new_full((T, T), -torch.inf).triu(1) if causal else query.new_zeros(T, T)
    if mask is None:
        return (bias if causal else None), None
    if mask.dtype == torch.bool:
        return bias + query.new_zeros(mask.shape).masked_fill(~mask, -torch.inf), None
    return bias + mask.to(query.dtype), None
