# diagnosis: the gradient does not reach query

_attention = attention


def attention(query, key, value, **options):
    return _attention(query.detach(), key.detach(), value, **options)
