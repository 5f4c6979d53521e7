# diagnosis: the mask is used the wrong way round


_right = MultiHeadAttention._additive_mask


def _additive_mask(self, mask, query, n_keys):
    return _right(self, ~mask if mask is not None and mask.dtype == torch.bool else mask, query, n_keys)


MultiHeadAttention._additive_mask = _additive_mask
