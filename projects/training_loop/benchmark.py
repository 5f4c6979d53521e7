"""Tokens per second of the loop beside a bare one (forward, backward, step, nothing else), and what checkpoints cost.

`python benchmark.py` measures on the CPU with one thread; `python benchmark.py --gpu` on a CUDA device, with the model of
the preset `gpu` in bfloat16. All train the same model on the same batches: the bare loop and the plain one (training_step of
training_loop.py) have them ready as tensors, ours, run.py, cuts them out of the text, counts tokens, clips, averages weights,
checks for NaN and writes metrics.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch

from char_gpt import CharGPT
from checkpoint import read_checkpoint, write_checkpoint
from distributed import World
from metrics import Reporter
from optimization import clip_gradients
from settings import PRESETS, Config
from text_data import Windows, epoch_order, micro_batches, standard_library
from trainer import Trainer
from training_loop import Config as PlainConfig
from training_loop import parameter_groups, training_step

sys.path.append(str(Path(__file__).resolve().parents[2]))  # the repository root, for shared/
from shared.measuring.benchmark import Benchmark

GPU = "--gpu" in sys.argv
if GPU:
    sys.argv.remove("--gpu")


BLOCK = 25  # updates in a sample: long enough for the clock, and one of them writes to TensorBoard


def block(update: Callable[[], None], n_updates: int) -> Callable[[], None]:
    """Return a call that makes that many updates."""

    def updates() -> None:
        for _ in range(n_updates):
            update()

    return updates


def gpt(config: Config) -> CharGPT:
    """Return the model of a configuration, the same each time."""
    torch.manual_seed(0)
    return CharGPT(
        context=config.context, d_model=config.d_model, n_layers=config.n_layers, n_heads=config.n_heads
    )


def full_loop(
    config: Config, world: World, windows: Windows, folder: Path, *, without: Collection[str] = ()
) -> Callable[[], None]:
    """Return one update as `train` makes it, records included; parts of it can be left out."""
    folder.mkdir(exist_ok=True)
    trainer = Trainer(gpt(config), config, world)
    report = Reporter(folder, first_step=0, total_steps=config.steps, live=True)
    if "clipping" in without:
        trainer.parameters = trainer.parameters[:1]  # of one small tensor: nearly nothing
    if "averaged weights" in without:
        trainer.ema.update = lambda: None  # type: ignore[method-assign]
    record = (lambda *_, **__: None) if "records" in without else report.step
    order = epoch_order(len(windows), seed=0, epoch=0)
    position = 0

    def update() -> None:
        nonlocal position
        indices = order[position : position + config.batch_size]
        position = (position + config.batch_size) % (len(windows) - config.batch_size)
        dealt = micro_batches(
            indices, rank=0, n_ranks=1, accumulate=config.accumulate, batch_size=config.batch_size
        )
        done = trainer.step([windows.batch(own) for own in dealt])
        record(
            trainer.progress.step,
            loss=done.loss,
            lr=done.lr,
            gradient_norm=done.gradient_norm,
            n_tokens=done.n_tokens,
        )

    return update


def ready_batches(config: Config, world: World, windows: Windows) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return 64 batches on the device."""
    order = epoch_order(len(windows), seed=0, epoch=0)
    batches = [windows.batch(part) for part in order[: config.batch_size * 64].split(config.batch_size)]
    return [(inputs.to(world.device), targets.to(world.device)) for inputs, targets in batches]


def plain_loop(config: Config, world: World, windows: Windows) -> Callable[[], None]:
    """Return one step of training_loop.py."""
    model = gpt(config).to(world.device)
    optimizer = torch.optim.AdamW(parameter_groups(model, config.weight_decay), betas=(0.9, 0.95))
    scaler = torch.amp.GradScaler(world.device.type, enabled=False)
    settings = PlainConfig(steps=config.steps, peak_lr=config.peak_lr, precision=config.precision)
    batches = ready_batches(config, world, windows)
    number = 0

    def update() -> None:
        nonlocal number
        inputs, targets = batches[number % len(batches)]
        number += 1
        cut = zip(inputs.chunk(config.accumulate), targets.chunk(config.accumulate), strict=True)
        training_step(model, optimizer, scaler, list(cut), 1e-3, settings)

    return update


def bare_loop(config: Config, world: World, windows: Windows) -> Callable[[], None]:
    """Return forward, backward, step."""
    model = gpt(config).to(world.device)
    optimizer = torch.optim.AdamW(parameter_groups(model, config.weight_decay), lr=1e-3, fused=True)
    batches = ready_batches(config, world, windows)
    number = 0
    half = config.precision == "bf16"

    def update() -> None:
        nonlocal number
        inputs, targets = batches[number % len(batches)]
        number += 1
        with torch.autocast(world.device.type, torch.bfloat16, enabled=half):
            logits = model(inputs)
            loss = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), targets.flatten(), ignore_index=-100
            )
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if GPU:
            torch.cuda.synchronize()

    return update


def time_parts(bench: Benchmark, world: World, windows: Windows, folder: Path) -> None:
    """Record what each part of an update of the preset tiny takes."""
    config = Config(out=str(folder), **PRESETS["tiny"])
    trainer = Trainer(gpt(config), config, world)
    report = Reporter(folder, first_step=0, total_steps=config.steps, live=True)
    order = epoch_order(len(windows), seed=0, epoch=0)[: config.batch_size]
    batch = windows.batch(order)
    trainer.forward_backward([batch], batch[1].numel())
    step = 0

    def records() -> None:
        nonlocal step
        step += 1
        report.step(step, loss=1.0, lr=1e-3, gradient_norm=1.0, n_tokens=512)

    def clear_and_compute() -> None:
        gradients = [p.grad for p in trainer.parameters]  # those that the other parts work on
        trainer.optimizer.zero_grad(set_to_none=True)
        trainer.forward_backward([batch], batch[1].numel())
        for p, gradient in zip(trainer.parameters, gradients, strict=True):
            p.grad = gradient

    parts: dict[str, Callable[[], Any]] = {
        "forward, backward": clear_and_compute,
        "AdamW": lambda: trainer.optimizer.step(),
        "clipping": lambda: clip_gradients(trainer.parameters, config.clip),
        "averaged weights": trainer.ema.update,
        "cutting windows": lambda: windows.batch(order),
        "records": records,
    }
    medians = {name: statistics.median(times) for name, times in bench.time(parts, rounds=30).items()}
    for name, seconds in medians.items():
        share = seconds / sum(medians.values())
        bench.record(
            "where an update of tiny goes, each part alone",
            name,
            {"ms": f"{seconds * 1e3:.3f}", "share": f"{share:.1%}"},
        )


def leave_parts_out(bench: Benchmark, world: World, windows: Windows, folder: Path) -> None:
    """Record what the bare loop, the whole one, and the whole one without a part take: what is left is the loop itself."""
    config = Config(out=str(folder), **{**PRESETS["tiny"], "dropout": 0.0})
    parts = ("clipping", "averaged weights", "records")
    left_out: dict[str, tuple[str, ...]] = {"nothing": ()} | {part: (part,) for part in parts}
    left_out |= {"all three": parts}
    calls = {"all but forward, backward, step": block(bare_loop(config, world, windows), BLOCK)} | {
        name: block(full_loop(config, world, windows, folder / name, without=without), BLOCK)
        for name, without in left_out.items()
    }
    times = bench.time(calls, rounds=20)
    bare, *_ = times.values()
    for name, seconds in times.items():
        over = statistics.median(own / other for own, other in zip(seconds, bare, strict=True))
        bench.record(
            "an update of tiny with a part left out",
            name,
            {"ms": f"{statistics.median(seconds) / BLOCK * 1e3:.3f}", "of the bare loop": f"{over:.1%}"},
        )


def main() -> None:
    """Measure, and write results/ and the tables of the README."""
    bench = Benchmark(__file__, threads=1, device=torch.cuda.get_device_name(0) if GPU else None)
    world = World(device=torch.device("cuda" if GPU else "cpu"))
    text, _ = standard_library(4_000_000)
    with tempfile.TemporaryDirectory() as temporary:
        sizes: dict[str, tuple[int, dict[str, Any]]] = {  # updates in a sample, settings
            "tiny": (BLOCK, {}),
            "tiny, 4 micro-batches (bare loop: one batch)": (BLOCK, {"accumulate": 4}),
            "small, batch of 8": (1, {"batch_size": 8}),
        }
        if GPU:
            sizes = {"gpu": (BLOCK, {})}
        for name, (n_updates, options) in sizes.items():
            folder = Path(temporary) / name
            config = Config(out=str(folder), **{**PRESETS[name.split(",")[0]], "dropout": 0.0, **options})
            windows = Windows(text, config.context)
            n_tokens = config.batch_size * config.context
            bench.compare(
                "updates",
                f"{name}: {n_updates} of {n_tokens:,} tokens",
                ours=block(full_loop(config, world, windows, folder), n_updates),
                peers={
                    "bare loop": block(bare_loop(config, world, windows), n_updates),
                    "plain": block(plain_loop(config, world, windows), n_updates),
                },
                targets=None if "accumulate" in options else {"bare loop": 0.98},
                rounds=30 if name == "tiny" else 12,
            )

        if not GPU:
            windows = Windows(text, Config(out="").context)
            time_parts(bench, world, windows, Path(temporary))
            leave_parts_out(bench, world, windows, Path(temporary))
        config = Config(out=temporary, **PRESETS["gpu" if GPU else "tiny"])
        trainer = Trainer(gpt(config), config, world)
        trainer.step([Windows(text, config.context).batch(range(4))])
        state, path = trainer.state_dict(), Path(temporary) / "a.pt"
        plain = Path(temporary) / "plain.pt"
        bench.compare(
            "checkpoint",
            "write: checksum, fsync, rename",
            ours=lambda: write_checkpoint(path, state),
            peers={"torch.save alone": lambda: torch.save(state, plain)},
        )
        bench.compare(
            "checkpoint",
            "read: checksum, weights only",
            ours=lambda: read_checkpoint(path),
            peers={"torch.load alone": lambda: torch.load(plain, weights_only=True)},
        )
        n_parameters = sum(p.numel() for p in trainer.model.parameters())
        size = path.stat().st_size
        bench.record(
            "checkpoint size",
            f"{n_parameters:,} parameters",
            {"file": f"{size / 1e6:.2f} MB", "bytes per parameter": f"{size / n_parameters:.1f}"},
        )
    bench.save()


if __name__ == "__main__":
    main()
