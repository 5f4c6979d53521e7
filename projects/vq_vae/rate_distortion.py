"""Bits against error: what a VQ-VAE's tokens save, beside plain ways to spend as many bits on an image of 8 × 8 pixels.

    VQ-VAE       16 tokens of K codes: 16·log2 K bits
    K-means      the 16 patches of 2 × 2 pixels, each replaced by the nearest of K centres: as many bits
    PCA          the coefficients of the images, rounded; the bits go to those with the largest variance

The error is the mean squared error per pixel of images that were not trained on. Images are (n, 1, 8, 8) float32 in [0, 1].
"""

from __future__ import annotations

import math

import torch
from sklearn.cluster import KMeans
from torch import Generator, Tensor

from vq_vae import VQVAE, train

__all__ = ["bits_per_image", "kmeans_on_patches", "pca_at_bits", "vq_vae_distortion"]


def bits_per_image(n_codes: int, *, n_tokens: int = 16) -> float:
    """Return n_tokens·log2 n_codes."""
    return n_tokens * math.log2(n_codes)


def kmeans_on_patches(images_train: Tensor, images_test: Tensor, n_codes: int, *, seed: int = 0) -> float:
    """Return the error of the test images where each patch of 2 × 2 pixels becomes the nearest of n_codes centres."""
    seen, patches = _patches(images_train), _patches(images_test)
    kmeans = KMeans(n_codes, n_init=3, random_state=seed).fit(seen.numpy())
    centres = torch.from_numpy(kmeans.cluster_centers_[kmeans.predict(patches.numpy())])
    return (patches - centres).square().mean().item()


def pca_at_bits(images_train: Tensor, images_test: Tensor, n_bits: int) -> float:
    """Return the error of the test images whose principal coefficients are rounded to n_bits in all.

    Each bit goes to the coefficient whose error is largest then: its variance, over 4 for each bit that it has. With b bits a
    coefficient is rounded to the middle of one of 2^b equal steps from its least to its largest training value; with 0 it is
    the mean.
    """
    seen, held = images_train.flatten(1).double(), images_test.flatten(1).double()
    mean = seen.mean(dim=0)
    axes = torch.linalg.svd(seen - mean, full_matrices=False).Vh.T
    coefficients, wanted = (seen - mean) @ axes, (held - mean) @ axes
    n_levels = 2.0 ** _allot(coefficients.var(dim=0), n_bits)
    low, high = coefficients.aminmax(dim=0)
    step = (high - low) / n_levels
    rounded = low + ((wanted - low) / step).floor().clamp(torch.tensor(0.0), n_levels - 1).add(0.5) * step
    rounded[:, n_levels == 1] = 0
    return (rounded @ axes.T + mean - held).square().mean().item()


def vq_vae_distortion(
    images_train: Tensor, images_test: Tensor, n_codes: int, *, n_epochs: int = 60, seed: int = 0
) -> float:
    """Train a VQVAE of n_codes codes; return its error of the test images."""
    model = VQVAE(n_codes, generator=Generator().manual_seed(seed))
    train(model, images_train, n_epochs, seed=seed)
    model.eval()
    with torch.no_grad():
        return (model.decode(model.encode(images_test)) - images_test).square().mean().item()


def _patches(images: Tensor) -> Tensor:
    """Cut images into patches of 2 × 2 pixels, (16·n, 4)."""
    return images.unfold(2, 2, 2).unfold(3, 2, 2).reshape(-1, 4)


def _allot(variances: Tensor, n_bits: int) -> Tensor:
    """Give each bit to the coefficient that has the largest error then."""
    bits, errors = torch.zeros_like(variances), variances.clone()
    for _ in range(n_bits):
        k = errors.argmax()
        bits[k] += 1
        errors[k] /= 4
    return bits
