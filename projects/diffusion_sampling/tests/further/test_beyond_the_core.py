"""What the core promises beyond the plain loop: how much is drawn, what is called and may write, σ as a tensor, half precision."""

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


# --- levels, grids and predictions ------------------------------------------------------------------------------------


@pytest.mark.grades("to_x0")
@pytest.mark.parametrize("kind", ["x0", "epsilon", "v", "score"])
def test_to_x0_in_half_precision(kind):
    """σ = 300: σ² is beyond float16, but x0 is not; whatever shape the level has, and for a level that is float16 itself."""
    x = torch.tensor([[300.0], [-450.0]], dtype=torch.float16)
    prediction = {
        "x0": [[1.5], [-2.0]],
        "epsilon": [[0.9], [-1.4]],
        "v": [[-1.0], [0.5]],
        "score": [[-0.0038], [0.004]],
    }[kind]
    prediction = torch.tensor(prediction, dtype=torch.float16)
    wide, p = x.double(), prediction.double()
    expected = {
        "x0": p,
        "epsilon": wide - 300 * p,
        "v": wide / 90001 - 300 / math.sqrt(90001) * p,
        "score": wide + 90000 * p,
    }[kind]
    levels = (
        300.0,
        torch.tensor(300.0),
        torch.full((2,), 300.0),
        torch.full((2, 1), 300.0, dtype=torch.float16),
    )
    for level in levels:
        got = diffusion_sampling.to_x0(prediction, x, level, kind=kind)
        hint = "σ² = 90 000 does not fit into float16, which ends at 65 504: multiply by σ twice"
        # σ·prediction is near 300 there: half a spacing of 0.25 for each rounding
        atol = {"score": 0.5, "epsilon": 0.25}.get(kind, 2e-3)
        assert_close(got, expected.half(), rtol=0.0, atol=atol, what=f"x0 from {kind}, float16", hint=hint)


@pytest.mark.grades("add_noise", "to_x0")
@pytest.mark.parametrize("shape", [(1, 3), (3, 3), (3, 3, 3), (1, 1, 3), (2,), (4,), (3, 2)], ids=str)
@pytest.mark.parametrize("function", ["add_noise", "to_x0"])
def test_level_of_another_shape(function, shape):
    """One level, or one per sample: (1, 3) and the like would run along another axis of square data without a word."""
    x, level = torch.ones(3, 3, 3), torch.full(shape, 0.5)
    with expect_error(ValueError, otherwise=f"a level of shape {shape} is accepted for a batch of 3"):
        if function == "add_noise":
            diffusion_sampling.add_noise(x, x, sigma=level)
        else:
            diffusion_sampling.to_x0(x, x, level, kind="epsilon")


@pytest.mark.grades("add_noise", "to_x0")
def test_level_as_a_column(generator):
    """(batch, 1) is one level per sample for images as well, square ones too: its axes are not those of the image."""
    x, noise = (torch.randn(4, 1, 4, 4, generator=generator) for _ in range(2))
    level = torch.tensor([0.1, 0.5, 2.0, 9.0])
    got = diffusion_sampling.add_noise(x, noise, sigma=level[:, None])
    mistakes = {"the levels run along another axis": x + level[:, None] * noise}
    expected = x + level.reshape(4, 1, 1, 1) * noise
    assert_close(got, expected, what="add_noise with sigma of shape (4, 1)", mistakes=mistakes)
    got = diffusion_sampling.to_x0(noise, x, level[:, None], kind="epsilon")
    expected = x - level.reshape(4, 1, 1, 1) * noise
    assert_close(got, expected, what="to_x0 with sigma of shape (4, 1)")


@pytest.mark.grades("add_noise", "to_x0")
def test_integers_have_no_noise():
    """Pixels of integers would round the level, σ = 0.3 to nothing."""
    pixels = torch.tensor([[10], [20]])
    with expect_error(ValueError, otherwise="integer data are accepted: sigma = 0.3 becomes 0"):
        diffusion_sampling.add_noise(pixels, pixels, sigma=0.3)
    with expect_error(ValueError, otherwise="integer data are accepted: sigma = 0.3 becomes 0"):
        diffusion_sampling.to_x0(pixels, pixels, 0.3, kind="epsilon")


@pytest.mark.grades("to_x0")
@pytest.mark.parametrize("shape", [(1, 3), (2, 1), (3,), (2, 2, 3)], ids=str)
@pytest.mark.parametrize("kind", ["x0", "v"])
def test_prediction_of_another_shape(kind, shape):
    """As noise of another shape in add_noise: a prediction would be shared between samples."""
    with expect_error(ValueError, otherwise=f"a prediction of shape {shape} is accepted for x of (2, 3)"):
        diffusion_sampling.to_x0(torch.ones(shape), torch.ones(2, 3), 1.0, kind=kind)


@pytest.mark.grades("to_x0")
@pytest.mark.parametrize("kind", ["x0", "epsilon", "v", "score"])
def test_x0_has_the_dtype_of_x(kind):
    """A network in bfloat16 answers a state of float32: x0 is float32."""
    x, prediction = torch.tensor([[3.0], [-1.0]]), torch.tensor([[0.5], [0.25]], dtype=torch.bfloat16)
    got = diffusion_sampling.to_x0(prediction, x, 2.0, kind=kind)
    assert got.dtype == torch.float32, f"x0 from {kind} is {got.dtype}, x is float32"


@pytest.mark.grades("karras_sigmas")
@pytest.mark.parametrize("options", [{"rho": math.inf}, {"sigma_max": math.inf}, {"rho": math.nan}], ids=str)
def test_infinite_grids(options):
    """ρ = ∞ would be n levels of 1, σ_max = ∞ levels of NaN."""
    with expect_error(ValueError, otherwise=f"karras_sigmas with {options} is accepted"):
        diffusion_sampling.karras_sigmas(5, **options)


@pytest.mark.grades("sample")
def test_sample_refuses_infinite_noise():
    """From σ = ∞ every state is NaN."""
    with expect_error(ValueError, otherwise="a grid that starts at infinity is accepted"):
        diffusion_sampling.sample(
            lambda D, x, grid: iter([x]), STANDARD, torch.ones(2, 3), torch.tensor([math.inf, 1.0, 0.0])
        )


# --- denoisers that are not pure --------------------------------------------------------------------------------------


def overwriting(denoiser):
    """The same denoiser, which uses its arguments as its workspace: as a network that begins with ReLU(inplace=True)."""

    def in_place(x, sigma):
        answer = denoiser(x, sigma).clone()
        x.fill_(1e6)
        sigma.fill_(-1.0)
        return answer

    return in_place


@pytest.mark.parametrize(
    ("function", "options"), [("euler", {}), ("heun", {}), ("ddim", {}), ("ddim", {"eta": 0.5}), ("ddpm", {})]
)
def test_denoiser_may_write_into_its_arguments(function, options, generator):
    """What the denoiser gets is its own: writing into it changes neither the walk nor the caller's x."""
    x = torch.randn(4, 3, dtype=DOUBLE, generator=generator)
    grid = SIGMAS if function in ("euler", "heun") else ALPHA_BARS
    random = function == "ddpm" or options

    def states(denoiser):
        return run(function, denoiser, x, grid, **options, **({"generator": seeded()} if random else {}))

    expected, before = states(STANDARD), x.clone()
    got = states(overwriting(STANDARD))
    hint = "the denoiser wrote into the state of the loop: hand it a copy"
    assert torch.equal(x, before), f"{hint} (the caller's x was modified, too)"
    for step, (state, other) in enumerate(zip(got, expected, strict=True)):
        assert_close(state, other, rtol=1e-12, what=f"state after step {step}", hint=hint)


@pytest.mark.grades("guided")
@pytest.mark.parametrize("w", [3.0, -0.5])
def test_guided_models_may_write(w, generator):
    """The second model gets x and σ as they were, whatever the first has written."""
    x = torch.randn(4, 3, dtype=DOUBLE, generator=generator)
    models = [gaussian_denoiser(3.0, 0.5), gaussian_denoiser(0.0, 2.0)]
    sigma = torch.tensor(0.7, dtype=DOUBLE)

    def in_place(model):
        def answer(x, sigma):
            result = x.copy_(model(x, sigma))
            sigma.fill_(99.0)
            return result

        return answer

    expected = guided(*models, w)(x.clone(), sigma)
    got = guided(*map(in_place, models), w)(x.clone(), sigma.clone())
    hint = "one model wrote into the x or σ that the other one is asked at: hand it a copy"
    assert_close(got, expected, rtol=1e-12, what="guided answer of models that write into both", hint=hint)
