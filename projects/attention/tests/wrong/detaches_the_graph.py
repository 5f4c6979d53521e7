# diagnosis: the result has no graph

_attention = attention


def attention(query, key, value, **options):
    with torch.no_grad():
        return _attention(query, key, value, **options)
