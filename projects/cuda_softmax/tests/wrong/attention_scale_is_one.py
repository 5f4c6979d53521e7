# diagnosis: looks like the scale is 1, not 1/sqrt(d)

_right_attention = flash_attention


def flash_attention(query, key, value, out=None, *, causal=False, scale=None):
    return _right_attention(query, key, value, out, causal=causal, scale=1.0 if scale is None else scale)
