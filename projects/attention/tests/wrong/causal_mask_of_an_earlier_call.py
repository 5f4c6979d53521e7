# diagnosis: is the mask of an earlier call used again?
_masks = {}
_fresh = _causal_mask


def _causal_mask(n_queries, n_keys, *, device):
    held = _masks.get(n_queries)
    if held is None or held.shape[1] < n_keys:  # too small: make a larger one
        held = _masks[n_queries] = _fresh(n_queries, n_keys, device=device)
    return held[:, :n_keys]
