# diagnosis: the input is log-probabilities already: no second log_softmax

_right = nll_loss


def nll_loss(log_probs, targets, **options):
    _right(log_probs, targets, **options)
    return cross_entropy(log_probs, targets, **options)
