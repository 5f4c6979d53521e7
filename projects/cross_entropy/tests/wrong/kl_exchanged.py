# diagnosis: p and q are exchanged: this is KL(q ‖ p)

_right = kl_divergence


def kl_divergence(p_logits, q_logits, *, axis=-1):
    return _right(q_logits, p_logits, axis=axis)
