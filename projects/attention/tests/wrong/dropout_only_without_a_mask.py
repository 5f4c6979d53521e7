# diagnosis: the option boolean changes the dropout


def attention(query, key, value, *, mask=None, causal=False, scale=None, dropout_p=0.0, generator=None):
    _check(query, key, value, mask)
    _check_dropout("dropout_p", dropout_p)
    weights = _wide_weights(query, key, mask, causal, scale)
    if dropout_p > 0 and mask is None:
        chance = torch.rand(weights.shape, generator=generator, dtype=weights.dtype)
        weights = weights * (chance >= dropout_p) / (1 - dropout_p)
    return (weights @ _widen(value)).to(query.dtype)
