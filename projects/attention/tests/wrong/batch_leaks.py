# diagnosis: the batch leaks

_attention = attention


def attention(query, key, value, **options):
    if query.ndim > 2 and len(key) > 1 and key.shape[-3] > 2:
        key = key - key.mean(dim=-3, keepdim=True)
    return _attention(query, key, value, **options)
