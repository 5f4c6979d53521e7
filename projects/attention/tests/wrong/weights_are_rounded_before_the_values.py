# diagnosis: more than one rounding to torch.float16


def attention(query, key, value, *, mask=None, causal=False, scale=None, dropout_p=0.0, generator=None):
    _check(query, key, value, mask)
    _check_dropout("dropout_p", dropout_p)
    weights = attention_weights(query, key, mask=mask, causal=causal, scale=scale)
    if dropout_p > 0:
        weights = weights * (torch.rand(weights.shape, generator=generator) >= dropout_p) / (1 - dropout_p)
    return weights @ value
