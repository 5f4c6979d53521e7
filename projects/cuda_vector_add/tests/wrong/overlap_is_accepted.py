# diagnosis: an out that overlaps an input, shifted, is accepted


def _check_overlap(a, b, out):
    pass
