# diagnosis: 0 is taken for none

_right = flash_attention


def flash_attention(query, key, value, out=None, *, causal=False, scale=None):
    """Take every false scale for none."""
    return _right(query, key, value, out, causal=causal, scale=scale or None)
