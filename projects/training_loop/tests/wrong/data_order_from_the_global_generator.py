# diagnosis: the order must not depend on the call
# module: text_data


def epoch_order(n_windows, *, seed, epoch):
    return torch.randperm(n_windows)
