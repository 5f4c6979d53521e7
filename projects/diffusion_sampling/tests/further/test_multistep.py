"""The judge of multistep.py. Oracle: values worked by hand for D(x, σ) = x/(1 + σ²)."""

from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from oracles import DOUBLE, Recorder, column, constant_denoiser, gaussian_denoiser

from multistep import dpm_solver_2m
from shared.testing.checks import assert_close, unchanged

pytestmark = pytest.mark.grades("dpm_solver_2m")
STANDARD = gaussian_denoiser(0.0, 1.0)
HAND = torch.tensor([8.0, 2.0, 1.0, 0.0], dtype=DOUBLE)


def test_dpm_solver_by_hand():
    """σ 8 → 2 → 1 → 0 from x = 65.

    D = 1:    x = 65/4 + 3/4·1 = 17                                   (first step: no memory)
    D = 3.4:  r = ln 4/ln 2 = 2, D' = 1.25·3.4 - 0.25·1 = 4,  x = 17/2 + 1/2·4 = 10.5
    D = 5.25: x = D                                                   (last step to 0)
    """
    states = list(dpm_solver_2m(STANDARD, column(65.0), HAND))
    assert_close(states[0], column(17.0), what="state after the first step")
    mistakes = {
        "the previous answer is not used: this is the first-order step": column(10.2),
        "r is inverted: it is the previous step over this one": column(11.4),
        "r is left out: unequal steps need it": column(10.8),
        "the line is used to interpolate backwards: the sign of 1/(2r) is wrong": column(9.9),
    }
    assert_close(states[1], column(10.5), what="state after the second step", mistakes=mistakes)
    mistakes = {"the last step to 0 extrapolates: h is infinite there, take D": column(6.175)}
    assert_close(states[2], column(5.25), what="state after the last step", mistakes=mistakes)


def test_last_step_above_zero_is_second_order():
    """A grid that ends above 0 has no special last step: the 10.5 of the hand-worked run."""
    *_, last = dpm_solver_2m(STANDARD, column(65.0), HAND[:-1])
    mistakes = {"the last step is of first order although it does not end at 0": column(10.2)}
    assert_close(last, column(10.5), what="last state of a grid that ends at 1", mistakes=mistakes)


def test_memory_is_one_step(generator):
    """The line goes through the last two answers, not the first and the last: four steps of unequal length."""
    grid = torch.tensor([9.0, 5.0, 2.0, 0.8, 0.5], dtype=DOUBLE)
    x = expected = torch.randn(4, 3, dtype=DOUBLE, generator=generator)
    denoiser = gaussian_denoiser([0.5, -1.0, 2.0], [0.3, 1.0, 2.0])
    levels, answers = -grid.log(), []
    for step, got in enumerate(dpm_solver_2m(denoiser, x, grid)):
        answers.append(denoiser(expected, grid[step]))
        h, estimate = levels[step + 1] - levels[step], answers[-1]
        if step:  # the line at the middle of the step
            slope = (answers[-1] - answers[-2]) / (levels[step] - levels[step - 1])
            estimate = answers[-1] + slope * h / 2
        expected = estimate + (expected - estimate) * (-h).exp()
        assert_close(got, expected, rtol=1e-10, what=f"state after step {step}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_contract(dtype, generator):
    """One state and one call per step, asked for one by one; σ as told; the dtype of x; nothing is written to."""
    x, recorder = torch.randn(3, 2, 5, dtype=dtype, generator=generator), Recorder(STANDARD)
    with unchanged(x, HAND):
        states = dpm_solver_2m(recorder, x, HAND)
        first = next(states)
        copy = first.clone()
        assert len(recorder.sigmas) == 1, "a step is computed before it is asked for"
        states = [first, *states]
    assert torch.equal(first, copy), "a state was overwritten by a later step"
    assert [(state.shape, state.dtype) for state in states] == [(x.shape, dtype)] * 3
    assert [(float(sigma), sigma.shape, sigma.dtype) for sigma in recorder.sigmas] == [
        (level, (), dtype) for level in (8.0, 2.0, 1.0)
    ]


def test_coefficients_are_float64():
    """float32 states, float64 coefficients: 1 - e^-h near h = 0."""
    grid = torch.tensor([1.0, 1 - 1e-9, 1 - 2e-9], dtype=DOUBLE)
    x = torch.zeros(2, 1)
    *_, last = dpm_solver_2m(lambda x, sigma: torch.ones_like(x) * torch.tensor([[1.0], [-2.0]]), x, grid)
    expected = torch.tensor([[2e-9], [-4e-9]])
    assert_close(last, expected, rtol=1e-5, what="float32 state after two tiny steps")
    *_, last = dpm_solver_2m(constant_denoiser(0.0), x + 1.5, torch.tensor([1.0, 1e-3, 1e-4], dtype=DOUBLE))
    assert_close(
        last, torch.full((2, 1), 1.5e-4), rtol=1e-5, what="state", vacuous_ok="both samples are the same"
    )


def test_gradient():
    """Gradients flow through the steps: 17/65, 10.5/65, 5.25/65 of the hand-worked run."""
    x = torch.tensor([[65.0, 3.0], [-1.0, 2.0]], dtype=DOUBLE, requires_grad=True)
    cotangent = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=DOUBLE)
    *_, last = dpm_solver_2m(STANDARD, x, HAND)
    (gradient,) = torch.autograd.grad((last * cotangent).sum(), x)
    assert_close(gradient, 5.25 / 65 * cotangent, what="gradient with respect to x")


@pytest.mark.parametrize("unit", [1e-6, 1e4], ids=str)
def test_units_do_not_matter(unit):
    """Data, state and grid in another unit of length: the same states in that unit. Only σ = 0 itself is the end."""
    plain = dpm_solver_2m(STANDARD, column(65.0), HAND)
    scaled = dpm_solver_2m(gaussian_denoiser(0.0, unit**2), unit * column(65.0), unit * HAND)
    hint = "a number of the code has a unit: it clips, or takes a small sigma for 0"
    for step, (got, expected) in enumerate(zip(scaled, plain, strict=True)):
        assert_close(got / unit, expected, rtol=1e-12, what=f"state {step}, in units of {unit:g}", hint=hint)


def test_denoiser_may_write(generator):
    """What the denoiser gets is a copy, and so is what is kept of its answers: it may use one buffer for all of them."""
    x, buffer = torch.randn(3, 2, dtype=DOUBLE, generator=generator), torch.empty(3, 2, dtype=DOUBLE)
    grid = torch.tensor([8.0, 2.0, 1.0, 0.5, 0.0], dtype=DOUBLE)
    expected = list(dpm_solver_2m(STANDARD, x, grid))

    def in_place(x, sigma):
        buffer.copy_(STANDARD(x, sigma))
        x.fill_(1e6)
        sigma.fill_(-1.0)
        return buffer

    with unchanged(x):
        got = list(dpm_solver_2m(in_place, x, grid))
    hint = "the denoiser wrote into the state of the loop, or into the answer before: keep copies"
    for step, (state, other) in enumerate(zip(got, expected, strict=True)):
        assert_close(state, other, rtol=1e-12, what=f"state after step {step}", hint=hint)


def test_tiny_steps():
    """h = ln(σ/σ_next) to all digits: ln of a ratio near 1 keeps three of 1e-13, log1p of the difference all.

    D is 1, then 2, then 4, and x = 0. The exact h is the series of -ln(1 - δ), δ = (σ - σ_next)/σ as a fraction.
    """
    levels = [1.3, 1.3 * (1 - 3.1e-13), 1.3 * (1 - 4.2e-13), 1.3 * (1 - 9.7e-13)]
    deltas = [(Fraction(a) - Fraction(b)) / Fraction(a) for a, b in pairwise(levels)]
    h = [float(d + d * d / 2) for d in deltas]
    answers, expected, previous = [1.0, 2.0, 4.0], 0.0, None
    for step, answer in enumerate(answers):
        line = answer if step == 0 else answer + (answer - previous) * h[step] / (2 * h[step - 1])
        expected, previous = expected + h[step] * line, answer
    asked = iter(answers)
    *_, last = dpm_solver_2m(
        lambda x, sigma: torch.full_like(x, next(asked)),
        torch.zeros(2, 1, dtype=DOUBLE),
        torch.tensor(levels, dtype=DOUBLE),
    )
    off = float((last / expected - 1).abs().max())
    assert off < 1e-9, (
        f"{off:.1e} off after three steps of 1e-13: ln(σ/σ_next) lost its digits, log1p keeps them"
    )
