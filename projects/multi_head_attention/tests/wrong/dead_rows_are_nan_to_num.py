# diagnosis: is NaN: the NaN was replaced after the softmax


_mask, _softmax = MultiHeadAttention._additive_mask, MultiHeadAttention._weights


def _additive_mask(self, mask, query, n_keys):
    bias, dead = _mask(self, mask, query, n_keys)
    return (bias if dead is None else bias.masked_fill(dead, -math.inf)), None


MultiHeadAttention._additive_mask = _additive_mask
MultiHeadAttention._weights = lambda self, q, k, bias: _softmax(self, q, k, bias).nan_to_num(0)
