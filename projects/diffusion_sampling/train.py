"""Train the U-Net as a denoiser of real handwritten digits: EDM's loss, class dropout, averaged weights, exact resume.

    python train.py            minutes on two cores (measured in the README); writes weights/digits.safetensors
    python train.py --gpu      the same on a CUDA device, in bfloat16 autocast and compiled

The loop of one step: take clean images, choose a noise level for each, add noise, ask the network for the clean image,
and weigh the squared error so that every noise level counts alike. Error messages contain the option, the file or the step.

Data: scikit-learn's 1797 digits, 8×8 pixels with values 0..16, scaled to [-1, 1]; 360 of them, stratified by class, are
held out for validation and never seen here.

Sources: Karras et al. 2022, arXiv 2206.00364, table 1 and section 5 (loss, noise levels); Ho and Salimans 2022,
arXiv 2207.12598, algorithm 1 (class dropout).
"""

from __future__ import annotations

import argparse
import copy
import math
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from io import BytesIO
from numbers import Integral, Real
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from tqdm import tqdm

from diffusion_sampling import add_noise
from preconditioning import precondition
from unet import UNet

__all__ = [
    "draw_sigmas",
    "drop_labels",
    "edm_loss",
    "learning_rate",
    "load_split",
    "load_weights",
    "save_weights",
    "train",
    "update_ema",
]

Denoiser = Callable[..., Tensor]
NO_CLASS = 10
LEAST, MOST = sys.float_info.min, sys.float_info.max
LOWEST = {
    "n_steps": 1,
    "batch_size": 1,
    "width": 8,
    "peak_rate": LEAST,
    "sigma_data": LEAST,
    "log_mean": -MOST,
}  # others 0
HIGHEST = {"ema_decay": 1, "drop_rate": 1}  # others any finite number


@dataclass(frozen=True)
class TrainConfig:
    """What a training run depends on, beside the data: the same config on the same machine gives the same weights.

    TypeError for a field that is no number or, where one is counted, no integer. ValueError for one out of its range, which the
    message tells; NaN and inf are in none. A run that is shorter than its warm-up ends before the peak.
    """

    n_steps: int = 2800
    batch_size: int = 64
    peak_rate: float = 2e-3  # Adam's learning rate after the warm-up
    warm_up: int = 150  # steps
    ema_decay: float = 0.996
    drop_rate: float = 0.15  # share of labels replaced by "no class"
    sigma_data: float = 0.75  # standard deviation of the scaled pixels
    log_mean: float = -1.0  # of ln(sigma) in training
    log_std: float = 1.4
    width: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        kinds: dict[Any, Any] = {"int": Integral, "float": Real}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, kinds[field.type]):
                raise TypeError(f"{field.name} must be {field.type}, got {value!r}")
            low, high = LOWEST.get(field.name, 0), HIGHEST.get(field.name, MOST)
            if not low <= value <= high:
                raise ValueError(f"{field.name} must lie in [{low:g}, {high:g}], got {value!r}")
            # NumPy's numbers become Python's: a checkpoint with others could not be read again.
            object.__setattr__(self, field.name, int(value) if field.type == "int" else float(value))


class Split(NamedTuple):
    """Digits and their classes: (n, 1, 8, 8) float32 in [-1, 1], and (n,) int64."""

    train_images: Tensor
    train_labels: Tensor
    held_images: Tensor
    held_labels: Tensor


def load_split() -> Split:
    """Return the digits, 1437 to train on and 360 held out (stratified by class, always the same ones)."""
    pixels, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).float().reshape(-1, 1, 8, 8) / 8 - 1
    rows = torch.arange(len(images))
    train_rows, held_rows = train_test_split(rows, test_size=360, random_state=0, stratify=labels)
    classes = torch.from_numpy(labels).long()
    return Split(images[train_rows], classes[train_rows], images[held_rows], classes[held_rows])


def draw_sigmas(n: int, *, log_mean: float, log_std: float, generator: torch.Generator) -> Tensor:
    """Return noise levels for training, ln(σ) ~ Normal(log_mean, log_std²): (n,) float32.

    Source: Karras et al. 2022, table 1 ("noise distribution").
    """
    return (log_mean + log_std * torch.randn(n, generator=generator)).exp()


def drop_labels(labels: Tensor, rate: float, *, no_class: int, generator: torch.Generator) -> Tensor:
    """Return a copy in which each label has become `no_class` with probability `rate`, independently.

    So one network learns D(x, σ, class) and D(x, σ): what classifier-free guidance subtracts. ValueError for a rate outside [0, 1].

    Source: Ho and Salimans 2022, arXiv 2207.12598, algorithm 1 (p_uncond).
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"rate must lie in [0, 1], got {rate}")
    dropped = torch.rand(labels.shape, generator=generator) < rate
    return labels.masked_fill(dropped.to(labels.device), no_class)


def edm_loss(
    denoiser: Denoiser, x0: Tensor, sigma: Tensor, noise: Tensor, labels: Tensor, *, sigma_data: float
) -> Tensor:
    """Return the mean over samples and pixels of λ(σ)·(D(x0 + σ·noise, σ, labels) - x0)².

        λ(σ) = (σ² + σ_data²)/(σ·σ_data)² = 1/c_out²

    so that the network behind EDM's preconditioning sees an unweighted squared error at every noise level. x0 and noise are
    (batch, ...), sigma is (batch,) and positive, labels are handed on. The result is a tensor of shape (), of half-precision data
    in float32. ValueError if D answers in another shape than that of x0.

    Source: Karras et al. 2022, eq. 2 and table 1 ("loss weighting").
    """
    weight = 1 / sigma.flatten().double() ** 2 + 1 / sigma_data**2
    answer = denoiser(add_noise(x0, noise, sigma=sigma), sigma, labels)
    if answer.shape != x0.shape:
        raise ValueError(f"the denoiser returned shape {tuple(answer.shape)}, expected {tuple(x0.shape)}")
    error = (answer - x0).to(torch.promote_types(x0.dtype, torch.float32))
    return (weight.to(error.dtype) * error.square().flatten(1).mean(dim=1)).mean()


@torch.no_grad()
def update_ema(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the averaged parameters towards the model's, in place: average = decay·average + (1 - decay)·model.

    The model may be in half precision. TypeError if the average is: there a step of 1 - decay is lost to rounding, and
    the average never moves; float32 stands still within 6e-8/(1 - decay) of a weight's size, 2e-5 for the decay used
    here. ValueError for a decay outside [0, 1].
    """
    if not 0 <= decay <= 1:
        raise ValueError(f"decay must lie in [0, 1], got {decay}")
    for mean, current in zip(average.parameters(), model.parameters(), strict=True):
        if mean.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"the average must be float32 or float64, got {mean.dtype}")
        mean.lerp_(current.to(mean.dtype), 1 - decay)


def learning_rate(step: int, config: TrainConfig) -> float:
    """Return the rate of `step` (counted from 0): linear to the peak over the warm-up, then a half cosine to 0."""
    if step < config.warm_up:
        return config.peak_rate * (step + 1) / config.warm_up
    progress = (step - config.warm_up) / max(config.n_steps - config.warm_up, 1)
    return config.peak_rate * 0.5 * (1 + math.cos(math.pi * progress))


class _Run:
    """Everything that changes while training, so that a checkpoint cannot forget a part of it."""

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.model = UNet(width=config.width).to(device)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=config.peak_rate, betas=(0.9, 0.99))
        self.generator = torch.Generator().manual_seed(config.seed)  # on the CPU: the same draws anywhere
        self.step = 0

    def save(self, path: Path, config: TrainConfig) -> None:
        state = {
            "config": asdict(config),
            "step": self.step,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
        }
        data = BytesIO()
        torch.save(state, data)
        _write(path, data.getvalue())

    def load(self, path: Path, config: TrainConfig, device: torch.device) -> None:
        try:
            state = torch.load(path, map_location=device, weights_only=True)
            was = state["config"]
            changed = [f"{n} was {was.get(n)}, is {v}" for n, v in asdict(config).items() if was.get(n) != v]
            if changed:
                raise ValueError(f"{path} belongs to another run: {', '.join(changed)}")
            self.model.load_state_dict(state["model"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.generator.set_state(state["generator"].cpu())
            self.step = state["step"]
        except (AttributeError, EOFError, KeyError, RuntimeError, TypeError, UnpicklingError) as error:
            raise ValueError(f"{path} is no checkpoint, or not a whole one: {error}") from error


def train(
    config: TrainConfig,
    images: Tensor,
    labels: Tensor,
    *,
    checkpoint: Path | None = None,
    stop_after: int | None = None,
    device: str = "cpu",
    fast: bool = False,
    progress: bool = False,
) -> UNet:
    """Train a U-Net with Adam at `learning_rate`; return its averaged copy.

    Adam's betas are (0.9, 0.99). Gradients are clipped to a norm of 1. The average warms up: step k, counted from 0, moves it with
    the decay min(ema_decay, (1 + k)/(10 + k)), so that it forgets the untrained weights soon.

    images : (n, 1, height, width) float32 tensor
    labels : (n,) integers in 0..10; 10 is "no class"
    checkpoint : where the run is saved every 500 steps and at its end. If the file exists, the run goes on from there and, with
        the same data, device and `fast`, ends with the same bits as one that never stopped.
    stop_after : end at this step, as if interrupted
    fast : bfloat16 autocast and ``torch.compile``
    progress : show a bar where the output is a terminal

    TypeError or ValueError if images and labels are not as described, or stop_after is no integer or lies before the step where
    the run stands. ValueError, which names the file, if the checkpoint cannot be read or belongs to another config; it names the
    fields, too. FloatingPointError, which names the step, if the loss or the norm of its gradient is not finite: in that step,
    before any weight moves.
    """
    _check_data(images, labels)
    if stop_after is not None and (isinstance(stop_after, bool) or not isinstance(stop_after, Integral)):
        raise TypeError(f"stop_after must be an integer, got {stop_after!r}")
    target = torch.device(device)
    run = _Run(config, target)
    if checkpoint is not None and checkpoint.exists():
        run.load(checkpoint, config, target)
    network = torch.compile(run.model) if fast else run.model
    denoiser = precondition(network, sigma_data=config.sigma_data)
    last = min(config.n_steps, config.n_steps if stop_after is None else int(stop_after))
    if last < run.step:
        raise ValueError(f"stop_after={stop_after} lies before step {run.step}, where the run stands")
    bar = tqdm(total=last, initial=run.step, desc="training", disable=None if progress else True)
    while run.step < last:
        g = run.generator
        rows = torch.randint(len(images), (config.batch_size,), generator=g)
        sigma = draw_sigmas(len(rows), log_mean=config.log_mean, log_std=config.log_std, generator=g)
        noise = torch.randn(images[rows].shape, generator=g)
        batch_labels = drop_labels(labels[rows], config.drop_rate, no_class=NO_CLASS, generator=g)
        batch = [part.to(target) for part in (images[rows], sigma, noise, batch_labels)]
        with torch.autocast(target.type, dtype=torch.bfloat16, enabled=fast):
            loss = edm_loss(denoiser, *batch, sigma_data=config.sigma_data)
        run.optimizer.param_groups[0]["lr"] = learning_rate(run.step, config)
        run.optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
        if not math.isfinite(loss.item() + norm.item()):
            raise FloatingPointError(
                f"the loss is {loss.item()}, its gradient's norm {norm.item()} at step {run.step}"
            )
        if run.step % 50 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}")
        run.optimizer.step()
        update_ema(run.average, run.model, min(config.ema_decay, (1 + run.step) / (10 + run.step)))
        run.step += 1
        bar.update()
        if checkpoint is not None and (run.step % 500 == 0 or run.step == last):
            run.save(checkpoint, config)
    bar.close()
    return run.average


def _check_data(images: Tensor, labels: Tensor) -> None:
    if images.dtype != torch.float32 or labels.is_floating_point():
        raise TypeError(f"need float32 images and integer labels, got {images.dtype} and {labels.dtype}")
    if images.ndim != 4 or len(images) == 0 or labels.shape != images.shape[:1]:
        raise ValueError(
            f"need images (n, 1, height, width) and labels (n,), got {tuple(images.shape)} and {tuple(labels.shape)}"
        )
    if not 0 <= int(labels.min()) <= int(labels.max()) <= NO_CLASS:
        raise ValueError(f"labels must lie in 0..{NO_CLASS}, got {int(labels.min())}..{int(labels.max())}")


def _write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: after a crash, of the machine too, the old one is there or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def save_weights(model: UNet, path: Path, *, config: TrainConfig) -> None:
    """Write the parameters as float16 safetensors (0.65 MB for 327 thousand), with what a reader must know.

    ValueError, which names the parameter, if one is not finite in float16.
    """
    tensors = {name: value.half().contiguous().cpu() for name, value in model.state_dict().items()}
    for name, value in tensors.items():
        if not bool(value.isfinite().all()):
            raise ValueError(f"{name} is not finite in float16, nothing was written")
    data = save(
        tensors, metadata={"sigma_data": repr(config.sigma_data), "width": str(config.width)}
    )  # repr: every digit
    _write(path, data)


def load_weights(path: Path) -> tuple[UNet, float]:
    """Return the network of `save_weights`, in float32 and in evaluation mode, and its sigma_data.

    ValueError, which names the file, if it holds anything else.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors: dict[str, Any] = {name: file.get_tensor(name).float() for name in file.keys()}
        sigma_data = float(metadata["sigma_data"])
        with torch.random.fork_rng(devices=[]):
            model = UNet(width=int(metadata["width"]))
        model.load_state_dict(tensors)
    except (SafetensorError, KeyError, RuntimeError, ValueError) as error:
        raise ValueError(f"{path} holds no weights of save_weights: {error}") from error
    return model.eval().requires_grad_(False), sigma_data


def main() -> None:
    """Train on the digits, write the averaged weights, and print where.

    ``--steps N`` (the config's, at least 1), ``--checkpoint PATH`` (build/train.pt), ``--out PATH`` (weights/digits.safetensors);
    ``--gpu`` means CUDA and `fast`.
    """
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--gpu", action="store_true", help="CUDA, bfloat16 autocast, torch.compile")
    parser.add_argument("--steps", type=int, default=TrainConfig.n_steps)
    parser.add_argument("--checkpoint", type=Path, default=here / "build" / "train.pt")
    parser.add_argument("--out", type=Path, default=here / "weights" / "digits.safetensors")
    options = parser.parse_args()
    if options.steps < 1:
        parser.error(f"--steps must be at least 1, got {options.steps}")
    config = TrainConfig(n_steps=options.steps)
    data = load_split()
    model = train(
        config,
        data.train_images,
        data.train_labels,
        checkpoint=options.checkpoint,
        device="cuda" if options.gpu else "cpu",
        fast=options.gpu,
        progress=True,
    )
    save_weights(model, options.out, config=config)
    print(f"wrote {options.out} ({options.out.stat().st_size / 1e6:.2f} MB)")


if __name__ == "__main__":
    main()
