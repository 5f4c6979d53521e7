"""A complete training loop: read `train` from top to bottom, then what it calls.

    python training_loop.py --preset tiny --out runs/a
    torchrun --nproc-per-node 2 training_loop.py --preset tiny --out runs/b          # DDP; --fsdp for FSDP2

One rule explains most of it: a step is defined by the whole batch, `batch_size` windows. How many micro-batches or ranks
share the work changes memory and time, never the gradient: everything is summed, then divided by the number of valid
tokens in the whole batch, once.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import json
import math
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from char_gpt import CharGPT
from checkpoint import Checkpoint, CheckpointError
from distributed import (
    ShardedCheckpoint,
    World,
    full_tensor,
    gather_rng_states,
    gradient_sync,
    parallelize,
    plain_module,
    process_group,
    set_rng_state,
    sum_over_ranks,
)
from metrics import Reporter
from optimization import Ema, clip_gradients, parameter_groups
from schedules import warmup_constant, warmup_cosine, warmup_linear, warmup_stable_decay
from text_data import IGNORED, Windows, epoch_order, micro_batches, standard_library

__all__ = [
    "Config",
    "Progress",
    "Result",
    "Trainer",
    "evaluate",
    "weights_sha256",
    "train",
    "main",
]

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
MOST_SKIPPED = 3  # steps in a row without a finite gradient: the run is lost, stop it


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that determines a run."""

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

    def lr(self, step: int) -> float:
        """Return the learning rate of the update after `step` updates."""
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


@dataclass
class Progress:
    """How far a run is: with weights, optimizer and RNG states, all that resuming needs."""

    step: int = 0  # updates made; the schedule's argument
    epoch: int = 0
    position: int = 0  # windows of this epoch that are used up, over all ranks
    skipped: int = 0  # steps whose gradient was not finite
    skipped_in_a_row: int = 0
    train_loss: float = math.nan  # running average over about 20 steps, in nats per byte


@dataclass(frozen=True)
class StepReport:
    """What one call of `Trainer.step` did."""

    loss: float  # nats per valid token, over the whole batch
    gradient_norm: float  # before clipping
    lr: float
    n_tokens: int
    taken: bool  # False: the gradient was not finite, nothing was updated
    stop: bool  # some rank asked to stop


@dataclass(frozen=True)
class Result:
    """What `train` returns."""

    step: int
    train_loss: float
    val_bits_per_byte: float  # NaN if the run was stopped before its end
    weights_sha256: str
    skipped: int
    stopped: bool

    def __str__(self) -> str:
        return (
            f"final step={self.step} train_loss={self.train_loss:.4f} "
            f"val_bits_per_byte={self.val_bits_per_byte:.4f} weights_sha256={self.weights_sha256}"
        )


def train(config: Config) -> Result:
    """Train a `CharGPT` on the standard library, from the start or from where the last run in `config.out` stopped.

    Longer than a function should be, because it is the page to read: everything else is called from here.

    Raises
    ------
    ValueError
        If `config.out` holds a run and `config.resume` is off, or the run there had other settings.
    FloatingPointError
        If the gradient is not finite three times in a row; the message names the step.
    """
    with process_group() as world, _sigterm() as sigterm, _determinism(config.deterministic):
        # data: read once, cut into windows
        train_text, val_text = standard_library(config.data_bytes)
        windows, val_windows = Windows(train_text, config.context), Windows(val_text, config.context)
        run = _Run(config, world, fingerprint=hashlib.sha256(b"".join(train_text)).hexdigest())

        # model: the same weights on every rank, then different dropout
        torch.manual_seed(config.seed)
        model = CharGPT(
            context=config.context,
            d_model=config.d_model,
            n_layers=config.n_layers,
            n_heads=config.n_heads,
            dropout=config.dropout,
        )
        trainer = Trainer(model, config, world)
        torch.manual_seed(config.seed + 1 + world.rank)
        progress = trainer.progress
        run.load(trainer)

        # the loop
        with run.reporting(progress.step) as report:
            stopped, order, order_epoch = False, torch.empty(0), -1
            while progress.step < config.steps and not stopped:
                if order_epoch != progress.epoch:
                    order_epoch = progress.epoch
                    order = epoch_order(len(windows), seed=config.seed, epoch=order_epoch)
                indices = order[progress.position : progress.position + config.batch_size]
                dealt = micro_batches(
                    indices,
                    rank=world.rank,
                    n_ranks=world.size,
                    accumulate=config.accumulate,
                    batch_size=config.batch_size,
                )
                done = trainer.step([windows.batch(own) for own in dealt], stop=bool(sigterm))
                progress.position += len(indices)
                if progress.position >= len(windows):
                    progress.epoch, progress.position = progress.epoch + 1, 0
                if report:
                    if done.taken:
                        values = {"loss": done.loss, "lr": done.lr, "gradient_norm": done.gradient_norm}
                        report.step(progress.step, **values, n_tokens=done.n_tokens)
                    else:
                        report.skipped(progress.step, loss=done.loss)
                if progress.skipped_in_a_row >= MOST_SKIPPED:
                    raise FloatingPointError(
                        f"step {progress.step}: gradient not finite {MOST_SKIPPED} times in a row (loss {done.loss})"
                    )
                stopped = done.stop and progress.step < config.steps
                last = progress.step == config.steps
                if done.taken and progress.step % config.eval_every == 0 and not last:
                    run.evaluate(trainer, val_windows, report, limit=config.eval_windows)
                if stopped or last or (done.taken and progress.step % config.checkpoint_every == 0):
                    run.save(trainer)

            bits = math.nan if stopped else run.evaluate(trainer, val_windows, report)

        digest = weights_sha256(trainer.model)
        if world.size > 1 and not config.fsdp:
            _check_ranks_agree(digest, world)
        return Result(progress.step, progress.train_loss, bits, digest, progress.skipped, stopped)


class Trainer:
    """A model, its optimizer, gradient scaler and averaged weights, and the one step that moves all of them.

    Parameters
    ----------
    model : nn.Module
        Maps tokens (B, T) int64 to logits (B, T, classes). Of any floating dtype.
    config : Config
        Its optimization and machine settings are used.
    world : World
        This process among its peers.
    """

    def __init__(self, model: nn.Module, config: Config, world: World | None = None) -> None:
        self.config, self.world, self.progress = config, world or World(), Progress()
        model = model.to(self.world.device)
        if config.compile:
            model.compile()
        bf16 = config.precision == "bf16"
        self.model = parallelize(model, self.world, fsdp=config.fsdp, bf16=bf16)
        self.optimizer = torch.optim.AdamW(
            parameter_groups(plain_module(self.model), config.weight_decay),
            lr=config.peak_lr,
            betas=(0.9, 0.95),
            fused=True,
        )
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.scaler = torch.amp.GradScaler(self.world.device.type, enabled=config.precision == "fp16")
        self.ema = Ema(plain_module(self.model), config.ema_decay)

    def step(self, batches: Sequence[tuple[Tensor, Tensor]], *, stop: bool = False) -> StepReport:
        """Make one update from this rank's micro-batches, or skip it if the gradient is not finite.

        A skipped step is counted and leaves weights, optimizer, averages and schedule as they are; with fp16 the scaler
        halves its factor.

        Parameters
        ----------
        batches : sequence of (inputs, targets), each (B, T) int64
            Targets of -100 do not count. Every rank brings equally many micro-batches.
        stop : bool
            Whether this rank was asked to stop; the report says whether any was, so that all stop at the same step.
        """
        progress, device = self.progress, self.world.device
        n_tokens = sum(int((targets != IGNORED).sum()) for _, targets in batches)
        n_tokens, n_stop = sum_over_ranks(torch.tensor([n_tokens, int(stop)], device=device)).tolist()
        if n_tokens == 0:
            raise ValueError("no valid target in the whole batch")
        lr = self.config.lr(progress.step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr

        loss = self.forward_backward(batches, n_tokens)
        self.scaler.unscale_(self.optimizer)  # first: the limit is meant for true gradients
        norm = clip_gradients(self.parameters, self.config.clip)
        loss_value, norm_value = torch.stack(
            [loss, norm.to(loss.dtype)]
        ).tolist()  # the one wait for the device
        taken = math.isfinite(norm_value)
        if taken:
            self.scaler.step(self.optimizer)
            self.ema.update()
            progress.step += 1
            first = math.isnan(progress.train_loss)
            progress.train_loss = loss_value if first else 0.95 * progress.train_loss + 0.05 * loss_value
        progress.skipped += not taken
        progress.skipped_in_a_row = 0 if taken else progress.skipped_in_a_row + 1
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return StepReport(loss_value, norm_value, lr, n_tokens, taken, bool(n_stop))

    def forward_backward(self, batches: Sequence[tuple[Tensor, Tensor]], n_tokens: int) -> Tensor:
        """Leave in ``.grad`` the gradient (with fp16: scaled) of the loss per token; return that loss, over all ranks.

        loss = Σ over ranks, micro-batches and valid tokens of -log p(target) / n_tokens

        Dividing each micro-batch by its own count instead would give tokens in short ones more weight.

        Parameters
        ----------
        batches : as for `step`
        n_tokens : int
            Valid targets in the whole batch, over all micro-batches and ranks.
        """
        device, dtype = self.world.device, PRECISIONS[self.config.precision]
        total = torch.zeros((), device=device)
        for number, (inputs, targets) in enumerate(batches, start=1):
            inputs, targets = inputs.to(device, non_blocking=True), targets.to(device, non_blocking=True)
            with gradient_sync(self.model, enabled=number == len(batches)):
                with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                    logits = self.model(inputs)
                loss = _token_loss(logits, targets) / n_tokens
                # DDP and FSDP average over ranks; the sum is wanted
                self.scaler.scale(loss * self.world.size).backward()
            total = total + loss.detach()
        return sum_over_ranks(total)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next step depends on, as plain data. A collective."""
        return {
            "model": plain_module(self.model).state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema": self.ema.state_dict(),
            "progress": asdict(self.progress),
            "rng": gather_rng_states(self.world.device),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned; ranks that the run did not have keep their fresh RNG."""
        plain_module(self.model).load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.ema.load_state_dict(state["ema"])
        for name, value in state["progress"].items():
            setattr(self.progress, name, value)
        if self.world.rank < len(state["rng"]):
            set_rng_state(state["rng"][self.world.rank], self.world.device)

    def sharded_state(self) -> dict[str, Any]:
        """Return the same for FSDP, as tensors only; model, optimizer and averages are live: filling them loads them."""
        parameters = dict(self.model.named_parameters())
        for p in parameters.values():
            if not self.optimizer.state[
                p
            ]:  # AdamW makes its state in the first step; loading needs it before
                step = torch.zeros((), device=self.world.device)
                moments = {
                    name: torch.zeros_like(p, requires_grad=False) for name in ("exp_avg", "exp_avg_sq")
                }
                self.optimizer.state[p] = {"step": step, **moments}
        numbers = [*asdict(self.progress).values(), self.ema.n_updates]
        return {
            "model": {name: p.detach() for name, p in parameters.items()},
            "optimizer": {name: dict(self.optimizer.state[p]) for name, p in parameters.items()},
            "ema": self.ema.state_dict()["averages"],
            "numbers": torch.tensor(numbers, dtype=torch.float64),
            "rng": {str(self.world.rank): gather_rng_states(self.world.device)[self.world.rank]},
        }

    def load_sharded(self, store: ShardedCheckpoint) -> bool:
        """Continue from the newest sharded checkpoint, written by any number of ranks; False if there is none."""
        state = self.sharded_state()
        if not store.load(state):
            return False
        *progress, n_updates = state["numbers"].tolist()
        for field, value in zip(dataclasses.fields(Progress), progress, strict=True):
            setattr(self.progress, field.name, value if field.name == "train_loss" else int(value))
        self.ema.n_updates = int(n_updates)
        set_rng_state(state["rng"][str(self.world.rank)], self.world.device)
        return True


def evaluate(
    model: nn.Module,
    windows: Windows,
    *,
    batch_size: int,
    world: World | None = None,
    limit: int | None = None,
) -> float:
    """Return the bits per byte of `model` on `windows`, the same for every batch size and number of ranks.

    Σ -log2 p(target) / number of targets, each summed over all batches and ranks before dividing: batches have unequal
    numbers of targets, so an average of averages would be another number.

    Parameters
    ----------
    model : nn.Module
        Put into eval mode for the call; afterwards every submodule is in the mode it was in.
    windows : Windows
    batch_size : int
        Windows per forward pass and rank.
    world : World
        Each rank takes its share; every rank must call.
    limit : int, optional
        Only that many windows, evenly spread.
    """
    world = world or World()
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    step = max(1, len(windows) // limit) if limit else 1
    indices = torch.arange(0, len(windows), step)[:limit]
    total = torch.zeros(2, dtype=torch.float64, device=world.device)
    try:
        with torch.no_grad():
            for part in indices.split(batch_size * world.size):
                (own,) = micro_batches(
                    part, rank=world.rank, n_ranks=world.size, accumulate=1, batch_size=len(part) + world.size
                )
                inputs, targets = (t.to(world.device) for t in windows.batch(own))
                total[0] += _token_loss(model(inputs), targets)
                total[1] += (targets != IGNORED).sum()
    finally:
        for module, mode in modes:
            module.training = mode
    nats, n_targets = sum_over_ranks(total).tolist()
    return float(nats / n_targets / math.log(2))


def weights_sha256(model: nn.Module) -> str:
    """Return a SHA-256 over names, dtypes, shapes and bytes of all parameters; with FSDP a collective.

    Wrapping in DDP or FSDP does not change it.
    """
    digest = hashlib.sha256()
    for name, parameter in plain_module(model).named_parameters():
        tensor = full_tensor(parameter.detach()).cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return Σ -log p(target) over the valid tokens, computed in float32 or better."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return nn.functional.cross_entropy(
        logits.flatten(0, -2), targets.flatten(), ignore_index=IGNORED, reduction="sum"
    )


class _Run:
    """The folder of a run: its settings, its checkpoints, its reports."""

    def __init__(self, config: Config, world: World, fingerprint: str) -> None:
        self.config, self.world, self.folder = config, world, Path(config.out)
        kind: type[Checkpoint] | type[ShardedCheckpoint] = ShardedCheckpoint if config.fsdp else Checkpoint
        self.store = kind(self.folder / "checkpoints", keep=config.keep_checkpoints)
        # what must not change in mid-run; Python's version is in the text
        fixed = ("seed", "context", "d_model", "n_layers", "n_heads", "data_bytes", "batch_size", "fsdp")
        identity = {**{name: getattr(config, name) for name in fixed}, "text_sha256": fingerprint}
        settings = self.folder / "run.json"
        restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0  # by torchrun --max-restarts
        exists = any(path.suffix != ".tmp" for path in self.store.folder.glob("step-*"))
        if exists and not (config.resume or restarted):
            raise ValueError(f"{self.folder} holds a run: --resume continues it, or choose another --out")
        if exists and settings.exists():
            before = json.loads(settings.read_text(encoding="utf-8"))
            changed = [f"{k}: {before.get(k)} -> {v}" for k, v in identity.items() if before.get(k) != v]
            if changed:
                raise CheckpointError(f"{self.folder} was started with other settings: {'; '.join(changed)}")
        elif world.rank == 0:
            temporary = settings.with_suffix(".tmp")  # renamed when whole: another rank may be reading
            temporary.write_text(json.dumps(identity, indent=1) + "\n", encoding="utf-8")
            os.replace(temporary, settings)

    def load(self, trainer: Trainer) -> None:
        if isinstance(self.store, ShardedCheckpoint):
            found = trainer.load_sharded(self.store)
        else:
            state = self.store.load()
            found = state is not None
            if state is not None:
                trainer.load_state_dict(state)
        if found and self.world.rank == 0:
            progress = trainer.progress
            print(
                f"resumed at step {progress.step}, epoch {progress.epoch}, window {progress.position}",
                flush=True,
            )

    def save(self, trainer: Trainer) -> None:
        if isinstance(self.store, ShardedCheckpoint):
            self.store.save(trainer.progress.step, trainer.sharded_state())
        else:
            state = trainer.state_dict()
            if self.world.rank == 0:
                self.store.save(trainer.progress.step, state)

    @contextlib.contextmanager
    def reporting(self, first_step: int) -> Iterator[Reporter | None]:
        """Give rank 0 a reporter, and finish its files however the block ends."""
        if self.world.rank != 0:
            yield None
            return
        total = self.config.steps
        report = Reporter(self.folder, first_step=first_step, total_steps=total, live=self.config.live)
        try:
            yield report
        finally:
            report.close()

    def evaluate(
        self, trainer: Trainer, windows: Windows, report: Reporter | None, limit: int | None = None
    ) -> float:
        """Evaluate the averaged weights, and let them write a little."""
        model = trainer.model if self.config.fsdp else plain_module(trainer.model)
        generator = torch.Generator().manual_seed(self.config.seed)  # not the one that dropout draws from
        with trainer.ema.applied():
            bits = evaluate(model, windows, batch_size=64, world=self.world, limit=limit)
            sample = b""
            if self.config.live:
                model.eval()
                sample = plain_module(model).generate(b"def ", 160, generator=generator)  # type: ignore[operator]
                model.train()
        if report:
            report.evaluation(trainer.progress.step, val_bits_per_byte=bits, sample=sample)
        return bits


class _Flag:
    """Becomes true when a signal arrives; the loop looks at it between steps, where everything is consistent."""

    def __init__(self) -> None:
        self.is_set = False

    def __bool__(self) -> bool:
        return self.is_set

    def __call__(self, *_: Any) -> None:
        self.is_set = True


@contextlib.contextmanager
def _sigterm() -> Iterator[_Flag]:
    """Catch SIGTERM, which schedulers send some seconds before they kill."""
    flag = _Flag()
    previous = signal.signal(signal.SIGTERM, flag)
    try:
        yield flag
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextlib.contextmanager
def _determinism(enabled: bool) -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    if enabled:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def _check_ranks_agree(digest: str, world: World) -> None:
    """Raise if some rank's weights differ: then gradients were not averaged, or an update was not made by all."""
    own = torch.tensor(list(bytes.fromhex(digest)), device=world.device)
    if not torch.equal(sum_over_ranks(own), own * world.size):
        raise RuntimeError(f"rank {world.rank}: the ranks' weights differ at the end")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description="Train a character-level GPT on Python's standard library.")
    parser.add_argument("--preset", choices=PRESETS, default="tiny")
    parser.add_argument("--out", required=True, help="folder of the run")
    parser.add_argument("--steps", type=int, help="updates in the whole run")
    parser.add_argument("--resume", action="store_true", help="continue the run in --out, if there is one")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--precision", choices=PRECISIONS)
    parser.add_argument("--accumulate", type=int, metavar="N", help="micro-batches per update and rank")
    parser.add_argument("--clip", type=float, metavar="NORM", help="largest gradient norm")
    parser.add_argument("--schedule", choices=["cosine", "linear", "constant", "wsd"])
    parser.add_argument("--compile", action="store_true", help="torch.compile the model")
    parser.add_argument("--checkpoint-every", type=int, metavar="N", help="updates between checkpoints")
    parser.add_argument("--deterministic", action="store_true", help="refuse nondeterministic operations")
    parser.add_argument("--fsdp", action="store_true", help="FSDP2 instead of DDP (under torchrun)")
    options = {name: value for name, value in vars(parser.parse_args(arguments)).items() if value is not None}
    preset = options.pop("preset")
    if preset == "gpu" and not torch.cuda.is_available():
        parser.error("--preset gpu needs a CUDA device")
    try:
        result = train(Config(**{**PRESETS[preset], **options}))
    except (ValueError, FloatingPointError) as problem:
        print(f"training_loop: {problem}", file=sys.stderr)
        return 1
    if int(os.environ.get("RANK", 0)) == 0:
        stopped = f"SIGTERM: stopped after step {result.step}, checkpoint written; --resume continues"
        print(stopped if result.stopped else result, flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
