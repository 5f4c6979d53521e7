# diagnosis: a device array that is not contiguous is accepted


def _is_contiguous(shape, strides, itemsize):
    return True
