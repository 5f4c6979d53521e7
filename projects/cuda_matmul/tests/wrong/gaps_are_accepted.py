# diagnosis: an argument that does not fit is accepted


def _is_contiguous(shape, strides, itemsize):
    """Trust the caller."""
    return True
