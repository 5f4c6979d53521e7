# diagnosis: ignores its mask


_right = MultiHeadAttention._additive_mask
MultiHeadAttention._additive_mask = lambda self, mask, query, n_keys: (
    _right(self, mask, query, n_keys)[0],
    None,
)
