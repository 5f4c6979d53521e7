# diagnosis: the mask of the first sample is used for all

_right = MultiHeadAttention._additive_mask


def _additive_mask(self, mask, query, n_keys):
    bias, dead = _right(self, mask, query, n_keys)
    first = mask is not None and mask.ndim == 4
    return (bias[:1], dead[:1]) if first and dead is not None else (bias, dead)


MultiHeadAttention._additive_mask = _additive_mask
