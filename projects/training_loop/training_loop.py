"""A training loop in plain PyTorch: rate → micro-batches → one gradient → unscale → clip → finite? → AdamW → clear.

The contract: a step is defined by its whole batch; micro-batches change the memory, never the gradient. A batch is a pair
(inputs, targets) on the model's device: ``model(inputs)`` gives logits (..., classes), the targets (...) are int64 class
numbers, and a target of -100 does not count. `precision` is the type of the products in the forward pass: "fp32", "bf16" or
"fp16", else KeyError or ValueError. Weights and gradients keep the model's dtype. A scaler is enabled for fp16 only;
disabled, its methods pass everything through. Clipping is written out, without torch.nn.utils.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import GradScaler, Tensor, nn
from torch.optim import Optimizer

__all__ = ["warmup_cosine", "parameter_groups", "clip_gradients", "token_loss", "accumulate_gradients", "training_step",
           "evaluate", "save_checkpoint", "load_checkpoint", "train"]  # fmt: skip

Batches = Sequence[tuple[Tensor, Tensor]]  # pairs of inputs and targets
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Config:
    """The settings of a run; a learner gets them as they are."""

    steps: int  # in all, however often the run is stopped and resumed
    peak_lr: float
    warmup_steps: int = 0
    min_lr: float = 0.0
    weight_decay: float = 0.1
    max_norm: float = 1.0
    precision: str = "fp32"
    save_every: int = 100  # steps from one evaluation and checkpoint to the next


def warmup_cosine(step: int, warmup_steps: int, total_steps: int, peak_lr: float, min_lr: float) -> float:
    """Learning rate of a step that `step` others precede: up in a line, then down in half a cosine.

    ``peak_lr·(step + 1)/(warmup_steps + 1)`` up to ``step == warmup_steps``; then ``min_lr + (peak_lr - min_lr)·(1 + cos πt)/2``
    with t from 0 there to 1 at the last step, ``total_steps - 1``. Beyond it t stays 1.
    ValueError unless ``0 <= step``, ``0 <= warmup_steps < total_steps`` and ``0 <= min_lr <= peak_lr < inf``.
    """
    if step < 0 or not 0 <= warmup_steps < total_steps or not 0 <= min_lr <= peak_lr < math.inf:
        raise ValueError(f"no schedule: {step=}, {warmup_steps=}, {total_steps=}, {peak_lr=}, {min_lr=}")
    if step <= warmup_steps:
        return peak_lr * (step + 1) / (warmup_steps + 1)
    t = min(1.0, (step - warmup_steps) / max(1, total_steps - 1 - warmup_steps))
    return min_lr + (peak_lr - min_lr) * (1 + math.cos(math.pi * t)) / 2


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Split the trainable parameters: matrices decay; biases, norms and embeddings do not.

    ``[{"params": [...], "weight_decay": weight_decay}, {"params": [...], "weight_decay": 0.0}]``, both in the model's order.
    A matrix has two axes or more; what an nn.Embedding holds or shares is none. A shared parameter comes once, a frozen one never.
    """
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    trainable = [p for p in model.parameters() if p.requires_grad]  # a shared one comes once
    decay = [p for p in trainable if p.ndim >= 2 and id(p) not in embeddings]
    rest = [p for p in trainable if p.ndim < 2 or id(p) in embeddings]
    return [{"params": decay, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


@torch.no_grad()
def clip_gradients(parameters: Iterable[Tensor], max_norm: float) -> Tensor:
    """Scale all gradients by one factor, so that their joint norm ``sqrt(Σ g²)`` is at most `max_norm`; return the norm before.

    Where the norm is NaN, inf or at most `max_norm`, no gradient changes by a bit. Parameters without ``.grad`` are passed
    over; without any gradient the norm is 0. The norm of 16-bit gradients is in float32; a parameter that comes twice counts
    once; ValueError if `max_norm` is negative or NaN. Source: Pascanu, Mikolov and Bengio, arXiv 1211.5063, algorithm 1.
    """
    if not max_norm >= 0:
        raise ValueError(f"max_norm must be 0 or more, got {max_norm}")
    gradients = [p.grad for p in dict.fromkeys(parameters) if p.grad is not None]
    norms = [g.norm(dtype=torch.promote_types(g.dtype, torch.float32)) for g in gradients]
    norm = torch.stack(norms or [torch.zeros(())]).norm()
    if norm.isfinite() and norm > max_norm:
        for gradient in gradients:
            gradient.mul_(max_norm / norm)
    return norm


def token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum ``-log p(target)`` over the valid targets, in float32 (float64 stays); 0 if none is valid; further: ValueError for other shapes."""
    if logits.shape[:-1] != targets.shape:
        raise ValueError(f"targets {tuple(targets.shape)} do not fit logits {tuple(logits.shape)}")
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)).flatten(0, -2)
    return nn.functional.cross_entropy(logits, targets.flatten(), ignore_index=-100, reduction="sum")


def accumulate_gradients(model: nn.Module, batches: Batches, scaler: GradScaler, precision: str) -> float:
    """Add to each ``.grad`` the gradient of ``Σ token_loss / n_tokens`` over all micro-batches (further: of an iterator); return that loss.

    ``n_tokens`` counts the valid targets of all (none: ValueError): a mean of means would weigh tokens unequally. A micro-batch
    goes backward before the next goes forward. The gradient, not the loss, is the scaler's factor times as large.
    """
    batches = list(batches)  # an iterator will do
    n_tokens = sum(int((targets != -100).sum()) for _, targets in batches)
    if n_tokens == 0:
        raise ValueError("no valid target in the whole batch")
    total = 0.0
    for inputs, targets in batches:
        with torch.autocast(inputs.device.type, PRECISIONS[precision], enabled=precision != "fp32"):
            loss = token_loss(model(inputs), targets) / n_tokens
        scaler.scale(loss).backward()
        total += loss.item()
    return total


def training_step(
    model: nn.Module, optimizer: Optimizer, scaler: GradScaler, batches: Batches, lr: float, config: Config
) -> tuple[float, float]:
    """Make one step with rate `lr` in all groups; return the loss and the norm of the true gradient before clipping.

    Where it is NaN or inf, weights and optimizer stay as they are; the scaler adapts (arXiv 1710.03740), gradients are cleared.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr
    loss = accumulate_gradients(model, batches, scaler, config.precision)
    scaler.unscale_(optimizer)  # before clipping: the limit is meant for true gradients
    norm = clip_gradients(model.parameters(), config.max_norm)
    if norm.isfinite():
        scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()
    return loss, norm.item()


@torch.no_grad()
def evaluate(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Mean ``-log p(target)`` of all valid targets (at least one), in eval mode; restores each submodule's mode in any case."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        scores = [(token_loss(model(x), y).item(), int((y != -100).sum())) for x, y in batches]
    finally:
        for module, mode in modes:
            module.training = mode
    return sum(loss for loss, _ in scores) / sum(n_tokens for _, n_tokens in scores)


def save_checkpoint(path: str, step: int, model: nn.Module, optimizer: Optimizer, scaler: GradScaler) -> None:
    """Write all that the next step depends on: `step`, the three states, and the random state of torch (of CUDA too).

    Whenever the machine stops, `path` is the old file or the new one: write under another name in the same folder, force
    it to the disk, rename. The file holds plain data, readable with ``weights_only=True``.
    """
    states = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "scaler": scaler.state_dict()}
    random = {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}
    with open(f"{path}.tmp", "wb") as file:
        torch.save({"step": step, **states, "random": random}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(f"{path}.tmp", path)


def load_checkpoint(path: str, model: nn.Module, optimizer: Optimizer, scaler: GradScaler) -> int:
    """Restore what `save_checkpoint` wrote, return `step`; refuse other models, more than data. Further: other devices and precision."""
    saved = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    scaler.load_state_dict(saved["scaler"] or scaler.state_dict())
    torch.set_rng_state(saved["random"]["cpu"])
    torch.cuda.set_rng_state_all(saved["random"]["cuda"][: torch.cuda.device_count()])
    return int(saved["step"])


def train(
    model: nn.Module, batches: Callable[[int], Batches], config: Config, *, val_batches: Batches = (), checkpoint: str = "",
) -> list[dict[str, float]]:  # fmt: skip
    """Train up to `config.steps` steps, from where the file `checkpoint` stopped if it exists; return a record per step.

    ``batches(step)`` gives the micro-batches of the step that `step` others precede, always the same: so no position in the
    data need be saved. AdamW has betas (0.9, 0.95), the rate is `warmup_cosine`, the model is in training mode. Every
    `save_every` steps and after the last, `val_batches` are evaluated and `checkpoint` is written, each if given. A run that
    was stopped and resumed ends with the same weights, bit for bit; further: changed settings take effect. A record, of a step of this call:
    ``{"step": steps made, "lr": …, "loss": …, "norm": …}``, with ``"val_loss"`` where there was an evaluation.
    """
    optimizer = torch.optim.AdamW(parameter_groups(model, config.weight_decay), betas=(0.9, 0.95))
    scaler = GradScaler(next(model.parameters()).device.type, enabled=config.precision == "fp16")
    first = load_checkpoint(checkpoint, model, optimizer, scaler) if os.path.exists(checkpoint) else 0
    optimizer.param_groups[0]["weight_decay"] = config.weight_decay  # of this call, not of the file
    records = []
    model.train()
    for step in range(first, config.steps):
        lr = warmup_cosine(step, config.warmup_steps, config.steps, config.peak_lr, config.min_lr)
        loss, norm = training_step(model, optimizer, scaler, batches(step), lr, config)
        records.append({"step": step + 1, "lr": lr, "loss": loss, "norm": norm})
        if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
            if val_batches:
                records[-1]["val_loss"] = evaluate(model, val_batches)
            if checkpoint:
                save_checkpoint(checkpoint, step + 1, model, optimizer, scaler)
    return records
