# diagnosis: the norm after clipping is returned
# module: optimization

_before = clip_gradients


def clip_gradients(parameters, max_norm):
    return _before(parameters, max_norm).clamp(max=max_norm)
