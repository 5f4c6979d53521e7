# diagnosis: the warmup ends one step early
# module: schedules


def warmup_constant(step, *, warmup_steps, peak_lr):
    _check(step, warmup_steps, peak_lr)
    return peak_lr * min(1.0, (step + 1) / max(warmup_steps, 1))
