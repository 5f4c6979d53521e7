"""The settings of a run of run.py, and the presets of its command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from schedules import warmup_constant, warmup_linear, warmup_stable_decay
from training_loop import PRECISIONS, warmup_cosine

__all__ = ["Config"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that determines a run.

    A setting that cannot be meant raises ValueError; the message names the setting and the value that came.
    """

    out: str  # folder of the run: checkpoints/, metrics.jsonl, tensorboard/, loss_curve.png
    steps: int = 1500  # updates in the whole run
    seed: int = 0
    resume: bool = False  # continue the run in `out` if there is one
    # model
    context: int = 64  # bytes the model sees
    d_model: int = 96
    n_layers: int = 3
    n_heads: int = 4
    dropout: float = 0.0
    # data
    data_bytes: int = 4_000_000  # of the standard library's source, about a tenth of it for validation
    batch_size: int = 8  # windows per update, over all micro-batches and ranks
    accumulate: int = 1  # micro-batches that each rank cuts its share into
    # optimization
    schedule: str = "cosine"  # cosine, linear, constant or wsd (warmup, stable, decay over the last fifth)
    peak_lr: float = 6e-3
    min_lr: float = 1e-4
    warmup_steps: int = 100
    weight_decay: float = 0.1
    clip: float = 1.0  # largest gradient norm
    ema_decay: float = 0.99  # the averaged weights are what is evaluated
    # machine
    precision: str = "fp32"  # fp32, bf16 (autocast) or fp16 (autocast and gradient scaling)
    compile: bool = False
    deterministic: bool = False  # refuse operations that differ from run to run (a GPU has some)
    fsdp: bool = False  # shard the model over the ranks instead of copying it
    # bookkeeping
    eval_every: int = 500
    eval_windows: int = 256  # of the validation text, while training; the end takes all of it
    checkpoint_every: int = 250
    keep_checkpoints: int = 2
    live: bool = True  # progress bar, TensorBoard, figure

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        if self.schedule not in ("cosine", "linear", "constant", "wsd"):
            raise ValueError(f"schedule must be cosine, linear, constant or wsd, got {self.schedule!r}")
        if self.fsdp and self.precision == "fp16":
            raise ValueError("fsdp with fp16 is not supported (the scaler would need every rank): use bf16")
        for name in ("steps", "checkpoint_every", "eval_every", "eval_windows", "accumulate", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay must not be negative, got {self.weight_decay}")

    def lr(self, step: int) -> float:
        """Return the learning rate of the update that `step` others precede; it warms up for `steps` - 1 updates at the most."""
        warmup: dict[str, Any] = {
            "warmup_steps": min(self.warmup_steps, self.steps - 1),
            "peak_lr": self.peak_lr,
        }
        if self.schedule == "constant":
            return warmup_constant(step, **warmup)
        whole = {**warmup, "total_steps": self.steps, "min_lr": self.min_lr}
        if self.schedule == "linear":
            return warmup_linear(step, **whole)
        if self.schedule == "wsd":
            return warmup_stable_decay(step, decay_steps=max(1, self.steps // 5), **whole)
        return warmup_cosine(step, **whole)


PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {},
    "small": {
        "steps": 5000,
        "context": 256,
        "d_model": 256,
        "n_layers": 6,
        "n_heads": 8,
        "dropout": 0.1,
        "batch_size": 32,
    }
    | {"data_bytes": 20_000_000, "peak_lr": 1e-3, "warmup_steps": 100, "ema_decay": 0.999, "eval_every": 500},
    "gpu": {"steps": 10_000, "context": 512, "d_model": 768, "n_layers": 12, "n_heads": 12, "dropout": 0.1}
    | {"data_bytes": 40_000_000, "batch_size": 128, "peak_lr": 6e-4, "min_lr": 6e-5, "warmup_steps": 500}
    | {"ema_decay": 0.999, "precision": "bf16", "eval_every": 500, "checkpoint_every": 500},
}
