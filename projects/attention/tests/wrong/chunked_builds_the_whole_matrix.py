# diagnosis: numbers arises


def chunked_attention(query, key, value, *, query_chunk=256, key_chunk=512, **options):
    for name, chunk in (("query_chunk", query_chunk), ("key_chunk", key_chunk)):
        if not isinstance(chunk, int) or chunk < 1:
            raise ValueError(f"{name} must be a positive integer, got {chunk!r}")
    return attention(query, key, value, **options)
