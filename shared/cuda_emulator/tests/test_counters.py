"""Counters equal numbers that were worked out by hand."""

import subprocess
import sys
from pathlib import Path

import cuda_emulator
import numpy as np
import pytest
from cuda_emulator.__main__ import parse_launch
from cuda_emulator.launch import DeviceArray, DriverError, Module

KERNELS = Path(__file__).parent / "kernels"
F32, I32 = np.float32, np.int32


@pytest.fixture(scope="module")
def access() -> Module:
    cuda_emulator.activate_anyway(announce=False)
    return Module(KERNELS / "access_patterns.cu")


def count(module: Module, kernel: str, block, *arguments, grid=1, shared=0) -> cuda_emulator.Counters:
    with cuda_emulator.counting() as counters:
        module.launch(kernel, grid, block, *arguments, shared=shared)
    return counters


# One warp that loads one float per lane. The array's start is a multiple of 256, as on a GPU.
# stride (elements), offset (elements), sectors, ideal sectors
PATTERNS = [
    (1, 0, 4, 4),  # 128 bytes side by side: 4 sectors of 32
    (1, 1, 5, 4),  # the same, shifted by 4 bytes: touches a fifth
    (1, 8, 4, 4),  # shifted by a whole sector
    (2, 0, 8, 4),  # every second float: half of each sector is wasted
    (8, 0, 32, 4),  # a sector of its own per lane
    (32, 0, 32, 4),  # no worse
    (0, 0, 1, 1),  # all lanes read one float: a broadcast
]


@pytest.mark.parametrize(("stride", "offset", "sectors", "ideal"), PATTERNS)
def test_global_load(access, stride, offset, sectors, ideal):
    counters = count(access, "strided", 32, np.zeros(1100, F32), np.zeros(32, F32), I32(stride), I32(offset))
    load, store = counters.total("global load"), counters.total("global store")
    assert (load.requests, load.lanes, load.bytes) == (1, 32, 128)
    assert (load.sectors, load.ideal_sectors) == (sectors, ideal)
    assert (store.sectors, store.ideal_sectors, store.bytes_moved) == (4, 4, 128)


def test_vector_load(access):
    """float4: 32 lanes of 16 bytes are 512 bytes, 16 sectors, in one request."""
    load = count(access, "vector", 32, np.zeros(128, F32), np.zeros(32, F32)).total("global load")
    assert (load.requests, load.bytes, load.sectors, load.ideal_sectors) == (1, 512, 16, 16)


def test_two_warps_and_a_tail(access):
    """40 threads of 64 are in range: a full warp, and one with 8 lanes, in 2 blocks."""
    counters = count(access, "guarded", 64, np.zeros(104, F32), I32(104), grid=2)
    store = counters.total("global store")
    assert (store.requests, store.lanes, store.bytes) == (4, 104, 416)
    assert store.sectors == 13
    branch = counters.total("branch")
    assert (branch.requests, branch.divergent) == (4, 1)


# One warp, tile[lane * stride]: stride 2 puts two lanes on each bank, 32 all on one; odd strides never conflict.
@pytest.mark.parametrize(
    ("stride", "wavefronts"), [(1, 1), (2, 2), (3, 1), (4, 4), (32, 32), (33, 1), (0, 1)]
)
def test_bank_conflicts(access, stride, wavefronts):
    counters = count(access, "banks", 32, np.zeros(32, F32), I32(stride), shared=4 * 32 * 34)
    load = counters.total("shared load")
    assert (load.requests, load.wavefronts, load.ideal_units) == (1, wavefronts, 1)
    assert load.bank_conflicts == wavefronts - 1


def test_shared_vector_load_takes_four_passes(access):
    load = count(access, "banks_vector", 32, np.zeros(32, F32)).total("shared load")
    assert (load.wavefronts, load.bank_conflicts, load.bytes) == (4, 0, 512)


def test_divergent_branch(access):
    """Odd and even lanes part; all lanes of a warp agree on threadIdx.x / 32."""
    lines = (KERNELS / "access_patterns.cu").read_text().splitlines()
    odd, warp = (next(i + 1 for i, text in enumerate(lines) if mark in text) for mark in ("ODD", "WARP"))
    counters = count(access, "branches", 64, np.zeros(64, F32))
    assert (counters.line(odd, "branch").requests, counters.line(odd, "branch").divergent) == (2, 2)
    assert (counters.line(warp, "branch").requests, counters.line(warp, "branch").divergent) == (2, 0)


def test_matmul_traffic_per_line(access, rng):
    """Naive 32x32x32 matmul, a block of (32, 32): a warp is a row of C, so A is broadcast and B is coalesced."""
    a, b = rng.standard_normal((2, 32, 32)).astype(F32)
    c = np.zeros((32, 32), F32)
    counters = count(access, "naive_matmul", (32, 32), a, b, c, I32(32))
    np.testing.assert_allclose(c, a @ b, rtol=1e-4, atol=1e-4)
    load = counters.total("global load")
    assert load.requests == 2 * 32 * 32  # per warp and k: one of A, one of B
    assert load.sectors == 32 * 32 * (1 + 4)
    assert counters.global_bytes_read == 2 * 4 * 32**3
    assert counters.global_bytes_written == 4 * 32**2


def test_atomics_are_their_own_kind(access):
    counters = count(access, "adds", 64, np.zeros(1, I32))
    atomic = counters.total("global atomic")
    assert (atomic.requests, atomic.lanes, atomic.sectors) == (2, 64, 2)
    assert counters.total("global load").requests == 0


def test_launches_add_up_and_blocks_end(access):
    array = DeviceArray(np.zeros(32, F32))
    with cuda_emulator.counting() as counters:
        for _ in range(3):
            access.launch("guarded", 1, 32, array, I32(32))
    access.launch("guarded", 1, 32, array, I32(32))
    array.free()
    assert counters.kernels == ["guarded"] * 3
    assert counters.total("global store").requests == 3
    with pytest.raises(ValueError, match="kind must be one of"):
        counters.total("loads")


def test_plain_kernels_cannot_be_counted():
    cuda_emulator.activate_anyway(announce=False)
    module = Module('extern "C" __global__ void k(float* y) { y[0] = 1; }', mode="plain")
    with cuda_emulator.counting(), pytest.raises(DriverError, match="checked mode"):
        module.launch("k", 1, 1, np.zeros(1, F32))


def test_profile_prints_the_annotated_source():
    command = [sys.executable, "-m", "cuda_emulator", "profile", str(KERNELS / "access_patterns.cu")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=KERNELS.parents[2])
    assert done.returncode == 0, done.stderr
    assert "strided<<<1, 32>>>(float[256], float[32], 8, 0)" in done.stdout
    assert "glb load 1 x 32 sectors (4 ideal)" in done.stdout
    assert "y[threadIdx.x] = x[stride * threadIdx.x + offset];" in done.stdout
    assert "global bytes   read 128 (moved 1,024), written 128 (moved 128)" in done.stdout


def test_profile_without_a_launch_says_how():
    command = [sys.executable, "-m", "cuda_emulator", "profile", str(KERNELS / "correct.cu")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=KERNELS.parents[2])
    assert done.returncode != 0
    assert "// profile: kernel<<<grid, block>>>(float[1024], 1024)" in done.stderr


@pytest.mark.parametrize(
    "sizes", ["1.5, 32", "-4, 32", "4", "4, 32, 0, 0", "n, 32", "(4, 4, 4, 4), 32", "4, ()", "4, 32, (8)"]
)
def test_profile_refuses_sizes_that_are_no_numbers(sizes):
    """1.5 is not the pair (1, 5)."""
    with pytest.raises(ValueError, match=r"must be whole numbers, got <<<"):
        parse_launch(f"k<<<{sizes}>>>(float[8], 8)")


def test_profile_reads_a_launch():
    kernel, grid, block, shared, arguments = parse_launch(
        " k <<< (4, 2), 16, 128 >>> (float[8, 2], half[3], int[2], 8, 2ll, 2.5f) "
    )
    assert (kernel, grid, block, shared) == ("k", (4, 2), (16,), 128)
    assert [(x.dtype.str[1:], x.shape) for x in arguments] == [
        *(("f4", (8, 2)), ("f2", (3,)), ("i4", (2,)), ("i4", ()), ("i8", ()), ("f4", ())),
    ]
