"""The core before the loop: grids, the forward process, what a network predicts. Oracles: hand values, the formulas spelled out."""

import math

import pytest
import torch
from oracles import DOUBLE

import diffusion_sampling
from diffusion_sampling import add_noise, karras_sigmas, linear_alpha_bars, to_x0
from shared.testing.checks import assert_close, assert_imports_only, expect_error, unchanged


@pytest.mark.grades
def test_imports():
    """A sampling loop needs torch alone."""
    assert_imports_only(diffusion_sampling, {"torch"})


# --- grids ------------------------------------------------------------------------------------------------------------


@pytest.mark.grades("linear_alpha_bars")
def test_alpha_bars():
    """T + 1 float64 values from most noise to none: rising, above 0, the last exactly 1."""
    for n_steps in (1, 50):
        grid = linear_alpha_bars(n_steps)
        assert grid.shape == (n_steps + 1,), (
            f"{n_steps} steps have {n_steps + 1} levels, got {tuple(grid.shape)}"
        )
        assert grid.dtype == DOUBLE, f"the grid must be float64, got {grid.dtype}"
        assert grid[0] < grid[-1], (
            "the order is reversed: a grid runs as sampling does, from most noise to none"
        )
        assert grid[-1] == 1, f"the grid must end at ᾱ_0 = 1, got {float(grid[-1])}"
        assert bool((grid > 0).all() and (grid.diff() > 0).all()), "alpha_bars must be positive and rise"


@pytest.mark.grades("linear_alpha_bars")
def test_linear_by_hand():
    """Betas 0.1, 0.2, 0.3: ᾱ = 0.9, 0.9·0.8 = 0.72, 0.72·0.7 = 0.504."""
    grid = linear_alpha_bars(3, beta_start=0.1, beta_end=0.3)
    mistakes = {
        "these are single factors 1 - β, not their products": torch.tensor([0.7, 0.8, 0.9, 1.0]),
        "the betas are spaced between their roots": torch.cat(
            [(1 - torch.linspace(0.1**0.5, 0.3**0.5, 3, dtype=DOUBLE) ** 2).cumprod(0).flip(0), torch.ones(1)]
        ),
    }
    expected = torch.tensor([0.504, 0.72, 0.9, 1.0], dtype=DOUBLE)
    assert_close(grid, expected, what="linear ᾱ", mistakes=mistakes)


@pytest.mark.grades("linear_alpha_bars")
def test_linear_may_fall_or_stay():
    """Betas 0.3, 0.2, 0.1 and 0.5, 0.5 are evenly spaced too; with one step there is β_1 alone."""
    for betas, expected in (
        ((3, 0.3, 0.1), [0.504, 0.56, 0.7, 1.0]),
        ((2, 0.5, 0.5), [0.25, 0.5, 1.0]),
        ((1, 0.1, 0.3), [0.9, 1.0]),
    ):
        n_steps, start, end = betas
        got = linear_alpha_bars(n_steps, beta_start=start, beta_end=end)
        assert_close(got, torch.tensor(expected, dtype=DOUBLE), what=f"ᾱ for T, β_1, β_T = {betas}")


@pytest.mark.grades("linear_alpha_bars")
def test_linear_defaults():
    """DDPM's own numbers: β from 1e-4 to 0.02 over 1000 steps leave ᾱ_T = 4.04e-5."""
    grid = linear_alpha_bars()
    assert len(grid) == 1001, f"the default is 1000 steps, got {len(grid) - 1}"
    log_sum = math.fsum(math.log1p(-(1e-4 + (0.02 - 1e-4) * i / 999)) for i in range(1000))
    assert_close(grid[:1], torch.tensor([math.exp(log_sum)], dtype=DOUBLE), rtol=1e-10, what="ᾱ_T")
    assert_close(grid[-2:-1], torch.tensor([0.9999], dtype=DOUBLE), rtol=1e-14, what="ᾱ_1")


@pytest.mark.grades("karras_sigmas")
def test_karras_by_hand():
    """σ^(1/2) evenly spaced for rho = 2: 3, 2, 1 for sigmas 9, 4, 1, then 0."""
    grid = karras_sigmas(3, sigma_min=1.0, sigma_max=9.0, rho=2.0)
    mistakes = {
        "the order is reversed: a grid runs from most noise to none": torch.tensor([1.0, 4.0, 9.0, 0.0]),
        "the order is reversed: a grid runs from most noise to none (0 first)": torch.tensor(
            [0.0, 1.0, 4.0, 9.0]
        ),
        "rho is ignored": torch.tensor([9.0, 5.0, 1.0, 0.0]),
        "n levels are divided by n, not by n - 1 intervals": torch.tensor([9.0, 49 / 9, 25 / 9, 0.0]),
    }
    expected = torch.tensor([9.0, 4.0, 1.0, 0.0], dtype=DOUBLE)
    assert_close(grid, expected, rtol=1e-12, what="Karras grid", mistakes=mistakes)
    grid = karras_sigmas(2, sigma_min=1.0, sigma_max=9.0, rho=2.0, to_zero=False)
    assert_close(grid, expected[:-1], rtol=1e-12, what="Karras grid that stops at sigma_min")
    grid = karras_sigmas(3, sigma_min=1.0, sigma_max=7.0, rho=0.5)
    expected = torch.tensor([7.0, 5.0, 1.0, 0.0], dtype=DOUBLE)
    assert_close(grid, expected, rtol=1e-12, what="Karras grid, rho = 0.5: σ² is 49, 25, 1")


@pytest.mark.grades("karras_sigmas")
def test_karras_defaults():
    """EDM's numbers: 0.002 to 80, rho 7; the middle of 19 levels is the 7th power of the mean 7th root."""
    grid = karras_sigmas(19)
    assert grid.shape == (20,), f"19 steps have 20 levels, got {tuple(grid.shape)}"
    assert grid.dtype == DOUBLE, f"the grid must be float64, got {grid.dtype}"
    middle = ((80 ** (1 / 7) + 0.002 ** (1 / 7)) / 2) ** 7
    expected = torch.tensor([80.0, middle, 0.002, 0.0], dtype=DOUBLE)
    got = grid[torch.tensor([0, 9, 18, 19])]
    assert_close(got, expected, rtol=1e-10, atol=0.0, what="σ 0, 9, 18, 19")


@pytest.mark.grades("karras_sigmas")
def test_karras_one_step():
    """One step goes from sigma_max to 0, or to sigma_min."""
    for to_zero, end in ((True, 0.0), (False, 0.002)):
        grid = karras_sigmas(1, to_zero=to_zero)
        expected = torch.tensor([80.0, end], dtype=DOUBLE)
        assert_close(grid, expected, rtol=1e-10, atol=0.0, what=f"one step, to_zero={to_zero}")


@pytest.mark.parametrize(
    ("function", "arguments", "options"),
    [
        ("linear_alpha_bars", (0,), {}),
        ("linear_alpha_bars", (-1,), {}),
        ("linear_alpha_bars", (5,), {"beta_start": 1.0}),
        ("linear_alpha_bars", (5,), {"beta_start": 0.0}),
        ("linear_alpha_bars", (5,), {"beta_end": 1.0}),
        ("linear_alpha_bars", (5,), {"beta_end": 0.0}),
        ("karras_sigmas", (0,), {}),
        ("karras_sigmas", (-1,), {"to_zero": False}),
        ("karras_sigmas", (5,), {"sigma_min": 0.0}),
        ("karras_sigmas", (5,), {"sigma_min": 90.0}),
        ("karras_sigmas", (5,), {"sigma_min": 80.0}),
        ("karras_sigmas", (5,), {"sigma_min": -1.0}),
        ("karras_sigmas", (5,), {"rho": 0.0}),
        ("karras_sigmas", (5,), {"rho": -7.0}),
    ],
    ids=str,
)
def test_bad_schedules(function, arguments, options):
    """Arguments that give no grid are refused."""
    with expect_error(ValueError, otherwise=f"{function}{arguments} with {options} is accepted"):
        getattr(diffusion_sampling, function)(*arguments, **options)


# --- the forward process ----------------------------------------------------------------------------------------------


@pytest.mark.grades("add_noise")
def test_add_noise_by_hand():
    """x0 = 10, noise = 5: with σ = 0.3 it is 10 + 1.5, with ᾱ = 0.36 it is 0.6·10 + 0.8·5."""
    x0, noise = torch.tensor([[10.0], [-20.0]], dtype=DOUBLE), torch.tensor([[5.0], [2.0]], dtype=DOUBLE)
    with unchanged(x0, noise):
        edm = add_noise(x0, noise, sigma=0.3)
        vp = add_noise(x0, noise, alpha_bar=0.36)
    hint = "a level that is a float has float64's digits: torch.tensor(0.3) rounds it to float32"
    expected = torch.tensor([[11.5], [-19.4]], dtype=DOUBLE)
    shrunk = {
        "the signal does not shrink in x0 + σ·noise": x0 / math.sqrt(1.09) + noise * 0.3 / math.sqrt(1.09)
    }
    near = abs(edm - expected).max() < 1e-5
    assert_close(edm, expected, what="x0 + σ·noise", hint=hint if near else None, mistakes=shrunk)
    mistakes = {
        "ᾱ is used where its root belongs": torch.tensor([[0.36 * 10 + 0.64 * 5], [0.36 * -20 + 0.64 * 2]]),
        "signal and noise are swapped": torch.tensor([[0.8 * 10 + 0.6 * 5], [0.8 * -20 + 0.6 * 2]]),
        "the noise is not scaled": torch.tensor([[11.0], [-10.0]]),
    }
    expected = torch.tensor([[10.0], [-10.4]], dtype=DOUBLE)
    assert_close(vp, expected, what="sqrt(ᾱ)·x0 + sqrt(1 - ᾱ)·noise", mistakes=mistakes)


@pytest.mark.grades("add_noise")
@pytest.mark.parametrize("name", ["sigma", "alpha_bar"])
def test_add_noise_per_sample(name, generator):
    """One level per sample, (3,), belongs to the first axis; images are square, so the last axis would fit too."""
    x0, noise = (torch.randn(3, 3, 3, generator=generator) for _ in range(2))
    levels = torch.tensor([0.1, 0.5, 0.9], dtype=DOUBLE)

    def one(level, x, n):
        return x + level * n if name == "sigma" else level**0.5 * x + (1 - level) ** 0.5 * n

    expected = torch.stack([one(levels[i].item(), x0[i], noise[i]) for i in range(3)])
    mistakes = {"the levels run along the last axis": lambda: one(levels.float(), x0, noise)}
    for level in (levels, levels.float(), levels.reshape(3, 1, 1)):
        got = add_noise(x0, noise, **{name: level})
        what = f"{name} of shape {tuple(level.shape)} and {level.dtype}, float32 data"
        assert_close(got, expected, rtol=1e-6, what=what, mistakes=mistakes)
    got = add_noise(x0, noise, **{name: levels[1]})
    assert_close(got, one(0.5, x0, noise), rtol=1e-6, what=f"{name} of shape ()")
    got = add_noise(x0[:, 0, 0], noise[:, 0, 0], **{name: levels})
    assert_close(got, expected[:, 0, 0], rtol=1e-6, what=f"{name} per sample, data of one axis")


@pytest.mark.grades("add_noise")
def test_add_noise_near_one():
    """ᾱ = 1 - 1e-9: the noise has size 3.16e-5, of which float32's 1 - ᾱ = 0 leaves nothing."""
    x0, noise = torch.zeros(2, 1), torch.tensor([[1.0], [-2.0]])
    level = 1 - 1e-9
    expected = math.sqrt(1 - level) * noise
    for alpha_bar in (level, torch.tensor(level, dtype=DOUBLE), torch.tensor([level, level], dtype=DOUBLE)):
        got = add_noise(x0, noise, alpha_bar=alpha_bar)
        hint = "1 - ᾱ lost its digits: subtract before you round to float32"
        assert_close(got, expected, rtol=1e-6, what="noise at ᾱ = 1 - 1e-9", hint=hint)


@pytest.mark.grades("add_noise")
@pytest.mark.parametrize(
    ("name", "level", "what"), [("sigma", 0, "x0"), ("alpha_bar", 1, "x0"), ("alpha_bar", 0, "noise")]
)
def test_add_noise_ends(name, level, what, generator):
    """σ = 0 and ᾱ = 1 are no noise, ᾱ = 0 is nothing but noise: a level of 0 is given, not missing."""
    x0, noise = (torch.randn(2, 3, generator=generator) for _ in range(2))
    expected = x0 if what == "x0" else noise
    for value in (float(level), torch.tensor(float(level)), torch.full((2,), float(level))):
        got = add_noise(x0, noise, **{name: value})
        assert_close(got, expected, what=f"add_noise at {name} = {level}, which is the {what} itself")


@pytest.mark.grades("add_noise")
@pytest.mark.parametrize("options", [{}, {"sigma": 1.0, "alpha_bar": 0.5}], ids=["none", "both"])
def test_add_noise_needs_one_level(options):
    """Exactly one of sigma and alpha_bar says which state is meant."""
    with expect_error(ValueError, otherwise=f"add_noise with {options} is accepted"):
        add_noise(torch.ones(2, 3), torch.ones(2, 3), **options)


@pytest.mark.grades("add_noise")
@pytest.mark.parametrize("shape", [(1, 3), (2, 1), (3,)], ids=str)
def test_add_noise_shapes(shape):
    """Noise of another shape would be shared between samples."""
    with expect_error(ValueError, otherwise=f"noise of shape {shape} is broadcast over (2, 3)"):
        add_noise(torch.ones(2, 3), torch.ones(shape), sigma=1.0)


# --- predictions ------------------------------------------------------------------------------------------------------

# x0 = 2, ε = 5, σ = 0.75 (ᾱ = 0.64): x = 5.75, v = 0.8·5 - 0.6·2 = 2.8, score = -5/0.75
PREDICTIONS = {"x0": 2.0, "epsilon": 5.0, "v": 2.8, "score": -5 / 0.75}


@pytest.mark.grades("to_x0")
@pytest.mark.parametrize("kind", PREDICTIONS)
def test_to_x0_by_hand(kind):
    """All four predictions of x = 2 + 0.75·5 imply x0 = 2."""
    x, p = torch.tensor([[5.75], [-5.75]], dtype=DOUBLE), PREDICTIONS[kind]
    flip = torch.tensor([[1.0], [-1.0]], dtype=DOUBLE)
    prediction = p * flip
    with unchanged(prediction, x):
        got = to_x0(prediction, x, 0.75, kind=kind)
    mistakes = {
        "v is not turned back with the sign of its definition": (5.75 * 0.64 + 0.6 * p) * flip,
        "x is x0 + σ·n here, not sqrt(ᾱ)·x0 + ...: v needs x·ᾱ": (5.75 * 0.8 - 0.6 * p) * flip,
        "the score is multiplied by σ, not σ²": (5.75 + 0.75 * p) * flip,
        "the noise is not multiplied by σ": (5.75 - p) * flip,
        "the noise has the wrong sign": (5.75 + 0.75 * p) * flip,
    }
    mistakes = {name: value for name, value in mistakes.items() if abs(float(value[0, 0]) - 2) > 1e-6}
    assert_close(got, 2 * flip, what=f"x0 from {kind}", mistakes=mistakes)


@pytest.mark.grades("to_x0")
@pytest.mark.parametrize("kind", PREDICTIONS)
def test_to_x0_per_sample(kind, generator):
    """With one σ per sample, and square data: each sample as if it were alone; float32 stays float32."""
    x0, noise = (torch.randn(3, 3, 3, dtype=DOUBLE, generator=generator) for _ in range(2))
    sigma = torch.tensor([0.1, 2.0, 30.0], dtype=DOUBLE)
    s = sigma.reshape(3, 1, 1)
    x, root = x0 + s * noise, (1 + s**2).sqrt()
    predictions = {"x0": x0, "epsilon": noise, "v": (noise - s * x0) / root, "score": -noise / s}
    for level in (sigma, s):
        got = to_x0(predictions[kind], x, level, kind=kind)
        assert_close(got, x0, rtol=1e-12, what=f"x0 from {kind}, sigma of shape {tuple(level.shape)}")
    # rounding x, near 100, to float32 costs it 4e-6, and so it does x0
    got = to_x0(predictions[kind].float(), x.float(), sigma, kind=kind)
    assert_close(got, x0.float(), rtol=0.0, atol=5e-5, what=f"x0 from {kind}, float32")


@pytest.mark.grades("to_x0")
@pytest.mark.parametrize("kind", PREDICTIONS)
def test_to_x0_at_a_float(kind):
    """σ = 0.3 is no float32: x0 comes back with float64's digits."""
    x0, noise = torch.tensor([[2.0], [-1.0]], dtype=DOUBLE), torch.tensor([[5.0], [3.0]], dtype=DOUBLE)
    root = math.sqrt(1.09)
    predictions = {"x0": x0, "epsilon": noise, "v": (noise - 0.3 * x0) / root, "score": -noise / 0.3}
    got = to_x0(predictions[kind], x0 + 0.3 * noise, 0.3, kind=kind)
    hint = "a level that is a float has float64's digits: torch.tensor(0.3) rounds it to float32"
    assert_close(got, x0, rtol=1e-14, what=f"x0 from {kind} at σ = 0.3", hint=hint)


@pytest.mark.grades("to_x0")
@pytest.mark.parametrize("kind", ["eps", "V", ""])
def test_unknown_prediction(kind):
    """Another kind is refused."""
    with expect_error(ValueError, otherwise=f"kind={kind!r} is accepted"):
        to_x0(torch.ones(2, 1), torch.ones(2, 1), 1.0, kind=kind)
