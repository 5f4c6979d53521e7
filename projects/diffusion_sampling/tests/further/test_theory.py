"""Samplers against theory: orders of convergence, exact moments, a mixture recovered, what guidance does not do.

Every denoiser here is exact, so an error is the sampler's. Oracles: the solved ODE, joint Gaussians, real draws.
"""

import math

import pytest
import torch
from oracles import (
    DOUBLE,
    gaussian_denoiser,
    gaussian_flow,
    mixture_denoiser,
    noisy_mixture,
    posterior,
    seeded,
    sliced_wasserstein,
    slope,
)

import diffusion_sampling
from churn import churned
from multistep import dpm_solver_2m
from shared.testing.checks import assert_close


def last(function, denoiser, x, grid, **options):
    sampler = {"dpm_solver_2m": dpm_solver_2m, "churned": churned}.get(function)
    for state in (sampler or getattr(diffusion_sampling, function))(denoiser, x, grid, **options):
        x = state
    return x


def karras(n_steps, sigma_min, sigma_max, rho=7.0, to_zero=False):
    n = n_steps if to_zero else n_steps + 1
    ramp = torch.linspace(0, 1, n, dtype=DOUBLE)
    grid = (sigma_max ** (1 / rho) + ramp * (sigma_min ** (1 / rho) - sigma_max ** (1 / rho))) ** rho
    return torch.cat([grid, torch.zeros(1, dtype=DOUBLE)]) if to_zero else grid


# --- orders of convergence --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "low", "high"), [("euler", 0.9, 1.1), ("heun", 1.9, 2.2), ("dpm_solver_2m", 1.8, 2.3)]
)
def test_order_of_convergence(function, low, high):
    """Error at sigma_min > 0 against the exact solution of the ODE, over 32 to 256 steps: first or second order."""
    mean, variance = torch.tensor([0.5, -1.0]), torch.tensor([0.25, 2.0])
    x = 10 * torch.randn(50, 2, dtype=DOUBLE, generator=seeded())
    steps, errors = [32, 64, 128, 256], []
    exact = gaussian_flow(x, mean, variance, 10.0, 0.02)
    for n in steps:
        got = last(function, gaussian_denoiser(mean, variance), x, karras(n, 0.02, 10.0))
        errors.append(float((got - exact).square().mean().sqrt()))
    order = slope(steps, errors)
    assert low <= order <= high, (
        f"{function} converges with order {order:.2f}, expected {low} to {high}: errors {[f'{e:.2e}' for e in errors]}"
    )


@pytest.mark.grades("heun")
def test_last_step_hides_the_order():
    """With a last step to 0, Heun's error no longer falls as 1/n²: that step is Euler's, and its length stays."""
    x = 10 * torch.randn(50, 1, dtype=DOUBLE, generator=seeded())
    steps, errors = [32, 64, 128, 256], []
    for n in steps:
        got = last("heun", gaussian_denoiser(0.5, 0.25), x, karras(n, 0.02, 10.0, to_zero=True))
        errors.append(float((got - gaussian_flow(x, 0.5, 0.25, 10.0, 0.0)).square().mean().sqrt()))
    assert slope(steps[-2:], errors[-2:]) < 1.0, f"errors {errors}: expected a floor from the last step"
    assert errors[-1] < 0.01, f"error {errors[-1]} with 256 steps"


@pytest.mark.grades("ddim")
def test_ddim_is_invertible():
    """Noise → data by DDIM, data → noise by the same slopes backwards: the round trip errs as 1/n (first order)."""
    denoiser = gaussian_denoiser([0.5, -1.0], [0.25, 2.0])
    x = torch.randn(40, 2, dtype=DOUBLE, generator=seeded())
    steps, errors = [50, 100, 200, 400], []
    for n in steps:
        # equal steps in the angle of signal and noise; from 1e-3 of noise on, so that the way back has a start
        angle = torch.linspace(1.5, 1e-3, n + 1, dtype=DOUBLE)
        a = angle.cos() ** 2
        states = list(diffusion_sampling.ddim(denoiser, x, torch.cat([a, torch.ones(1, dtype=DOUBLE)])))
        y = states[-2]  # at a[-1], the last level with noise
        for a_s, a_t in zip(a.flip(0)[:-1], a.flip(0)[1:], strict=True):
            x0 = denoiser(y / a_s.sqrt(), ((1 - a_s) / a_s).sqrt())
            y = a_t.sqrt() * x0 + (1 - a_t).sqrt() * (y - a_s.sqrt() * x0) / (1 - a_s).sqrt()
        errors.append(float((y - x).square().mean().sqrt()))
    order = slope(steps, errors)
    assert 0.85 < order < 1.15, f"the round trip errs with order {order:.2f}, expected 1: {errors}"


# --- moments ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("function", "eta"), [("ddim", 0.0), ("ddim", 0.5), ("ddim", 1.0), ("ddpm", 1.0)])
@pytest.mark.parametrize("n", [1, 2, 5, 20])
def test_moments(function, eta, n):
    """Gaussian data: each step is affine, so mean and variance follow exactly, for few steps as for many; to 1 %."""
    mean, variance = 1.5, 0.3
    a = torch.cat(
        [
            torch.linspace(0.01, 0.995, n, dtype=DOUBLE) if n > 1 else torch.tensor([0.01], dtype=DOUBLE),
            torch.ones(1),
        ]
    )
    m, v = 0.0, 1.0
    for a_t, a_s in zip(a[:-1].tolist(), a[1:].tolist(), strict=True):
        noise = eta**2 * posterior(a_t, a_s)[2]
        # x_s = of_x0·x0 + of_xt·x_t + noise keeps the marginal N(sqrt(ᾱ_s)·x0, 1 - ᾱ_s) for any share of fresh noise
        of_xt = math.sqrt(max(1 - a_s - noise, 0.0) / (1 - a_t))
        of_x0 = math.sqrt(a_s) - of_xt * math.sqrt(a_t)
        gain = variance * math.sqrt(a_t) / (a_t * variance + 1 - a_t)  # of E[x0 | x_t], by regression
        m, v = (
            of_x0 * (mean + gain * (m - math.sqrt(a_t) * mean)) + of_xt * m,
            (of_x0 * gain + of_xt) ** 2 * v + noise,
        )
    x = torch.randn(400_000, 1, dtype=DOUBLE, generator=seeded(1))
    options = {} if function == "ddpm" else {"eta": eta}
    got = last(function, gaussian_denoiser(mean, variance), x, a, generator=seeded(2), **options)
    assert abs(float(got.mean()) / m - 1) < 0.01, (
        f"mean {float(got.mean()):.4f} after {n} steps, expected {m:.4f}"
    )
    tolerance = 0.01 * v if v > 1e-3 else 1e-4
    assert abs(float(got.var()) - v) < tolerance, (
        f"variance {float(got.var()):.4f} after {n} steps, expected {v:.4f}"
    )


# --- a mixture --------------------------------------------------------------------------------------------------------

WEIGHTS = torch.tensor([0.5, 0.2, 0.3], dtype=DOUBLE)
MEANS = torch.tensor([[-3.0, 0.0], [1.0, 3.0], [2.5, -2.0]], dtype=DOUBLE)
COVARIANCES = torch.tensor(
    [[[0.3, 0.15], [0.15, 0.2]], [[0.2, 0.0], [0.0, 0.4]], [[0.4, -0.2], [-0.2, 0.3]]], dtype=DOUBLE
)


def real(n, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return noisy_mixture(WEIGHTS, MEANS, COVARIANCES, 0.0).sample((n,))


@pytest.mark.grades("heun")
def test_mixture_is_recovered():
    """18 steps of Heun on the Karras grid: weights to 0.02, covariance to 0.05, sliced Wasserstein within 3 floors."""
    n = 8_000
    x = 80 * torch.randn(n, 2, dtype=DOUBLE, generator=seeded())
    got = last(
        "heun", mixture_denoiser(WEIGHTS, MEANS, COVARIANCES), x, karras(18, 0.002, 80.0, to_zero=True)
    )
    source = torch.cdist(got, MEANS).argmin(1)
    shares = source.bincount(minlength=3) / n
    assert float((shares - WEIGHTS).abs().max()) < 0.02, (
        f"weights {shares.tolist()}, expected {WEIGHTS.tolist()}"
    )
    for k in range(3):
        off = float((torch.cov(got[source == k].T) - COVARIANCES[k]).abs().max())
        assert off < 0.05, f"the covariance of component {k} is off by {off:.3f}"
    first, second = real(n, 1), real(n, 2)
    floor = sliced_wasserstein(first, second, generator=seeded(3))
    distance = sliced_wasserstein(got, first, generator=seeded(3))
    assert distance < 3 * floor, (
        f"sliced Wasserstein distance {distance:.4f}, between two real sets {floor:.4f}"
    )


def churned_variance(levels, gammas, variance, order):
    """Variance at the end for N(mean, variance) data: each step multiplies x - mean by a number, then noise adds."""
    v = levels[0] ** 2
    for sigma, sigma_next, gamma in zip(levels, levels[1:], gammas, strict=False):
        raised = sigma * (1 + gamma)
        v += raised**2 - sigma**2
        slope_here = raised / (variance + raised**2)  # (x - D)/σ is this number times x - mean
        factor = 1 + (sigma_next - raised) * slope_here
        if order == 2 and sigma_next > 0:
            slope_next = sigma_next / (variance + sigma_next**2) * factor
            factor = 1 + (sigma_next - raised) / 2 * (slope_here + slope_next)
        v *= factor**2
    return v


@pytest.mark.grades("churned")
@pytest.mark.parametrize(("name", "order", "bias"), [("euler", 1, -0.103), ("heun", 2, 0.004)])
def test_churn_keeps_the_distribution(name, order, bias):
    """On a Gaussian, 200 steps with churn 40: the mean stays, and the variance is what the affine recursion says.

    Heun's variance is the data's to 0.4 %. Euler's is 10.3 % too small, and that is Euler, not churn: γ is 0.2 whatever
    the step, and each straight step removes that fresh noise a little too well. The recursion gives -18, -10, -5.5,
    -2.9 and -1.5 % for 100, 200, 400, 800 and 1600 steps (first order, as γ = churn/n_steps), against -2.1 % for 200
    steps without churn. So Euler needs far more steps with churn, and only Heun is held to the data here.
    """
    grid = karras(200, 0.002, 10.0, to_zero=True)
    gammas = [0.2 if 0.05 <= sigma <= 5.0 else 0.0 for sigma in grid[:-1].tolist()]
    solved = churned_variance(grid.tolist(), gammas, 0.25, order)
    assert abs(solved / 0.25 - 1 - bias) < 0.001
    x = 10 * torch.randn(50_000, 1, dtype=DOUBLE, generator=seeded())
    options = {"churn": 40.0, "churn_min": 0.05, "churn_max": 5.0, "generator": seeded(1)}
    step = getattr(diffusion_sampling, name)
    got = last("churned", gaussian_denoiser(0.5, 0.25), x, grid, step=step, **options)
    assert abs(float(got.var()) / solved - 1) < 0.02, (
        f"variance {float(got.var()):.4f}, expected {solved:.4f}"
    )
    assert abs(float(got.mean()) - 0.5) < 0.02, f"mean {float(got.mean()):.4f}, expected 0.5"


# --- guidance ---------------------------------------------------------------------------------------------------------


@pytest.mark.grades("guided")
def test_guidance_does_not_sample_the_tilted_density():
    """p = N(0, 1), p(·|c) = N(0, 0.5²), w = 3: tilting p^(1-w)·p_c^w would give variance 1/(w/0.25 + (1 - w)) = 0.1.

    The guided ODE is linear here, d ln x/dσ = σ·[w/(0.25 + σ²) + (1 - w)/(1 + σ²)], and ends at deviation 0.5^w = 0.125:
    variance 0.0156, a sixth of the tilted one. Only at w = 0 and w = 1 do the two agree.
    """
    x = 80 * torch.randn(20_000, 1, dtype=DOUBLE, generator=seeded())
    conditional, unconditional = gaussian_denoiser(0.0, 0.25), gaussian_denoiser(0.0, 1.0)
    for w in (0.0, 1.0, 2.0, 3.0):
        denoiser = diffusion_sampling.guided(conditional, unconditional, w)
        got = float(last("heun", denoiser, x, karras(64, 0.002, 80.0, to_zero=True)).var())
        solved = 0.25**w
        assert abs(got / solved - 1) < 0.06, f"w = {w}: variance {got:.4f}, the solved ODE gives {solved:.4f}"
        tilted = 1 / (w / 0.25 + (1 - w))
        if w in (0.0, 1.0):
            assert abs(got / tilted - 1) < 0.06, (
                f"w = {w}: variance {got:.4f}, the density itself has {tilted:.4f}"
            )
        else:
            assert got < 0.5 * tilted, (
                f"w = {w}: variance {got:.4f}; the tilted density, {tilted:.4f}, is not what is sampled"
            )


# --- what the parameterisation does to an error -----------------------------------------------------------------------


@pytest.mark.grades("to_x0", "edm_preconditioning")
@pytest.mark.parametrize("sigma", [0.02, 0.5, 5.0, 80.0])
def test_network_error_through_both_parameterisations(sigma):
    """The same error of the network's output reaches x0 times σ (noise prediction), or times c_out < σ_data (EDM)."""
    from preconditioning import edm_preconditioning

    x, level = torch.randn(6, 2, dtype=DOUBLE, generator=seeded()), torch.tensor(sigma, dtype=DOUBLE)
    error = 0.1 * torch.randn(6, 2, dtype=DOUBLE, generator=seeded(1))
    prediction = torch.randn(6, 2, dtype=DOUBLE, generator=seeded(2))
    shift = diffusion_sampling.to_x0(prediction + error, x, level, kind="epsilon") - diffusion_sampling.to_x0(
        prediction, x, level, kind="epsilon"
    )
    assert_close(shift, -sigma * error, rtol=1e-8, what="error of x0 from a noise prediction")
    c_out = float(edm_preconditioning(level, sigma_data=0.5).c_out)
    assert c_out < 0.5, f"c_out is {c_out}: EDM's error never exceeds σ_data times that of the network"
    assert c_out < sigma, (
        f"c_out is {c_out}, at sigma = {sigma}: EDM must never amplify more than a noise prediction"
    )
