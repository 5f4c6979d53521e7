"""What tokens are good for: a linear classifier reads them, and a prior writes digits with them.

    linear probe     logistic regression on one-hot tokens, beside raw pixels and the tokens of an untrained encoder
    judge            a small network reads the digit of an image: do the prior's images show the digit that was asked for?
    bits             what the tokens of a held-out digit cost under the prior: -Σ log2 p

No number means anything alone, so each has its controls. That the judge reads the right digit is little proof: tokens drawn
for each place on its own, by how often that digit has them there, are read rightly too. Bits and looks say what they lack.

    python evaluate.py                   train on 1437 digits, judge on 360 others, print all of it (a minute)

Images are (n, 1, 8, 8) float32 in [0, 1], labels (n,) int64, tokens (n, 4, 4) int64.
"""

from __future__ import annotations

import argparse
import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from prior import Prior, sample, train_prior
from vq_vae import VQVAE, restart_dead_codes, train

__all__ = [
    "class_frequencies",
    "draw_each_place",
    "fit_judge",
    "fit_tokenizer_and_prior",
    "held_out_bits",
    "judge_samples",
    "linear_probe",
    "load_split",
    "main",
    "one_hot_tokens",
    "probe_tokens",
    "share_read_as",
    "token_bits",
    "untrained_tokens",
]

N_TRAIN = 1437


class Split(NamedTuple):
    """The digits of scikit-learn, the first 1437 to train on and the last 360 held out."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def load_split() -> Split:
    """Return the digits, always the same ones."""
    pixels, labels = load_digits(return_X_y=True)
    images, classes = torch.from_numpy(pixels).float().view(-1, 1, 8, 8) / 16, torch.from_numpy(labels).long()
    return Split(images[:N_TRAIN], classes[:N_TRAIN], images[N_TRAIN:], classes[N_TRAIN:])


def one_hot_tokens(tokens: Tensor, n_codes: int) -> Tensor:
    """Return each place's token as n_codes numbers, one of them 1: (n, 4, 4) to (n, 16·n_codes) float32."""
    return F.one_hot(tokens, n_codes).flatten(1).float()


def linear_probe(train_x: ArrayLike, train_y: ArrayLike, test_x: ArrayLike, test_y: ArrayLike) -> float:
    """Fit logistic regression to the rows (n, features) and classes of one set; return the share it gets right of the other."""
    probe = LogisticRegression(max_iter=2000).fit(np.asarray(train_x), np.asarray(train_y))
    return float(probe.score(np.asarray(test_x), np.asarray(test_y)))


def untrained_tokens(images: Tensor, others: Tensor, n_codes: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return the tokens of both sets by an encoder as it is drawn; its codes are random vectors of the first set."""
    generator = Generator().manual_seed(seed)
    model = VQVAE(n_codes, generator=generator)
    with torch.no_grad():
        vectors = model.encoder(images).movedim(1, -1).flatten(0, -2)
        state = model.quantizer.codebook, model.quantizer.counts, model.quantizer.sums
        restart_dead_codes(*state, torch.zeros(n_codes), vectors, generator=generator)
        return model.encode(images), model.encode(others)


def fit_judge(images: Tensor, labels: Tensor, *, n_steps: int = 300, seed: int = 0) -> nn.Module:
    """Train a small convolutional classifier, images to logits (n, 10), on the whole set at once; one seed gives one judge.

    Pixel noise keeps it from reading meaning into single pixels, which generated images never get quite right.
    """
    generator = Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        first, second = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 32, 3, stride=2, padding=1)
        judge = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Flatten(), nn.Linear(512, 10))
    optimizer = torch.optim.Adam(judge.parameters(), lr=3e-3, weight_decay=1e-4)
    for step in range(n_steps):
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - step / n_steps)
        noisy = images + 0.25 * torch.randn(images.shape, generator=generator)
        loss = F.cross_entropy(judge(noisy), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return judge.eval().requires_grad_(False)


@torch.no_grad()
def share_read_as(judge: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the share of images that the judge reads as their label."""
    return (judge(images).argmax(dim=-1) == labels).double().mean().item()


def class_frequencies(
    tokens: Tensor, labels: Tensor, n_codes: int, *, n_classes: int = 10, smoothing: float = 0.0
) -> Tensor:
    """Return how often each digit has each token at each place, (n_classes, 16, n_codes), summing to 1 over the codes.

    smoothing : so much is added to each count, so that nothing is impossible.
    """
    counts = F.one_hot(tokens.flatten(1), n_codes).float()
    per_class = torch.stack([counts[labels == label].sum(dim=0) for label in range(n_classes)])
    per_class += smoothing
    return per_class / per_class.sum(dim=-1, keepdim=True)


def draw_each_place(frequencies: Tensor, n: int, *, generator: Generator | None = None) -> Tensor:
    """Draw n grids (n, 4, 4), each place on its own by its frequencies (16, n_codes)."""
    return torch.multinomial(frequencies, n, replacement=True, generator=generator).T.reshape(n, 4, 4)


def token_bits(log_probabilities: Tensor, tokens: Tensor) -> float:
    """Return the mean bits that a grid costs, -Σ log2 p of its tokens; `log_probabilities` are natural, (n, 16, n_codes)."""
    chosen = log_probabilities.gather(-1, tokens.flatten(1)[..., None])
    return -chosen.sum().item() / len(tokens) / math.log(2)


@torch.no_grad()
def judge_samples(
    model: VQVAE, prior: Prior, judge: nn.Module, split: Split, *, n_per_digit: int = 100, seed: int = 0
) -> dict[str, float]:
    """Return the share that the judge reads as the digit asked for, of five sets of images.

    real, reconstructed : the held-out digits, and what the decoder makes of their tokens
    prior : n_per_digit images of each digit, drawn by the prior
    class_places, places : the same, each place drawn on its own, by its frequencies in the digit asked for, or in all digits
    """
    generator, n_codes = Generator().manual_seed(seed), len(model.quantizer.codebook)
    asked = torch.arange(10).repeat_interleave(n_per_digit)
    tokens, labels = model.encode(split.train_images), split.train_labels
    per_class = class_frequencies(tokens, labels, n_codes)
    overall = class_frequencies(tokens, torch.zeros_like(labels), n_codes, n_classes=1)[0]
    by_class = [draw_each_place(frequencies, n_per_digit, generator=generator) for frequencies in per_class]
    drawn = {
        "prior": sample(prior, asked, generator=generator).view(-1, 4, 4),
        "class_places": torch.cat(by_class),
        "places": draw_each_place(overall, len(asked), generator=generator),
    }
    back = model.decode(model.encode(split.test_images))
    return {
        "real": share_read_as(judge, split.test_images, split.test_labels),
        "reconstructed": share_read_as(judge, back, split.test_labels),
        **{name: share_read_as(judge, model.decode(grids), asked) for name, grids in drawn.items()},
    }


@torch.no_grad()
def held_out_bits(model: VQVAE, prior: Prior, split: Split) -> dict[str, float]:
    """Return the bits that the tokens of a held-out digit cost: uniformly, by `judge_samples`' frequencies, by the prior."""
    n_codes, labels = len(model.quantizer.codebook), split.test_labels
    seen, tokens = model.encode(split.train_images), model.encode(split.test_images)
    smoothing = 0.1  # of 0, 0.01, 0.1 and 1 the best for both
    per_class = class_frequencies(seen, split.train_labels, n_codes, smoothing=smoothing)
    one = torch.zeros_like(split.train_labels)
    overall = class_frequencies(seen, one, n_codes, n_classes=1, smoothing=smoothing)
    return {
        "uniform": tokens[0].numel() * math.log2(n_codes),
        "places": token_bits(overall.log()[torch.zeros_like(labels)], tokens),
        "class_places": token_bits(per_class.log()[labels], tokens),
        "prior": token_bits(prior(tokens.flatten(1), labels).log_softmax(dim=-1), tokens),
    }


def probe_tokens(model: VQVAE, split: Split) -> dict[str, float]:
    """Return what `linear_probe` gets right of the held-out digits: from pixels, from tokens, and from `untrained_tokens`."""
    n_codes, (images, labels, test_images, test_labels) = len(model.quantizer.codebook), split
    with torch.no_grad():
        tokens = model.encode(images), model.encode(test_images)
    untrained = untrained_tokens(images, test_images, n_codes)
    features = {
        "pixels": (images.flatten(1), test_images.flatten(1)),
        "tokens": tuple(one_hot_tokens(grids, n_codes) for grids in tokens),
        "untrained": tuple(one_hot_tokens(grids, n_codes) for grids in untrained),
    }
    return {name: linear_probe(seen, labels, held, test_labels) for name, (seen, held) in features.items()}


def fit_tokenizer_and_prior(
    split: Split, *, n_codes: int = 64, n_epochs: int = 60, n_prior_epochs: int = 30, seed: int = 0
) -> tuple[VQVAE, Prior]:
    """Train the autoencoder on the first part of the digits, then the prior on its tokens."""
    model = VQVAE(n_codes, generator=Generator().manual_seed(seed))
    train(model, split.train_images, n_epochs, seed=seed)
    model.eval().requires_grad_(False)
    prior, tokens = Prior(n_codes, seed=seed), model.encode(split.train_images).flatten(1)
    train_prior(prior, tokens, split.train_labels, n_prior_epochs, seed=seed)
    return model, prior.eval().requires_grad_(False)


def main() -> None:
    """Train all of it, and print what the functions above return."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    split = load_split()
    model, prior = fit_tokenizer_and_prior(split, seed=seed)
    judge = fit_judge(split.train_images, split.train_labels, seed=seed)
    tables = {
        "linear probe, share right": probe_tokens(model, split),
        "read as the digit asked for": judge_samples(model, prior, judge, split, seed=seed),
        "bits per held-out digit": held_out_bits(model, prior, split),
    }
    for title, numbers in tables.items():
        print(title)
        for name, value in numbers.items():
            print(f"    {name:15}{value:8.3f}")


if __name__ == "__main__":
    main()
