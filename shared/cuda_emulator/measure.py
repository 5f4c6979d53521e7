"""Measure the emulator's speed, and write the table into README.md: ``python -m cuda_emulator.measure``."""

from __future__ import annotations

import platform
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from . import control, toolchain
from .launch import Module

README = Path(__file__).with_name("README.md")
MARKS = "<!-- speed: python -m cuda_emulator.measure -->", "<!-- end of speed -->"
REPEATS = 7
N, SIDE = 1 << 20, 192
KERNELS = """
extern "C" __global__ void add(const float* a, const float* b, float* c, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) c[i] = a[i] + b[i];
}
extern "C" __global__ void naive(const float* a, const float* b, float* c, int n) {
    int column = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y * blockDim.y + threadIdx.y;
    float sum = 0.0f;
    for (int k = 0; k < n; k++) sum += a[row * n + k] * b[k * n + column];
    c[row * n + column] = sum;
}
extern "C" __global__ void tiled(const float* a, const float* b, float* c, int n) {
    __shared__ float a_tile[16][16], b_tile[16][16];
    int x = threadIdx.x, y = threadIdx.y, column = blockIdx.x * 16 + x, row = blockIdx.y * 16 + y;
    float sum = 0.0f;
    for (int k = 0; k < n; k += 16) {
        a_tile[y][x] = a[row * n + k + x];
        b_tile[y][x] = b[(k + y) * n + column];
        __syncthreads();
        for (int i = 0; i < 16; i++) sum += a_tile[y][i] * b_tile[i][x];
        __syncthreads();
    }
    c[row * n + column] = sum;
}
"""
PROGRAM = """#include <cstdio>
__global__ void k(int* x) { x[threadIdx.x] = threadIdx.x; }
int main() {
    int* x;
    cudaMalloc(&x, 128);
    k<<<1, 32>>>(x);
    return cudaDeviceSynchronize();
}
"""


def seconds(call: Callable[[], object]) -> float:
    """Return the seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def kernels() -> list[str]:
    """Measure three kernels in both modes, in turn; return the rows of the table."""
    control.activate_anyway(announce=False)
    a, b, c = np.random.default_rng(1).standard_normal((3, N)).astype(np.float32)
    square = [array[: SIDE * SIDE].reshape(SIDE, SIDE).copy() for array in (a, b, c)]
    blocks = (SIDE // 16, SIDE // 16)
    launches: dict[str, tuple[str, int, int | tuple[int, int], int | tuple[int, int], tuple[object, ...]]] = {
        "vector add, million threads a second": ("add", N, N // 256, 256, (a, b, c, np.int32(N))),
        **{
            f"{name} matmul, million multiply-adds a second": (
                name, SIDE**3, blocks, (16, 16), (*square, np.int32(SIDE))
            )
            for name in ("naive", "tiled")
        },
    }  # fmt: skip
    modules = {mode: Module(KERNELS, mode=mode) for mode in ("checked", "plain")}
    times: dict[tuple[str, str], list[float]] = {}
    for _ in range(REPEATS):
        for title, (name, _, grid, block, arguments) in launches.items():
            for mode, module in modules.items():
                taken = seconds(lambda: module.launch(name, grid, block, *arguments))  # noqa: B023
                times.setdefault((title, mode), []).append(taken)
    rows = []
    for title, (_, work, *_) in launches.items():
        checked, plain = (work / 1e6 / statistics.median(times[title, mode]) for mode in ("checked", "plain"))
        rows.append(f"| {title} | {checked:.3g} | {plain:.3g} | {plain / checked:.3g} |")
    return rows


def programs() -> list[str]:
    """Measure how long a program takes to compile, and to run once it is; return the rows of the table."""
    taken: dict[str, list[float]] = {}
    for i in range(REPEATS):
        for mode in ("checked", "plain"):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, "program.cu")
                path.write_text(f"{PROGRAM}// {time.time()} {i}\n")
                taken.setdefault(mode, []).append(seconds(lambda: toolchain.compile_program(path, mode=mode)))  # noqa: B023
    checked, plain = (statistics.median(taken[mode]) for mode in ("checked", "plain"))
    return [f"| compiling a program of ten lines, seconds | {checked:.2g} | {plain:.2g} | |"]


def fill(readme: Path, marks: tuple[str, str], lines: list[str]) -> None:
    """Write lines between two marks of a README."""
    text = readme.read_text(encoding="utf-8")
    pattern = f"{re.escape(marks[0])}.*?{re.escape(marks[1])}"
    if not re.search(pattern, text, flags=re.DOTALL):
        raise SystemExit(f"{readme.name} has no place for the table: {marks[0]}")
    filled = "\n".join([marks[0], "", *lines, "", marks[1]])
    readme.write_text(re.sub(pattern, lambda _: filled, text, flags=re.DOTALL), encoding="utf-8")


def main() -> None:
    """Measure and write the table."""
    machine = f"{platform.machine()}, one thread, {Path(toolchain.compiler()).name}"
    table = [f"Median of {REPEATS}, {machine}:", "", "| | checked | plain | ratio |", "|---|---|---|---|"]
    lines = [*table, *kernels(), *programs()]
    fill(README, MARKS, lines)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
