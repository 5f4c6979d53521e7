"""Train the U-Net as a denoiser of real handwritten digits: EDM's loss, class dropout, averaged weights, exact resume.

    python train.py            minutes on two cores (measured in the README); writes weights/digits.safetensors
    python train.py --gpu      the same on a CUDA device, in bfloat16 autocast and compiled

The loop of one step: take clean images, choose a noise level for each, add noise, ask the network for the clean image,
and weigh the squared error so that every noise level counts alike.

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
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
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


@dataclass(frozen=True)
class TrainConfig:
    """What a training run depends on, beside the data: the same config on the same machine gives the same weights."""

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

    So one network learns D(x, σ, class) and D(x, σ): what classifier-free guidance subtracts.

    Source: Ho and Salimans 2022, arXiv 2207.12598, algorithm 1 (p_uncond).
    """
    dropped = torch.rand(labels.shape, generator=generator) < rate
    return labels.masked_fill(dropped.to(labels.device), no_class)


def edm_loss(
    denoiser: Denoiser, x0: Tensor, sigma: Tensor, noise: Tensor, labels: Tensor, *, sigma_data: float
) -> Tensor:
    """Return the mean over samples and pixels of λ(σ)·(D(x0 + σ·noise, σ, labels) - x0)².

        λ(σ) = (σ² + σ_data²)/(σ·σ_data)² = 1/c_out²

    so that the network behind EDM's preconditioning sees an unweighted squared error at every noise level.

    Parameters
    ----------
    denoiser : callable
        ``D(x, sigma, labels)``.
    x0, noise : (batch, ...) tensors
    sigma : (batch,) tensor
        Positive, one level per sample.
    labels : (batch,) integer tensor

    Returns
    -------
    () tensor

    Source: Karras et al. 2022, eq. 2 and table 1 ("loss weighting").
    """
    weight = (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2
    error = denoiser(add_noise(x0, noise, sigma=sigma), sigma, labels) - x0
    return (weight * error.square().flatten(1).mean(dim=1)).mean()


@torch.no_grad()
def update_ema(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the averaged parameters towards the model's, in place: average = decay·average + (1 - decay)·model."""
    for mean, current in zip(average.parameters(), model.parameters(), strict=True):
        mean.lerp_(current, 1 - decay)


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
        self.generator = torch.Generator().manual_seed(
            config.seed
        )  # on the CPU: the same draws on any device
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
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".tmp")
        torch.save(state, temporary)
        os.replace(temporary, path)  # a crash leaves the old checkpoint or the new one

    def load(self, path: Path, config: TrainConfig, device: torch.device) -> None:
        state = torch.load(path, map_location=device, weights_only=True)
        if state["config"] != asdict(config):
            raise ValueError(f"{path} belongs to another run: {state['config']}, wanted {asdict(config)}")
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"].cpu())
        self.step = state["step"]


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
    """Train a U-Net with Adam, betas (0.9, 0.99), on gradients clipped to a norm of 1; return its averaged copy.

    Parameters
    ----------
    config : TrainConfig
    images : (n, 1, height, width) float tensor
    labels : (n,) integer tensor
    checkpoint : Path, optional
        Where the run is saved every 500 steps and at its end; if the file exists, the run goes on from there and ends
        with the same bits as one that never stopped.
    stop_after : int, optional
        End at this step, as if interrupted.
    device : str
    fast : bool
        bfloat16 autocast and ``torch.compile``.
    progress : bool
        Show a bar where the output is a terminal.

    Returns
    -------
    UNet
        The exponential moving average of the weights.

    Raises
    ------
    ValueError
        If the checkpoint belongs to another config; the message names the file.
    FloatingPointError
        If the loss is not finite; the message names the step.
    """
    target = torch.device(device)
    run = _Run(config, target)
    if checkpoint is not None and checkpoint.exists():
        run.load(checkpoint, config, target)
    network = torch.compile(run.model) if fast else run.model
    denoiser = precondition(network, sigma_data=config.sigma_data)
    last = min(config.n_steps, config.n_steps if stop_after is None else stop_after)
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
        if run.step % 50 == 0:  # not at every step: reading the value waits for the device
            bar.set_postfix(loss=f"{loss.item():.3f}")
            if not math.isfinite(loss.item()):
                raise FloatingPointError(f"the loss is {loss.item()} at step {run.step}")
        run.optimizer.param_groups[0]["lr"] = learning_rate(run.step, config)
        run.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
        run.optimizer.step()
        update_ema(run.average, run.model, min(config.ema_decay, (1 + run.step) / (10 + run.step)))
        run.step += 1
        bar.update()
        if checkpoint is not None and (run.step % 500 == 0 or run.step == last):
            run.save(checkpoint, config)
    bar.close()
    return run.average


def save_weights(model: UNet, path: Path, *, config: TrainConfig) -> None:
    """Write the parameters as float16 safetensors (0.65 MB for 327 thousand), with what a reader must know."""
    tensors = {name: value.half().contiguous().cpu() for name, value in model.state_dict().items()}
    data = save(
        tensors, metadata={"sigma_data": repr(config.sigma_data), "width": str(config.width)}
    )  # repr: every digit
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(data)
    temporary.replace(path)


def load_weights(path: Path) -> tuple[UNet, float]:
    """Return the network of `save_weights`, in float32 and in evaluation mode, and its sigma_data."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors: dict[str, Any] = {name: file.get_tensor(name).float() for name in file.keys()}
    with torch.random.fork_rng(devices=[]):
        model = UNet(width=int(metadata["width"]))
    model.load_state_dict(tensors)
    return model.eval().requires_grad_(False), float(metadata["sigma_data"])


def main() -> None:
    """Train on the digits, write the averaged weights, and print where.

    ``--steps N`` (the config's), ``--checkpoint PATH`` (build/train.pt), ``--out PATH`` (weights/digits.safetensors);
    ``--gpu`` means CUDA and `fast`.
    """
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--gpu", action="store_true", help="CUDA, bfloat16 autocast, torch.compile")
    parser.add_argument("--steps", type=int, default=TrainConfig.n_steps)
    parser.add_argument("--checkpoint", type=Path, default=here / "build" / "train.pt")
    parser.add_argument("--out", type=Path, default=here / "weights" / "digits.safetensors")
    options = parser.parse_args()
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
