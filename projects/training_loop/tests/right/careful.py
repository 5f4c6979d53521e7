from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
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
    if step < 0:
        raise ValueError(f"step must be at least 0, got {step}")
    if warmup_steps < 0 or warmup_steps >= total_steps:
        raise ValueError(f"need 0 <= warmup_steps < total_steps, got {warmup_steps} and {total_steps}")
    if min_lr < 0 or min_lr > peak_lr:
        raise ValueError(f"need 0 <= min_lr <= peak_lr, got {min_lr} and {peak_lr}")
    if step <= warmup_steps:
        return peak_lr * ((step + 1) / (warmup_steps + 1))
    last = total_steps - 1
    t = 1.0 if step >= last else (step - warmup_steps) / (last - warmup_steps)
    weight = math.cos(0.5 * math.pi * t) ** 2 if t < 1.0 else 0.0  # (1 + cos 2a) / 2 = cos² a
    return (1.0 - weight) * min_lr + weight * peak_lr


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    tables: set[nn.Parameter] = set()
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            tables.update(module.parameters())
    decaying: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        if parameter.dim() > 1 and parameter not in tables:
            decaying.append(parameter)
        else:
            others.append(parameter)
    return [
        {"params": decaying, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


@torch.no_grad()
def clip_gradients(parameters: Iterable[Tensor], max_norm: float) -> Tensor:
    grads = [p.grad for p in parameters if p.grad is not None]
    if not grads:
        return torch.zeros(())
    # Largest value first: squares can then neither overflow nor vanish.
    largest = torch.stack(
        [g.abs().amax().double() for g in grads if g.numel()] or [torch.zeros(()).double()]
    ).amax()
    if not torch.isfinite(largest) or largest == 0:
        return largest.to(grads[0].dtype)
    squares = sum((g.double() / largest).square().sum() for g in grads)
    norm = largest * squares.sqrt()
    if norm > max_norm:
        factor = float(max_norm / norm)
        for p_grad in grads:
            p_grad.mul_(factor)
    return norm.to(grads[0].dtype)


def token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    if logits.dtype != torch.float64:
        logits = logits.to(torch.float32)
    valid = targets != -100
    log_p = logits.log_softmax(dim=-1)
    chosen = log_p.gather(-1, targets.where(valid, 0).unsqueeze(-1)).squeeze(-1)
    return -chosen.where(valid, torch.zeros_like(chosen)).sum()


def accumulate_gradients(model: nn.Module, batches: Batches, scaler: GradScaler, precision: str) -> float:
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {sorted(PRECISIONS)}, got {precision!r}")
    batches = list(batches)
    n_tokens = int(sum((targets != -100).sum().item() for _, targets in batches))
    if not n_tokens:
        raise ValueError("no target is valid")
    losses = []
    for inputs, targets in batches:
        if precision == "fp32":
            logits = model(inputs)
        else:
            with torch.autocast(device_type=inputs.device.type, dtype=PRECISIONS[precision]):
                logits = model(inputs)
        summed = token_loss(logits, targets)
        scaler.scale(summed / n_tokens).backward()
        losses.append(summed.detach().double())
    return (torch.stack(losses).sum() / n_tokens).item()


def training_step(
    model: nn.Module, optimizer: Optimizer, scaler: GradScaler, batches: Batches, lr: float, config: Config
) -> tuple[float, float]:
    optimizer.zero_grad(set_to_none=True)
    for group in optimizer.param_groups:
        group["lr"] = lr
    loss = accumulate_gradients(model, batches, scaler, config.precision)
    scaler.unscale_(optimizer)
    every = [p for group in optimizer.param_groups for p in group["params"]]
    norm = float(clip_gradients(every, config.max_norm))
    if not (math.isnan(norm) or math.isinf(norm)):
        scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return loss, norm


@torch.no_grad()
def evaluate(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    was_training = {module: module.training for module in model.modules()}
    sums, tokens = [], 0
    try:
        model.eval()
        for inputs, targets in batches:
            sums.append(float(token_loss(model(inputs), targets)))
            tokens += int(torch.count_nonzero(targets != -100))
    finally:
        for module, mode in was_training.items():
            module.training = mode
    return math.fsum(sums) / tokens


def save_checkpoint(path: str, step: int, model: nn.Module, optimizer: Optimizer, scaler: GradScaler) -> None:
    path = os.fspath(path)
    random_state = {"cpu": torch.random.get_rng_state()}
    if torch.cuda.is_available():
        random_state["cuda"] = torch.cuda.get_rng_state_all()
    content = {
        "step": int(step),
        "states": [model.state_dict(), optimizer.state_dict(), scaler.state_dict()],
        "random": random_state,
    }
    folder, name = os.path.split(os.path.abspath(path))
    temporary = os.path.join(folder, f".{name}.{os.getpid()}.part")
    try:
        with open(temporary, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.remove(temporary)
        raise
    if os.name == "posix":  # Windows cannot open a folder
        directory = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def load_checkpoint(path: str, model: nn.Module, optimizer: Optimizer, scaler: GradScaler) -> int:
    content = torch.load(path, map_location="cpu", weights_only=True)
    for target, state in zip((model, optimizer, scaler), content["states"], strict=True):
        target.load_state_dict(state)
    torch.random.set_rng_state(content["random"]["cpu"])
    if "cuda" in content["random"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(content["random"]["cuda"])
    return int(content["step"])


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
    device = next(iter(model.parameters())).device
    scaler = GradScaler(device.type, enabled=config.precision == "fp16")
    done = (
        load_checkpoint(checkpoint, model, optimizer, scaler)
        if checkpoint and os.path.isfile(checkpoint)
        else 0
    )
    records: list[dict[str, float]] = []
    while done < config.steps:
        model.train()
        rate = warmup_cosine(done, config.warmup_steps, config.steps, config.peak_lr, config.min_lr)
        loss, norm = training_step(model, optimizer, scaler, batches(done), rate, config)
        done += 1
        records.append({"step": done, "lr": rate, "loss": loss, "norm": norm})
        if done % config.save_every and done != config.steps:
            continue
        if len(val_batches):
            records[-1]["val_loss"] = evaluate(model, val_batches)
        if checkpoint:
            save_checkpoint(checkpoint, done, model, optimizer, scaler)
    return records
