# diagnosis: the scale is taken from the width of the values

_attention = attention


def attention(query, key, value, *, scale=None, **options):
    return _attention(query, key, value, scale=value.shape[-1] ** -0.5 if scale is None else scale, **options)
