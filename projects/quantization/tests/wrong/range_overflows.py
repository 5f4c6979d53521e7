# diagnosis: the scale of ±3e+38 is inf


def choose_qparams(low, high, *, n_bits=8, symmetric=False, reduce_range=False):
    low, high = torch.as_tensor(low, dtype=torch.float32), torch.as_tensor(high, dtype=torch.float32)
    if not (torch.isfinite(low).all() and torch.isfinite(high).all() and (low <= high).all()):
        raise ValueError(f"low <= high, both finite, are needed, got low {low}, high {high}")
    q_min, q_max = _limits(n_bits - reduce_range)
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = torch.maximum(-low, high) / q_max if symmetric else (high - low) / (q_max - q_min)
    scale = scale.where(high > low, torch.tensor(1.0))
    if symmetric:
        return scale, torch.zeros_like(scale, dtype=torch.int32)
    return scale, (q_min - torch.round(low / scale)).clamp(q_min, q_max).int()
