# diagnosis: axis is ignored

_right = kl_divergence


def kl_divergence(p_logits, q_logits, *, axis=-1):
    return _right(p_logits, q_logits)
