"""rate_distortion.py: what bits buy. Oracles: images made of few patches or few directions, scikit-learn's PCA and loops."""

import math

import numpy as np
import oracles
import pytest
import torch
from oracles import normal, seeded
from sklearn.decomposition import PCA

import rate_distortion
from shared.testing.checks import unchanged
from shared.testing.no_compiler import without_compiler

pytestmark = [pytest.mark.module("rate_distortion"), pytest.mark.timeout(60)]


@pytest.mark.grades("bits_per_image")
def test_bits_per_image():
    """16·log2 K, or another number of tokens."""
    assert rate_distortion.bits_per_image(64) == 96, "16 tokens of 64 codes are 96 bits"
    assert rate_distortion.bits_per_image(8, n_tokens=5) == 15, "5 tokens of 8 codes are 15 bits"
    assert abs(rate_distortion.bits_per_image(10) - 16 * math.log2(10)) < 1e-9, "bits need not be whole"


def patchwork(n, patches, generator):
    """Return images (n, 1, 8, 8) made of given patches (k, 2, 2), each at random places."""
    chosen = patches[torch.randint(len(patches), (n, 4, 4), generator=generator)]
    return chosen.permute(0, 1, 3, 2, 4).reshape(n, 1, 8, 8)


@pytest.mark.grades("kmeans_on_patches")
def test_kmeans_on_patches():
    """Five patches and five centres: no error. One centre: the distance of the test patches to the mean training patch."""
    generator = seeded(1)
    patches = torch.rand(5, 2, 2, generator=generator)
    seen, held = patchwork(40, patches, generator), patchwork(30, patches[:3], generator)
    with unchanged(seen, held):
        got = rate_distortion.kmeans_on_patches(seen, held, 5)
    assert isinstance(got, float), f"a float is wanted, got {type(got).__name__}"
    assert got < 1e-10, (
        f"error {got:.2g} with a centre for each patch: are the patches 2 × 2 pixels that do not overlap?"
    )

    def parts(images):
        return images.view(-1, 4, 2, 4, 2).permute(0, 1, 3, 2, 4).reshape(-1, 4)

    wanted = (parts(held) - parts(seen).mean(0)).square().mean().item()
    one = rate_distortion.kmeans_on_patches(seen, held, 1)
    assert one == pytest.approx(wanted, rel=1e-4), f"one centre: error {one:.4f}, expected {wanted:.4f}: centres from the first images, error of the second, per pixel"  # fmt: skip
    noisy = torch.rand(40, 1, 8, 8, generator=generator)
    errors = [rate_distortion.kmeans_on_patches(noisy, held, 7, seed=s) for s in (0, 0, 1)]
    assert errors[0] == errors[1] != errors[2], "the seed of K-means is not the one that is passed"


def pca_by_loops(seen, held, n_bits):
    """The same with scikit-learn's PCA, coefficient by coefficient."""
    pca = PCA().fit(seen.flatten(1).double().numpy())
    a, b = (pca.transform(images.flatten(1).double().numpy()) for images in (seen, held))
    variances = a.var(axis=0)
    bits = [0] * a.shape[1]
    for _ in range(n_bits):
        errors = [v / 4**n for v, n in zip(variances, bits, strict=True)]
        bits[errors.index(max(errors))] += 1
    back = np.zeros_like(b)
    for i, n in enumerate(bits):
        if n:
            edges = np.linspace(a[:, i].min(), a[:, i].max(), 2**n + 1)
            cell = np.clip(np.searchsorted(edges, b[:, i], side="right") - 1, 0, 2**n - 1)
            back[:, i] = (edges[cell] + edges[cell + 1]) / 2
    return float(((back - b) ** 2).mean())


@pytest.mark.grades("pca_at_bits")
@pytest.mark.parametrize("n_bits", [0, 1, 16, 40])
def test_pca_at_bits(n_bits):
    """Images of a few strong directions; coefficients beyond the training range too."""
    generator = seeded(2)
    directions = normal(64, 64, generator=generator) * 0.6 ** torch.arange(64)[:, None]
    seen, held = ((scale * normal(n, 64, generator=generator) @ directions + 3).view(n, 1, 8, 8) for n, scale in ((200, 1), (90, 1.6)))  # fmt: skip
    with unchanged(seen, held):
        got = rate_distortion.pca_at_bits(seen, held, n_bits)
    assert isinstance(got, float), f"a float is wanted, got {type(got).__name__}"
    expected = pca_by_loops(seen, held, n_bits)
    assert got == pytest.approx(expected, rel=1e-6), (
        f"{n_bits} bits: error {got:.5f}, expected {expected:.5f}"
    )


@pytest.mark.grades("pca_at_bits")
def test_pca_at_bits_without_the_mean():
    """No bits: every image is the mean of the training images."""
    generator = seeded(3)
    seen, held = torch.rand(50, 1, 8, 8, generator=generator), torch.rand(20, 1, 8, 8, generator=generator)
    expected = (held - seen.mean(0)).square().mean().item()
    assert rate_distortion.pca_at_bits(seen, held, 0) == pytest.approx(expected, rel=1e-5), (
        "no bits give the mean image"
    )


WHOLE = ("VQVAE", "train", "VectorQuantizer", "nearest_codes", "straight_through", "vq_losses", "ema_update",
         "restart_dead_codes", "perplexity")  # fmt: skip


@pytest.mark.grades("vq_vae_distortion", *WHOLE)
def test_vq_vae_distortion():
    """Training helps; the seed is all that is random; the test images are the second ones."""
    generator = seeded(4)
    seen, held = oracles.blobs(64, generator), oracles.blobs(20, generator)
    with without_compiler():
        errors = [rate_distortion.vq_vae_distortion(seen, held, 8, n_epochs=n, seed=s) for n, s in ((0, 0), (6, 0), (6, 0), (6, 1))]  # fmt: skip
        before = rate_distortion.vq_vae_distortion(seen, 0 * held, 8, n_epochs=0)
    assert isinstance(errors[0], float), f"a float is wanted, got {type(errors[0]).__name__}"
    assert errors[1] < 0.8 * errors[0], (
        f"training does not help: {errors[0]:.3f} before, {errors[1]:.3f} after"
    )
    assert errors[1] == errors[2] != errors[3], "one seed gives two errors, or two seeds one"
    assert before != errors[0], "the error does not depend on the test images"
