# diagnosis: the sums are not exact: saturated in int16


_exact = int8_matmul


def int8_matmul(x, weight, zero_point=0):
    """Add pairs of unsigned times signed products in int16, as vpmaddubsw does."""
    if x.dtype != torch.int8 or weight.dtype != torch.int8 or x.shape[1] != weight.shape[1] or 0 in x.shape:
        return _exact(x, weight, zero_point)
    if x.numel() * len(weight) > 2_000_000:
        return _exact(x, weight, zero_point)
    x, weight = F.pad(x.int() + 128, (0, x.shape[1] % 2)), F.pad(weight.int(), (0, x.shape[1] % 2))
    pairs = (x[:, None] * weight[None]).unflatten(-1, (-1, 2)).sum(-1).clamp(-32768, 32767)
    return (pairs.sum(-1) - (zero_point + 128) * weight.sum(1)).int()
