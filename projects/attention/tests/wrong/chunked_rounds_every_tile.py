# diagnosis: compute the tiles in float32

_chunked = chunked_attention


def chunked_attention(query, key, value, **options):
    global _widen
    wide, _widen = _widen, lambda x: x
    try:
        return _chunked(query, key, value, **options)
    finally:
        _widen = wide
