# diagnosis: the factor is upside down


_smooth = smooth


def smooth(activation_max, weight, *, alpha=0.5):
    return 1 / _smooth(activation_max, weight, alpha=alpha)
