# diagnosis: the divergence is the wrong way round
# module: distillation


_loss = distillation_loss


def distillation_loss(student_logits, teacher_logits, labels=None, *, temperature=4.0, alpha=0.9):
    soft = _loss(teacher_logits, student_logits, temperature=temperature, alpha=alpha)
    return soft if labels is None else alpha * soft + (1 - alpha) * F.cross_entropy(student_logits, labels)
