# diagnosis: causal aligns the first query with the first key


def _causal_mask(n_queries, n_keys, *, device):
    return torch.ones(n_queries, n_keys, dtype=torch.bool, device=device).tril()
