"""The judge of the noise levels. Oracles: values worked by hand, the papers' formulas spelled out, laws.

diffusers has the same schedules; test_9_with_diffusers compares with it.
"""

import math

import pytest
import torch
from oracles import DOUBLE

import schedules
from shared.testing.checks import assert_close, assert_imports_only, expect_error, unchanged


@pytest.mark.grades
def test_imports():
    """The noise levels need torch alone."""
    assert_imports_only(schedules, {"torch"})


# --- grids ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("function", "options"), [("linear_alpha_bars", {}), ("cosine_alpha_bars", {})])
def test_alpha_bars(function, options):
    """T + 1 float64 values from most noise to none: rising, above 0, the last exactly 1."""
    grid = getattr(schedules, function)(50, **options)
    assert grid.shape == (51,), f"50 steps have 51 levels, got shape {tuple(grid.shape)}"
    assert grid.dtype == DOUBLE, f"the grid must be float64, got {grid.dtype}"
    assert grid[0] < grid[-1], "the order is reversed: a grid runs as sampling does, from most noise to none"
    assert grid[-1] == 1, f"the grid must end at ᾱ_0 = 1, got {float(grid[-1])}"
    assert bool((grid > 0).all() and (grid.diff() > 0).all()), "alpha_bars must be positive and rise"


@pytest.mark.grades("linear_alpha_bars")
def test_linear_by_hand():
    """Betas 0.1, 0.2, 0.3: ᾱ = 0.9, 0.9·0.8 = 0.72, 0.72·0.7 = 0.504."""
    grid = schedules.linear_alpha_bars(3, beta_start=0.1, beta_end=0.3)
    mistakes = {
        "these are single factors 1 - β, not their products": torch.tensor([0.7, 0.8, 0.9, 1.0]),
        "the betas are spaced between their roots": torch.cat(
            [(1 - torch.linspace(0.1**0.5, 0.3**0.5, 3, dtype=DOUBLE) ** 2).cumprod(0).flip(0), torch.ones(1)]
        ),
    }
    assert_close(
        grid, torch.tensor([0.504, 0.72, 0.9, 1.0], dtype=DOUBLE), what="linear ᾱ", mistakes=mistakes
    )


@pytest.mark.grades("linear_alpha_bars")
def test_linear_defaults():
    """DDPM's own numbers: β from 1e-4 to 0.02 over 1000 steps leave ᾱ_T = 4.04e-5."""
    grid = schedules.linear_alpha_bars()
    assert len(grid) == 1001, f"the default is 1000 steps, got {len(grid) - 1}"
    log_sum = math.fsum(math.log1p(-(1e-4 + (0.02 - 1e-4) * i / 999)) for i in range(1000))
    assert_close(grid[:1], torch.tensor([math.exp(log_sum)], dtype=DOUBLE), rtol=1e-10, what="ᾱ_T")
    assert_close(grid[-2:-1], torch.tensor([0.9999], dtype=DOUBLE), rtol=1e-14, what="ᾱ_1")


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


@pytest.mark.grades("karras_sigmas")
def test_karras_by_hand():
    """σ^(1/2) evenly spaced for rho = 2: 3, 2, 1 for sigmas 9, 4, 1, then 0."""
    grid = schedules.karras_sigmas(3, sigma_min=1.0, sigma_max=9.0, rho=2.0)
    mistakes = {
        "the order is reversed: a grid runs from most noise to none": torch.tensor([1.0, 4.0, 9.0, 0.0]),
        "the order is reversed: a grid runs from most noise to none (0 first)": torch.tensor(
            [0.0, 1.0, 4.0, 9.0]
        ),
        "rho is ignored": torch.tensor([9.0, 5.0, 1.0, 0.0]),
        "n levels are divided by n, not by n - 1 intervals": (3 + torch.arange(3) / 3 * -2.0) ** 2,
    }
    assert_close(
        grid, torch.tensor([9.0, 4.0, 1.0, 0.0], dtype=DOUBLE), what="Karras grid", mistakes=mistakes
    )
    grid = schedules.karras_sigmas(2, sigma_min=1.0, sigma_max=9.0, rho=2.0, to_zero=False)
    assert_close(
        grid, torch.tensor([9.0, 4.0, 1.0], dtype=DOUBLE), what="Karras grid that stops at sigma_min"
    )


@pytest.mark.grades("karras_sigmas")
def test_karras_defaults():
    """EDM's numbers: 0.002 to 80, rho 7; the middle of 19 levels is the 7th power of the mean 7th root."""
    grid = schedules.karras_sigmas(19)
    assert grid.shape == (20,), f"19 steps have 20 levels, got {tuple(grid.shape)}"
    assert grid.dtype == DOUBLE, f"the grid must be float64, got {grid.dtype}"
    middle = ((80 ** (1 / 7) + 0.002 ** (1 / 7)) / 2) ** 7
    got = grid[torch.tensor([0, 9, 18, 19])]
    assert_close(
        got,
        torch.tensor([80.0, middle, 0.002, 0.0], dtype=DOUBLE),
        rtol=1e-10,
        atol=0.0,
        what="σ 0, 9, 18, 19",
    )


@pytest.mark.grades("karras_sigmas")
def test_karras_one_step():
    """One step goes from sigma_max to 0, or to sigma_min."""
    assert schedules.karras_sigmas(1).tolist() == [80.0, 0.0], "one step is sigma_max, 0"
    grid = schedules.karras_sigmas(1, to_zero=False)
    assert_close(
        grid, torch.tensor([80.0, 0.002], dtype=DOUBLE), rtol=1e-10, atol=0.0, what="one step to sigma_min"
    )


@pytest.mark.parametrize(
    ("function", "arguments", "options", "mention"),
    [
        ("linear_alpha_bars", (0,), {}, "0"),
        ("linear_alpha_bars", (5,), {"beta_end": 1.0}, "1.0"),
        ("linear_alpha_bars", (5,), {"beta_start": 0.0}, "0.0"),
        ("cosine_alpha_bars", (0,), {}, "0"),
        ("cosine_alpha_bars", (5,), {"max_beta": 1.0}, "1.0"),
        ("cosine_alpha_bars", (5,), {"offset": 0.0}, "0.0"),
        ("karras_sigmas", (0,), {}, "0"),
        ("karras_sigmas", (5,), {"sigma_min": 0.0}, "0.0"),
        ("karras_sigmas", (5,), {"sigma_min": 90.0}, "90.0"),
        ("karras_sigmas", (5,), {"rho": 0.0}, "0.0"),
    ],
    ids=str,
)
def test_bad_schedules(function, arguments, options, mention):
    """Arguments that give no grid are refused and named."""
    with expect_error(ValueError, mention, otherwise=f"{function}{arguments} with {options} is accepted"):
        getattr(schedules, function)(*arguments, **options)


# --- conversions ------------------------------------------------------------------------------------------------------


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


# --- the forward process ----------------------------------------------------------------------------------------------


@pytest.mark.grades("add_noise")
def test_add_noise_by_hand():
    """x0 = 10, noise = 5: with σ = 3 it is 10 + 15, with ᾱ = 0.36 it is 0.6·10 + 0.8·5."""
    x0, noise = torch.tensor([[10.0], [-20.0]], dtype=DOUBLE), torch.tensor([[5.0], [2.0]], dtype=DOUBLE)
    with unchanged(x0, noise):
        edm = schedules.add_noise(x0, noise, sigma=3.0)
        vp = schedules.add_noise(x0, noise, alpha_bar=0.36)
    assert_close(edm, torch.tensor([[25.0], [-14.0]], dtype=DOUBLE), what="x0 + σ·noise")
    mistakes = {
        "ᾱ is used where its root belongs": torch.tensor([[0.36 * 10 + 0.64 * 5], [0.36 * -20 + 0.64 * 2]]),
        "signal and noise are swapped": torch.tensor([[0.8 * 10 + 0.6 * 5], [0.8 * -20 + 0.6 * 2]]),
        "the noise is not scaled": torch.tensor([[11.0], [-10.0]]),
    }
    assert_close(
        vp,
        torch.tensor([[10.0], [-10.4]], dtype=DOUBLE),
        what="sqrt(ᾱ)·x0 + sqrt(1 - ᾱ)·noise",
        mistakes=mistakes,
    )


@pytest.mark.grades("add_noise")
@pytest.mark.parametrize("name", ["sigma", "alpha_bar"])
def test_add_noise_per_sample(name, generator):
    """A (batch,) tensor of levels holds one per sample, also where the last axis has the same length."""
    x0, noise = (torch.randn(3, 2, 3, generator=generator) for _ in range(2))
    levels = torch.tensor([0.1, 0.5, 0.9])
    got = schedules.add_noise(x0, noise, **{name: levels})
    single = [
        schedules.add_noise(x0[i : i + 1], noise[i : i + 1], **{name: float(levels[i])}) for i in range(3)
    ]
    mistakes = {
        "the levels run along the last axis, not along the batch": lambda: torch.cat(
            [
                schedules.add_noise(x0[..., i : i + 1], noise[..., i : i + 1], **{name: float(levels[i])})
                for i in range(3)
            ],
            -1,
        )
    }
    assert_close(got, torch.cat(single), what="noise of one level per sample", mistakes=mistakes)
    shaped = schedules.add_noise(x0, noise, **{name: levels.reshape(3, 1, 1)})
    assert_close(shaped, torch.cat(single), what="levels of shape (batch, 1, 1)")
    assert got.dtype == torch.float32, f"the dtype of x0 is float32, got {got.dtype}"
    wide = schedules.add_noise(x0, noise, **{name: levels.double()})
    assert wide.dtype == torch.float32, f"a float64 level turned float32 data into {wide.dtype}"


@pytest.mark.grades("add_noise")
@pytest.mark.parametrize("options", [{}, {"sigma": 1.0, "alpha_bar": 0.5}], ids=["none", "both"])
def test_add_noise_needs_one_level(options):
    """Exactly one of sigma and alpha_bar says which state is meant."""
    with expect_error(ValueError, "sigma", "alpha_bar", otherwise=f"add_noise with {options} is accepted"):
        schedules.add_noise(torch.ones(2, 3), torch.ones(2, 3), **options)


@pytest.mark.grades("add_noise")
@pytest.mark.parametrize("shape", [(1, 3), (2, 1), (3,)], ids=str)
def test_add_noise_shapes(shape):
    """Noise of another shape would be shared between samples."""
    with expect_error(ValueError, str(shape), otherwise=f"noise of shape {shape} is broadcast over (2, 3)"):
        schedules.add_noise(torch.ones(2, 3), torch.ones(shape), sigma=1.0)


# --- predictions ------------------------------------------------------------------------------------------------------

# x0 = 2, ε = 5, σ = 0.75 (ᾱ = 0.64): x = 5.75, v = 0.8·5 - 0.6·2 = 2.8, score = -5/0.75
PREDICTIONS = {"x0": 2.0, "epsilon": 5.0, "v": 2.8, "score": -5 / 0.75}


@pytest.mark.grades("to_x0")
@pytest.mark.parametrize("kind", PREDICTIONS)
def test_to_x0_by_hand(kind):
    """All four predictions of x = 2 + 0.75·5 imply x0 = 2."""
    x, prediction = torch.tensor([[5.75], [-5.75]], dtype=DOUBLE), PREDICTIONS[kind]
    prediction = torch.tensor([[prediction], [-prediction]], dtype=DOUBLE)
    got = schedules.to_x0(prediction, x, 0.75, kind=kind)
    p = PREDICTIONS[kind]
    flip = torch.tensor([[1.0], [-1.0]], dtype=DOUBLE)
    mistakes = {
        "v is not turned back with the sign of its definition": (5.75 * 0.64 + 0.6 * p) * flip,
        "x is x0 + σ·n here, not sqrt(ᾱ)·x0 + ...: v needs x·ᾱ": (5.75 * 0.8 - 0.6 * p) * flip,
        "the score is multiplied by σ, not σ²": (5.75 + 0.75 * p) * flip,
        "the noise is not multiplied by σ": (5.75 - p) * flip,
        "the noise has the wrong sign": (5.75 + 0.75 * p) * flip,
    }
    mistakes = {name: value for name, value in mistakes.items() if abs(float(value[0, 0]) - 2) > 1e-6}
    assert_close(got, 2 * flip, what=f"x0 from {kind}", mistakes=mistakes)


@pytest.mark.grades("from_x0")
@pytest.mark.parametrize("kind", PREDICTIONS)
def test_from_x0_by_hand(kind):
    """x0 = 2 and x = 2 + 0.75·5 imply all four predictions."""
    flip = torch.tensor([[1.0], [-1.0]], dtype=DOUBLE)
    got = schedules.from_x0(2 * flip, 5.75 * flip, 0.75, kind=kind)
    assert_close(got, PREDICTIONS[kind] * flip, what=kind)


@pytest.mark.grades("to_x0", "from_x0")
@pytest.mark.parametrize("kind", PREDICTIONS)
def test_predictions_per_sample(kind, generator):
    """With one σ per sample each is the other's inverse, sample by sample."""
    x0, x = (torch.randn(3, 2, 3, dtype=DOUBLE, generator=generator) for _ in range(2))
    sigma = torch.tensor([0.1, 2.0, 30.0], dtype=DOUBLE)
    prediction = schedules.from_x0(x0, x, sigma, kind=kind)
    alone = torch.cat(
        [schedules.from_x0(x0[i : i + 1], x[i : i + 1], float(sigma[i]), kind=kind) for i in range(3)]
    )
    assert_close(prediction, alone, rtol=1e-12, what=f"{kind} with one σ per sample")
    assert_close(
        schedules.to_x0(prediction, x, sigma, kind=kind), x0, rtol=1e-10, what=f"x0 from {kind} from x0"
    )


@pytest.mark.parametrize("function", ["to_x0", "from_x0"])
def test_unknown_prediction(function):
    """Another kind is refused and named."""
    with expect_error(ValueError, "eps", otherwise='kind="eps" is accepted'):
        getattr(schedules, function)(torch.ones(2, 1), torch.ones(2, 1), 1.0, kind="eps")


# --- preconditioning --------------------------------------------------------------------------------------------------


@pytest.mark.grades("edm_preconditioning")
def test_preconditioning_by_hand():
    """σ = 4, σ_data = 3: σ² + σ_data² = 25, so c_skip = 9/25, c_out = 12/5, c_in = 1/5, c_noise = ln(4)/4."""
    got = schedules.edm_preconditioning(torch.tensor([[4.0], [3.0]], dtype=DOUBLE), sigma_data=3.0)
    assert_close(
        got.c_skip,
        torch.tensor([[0.36], [0.5]], dtype=DOUBLE),
        what="c_skip",
        mistakes={
            "c_skip and c_out swapped": torch.tensor([[2.4], [9 / 18**0.5]]),
            "c_skip keeps the noise: it is σ_data²/(σ² + σ_data²)": torch.tensor([[0.64], [0.5]]),
        },
    )
    assert_close(got.c_out, torch.tensor([[2.4], [9 / 18**0.5]], dtype=DOUBLE), what="c_out")
    assert_close(got.c_in, torch.tensor([[0.2], [18**-0.5]], dtype=DOUBLE), what="c_in")
    mistakes = {"the logarithm is not divided by 4": torch.tensor([[4.0], [3.0]]).log()}
    expected = torch.tensor([[math.log(4) / 4], [math.log(3) / 4]], dtype=DOUBLE)
    assert_close(got.c_noise, expected, what="c_noise", mistakes=mistakes)


@pytest.mark.grades("edm_preconditioning")
def test_preconditioning_keeps_variance_one(generator):
    """What EDM's factors are for: input and target of the network have variance one at every σ (400 000 draws)."""
    x0, noise = (torch.randn(400_000, dtype=DOUBLE, generator=generator) for _ in range(2))
    x0 = 0.3 * x0
    for sigma in (0.01, 0.3, 20.0):
        x = x0 + sigma * noise
        c = schedules.edm_preconditioning(torch.tensor(sigma, dtype=DOUBLE), sigma_data=0.3)
        for name, value in (
            ("input c_in·x", c.c_in * x),
            ("target (x0 - c_skip·x)/c_out", (x0 - c.c_skip * x) / c.c_out),
        ):
            assert abs(float(value.var()) - 1) < 0.02, (
                f"the {name} has variance {float(value.var()):.3f} at σ = {sigma}"
            )


@pytest.mark.grades("precondition")
def test_precondition(generator):
    """D(x, σ) = c_skip·x + c_out·F(c_in·x, c_noise): F sees one c_noise per sample, and the condition as it came."""
    x, seen = torch.randn(2, 3, 2, dtype=DOUBLE, generator=generator), []

    def network(scaled, c_noise, *condition):
        seen.append((scaled, c_noise, condition))
        return torch.full_like(scaled, 10.0)

    denoiser = schedules.precondition(network, sigma_data=3.0)
    mistakes = {
        "c_skip and c_out swapped": 2.4 * x + 0.36 * 10,
        "the skip is missing": torch.full_like(x, 24.0),
        "c_out is missing": 0.36 * x + 10,
        "sigma_data is ignored": 0.25 / 16.25 * x + 10 * 2 / 16.25**0.5,
    }
    assert_close(denoiser(x, 4.0, "label"), 0.36 * x + 24.0, what="D(x, 4)", mistakes=mistakes)
    scaled, c_noise, condition = seen[-1]
    assert_close(scaled, 0.2 * x, what="input of the network", mistakes={"c_in is missing": x})
    assert c_noise.shape == (2,), f"c_noise must be (batch,), got {tuple(c_noise.shape)}"
    assert condition == ("label",), f"the condition was not handed on: {condition}"
    for sigma in (torch.tensor([4.0, 3.0]), torch.tensor([4.0, 3.0]).reshape(2, 1, 1)):
        got = denoiser(x, sigma)
        expected = torch.stack([0.36 * x[0] + 24, 0.5 * x[1] + 90 / 18**0.5])
        assert_close(got, expected, rtol=1e-6, what=f"D with sigma of shape {tuple(sigma.shape)}")
        expected = torch.tensor([math.log(4) / 4, math.log(3) / 4], dtype=DOUBLE)
        assert_close(seen[-1][1], expected, rtol=1e-6, what="c_noise")
    assert denoiser(x, torch.tensor(4.0)).dtype == DOUBLE, "a float32 sigma changed the dtype of x"
