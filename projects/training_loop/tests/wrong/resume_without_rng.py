# diagnosis: the first difference is at update


def set_rng_state(state, device):
    pass
