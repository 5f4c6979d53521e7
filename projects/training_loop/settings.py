"""The settings of a run of run.py, and the presets of its command line."""

from __future__ import annotations

import math
import numbers
import os
from dataclasses import dataclass, fields
from typing import Any

from schedules import warmup_constant, warmup_linear, warmup_stable_decay
from training_loop import PRECISIONS, warmup_cosine

__all__ = ["Config"]

KINDS: dict[str, tuple[Any, Any]] = {  # of a setting: what is taken for one, and what it becomes
    "int": (numbers.Integral, int),
    "float": (numbers.Real, float),
    "str": (str | os.PathLike, os.fspath),
}
RANGES: dict[str, tuple[float, float]] = {  # the least, and what it must be below
    **dict.fromkeys(("steps", "context", "d_model", "n_heads", "batch_size", "accumulate"), (1, math.inf)),
    **dict.fromkeys(("eval_every", "eval_windows", "checkpoint_every", "keep_checkpoints"), (1, math.inf)),
    **dict.fromkeys(("n_layers", "warmup_steps", "peak_lr", "min_lr", "weight_decay"), (0, math.inf)),
    **dict.fromkeys(("dropout", "ema_decay"), (0, 1)),
    "data_bytes": (20, math.inf),
    "seed": (-(2**63), 2**63),
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that determines a run.

    A setting that cannot be meant raises ValueError, one of another type TypeError; the message names the setting and the
    value that came. A resumed run has the settings of its new call: those that it cannot have are refused by name.
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
    min_lr: float = 1e-4  # of the last update; not with constant
    warmup_steps: int = 100  # fewer where the run, with wsd its part before the decay, has not as many
    weight_decay: float = 0.1
    clip: float = 1.0  # largest gradient norm, above 0; inf measures only
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
        for field in fields(self):
            kind, plain = KINDS.get(str(field.type), (bool, bool))
            value = getattr(self, field.name)
            if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
                raise TypeError(f"{field.name} must be {field.type}, got {value!r}")
            object.__setattr__(self, field.name, plain(value))  # NumPy's integers are no JSON
        for name, (least, limit) in RANGES.items():
            if not least <= getattr(self, name) < limit:
                below = "" if limit == math.inf else f" and below {limit}"
                raise ValueError(f"{name} must be {least} or more{below}, got {getattr(self, name)}")
        if not self.clip > 0:
            raise ValueError(f"clip must be above 0, got {self.clip}")
        if self.accumulate > self.batch_size:
            raise ValueError(f"accumulate={self.accumulate} cannot be more than batch_size={self.batch_size}")
        if self.d_model % self.n_heads:
            raise ValueError(f"d_model={self.d_model} is not divisible by n_heads={self.n_heads}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        if self.schedule not in ("cosine", "linear", "constant", "wsd"):
            raise ValueError(f"schedule must be cosine, linear, constant or wsd, got {self.schedule!r}")
        if self.fsdp and self.precision == "fp16":
            raise ValueError("fsdp with fp16 is not supported (the scaler would need every rank): use bf16")
        self.lr(0)  # what a schedule refuses is refused now, not when the data are read

    def lr(self, step: int) -> float:
        """Return the learning rate of the update that `step` others precede.

        It warms up for `warmup_steps` updates, at the most `steps` - 1, with wsd less the last fifth, which is its decay.
        """
        decay_steps = max(1, self.steps // 5) if self.schedule == "wsd" else 0
        warmup: dict[str, Any] = {
            "warmup_steps": max(0, min(self.warmup_steps, self.steps - 1 - decay_steps)),
            "peak_lr": self.peak_lr,
        }
        if self.schedule == "constant" or self.steps == 1:
            return warmup_constant(step, **warmup)
        whole = {**warmup, "total_steps": self.steps, "min_lr": self.min_lr}
        if self.schedule == "linear":
            return warmup_linear(step, **whole)
        if self.schedule == "wsd":
            return warmup_stable_decay(step, decay_steps=decay_steps, **whole)
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
