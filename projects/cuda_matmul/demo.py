"""How much arithmetic each kernel does for a byte it fetches: predicted, counted, and drawn under a roof.

1. Which parts of a and b a block needs for its tile of c.
2. Bytes, sectors and shared memory loads by kernel, for one product. The counts come from the CPU emulator, which
   watches every load and store.
3. The roofline with a point for every kernel. Without a result of a GPU in results/, roof and points are what the
   datasheet and the counts allow, and the figure says so.
"""

from __future__ import annotations

import json
import sys
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

FOLDER = Path(__file__).parent
cuda_emulator.activate_anyway(FOLDER / "kernels")
from ladder import RUNGS, Rung, matmul  # noqa: E402

BLUE, ORANGE, GREEN, RED, GREY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#7f7f7f"  # Okabe and Ito
SIZE = 128
LADDER = [rung for rung in RUNGS if rung.dtype == "float32"]  # the emulator has no tensor cores
# NVIDIA's datasheet of the A100 80 GB SXM: float32 without tensor cores, and memory bandwidth.
SHEET_NAME, SHEET_FLOPS, SHEET_BYTES = "A100 80 GB", 19.5e12, 2.039e12


def draw_tiles(demo: Demo) -> None:
    """Draw what one block reads for its tile of c: a band of a and a band of b, one tile of each at a time."""
    size, tile, (row, column), step = 8, 2, (2, 4), 4  # in units of 16 elements
    fig, axes = plt.subplots(1, 3, figsize=(9, 3.1), layout="constrained")
    bands = [(0, row, size, tile), (column, 0, tile, size), (column, row, tile, tile)]
    tiles = [(step, row, tile, tile), (column, step, tile, tile), (column, row, tile, tile)]
    names = [
        "a: 32 rows, read by\nevery block to the left and right",
        "b: 32 columns, read by\nevery block above and below",
    ]
    names.append("c: one block's tile,\n32 x 32 sums")
    for axis, band, current, name in zip(axes, bands, tiles, names, strict=True):
        axis.add_patch(Rectangle((0, 0), size, size, facecolor="#f2f2f2"))
        for (x, y, width, height), colour, alpha in ((band, BLUE, 0.25), (current, BLUE, 1.0)):
            axis.add_patch(Rectangle((x, y), width, height, facecolor=colour, alpha=alpha))
        for line in range(0, size + 1, tile):
            axis.plot([0, size], [line, line], color="white", linewidth=1)
            axis.plot([line, line], [0, size], color="white", linewidth=1)
        axis.set_title(name, fontsize=10)
        axis.set(xlim=(0, size), ylim=(size, 0), aspect="equal", xticks=[], yticks=[])
        axis.spines[["left", "bottom"]].set_visible(False)
    demo.figure(
        "tiles",
        fig,
        alt="One tile of c is marked, with the rows of a and the columns of b that it needs.",
        caption="A block of `tiled.cu` reads a strip of each matrix, two tiles at a time.",
    )


def predicted_bytes(rung: Rung, size: int) -> float:
    """Return the bytes that a kernel's loads move for a product of two size x size matrices.

    A warp of `naive` touches 32 sectors of a and 1 of b in every step, one of `coalesced` 1 and 4: 32 bytes each, for 32
    multiplications. The others fetch each element of a once for every column of tiles, and of b for every row of them.
    """
    sectors = {"naive": 33, "coalesced": 5}
    if rung.name in sectors:
        return float(sectors[rung.name] * size**3)
    return 4.0 * size**3 * (1 / rung.tile[0] + 1 / rung.tile[1])


def compare_kernels(demo: Demo) -> dict[str, float]:
    """Table of counts by kernel; returns the counted FLOP for each byte moved by loads."""
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((SIZE, SIZE), dtype=np.float32) for _ in range(2))
    flop, rows, intensities = 2 * SIZE**3, [], {}
    fetches: dict[str, tuple[float, float]] = {}
    for rung in LADDER:
        with cuda_emulator.counting() as counters:
            result = matmul(a, b, kernel=rung.name)
        if not np.allclose(result, a.astype(np.float64) @ b, atol=1e-4):
            raise AssertionError(f"{rung.name}: wrong product")
        loads, shared = counters.total("global load"), counters.total("shared load")
        predicted, counted = flop / predicted_bytes(rung, SIZE), flop / loads.bytes_moved
        if predicted != counted:
            raise AssertionError(f"{rung.name}: predicted {predicted} FLOP per byte, counted {counted}")
        intensities[rung.name] = counted
        demo.number(
            f"intensity_{rung.name}", counted, ".3g", f"FLOP per byte that {rung.name}.cu's loads move"
        )
        per_multiplication = shared.requests * 32 / (flop / 2)
        fetches[rung.name] = (loads.bytes_moved / a.nbytes, per_multiplication)
        rows.append(
            [
                rung.name,
                f"{loads.bytes / a.nbytes:g}",
                f"{loads.bytes_moved / a.nbytes:g}",
                f"{predicted:.3g}",
                f"{counted:.3g}",
                f"{per_multiplication:.2f}",
                f"{shared.bank_conflicts:,}",
            ]
        )
        if rung.name in ("tiled", "warp_tiled"):
            label = f"shared memory loads per multiplication in {rung.name}.cu"
            demo.number(f"shared_{rung.name}", per_multiplication, ".2f", label)
    columns = [
        "kernel",
        "bytes asked for, in sizes of a matrix",
        "bytes moved",
        "FLOP per byte moved, predicted",
        "counted",
        "shared memory loads per multiplication",
        "bank conflicts",
    ]
    caption = f"Loads of a product of two {SIZE} x {SIZE} matrices of float32, counted by the CPU emulator."
    demo.table("counts", columns, rows, caption=caption)
    draw_fetches(demo, fetches)
    return intensities


def draw_fetches(demo: Demo, fetches: dict[str, tuple[float, float]]) -> None:
    """Draw what each rung saves: first bytes from global memory, then loads from shared memory."""
    fig, axes = plt.subplots(1, 2, figsize=(9, 3), layout="constrained", sharey=True)
    labels = ["bytes moved from global memory, in matrices", "shared memory loads per multiplication"]
    for i, (axis, label, fmt) in enumerate(zip(axes, labels, ("{:,.0f}", "{:.2f}"), strict=True)):
        values = [counts[i] for counts in fetches.values()]
        bars = axis.barh(list(fetches), values, color=BLUE if i == 0 else GREEN)
        texts = [fmt.format(value) if value else "does not use it" for value in values]
        axis.bar_label(bars, labels=texts, padding=3, fontsize=9)
        axis.set(xlabel=label, xlim=(0, max(values) * 1.25), xticks=[])
        axis.spines["bottom"].set_visible(False)
    axes[0].invert_yaxis()
    demo.figure(
        "fetches",
        fig,
        alt="Bars by kernel. Bytes from global memory fall from naive to tiled; shared memory loads fall after tiled.",
        caption=f"Tiles save global memory, many sums per thread save shared memory. {SIZE} x {SIZE}, counted.",
    )


def count_bounds(demo: Demo) -> None:
    """Numbers that the drills quote: what is possible at all, and where the roof bends."""
    demo.number(
        "ridge",
        SHEET_FLOPS / SHEET_BYTES,
        ".1f",
        f"FLOP per byte where the roof bends ({SHEET_NAME}, datasheet)",
    )
    demo.number(
        "ideal_4096",
        2 * 4096 / 12,
        ".0f",
        "FLOP per byte of a 4096 x 4096 product that moves each matrix once",
    )
    sums = next(rung for rung in RUNGS if rung.name == "warp_tiled")
    per_thread = sums.tile[0] * sums.tile[1] // sums.block[0]
    demo.number(
        "sums_warp_tiled", per_thread, ".0f", "sums that a thread of warp_tiled.cu keeps in registers"
    )
    compiled = json.loads((FOLDER / "results" / "resources.json").read_text(encoding="utf-8"))
    row = next(row for row in compiled["rows"] if row["case"] == "warp_tiled.cu, sm_80")
    registers = int(row["columns"]["registers per thread"])
    demo.number("registers", registers, ".0f", "registers of a thread of warp_tiled.cu on sm_80")
    # A multiprocessor has 65536 registers, which it hands out in eights per thread, and places for 2048 threads.
    blocks = 65536 // (-(-registers // 8) * 8 * sums.block[0])
    share = 100 * blocks * sums.block[0] / 2048
    demo.number("occupancy", share, ".3g", "percent occupancy that these registers allow, of 2048 threads")


def read_gpu_result() -> dict[str, Any] | None:
    """Return roof and speeds from the first results/<device>.json of a GPU, or None."""
    for path in sorted((FOLDER / "results").glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        rows = content.get("rows", [])
        roof = {row["case"]: row["columns"] for row in rows if row["group"] == "ceilings"}
        if not roof:
            continue
        speeds = {
            row["case"]: 2 * 4096**3 / row["milliseconds"]["ours"] * 1e3
            for row in rows
            if row["group"] == "float32, 4096 x 4096 x 4096"
        }
        return {
            "name": content["provenance"]["device"],
            "flops": float(roof["float32 arithmetic"]["TFLOP/s"]) * 1e12,
            "bytes": float(roof["copy"]["GB/s"].replace(",", "")) * 1e9,
            "speeds": speeds,
        }
    return None


def draw_roofline(demo: Demo, intensities: dict[str, float]) -> None:
    """Draw the roof, and each kernel at its counted intensity: as measured, or at the most that the roof allows."""
    gpu = read_gpu_result()
    name, flops, bandwidth = (
        (gpu["name"], gpu["flops"], gpu["bytes"]) if gpu else (SHEET_NAME, SHEET_FLOPS, SHEET_BYTES)
    )
    fig, axis = plt.subplots(figsize=(9, 4.8), layout="constrained")
    x = np.geomspace(0.03, 200, 200)
    source = "measured" if gpu else "datasheet, not measured"
    axis.loglog(x, np.minimum(flops, x * bandwidth) / 1e12, color=GREY, label=f"roof of {name} ({source})")
    axis.axvspan(0.03, flops / bandwidth, color=ORANGE, alpha=0.08, linewidth=0)
    axis.axvspan(flops / bandwidth, 200, color=GREEN, alpha=0.08, linewidth=0)
    speeds = gpu["speeds"] if gpu else {k: min(flops, v * bandwidth) for k, v in intensities.items()}
    groups: dict[tuple[float, float], list[str]] = {}
    for kernel, intensity in intensities.items():
        groups.setdefault((intensity, speeds[kernel] / 1e12), []).append(kernel)
    label = (
        "kernels, measured at 4096 x 4096"
        if gpu
        else "the most that the counted intensity allows: no GPU has run this"
    )
    axis.plot(*zip(*groups, strict=True), "o", color=BLUE, fillstyle="full" if gpu else "none", label=label)
    for (intensity, speed), kernels in groups.items():
        on_the_slope: dict[str, Any] = {"xytext": (10, -4)}
        above: dict[str, Any] = {"xytext": (0, 8), "ha": "center"}
        below: dict[str, Any] = {"xytext": (0, -8), "ha": "center", "va": "top"}
        place = below if len(kernels) > 1 else above if intensity * bandwidth > flops else on_the_slope
        axis.annotate("\n".join(kernels), (intensity, speed), textcoords="offset points", fontsize=9, **place)
    axis.text(0.04, flops / 1e12, "memory-bound", color=ORANGE, va="center")
    axis.text(190, 0.08, "compute-bound", color=GREEN, ha="right")
    axis.set(
        xlim=(0.03, 200), ylim=(0.05, 60), xlabel="FLOP per byte that loads move (counted)", ylabel="TFLOP/s"
    )
    axis.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, fontsize=9)
    demo.figure(
        "roofline",
        fig,
        alt="A roof that rises and becomes flat. naive and coalesced lie on its slope, tiled near the bend, the others beyond.",
        caption=f"The fewer bytes per FLOP, the higher under the roof. {name}, {source}. "
        + (
            "Filled: speeds measured at 4096 x 4096."
            if gpu
            else "Circles are bounds from counted traffic without caches, not speeds: no GPU result is committed."
        ),
    )


def main() -> None:
    """Run all parts."""
    plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "font.size": 11})
    demo = Demo(__file__)
    draw_tiles(demo)
    intensities = compare_kernels(demo)
    count_bounds(demo)
    draw_roofline(demo, intensities)
    demo.finish()


if __name__ == "__main__":
    main()
