"""Parity with diffusers, driven by the same denoiser and the same noise. Its import takes seconds, so it has a file of its own.

Traps: clip_sample=True by default; timesteps counted from 0; EDM's initial sigma is sqrt(sigma_max² + 1) there; its DDIM
keeps the network's own ε after clipping x0 unless use_clipped_model_output=True.
"""

import math
import warnings

import pytest
import torch

import diffusion_sampling
import guidance
import preconditioning
import schedules
from multistep import dpm_solver_2m
from shared.testing.checks import assert_close


@pytest.fixture(scope="module")
def diffusers():
    """The library; its own import warnings are not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import diffusers

        return diffusers


def dummy(x, sigma):
    """A smooth denoiser that is no Gaussian's: bounded, and different in every coordinate."""
    shift = torch.linspace(-1, 1, x.shape[-1], dtype=x.dtype)
    return 0.8 * torch.tanh(x / (1 + sigma**2) + shift) + 0.1 * torch.sin(3 * x / (1 + sigma))


def noise(seed=0):
    return torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(seed))


def generator():
    return torch.Generator().manual_seed(7)


def close(got, expected, atol, what):
    assert_close(got, expected, rtol=0.0, atol=atol, what=what)


@pytest.mark.grades("ddim")
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_ddim(diffusers, eta):
    """50 of 1000 steps, linear schedule; "leading" timesteps 980, 960, ..., 0 count from 0."""
    scheduler = diffusers.DDIMScheduler(
        beta_start=1e-4, beta_end=0.02, clip_sample=False, set_alpha_to_one=True, prediction_type="sample"
    )
    scheduler.set_timesteps(50)
    x, draws = noise(), generator()
    for t in scheduler.timesteps:
        a = scheduler.alphas_cumprod[t]
        x0 = dummy(x / a.sqrt(), ((1 - a) / a).sqrt())
        x = scheduler.step(x0, t, x, eta=eta, generator=draws).prev_sample
    grid = torch.cat(
        [scheduler.alphas_cumprod[scheduler.timesteps].double(), torch.ones(1, dtype=torch.float64)]
    )
    *_, last = diffusion_sampling.ddim(dummy, noise(), grid, eta=eta, generator=generator())
    close(last, x, 1e-5, f"DDIM, eta = {eta}")


@pytest.mark.grades("clip_x0", "ddim")
def test_ddim_clipped(diffusers):
    """Clipping as the denoiser's business equals their clip_sample with ε recomputed."""
    scheduler = diffusers.DDIMScheduler(
        beta_start=1e-4, beta_end=0.02, clip_sample=True, clip_sample_range=0.5, prediction_type="sample"
    )
    scheduler.set_timesteps(20)
    x = noise()
    for t in scheduler.timesteps:
        a = scheduler.alphas_cumprod[t]
        x0 = dummy(x / a.sqrt(), ((1 - a) / a).sqrt())
        x = scheduler.step(x0, t, x, use_clipped_model_output=True).prev_sample
    grid = torch.cat(
        [scheduler.alphas_cumprod[scheduler.timesteps].double(), torch.ones(1, dtype=torch.float64)]
    )
    *_, last = diffusion_sampling.ddim(guidance.clip_x0(dummy, -0.5, 0.5), noise(), grid)
    close(last, x, 1e-5, "DDIM with clipped x0")


@pytest.mark.grades("ddpm")
@pytest.mark.parametrize(("n_steps", "atol"), [(50, 1e-5), (1000, 1e-3)])
def test_ddpm(diffusers, n_steps, atol):
    """Few and all of 1000 steps; both draw one (batch, ...) noise in every step but the last."""
    scheduler = diffusers.DDPMScheduler(
        beta_start=1e-4, beta_end=0.02, clip_sample=False, prediction_type="sample"
    )
    scheduler.set_timesteps(n_steps)
    x, draws = noise(), generator()
    for t in scheduler.timesteps:
        a = scheduler.alphas_cumprod[t]
        x = scheduler.step(dummy(x / a.sqrt(), ((1 - a) / a).sqrt()), t, x, generator=draws).prev_sample
    grid = torch.cat(
        [scheduler.alphas_cumprod[scheduler.timesteps].double(), torch.ones(1, dtype=torch.float64)]
    )
    *_, last = diffusion_sampling.ddpm(dummy, noise(), grid, generator=generator())
    close(last, x, atol, f"DDPM, {n_steps} steps")


@pytest.mark.grades("euler", "karras_sigmas")
def test_edm_euler(diffusers):
    """Karras grid and Euler; the x0 is handed over directly."""
    scheduler = diffusers.EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0, sigma_data=0.5)
    scheduler.set_timesteps(18)
    assert math.isclose(float(scheduler.init_noise_sigma), math.sqrt(80.0**2 + 1)), (
        "diffusers changed its initial sigma"
    )
    x = noise() * 80.0
    for i, t in enumerate(scheduler.timesteps):
        scheduler.scale_model_input(x, t)
        x0 = dummy(x, scheduler.sigmas[i])
        x = scheduler.step(x0, t, x, pred_original_sample=x0).prev_sample
    grid = diffusion_sampling.karras_sigmas(18)
    assert_close(grid.float(), scheduler.sigmas, rtol=1e-5, what="Karras grid")
    *_, last = diffusion_sampling.euler(dummy, noise() * 80.0, scheduler.sigmas.double())
    close(last, x, 1e-5, "EDM Euler")


@pytest.mark.grades("heun")
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # inside diffusers
@pytest.mark.parametrize("karras", [True, False])
def test_heun(diffusers, karras):
    """Heun on a discrete schedule's sigmas, in its own and in Karras spacing: 12 steps, 23 calls on both sides.

    The states are float64. The first is near 500 here (σ = 157), where the spacing of float32 numbers is 3e-5: there
    1e-5 would be a demand on the order of the operations. In float64 it is one on the algorithm alone, after every
    step; what is left (2e-6) is their rounding of σ and of its differences to float32.
    """
    scheduler = diffusers.HeunDiscreteScheduler(
        beta_start=1e-4, beta_end=0.02, use_karras_sigmas=karras, prediction_type="sample", clip_sample=False
    )
    scheduler.set_timesteps(12)
    sigmas = torch.cat([scheduler.sigmas[:1], scheduler.sigmas[1:-1:2], scheduler.sigmas[-1:]]).double()
    x = start = noise().double() * sigmas[0]
    states = []
    for i, t in enumerate(scheduler.timesteps):
        # a call of the first order stands at level i/2, its correction at the level that follows
        x = scheduler.step(dummy(x, sigmas[(i + 1) // 2]), t, x).prev_sample
        if i % 2 == 1 or i == len(scheduler.timesteps) - 1:
            states.append(x)
    for step, (got, expected) in enumerate(
        zip(diffusion_sampling.heun(dummy, start, sigmas), states, strict=True)
    ):
        close(got, expected, 1e-5, f"Heun, state after step {step}")


@pytest.mark.grades("dpm_solver_2m")
@pytest.mark.parametrize("n_steps", [5, 20])
def test_dpm_solver(diffusers, n_steps):
    """DPM-Solver++(2M) on the Karras grid, by their EDM scheduler: its network output is turned back from x0."""
    scheduler = diffusers.EDMDPMSolverMultistepScheduler(
        sigma_min=0.002,
        sigma_max=80.0,
        sigma_data=0.5,
        solver_order=2,
        algorithm_type="dpmsolver++",
        solver_type="midpoint",
        final_sigmas_type="zero",
    )
    scheduler.set_timesteps(n_steps)
    x = noise() * 80.0
    scheduler.convert_model_output = lambda model_output, sample=None: model_output  # hand over x0 itself
    for i, t in enumerate(scheduler.timesteps):
        scheduler.scale_model_input(x, t)
        x = scheduler.step(dummy(x, scheduler.sigmas[i]), t, x).prev_sample
    *_, last = dpm_solver_2m(dummy, noise() * 80.0, scheduler.sigmas.double())
    close(last, x, 1e-5, f"DPM-Solver++(2M), {n_steps} steps")


@pytest.mark.grades("linear_alpha_bars", "cosine_alpha_bars")
@pytest.mark.parametrize(
    ("function", "name"), [("linear_alpha_bars", "linear"), ("cosine_alpha_bars", "squaredcos_cap_v2")]
)
def test_schedules(diffusers, function, name):
    """ᾱ_1, ..., ᾱ_T of both schedules."""
    expected = diffusers.DDPMScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule=name).alphas_cumprod
    got = getattr(diffusion_sampling if name == "linear" else schedules, function)(1000)[:-1].flip(0).float()
    assert_close(got, expected, rtol=3e-4, what=f"{name} ᾱ_1..ᾱ_T")
    hint = "off by one: shift the schedule by a step"
    assert_close(got[:5], expected[:5], rtol=1e-6, atol=0.0, what="ᾱ_1..ᾱ_5", hint=hint)


@pytest.mark.grades("edm_preconditioning")
def test_preconditioning(diffusers):
    """D from the same network output, by their EDM scheduler."""
    scheduler = diffusers.EDMEulerScheduler(sigma_data=0.7)
    x, output, sigma = noise(), noise(1), torch.tensor(1.3)
    c = preconditioning.edm_preconditioning(sigma, sigma_data=0.7)
    assert_close(c.c_skip * x + c.c_out * output, scheduler.precondition_outputs(x, output, sigma), what="D")
    assert_close(c.c_in * x, scheduler.precondition_inputs(x, sigma), what="c_in·x")


@pytest.mark.grades("sigma_to_t")
def test_timesteps(diffusers):
    """Fractional timesteps as their Euler scheduler interpolates them, which counts from 0."""
    import numpy as np

    scheduler = diffusers.EulerDiscreteScheduler(beta_start=1e-4, beta_end=0.02)
    table = (((1 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod) ** 0.5).numpy()
    sigmas = np.array([0.02, 0.5, 3.0, 100.0])
    expected = scheduler._sigma_to_t(sigmas, np.log(table))
    got = schedules.sigma_to_t(torch.from_numpy(sigmas), diffusion_sampling.linear_alpha_bars()) - 1
    assert_close(got, torch.from_numpy(np.asarray(expected, dtype=np.float64)), rtol=1e-4, what="t - 1")
