# diagnosis: the sampler is not reshuffled
# module: text_data

_order = epoch_order


def epoch_order(n_windows, *, seed, epoch):
    return _order(n_windows, seed=seed, epoch=0)
