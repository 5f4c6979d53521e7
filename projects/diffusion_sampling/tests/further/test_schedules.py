"""The judge of schedules.py. Oracles: values worked by hand, the paper's formula spelled out.

diffusers has the same schedules; test_with_diffusers compares with it.
"""

import math

import pytest
import torch
from oracles import DOUBLE

import schedules
from shared.testing.checks import assert_close, expect_error


@pytest.mark.grades("cosine_alpha_bars")
def test_alpha_bars():
    """T + 1 float64 values from most noise to none: rising, above 0, the last exactly 1."""
    for n_steps in (1, 50):
        grid = schedules.cosine_alpha_bars(n_steps)
        assert grid.shape == (n_steps + 1,), f"{n_steps} steps, shape {tuple(grid.shape)}"
        assert grid.dtype == DOUBLE, f"the grid must be float64, got {grid.dtype}"
        assert grid[0] < grid[-1], (
            "the order is reversed: a grid runs as sampling does, from most noise to none"
        )
        assert grid[-1] == 1, f"the grid must end at ᾱ_0 = 1, got {float(grid[-1])}"
        assert bool((grid > 0).all() and (grid.diff() > 0).all()), "alpha_bars must be positive and rise"
    assert len(schedules.cosine_alpha_bars()) == 1001, "the default is 1000 steps"


@pytest.mark.grades("cosine_alpha_bars")
@pytest.mark.parametrize("offset", [0.008, 0.05])
def test_cosine(offset):
    """ᾱ_t = f(t)/f(0) where no beta is capped; written with cos² = (1 + cos 2θ)/2, t/T by t/T."""
    T = 40
    grid = schedules.cosine_alpha_bars(T, offset=offset)

    def f(t, T=T):
        return (1 + math.cos((t / T + offset) / (1 + offset) * math.pi)) / 2

    expected = torch.tensor([f(t) / f(0) for t in range(T - 1, -1, -1)], dtype=DOUBLE)
    mistakes = {
        "off by one: f is taken at t + 1": lambda: torch.tensor(
            [f(t + 1) / f(1) for t in range(T - 1, -1, -1)]
        ),
        "off by one: t runs over T - 1 intervals": lambda: torch.tensor(
            [f(t, T - 1) / f(0, T - 1) for t in range(T - 1, -1, -1)]
        ),
        "off by one: t runs over T + 1 intervals": lambda: torch.tensor(
            [f(t, T + 1) / f(0, T + 1) for t in range(T - 1, -1, -1)]
        ),
        "f(t) is not divided by f(0)": lambda: torch.tensor([f(t) for t in range(T - 1, -1, -1)]),
        "the cosine is not squared": lambda: expected.sqrt(),
        "the offset is ignored": lambda: torch.tensor(
            [math.cos(t / T * math.pi / 2) ** 2 for t in range(T - 1, -1, -1)]
        ),
    }
    hint = "if every entry is near its neighbour's value, the schedule is off by one"
    assert_close(grid[1:], expected, rtol=1e-9, what="cosine ᾱ_{T-1}..ᾱ_0", mistakes=mistakes, hint=hint)


@pytest.mark.grades("cosine_alpha_bars")
@pytest.mark.parametrize("max_beta", [0.999, 0.5])
def test_cosine_is_capped(max_beta):
    """The last beta would be 1, which leaves nothing of the signal: it is capped, and so may be others."""
    grid = schedules.cosine_alpha_bars(20, max_beta=max_beta)
    betas = 1 - grid[:-1] / grid[1:]  # β_T, ..., β_1
    assert grid[0] > 1e-12, f"ᾱ_T is {float(grid[0]):.3g}: cap the betas, or sigma is infinite"
    assert abs(float(betas[0]) - max_beta) < 1e-9, f"β_T is {float(betas[0])}, expected the cap {max_beta}"
    assert float(betas.max()) < max_beta + 1e-9, f"a beta of {float(betas.max())} exceeds the cap {max_beta}"


@pytest.mark.grades("cosine_alpha_bars")
@pytest.mark.parametrize(
    ("n_steps", "options", "mention"),
    [
        (0, {}, "0"),
        (5, {"max_beta": 1.0}, "1.0"),
        (5, {"max_beta": 0.0}, "0.0"),
        (5, {"offset": 0.0}, "0.0"),
    ],
    ids=str,
)
def test_bad_schedules(n_steps, options, mention):
    """Arguments that give no grid are refused and named."""
    with expect_error(
        ValueError, mention, otherwise=f"cosine_alpha_bars({n_steps}) with {options} is accepted"
    ):
        schedules.cosine_alpha_bars(n_steps, **options)


@pytest.mark.grades("alpha_bar_to_sigma", "sigma_to_alpha_bar")
def test_alpha_bar_and_sigma_by_hand():
    """ᾱ = 0.36 has 0.64 of noise: σ = 0.8/0.6; 1 is no noise, 0 nothing but noise."""
    alpha_bar = torch.tensor([[0.36, 0.64], [1.0, 0.0]], dtype=DOUBLE)
    sigma = torch.tensor([[4 / 3, 0.75], [0.0, math.inf]], dtype=DOUBLE)
    mistakes = {
        "this is sqrt(1 - ᾱ): divide by sqrt(ᾱ)": (1 - alpha_bar).sqrt(),
        "the root is missing": sigma**2,
        "numerator and denominator are swapped": 1 / sigma,
    }
    assert_close(schedules.alpha_bar_to_sigma(alpha_bar), sigma, what="sigma", mistakes=mistakes)
    mistakes = {"sigma is not squared": 1 / (1 + sigma)}
    assert_close(schedules.sigma_to_alpha_bar(sigma), alpha_bar, what="alpha_bar", mistakes=mistakes)


@pytest.mark.grades("sigma_to_t")
def test_sigma_to_t():
    """At the schedule's own levels t is whole, 1 for the least noise; half-way in log σ it is half-way."""
    alpha_bars = torch.tensor([0.1, 0.5, 0.8, 0.9, 1.0], dtype=DOUBLE)  # t = 4, 3, 2, 1, 0
    sigmas = ((1 - alpha_bars) / alpha_bars).sqrt()
    got = schedules.sigma_to_t(sigmas[:-1].reshape(2, 2), alpha_bars)
    mistakes = {
        "t counts the wrong way: most noise is T": torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
        "t counts from 0: the least noise is t = 1": torch.tensor([[3.0, 2.0], [1.0, 0.0]]),
    }
    expected = torch.tensor([[4.0, 3.0], [2.0, 1.0]], dtype=DOUBLE)
    assert_close(got, expected, rtol=1e-9, what="t of the schedule's levels", mistakes=mistakes)
    between = (sigmas[0] * sigmas[1]).sqrt()
    linear = (between - sigmas[1]) / (sigmas[0] - sigmas[1])
    mistakes = {"t is linear in σ; it is in log σ": 3 + linear.reshape(1)}
    got = schedules.sigma_to_t(between.reshape(1), alpha_bars)
    assert_close(
        got, torch.tensor([3.5], dtype=DOUBLE), rtol=1e-9, what="t half-way in log σ", mistakes=mistakes
    )
    ends = schedules.sigma_to_t(torch.tensor([1e-9, 1e9]), alpha_bars)
    assert_close(ends, torch.tensor([1.0, 4.0], dtype=DOUBLE), rtol=1e-9, what="t beyond the ends")
    one = schedules.sigma_to_t(torch.tensor([0.5, 0.7]), torch.tensor([0.6, 1.0]))
    assert one.tolist() == [1.0, 1.0], f"a schedule of one timestep has t = 1 only, got {one.tolist()}"


@pytest.mark.grades("cosine_alpha_bars")
@pytest.mark.parametrize("n_steps", [5.5, 5.0, True, "5", None], ids=repr)
def test_steps_are_counted(n_steps):
    """5.5 steps would be 7 levels that are no schedule."""
    with expect_error(TypeError, "n_steps", repr(n_steps), otherwise=f"n_steps = {n_steps!r} is accepted"):
        schedules.cosine_alpha_bars(n_steps)


@pytest.mark.grades("cosine_alpha_bars")
def test_counts_and_offsets():
    """NumPy counts, too. An infinite offset would be NaN throughout."""
    import numpy as np

    assert torch.equal(schedules.cosine_alpha_bars(np.int64(5)), schedules.cosine_alpha_bars(5))
    with expect_error(ValueError, "inf", otherwise="offset = inf is accepted"):
        schedules.cosine_alpha_bars(5, offset=math.inf)


@pytest.mark.grades("alpha_bar_to_sigma", "sigma_to_alpha_bar")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_levels_in_half_precision(dtype):
    """σ = 300 and ᾱ = 1.11e-5 both fit into float16, but neither σ² nor (1 - ᾱ)/ᾱ does."""
    sigma = torch.tensor([300.0, 0.5, 1500.0], dtype=dtype)
    expected = (1 / (1 + sigma.double() ** 2)).to(dtype)
    got = schedules.sigma_to_alpha_bar(sigma)
    hint = "σ² is beyond float16"
    assert_close(got, expected, atol=0.0, what="alpha_bar", hint=hint)
    alpha_bar = torch.tensor([1.1e-5, 0.8, 5e-7], dtype=dtype)
    wide = alpha_bar.double()
    expected = ((1 - wide) / wide).sqrt().to(dtype)
    hint = "(1 - ᾱ)/ᾱ is beyond float16, its root is not"
    assert_close(schedules.alpha_bar_to_sigma(alpha_bar), expected, atol=0.0, what="sigma", hint=hint)


@pytest.mark.grades("alpha_bar_to_sigma", "sigma_to_alpha_bar")
def test_levels_of_integers():
    """σ = 0, 1, 3 as integers are levels, too."""
    got = schedules.sigma_to_alpha_bar(torch.tensor([0, 1, 3]))
    assert_close(got, torch.tensor([1.0, 0.5, 0.1]), what="alpha_bar")
    assert schedules.alpha_bar_to_sigma(torch.tensor([1, 0])).tolist() == [0.0, math.inf]


@pytest.mark.grades("sigma_to_t")
@pytest.mark.parametrize(
    "alpha_bars",
    [
        [0.9, 0.8, 0.5, 0.1],
        [1.0, 0.9, 0.5],
        [0.1, 0.5, 0.9],
        [0.0, 0.5, 1.0],
        [0.1, 0.5, 0.5, 1.0],
        [1.0],
        [],
    ],
    ids=str,
)
def test_not_a_schedule(alpha_bars):
    """Other libraries store ᾱ_1, ..., ᾱ_T, which falls and has no 1: every timestep would be wrong."""
    with expect_error(ValueError, otherwise=f"alpha_bars = {alpha_bars} are accepted"):
        schedules.sigma_to_t(torch.tensor([0.5]), torch.tensor(alpha_bars))
