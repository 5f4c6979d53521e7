"""What the core promises beyond the plain loop: how much is drawn, what is called, σ as a tensor."""

import math

import pytest
import torch
from oracles import DOUBLE, Recorder, constant_denoiser, gaussian_denoiser, seeded

import diffusion_sampling
from diffusion_sampling import guided
from shared.testing.checks import assert_close, expect_error

STANDARD = gaussian_denoiser(0.0, 1.0)
SIGMAS = torch.tensor([5.0, 2.0, 0.7, 0.3, 0.0], dtype=DOUBLE)
ALPHA_BARS = torch.tensor([0.05, 0.3, 0.6, 0.9, 1.0], dtype=DOUBLE)


def run(function, denoiser, x, grid, **options):
    return list(getattr(diffusion_sampling, function)(denoiser, x, grid, **options))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("function", "options", "draws"), [("ddpm", {}, 3), ("ddim", {"eta": 1.0}, 3), ("ddim", {"eta": 0.0}, 0)]
)
def test_draws(function, options, draws, dtype):
    """One torch.randn of x's shape and dtype in each step that adds noise: not in the last one, and not for η = 0."""
    generator, twin = seeded(), seeded()
    run(function, STANDARD, torch.ones(4, 8, dtype=dtype), ALPHA_BARS, generator=generator, **options)
    for _ in range(draws):
        torch.randn(4, 8, generator=twin, dtype=dtype)
    assert torch.equal(generator.get_state(), twin.get_state()), (
        f"4 steps must draw one (batch, ...) noise {draws} times: noise is drawn although none is used, or in another shape or dtype"
    )


@pytest.mark.grades("ddim", "ddpm")
def test_ddim_with_eta_1_is_ddpm(generator):
    """η = 1 gives the posterior of DDPM, so the same seed gives the same walk."""
    denoiser = gaussian_denoiser([0.5, -1.0], [0.3, 2.0])
    x = torch.randn(4, 2, dtype=DOUBLE, generator=generator)
    ddim = run("ddim", denoiser, x, ALPHA_BARS, eta=1.0, generator=seeded())
    ddpm = run("ddpm", denoiser, x, ALPHA_BARS, generator=seeded())
    for got, expected in zip(ddim, ddpm, strict=True):
        assert_close(got, expected, rtol=1e-10, what="DDIM with eta = 1, against DDPM")


@pytest.mark.parametrize("function", ["euler", "heun", "ddim", "ddpm"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_sigma_is_a_tensor(function, dtype):
    """The denoiser gets σ as a tensor of shape () in the dtype of x."""
    kinds = set()

    def denoiser(x, sigma):
        kinds.add((type(sigma), getattr(sigma, "shape", None), getattr(sigma, "dtype", None)))
        return STANDARD(x, sigma)

    grid = SIGMAS if function in ("euler", "heun") else ALPHA_BARS
    run(function, denoiser, torch.ones(2, 3, dtype=dtype), grid)
    assert kinds == {(torch.Tensor, (), dtype)}, f"sigma comes as {kinds}, x is {dtype}"


@pytest.mark.grades("guided")
@pytest.mark.parametrize(("w", "which"), [(0.0, 1), (1.0, 0), (0, 1), (1, 0)])
def test_guided_calls_what_it_needs(w, which, generator):
    """w = 0 and w = 1 give exactly the two denoisers, and do not call the other one."""
    models = gaussian_denoiser(3.0, 0.5), gaussian_denoiser(0.0, 2.0)
    recorders = [Recorder(model) for model in models]
    x = 100 * torch.randn(50, 3, generator=generator)
    got = guided(*recorders, w)(x, torch.tensor(0.7))
    assert not recorders[1 - which].sigmas, f"w = {w} calls the model whose answer it does not need"
    assert torch.equal(got, models[which](x, torch.tensor(0.7))), (
        "the answer is not the model's to the last bit"
    )


@pytest.mark.grades("ddim")
def test_eta_nan():
    """NaN is in no range."""
    with expect_error(ValueError, otherwise="eta = nan is accepted"):
        run("ddim", STANDARD, torch.ones(2, 3), ALPHA_BARS, eta=math.nan)


@pytest.mark.grades("ddim")
def test_ddim_eta_1_in_the_smallest_steps():
    """1 - ᾱ_s - s² is 0 for η = 1 where rounding may make it negative: no error, and no NaN."""
    tiny = torch.finfo(DOUBLE).eps / 2
    for gap in (1, 2, 3, 5, 7):
        grid = torch.tensor([1 - 4096 * gap * tiny, 1 - gap * tiny, 1.0], dtype=DOUBLE)
        x = torch.tensor([[1.0], [-1.0]], dtype=DOUBLE)
        for state in run("ddim", constant_denoiser(0.5), x, grid, eta=1.0, generator=seeded()):
            assert bool(torch.isfinite(state).all()), f"the state is {state.flatten().tolist()}"
