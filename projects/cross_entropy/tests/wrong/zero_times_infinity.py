# diagnosis: 0 · (-inf) is NaN; a probability of 0 must contribute 0


def _times(coefficient, value):
    return coefficient * value
