# diagnosis: half types: compute in float32


def _widened(x, weight):
    if x.ndim == 0 or x.shape[-1] != len(weight):
        raise ValueError(f"x must be (..., {len(weight)}), got {tuple(x.shape)}")
    return x
