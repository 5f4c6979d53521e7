from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

Batches = Sequence[tuple[Tensor, Tensor]]
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Config:
    steps: int
    peak_lr: float
    warmup_steps: int = 0
    min_lr: float = 0.0
    weight_decay: float = 0.1
    max_norm: float = 1.0
    precision: str = "fp32"
    save_every: int = 100


def warmup_cosine(step: int, warmup_steps: int, total_steps: int, peak_lr: float, min_lr: float) -> float:
    if not (0 <= step and 0 <= warmup_steps < total_steps and 0 <= min_lr <= peak_lr):
        raise ValueError("a setting is out of range")
    if step <= warmup_steps:
        return peak_lr * (step + 1) / (warmup_steps + 1)
    t = (
        min(1.0, (step - warmup_steps) / (total_steps - 1 - warmup_steps))
        if total_steps - 1 > warmup_steps
        else 1.0
    )
    return min_lr + 0.5 * (peak_lr - min_lr) * (1 + math.cos(math.pi * t))


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    embedded = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    trainable = [p for p in model.parameters() if p.requires_grad]
    decay = [p for p in trainable if p.ndim >= 2 and id(p) not in embedded]
    rest = [p for p in trainable if p.ndim < 2 or id(p) in embedded]
    return [{"params": decay, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


@torch.no_grad()
def clip_gradients(parameters: Iterable[Tensor], max_norm: float) -> Tensor:
    grads = [p.grad for p in parameters if p.grad is not None]
    if not grads:
        return torch.tensor(0.0)
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in grads]))
    if torch.isfinite(norm) and norm > max_norm:
        for g in grads:
            g.mul_(max_norm / norm)
    return norm


def token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return F.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), targets.reshape(-1), reduction="sum", ignore_index=-100
    )


def accumulate_gradients(model: nn.Module, batches: Batches, scaler: GradScaler, precision: str) -> float:
    dtype = PRECISIONS[precision]
    n_tokens = sum(int((targets != -100).sum()) for _, targets in batches)
    if n_tokens == 0:
        raise ValueError("no target is valid")
    total = 0.0
    for inputs, targets in batches:
        with torch.autocast(inputs.device.type, dtype=dtype, enabled=precision != "fp32"):
            logits = model(inputs)
        loss = token_loss(logits, targets) / n_tokens
        scaler.scale(loss).backward()
        total += loss.item()
    return total


def training_step(
    model: nn.Module, optimizer: Optimizer, scaler: GradScaler, batches: Batches, lr: float, config: Config
) -> tuple[float, float]:
    for group in optimizer.param_groups:
        group["lr"] = lr
    loss = accumulate_gradients(model, batches, scaler, config.precision)
    scaler.unscale_(optimizer)
    norm = clip_gradients(model.parameters(), config.max_norm).item()
    if math.isfinite(norm):
        scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()
    return loss, norm


@torch.no_grad()
def evaluate(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    modes = [(m, m.training) for m in model.modules()]
    model.eval()
    try:
        total, count = 0.0, 0
        for inputs, targets in batches:
            total += token_loss(model(inputs), targets).item()
            count += int((targets != -100).sum())
    finally:
        for m, mode in modes:
            m.training = mode
    return total / count


def save_checkpoint(path: str, step: int, model: nn.Module, optimizer: Optimizer, scaler: GradScaler) -> None:
    state = {
        "step": step,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scaler": scaler.state_dict(),
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    with open(f"{path}.tmp", "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(f"{path}.tmp", path)


def load_checkpoint(path: str, model: nn.Module, optimizer: Optimizer, scaler: GradScaler) -> int:
    state = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    scaler.load_state_dict(state["scaler"])
    torch.set_rng_state(state["rng"])
    if state["cuda_rng"]:
        torch.cuda.set_rng_state_all(state["cuda_rng"])
    return state["step"]


def train(
    model: nn.Module,
    batches: Callable[[int], Batches],
    config: Config,
    *,
    val_batches: Batches = (),
    checkpoint: str = "",
) -> list[dict[str, float]]:
    optimizer = torch.optim.AdamW(
        parameter_groups(model, config.weight_decay), lr=config.peak_lr, betas=(0.9, 0.95)
    )
    device = next(model.parameters()).device.type
    scaler = GradScaler(device, enabled=config.precision == "fp16")
    first = 0
    if checkpoint and os.path.exists(checkpoint):
        first = load_checkpoint(checkpoint, model, optimizer, scaler)
    model.train()
    records = []
    for step in range(first, config.steps):
        lr = warmup_cosine(step, config.warmup_steps, config.steps, config.peak_lr, config.min_lr)
        loss, norm = training_step(model, optimizer, scaler, batches(step), lr, config)
        record = {"step": step + 1, "lr": lr, "loss": loss, "norm": norm}
        if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
            if val_batches:
                record["val_loss"] = evaluate(model, val_batches)
            if checkpoint:
                save_checkpoint(checkpoint, step + 1, model, optimizer, scaler)
        records.append(record)
    return records
