# diagnosis: with a mask, causal=True is forgotten


_right = MultiHeadAttention._additive_mask


def _additive_mask(self, mask, query, n_keys):
    causal = self.causal
    self.causal = causal and mask is None
    try:
        return _right(self, mask, query, n_keys)
    finally:
        self.causal = causal


MultiHeadAttention._additive_mask = _additive_mask
