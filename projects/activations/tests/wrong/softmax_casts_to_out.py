# diagnosis: softmax accepts out of dtype

_reference = softmax


def softmax(x, *, axis=-1, out=None):
    result = _reference(x, axis=axis)
    if out is None:
        return result
    if out.shape != result.shape:
        raise ValueError(f"out has shape {out.shape}, not {result.shape}")
    out[...] = result
    return out
