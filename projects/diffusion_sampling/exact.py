"""Data distributions whose denoiser is known in closed form: the laboratory in which a sampler can be proved right.

A denoiser is the mean of the clean data given the noisy state, D(x, σ) = E[x0 | x0 + σ·n = x]. For a Gaussian that is
one line of algebra, for a mixture of Gaussians a weighted sum of such lines, for a finite dataset a weighted mean of
its points. The log density of the noisy state comes with it, and ties both together (Tweedie's formula, Robbins 1956):

    D(x, σ) = x + σ²·∇ log p(x; σ)

With these, no error of a sampler can hide behind an error of a network. Error messages contain the shape that does not fit or
the dtype, or say "positive", "finite", "symmetric" or "negative".

Sources: Karras et al. 2022, arXiv 2206.00364, appendix B.3 (the finite dataset); Efron 2011, "Tweedie's formula and
selection bias" (the formula); Bishop 2006, "Pattern Recognition and Machine Learning", section 2.3 (Gaussian algebra).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["Empirical", "Gaussian", "GaussianMixture"]


class GaussianMixture:
    """A mixture of Gaussians in any dimension: p(x) = Σ_k weight_k·N(x; mean_k, covariance_k).

    With noise of level σ component k becomes N(mean_k, covariance_k + σ²·I), so everything below has a closed form.

    Parameters
    ----------
    weights : (components,) float tensor
        Positive; scaled to sum to 1.
    means : (components, d) float tensor
    covariances : (components, d, d) float tensor
        Symmetric, no negative eigenvalue (0 is a point, line or plane).

    Raises
    ------
    ValueError
        If the shapes do not fit, a weight is not positive or a covariance is not as described.
    TypeError
        If `means` is neither float32 nor float64.

    Notes
    -----
    The methods take x (batch, d) and sigma, a float or a tensor of shape (), (batch,) or (batch, 1). They compute in the dtype of
    `means`, and `denoise` returns that of x; sigma must be positive where a covariance is singular.
    """

    def __init__(self, weights: Tensor, means: Tensor, covariances: Tensor) -> None:
        K, d = means.shape if means.ndim == 2 else (-1, -1)
        if weights.shape != (K,) or covariances.shape != (K, d, d):
            raise ValueError(
                f"need weights (K,), means (K, d), covariances (K, d, d), "
                f"got {tuple(weights.shape)}, {tuple(means.shape)}, {tuple(covariances.shape)}"
            )
        if means.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"means must be float32 or float64, got {means.dtype}")
        weights, covariances = weights.to(means.dtype), covariances.to(means.dtype)
        if not bool((weights > 0).all() and weights.isfinite().all()):
            raise ValueError(f"weights must be positive and finite, got {weights.tolist()}")
        if not bool(means.isfinite().all() and covariances.isfinite().all()):
            raise ValueError("means and covariances must be finite")
        # Relative to each covariance itself: an absolute tolerance would take any small matrix for symmetric.
        largest = covariances.abs().amax(dim=(1, 2), keepdim=True)
        if bool(((covariances - covariances.mT).abs() > 1e-5 * largest).any()):
            raise ValueError("covariances must be symmetric")
        # Noise adds σ² to every eigenvalue and leaves the eigenvectors alone: decompose once, for all σ.
        self._variances, self._axes = torch.linalg.eigh(covariances)  # (K, d), (K, d, d) with axes as columns
        if bool((self._variances < -1e-6 * self._variances.abs().max()).any()):
            raise ValueError("covariances must have no negative eigenvalue")
        self._variances = self._variances.clamp(min=0)
        self.weights = weights / weights.sum()
        self.means = means

    def denoise(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """Return E[x0 | x], (batch, d): each component's own answer, weighted by how likely it is the source."""
        along, total = self._noisy(x, sigma)
        shrunk = (
            self._variances / total * along
        )  # (batch, K, d): per axis, the share of x - mean that is signal
        answers = self.means + torch.einsum("kde,bke->bkd", self._axes, shrunk)
        return (self.responsibilities(x, sigma)[..., None] * answers).sum(dim=1).to(x.dtype)

    def responsibilities(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """Return P(component k | x) at noise level sigma, (batch, components): rows sum to 1."""
        return self._joint(x, sigma).softmax(dim=-1)

    def log_density(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """Return log p(x; sigma), the density of x0 + sigma·noise, (batch,)."""
        return self._joint(x, sigma).logsumexp(dim=-1)

    def draw(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw n clean points, (n, d)."""
        component = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        z = torch.randn(n, self.means.shape[1], dtype=self.means.dtype, generator=generator)
        scaled = self._variances[component].sqrt() * z
        return self.means[component] + torch.einsum("bde,be->bd", self._axes[component], scaled)

    def _noisy(self, x: Tensor, sigma: Tensor | float) -> tuple[Tensor, Tensor]:
        """Return x - mean along each component's axes and the variances there with noise, (batch, K, d) both."""
        if x.shape[1:] != self.means.shape[1:]:
            raise ValueError(f"x must be (batch, {self.means.shape[1]}), got {tuple(x.shape)}")
        level = _per_sample(sigma, x).to(self.means.dtype)[..., None]  # (batch, 1) -> (batch, 1, 1)
        offset = x.to(self.means.dtype)[:, None] - self.means
        return torch.einsum("kde,bkd->bke", self._axes, offset), self._variances + level**2

    def _joint(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """Return log(weight_k·N(x; ...)), (batch, K)."""
        along, total = self._noisy(x, sigma)
        log_normal = -0.5 * (along**2 / total + total.log() + math.log(2 * math.pi)).sum(dim=-1)
        return self.weights.log() + log_normal


class Gaussian(GaussianMixture):
    """One Gaussian: a mixture of one, with the probability-flow ODE solved exactly as well.

    Parameters
    ----------
    mean : (d,) float tensor
    covariance : (d, d) float tensor
        As in `GaussianMixture`.
    """

    def __init__(self, mean: Tensor, covariance: Tensor) -> None:
        super().__init__(torch.ones(1, dtype=mean.dtype), mean[None], covariance[None])

    def flow(self, x: Tensor, sigma: Tensor | float, sigma_end: Tensor | float) -> Tensor:
        """Return where the probability-flow ODE takes x from noise level sigma to sigma_end, (batch, d).

        Along an axis of variance λ:   x - mean is multiplied by sqrt((λ + sigma_end²)/(λ + sigma²))
        """
        (along, total), (_, total_end) = self._noisy(x, sigma), self._noisy(x, sigma_end)
        factor = (total_end / total).sqrt()
        return self.means + torch.einsum("de,be->bd", self._axes[0], (factor * along)[:, 0])


class Empirical:
    """A finite dataset, each point equally likely: what a network that memorised its training set would be.

        D(x, σ) = Σ_i softmax_i(-|x - point_i|²/(2σ²))·point_i

    Parameters
    ----------
    points : (n, ...) float tensor

    Raises
    ------
    ValueError
        If there is no point.
    TypeError
        If the points are neither float32 nor float64: scale the pixels of an image first.

    Source: Karras et al. 2022, arXiv 2206.00364, appendix B.3.
    """

    def __init__(self, points: Tensor) -> None:
        if len(points) == 0:
            raise ValueError(f"points must hold at least one, got shape {tuple(points.shape)}")
        if points.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"points must be float32 or float64, got {points.dtype}")
        self.points = points
        self._rows = points.reshape(len(points), -1)

    def weights(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """Return P(point i | x), (batch, n), for x (batch, ...) and a positive sigma of shape (), (batch,) or (batch, 1, ...).

        It computes in the dtype of the points.
        """
        level = _per_sample(sigma, x).to(self._rows.dtype)
        rows = x.reshape(len(x), -1).to(self._rows.dtype)
        # Differences, not |x|² - 2x·p + |p|²: at small σ the cancellation would be divided by σ².
        distances = torch.cdist(rows, self._rows, compute_mode="donot_use_mm_for_euclid_dist")
        # d² - nearest² as a product: far away, or at a tiny σ, d²/σ² has no digits left to compare, or is infinite.
        nearest = distances.amin(dim=-1, keepdim=True)
        further = (distances - nearest) / level * (distances + nearest) / level
        return (-0.5 * further).softmax(dim=-1)

    def denoise(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """Return E[x0 | x], in the shape and dtype of x."""
        return (self.weights(x, sigma) @ self._rows).reshape(x.shape).to(x.dtype)


def _per_sample(sigma: Tensor | float, x: Tensor) -> Tensor:
    """Return the level of every sample as (1, 1) or (batch, 1), in float64."""
    level = torch.as_tensor(sigma, dtype=torch.float64)
    if level.numel() != 1 and not level.numel() == len(level) == len(x):
        raise ValueError(
            f"need one sigma or one for each of {len(x)} samples, got shape {tuple(level.shape)}"
        )
    return level.reshape(-1, 1)
