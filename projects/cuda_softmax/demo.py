"""How often each softmax goes over memory, and what flash attention does not store: counted, not timed.

1. Bytes read and written per element, by kernel: 3, 2 and 1 passes. The counts come from the CPU emulator, which
   watches every load and store.
2. The online softmax at work on one row of logits: the largest value and the sum as the row goes by.
3. Flash attention and plain attention by the length of the sequence: the bytes that each reads and writes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[2]))  # the repository root, for shared/
from shared import cuda_emulator
from shared.measuring.demo import Demo

cuda_emulator.activate_anyway(Path(__file__).parent / "kernels")
from flash_attention import flash_attention  # noqa: E402
from ladder import KERNELS, softmax  # noqa: E402

BLUE, ORANGE, GREEN, RED, GREY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#7f7f7f"  # Okabe and Ito
ROWS, WIDTH = 32, 1024
HEAD_DIM, ROWS_PER_BLOCK = 64, 16


def compare_kernels(demo: Demo) -> None:
    """Count the bytes that each kernel asks for and moves."""
    x = np.random.default_rng(0).standard_normal((ROWS, WIDTH), dtype=np.float32)
    rows, moved_bytes = [], {}
    for kernel in KERNELS:
        with cuda_emulator.counting() as counters:
            result = softmax(x, kernel=kernel)
        if not np.allclose(result.sum(axis=-1), 1, atol=1e-5):
            raise AssertionError(f"{kernel}: rows do not sum to one")
        loads, stores = counters.total("global load"), counters.total("global store")
        moved_bytes[kernel] = [loads.bytes_moved / x.nbytes, stores.bytes_moved / x.nbytes]
        rows.append(
            [
                kernel,
                f"{loads.bytes / x.nbytes:g}",
                f"{stores.bytes / x.nbytes:g}",
                f"{loads.sectors / loads.ideal_sectors:.0f}",
                f"{(loads.bytes_moved + stores.bytes_moved) / x.nbytes:.0f}",
                f"{counters.total('shared load').requests + counters.total('shared store').requests:,}",
            ]
        )
        demo.number(
            f"reads_{kernel}", loads.bytes / x.nbytes, "g", f"times that {kernel}.cu reads each element"
        )
        if kernel == "naive":
            moved = loads.sectors / loads.ideal_sectors
            demo.number("naive_moved", moved, ".0f", "bytes that naive.cu moves for each byte it reads")
    columns = [
        "kernel",
        "reads of each element",
        "writes",
        "bytes moved per byte read",
        "all bytes moved, in sizes of the array",
        "shared memory instructions of warps",
    ]
    caption = f"Softmax of {ROWS} rows of {WIDTH} float32, counted by the CPU emulator."
    demo.table("passes", columns, rows, caption=caption)
    draw_passes(demo, moved_bytes)


def draw_passes(demo: Demo, moved_bytes: dict[str, list[float]]) -> None:
    """Draw the bytes that each kernel moves, in sizes of the array: what reading the row again costs."""
    kernels, (read, written) = list(moved_bytes), zip(*moved_bytes.values(), strict=True)
    fig, axis = plt.subplots(figsize=(9, 2.6), layout="constrained")
    axis.barh(kernels, read, color=BLUE, label="moved by loads")
    bars = axis.barh(kernels, written, left=read, color=ORANGE, label="moved by stores")
    texts = [f"{r:.0f} + {w:.0f}" for r, w in moved_bytes.values()]
    axis.bar_label(bars, labels=texts, padding=4, fontsize=9)
    axis.set(xlabel="bytes moved, in sizes of the array (2 is the least)", xlim=(0, max(read) * 1.5))
    axis.axvline(2, color=GREY, linewidth=0.8, linestyle=":")
    axis.legend(frameon=False, loc="center right")
    axis.invert_yaxis()
    demo.figure(
        "passes",
        fig,
        alt="Bars: naive moves far more bytes than the others, which read 3, 3, 2 and 1 times and write once.",
        caption=f"Reading each row once moves the least. {ROWS} rows of {WIDTH}, counted.",
    )


def show_online_softmax(demo: Demo) -> None:
    """Follow (largest, sum) along one row."""
    x = np.random.default_rng(3).normal(size=60) + np.linspace(-2, 2, 60)
    largest, total, history, corrections = -np.inf, 0.0, [], []
    for i, value in enumerate(x):
        new = max(largest, value)
        if new > largest and i:
            corrections.append(i)
        total = total * np.exp(largest - new) + np.exp(value - new)
        largest = new
        history.append((largest, total))
    running = np.array(history)
    error = abs(total - np.exp(x - x.max()).sum()) / total
    demo.number(
        "online_error", error, ".0e", "relative difference of the online sum to the sum in two passes"
    )
    demo.number("online_corrections", len(corrections), ".0f", "corrections of the sum in a row of 60 logits")

    fig, (upper, lower) = plt.subplots(2, 1, figsize=(9, 4.2), layout="constrained", sharex=True)
    upper.plot(x, "o", color=GREY, markersize=4, label="logits")
    upper.step(range(len(x)), running[:, 0], where="post", color=BLUE, label="largest so far")
    upper.legend(frameon=False, ncols=2, loc="lower right")
    lower.plot(running[:, 1], color=GREEN, label="sum of exp(logit - largest so far)")
    for i in corrections:
        lower.axvline(i, color=ORANGE, linewidth=0.8, alpha=0.7)
    lower.plot([], [], color=ORANGE, label="a new largest value corrects the sum")
    lower.legend(frameon=False, ncols=2, loc="upper left")
    lower.set(xlabel="position in the row", ylim=(0, running[:, 1].max() * 1.3))
    demo.figure(
        "online",
        fig,
        alt="Above, logits and the largest so far as a staircase. Below, the sum, which drops at each step.",
        caption="The online softmax: one pass, two numbers. At each orange line the sum is multiplied by "
        "exp(old largest - new largest).",
    )


def attention_bytes(n: int) -> tuple[int, int, Any]:
    """Return the bytes that flash attention reads and writes for n queries and keys, and its result."""
    rng = np.random.default_rng(1)
    query, key, value = (rng.standard_normal((1, 1, n, HEAD_DIM), dtype=np.float32) for _ in range(3))
    with cuda_emulator.counting() as counters:
        result = flash_attention(query, key, value)
    scores = (query.astype(np.float64) @ key.astype(np.float64).swapaxes(-1, -2)) / HEAD_DIM**0.5
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    plain = weights @ value / weights.sum(axis=-1, keepdims=True)
    return counters.global_bytes_read, counters.global_bytes_written, np.abs(result - plain).max()


def count_attention(demo: Demo) -> None:
    """Compare what flash attention reads and writes with the matrices that plain attention stores."""
    lengths, rows = (32, 64, 128, 256), []
    lines: list[tuple[float, float, float]] = []
    for n in lengths:
        read, written, difference = attention_bytes(n)
        scores = n * n * 4  # float32; written and read by the softmax, then by the product with the values
        lines.append((read / 1024, written / 1024, scores / 1024))
        rows.append([n, f"{read / 1024:,.0f}", f"{written / 1024:,.0f}", f"{scores / 1024:,.0f}"])
    columns = [
        "queries and keys",
        "KB read by flash_attention.cu",
        "KB written: the result alone",
        "KB of the matrix of scores that plain attention stores",
    ]
    caption = f"One head of dimension {HEAD_DIM}, float32, counted by the CPU emulator; the last column is n² · 4 bytes."
    demo.table("attention", columns, rows, caption=caption)
    draw_attention(demo, lengths, lines)
    demo.number(
        "flash_difference", difference, ".0e", "largest difference of flash attention to plain attention"
    )
    demo.number(
        "flash_written", written / 1024, ",.0f", "KB that flash attention writes for 256 queries and keys"
    )
    demo.number("scores_kb", scores / 1024, ",.0f", "KB of the matrix of scores for 256 queries and keys")
    demo.number(
        "flash_reuse", ROWS_PER_BLOCK, ".0f", "queries that share each tile of keys in flash_attention.cu"
    )


def draw_attention(demo: Demo, lengths: tuple[int, ...], lines: list[tuple[float, float, float]]) -> None:
    """Draw what has to be stored: the scores grow with n², what flash attention writes with n."""
    _, written, scores = zip(*lines, strict=True)
    fig, axis = plt.subplots(figsize=(9, 3), layout="constrained")
    axis.plot(
        lengths, scores, "o-", color=RED, label="the matrix of scores, which plain attention stores: n²"
    )
    axis.plot(lengths, written, "o-", color=GREEN, label="all that flash_attention.cu writes: n")
    axis.set_xscale("log", base=2)
    axis.set_yscale("log", base=2)
    axis.set(xlabel="queries and keys, n", ylabel="KB", xticks=lengths, xticklabels=lengths)
    axis.yaxis.set_major_formatter("{x:.0f}")
    axis.legend(frameon=False, loc="upper left")
    demo.figure(
        "attention",
        fig,
        alt="Two lines, both axes logarithmic: the scores rise twice as steeply as what is written.",
        caption=f"Plain attention's memory grows with n², flash attention's with n. Head dimension {HEAD_DIM}.",
    )


def main() -> None:
    """Run all parts."""
    plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "font.size": 11})
    demo = Demo(__file__)
    compare_kernels(demo)
    show_online_softmax(demo)
    count_attention(demo)
    demo.finish()


if __name__ == "__main__":
    main()
