# diagnosis: the running maximum must start below every score
_finfo = torch.finfo


class _Zero:
    min = 0.0


def _forward(*args):
    torch.finfo = lambda dtype: _Zero
    try:
        return _reference_forward(*args)
    finally:
        torch.finfo = _finfo


_reference_forward = _ChunkedAttention.forward
_ChunkedAttention.forward = staticmethod(_forward)
