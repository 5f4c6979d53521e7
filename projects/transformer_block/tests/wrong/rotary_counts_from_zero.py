# diagnosis: the positions given are ignored: counted from zero

_rotary = rotary


def rotary(x, positions, *, base=10000.0):
    return _rotary(x, torch.arange(x.shape[-2]), base=base)
