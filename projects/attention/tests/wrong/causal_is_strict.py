# diagnosis: causal is strict


def _causal_mask(n_queries, n_keys, *, device):
    return torch.ones(n_queries, n_keys, dtype=torch.bool, device=device).tril(n_keys - n_queries - 1)
