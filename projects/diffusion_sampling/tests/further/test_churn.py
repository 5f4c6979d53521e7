"""The judge of churn.py. Oracles: values worked by hand, draws repeated from the same seed."""

import math

import pytest
import torch
from oracles import DOUBLE, Recorder, constant_denoiser, gaussian_denoiser, seeded

import diffusion_sampling
from churn import churned
from shared.testing.checks import assert_close, expect_error, unchanged

pytestmark = pytest.mark.grades("churned")
STANDARD = gaussian_denoiser(0.0, 1.0)
SIGMAS = torch.tensor([5.0, 2.0, 0.7, 0.3, 0.0], dtype=DOUBLE)
STEPS = pytest.mark.parametrize("name", ["euler", "heun"])


def run(name, denoiser, x, sigmas, **options):
    """All states."""
    return list(churned(denoiser, x, sigmas, step=getattr(diffusion_sampling, name), **options))


@STEPS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_states(name, dtype, generator):
    """One state per step in the shape and dtype of x; without churn they are those of the sampler itself."""
    x = torch.randn(3, 2, 5, dtype=dtype, generator=generator)
    with unchanged(x, SIGMAS):
        states = run(name, STANDARD, x, SIGMAS, churn=2.0, generator=seeded())
        plain = run(name, STANDARD, x, SIGMAS, churn=0.0)
    assert [(state.shape, state.dtype) for state in states] == [(x.shape, dtype)] * 4
    for got, expected in zip(plain, getattr(diffusion_sampling, name)(STANDARD, x, SIGMAS), strict=True):
        assert_close(got, expected, what=f"state of {name} with churn 0")
    assert not torch.equal(states[0], plain[0]), "churn is ignored"


@STEPS
def test_churn(name):
    """γ = churn/n_steps; the state is raised to σ̂ = σ(1 + γ), and D is asked there."""
    x = torch.randn(2, 3, dtype=DOUBLE, generator=seeded(3))
    recorder, grid = Recorder(constant_denoiser(0.0)), torch.tensor([4.0, 2.0, 1.0], dtype=DOUBLE)
    states = run(name, recorder, x, grid, churn=0.5, generator=seeded())
    first = float(recorder.sigmas[0].flatten()[0])
    assert abs(first - 4.0) > 1e-6, "churn evaluates at sigma instead of sigma-hat (or churn is ignored)"
    assert abs(first - 5.656854) > 1e-4, "gamma is churn itself: divide it by the number of steps"
    assert abs(first / 5.0 - 1) < 1e-12, f"D is asked at sigma = {first}, expected 4·(1 + 0.5/2) = 5"
    z = torch.randn(2, 3, dtype=DOUBLE, generator=seeded())
    raised = x + 3.0 * z  # sqrt(5² - 4²)
    mistakes = {
        "the added noise is sigma-hat - sigma; variances add, not deviations": x + 1.0 * z,
        "D is asked at sigma-hat, but no noise was added to the state": x,
        "the added noise has deviation sigma-hat": x + 5.0 * z,
    }
    assert_close(recorder.states[0], raised, what="state with the added noise", mistakes=mistakes)
    mistakes = {
        "the step starts from sigma although the state is at sigma-hat": raised + (2 - 4) / 5 * raised
    }
    assert_close(states[0], 0.4 * raised, what="state after the step", mistakes=mistakes)


@STEPS
def test_churn_is_capped(name):
    """γ is at most sqrt(2) - 1, which doubles the variance of the noise."""
    recorder, grid = Recorder(constant_denoiser(0.0)), torch.tensor([4.0, 2.0, 1.0])
    run(name, recorder, torch.ones(2, 3), grid, churn=80.0, generator=seeded())
    first = float(recorder.sigmas[0].flatten()[0])
    assert abs(first / (4 * math.sqrt(2)) - 1) < 1e-6, (
        f"churn = 80 raises sigma 4 to {first}, expected 4·sqrt(2): gamma is capped"
    )


@STEPS
def test_churn_window(name):
    """Only steps with churn_min ≤ σ ≤ churn_max are churned."""
    recorder, grid = Recorder(constant_denoiser(0.0)), torch.tensor([8.0, 4.0, 2.0, 1.0, 0.5])
    options = {"churn": 0.4, "churn_min": 2.0, "churn_max": 4.0}
    run(name, recorder, torch.ones(2, 3), grid, generator=seeded(), **options)
    asked = [round(float(sigma.flatten()[0]), 4) for sigma in recorder.sigmas]
    told = asked[:: 2 if name == "heun" else 1]
    assert told != [8.8, 4.4, 2.2, 1.1], "churn_min and churn_max are ignored"
    assert told == [8.0, 4.4, 2.2, 1.0], (
        f"sigma in each step {told}, expected [8, 4.4, 2.2, 1]: the window includes its ends"
    )
    recorder.sigmas.clear()
    options = {"churn": 0.4, "churn_min": 4.0, "churn_max": 4.0}
    run(name, recorder, torch.ones(2, 3), grid, generator=seeded(), **options)
    asked = [round(float(sigma.flatten()[0]), 4) for sigma in recorder.sigmas]
    told = asked[:: 2 if name == "heun" else 1]
    assert told == [8.0, 4.4, 2.0, 1.0], f"sigma in each step {told}: a window may be one level, here 4"


@STEPS
def test_noise_scale(name):
    """The added noise, and only that, is multiplied by noise_scale."""
    x, recorder = torch.zeros(2, 3, dtype=DOUBLE), Recorder(constant_denoiser(0.0))
    grid = torch.tensor([4.0, 2.0, 1.0], dtype=DOUBLE)
    run(name, recorder, x, grid, churn=0.5, noise_scale=1.007, generator=seeded())
    z = torch.randn(2, 3, dtype=DOUBLE, generator=seeded())
    mistakes = {"noise_scale is ignored": 3.0 * z}
    assert_close(recorder.states[0], 3.021 * z, what="state with the added noise", mistakes=mistakes)


@STEPS
def test_generator(name):
    """All noise comes from the generator; each step draws anew, and nothing is drawn where γ is 0."""
    x, before = torch.ones(2, 3), torch.get_rng_state()
    first, again, other = (
        run(name, STANDARD, x, SIGMAS, churn=2.0, generator=seeded(seed))[-1] for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), before), (
        "generator ignored: the noise came from torch's global generator"
    )
    assert torch.equal(first, again), "the same seed gives two runs: the generator is ignored"
    assert not torch.equal(first, other), "two seeds give the same run: the generator is ignored"
    for options, draws in (({"churn": 2.0}, 4), ({"churn": 2.0, "churn_min": 1.0}, 2), ({"churn": 0.0}, 0)):
        used, twin = seeded(), seeded()
        run(name, STANDARD, x, SIGMAS, generator=used, **options)
        for _ in range(draws):
            torch.randn(2, 3, generator=twin)
        assert torch.equal(used.get_state(), twin.get_state()), (
            f"{options}: expected {draws} draws in 4 steps"
        )


def test_noise_is_fresh():
    """With D = 0 each step's state before the denoiser differs by that step's own noise."""
    recorder = Recorder(constant_denoiser(0.0))
    states = run("euler", recorder, torch.zeros(300, 40, dtype=DOUBLE), SIGMAS, churn=2.0, generator=seeded())
    one, two = recorder.states[0], recorder.states[1] - states[0]
    correlation = float((one * two).mean() / (one.std() * two.std()))
    assert abs(correlation) < 0.05, "both steps use the same noise: draw again in each step"
    assert float(one.std(dim=0).mean() / one.std()) > 0.9, "the samples of the batch share their noise"


def test_heun_is_the_default():
    """Without `step` it is Heun: 7 calls for 4 steps, the last one to 0."""
    recorder = Recorder(STANDARD)
    states = churned(recorder, torch.ones(2, 3), SIGMAS, churn=1.0)
    next(states)
    assert len(recorder.sigmas) == 2, "a step is computed before it is asked for"
    list(states)
    assert len(recorder.sigmas) == 7, f"{len(recorder.sigmas)} calls of the denoiser, expected 7"


@pytest.mark.parametrize("churn", [-1.0, math.nan], ids=str)
def test_bad_churn(churn):
    """Churn adds noise; it cannot remove any."""
    with expect_error(ValueError, str(churn), otherwise=f"churn = {churn} is accepted"):
        run("heun", STANDARD, torch.ones(2, 3), SIGMAS, churn=churn)


@pytest.mark.parametrize(
    "options",
    [
        {"churn_min": 2.0, "churn_max": 1.0},
        {"churn_min": math.nan},
        {"churn_max": math.nan},
        {"noise_scale": math.nan},
        {"noise_scale": math.inf},
    ],
    ids=str,
)
def test_options_without_effect(options):
    """An empty window would switch churn off without a word, and the noise must have a size."""
    with expect_error(ValueError, *options, otherwise=f"{options} is accepted"):
        run("heun", STANDARD, torch.ones(2, 3), SIGMAS, churn=1.0, **options)


def test_a_little_churn():
    """γ = 1.1e-13: σ̂² - σ² in floats keeps three digits, σ²·γ·(2 + γ) all."""
    recorder, grid = Recorder(constant_denoiser(0.0)), torch.tensor([4.0, 2.0, 1.0], dtype=DOUBLE)
    run("euler", recorder, torch.zeros(2, 3, dtype=DOUBLE), grid, churn=2.2e-13, generator=seeded())
    z = torch.randn(2, 3, dtype=DOUBLE, generator=seeded())
    hint = "the added noise lost its digits: σ̂² - σ² cancels, σ²·γ·(2 + γ) does not"
    assert_close(recorder.states[0], 4 * math.sqrt(2.2e-13) * z, rtol=1e-9, what="added noise", hint=hint)
