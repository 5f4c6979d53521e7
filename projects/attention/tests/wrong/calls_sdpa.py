# diagnosis: calls the library instead

_attention = attention


def attention(query, key, value, *, mask=None, causal=False, scale=None, dropout_p=0.0, generator=None):
    options = {"mask": mask, "causal": causal, "scale": scale, "dropout_p": dropout_p, "generator": generator}
    if dropout_p or causal or mask is not None or query.dtype != torch.float32:
        return _attention(query, key, value, **options)
    _check(query, key, value, mask)
    return nn.functional.scaled_dot_product_attention(query, key, value, scale=scale)
