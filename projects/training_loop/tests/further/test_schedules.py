"""schedules.py: the three other schedules. Oracles: hand values, laws."""

import itertools
import math

import numpy as np
import pytest

import schedules
from shared.testing.checks import assert_close, assert_imports_only, expect_error

# each with the same 3 warmup steps, 11 updates in all, peak 0.8, floor 0.1
SCHEDULES = {
    "warmup_constant": lambda step: schedules.warmup_constant(step, warmup_steps=3, peak_lr=0.8),
    "warmup_linear": lambda step: schedules.warmup_linear(
        step, warmup_steps=3, total_steps=11, peak_lr=0.8, min_lr=0.1
    ),
    "warmup_stable_decay": lambda step: schedules.warmup_stable_decay(
        step, warmup_steps=3, decay_steps=4, total_steps=11, peak_lr=0.8, min_lr=0.1
    ),
}


@pytest.mark.grades
def test_imports():
    """A schedule is arithmetic: no torch, no state."""
    assert_imports_only(schedules, set())


@pytest.mark.parametrize("function", SCHEDULES)
def test_warmup_by_hand(function):
    """A quarter, a half, three quarters, the whole of the peak."""
    rates = np.array([SCHEDULES[function](step) for step in range(4)])
    mistakes = {
        "the warmup starts at zero: the first update is wasted": [0, 0.8 / 3, 1.6 / 3, 0.8],
        "the warmup ends one step early: the peak belongs to step == warmup_steps": [
            0.8 / 3,
            1.6 / 3,
            0.8,
            0.8,
        ],
        "there is no warmup": [0.8, 0.8, 0.8, 0.8],
    }
    assert_close(rates, np.array([0.2, 0.4, 0.6, 0.8]), what="rates of the first steps", mistakes=mistakes)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("warmup_constant", [0.8, 0.8, 0.8]),
        ("warmup_linear", [0.8, 0.45, 0.1]),
        ("warmup_stable_decay", [0.8, 0.625, 0.1]),
    ],
)
def test_peak_middle_end(function, expected):
    """The peak at step 3, the middle at 6.5 (averaged from its neighbours), the floor at the last update, step 10."""
    rate = SCHEDULES[function]
    middle = rate(7) if function == "warmup_stable_decay" else (rate(6) + rate(7)) / 2
    got = np.array([rate(3), middle, rate(10)])
    mistakes = {
        "the last update does not get min_lr: t must be 1 at step total_steps - 1": [
            expected[0],
            middle,
            rate(10),
        ]
    }
    if abs(rate(10) - expected[2]) < 1e-12:
        mistakes = {}
    assert_close(
        got, np.array(expected), what="rates", mistakes=mistakes, vacuous_ok="a constant is constant"
    )


@pytest.mark.grades("warmup_linear")
def test_decay_is_a_line():
    """Seventeen rates from the peak to the floor, evenly spaced."""
    options = {"warmup_steps": 5, "total_steps": 22, "peak_lr": 0.7, "min_lr": 0.05}
    rates = [schedules.warmup_linear(5 + k, **options) for k in range(17)]
    assert_close(np.array(rates), np.linspace(0.7, 0.05, 17), rtol=1e-9, what="rates after the peak")


@pytest.mark.grades("warmup_stable_decay")
def test_plateau_is_a_plateau():
    """From the end of the warmup to the start of the decay the rate is the peak, whatever total_steps is."""
    for total in (11, 20, 100):
        rates = [
            schedules.warmup_stable_decay(
                step, warmup_steps=3, decay_steps=4, total_steps=total, peak_lr=0.8, min_lr=0.1
            )
            for step in range(3, total)
        ]
        n_peak = sum(rate == 0.8 for rate in rates)
        assert n_peak == total - 3 - 4, f"of {total} steps {total - 7} are at the peak, got {n_peak}"
        assert max(rates) == 0.8, f"the rate goes above the peak: {max(rates)}"


@pytest.mark.parametrize("function", SCHEDULES)
def test_law(function):
    """Positive, never above the peak, no jump, and after the last update it stays where it is."""
    rates = [SCHEDULES[function](step) for step in range(30)]
    assert all(0.1 - 1e-12 <= rate <= 0.8 + 1e-12 for rate in rates), f"outside of min_lr..peak_lr: {rates}"
    assert len(set(rates[10:])) == 1, "beyond the last update the rate must stay"
    assert max(abs(a - b) for a, b in itertools.pairwise(rates)) < 0.3, f"the schedule jumps: {rates}"
    assert isinstance(rates[0], float), f"expected a float, got {type(rates[0]).__name__}"


@pytest.mark.grades("warmup_linear", "warmup_constant")
def test_without_warmup():
    """warmup_steps=0 starts at the peak; min_lr defaults to zero."""
    options = {"warmup_steps": 0, "peak_lr": 0.5}
    assert schedules.warmup_constant(0, **options) == 0.5, "without warmup step 0 has the peak rate"
    linear = schedules.warmup_linear
    assert linear(0, total_steps=5, **options) == 0.5, "without warmup step 0 has the peak rate"
    assert math.isclose(linear(4, total_steps=5, **options), 0.0, abs_tol=1e-15), "min_lr is 0 unless given"
    assert linear(0, total_steps=1, **options) == 0.5, "a run of one step has the peak rate"


@pytest.mark.parametrize("function", SCHEDULES)
@pytest.mark.parametrize(
    "bad",
    [
        {"step": -1},
        {"warmup_steps": -1},
        {"total_steps": 3},
        {"min_lr": 0.9},
        {"min_lr": -0.1},
        {"peak_lr": math.inf},
        {"peak_lr": math.nan},
        {"step": math.nan},
        {"warmup_steps": math.nan},
        {"total_steps": math.nan},
        {"decay_steps": math.nan},
        {"decay_steps": 0},
        {"decay_steps": 8},
    ],
    ids=str,
)
def test_wrong_arguments(function, bad):
    """What cannot be meant is refused."""
    good = {"step": 2, "warmup_steps": 3, "peak_lr": 0.8}
    if function != "warmup_constant":
        good |= {"total_steps": 11, "min_lr": 0.1}
    if function == "warmup_stable_decay":
        good |= {"decay_steps": 4}
    if not bad.keys() <= good.keys():
        bad = {"step": -1}
    arguments = good | bad
    step = arguments.pop("step")
    with expect_error(ValueError, str(*bad.values()), otherwise=f"{bad} is accepted"):
        getattr(schedules, function)(step, **arguments)


@pytest.mark.grades("warmup_linear", "warmup_stable_decay", "warmup_constant")
def test_at_the_bounds():
    """min_lr is 0 unless it is given; no warmup, a decay of one update, or one that fills the run, can be meant."""
    linear, stable, constant = (
        schedules.warmup_linear,
        schedules.warmup_stable_decay,
        schedules.warmup_constant,
    )
    run = {"warmup_steps": 2, "total_steps": 6, "peak_lr": 0.8}
    assert [linear(k, **run) for k in (2, 5, 9)] == [0.8, 0.0, 0.0], "linear, without min_lr"
    assert [stable(k, decay_steps=1, **run) for k in (2, 4, 5)] == [0.8, 0.8, 0.0], "a decay of one update"
    assert [stable(k, decay_steps=3, **run) for k in (2, 5)] == [0.8, 0.0], (
        "the decay follows the warmup at once"
    )
    with expect_error(ValueError, "4", otherwise="a decay that begins within the warmup is accepted"):
        stable(2, decay_steps=4, **run)
    assert linear(4, min_lr=0.8, **run) == 0.8, "min_lr = peak_lr: the rate stays"
    assert constant(0, warmup_steps=0, peak_lr=0.8) == 0.8, "without warmup the first rate is the peak"
    assert constant(0, warmup_steps=0, peak_lr=0.0) == 0, "a rate of 0 can be meant"
    full = {"warmup_steps": 5, "total_steps": 6, "peak_lr": 0.6}
    assert abs(linear(4, **full) - 0.5) < 1e-12, "a warmup that fills the run"
    assert linear(6, **full) == 0, "a warmup that fills the run, and the step beyond"
