# diagnosis: leading axes of the three inputs must broadcast together
_every = _leading


def _leading(*tensors):
    _every(*tensors)  # refuses what does not fit
    return tensors[0].shape[:-2]
