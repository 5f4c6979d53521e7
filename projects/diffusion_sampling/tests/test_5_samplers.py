"""The judge of the samplers. Oracles: values worked by hand, joint Gaussians, laws; the slow proofs are in test_8_theory.

Worked by hand throughout: standard normal data, whose denoiser is D(x, σ) = x/(1 + σ²).
"""

import math

import pytest
import torch
from oracles import DOUBLE, Recorder, constant_denoiser, fails_at, gaussian_denoiser, posterior

import diffusion_sampling
from shared.testing.checks import assert_close, expect_error, unchanged

EDM = ["euler", "heun", "dpm_solver_2m"]
VP = ["ddim", "ddpm"]
STANDARD = gaussian_denoiser(0.0, 1.0)
GRIDS = {
    "sigmas": torch.tensor([5.0, 2.0, 0.7, 0.3, 0.0], dtype=DOUBLE),
    "alpha_bars": torch.tensor([0.05, 0.3, 0.6, 0.9, 1.0], dtype=DOUBLE),
}


def run(function, denoiser, x, grid, **options):
    """All states of a sampler."""
    return list(getattr(diffusion_sampling, function)(denoiser, x, grid, **options))


def grid_of(function):
    return GRIDS["sigmas" if function in EDM else "alpha_bars"]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# --- contract ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", EDM + VP)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_states(function, dtype, generator):
    """One state per step, each a new tensor of the shape and dtype of x; x itself is not modified."""
    x, grid = torch.randn(3, 2, 5, dtype=dtype, generator=generator), grid_of(function)
    with unchanged(x, grid):
        states = run(function, STANDARD, x, grid)
    assert len(states) == 4, f"a grid of 5 levels has 4 steps, so 4 states, got {len(states)}"
    for state in states:
        assert state.shape == x.shape, f"a state has shape {tuple(state.shape)}, expected {tuple(x.shape)}"
        assert state.dtype == dtype, (
            f"a state has dtype {state.dtype}, x has {dtype}: the grid's dtype leaked"
        )
    assert len({state.data_ptr() for state in states}) == 4, (
        "two states share memory: yield a new tensor each"
    )


@pytest.mark.parametrize("function", EDM + VP)
def test_one_step_at_a_time(function):
    """A sampler computes a step only when it is asked for one."""
    recorder = Recorder(STANDARD)
    states = getattr(diffusion_sampling, function)(recorder, torch.ones(2, 3), grid_of(function))
    next(states)
    calls = len(recorder.sigmas)
    assert calls <= 2, f"{calls} calls of the denoiser before the first state: yield after every step"


@pytest.mark.parametrize(
    ("function", "expected"), [("euler", 4), ("heun", 7), ("dpm_solver_2m", 4), ("ddim", 4), ("ddpm", 4)]
)
def test_number_of_calls(function, expected):
    """One call per step; Heun two, but one in a last step to 0."""
    recorder = Recorder(STANDARD)
    run(function, recorder, torch.ones(2, 3), grid_of(function))
    calls = len(recorder.sigmas)
    if function == "heun":
        assert calls != 8, (
            "8 calls for 4 steps: the last step to sigma = 0 has no correction (it would divide by 0)"
        )
        assert calls != 4, "4 calls for 4 steps: the correction at sigma_next is missing"
    assert calls == expected, f"{calls} calls of the denoiser for 4 steps, expected {expected}"


@pytest.mark.parametrize("function", EDM + VP)
def test_what_the_denoiser_is_told(function):
    """The denoiser gets the state as x0 + σ·n and the σ of that state, from most noise to least, as a tensor."""
    recorder = Recorder(STANDARD)
    run(function, recorder, torch.ones(2, 3), grid_of(function))
    for sigma in recorder.sigmas:
        assert sigma.numel() == 1 or sigma.shape[0] == 2, (
            f"sigma of shape {tuple(sigma.shape)} does not broadcast"
        )
    told = torch.stack([sigma.double().flatten()[0] for sigma in recorder.sigmas])
    grid = grid_of(function)[:-1]
    sigmas = grid if function in EDM else ((1 - grid) / grid).sqrt()
    if function == "heun":
        sigmas = sigmas.repeat_interleave(2)[1:]
    mistakes = {"the order is reversed: sampling runs from most noise to none": sigmas.flip(0)}
    if function in VP:
        mistakes |= {
            "the denoiser gets sqrt(1 - ᾱ), the noise of x_t; it wants that of x_t/sqrt(ᾱ)": (
                1 - grid
            ).sqrt(),
            "the denoiser gets ᾱ itself, not sigma": grid,
            "the denoiser gets sigma of the next step": ((1 - grid_of(function)) / grid_of(function)).sqrt()[
                1:
            ],
        }
    assert_close(told, sigmas, rtol=1e-6, what="sigma in each call", mistakes=mistakes)
    if function in VP:
        assert_close(
            recorder.states[0],
            torch.full((2, 3), 1 / math.sqrt(0.05)),
            rtol=1e-6,
            what="state in the first call",
            vacuous_ok="the state is 1 everywhere",
            mistakes={"the denoiser gets x_t: rescale it to x_t/sqrt(ᾱ) = x0 + σ·n": torch.ones(2, 3)},
        )


@pytest.mark.parametrize("function", EDM)
@pytest.mark.parametrize(
    ("grid", "step"),
    [
        ([0.0, 2.0, 5.0], 0),
        ([5.0, 2.0, 3.0, 0.0], 1),
        ([5.0, 2.0, 2.0, 0.0], 1),
        ([5.0, 1.0, 0.0, 0.0], 2),
        ([5.0, 1.0, -0.1], 1),
        ([-1.0, -2.0], 0),
        ([math.inf, 1.0, 0.0], 0),
        ([5.0, math.nan, 0.0], 0),
    ],
    ids=str,
)
def test_bad_sigmas(function, grid, step):
    """A grid that does not fall, or is not positive before its end, is refused; the message names the step."""
    with expect_error(ValueError, f"step {step}", otherwise=f"sigmas = {grid} are accepted"):
        run(function, STANDARD, torch.ones(2, 3), torch.tensor(grid))


@pytest.mark.parametrize("function", VP)
@pytest.mark.parametrize(
    ("grid", "step"),
    [
        ([1.0, 0.5, 0.1], 0),
        ([0.1, 0.5, 0.4, 1.0], 1),
        ([0.1, 0.5, 0.5, 1.0], 1),
        ([0.0, 0.5, 1.0], 0),
        ([0.1, 0.5, 1.1], 1),
        ([0.1, 0.5, 0.9], 1),
        ([0.1, math.nan, 1.0], 0),
    ],
    ids=str,
)
def test_bad_alpha_bars(function, grid, step):
    """A grid that does not rise from above 0 to exactly 1 is refused; the message names the step."""
    with expect_error(ValueError, f"step {step}", otherwise=f"alpha_bars = {grid} are accepted"):
        run(function, STANDARD, torch.ones(2, 3), torch.tensor(grid))


@pytest.mark.parametrize("function", EDM + VP)
@pytest.mark.parametrize("grid", [[], [1.0], [[3.0, 1.0]], [[3.0, 1.0], [2.0, 0.5]]], ids=str)
def test_no_grid(function, grid):
    """A grid has one axis and at least two levels."""
    shape = str(tuple(torch.tensor(grid).shape))
    with expect_error(ValueError, shape, otherwise=f"a grid of shape {shape} is accepted"):
        run(function, STANDARD, torch.ones(2, 3), torch.tensor(grid))


@pytest.mark.parametrize("function", EDM + VP)
def test_integer_state(function):
    """A state of integers would round every step."""
    with expect_error(TypeError, "int64", otherwise="an integer state is accepted"):
        run(function, STANDARD, torch.ones(2, 3, dtype=torch.int64), grid_of(function))


@pytest.mark.parametrize("function", EDM + VP)
@pytest.mark.parametrize("value", [math.nan, math.inf], ids=str)
def test_bad_answer(function, value):
    """NaN or inf from the denoiser stops the run at once; the message names the step (here step 2, counted from 0)."""
    call = 4 if function == "heun" else 2

    def change(x0):
        x0 = x0.clone()
        x0[1, 2] = value
        return x0

    with expect_error(ValueError, "step 2", otherwise=f"a denoiser that returns {value} goes unnoticed"):
        run(function, fails_at(call, STANDARD, change), torch.ones(2, 3), grid_of(function))


@pytest.mark.grades("heun")
def test_bad_answer_in_the_correction():
    """The second call of a Heun step is checked as well."""
    with expect_error(ValueError, "step 1", otherwise="NaN in the correction goes unnoticed"):
        run("heun", fails_at(3, STANDARD, lambda x0: x0 * math.nan), torch.ones(2, 3), GRIDS["sigmas"])


@pytest.mark.parametrize("function", EDM + VP)
@pytest.mark.parametrize("shape", [(1, 3), (2, 1), (3,), (2, 3, 1), ()], ids=str)
def test_answer_of_another_shape(function, shape):
    """An answer of another shape would broadcast without a word; the message names the step and the shape."""
    wrong = fails_at(1 if function != "heun" else 2, STANDARD, lambda x0: torch.ones(shape))
    with expect_error(ValueError, "step 1", str(shape), otherwise=f"an answer of shape {shape} is broadcast"):
        run(function, wrong, torch.ones(2, 3), grid_of(function))


@pytest.mark.grades("euler", "heun", "dpm_solver_2m", "ddim", "ddpm")
def test_large_answers_are_fine():
    """Finite values whose sum overflows are no error."""
    for function in EDM + VP:
        x = torch.full((4, 3), 1e38)
        states = run(function, lambda x, sigma: torch.full_like(x, 2e38), x, grid_of(function)[-2:])
        assert bool(torch.isfinite(states[-1]).all()), f"{function}: finite values became {states[-1]}"


@pytest.mark.grades("ddim")
@pytest.mark.parametrize("eta", [-0.1, 1.1, math.nan], ids=str)
def test_bad_eta(eta):
    """Beyond 1 the kept noise would be the root of a negative number."""
    with expect_error(ValueError, str(eta), otherwise=f"eta = {eta} is accepted"):
        run("ddim", STANDARD, torch.ones(2, 3), GRIDS["alpha_bars"], eta=eta)


@pytest.mark.parametrize("churn", [-1.0, math.nan], ids=str)
@pytest.mark.parametrize("function", ["euler", "heun"])
def test_bad_churn(function, churn):
    """Churn adds noise; it cannot remove any."""
    with expect_error(ValueError, str(churn), otherwise=f"churn = {churn} is accepted"):
        run(function, STANDARD, torch.ones(2, 3), GRIDS["sigmas"], churn=churn)


# --- worked by hand ---------------------------------------------------------------------------------------------------


def column(*values):
    """A batch of two: the second sample is minus the first, since D is odd."""
    return [torch.tensor([[value], [-value]], dtype=DOUBLE) for value in values]


@pytest.mark.grades("euler")
def test_euler_by_hand():
    """σ 3 → 1 → 0 from x = 10: D = 1, slope 3, x = 10 - 2·3 = 4; D = 2, slope 2, x = 4 - 2 = 2."""
    states = run("euler", STANDARD, column(10.0)[0], torch.tensor([3.0, 1.0, 0.0], dtype=DOUBLE))
    mistakes = {
        "the step has the wrong sign: sigma falls, so sigma_next - sigma is negative": torch.tensor(
            [[16.0], [-16.0]]
        ),
        "the state is replaced by D in every step": torch.tensor([[1.0], [-1.0]]),
        "the slope is x - D, not (x - D)/sigma": torch.tensor([[-8.0], [8.0]]),
        "the slope is divided by sigma_next": torch.tensor([[-8.0], [8.0]]),
        "this is Heun's step: Euler uses the first slope alone": torch.tensor([[5.0], [-5.0]]),
    }
    assert_close(states[0], column(4.0)[0], what="state after the first step", mistakes=mistakes)
    assert_close(states[1], column(2.0)[0], what="state after the last step")


@pytest.mark.grades("heun")
def test_heun_by_hand():
    """As Euler to 4; slope there (4 - 2)/1 = 2, mean (3 + 2)/2, x = 10 - 2·2.5 = 5; last step alone: D = 2.5."""
    states = run("heun", STANDARD, column(10.0)[0], torch.tensor([3.0, 1.0, 0.0], dtype=DOUBLE))
    mistakes = {
        "Heun without the correction: this is Euler's step": torch.tensor([[4.0], [-4.0]]),
        "the second slope replaces the first; Heun takes their mean": torch.tensor([[6.0], [-6.0]]),
        "the slopes are added, not averaged": torch.tensor([[0.0], [0.0]]),
        "the corrected step starts from the predicted state, not from where the step began": torch.tensor(
            [[-1.0], [1.0]]
        ),
        "the second slope is taken at sigma, not at sigma_next": torch.tensor([[5.8], [-5.8]]),
    }
    assert_close(states[0], column(5.0)[0], what="state after the first step", mistakes=mistakes)
    assert_close(states[1], column(2.5)[0], what="state after the last step, which is Euler's")


@pytest.mark.grades("dpm_solver_2m")
def test_dpm_solver_by_hand():
    """σ 8 → 2 → 1 → 0 from x = 65.

    D = 1:    x = 65/4 + 3/4·1 = 17                                   (first step: no memory)
    D = 3.4:  r = ln 4/ln 2 = 2, D' = 1.25·3.4 - 0.25·1 = 4,  x = 17/2 + 1/2·4 = 10.5
    D = 5.25: x = D                                                   (last step to 0)
    """
    states = run("dpm_solver_2m", STANDARD, column(65.0)[0], torch.tensor([8.0, 2.0, 1.0, 0.0], dtype=DOUBLE))
    assert_close(states[0], column(17.0)[0], what="state after the first step")
    mistakes = {
        "the previous answer is not used: this is the first-order step": torch.tensor([[10.2], [-10.2]]),
        "r is inverted: it is the previous step over this one": torch.tensor([[11.4], [-11.4]]),
        "r is left out: unequal steps need it": torch.tensor([[10.8], [-10.8]]),
        "the line is used to interpolate backwards: the sign of 1/(2r) is wrong": torch.tensor(
            [[9.9], [-9.9]]
        ),
    }
    assert_close(states[1], column(10.5)[0], what="state after the second step", mistakes=mistakes)
    mistakes = {
        "the last step to 0 extrapolates: h is infinite there, take D": torch.tensor(
            [[5.25 + 0.925], [-6.175]]
        )
    }
    assert_close(states[2], column(5.25)[0], what="state after the last step", mistakes=mistakes)


# ᾱ 0.36 → 0.64 → 1, so sqrt(ᾱ) = 0.6, 0.8 and sqrt(1 - ᾱ) = 0.8, 0.6; the data are the one point 2, x_t = 3.6.
HAND_ALPHA_BARS = torch.tensor([0.36, 0.64, 1.0], dtype=DOUBLE)


@pytest.mark.grades("ddim")
def test_ddim_by_hand():
    """ε = (3.6 - 0.6·2)/0.8 = 3, x = 0.8·2 + 0.6·3 = 3.4; the last step gives x0 = 2."""
    x = torch.full((2, 1), 3.6, dtype=DOUBLE)
    states = run("ddim", constant_denoiser(2.0), x, HAND_ALPHA_BARS)
    mistakes = {
        "x0 is clipped to [-1, 1] and epsilon is not recomputed from it": torch.full((2, 1), 2.6),
        "x0 is clipped to [-1, 1]: the range of the data is the denoiser's business": torch.full(
            (2, 1), 3.05
        ),
        "this is Euler's step in x: x_t needs sqrt(ᾱ)": torch.full((2, 1), 2 + 1.6 * 0.75 / (4 / 3)),
        "the coefficients of x0 and epsilon are swapped": torch.full((2, 1), 0.6 * 2 + 0.8 * 3),
        "epsilon is not divided by sqrt(1 - ᾱ_t)": torch.full((2, 1), 0.8 * 2 + 0.6 * 2.4),
        "ᾱ is used where its root belongs": torch.full((2, 1), 0.64 * 2 + 0.36 * 3),
    }
    reason = "both samples are the same on purpose"
    assert_close(
        states[0], torch.full((2, 1), 3.4, dtype=DOUBLE), what="x_s", mistakes=mistakes, vacuous_ok=reason
    )
    assert_close(states[1], torch.full((2, 1), 2.0, dtype=DOUBLE), what="last state", vacuous_ok=reason)


@pytest.mark.parametrize(("function", "options"), [("ddpm", {}), ("ddim", {"eta": 1.0})])
def test_ancestral_step_by_hand(function, options):
    """Mean and variance of one step, over 200 000 samples: 0.546875·2 + 0.421875·3.6 = 2.6125 and 0.24609375."""
    x = torch.full((200_000, 1), 3.6, dtype=DOUBLE)
    states = run(function, constant_denoiser(2.0), x, HAND_ALPHA_BARS, generator=seeded(), **options)
    of_x0, of_xt, variance = posterior(0.36, 0.64)
    mean = of_x0 * 2 + of_xt * 3.6
    got_mean, got_variance = float(states[0].mean()), float(states[0].var())
    assert not (abs(got_mean - 3.4) < 0.01 and got_variance > 0.01), (
        "the noise is added on top: epsilon keeps sqrt(1 - ᾱ_s - s²), not sqrt(1 - ᾱ_s)"
    )
    means = {
        "the coefficients of x0 and x_t are swapped": of_xt * 2 + of_x0 * 3.6,
        "the coefficient of x0 lacks sqrt(ᾱ_s)": of_x0 / 0.8 * 2 + of_xt * 3.6,
        "the coefficient of x_t lacks sqrt(α)": of_x0 * 2 + of_xt / 0.75 * 3.6,
        "this is DDIM's mean for eta = 0": 3.4,
    }
    for diagnosis, value in means.items():
        assert abs(got_mean - value) > 0.01, f"posterior mean with the wrong coefficient: {diagnosis}"
    assert abs(got_mean - mean) < 5 * math.sqrt(variance / len(x)), (
        f"posterior mean with the wrong coefficient: {got_mean:.5f}, expected {mean:.5f}"
    )
    for diagnosis, value in {
        "no noise is added, or the samples of the batch share their noise": 0.0,
        "the variance is beta; the posterior of x_s given x_t and x0 has the smaller beta-tilde": 0.4375,
        "the variance is used as the standard deviation": variance**2,
        "the variance is 1 - ᾱ_s": 0.36,
    }.items():
        assert abs(got_variance - value) > 0.01, f"{diagnosis}: the states vary by {got_variance:.4f}"
    assert abs(got_variance / variance - 1) < 0.02, f"variance {got_variance:.5f}, expected {variance:.5f}"
    assert float(states[1].std()) < 1e-12, "the last step adds noise: at ᾱ = 1 the posterior has variance 0"
    assert_close(
        states[1][:2], torch.full((2, 1), 2.0, dtype=DOUBLE), what="last state", vacuous_ok="the one point"
    )


@pytest.mark.grades("ddim")
@pytest.mark.parametrize("eta", [0.25, 0.7])
def test_ddim_between(eta):
    """0 < η < 1: noise of η²·β̃, and so much of ε that the total noise still is 1 - ᾱ_s."""
    x = torch.full((200_000, 1), 3.6, dtype=DOUBLE)
    state = run("ddim", constant_denoiser(2.0), x, HAND_ALPHA_BARS, eta=eta, generator=seeded())[0]
    variance = eta**2 * posterior(0.36, 0.64)[2]
    mean = 0.8 * 2 + math.sqrt(0.36 - variance) * 3
    got_mean, got_variance = float(state.mean()), float(state.var())
    assert abs(got_mean - 3.4) > 0.002, (
        "the noise is added on top: epsilon keeps sqrt(1 - ᾱ_s - s²), not sqrt(1 - ᾱ_s)"
    )
    assert abs(got_variance / eta - variance / eta**2) > 0.02 * variance, (
        "eta scales the variance; it scales the deviation"
    )
    assert abs(got_mean - mean) < 5 * math.sqrt(variance / len(x)), (
        f"mean {got_mean:.5f}, expected {mean:.5f}"
    )
    assert abs(got_variance / variance - 1) < 0.02, f"variance {got_variance:.6f}, expected {variance:.6f}"


# --- randomness -------------------------------------------------------------------------------------------------------

RANDOM = [("euler", {"churn": 2.0}), ("heun", {"churn": 2.0}), ("ddim", {"eta": 0.5}), ("ddpm", {})]


@pytest.mark.parametrize(("function", "options"), RANDOM)
def test_generator(function, options):
    """All noise comes from the generator: same seed, same states; another seed, others; the global one is untouched."""
    x, grid = torch.ones(2, 3), grid_of(function)
    before = torch.get_rng_state()
    first, again, other = (
        run(function, STANDARD, x, grid, generator=seeded(seed), **options)[-2] for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), before), (
        "generator ignored: the noise came from torch's global generator"
    )
    assert torch.equal(first, again), "the same seed gives two runs: the generator is ignored"
    assert not torch.equal(first, other), "two seeds give the same run: the generator is ignored"


@pytest.mark.parametrize(("function", "options"), RANDOM)
def test_noise_is_fresh(function, options):
    """Each step, sample and coordinate gets its own noise: with D = 0 the noise alone is left."""
    x, grid = torch.zeros(400, 50, dtype=DOUBLE), grid_of(function)
    one, two, *_ = run(function, constant_denoiser(0.0), x, grid, generator=seeded(), **options)
    for axis, name in ((0, "samples of the batch"), (1, "coordinates")):
        spread = float(one.std(dim=axis).mean() / one.std())
        assert spread > 0.9, f"the {name} share their noise"
    kept = float((one * two).mean() / (one * one).mean())
    fresh = two - kept * one
    assert float(fresh.std()) > 0.05 * float(one.std()), (
        "both steps use the same noise: draw again in each step"
    )
    third = run(function, constant_denoiser(0.0), x, grid, generator=seeded(), **options)[2]
    rest = third - float((two * third).mean() / (two * two).mean()) * two
    correlation = float((rest * fresh).mean() / (rest.std() * fresh.std()))
    assert abs(correlation) < 0.1, (
        f"the noise of two steps is correlated ({correlation:.2f}): draw again in each step"
    )


@pytest.mark.parametrize(("function", "options"), [("euler", {}), ("heun", {}), ("ddim", {"eta": 0.0})])
def test_nothing_is_drawn(function, options):
    """Without churn, and with η = 0, a sampler is deterministic and leaves the generator alone."""
    generator = seeded()
    before = generator.get_state()
    run(function, STANDARD, torch.ones(2, 3), grid_of(function), generator=generator, **options)
    assert torch.equal(generator.get_state(), before), "noise is drawn although none is used"


@pytest.mark.parametrize("function", VP)
def test_last_step_draws_nothing(function):
    """n steps draw n - 1 times: the last step has no noise."""
    options = {"eta": 1.0} if function == "ddim" else {}
    generator, twin = seeded(), seeded()
    run(function, STANDARD, torch.ones(2, 3), GRIDS["alpha_bars"], generator=generator, **options)
    for _ in range(3):
        torch.randn(2, 3, generator=twin)
    assert torch.equal(generator.get_state(), twin.get_state()), (
        "4 steps must draw one (batch, ...) noise in each of the first 3"
    )


# --- churn ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", ["euler", "heun"])
def test_churn(function):
    """γ = churn/n_steps; the state is raised to σ̂ = σ(1 + γ), and D is asked there."""
    x, grid = (
        torch.randn(2, 3, dtype=DOUBLE, generator=seeded(3)),
        torch.tensor([4.0, 2.0, 1.0], dtype=DOUBLE),
    )
    recorder = Recorder(constant_denoiser(0.0))
    states = run(function, recorder, x, grid, churn=0.5, generator=seeded())
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


@pytest.mark.parametrize("function", ["euler", "heun"])
def test_churn_is_capped(function):
    """γ is at most sqrt(2) - 1, which doubles the variance of the noise."""
    recorder = Recorder(constant_denoiser(0.0))
    run(function, recorder, torch.ones(2, 3), torch.tensor([4.0, 2.0, 1.0]), churn=80.0, generator=seeded())
    first = float(recorder.sigmas[0].flatten()[0])
    assert abs(first / (4 * math.sqrt(2)) - 1) < 1e-6, (
        f"churn = 80 raises sigma 4 to {first}, expected 4·sqrt(2): gamma is capped"
    )


@pytest.mark.parametrize("function", ["euler", "heun"])
def test_churn_window(function):
    """Only steps with churn_min ≤ σ ≤ churn_max are churned."""
    recorder = Recorder(constant_denoiser(0.0))
    grid, options = (
        torch.tensor([8.0, 4.0, 2.0, 1.0, 0.5]),
        {"churn": 0.4, "churn_min": 2.0, "churn_max": 4.0},
    )
    run(function, recorder, torch.ones(2, 3), grid, generator=seeded(), **options)
    told = [round(float(sigma.flatten()[0]), 4) for sigma in recorder.sigmas][
        :: 2 if function == "heun" else 1
    ]
    assert told != [8.8, 4.4, 2.2, 1.1], "churn_min and churn_max are ignored"
    assert told == [8.0, 4.4, 2.2, 1.0], (
        f"sigma in each step {told}, expected [8, 4.4, 2.2, 1]: the window includes its ends"
    )


@pytest.mark.parametrize("function", ["euler", "heun"])
def test_noise_scale(function):
    """The added noise, and only that, is multiplied by noise_scale."""
    x, recorder = torch.zeros(2, 3, dtype=DOUBLE), Recorder(constant_denoiser(0.0))
    grid = torch.tensor([4.0, 2.0, 1.0], dtype=DOUBLE)
    run(function, recorder, x, grid, churn=0.5, noise_scale=1.007, generator=seeded())
    z = torch.randn(2, 3, dtype=DOUBLE, generator=seeded())
    mistakes = {"noise_scale is ignored": 3.0 * z}
    assert_close(recorder.states[0], 3.021 * z, what="state with the added noise", mistakes=mistakes)


# --- laws -------------------------------------------------------------------------------------------------------------


@pytest.mark.grades("ddim", "euler")
def test_ddim_is_euler(generator):
    """The two states are one: DDIM with η = 0 is Euler on x_t/sqrt(ᾱ)."""
    a = torch.cat([torch.rand(12, dtype=DOUBLE, generator=generator).sort()[0] * 0.98 + 0.01, torch.ones(1)])
    denoiser, x = (
        gaussian_denoiser([0.5, -1.0, 2.0], [0.3, 1.0, 2.0]),
        torch.randn(4, 3, dtype=DOUBLE, generator=generator),
    )
    vp = run("ddim", denoiser, x, a)
    edm = run("euler", denoiser, x / a[0].sqrt(), ((1 - a) / a).sqrt())
    for a_s, got, expected in zip(a[1:], vp, edm, strict=True):
        assert_close(
            got / a_s.sqrt(), expected, rtol=1e-10, what="DDIM's state over sqrt(ᾱ), against Euler's"
        )


@pytest.mark.grades("ddim", "ddpm")
def test_ddim_with_eta_1_is_ddpm(generator):
    """η = 1 gives the posterior of DDPM, so the same seed gives the same walk."""
    denoiser, x = (
        gaussian_denoiser([0.5, -1.0], [0.3, 2.0]),
        torch.randn(4, 2, dtype=DOUBLE, generator=generator),
    )
    both = [
        run("ddim", denoiser, x, GRIDS["alpha_bars"], eta=1.0, generator=seeded()),
        run("ddpm", denoiser, x, GRIDS["alpha_bars"], generator=seeded()),
    ]
    for got, expected in zip(*both, strict=True):
        assert_close(got, expected, rtol=1e-10, what="DDIM with eta = 1, against DDPM")


@pytest.mark.parametrize("function", EDM + VP)
def test_samples_are_independent(function):
    """A sample's path does not depend on the others in its batch (no churn, no noise)."""
    x, grid = torch.randn(5, 3, dtype=DOUBLE, generator=seeded()), grid_of(function)
    if function == "ddpm":
        grid = grid[[0, -1]]  # one step: nothing random
    together = run(function, STANDARD, x, grid)[-1]
    alone = torch.cat([run(function, STANDARD, x[i : i + 1], grid)[-1] for i in range(5)])
    assert_close(together, alone, rtol=1e-12, what="last state in a batch, against alone")


@pytest.mark.parametrize("function", ["dpm_solver_2m", "ddim", "ddpm"])
def test_coefficients_are_float64(function):
    """float32 states, but float64 coefficients: in float32 nothing is left of 1 - ᾱ near the end of a fine grid."""
    if function == "dpm_solver_2m":
        grid = torch.tensor([1.0, 1e-3, 1e-4], dtype=DOUBLE)
    else:
        grid = torch.tensor([0.5, 1 - 1e-6, 1 - 1e-8, 1.0], dtype=DOUBLE)
    wide, narrow = (
        run(
            function,
            constant_denoiser(0.0),
            x,
            grid,
            **({"generator": seeded()} if function == "ddpm" else {}),
        )[1]
        for x in (torch.tensor([[1.5], [-0.5], [0.25]], dtype=dtype) for dtype in (DOUBLE, torch.float32))
    )
    if function == "ddpm":  # other draws: only the size can be compared
        assert 1e-6 < float(narrow.abs().max()) < 1e-3, (
            f"near the end the noise has size 1e-4, got {narrow.flatten()}"
        )
    else:
        hint = "the coefficients lost their digits: compute them from float64 levels"
        assert_close(narrow, wide.float(), rtol=1e-5, atol=0.0, what="float32 state near the end", hint=hint)


@pytest.mark.parametrize(("function", "factor"), [("euler", 0.2), ("heun", 0.25), ("dpm_solver_2m", 0.2)])
def test_gradient(function, factor):
    """Gradients flow through the steps: from x to the last state by the factor of the hand-worked run."""
    x = torch.tensor([[10.0, 3.0], [-1.0, 2.0]], dtype=DOUBLE, requires_grad=True)
    cotangent = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=DOUBLE)
    last = run(function, STANDARD, x, torch.tensor([3.0, 1.0, 0.0], dtype=DOUBLE))[-1]
    assert last.requires_grad, (
        "the last state carries no gradient: a sampler must not detach (sample() turns gradients off)"
    )
    (gradient,) = torch.autograd.grad((last * cotangent).sum(), x)
    assert_close(gradient, factor * cotangent, what="gradient with respect to x")


# --- sample -----------------------------------------------------------------------------------------------------------


@pytest.mark.grades("sample")
@pytest.mark.parametrize("name", EDM + VP)
def test_sample_starts_at_the_noise_level(name, generator):
    """Noise is scaled by sigmas[0] for EDM's samplers and left alone for DDPM's; the last state comes back."""
    noise, grid = torch.randn(3, 2, generator=generator), grid_of(name)
    sampler, recorder = getattr(diffusion_sampling, name), Recorder(STANDARD)
    options = {"generator": seeded()} if name == "ddpm" else {}
    with unchanged(noise):
        got = diffusion_sampling.sample(sampler, recorder, noise, grid, progress=False, **options)
    assert got is not None, "sample returns None: return the last state"
    start = noise * 5.0 if name in EDM else noise / math.sqrt(0.05)
    mistakes = {
        "the initial noise is not multiplied by sigma_max": noise,
        "initial noise scaled by sqrt(sigma_max² + 1): that is DDPM's data plus noise": noise
        * math.sqrt(26.0),
        "the states of DDPM start at variance one: nothing to scale": noise * 0.05 / math.sqrt(0.05),
    }
    assert_close(recorder.states[0], start, what="first state the denoiser sees", mistakes=mistakes)
    options = {"generator": seeded()} if name == "ddpm" else {}
    *_, last = run(name, STANDARD, noise * 5.0 if name in EDM else noise, grid, **options)
    assert_close(got, last, what="what sample returns, against the sampler's last state")


@pytest.mark.grades("sample")
def test_sample_hands_options_on():
    """Options reach the sampler."""
    noise, recorder = torch.ones(2, 3), Recorder(STANDARD)
    diffusion_sampling.sample(
        diffusion_sampling.euler,
        recorder,
        noise,
        GRIDS["sigmas"],
        progress=False,
        churn=0.4,
        generator=seeded(),
    )
    assert abs(float(recorder.sigmas[0].flatten()[0]) - 5.5) < 1e-5, (
        "the option churn does not reach the sampler"
    )


@pytest.mark.grades("sample")
def test_sample_needs_no_gradients():
    """sample turns gradients off, also where the denoiser has parameters, and restores them afterwards."""
    parameter = torch.ones(3, requires_grad=True)
    noise = torch.ones(2, 3)
    got = diffusion_sampling.sample(
        diffusion_sampling.heun, lambda x, sigma: x * parameter / 2, noise, GRIDS["sigmas"], progress=False
    )
    assert not got.requires_grad, "sample keeps the graph of every step: it costs memory for nothing"
    assert torch.is_grad_enabled(), "sample leaves gradients turned off"
    assert not got.is_inference(), (
        "sample runs in inference mode: its result cannot enter a loss, so nothing can be trained on samples"
    )


@pytest.mark.grades("sample")
def test_sample_is_quiet(capsys):
    """progress=False prints nothing, and neither does a bar where the output is no terminal."""
    for progress in (False, True):
        diffusion_sampling.sample(
            diffusion_sampling.euler, STANDARD, torch.ones(2, 3), GRIDS["sigmas"], progress=progress
        )
    captured = capsys.readouterr()
    assert captured.out == "", f"sample prints to stdout: {captured.out!r}"
    assert captured.err == "", f"a progress bar is shown where the output is no terminal: {captured.err!r}"
