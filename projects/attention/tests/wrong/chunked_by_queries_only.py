# diagnosis: numbers arises

_chunked = chunked_attention


def chunked_attention(query, key, value, *, key_chunk=512, **options):
    if not isinstance(key_chunk, int) or key_chunk < 1:
        raise ValueError(f"key_chunk must be a positive integer, got {key_chunk!r}")
    return _chunked(query, key, value, key_chunk=max(key.shape[-2], 1), **options)
