# diagnosis: a mask of shape


_right = MultiHeadAttention._additive_mask


def _additive_mask(self, mask, query, n_keys):
    """Take three axes for (B, Tq, Tk), and two for (B, Tk)."""
    if mask is not None and mask.ndim == 3:
        mask = mask[:, None]
    if mask is not None and mask.shape == (len(query), n_keys) and len(query) != query.shape[1]:
        mask = mask[:, None, None]
    return _right(self, mask, query, n_keys)


MultiHeadAttention._additive_mask = _additive_mask
