"""The training loop of a long run: read `train` from top to bottom, then what it calls.

    python run.py --preset tiny --out runs/a
    torchrun --nproc-per-node 2 run.py --preset tiny --out runs/b          # DDP; --fsdp for FSDP2

A step is defined by the whole batch, `batch_size` windows. How many micro-batches or ranks share the work changes memory and
time, never the gradient: everything is summed, then divided by the number of valid tokens in the whole batch, once.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import math
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from char_gpt import CharGPT
from checkpoint import Checkpoint, CheckpointError, replace_file
from distributed import ShardedCheckpoint, World, plain_module, process_group, sum_over_ranks
from metrics import Reporter
from settings import PRESETS, Config
from text_data import Windows, epoch_order, micro_batches, standard_library
from trainer import Trainer, evaluate, weights_sha256
from training_loop import PRECISIONS

__all__ = ["Result", "train", "main"]

MOST_SKIPPED = 3  # steps in a row without a finite gradient: the run is lost, stop it
# in mid-run
FIXED = ("seed", "context", "d_model", "n_layers", "n_heads", "data_bytes", "batch_size", "fsdp")


@dataclass(frozen=True)
class Result:
    """What `train` returns; as text it is the final line of the program.

    ``final step=… train_loss=… val_bits_per_byte=… weights_sha256=…``, the two in the middle with four digits after the point.
    """

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
        If `config.out` holds a run and `config.resume` is off (the message says ``--resume``), or if that run had
        another model, data, batch, seed or kind of checkpoint, or has made more than `config.steps` (the message names the
        setting). All other settings are those of this call. Also if ``run.json``, which holds them, is damaged (the message
        names it); where it is missing, a line says so and they are taken for granted.
    FloatingPointError
        If the gradient is not finite three times in a row; the message names the step. With fp16, steps that a smaller scale
        may mend do not count: those with a finite loss, as long as the scale is above 1e-4.
    """
    with process_group() as world, _asked_to_stop() as asked, _determinism(config.deterministic):
        # data: read once, cut into windows
        train_text, val_text = standard_library(config.data_bytes)
        windows, val_windows = Windows(train_text, config.context), Windows(val_text, config.context)
        identity = {name: getattr(config, name) for name in FIXED}
        identity["text_sha256"] = hashlib.sha256(
            b"".join(train_text)
        ).hexdigest()  # Python's version is in the text
        store = _open_folder(config, world, identity)

        # model: the same weights on every rank, then different dropout
        torch.manual_seed(config.seed)
        trainer = Trainer(_model(config), config, world)
        torch.manual_seed(config.seed + 1 + world.rank)
        progress = trainer.progress
        if _load(store, trainer) and world.rank == 0:
            where = f"step {progress.step}, epoch {progress.epoch}, window {progress.position}"
            print(f"resumed at {where}", flush=True)
        if progress.step > config.steps:
            raise ValueError(f"steps={config.steps}, but the run in {config.out} has made {progress.step}")
        if world.rank == 0:
            replace_file(Path(config.out, "run.json"), (json.dumps(identity, indent=1) + "\n").encode())

        # the loop
        with _reporting(config, world, progress.step) as report:
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
                done = trainer.step([windows.batch(own) for own in dealt], stop=bool(asked))
                progress.position += len(indices)
                if progress.position >= len(windows):
                    progress.epoch, progress.position = progress.epoch + 1, 0
                if report and done.taken:
                    values = {"loss": done.loss, "lr": done.lr, "gradient_norm": done.gradient_norm}
                    report.step(progress.step, **values, n_tokens=done.n_tokens)
                elif report:
                    report.skipped(progress.step, loss=done.loss)
                if progress.skipped_in_a_row >= MOST_SKIPPED:
                    what = f"gradient not finite {MOST_SKIPPED} times in a row (loss {done.loss})"
                    raise FloatingPointError(f"step {progress.step}: {what}")
                stopped = done.stop and progress.step < config.steps
                last = progress.step == config.steps
                if done.taken and progress.step % config.eval_every == 0 and not last:
                    _evaluate(trainer, val_windows, report, limit=config.eval_windows)
                if stopped or last or (done.taken and progress.step % config.checkpoint_every == 0):
                    _save(store, trainer)

            bits = math.nan if stopped else _evaluate(trainer, val_windows, report)

        digest = weights_sha256(trainer.model)
        if world.size > 1 and not config.fsdp:
            _check_ranks_agree(digest, world)
        return Result(progress.step, progress.train_loss, bits, digest, progress.skipped, stopped)


def _open_folder(config: Config, world: World, identity: dict[str, Any]) -> Checkpoint | ShardedCheckpoint:
    """Return the store of the checkpoints of `config.out`, once it is clear that this run may go on there."""
    folder = Path(config.out)
    kind: type[Checkpoint] | type[ShardedCheckpoint] = ShardedCheckpoint if config.fsdp else Checkpoint
    store = kind(folder / "checkpoints", keep=config.keep_checkpoints)
    settings = folder / "run.json"
    restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0  # by torchrun --max-restarts
    exists = any(path.suffix != ".tmp" for path in store.folder.glob("step-*"))
    if exists and not (config.resume or restarted):
        raise ValueError(f"{folder} holds a run: --resume continues it, or choose another --out")
    if exists and settings.exists():
        before = _read_settings(settings, expected=identity)
        changed = [f"{k}: {before[k]!r} -> {v!r}" for k, v in identity.items() if before[k] != v]
        if changed:
            raise CheckpointError(f"{folder} was started with other settings: {'; '.join(changed)}")
    elif exists and world.rank == 0:
        print(f"{settings} is missing: the settings of this call are taken for those of the run", flush=True)
    return store


def _read_settings(path: Path, expected: dict[str, Any]) -> dict[str, Any]:
    """Return what run.json holds; CheckpointError, with the remedy, if that is not what `train` wrote."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        problem = "" if isinstance(found, dict) and expected.keys() <= found.keys() else "it lacks settings"
    except (ValueError, OSError) as error:
        problem = str(error)
    if problem:
        remedy = "the checkpoints are not touched by that: remove it to go on with the settings of this call"
        raise CheckpointError(f"{path} is damaged ({problem}); {remedy}")
    return found


def _model(config: Config) -> CharGPT:
    sizes = ("context", "d_model", "n_layers", "n_heads", "dropout")
    return CharGPT(**{name: getattr(config, name) for name in sizes})


def _load(store: Checkpoint | ShardedCheckpoint, trainer: Trainer) -> bool:
    """Go on from the newest checkpoint; return whether there is one."""
    if isinstance(store, ShardedCheckpoint):
        # tensors to fill: a sharded checkpoint does not know on how many ranks it is read
        own = trainer.state_dict()
        state = own if store.load(own) else None
    else:
        state = store.load()
    if state is not None:
        trainer.load_state_dict(state)
    return state is not None


def _save(store: Checkpoint | ShardedCheckpoint, trainer: Trainer) -> None:
    state = trainer.state_dict()
    if isinstance(store, ShardedCheckpoint) or trainer.world.rank == 0:
        store.save(trainer.progress.step, state)


@contextlib.contextmanager
def _reporting(config: Config, world: World, first_step: int) -> Iterator[Reporter | None]:
    """Give rank 0 a reporter, and finish its files however the block ends."""
    if world.rank != 0:
        yield None
        return
    report = Reporter(Path(config.out), first_step=first_step, total_steps=config.steps, live=config.live)
    try:
        yield report
    finally:
        report.close()


def _evaluate(trainer: Trainer, windows: Windows, report: Reporter | None, limit: int | None = None) -> float:
    """Evaluate the averaged weights, and let them write a little."""
    config = trainer.config
    model = trainer.model if config.fsdp else plain_module(trainer.model)
    generator = torch.Generator().manual_seed(config.seed)  # not the one that dropout draws from
    with trainer.ema.applied():
        bits = evaluate(model, windows, batch_size=64, world=trainer.world, limit=limit)
        sample = b""
        if config.live:
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

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.is_set = True


@contextlib.contextmanager
def _asked_to_stop() -> Iterator[_Flag]:
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
    """Run the command line; return the exit status.

    0 with the `Result` as the last line, or after SIGTERM with a line that says so and names ``--resume``; 1 with the
    message on the standard error after ValueError, FloatingPointError or OSError (no such disk, no space left).
    """
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
    except (ValueError, FloatingPointError, OSError) as problem:
        print(f"training_loop: {problem}", file=sys.stderr)
        return 1
    if int(os.environ.get("RANK", 0)) == 0:
        stopped = f"SIGTERM: stopped after step {result.step}, checkpoint written; --resume continues"
        print(stopped if result.stopped else result, flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
