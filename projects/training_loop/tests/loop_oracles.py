"""A model, data, and for every unit a stand-in: a test of one unit puts these in the place of the others.

The stand-ins keep the contract of training_loop.py in other words: torch's own clipping, one big batch, float64 sums.
"""

import math
import os

import torch
from torch import nn

import training_loop
from training_loop import Config

TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Tiny(nn.Module):
    """An embedding that the head shares, a norm, a hidden layer, dropout; float64, so that sums differ by rounding only."""

    def __init__(self, dropout=0.0, dtype=torch.float64):
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.tokens = nn.Embedding(13, 6)
        self.norm = nn.LayerNorm(6)
        self.hidden = nn.Linear(6, 7)
        self.dropout = nn.Dropout(dropout)
        self.back = nn.Linear(7, 6)
        self.head = nn.Linear(6, 13, bias=False)
        self.head.weight = self.tokens.weight
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=generator) * 0.3)
        self.to(dtype)

    def forward(self, tokens):
        x = self.norm(self.tokens(tokens))
        return self.head(self.back(self.dropout(torch.tanh(self.hidden(x)))))


def batch(seed, shape=(3, 5), valid=None):
    """A batch of which `valid` targets count, or about half of them."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randint(0, 13, shape, generator=generator)
    targets = torch.randint(0, 13, shape, generator=generator)
    keep = torch.rand(shape, generator=generator)
    n = targets.numel() // 2 if valid is None else valid
    left_out = keep.flatten().argsort()[n:]
    targets.view(-1)[left_out] = -100
    return inputs, targets


# micro-batches of unequal size and with 15, 2, 0 and 7 valid targets
UNEQUAL = [batch(1, (3, 5), 15), batch(2, (4, 3), 2), batch(3, (2, 3), 0), batch(4, (2, 6), 7)]


def nats(model, batches):
    """Return -log p of every valid target, in one vector, in float64."""
    found = []
    for inputs, targets in batches:
        logits = model(inputs).double().flatten(0, -2)
        scores = logits.logsumexp(1) - logits.gather(1, targets.flatten().clamp(min=0)[:, None])[:, 0]
        found.append(scores[targets.flatten() != -100])
    return torch.cat(found)


def gradient(model):
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def big_batch(batches, model=None):
    """Return loss and gradient of the mean over all valid targets, of a new model."""
    model = model or Tiny()
    loss = nats(model, batches).mean()
    loss.backward()
    return loss.item(), gradient(model)


def scaler(enabled=False, **options):
    return torch.amp.GradScaler("cpu", enabled=enabled, **options)


# --- the stand-ins ------------------------------------------------------------------------------------------------


def warmup_cosine(step, warmup_steps, total_steps, peak_lr, min_lr):
    if step <= warmup_steps:
        return peak_lr * (step + 1) / (warmup_steps + 1)
    t = min(1.0, (step - warmup_steps) / (total_steps - 1 - warmup_steps))
    return min_lr + (peak_lr - min_lr) * math.cos(math.pi * t / 2) ** 2


def parameter_groups(model, weight_decay):
    names = ("hidden.weight", "back.weight")
    groups = [{"params": [], "weight_decay": weight_decay}, {"params": [], "weight_decay": 0.0}]
    for name, p in model.named_parameters():
        groups[name not in names]["params"].append(p)
    return groups


def clip_gradients(parameters, max_norm):
    parameters = list(parameters)
    norm = nn.utils.get_total_norm([p.grad for p in parameters])
    if norm.isfinite():
        nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm


def token_loss(logits, targets):
    dtype = torch.promote_types(logits.dtype, torch.float32)
    scores = -logits.flatten(0, -2).to(dtype).log_softmax(1)
    valid = targets.flatten() != -100
    return scores[valid].gather(1, targets.flatten()[valid][:, None]).sum()


def accumulate_gradients(model, batches, scaler, precision):
    n_tokens = sum((y != -100).sum().item() for _, y in batches)
    losses = []
    for x, y in batches:
        with torch.autocast("cpu", TYPES.get(precision), enabled=precision != "fp32"):
            logits = model(x)
        losses.append(token_loss(logits, y) / n_tokens)
    scaler.scale(sum(losses)).backward()
    return sum(losses).item()


def training_step(model, optimizer, scaler, batches, lr, config):
    for group in optimizer.param_groups:
        group["lr"] = lr
    loss = accumulate_gradients(model, batches, scaler, config.precision)
    scaler.unscale_(optimizer)
    norm = clip_gradients(model.parameters(), config.max_norm)
    if norm.isfinite():
        scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()
    return loss, norm.item()


def evaluate(model, batches):
    was = {m: m.training for m in model.modules()}
    model.eval()
    with torch.no_grad():
        result = nats(model, batches).mean().item()
    for m, mode in was.items():
        m.training = mode
    return result


def save_checkpoint(path, step, model, optimizer, scaler):
    parts = [part.state_dict() for part in (model, optimizer, scaler)]
    torch.save([step, parts, torch.get_rng_state()], path)


def load_checkpoint(path, model, optimizer, scaler):
    step, parts, random = torch.load(path)
    for part, state in zip((model, optimizer, scaler), parts, strict=True):
        part.load_state_dict(state)
    torch.set_rng_state(random)
    return step


UNITS = [
    *("warmup_cosine", "parameter_groups", "clip_gradients", "token_loss", "accumulate_gradients"),
    *("training_step", "evaluate", "save_checkpoint", "load_checkpoint"),
]


def stand_in(monkeypatch, unit):
    """Put the stand-ins in the place of every unit of the answer but `unit`, and return that one."""
    for name in UNITS:
        if name != unit:
            monkeypatch.setattr(training_loop, name, globals()[name], raising=False)
    return getattr(training_loop, unit)


def plain_run(model, batches, config, steps=None):
    """Train by the plain textbook: one big batch a step, torch's AdamW, by name; return the losses."""
    optimizer = torch.optim.AdamW(parameter_groups(model, config.weight_decay), betas=(0.9, 0.95))
    losses = []
    for step in range(config.steps if steps is None else steps):
        for group in optimizer.param_groups:
            group["lr"] = warmup_cosine(
                step, config.warmup_steps, config.steps, config.peak_lr, config.min_lr
            )
        optimizer.zero_grad()
        loss = nats(model, batches(step)).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.max_norm)
        optimizer.step()
        losses.append(loss.item())
    return losses


def data(step):
    """Two micro-batches with 9 and 3 valid targets, other ones each step."""
    return [batch(2 * step, (3, 4), 9), batch(2 * step + 1, (2, 4), 3)]


def config(**options):
    return Config(
        **{"steps": 7, "peak_lr": 0.02, "warmup_steps": 2, "min_lr": 0.002, "save_every": 3, **options}
    )


def files(folder):
    return sorted(os.listdir(folder))
