"""Occupancy on the page, in a real Chromium: its limits are those of NVIDIA's own calculator."""

import importlib.util
import subprocess
from pathlib import Path

import numpy as np
import pytest

from shared.cuda_emulator.toolchain import compiler
from shared.testing.compile_gate import NoCompilerError, find_nvcc
from shared.tour import browser

FIGURE = "cuda_softmax"
HEADER = "cuda_occupancy.h"
# By cuda_occupancy.h of CUDA 13.0, which CALCULATOR calls. GPU, registers per thread, KiB of shared memory and threads per block |
# blocks that registers, shared memory, places for warps and places for blocks let in.
TABLE = """
A100 59 103 32 | 32 1 64 32
A100 126 3 192 | 2 41 10 32
A100 106 8 320 | 1 18 6 32
A100 16 51 320 | 12 3 6 32
A100 38 58 96 | 16 2 21 32
A100 52 0 192 | 6 164 10 32
A100 27 2 608 | 3 54 3 32
A100 33 13 992 | 1 11 2 32
A100 129 45 320 | 1 3 6 32
A100 33 0 992 | 1 164 2 32
A100 60 0 416 | 2 164 4 32
A100 98 27 864 | 0 5 2 32
H100 16 17 224 | 18 12 9 32
H100 17 31 768 | 3 7 2 32
H100 70 2 736 | 1 76 2 32
H100 59 16 608 | 1 13 3 32
H100 22 66 480 | 5 3 4 32
H100 99 0 672 | 0 228 3 32
H100 26 0 768 | 2 228 2 32
H100 111 80 256 | 2 2 8 32
H100 33 0 448 | 3 228 4 32
H100 89 70 96 | 6 3 21 32
H100 27 31 672 | 3 7 3 32
H100 129 0 256 | 1 228 8 32
A100 16 0 32 | 128 164 64 32
A100 32 0 1024 | 2 164 2 32
A100 33 0 1024 | 1 164 2 32
A100 255 0 256 | 1 164 8 32
A100 255 0 1024 | 0 164 2 32
A100 40 0 96 | 16 164 21 32
A100 64 163 32 | 32 1 64 32
A100 64 164 32 | 32 0 64 32
H100 16 0 32 | 128 228 64 32
H100 64 227 256 | 4 1 8 32
H100 16 227 1024 | 4 1 2 32
H100 32 113 1024 | 2 2 2 32
H100 32 114 1024 | 2 1 2 32
H100 255 227 1024 | 0 1 2 32
H100 128 4 288 | 1 45 7 32
H100 65 4 512 | 1 45 4 32
"""
CALCULATOR = """
#include <cstdio>
#include <cuda_occupancy.h>
int main() {
    int major, registers, shared, threads;
    while (scanf("%d %d %d %d", &major, &registers, &shared, &threads) == 4) {
        cudaOccDeviceProp gpu;
        gpu.computeMajor = major, gpu.computeMinor = 0, gpu.warpSize = 32, gpu.numSms = 1;
        gpu.maxThreadsPerBlock = 1024, gpu.maxThreadsPerMultiprocessor = 2048;
        gpu.regsPerBlock = gpu.regsPerMultiprocessor = 65536;
        gpu.sharedMemPerMultiprocessor = (major == 9 ? 228 : 164) << 10, gpu.reservedSharedMemPerBlock = 1 << 10;
        gpu.sharedMemPerBlock = 48 << 10, gpu.sharedMemPerBlockOptin = gpu.sharedMemPerMultiprocessor - (1 << 10);
        cudaOccFuncAttributes kernel;
        kernel.maxThreadsPerBlock = 1024, kernel.numRegs = registers, kernel.numBlockBarriers = 1;
        kernel.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN, kernel.maxDynamicSharedSizeBytes = shared << 10;
        cudaOccDeviceState state;
        cudaOccResult found;
        if (cudaOccMaxActiveBlocksPerMultiprocessor(&found, &gpu, &kernel, &state, threads, shared << 10)) return 1;
        printf("%d %d %d %d\\n", found.blockLimitRegs, found.blockLimitSharedMem, found.blockLimitWarps, found.blockLimitBlocks);
    }
}
"""


def read_table():
    """Return the settings and the limits of TABLE."""
    rows = [[part.split() for part in row.split("|")] for row in TABLE.strip().splitlines()]
    return [(gpu, *map(int, sizes)) for (gpu, *sizes), _ in rows], [
        list(map(int, limits)) for _, limits in rows
    ]


SETTINGS, LIMITS = read_table()


def draw_settings(n):
    """Draw `n` settings at random, from all that the sliders can say."""
    rng = np.random.default_rng(3)
    sizes = rng.integers([16, 0, 1], [256, 228, 33], size=(n, 3)) * [1, 1, 32]
    return [(str(rng.choice(["A100", "H100"])), *row) for row in sizes.tolist()]


@pytest.fixture
def limits(one_page):
    """Return a function that computes the limits of settings on the page."""
    here = """settings => settings.map(([gpu, registers, shared, blockSize]) =>
        Object.values(blockLimits({ registers, sharedBytes: 1024 * shared, blockSize }, gpu)))"""
    return lambda settings: one_page.evaluate(here, settings)


@pytest.fixture
def move(page):
    """Return a function that moves all controls and returns what the figure says."""

    def move(gpu, registers, shared, threads):
        page.locator("#multiprocessor").select_option(gpu)
        for name, value in (("registers", registers), ("shared-memory", shared), ("block-size", threads)):
            page.locator(f"#{name}").fill(str(value))
        return page.locator("#occupancy output").inner_text()

    return move


@pytest.fixture(scope="module")
def nvidia(tmp_path_factory):
    """Return a function that computes limits with NVIDIA's header, where it is installed."""
    triton = importlib.util.find_spec("triton")
    folders = [Path(triton.origin).parent / "backends/nvidia/include"] if triton else []
    try:
        folders.append(find_nvcc().parents[1] / "include")
    except NoCompilerError:
        pass
    found = [folder for folder in folders if (folder / HEADER).exists()]
    if not found:
        pytest.skip(f"no {HEADER}: neither triton nor CUDA is installed")
    source = tmp_path_factory.mktemp("nvidia") / "calculator.cpp"
    source.write_text(CALCULATOR)
    program = source.with_suffix("")
    subprocess.run([compiler(), "-w", f"-I{found[0]}", str(source), "-o", str(program)], check=True)

    def compute(settings):
        lines = [f"{8 if gpu == 'A100' else 9} {' '.join(map(str, sizes))}" for gpu, *sizes in settings]
        said = subprocess.run([program], input="\n".join(lines), capture_output=True, text=True, check=True)
        return [[int(limit) for limit in line.split()] for line in said.stdout.splitlines()]

    return compute


def test_limits_are_those_of_nvidias_calculator(limits):
    assert limits(SETTINGS) == LIMITS


def test_the_table_and_random_settings_agree_with_nvidias_header(limits, nvidia):
    assert nvidia(SETTINGS) == LIMITS
    settings = draw_settings(400)
    assert limits(settings) == nvidia(settings)


def test_the_table_has_every_limiter_and_kernels_that_do_not_start():
    shortest = [[i for i, limit in enumerate(row) if limit == min(row)] for row in LIMITS]
    assert all([i] in shortest for i in range(4))
    assert {0, 32} <= {min(row) for row in LIMITS}


NAMES = ["registers", "shared memory", "places for warps", "places for blocks"]


def test_the_figure_says_blocks_warps_and_what_limits_them(page, move):
    for setting, row in zip(SETTINGS, LIMITS, strict=True):
        said, blocks, warps = move(*setting), min(row), setting[3] // 32
        limiters = " and ".join(name for name, limit in zip(NAMES, row, strict=True) if limit == blocks)
        if blocks:
            assert f"Blocks that fit: {blocks}, {blocks * warps} of 64 warps" in said
            assert f"Limited by {limiters}." in said
        else:
            assert f"No block fits, and the launch fails for lack of {limiters}." in said
        assert page.locator("#occupancy rect.changed").count() == blocks * warps
        assert page.locator("#occupancy rect.fill2").count() == row.count(blocks)


def test_the_heading_is_true(page):
    assert (
        "with 64 registers per thread, half of the 64 places stay empty"
        in page.locator("#occupancy h3").inner_text()
    )
    said = page.locator("#occupancy output").inner_text()
    assert "Blocks that fit: 4, 32 of 64 warps, 50 %. Limited by registers." in said
    page.locator("#registers").fill("32")
    assert "64 of 64 warps" in page.locator("#occupancy output").inner_text()


def test_the_keyboard_reaches_both_ends(walk):
    said = walk("occupancy")
    assert "Limited by places for warps" in said["registers", "Home"]
    assert "Blocks that fit: 1, 8 of 64 warps" in said["registers", "End"]
    assert "Limited by registers" in said["shared-memory", "Home"]
    assert "the launch fails for lack of shared memory" in said["shared-memory", "End"]
    assert "Blocks that fit: 32, 32 of 64 warps" in said["block-size", "Home"]
    assert "Blocks that fit: 1, 32 of 64 warps" in said["block-size", "End"]


def test_another_gpu_has_more_shared_memory(move):
    assert "Blocks that fit: 2," in move("H100", 32, 100, 256)
    assert "Blocks that fit: 1," in move("A100", 32, 100, 256)


def test_the_page_has_no_fault(chromium, figure_page):
    assert list(browser.check(chromium, figure_page(FIGURE))) == []
