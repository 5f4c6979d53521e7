"""Denoisers and exact answers for the tests, worked out here: they use nothing of the files that are graded."""

import math

import torch

DOUBLE = torch.float64


def gaussian_denoiser(mean, variance):
    """E[x0 | x] for independent Gaussian coordinates: the share variance/(variance + σ²) of x - mean is signal."""
    mean, variance = torch.as_tensor(mean, dtype=DOUBLE), torch.as_tensor(variance, dtype=DOUBLE)

    def denoiser(x, sigma):
        level = torch.as_tensor(sigma, dtype=DOUBLE)
        wide = mean + variance / (variance + level**2) * (x.double() - mean)
        return wide.to(x.dtype)

    return denoiser


def gaussian_flow(x, mean, variance, sigma, sigma_end):
    """Solution of the probability-flow ODE for independent Gaussian coordinates."""
    mean, variance = torch.as_tensor(mean, dtype=DOUBLE), torch.as_tensor(variance, dtype=DOUBLE)
    return mean + ((variance + sigma_end**2) / (variance + sigma**2)).sqrt() * (x - mean)


def constant_denoiser(value):
    """The whole data set is one point (a number, or a tensor of the state's shape)."""
    return lambda x, sigma: torch.zeros_like(x) + value


class Recorder:
    """A denoiser that remembers what it was asked."""

    def __init__(self, denoiser):
        self.denoiser, self.states, self.sigmas = denoiser, [], []

    def __call__(self, x, sigma):
        self.states.append(x.detach().clone())
        self.sigmas.append(torch.as_tensor(sigma).detach().clone())
        return self.denoiser(x, sigma)


def seeded(seed=0):
    """A generator of its own."""
    return torch.Generator().manual_seed(seed)


def column(value):
    """A batch of two: the second sample is minus the first, as it is for every odd D."""
    return torch.tensor([[value], [-value]], dtype=DOUBLE)


def fails_at(call, denoiser, change):
    """A denoiser whose `call`-th answer (counted from 0) goes through `change`."""
    calls = iter(range(10**6))
    return lambda x, sigma: change(denoiser(x, sigma)) if next(calls) == call else denoiser(x, sigma)


def noisy_mixture(weights, means, covariances, sigma):
    """A mixture plus noise, as torch.distributions builds it."""
    d = means.shape[-1]
    noisy = torch.distributions.MultivariateNormal(
        means, covariances + sigma**2 * torch.eye(d, dtype=means.dtype)
    )
    return torch.distributions.MixtureSameFamily(torch.distributions.Categorical(weights), noisy)


def mixture_denoiser(weights, means, covariances):
    """E[x0 | x] for a mixture, from the density's gradient by autograd (Tweedie's formula)."""

    def denoiser(x, sigma):
        level = float(
            torch.as_tensor(sigma).flatten()[0]
        )  # one for the whole batch, in whatever shape it comes
        with torch.enable_grad():
            leaf = x.detach().clone().requires_grad_(True)
            noisy_mixture(weights, means, covariances, level).log_prob(leaf).sum().backward()
        return x + level**2 * leaf.grad

    return denoiser


def posterior(alpha_bar_t, alpha_bar_s):
    """Coefficients of q(x_s | x_t, x0) by conditioning a joint Gaussian: (of x0, of x_t, variance).

    Given x0, x_s and x_t have means sqrt(ᾱ)·x0, variances 1 - ᾱ and covariance sqrt(ᾱ_t/ᾱ_s)·(1 - ᾱ_s).
    """
    covariance = math.sqrt(alpha_bar_t / alpha_bar_s) * (1 - alpha_bar_s)
    gain = covariance / (1 - alpha_bar_t)
    of_x0 = math.sqrt(alpha_bar_s) - gain * math.sqrt(alpha_bar_t)
    return of_x0, gain, 1 - alpha_bar_s - gain * covariance


def slope(steps, errors):
    """Least-squares slope of log(error) over log(steps), with the sign turned: the order of convergence."""
    x = torch.tensor(steps, dtype=DOUBLE).log()
    y = torch.tensor(errors, dtype=DOUBLE).log()
    x = x - x.mean()
    return -float((x * y).sum() / (x * x).sum())


def sliced_wasserstein(a, b, *, generator, directions=64):
    """Mean distance between the sorted projections of two equally large sets on random directions."""
    angles = torch.randn(a.shape[1], directions, dtype=a.dtype, generator=generator)
    angles = angles / angles.norm(dim=0)
    return float(((a @ angles).sort(dim=0)[0] - (b @ angles).sort(dim=0)[0]).abs().mean())
