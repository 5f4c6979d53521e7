# diagnosis: the range was not widened to contain 0


def choose_qparams(low, high, *, n_bits=8, symmetric=False, reduce_range=False):
    low, high = torch.as_tensor(low, dtype=torch.float64), torch.as_tensor(high, dtype=torch.float64)
    q_min, q_max = _limits(n_bits - reduce_range)
    scale = torch.maximum(-low, high) / q_max if symmetric else (high - low) / (q_max - q_min)
    scale = scale.where(high > low, 1.0).float()
    if symmetric:
        return scale, torch.zeros_like(scale, dtype=torch.int32)
    return scale, (q_min - torch.round(low / scale)).clamp(q_min, q_max).int()
