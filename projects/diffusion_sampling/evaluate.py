"""Judge generated digits: the class that was asked for, as varied as real ones, and no copies.

    accuracy            a classifier trained on the real training digits reads the class that was asked for
    Fréchet distance    between Gaussians fitted to the classifier's features of two sets: 0 for equal moments
    nearest distance    to the training set: far below that of held-out digits means memorised
    diversity           mean distance within a class: far below that of real digits means collapsed

Each number means something only beside the same number for real digits, so `evaluate` returns both.

    python evaluate.py                  draw 360 digits with the committed network and judge them
    python evaluate.py --gpu            the same on a CUDA device, in bfloat16 autocast and compiled
    python evaluate.py --fit-judge      train the classifier again (seconds); writes weights/judge.safetensors

Error messages contain the shapes or labels, the option or the file that is refused. A number is not computed from NaN or inf:
ValueError says that "images" or "features" must be "finite".

Sources: Fréchet distance, Heusel et al. 2017, arXiv 1706.08500; of Gaussians, Dowson and Landau 1982.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

__all__ = [
    "Judge",
    "diversity",
    "draw_digits",
    "evaluate",
    "fit_judge",
    "frechet_distance",
    "load_judge",
    "nearest_distance",
]

WEIGHTS = Path(__file__).resolve().parent / "weights" / "judge.safetensors"
DIGITS = WEIGHTS.with_name("digits.safetensors")


class Judge(nn.Module):
    """A classifier of 8×8 digits, 64-128-64-10; its second hidden layer gives the features.

    It never saw a generated image, nor the held-out digits. The names in the weights file are those of two attributes:
    `hidden`, ``Sequential(Flatten, Linear(64, 128), ReLU, Linear(128, 64), ReLU)``, and `head`, ``Linear(64, 10)``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU()
        )
        self.head = nn.Linear(64, 10)

    def features(self, images: Tensor) -> Tensor:
        """Map (n, 1, 8, 8) images in [-1, 1] to (n, 64) features."""
        return self.hidden(images)

    def forward(self, images: Tensor) -> Tensor:
        """Map (n, 1, 8, 8) images to (n, 10) logits."""
        return self.head(self.features(images))

    @torch.no_grad()
    def accuracy(self, images: Tensor, labels: Tensor) -> float:
        """Return the share of images read as their label, (n,); ValueError for other labels, or images that are not finite."""
        if labels.shape != (len(images),):
            raise ValueError(f"need labels of shape ({len(images)},), got {tuple(labels.shape)}")
        _check_finite("images", images)
        return float((self(images).argmax(dim=1) == labels).double().mean())


def fit_judge(images: Tensor, labels: Tensor, *, n_steps: int = 300, seed: int = 0) -> Judge:
    """Train a judge on the whole set at once with Adam and pixel noise; the same seed gives the same judge.

    The noise keeps it from reading meaning into single pixels, which generated images never get quite right.
    ValueError for n_steps < 1 or images that are not finite.
    """
    if n_steps < 1:
        raise ValueError(f"n_steps must be at least 1, got {n_steps}")
    _check_finite("images", images)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        judge = Judge()
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(judge.parameters(), lr=3e-3, weight_decay=1e-4)
    for step in range(n_steps):
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - step / n_steps)
        noisy = images + 0.5 * torch.randn(images.shape, generator=generator)
        loss = nn.functional.cross_entropy(judge(noisy), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return judge.eval().requires_grad_(False)


def load_judge(path: Path = WEIGHTS) -> Judge:
    """Return the judge whose state_dict the file holds: the committed one, unless `path` says otherwise.

    ValueError, which names the file, if it holds anything else.
    """
    with torch.random.fork_rng(devices=[]):
        judge = Judge()
    try:
        judge.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{path} holds no judge: {error}") from error
    return judge.eval().requires_grad_(False)


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Return the squared Fréchet distance of Gaussians fitted to two sets of features.

        |mean_a - mean_b|² + trace(C_a + C_b - 2·(C_a^½·C_b·C_a^½)^½)

    Biased upwards for small sets: compare only sets of equal sizes, or beside the same distance between real sets.

    Parameters
    ----------
    a, b : (n, d) and (m, d) float tensors
        At least two rows each; computed in float64. The covariances divide by n - 1.

    Returns
    -------
    float
        At least 0.

    Raises
    ------
    ValueError
        If the numbers of columns differ, a set has fewer than two rows, or a feature is not finite.

    Source: Heusel et al. 2017, arXiv 1706.08500.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(f"need (n, d) and (m, d) with n, m ≥ 2, got {tuple(a.shape)} and {tuple(b.shape)}")
    _check_finite("features", a, b)
    a, b = a.double(), b.double()
    cov_a, cov_b = _covariance(a), _covariance(b)
    values, axes = torch.linalg.eigh(cov_a)
    root = axes * values.clamp(min=0).sqrt() @ axes.T
    # Symmetric, so its eigenvalues are real: those of C_a·C_b would come out complex through rounding.
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    distance = (a.mean(0) - b.mean(0)).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross
    return max(float(distance), 0.0)


def _write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: after a crash, of the machine too, the old one is there or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _check_finite(name: str, *tensors: Tensor) -> None:
    if not all(bool(tensor.isfinite().all()) for tensor in tensors):
        raise ValueError(f"{name} must be finite, got NaN or inf")


def _covariance(rows: Tensor) -> Tensor:
    centred = rows - rows.mean(dim=0)
    return centred.T @ centred / (len(rows) - 1)


def nearest_distance(samples: Tensor, reference: Tensor) -> Tensor:
    """Return each sample's Euclidean distance to the nearest point of `reference`: (n, ...), (m, ...) -> (n,), 0 for a copy."""
    rows, others = samples.reshape(len(samples), -1), reference.reshape(len(reference), -1)
    # Differences: |x|² - 2x·r + |r|² would cancel for near ones, so that a copy would have a distance.
    return torch.cdist(rows, others, compute_mode="donot_use_mm_for_euclid_dist").min(dim=1).values


def diversity(samples: Tensor, labels: Tensor) -> float:
    """Return the mean Euclidean distance between two different samples of one class, averaged over the classes.

    Parameters
    ----------
    samples : (n, ...) float tensor
    labels : (n,) integer tensor
        Classes with fewer than two samples are left out.

    Raises
    ------
    ValueError
        If no class has two samples.
    """
    means = []
    for label in labels.unique():
        rows = samples[labels == label]
        if len(rows) > 1:
            means.append(torch.pdist(rows.reshape(len(rows), -1)).mean())
    if not means:
        raise ValueError(f"no class has two samples: labels {labels.tolist()}")
    return float(torch.stack(means).mean())


class Report(NamedTuple):
    """What `evaluate` says about a set of images."""

    accuracy: float  # share read as the class asked for
    frechet: float  # to the training set, in the judge's features
    frechet_floor: float  # the same for the held-out digits
    nearest: float  # median distance to the nearest training digit
    nearest_floor: float  # the same for the held-out digits
    diversity: float
    diversity_floor: float  # of the held-out digits


def evaluate(samples: Tensor, labels: Tensor, *, judge: Judge | None = None) -> Report:
    """Compare samples, (n, 1, 8, 8) in [-1, 1] and the (n,) classes asked for, with real digits.

    n = 360 makes the Fréchet distance comparable with its floor, since 360 digits are held out.
    """
    from train import load_split

    judge = load_judge() if judge is None else judge
    data = load_split()
    real, held = judge.features(data.train_images), judge.features(data.held_images)
    return Report(
        accuracy=judge.accuracy(samples, labels),
        frechet=frechet_distance(judge.features(samples), real),
        frechet_floor=frechet_distance(held, real),
        nearest=float(nearest_distance(samples, data.train_images).median()),
        nearest_floor=float(nearest_distance(data.held_images, data.train_images).median()),
        diversity=diversity(samples, labels),
        diversity_floor=diversity(data.held_images, data.held_labels),
    )


def draw_digits(
    model: nn.Module,
    labels: Tensor,
    *,
    sigma_data: float,
    w: float = 1.0,
    n_steps: int = 18,
    seed: int = 0,
    device: str = "cpu",
    fast: bool = False,
) -> Tensor:
    """Draw one digit per label with Heun on the Karras grid from σ = 20 to 0.005, then 0.

    Parameters
    ----------
    model : torch.nn.Module
        The raw network F(scaled x, c_noise, labels) of `train.load_weights`.
    labels : (n,) integer tensor
    sigma_data : float
    w : float
        Guidance: 0 without the class, 1 with it.
    n_steps, seed : int
        The noise is drawn on the CPU, so every device starts from the same.
    device : str
    fast : bool
        The network in bfloat16 autocast and ``torch.compile``. The state and the sampler's arithmetic stay float32.

    Returns
    -------
    (n, 1, 8, 8) float32 tensor
        On the CPU.
    """
    from diffusion_sampling import heun, karras_sigmas, sample
    from guidance import guided_labels
    from preconditioning import precondition
    from train import NO_CLASS

    model = model.to(device)
    denoiser = precondition(torch.compile(model) if fast else model, sigma_data=sigma_data)
    guided = guided_labels(denoiser, labels.to(device), w, no_class=NO_CLASS)
    noise = torch.randn(len(labels), 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    grid = karras_sigmas(n_steps, sigma_min=0.005, sigma_max=20.0)
    with torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=fast):
        return sample(heun, guided, noise.to(device), grid).cpu()


def main() -> None:
    """Draw digits of the held-out classes with the committed network (DIGITS) and print what `evaluate` says, to three places.

    ``--guidance W`` and ``--steps N`` are those of `draw_digits` (1 and 18), ``--gpu`` means CUDA and `fast`. ``--fit-judge``
    fits the judge instead, and writes it to ``--out PATH`` (WEIGHTS), whose folder it makes; it prints the path. An option of the
    one is refused with the other.
    """
    from train import load_split, load_weights

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--gpu", action="store_true", help="CUDA, bfloat16 autocast, torch.compile")
    parser.add_argument("--guidance", type=float, metavar="W", help="1 if it is not given")
    parser.add_argument("--steps", type=int, help="18 if it is not given")
    parser.add_argument("--fit-judge", action="store_true", help="train the classifier again, and stop")
    parser.add_argument("--out", type=Path, help="where --fit-judge writes: weights/ if it is not given")
    options = parser.parse_args()
    unused = ("gpu", "guidance", "steps") if options.fit_judge else ("out",)
    for name in unused:
        value = getattr(options, name)  # a guidance of 0 equals False
        if value is not None and value is not False:
            parser.error(f"--{name} has no effect {'with' if options.fit_judge else 'without'} --fit-judge")
    data = load_split()
    if options.fit_judge:
        judge, out = fit_judge(data.train_images, data.train_labels), options.out or WEIGHTS
        _write(out, save(judge.state_dict()))
        accuracy = judge.accuracy(data.held_images, data.held_labels)
        print(f"held-out accuracy {accuracy:.1%}; wrote {out}")
        return
    model, sigma_data = load_weights(DIGITS)
    device = "cuda" if options.gpu else "cpu"
    images = draw_digits(
        model,
        data.held_labels,
        sigma_data=sigma_data,
        w=1.0 if options.guidance is None else options.guidance,
        n_steps=18 if options.steps is None else options.steps,
        device=device,
        fast=options.gpu,
    )
    for name, value in evaluate(images, data.held_labels)._asdict().items():
        print(f"{name:16} {value:.3f}")


if __name__ == "__main__":
    main()
