"""Three more learning-rate schedules beside warmup_cosine of training_loop.py: constant, linear, and warmup-stable-decay.

Pure functions of the step, so that a resumed run needs no schedule state and a skipped step moves nothing. `step` counts
from 0: it is the number of updates already made. All warm up linearly, from ``peak_lr / (warmup_steps + 1)`` at
step 0 (never from zero: that would waste a step) to exactly `peak_lr` at ``step == warmup_steps``. What cannot be meant
raises ValueError, and the message contains the value.
"""

from __future__ import annotations

__all__ = ["warmup_constant", "warmup_linear", "warmup_stable_decay"]


def warmup_constant(step: int, *, warmup_steps: int, peak_lr: float) -> float:
    """Warm up, then stay: ``peak_lr · min(1, (step + 1)/(warmup_steps + 1))``; 0 `warmup_steps` mean no warmup.

    ValueError if `step`, `warmup_steps` or `peak_lr` is negative, or `peak_lr` not finite.
    """
    _check(step, warmup_steps, peak_lr)
    return peak_lr * min(1.0, (step + 1) / (warmup_steps + 1))


def warmup_linear(
    step: int, *, warmup_steps: int, total_steps: int, peak_lr: float, min_lr: float = 0.0
) -> float:
    """Warm up, then go down in a straight line to `min_lr`, which the last update (``total_steps - 1``) gets; there it stays.

    ``peak_lr + (min_lr - peak_lr)·t`` with ``t = (step - warmup_steps)/(total_steps - 1 - warmup_steps)``.
    ValueError as for `warmup_constant`, and unless ``warmup_steps < total_steps`` and ``0 <= min_lr <= peak_lr``.
    """
    _check(step, warmup_steps, peak_lr, min_lr, total_steps)
    if step <= warmup_steps:
        return warmup_constant(step, warmup_steps=warmup_steps, peak_lr=peak_lr)
    return peak_lr + (min_lr - peak_lr) * _progress(step, warmup_steps, total_steps - 1)


def warmup_stable_decay(
    step: int, *, warmup_steps: int, decay_steps: int, total_steps: int, peak_lr: float, min_lr: float = 0.0
) -> float:
    """Warm up, stay at `peak_lr`, and go down in a straight line during the last `decay_steps` updates only.

    The plateau does not depend on `total_steps`: any of its checkpoints can be decayed into a finished model, or trained
    on. The decay starts from `peak_lr` at ``total_steps - 1 - decay_steps`` and reaches `min_lr` at the last update.
    ValueError as for `warmup_linear`, and unless ``decay_steps >= 1`` and ``warmup_steps + decay_steps < total_steps``.
    Source: Hu et al., "MiniCPM", arXiv 2404.06395, section 4.
    """
    _check(step, warmup_steps, peak_lr, min_lr, total_steps)
    if not (decay_steps >= 1 and warmup_steps + decay_steps < total_steps):
        raise ValueError(
            f"decay_steps must be 1 or more and fit behind the warmup: {warmup_steps} + {decay_steps} of {total_steps}"
        )
    start = total_steps - 1 - decay_steps
    if step <= start:
        return warmup_constant(step, warmup_steps=warmup_steps, peak_lr=peak_lr)
    return peak_lr + (min_lr - peak_lr) * _progress(step, start, total_steps - 1)


def _progress(step: int, start: int, end: int) -> float:
    """Return how much of the way from `start` to `end` is done, 0..1."""
    return min(1.0, (step - start) / max(end - start, 1))


def _check(
    step: int, warmup_steps: int, peak_lr: float, min_lr: float = 0.0, total_steps: int | None = None
) -> None:
    if not (step >= 0 and warmup_steps >= 0):  # NaN is neither
        raise ValueError(f"step and warmup_steps must not be negative, got {step} and {warmup_steps}")
    if not 0 <= min_lr <= peak_lr < float("inf"):
        raise ValueError(f"0 <= min_lr <= peak_lr < inf is needed, got min_lr={min_lr} and peak_lr={peak_lr}")
    if total_steps is not None and not total_steps > warmup_steps:
        raise ValueError(f"total_steps must be above warmup_steps={warmup_steps}, got {total_steps}")
