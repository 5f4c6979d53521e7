# diagnosis: attention returns zeros

_attention = attention


def attention(query, key, value, **options):
    return 0 * _attention(query, key, value, **options)
