# diagnosis: the factor T² is missing
# module: distillation


_loss = distillation_loss


def distillation_loss(student_logits, teacher_logits, labels=None, *, temperature=4.0, alpha=0.9):
    soft = _loss(student_logits, teacher_logits, temperature=temperature, alpha=alpha) / temperature**2
    return soft if labels is None else alpha * soft + (1 - alpha) * F.cross_entropy(student_logits, labels)
