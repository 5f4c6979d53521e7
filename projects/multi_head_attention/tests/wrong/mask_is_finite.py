# diagnosis: hide with -inf, not with a finite number


_right = MultiHeadAttention._additive_mask


def _additive_mask(self, mask, query, n_keys):
    bias, dead = _right(self, mask, query, n_keys)
    return None if bias is None else bias.clamp(min=-1e4), dead


MultiHeadAttention._additive_mask = _additive_mask
