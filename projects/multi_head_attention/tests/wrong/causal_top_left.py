# diagnosis: the first query is aligned with the first key


_right = MultiHeadAttention._additive_mask


def _additive_mask(self, mask, query, n_keys):
    causal, Tq = self.causal, query.shape[1]
    allowed = torch.ones(Tq, n_keys, dtype=torch.bool).tril()
    if causal and (mask is None or mask.dtype == torch.bool):
        mask = allowed if mask is None else mask & allowed
    self.causal = causal and mask is not None and mask.dtype != torch.bool
    try:
        return _right(self, mask, query, n_keys)
    finally:
        self.causal = causal


MultiHeadAttention._additive_mask = _additive_mask
