# diagnosis: Angles in float32 do that

_rotary = rotary


def rotary(x, positions, *, base=10000.0):
    if x.dtype != torch.float32:
        return _rotary(x, positions, base=base)
    if positions.ndim == 0 or positions.shape[-1] != x.shape[-2] or x.shape[-1] % 2:
        return _rotary(x, positions, base=base)
    angles = positions.float()[..., None] * base ** (-torch.arange(0, x.shape[-1], 2) / x.shape[-1])
    first, second = x.chunk(2, dim=-1)
    return torch.cat(
        (first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()), dim=-1
    )
