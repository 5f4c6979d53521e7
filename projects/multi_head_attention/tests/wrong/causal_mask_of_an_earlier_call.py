# diagnosis: is the causal mask of an earlier call used again?
_mask = MultiHeadAttention._additive_mask


def _additive_mask(self, mask, query, n_keys):
    if mask is not None or not self.causal or query.shape[1] == 1:
        return _mask(self, mask, query, n_keys)
    held = getattr(self, "_held", None)
    if (
        held is None or held[0].shape[0] < query.shape[1] or held[0].shape[1] < n_keys
    ):  # too small: a larger one
        held = self._held = _mask(self, None, query, n_keys)
    return held[0][: query.shape[1], :n_keys], None


MultiHeadAttention._additive_mask = _additive_mask
