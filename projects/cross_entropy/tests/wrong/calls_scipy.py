# diagnosis: calls the library instead

from scipy.special import log_softmax


def cross_entropy(logits, targets, *, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    return nll_loss(
        log_softmax(logits, axis=1), targets, weight=weight, ignore_index=ignore_index, reduction=reduction
    )
