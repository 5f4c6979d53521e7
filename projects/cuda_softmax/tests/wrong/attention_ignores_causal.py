# diagnosis: the causal mask is missing

_right_attention = flash_attention


def flash_attention(query, key, value, out=None, *, causal=False, scale=None):
    return _right_attention(query, key, value, out, scale=scale)
