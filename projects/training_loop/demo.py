"""What the loop does, on real input: the standard library's source.

1. A run of the preset `tiny`: loss curve, bits per byte beside a bigram model, a text sample. Without ``--save`` it makes a
   third of the updates, so that the demo takes less than 40 seconds; the committed numbers are those of the whole preset.
2. The four schedules.
3. Clipping: one bad batch, with and without.
4. Mixed precision: what float16 flushes to zero, and which updates bfloat16 weights do not notice.
5. Gradient accumulation with unequal micro-batches; stopping and resuming, with and without the state of the generators.
6. DDP and FSDP: who holds what, and the bytes on the wire.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import platform
import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from matplotlib.patches import FancyBboxPatch

from char_gpt import CharGPT
from metrics import Reporter
from run import train
from settings import PRESETS, Config
from text_data import Windows, bigram_bits_per_byte, epoch_order, standard_library
from trainer import Trainer

sys.path.append(str(Path(__file__).resolve().parents[2]))  # the repository root, for shared/
from shared.measuring.demo import Demo

BLUE, SKY, ORANGE, GREEN, RED, GREY = "#0072b2", "#56b4e9", "#e69f00", "#009e73", "#d55e00", "#7f7f7f"
SAVING = "--save" in sys.argv


def run_tiny(demo: Demo) -> None:
    """Train the preset `tiny` as the command line does, and compare with counting pairs of bytes."""
    out = demo.build / "tiny"
    shutil.rmtree(out, ignore_errors=True)
    config = Config(out=str(out), **PRESETS["tiny"])
    if not SAVING:
        config = dataclasses.replace(config, steps=config.steps // 3)
    start = time.perf_counter()
    result = train(config)
    seconds = time.perf_counter() - start
    if result.stopped:  # SIGTERM: the numbers would be those of half a run
        raise SystemExit("stopped")
    text, val_text = standard_library(config.data_bytes)
    bigram = bigram_bits_per_byte(text, val_text)
    demo.console.print(str(result), highlight=False)
    demo.number("steps", result.step, ",.0f", "updates")
    demo.number("seconds", seconds, ".0f", "seconds from start to final line")
    demo.number("val_bits", result.val_bits_per_byte, ".2f", "validation, bits per byte")
    demo.number("bigram_bits", bigram, ".2f", "the bigram model on the same split, bits per byte")
    demo.number("better", 1 - result.val_bits_per_byte / bigram, ".0%", "fewer bits than the bigram model")
    demo.table(
        "machine",
        ["", ""],
        [["Python whose library is read", platform.python_version()], ["torch", torch.__version__]],
    )

    reporter = Reporter(out, first_step=result.step, total_steps=result.step, live=False)
    records = reporter.records()
    reporter.close()
    draw_loss_curve(demo, records, bigram, config.clip)


def draw_loss_curve(demo: Demo, records: list[dict[str, Any]], bigram: float, clip: float) -> None:
    """Draw what the run wrote down, and count the updates whose gradient was clipped."""
    steps = [r for r in records if "loss" in r]
    evaluations = [(r["step"], r["val_bits_per_byte"]) for r in records if "val_bits_per_byte" in r]
    norms = sorted(r["gradient_norm"] for r in steps)
    clipped = sum(n > clip for n in norms) / len(norms)
    demo.number("clipped", clipped, ".0%", "updates whose gradient was clipped")
    demo.number("norm_median", norms[len(norms) // 2], ".2f", "median gradient norm")
    demo.number("norm_largest", norms[-1], ".1f", "largest gradient norm")

    fig, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    x = [r["step"] for r in steps]
    axes[0].plot(
        x, [r["loss"] / math.log(2) for r in steps], color=SKY, linewidth=0.7, label="training, each update"
    )
    style = {"color": RED, "marker": "o", "markersize": 4, "label": "validation, averaged weights"}
    axes[0].plot(*zip(*evaluations, strict=True), **style)
    axes[0].axhline(bigram, color=GREY, linestyle="--", label="bigram model")
    axes[0].set(xlabel="update", ylabel="bits per byte", title="Loss")
    axes[0].legend()
    axes[1].semilogy(x, [r["gradient_norm"] for r in steps], color=BLUE, linewidth=0.7, label="gradient norm")
    axes[1].axhline(clip, color=ORANGE, linestyle="--", label="limit of clipping")
    axes[1].semilogy(x, [r["lr"] * 100 for r in steps], color=GREEN, label="learning rate × 100")
    axes[1].set(xlabel="update", title="Gradient norm before clipping, and learning rate")
    axes[1].legend()
    demo.figure(
        "loss_curve",
        fig,
        alt="Left: training and validation loss fall below the dashed line of the bigram model. "
        "Right: the gradient norm, mostly under the clipping limit, and the warmup and cosine of the learning rate.",
        caption="A small GPT falls below the bigram model. The preset tiny on the standard library's source.",
    )


def draw_schedules(demo: Demo) -> None:
    """Draw the four schedules with the same peak, warmup and length."""
    fig, axis = plt.subplots(figsize=(8, 3.2), layout="constrained")
    styles = {"cosine": (BLUE, "-"), "linear": (ORANGE, "--"), "constant": (GREY, ":"), "wsd": (GREEN, "-.")}
    for schedule, (colour, style) in styles.items():
        config = Config(out="", schedule=schedule, steps=1000, warmup_steps=100, peak_lr=1e-3, min_lr=1e-4)
        axis.plot([config.lr(step) for step in range(1000)], style, color=colour, label=schedule)
    axis.set(xlabel="step", ylabel="learning rate", ylim=(0, None))
    axis.legend(ncols=4, loc="lower center")
    demo.figure(
        "schedules",
        fig,
        alt="Four curves that rise together for 100 steps: then constant stays, linear falls in a line, cosine falls "
        "slowly, fast, slowly, and wsd stays until step 800 and falls in a line.",
        caption="All schedules warm up; they differ in when they decay.",
    )


def small_trainer(**options: Any) -> tuple[Trainer, Windows, Config]:
    """Return a trainer of a model that makes an update in a few milliseconds."""
    settings = {"context": 32, "d_model": 32, "n_layers": 2, "n_heads": 2}
    settings |= {"batch_size": 16, "data_bytes": 400_000}
    config = Config(out="", steps=240, **{**settings, **options})
    torch.manual_seed(0)
    model = CharGPT(context=32, d_model=32, n_layers=2, n_heads=2)
    text, _ = standard_library(config.data_bytes)
    return Trainer(model, config), Windows(text, config.context), config


def losses(trainer: Trainer, windows: Windows, config: Config, bad_step: int | None = None) -> list[float]:
    """Train and return the losses; at `bad_step` every gradient is a thousand times too large."""
    order, found = epoch_order(len(windows), seed=0, epoch=0), []
    parameters = list(trainer.model.parameters())
    for step in range(config.steps):
        hooks = [p.register_hook(lambda g: 1000 * g) for p in parameters] if step == bad_step else []
        indices = order[step * config.batch_size : (step + 1) * config.batch_size]
        found.append(trainer.step([windows.batch(indices)]).loss / math.log(2))
        for hook in hooks:
            hook.remove()
    return found


def show_clipping(demo: Demo) -> None:
    """One batch in the middle of a run has a gradient a thousand times too large."""
    fig, axis = plt.subplots(figsize=(8, 3.2), layout="constrained")
    ends = {}
    for label, clip, bad, colour in [
        ("no bad batch", 1.0, None, GREY),
        ("bad batch, clipped", 1.0, 80, GREEN),
        ("bad batch, not clipped", 1e9, 80, RED),
    ]:
        curve = losses(*small_trainer(clip=clip, schedule="constant"), bad_step=bad)
        smooth = [statistics.mean(curve[max(0, k - 9) : k + 1]) for k in range(len(curve))]
        axis.plot(smooth, color=colour, label=label, linewidth=4 if bad is None else 1.5)
        ends[label] = sum(curve[110:130]) / 20
    axis.axvline(80, color=ORANGE, linewidth=0.8)
    axis.set(xlabel="update", ylabel="training loss, bits per byte")
    axis.legend()
    demo.figure(
        "clipping",
        fig,
        alt="Three loss curves; after update 80 the one without clipping stays flat while the others go on falling.",
        caption="Without clipping, one bad batch makes Adam's steps tiny for a long time. At update 80 every "
        "gradient is 1000 times too large.",
    )
    demo.number("clean_loss", ends["no bad batch"], ".2f", "bits per byte around update 120, no bad batch")
    demo.number("clipped_loss", ends["bad batch, clipped"], ".2f", "the same, with a bad batch, clipped")
    demo.number(
        "unclipped_loss", ends["bad batch, not clipped"], ".2f", "the same, with a bad batch, not clipped"
    )


def show_precision(demo: Demo) -> None:
    """Show what 16 bits lose: small gradients in float16, small updates in bfloat16."""
    trainer, windows, config = small_trainer()
    losses(trainer, windows, config)
    count_flushed(demo, trainer, windows)
    count_stalled(demo, trainer)


def count_flushed(demo: Demo, trainer: Trainer, windows: Windows) -> None:
    """Count the gradients between layers that become zero in 16 bits."""
    inputs, targets = windows.batch(torch.arange(256))
    n_tokens = int((targets != -100).sum())
    flowing: list[torch.Tensor] = []
    for module in trainer.model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_full_backward_hook(lambda m, gi, go: flowing.append(go[0].flatten()))  # type: ignore[index]
    trainer.forward_backward([(inputs, targets)], n_tokens)
    gradient = torch.cat(flowing)
    gradient = gradient[gradient != 0]

    def lost(values: torch.Tensor, dtype: torch.dtype) -> float:
        return float((values.to(dtype) == 0).float().mean())

    rows = []
    for key, name, dtype, scale, label in [
        ("flushed_fp16", "float16", torch.float16, 1.0, "gradients that float16 flushes to zero"),
        (
            "flushed_scaled",
            "float16, loss × 65536",
            torch.float16,
            65536.0,
            "the same with the loss times 65536",
        ),
        ("flushed_bf16", "bfloat16", torch.bfloat16, 1.0, "the same in bfloat16, unscaled"),
    ]:
        info, share = torch.finfo(dtype), lost(gradient * scale, dtype)
        sizes = (f"{info.smallest_normal:.0e}", f"{info.max:.0e}", f"{info.eps:.1e}")
        rows.append([name, *sizes, f"{share:.2%}"])
        demo.number(key, share, ".1%", label)
    demo.table(
        "flushed",
        ["type", "smallest normal", "largest", "relative step", "activation gradients flushed to zero"],
        rows,
        caption="Gradients that flow back through the linear layers of a small GPT, 256 windows of 32 bytes.",
    )


def count_stalled(demo: Demo, trainer: Trainer) -> None:
    """Count the weights in bfloat16 that an update leaves as they are."""
    weights, updates = [], []
    for p in trainer.model.parameters():
        state = trainer.optimizer.state[p]
        updates.append((state["exp_avg"] / (state["exp_avg_sq"].sqrt() + 1e-8)).flatten())
        weights.append(p.detach().flatten())
    weight, update = torch.cat(weights).bfloat16(), torch.cat(updates)
    stalls = []
    for rate in (3e-3, 3e-4, 3e-5):
        still = float(((weight - (rate * update).bfloat16()) == weight).float().mean())
        stalls.append([f"{rate:.0e}", f"{still:.0%}"])
        if rate == 3e-4:
            demo.number(
                "stalled", still, ".0%", "bfloat16 weights that do not notice an Adam update of rate 3e-4"
            )
    demo.table(
        "stall",
        ["learning rate", "weights that an update leaves as they are"],
        stalls,
        caption="Adam's updates added to weights kept in bfloat16.",
    )


def show_accumulation(demo: Demo) -> None:
    """Compare the gradient of one batch with that of micro-batches whose numbers of valid targets differ."""
    trainer, windows, _ = small_trainer()
    inputs, targets = windows.batch(torch.arange(16))
    targets = targets.clone()
    targets[12:, 8:] = -100  # the last micro-batch is three quarters padding
    micro = [(inputs[i : i + 4], targets[i : i + 4]) for i in range(0, 16, 4)]
    n_tokens = int((targets != -100).sum())

    def gradient(*parts: tuple[Any, int]) -> torch.Tensor:
        trainer.optimizer.zero_grad()
        for batches, n in parts:
            trainer.forward_backward(batches, n)
        return torch.cat([p.grad.flatten() for p in trainer.parameters if p.grad is not None])

    whole = gradient(([(inputs, targets)], n_tokens))
    summed = gradient((micro, n_tokens))
    averaged = gradient(*(([part], 4 * int((part[1] != -100).sum())) for part in micro))
    summed_label = "gradient of 4 unequal micro-batches, losses summed: relative difference to one batch"
    for key, found, digits, label in (
        ("accumulated_error", summed, ".0e", summed_label),
        ("averaged_error", averaged, ".0%", "the same, each micro-batch divided by its own tokens"),
    ):
        demo.number(key, float((found - whole).norm() / whole.norm()), digits, label)


def show_resume(demo: Demo) -> None:
    """Save in the middle, go on, go back to what was saved and go on again: count the weights that differ."""

    def run(trainer: Trainer, first: int, last: int) -> torch.Tensor:
        for step in range(first, last):
            trainer.step([windows.batch(torch.arange(16 * step, 16 * step + 16))])
        return torch.cat([p.detach().flatten() for p in trainer.parameters]).clone()

    trainer, windows, _ = small_trainer()
    for module in trainer.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.1
    run(trainer, 0, 10)
    saved = copy.deepcopy(trainer.state_dict())
    whole = run(trainer, 10, 20)
    trainer.load_state_dict(copy.deepcopy(saved))
    differ = int((run(trainer, 10, 20) != whole).sum())
    demo.number("resumed_differ", differ, ",d", "weights that differ after stopping and resuming")
    torch_rng = torch.get_rng_state()
    trainer.load_state_dict(copy.deepcopy(saved))
    torch.set_rng_state(torch_rng)
    share = float((run(trainer, 10, 20) != whole).double().mean())
    demo.number(
        "without_rng_differ", share, ".0%", "the same, had the random state of dropout been forgotten"
    )


HELD = ("weights P", "gradients P", "Adam 2P")
RANKS = {  # title, what is sent, caption
    "ddp": (
        "DDP: every rank holds everything",
        "all-reduce of the gradients:\n2·(N-1)/N · P numbers per rank",
        "DDP on four ranks. Each computes its share of the batch; one all-reduce per step, overlapped with backward.",
    ),
    "fsdp": (
        "FSDP2: every rank holds a quarter",
        "all-gather of the weights, forward and backward,\nreduce-scatter of the gradients: 3·(N-1)/N · P numbers per rank",
        "FSDP2 on four ranks. A block's weights are gathered just before they are needed and freed after.",
    ),
}


def box(axis: Any, x: float, y: float, width: float, **style: Any) -> None:
    """Draw a rounded box of the height of a row."""
    axis.add_patch(FancyBboxPatch((x, y), width, 0.62, boxstyle="round,pad=0.04", **style))


def draw_ranks(demo: Demo) -> None:
    """Draw who holds what on four ranks, in both ways."""
    for key, (title, arrow, caption) in RANKS.items():
        fig, axis = plt.subplots(figsize=(9, 3.4), layout="constrained")
        sharded = key == "fsdp"
        for rank in range(4):
            x = rank * 2.5
            axis.text(x + 1, 3.15, f"rank {rank}: batch share {rank}", ha="center", fontsize=9)
            for row, (text, colour) in enumerate(zip(HELD, (SKY, ORANGE, GREEN), strict=True)):
                y = 2.3 - row * 0.85
                filled = {"facecolor": colour, "edgecolor": "black", "alpha": 0.35}
                if sharded:
                    box(axis, x, y, 2.0, facecolor="none", edgecolor=GREY, linestyle=":")
                    box(axis, x + rank * 0.5, y, 0.5, **filled)
                    if rank == 0:
                        axis.text(-0.2, y + 0.31, f"{text}/N", ha="right", va="center", fontsize=9)
                else:
                    box(axis, x, y, 2.0, **filled)
                    axis.text(x + 1, y + 0.31, text, ha="center", va="center", fontsize=9)
        style = {"arrowstyle": "<->", "color": RED, "linewidth": 1.5}
        axis.annotate("", (9.5, 0.25), (0, 0.25), arrowprops=style)
        axis.text(4.75, 0.05, arrow, ha="center", va="top", fontsize=9, color=RED)
        axis.set(xlim=(-1.6 if sharded else -0.2, 9.8), ylim=(-0.75, 3.5), title=title)
        axis.axis("off")
        alt = f"{title}: four columns, one per rank, with weights, gradients and Adam's state; below, the traffic: {arrow}"
        demo.figure(key, fig, alt=alt.replace("\n", " "), caption=caption)


def count_bytes(demo: Demo) -> None:
    """Count the bytes that a rank sends per step, for a ring, and what it holds."""
    sizes = ("context", "d_model", "n_layers", "n_heads")
    tiny = CharGPT(**{name: getattr(Config(out=""), name) for name in sizes})
    n_tiny = sum(p.numel() for p in tiny.parameters())

    def size(gigabytes: float) -> str:
        return f"{gigabytes:.3g} GB" if gigabytes >= 1 else f"{gigabytes * 1e3:.3g} MB"

    rows = []
    for name, n_parameters in [("tiny", n_tiny), ("7 billion parameters", 7_000_000_000)]:
        for n in (2, 8):
            gigabyte = 4 * n_parameters / 1e9
            sent = [size(times * (n - 1) / n * gigabyte) for times in (2, 3)]
            rows.append([name, str(n), *sent, size(4 * gigabyte), size(4 * gigabyte / n)])
    demo.table(
        "wire",
        ["model", "ranks N", "DDP: sent per rank and step", "FSDP: sent", "DDP: held per rank", "FSDP: held"],
        rows,
        caption="Computed for a ring and float32: weights, gradients and Adam's two averages, without activations.",
    )
    demo.number("parameters", n_tiny, ",.0f", "parameters of the preset tiny")
    demo.number("ddp_7b", 16 * 7, ".0f", "GB per rank for 7 billion parameters with DDP, before activations")
    demo.number("fsdp_7b", 16 * 7 / 8, ".0f", "GB per rank of 8 with FSDP")


def main() -> None:
    """Run all parts."""
    demo = Demo(__file__)
    run_tiny(demo)
    draw_schedules(demo)
    show_clipping(demo)
    show_precision(demo)
    show_accumulation(demo)
    show_resume(demo)
    draw_ranks(demo)
    count_bytes(demo)
    demo.finish()


if __name__ == "__main__":
    main()
