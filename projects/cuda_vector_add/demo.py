"""What five kernels that compute the same sums ask of the memory, counted; and what adding costs on this CPU.

1. Which thread adds which element, in a grid of a few threads.
2. Counts by kernel: load instructions, 32-byte sectors, bytes moved for bytes asked, divergent branches. They come from
   the CPU emulator, which watches every load and store; on a machine with a GPU it is started all the same, since a GPU
   does not tell its counts without a profiler.
3. Which addresses one warp touches: coalesced and strided.
4. How little arithmetic there is: NumPy's addition beside a plain copy on this machine.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle

sys.path.append(str(Path(__file__).resolve().parents[2]))  # the repository root, for shared/
from shared import cuda_emulator
from shared.measuring.demo import Demo
from shared.testing.devices import device_array, launch

KERNELS = Path(__file__).parent / "kernels"
LADDER = ("one_per_thread", "grid_stride", "vectorized", "strided", "divergent")
N, BLOCKS, THREADS = 65536, 8, 256
BLUE, ORANGE, GREEN, RED, GREY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#7f7f7f"  # Okabe and Ito


def count(kernel: str) -> Any:
    """Return the emulator's counters for one launch on N float32 elements, whose result is checked."""
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(N, dtype=np.float32) for _ in range(2))
    device_a, device_b, out = (device_array(array) for array in (a, b, np.full_like(a, np.nan)))
    grid = N // THREADS if kernel == "one_per_thread" else BLOCKS
    with cuda_emulator.counting() as counters:
        arguments = (device_a, device_b, out, np.int64(N))
        launch(KERNELS / f"{kernel}.cu", "add_float32", arguments, grid=grid, block=THREADS)
    if not np.array_equal(out.get(), a + b):
        raise AssertionError(f"{kernel}: wrong sums")
    return counters


def draw_threads(demo: Demo) -> None:
    """Draw which thread adds which of 10 elements: the grids of three kernels, in blocks of 4 threads."""
    n, elements = 10, np.arange(10)
    kernels = [
        ("one_per_thread, 3 blocks: i = block · 4 + thread", elements),
        ("grid_stride, 1 block: i = thread, thread + 4, thread + 8", elements % 4),
        ("strided, 1 block: i = 3 · thread, 3 · thread + 1, 3 · thread + 2", elements // 3),
    ]
    colours = (BLUE, ORANGE, GREEN, RED)
    fig, axes = plt.subplots(3, 1, figsize=(9, 3.6), layout="constrained", sharex=True)
    for axis, (title, owners) in zip(axes, kernels, strict=True):
        threads = 12 if owners.max() > 3 else 4
        for i in range(threads if threads > n else n):
            owner = int(owners[i]) if i < n else i
            face, edge, line = (colours[owner % 4], "white", "-") if i < n else ("white", GREY, ":")
            axis.add_patch(Rectangle((i, 0), 1, 1, facecolor=face, edgecolor=edge, linestyle=line))
            name = f"block {owner // 4}\nthread {owner % 4}" if threads > n else f"thread {owner}"
            axis.text(
                i + 0.5,
                0.5,
                name if i < n else f"{name}\nno element",
                ha="center",
                va="center",
                fontsize=8,
                color="white" if i < n else GREY,
            )
        axis.set_title(title, fontsize=10, loc="left")
        axis.set(xlim=(0, 12), ylim=(0, 1.02), yticks=[], xticks=np.arange(n) + 0.5, xticklabels=elements)
        axis.spines[["left", "bottom"]].set_visible(False)
        axis.tick_params(length=0)
    axes[-1].set_xlabel("element i of 10", loc="left")
    demo.figure(
        "threads",
        fig,
        alt="Ten elements in a row, three times, coloured by the thread that adds them: in turn, or in pieces.",
        caption="A block's last threads may have no element (dotted), hence `if (i < n)`.",
    )


def compare_kernels(demo: Demo) -> None:
    """Table of counts by kernel, and the figure that goes with it."""
    rows, moved, instructions = [], {}, {}
    for kernel in LADDER:
        counters = count(kernel)
        loads, branches = counters.total("global load"), counters.total("branch")
        moved[kernel] = loads.bytes_moved / loads.bytes
        instructions[kernel] = loads.requests
        rows.append(
            [
                kernel,
                f"{loads.requests:,}",
                f"{loads.bytes // loads.lanes}",
                f"{loads.sectors / loads.requests:.0f} ({loads.ideal_sectors / loads.requests:.0f})",
                f"{moved[kernel]:.0f}",
                f"{branches.divergent:,}",
            ]
        )
        if kernel == "divergent":
            demo.number(
                "divergent_branches", branches.divergent, ",.0f", "divergent branches of divergent.cu"
            )
    columns = [
        "kernel",
        "load instructions of warps",
        "bytes per thread and load",
        "sectors per load (least possible)",
        "bytes moved per byte asked for",
        "divergent branches",
    ]
    demo.table(
        "counts", columns, rows, caption=f"Adding {N:,} float32 elements, counted by the CPU emulator."
    )
    draw_counts(demo, moved, instructions)
    demo.number(
        "strided_bytes", moved["strided"], ".0f", "bytes that strided.cu moves for each byte it asks for"
    )
    demo.number(
        "coalesced_bytes", moved["grid_stride"], ".0f", "bytes that grid_stride.cu moves for each byte"
    )
    fewer = instructions["grid_stride"] / instructions["vectorized"]
    demo.number("fewer_loads", fewer, ".0f", "times fewer load instructions with 16-byte loads")
    demo.number(
        "flop_per_byte", 1 / 12, ".3f", "FLOP per byte: one addition, two reads and one write of 4 bytes"
    )


def draw_counts(demo: Demo, moved: dict[str, float], instructions: dict[str, int]) -> None:
    """Draw what each kernel asks of the memory, as bars."""
    fig, axes = plt.subplots(1, 2, figsize=(9, 2.6), layout="constrained", sharey=True)
    colours = {"vectorized": GREEN, "strided": RED}
    panels: list[tuple[str, dict[str, Any]]] = [
        ("load instructions of warps", instructions),
        ("bytes moved per byte asked for", moved),
    ]
    for axis, (label, counts) in zip(axes, panels, strict=True):
        values = [counts[kernel] for kernel in LADDER]
        bars = axis.barh(LADDER, values, color=[colours.get(kernel, BLUE) for kernel in LADDER])
        axis.bar_label(bars, labels=[f"{value:,.0f}" for value in values], padding=3, fontsize=9)
        axis.set(xlabel=label, xlim=(0, max(values) * 1.2), xticks=[])
        axis.spines["bottom"].set_visible(False)
    axes[0].invert_yaxis()
    demo.figure(
        "traffic",
        fig,
        alt="Bars: vectorized issues a quarter of the load instructions, strided moves eight bytes for each it asks for.",
        caption="Kernels that add the same differ in loads, and in bytes moved per byte asked for.",
    )


def draw_accesses(demo: Demo) -> None:
    """Draw which sectors the 32 lanes of one warp touch with one load."""
    lanes, piece = np.arange(32), 16
    patterns = [
        ("grid_stride: lane k reads element k", lanes * 4, 4, GREEN),
        ("vectorized: lane k reads elements 4k to 4k + 3", lanes * 16, 16, BLUE),
        (f"strided: lane k reads element {piece}k", lanes * piece * 4, 4, RED),
    ]
    fig, axes = plt.subplots(3, 1, figsize=(9, 4), layout="constrained", sharex=True)
    n_sectors = 32 * piece * 4 // 32
    for axis, (title, addresses, width, colour) in zip(axes, patterns, strict=True):
        touched = sorted(
            {int(address) // 32 for address in addresses} | {int(a + width - 1) // 32 for a in addresses}
        )
        for sector in range(n_sectors):
            face = "#e8e8e8" if sector in touched else "white"
            axis.add_patch(
                Rectangle((sector * 32, 0), 32, 1, facecolor=face, edgecolor="#bbbbbb", linewidth=0.6)
            )
        for address in addresses:
            axis.add_patch(Rectangle((float(address), 0.15), width, 0.7, facecolor=colour, edgecolor="none"))
        used = 32 * width
        title = f"{title} — {len(touched)} sectors, {len(touched) * 32} bytes moved for {used} used"
        axis.set_title(title, fontsize=10, loc="left")
        axis.set(xlim=(0, n_sectors * 32), ylim=(0, 1), yticks=[])
        axis.spines[["left", "bottom"]].set_visible(False)
    axes[-1].set_xlabel("address in bytes from the warp's first element; each box is a 32-byte sector")
    demo.figure(
        "accesses",
        fig,
        alt="Memory as a row of 32-byte sectors. grid_stride fills 4 neighbouring sectors, vectorized fills 16, strided "
        "touches 32 sectors, every other one, and uses 4 bytes of each.",
        caption="The further apart lanes read, the more bytes move for nothing. One load of a warp: coloured "
        "what lanes ask for, grey the sectors moved.",
    )


def milliseconds(call: Callable[[], object], rounds: int = 15) -> float:
    """Return the median time of a call."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def measure_cpu(demo: Demo) -> None:
    """Time NumPy's add and copy on arrays larger than the caches: both take as long as their bytes."""
    n = 16_000_000
    a, b, out = (np.full(n, value, np.float32) for value in (1.5, 2.5, 0.0))
    add_ms, copy_ms = milliseconds(lambda: np.add(a, b, out=out)), milliseconds(lambda: np.copyto(out, a))
    demo.number("cpu_add", 12 * n / add_ms / 1e6, ".1f", "GB/s of NumPy's add on one core of this CPU")
    demo.number("cpu_copy", 8 * n / copy_ms / 1e6, ".1f", "GB/s of NumPy's copy on one core of this CPU")


def main() -> None:
    """Run all parts."""
    plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "font.size": 11})
    demo = Demo(__file__)
    cuda_emulator.activate_anyway(KERNELS)
    draw_threads(demo)
    compare_kernels(demo)
    draw_accesses(demo)
    measure_cpu(demo)
    demo.finish()


if __name__ == "__main__":
    main()
