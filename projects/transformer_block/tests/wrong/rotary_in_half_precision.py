# diagnosis: rotate in float32 with angles in float64

_rotary = rotary


def rotary(x, positions, *, base=10000.0):
    if x.dtype not in (torch.float16, torch.bfloat16):
        return _rotary(x, positions, base=base)
    angles = _angles(positions, x.shape[-1], base)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
