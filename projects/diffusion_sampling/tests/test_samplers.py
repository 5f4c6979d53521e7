"""The four samplers of the core. Oracles: values worked by hand, joint Gaussians, laws.

Worked by hand throughout: standard normal data, whose denoiser is D(x, σ) = x/(1 + σ²).
"""

import math

import pytest
import torch
from oracles import DOUBLE, Recorder, column, constant_denoiser, gaussian_denoiser, posterior, seeded

import diffusion_sampling
from shared.testing.checks import assert_close, expect_error, unchanged

SAMPLERS = ["euler", "heun", "ddim", "ddpm"]
STANDARD = gaussian_denoiser(0.0, 1.0)
SIGMAS = torch.tensor([5.0, 2.0, 0.7, 0.3, 0.0], dtype=DOUBLE)
ALPHA_BARS = torch.tensor([0.05, 0.3, 0.6, 0.9, 1.0], dtype=DOUBLE)
RANDOM = [("ddim", {"eta": 0.5}), ("ddpm", {})]


def grid_of(function):
    return SIGMAS if function in ("euler", "heun") else ALPHA_BARS


def run(function, denoiser, x, grid, **options):
    """All states of a sampler."""
    return list(getattr(diffusion_sampling, function)(denoiser, x, grid, **options))


# --- contract ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", SAMPLERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_states(function, dtype, generator):
    """One state per step in the shape and dtype of x; neither x nor a state that was handed out is written to."""
    x, grid = torch.randn(3, 2, 5, dtype=dtype, generator=generator), grid_of(function)
    with unchanged(x, grid):
        states, copies = [], []
        for state in getattr(diffusion_sampling, function)(STANDARD, x, grid):
            states.append(state)
            copies.append(state.clone())
    assert len(states) == 4, f"a grid of 5 levels has 4 steps, so 4 states, got {len(states)}"
    for state, copy in zip(states, copies, strict=True):
        assert state.shape == x.shape, f"a state has shape {tuple(state.shape)}, expected {tuple(x.shape)}"
        assert state.dtype == dtype, (
            f"a state has dtype {state.dtype}, x has {dtype}: the grid's dtype leaked"
        )
        assert torch.equal(state, copy), "a state was overwritten by a later step: yield a new tensor each"


@pytest.mark.parametrize("function", SAMPLERS)
def test_one_step_at_a_time(function):
    """A sampler computes a step only when it is asked for one: one call of the denoiser more per state, Heun two."""
    recorder, per_step = Recorder(STANDARD), 2 if function == "heun" else 1
    states = iter(getattr(diffusion_sampling, function)(recorder, torch.ones(2, 3), grid_of(function)))
    assert not recorder.sigmas, (
        "the denoiser is called before the first state is asked for: yield after every step"
    )
    for n in (1, 2, 3):
        next(states)
        calls = len(recorder.sigmas)
        assert calls <= n * per_step, (
            f"{calls} calls of the denoiser for {n} of 4 states: yield after every step"
        )


@pytest.mark.parametrize(("function", "expected"), [("euler", 4), ("heun", 7), ("ddim", 4), ("ddpm", 4)])
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


@pytest.mark.parametrize("function", SAMPLERS)
def test_what_the_denoiser_is_told(function):
    """The denoiser gets the state as x0 + σ·n and the σ of that state, from most noise to least."""
    recorder = Recorder(STANDARD)
    run(function, recorder, torch.ones(2, 3), grid_of(function))
    for sigma in recorder.sigmas:
        assert sigma.numel() == 1 or sigma.shape[0] == 2, (
            f"sigma of shape {tuple(sigma.shape)} does not broadcast"
        )
    dtypes = {state.dtype for state in recorder.states}
    assert dtypes == {torch.float32}, (
        f"the denoiser gets states of {dtypes}, x is float32: a network refuses that"
    )
    told = torch.stack([sigma.double().flatten()[0] for sigma in recorder.sigmas])
    grid = grid_of(function)[:-1]
    sigmas = grid if function in ("euler", "heun") else ((1 - grid) / grid).sqrt()
    mistakes = {}
    if function == "heun":
        sigmas = sigmas.repeat_interleave(2)[1:]
    if grid is not sigmas and function != "heun":
        mistakes = {
            "the denoiser gets sqrt(1 - ᾱ), the noise of x_t; it wants that of x_t/sqrt(ᾱ)": (
                1 - grid
            ).sqrt(),
            "the denoiser gets ᾱ itself, not sigma": grid,
            "the denoiser gets sigma of the next step": ((1 - ALPHA_BARS) / ALPHA_BARS).sqrt()[1:],
        }
    mistakes |= {"the order is reversed: sampling runs from most noise to none": sigmas.flip(0)}
    assert_close(told, sigmas, rtol=1e-6, what="sigma in each call", mistakes=mistakes)
    scale = 1.0 if function in ("euler", "heun") else 1 / math.sqrt(0.05)
    assert_close(
        recorder.states[0],
        torch.full((2, 3), scale),
        rtol=1e-6,
        what="state in the first call",
        vacuous_ok="the state is the same everywhere on purpose",
        mistakes={"the denoiser gets x_t: rescale it to x_t/sqrt(ᾱ) = x0 + σ·n": torch.ones(2, 3)},
    )


@pytest.mark.grades("ddim")
@pytest.mark.parametrize("eta", [-0.1, 1.1], ids=str)
def test_bad_eta(eta):
    """Beyond 1 the kept noise would be the root of a negative number."""
    with expect_error(ValueError, otherwise=f"eta = {eta} is accepted"):
        run("ddim", STANDARD, torch.ones(2, 3), ALPHA_BARS[-2:], eta=eta)


# --- worked by hand ---------------------------------------------------------------------------------------------------

HAND_SIGMAS = torch.tensor([3.0, 1.0, 0.0], dtype=DOUBLE)


@pytest.mark.grades("euler")
def test_euler_by_hand():
    """σ 3 → 1 → 0 from x = 10: D = 1, slope 3, x = 10 - 2·3 = 4; D = 2, slope 2, x = 4 - 2 = 2."""
    states = run("euler", STANDARD, column(10.0), HAND_SIGMAS)
    mistakes = {
        "the step has the wrong sign: sigma falls, so sigma_next - sigma is negative": column(16.0),
        "the state is replaced by D in every step": column(1.0),
        "the slope is x - D, not (x - D)/sigma": column(-8.0),
        "this is Heun's step: Euler uses the first slope alone": column(5.0),
    }
    assert_close(states[0], column(4.0), what="state after the first step", mistakes=mistakes)
    assert_close(states[1], column(2.0), what="state after the last step")


@pytest.mark.grades("heun")
def test_heun_by_hand():
    """As Euler to 4; slope there (4 - 2)/1 = 2, mean (3 + 2)/2, x = 10 - 2·2.5 = 5; last step alone: D = 2.5."""
    states = run("heun", STANDARD, column(10.0), HAND_SIGMAS)
    mistakes = {
        "Heun without the correction: this is Euler's step": column(4.0),
        "the second slope replaces the first; Heun takes their mean": column(6.0),
        "the slopes are added, not averaged": column(0.0),
        "the corrected step starts from the predicted state, not from where the step began": column(-1.0),
        "the second slope is taken at sigma, not at sigma_next": column(5.8),
    }
    assert_close(states[0], column(5.0), what="state after the first step", mistakes=mistakes)
    assert_close(states[1], column(2.5), what="state after the last step, which is Euler's")
    (alone,) = run("heun", STANDARD, column(10.0), HAND_SIGMAS[:2])
    assert_close(alone, column(5.0), what="last step of a grid that ends at sigma = 1")


# ᾱ 0.36 → 0.64 → 1, so sqrt(ᾱ) = 0.6, 0.8 and sqrt(1 - ᾱ) = 0.8, 0.6; the data are the points ±2, x_t = ±3.6.
HAND_ALPHA_BARS = torch.tensor([0.36, 0.64, 1.0], dtype=DOUBLE)


@pytest.mark.grades("ddim")
def test_ddim_by_hand():
    """ε = (3.6 - 0.6·2)/0.8 = 3, x = 0.8·2 + 0.6·3 = 3.4; the last step gives x0 = 2."""
    states = run("ddim", constant_denoiser(column(2.0)), column(3.6), HAND_ALPHA_BARS)
    mistakes = {
        "x0 is clipped to [-1, 1] and epsilon is not recomputed from it": column(2.6),
        "x0 is clipped to [-1, 1]: the range of the data is the denoiser's business": column(3.05),
        "this is Euler's step in x: x_t needs sqrt(ᾱ)": column(2 + 1.6 * 0.75 / (4 / 3)),
        "the coefficients of x0 and epsilon are swapped": column(0.6 * 2 + 0.8 * 3),
        "epsilon is not divided by sqrt(1 - ᾱ_t)": column(0.8 * 2 + 0.6 * 2.4),
        "ᾱ is used where its root belongs": column(0.64 * 2 + 0.36 * 3),
    }
    assert_close(states[0], column(3.4), what="x_s", mistakes=mistakes)
    assert_close(states[1], column(2.0), what="last state")
    (alone,) = run("ddim", constant_denoiser(column(2.0)), column(3.6), HAND_ALPHA_BARS[:2])
    assert_close(alone, column(3.4), what="last state of a grid that ends at ᾱ = 0.64")


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
        assert abs(got_mean - value) > 0.01, (
            f"posterior mean with the wrong coefficient: {diagnosis} ({value:.4f})"
        )
    assert abs(got_mean - mean) < 5 * math.sqrt(variance / len(x)), (
        f"posterior mean with the wrong coefficient: {got_mean:.4f}, expected {mean:.4f}"
    )
    beta = 1 - 0.36 / 0.64
    assert abs(got_variance / beta - 1) > 0.02, (
        "the variance is beta; the posterior of x_s given x_t and x0 has the smaller beta-tilde"
    )
    assert abs(got_variance / variance - 1) < 0.02, f"variance {got_variance:.5f}, expected {variance:.5f}"
    spread = float(states[1].std())
    assert spread < 1e-12, (
        f"the last step adds noise of deviation {spread:.2g}: its posterior has none, it ends at x0"
    )
    assert abs(float(states[1].mean()) - 2) < 1e-12, "the last state must be x0"


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


@pytest.mark.parametrize(("function", "options"), RANDOM)
def test_generator(function, options):
    """All noise comes from the generator: same seed, same states; another seed, others; the global one is untouched."""
    x, before = torch.ones(2, 3), torch.get_rng_state()
    first, again, other = (
        run(function, STANDARD, x, ALPHA_BARS, generator=seeded(seed), **options)[-2] for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), before), (
        "generator ignored: the noise came from torch's global generator"
    )
    assert torch.equal(first, again), "the same seed gives two runs: the generator is ignored"
    assert not torch.equal(first, other), "two seeds give the same run: the generator is ignored"


@pytest.mark.parametrize(("function", "options"), RANDOM)
def test_noise_is_fresh(function, options):
    """Each step, sample and coordinate gets its own noise: with D = 0 the noise alone is left."""
    x = torch.zeros(400, 50, dtype=DOUBLE)
    one, two, three, _ = run(function, constant_denoiser(0.0), x, ALPHA_BARS, generator=seeded(), **options)
    for axis, name in ((0, "samples of the batch"), (1, "coordinates")):
        spread = float(one.std(dim=axis).mean() / one.std())
        assert spread > 0.9, f"the {name} share their noise"
    # what a state holds beyond a multiple of the state before is the noise of its step
    second = two - float((one * two).mean() / (one * one).mean()) * one
    third = three - float((two * three).mean() / (two * two).mean()) * two
    assert float(second.std()) > 0.05 * float(one.std()), (
        "both steps use the same noise: draw again in each step"
    )
    correlation = float((second * third).mean() / (second.std() * third.std()))
    assert abs(correlation) < 0.1, (
        f"the noise of two steps is correlated ({correlation:.2f}): draw again in each step"
    )


# --- laws -------------------------------------------------------------------------------------------------------------


@pytest.mark.grades("ddim")
def test_ddim_is_euler_rescaled(generator):
    """The two states are one: DDIM with η = 0 is a straight step of the ODE on x_t/sqrt(ᾱ)."""
    a = torch.cat([torch.rand(12, dtype=DOUBLE, generator=generator).sort()[0] * 0.98 + 0.01, torch.ones(1)])
    denoiser = gaussian_denoiser([0.5, -1.0, 2.0], [0.3, 1.0, 2.0])
    x = torch.randn(4, 3, dtype=DOUBLE, generator=generator)
    expected, sigmas = x / a[0].sqrt(), ((1 - a) / a).sqrt()
    for step, got in enumerate(run("ddim", denoiser, x, a)):
        slope = (expected - denoiser(expected, sigmas[step])) / sigmas[step]
        expected = expected + (sigmas[step + 1] - sigmas[step]) * slope
        assert_close(
            got / a[step + 1].sqrt(), expected, rtol=1e-10, what="DDIM's state over sqrt(ᾱ), against Euler's"
        )


@pytest.mark.parametrize(("function", "options"), [("euler", {}), ("heun", {}), ("ddim", {}), *RANDOM])
def test_a_grid_may_be_cut(function, options):
    """A step knows its own two levels only: the grid in two pieces, the second from where the first ended, is the whole grid.

    So a step that happens to be the last is like any other, unless it goes to σ = 0 (ᾱ = 1).
    """
    x, grid = torch.randn(3, 2, dtype=DOUBLE, generator=seeded(5)), grid_of(function)

    def draws():
        return {"generator": seeded()} if options or function == "ddpm" else {}

    whole = run(function, STANDARD, x, grid, **options, **draws())
    kept = draws()  # one generator for both pieces
    pieces = run(function, STANDARD, x, grid[:3], **options, **kept)
    assert len(pieces) == 2, f"a grid of 3 levels has 2 steps, so 2 states, got {len(pieces)}"
    hint = "the last step of a grid that ends above σ = 0 (below ᾱ = 1) must be like any other"
    assert_close(
        pieces[1], whole[1], rtol=1e-12, what="state after 2 of 4 steps, last of its grid", hint=hint
    )
    pieces += run(function, STANDARD, pieces[1], grid[2:], **options, **kept)
    hint = "a step must not depend on the steps before it"
    for step in (2, 3):
        assert_close(
            pieces[step], whole[step], rtol=1e-12, what=f"state {step} of the grid in pieces", hint=hint
        )


@pytest.mark.parametrize("function", ["euler", "heun"])
@pytest.mark.parametrize("unit", [1e-6, 1e4], ids=str)
def test_units_do_not_matter(function, unit):
    """Data, state and grid in another unit of length: the same states in that unit. Only σ = 0 itself is the end."""
    x = torch.randn(3, 2, dtype=DOUBLE, generator=seeded(5))
    plain = run(function, STANDARD, x, SIGMAS)
    scaled = run(function, gaussian_denoiser(0.0, unit**2), unit * x, unit * SIGMAS)
    hint = "a number of the code has a unit: it clips, or takes a small sigma for 0"
    for step, (got, expected) in enumerate(zip(scaled, plain, strict=True)):
        assert_close(got / unit, expected, rtol=1e-12, what=f"state {step}, in units of {unit:g}", hint=hint)


@pytest.mark.parametrize(("function", "options"), [("euler", {}), ("heun", {}), ("ddim", {}), *RANDOM])
def test_one_point(function, options):
    """If the data are one point, every sampler ends there, however far away it is."""
    x = torch.randn(2, 3, dtype=DOUBLE, generator=seeded(5))
    point = torch.tensor([[-3000.0, 0.5, 7.0], [0.01, 40.0, -2.0]], dtype=DOUBLE)
    draws = {"generator": seeded()} if options or function == "ddpm" else {}
    last = run(function, constant_denoiser(point), x, grid_of(function), **options, **draws)[-1]
    hint = "the last step, to σ = 0 (ᾱ = 1), must end at D; the range of the data is the denoiser's business"
    assert_close(last, point, rtol=1e-12, what="last state", hint=hint)


@pytest.mark.parametrize("function", SAMPLERS)
def test_grid_of_float32(function):
    """The grid's dtype is not the state's: a grid of float32 leads to the same states, up to its own rounding."""
    x, grid = torch.randn(3, 2, dtype=DOUBLE, generator=seeded(5)), grid_of(function)
    draws = {"generator": seeded()} if function == "ddpm" else {}
    expected = run(function, STANDARD, x, grid, **draws)
    draws = {"generator": seeded()} if function == "ddpm" else {}
    for got, other in zip(run(function, STANDARD, x, grid.float(), **draws), expected, strict=True):
        assert_close(got, other, rtol=1e-5, what="state on a grid of float32, against float64")


@pytest.mark.parametrize("function", SAMPLERS)
def test_samples_are_independent(function):
    """A sample's path does not depend on the others in its batch."""
    x = torch.randn(5, 3, dtype=DOUBLE, generator=seeded())
    grid = ALPHA_BARS[[0, -1]] if function == "ddpm" else grid_of(function)  # one step of DDPM draws nothing
    together = run(function, STANDARD, x, grid)[-1]
    alone = torch.cat([run(function, STANDARD, x[i : i + 1], grid)[-1] for i in range(5)])
    assert_close(together, alone, rtol=1e-12, what="last state in a batch, against alone")


FINE = torch.tensor([0.5, 1 - 1e-6, 1 - 1e-8, 1.0], dtype=DOUBLE)


@pytest.mark.grades("ddim")
def test_ddim_coefficients_are_float64():
    """float32 states, but float64 coefficients: in float32 nothing is left of 1 - ᾱ near the end of a fine grid."""
    x = torch.tensor([[1.5], [-0.5], [0.25]], dtype=DOUBLE)
    wide, narrow = (run("ddim", constant_denoiser(0.0), start, FINE)[1] for start in (x, x.float()))
    hint = "the coefficients lost their digits: compute them from float64 levels"
    assert_close(narrow, wide.float(), rtol=1e-5, atol=0.0, what="float32 state near the end", hint=hint)


@pytest.mark.grades("ddpm")
def test_ddpm_coefficients_are_float64():
    """The same for the variance: with D = 0 and x = 0 only noise is left, of a deviation that the posteriors tell."""
    x = torch.zeros(20_000, 1)
    state = run("ddpm", constant_denoiser(0.0), x, FINE, generator=seeded())[1]
    first, (_, gain, second) = posterior(*FINE[:2].tolist())[2], posterior(*FINE[1:3].tolist())
    expected = math.sqrt(gain**2 * first + second)
    got = float(state.double().std())
    assert abs(got / expected - 1) < 0.03, (
        f"deviation {got:.3g} near the end, expected {expected:.3g}: compute the coefficients in float64"
    )


@pytest.mark.parametrize(("function", "factor"), [("euler", 0.2), ("heun", 0.25)])
def test_gradient(function, factor):
    """Gradients flow through the steps: from x to the last state by the factor of the hand-worked run."""
    x = torch.tensor([[10.0, 3.0], [-1.0, 2.0]], dtype=DOUBLE, requires_grad=True)
    cotangent = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=DOUBLE)
    last = run(function, STANDARD, x, HAND_SIGMAS)[-1]
    assert last.requires_grad, (
        "the last state carries no gradient: a sampler must not detach (sample() turns gradients off)"
    )
    (gradient,) = torch.autograd.grad((last * cotangent).sum(), x)
    assert_close(gradient, factor * cotangent, what="gradient with respect to x")


@pytest.mark.parametrize("function", ["ddim", "ddpm"])
def test_gradient_of_the_variance_preserving_steps(function):
    """The same for ᾱ: standard normal data have x0 = sqrt(ᾱ)·x_t, so a step multiplies x by a number; no noise is drawn."""
    x = torch.tensor([[1.0, 3.0], [-1.0, 2.0]], dtype=DOUBLE, requires_grad=True)
    cotangent = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=DOUBLE)
    (last,) = run(function, STANDARD, x, HAND_ALPHA_BARS[[0, -1]])
    assert last.requires_grad, "the last state carries no gradient: a sampler must not detach"
    (gradient,) = torch.autograd.grad((last * cotangent).sum(), x)
    assert_close(gradient, 0.6 * cotangent, what="gradient with respect to x")
