# diagnosis: one map for each head


_right = MultiHeadAttention.attention_maps
MultiHeadAttention.attention_maps = lambda self, x, context=None, *, mask=None: _right(
    self, x, context, mask=mask
).mean(1, keepdim=True)
