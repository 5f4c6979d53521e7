"""Three more learning-rate schedules beside warmup_cosine of training_loop.py: constant, linear, and warmup-stable-decay.

Pure functions of the step, so that a resumed run needs no schedule state and a skipped step moves nothing. `step` counts
from 0: it is the number of updates already made. All warm up linearly, from ``peak_lr / (warmup_steps + 1)`` at
step 0 (never from zero: that would waste a step) to exactly `peak_lr` at ``step == warmup_steps``. What cannot be meant
raises ValueError, and the message contains the value.
"""

from __future__ import annotations

__all__ = ["warmup_constant", "warmup_linear", "warmup_stable_decay"]


def warmup_constant(step: int, *, warmup_steps: int, peak_lr: float) -> float:
    """Warm up, then stay at `peak_lr`.

    lr(step) = peak_lr · min(1, (step + 1)/(warmup_steps + 1))

    Parameters
    ----------
    step : int
        Updates made so far, from 0.
    warmup_steps : int
        The step at which the peak is reached; 0 means no warmup.
    peak_lr : float
        The largest rate.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If `step` or `warmup_steps` is negative, or `peak_lr` is.
    """
    _check(step, warmup_steps, peak_lr)
    return peak_lr * min(1.0, (step + 1) / (warmup_steps + 1))


def warmup_linear(
    step: int, *, warmup_steps: int, total_steps: int, peak_lr: float, min_lr: float = 0.0
) -> float:
    """Warm up, then go down in a straight line to `min_lr`, which the last update (``total_steps - 1``) gets.

    lr(step) = peak_lr + (min_lr - peak_lr)·t,  t = (step - warmup_steps)/(total_steps - 1 - warmup_steps)

    Parameters
    ----------
    step, warmup_steps, peak_lr
        As for `warmup_constant`. Beyond the last update the rate stays `min_lr`.
    total_steps : int
        Updates in the whole run, more than `warmup_steps`.
    min_lr : float
        The rate at the end.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        As for `warmup_constant`; also if `total_steps` is not above `warmup_steps`, or `min_lr` not in 0..peak_lr.
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

    Parameters
    ----------
    step, warmup_steps, total_steps, peak_lr, min_lr
        As for `warmup_linear`.
    decay_steps : int
        Length of the decay, 1 or more; warmup and decay together are shorter than `total_steps`.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        As for `warmup_linear`; also if `decay_steps` does not fit.

    Notes
    -----
    Source: Hu et al., "MiniCPM", 2024, section 4.
    """
    _check(step, warmup_steps, peak_lr, min_lr, total_steps)
    if decay_steps < 1 or warmup_steps + decay_steps >= total_steps:
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
    if step < 0 or warmup_steps < 0:
        raise ValueError(f"step and warmup_steps must not be negative, got {step} and {warmup_steps}")
    if not 0 <= min_lr <= peak_lr:
        raise ValueError(f"0 <= min_lr <= peak_lr is needed, got min_lr={min_lr} and peak_lr={peak_lr}")
    if total_steps is not None and total_steps <= warmup_steps:
        raise ValueError(f"total_steps must be above warmup_steps={warmup_steps}, got {total_steps}")
