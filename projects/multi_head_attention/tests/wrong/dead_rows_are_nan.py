# diagnosis: gives NaN


_right = MultiHeadAttention._additive_mask


def _additive_mask(self, mask, query, n_keys):
    bias, dead = _right(self, mask, query, n_keys)
    return (bias if dead is None else bias.masked_fill(dead, -math.inf)), None


MultiHeadAttention._additive_mask = _additive_mask
