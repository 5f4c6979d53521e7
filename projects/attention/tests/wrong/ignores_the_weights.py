# diagnosis: every query gets the plain mean of the values

_attention = attention


def attention(query, key, value, **options):
    return _attention(0 * query, key, value, **options)
