# diagnosis: 0 · inf is NaN: an ignored target must contribute 0


def _times(coefficient, value):
    return coefficient * value
