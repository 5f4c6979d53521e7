# diagnosis: a position sees the future
# module: char_gpt

_attention = nn.functional.scaled_dot_product_attention


def _see_all(query, key, value, is_causal=False):
    return _attention(query, key, value)


class _Functional:
    pad = staticmethod(nn.functional.pad)
    gelu = staticmethod(nn.functional.gelu)
    scaled_dot_product_attention = staticmethod(_see_all)


nn = type("nn", (), {**vars(nn), "functional": _Functional})
