"""Races in global memory: between the threads of a block, and between blocks; and what is none."""

from pathlib import Path

import cuda_emulator
import numpy as np
import pytest
from cuda_emulator.launch import DeviceArray, DriverError, Module

KERNELS = Path(__file__).parent / "kernels"
F32, I32, U8 = np.float32, np.int32, np.uint8
pytestmark = pytest.mark.usefixtures("schedule")


@pytest.fixture(scope="module")
def kernels() -> Module:
    cuda_emulator.activate_anyway(announce=False)
    return Module(KERNELS / "global_races.cu")


def ints(n: int) -> np.ndarray:
    return np.arange(n, dtype=I32)


def none(n: int) -> np.ndarray:
    return np.zeros(n, I32)


UPDATES, BLOCKS = "atomicAdd() and its like", "no barrier orders the blocks"
IN_PLACE = "write to another array"
# kernel, grid, block, arguments, words of the report
BUGS = [
    ("histogram_lost", 1, 64, (ints(64) % 4, none(4), I32(64)), UPDATES),
    ("histogram_lost", 8, 1, (none(8), none(4), I32(8)), UPDATES),
    ("sum_of_blocks_lost", 3, 32, (ints(96), none(1)), BLOCKS),
    ("shift_in_place", 1, 64, (ints(64), I32(64)), IN_PLACE),
    ("shift_in_place", 32, 1, (ints(32), I32(32)), BLOCKS),
    ("transpose_in_place", 1, (8, 8), (ints(64), I32(8)), IN_PLACE),
    ("smooth_bytes_in_place", 1, 64, (ints(64).astype(U8), I32(64)), IN_PLACE),
    ("last_thread_writes_what_all_read", 1, 64, (ints(4), none(64), I32(64)), IN_PLACE),
    ("last_thread_writes_what_all_read", 4, 16, (ints(4), none(64), I32(64)), "argument 1"),
    ("scatter_onto_one", 1, 64, (ints(64) // 2, none(32)), "write by thread"),
    ("neighbour_blocks_overlap", 3, 32, (none(96),), BLOCKS),
    ("scratch_without_barrier", 2, 64, (none(128), none(128)), "__syncthreads() orders them"),
    ("other_block_has_finished", 4, 32, (none(16),), BLOCKS),
    ("resets_what_others_count", 2, 32, (none(1),), "atomic"),
    ("reads_what_others_count", 1, 32, (none(1), none(32)), "atomic"),
    ("last_block_too_early", 2, 32, (none(64), none(32)), BLOCKS),
    ("best_without_atomic", 2, 32, (ints(64) % 50 + 1,), "best, byte 0"),
]


@pytest.mark.parametrize(
    ("kernel", "grid", "block", "arguments", "words"), BUGS, ids=[f"{b[0]}-{b[1]}" for b in BUGS]
)
def test_race_is_found(kernels, schedule, kernel, grid, block, arguments, words):
    cuda_emulator.reports()
    with pytest.raises(DriverError) as caught:
        kernels.launch(kernel, grid, block, *(a.copy() for a in arguments))
    (report,) = cuda_emulator.reports()
    assert (report.kind, report.code) == ("race", 719), report.message
    assert "global memory race" in report.message
    assert caught.value.code == 719
    assert words in report.message
    assert report.line in marked_lines(kernel), report.message
    assert report.message.count("kernels/global_races.cu:") == 2  # both places


def marked_lines(kernel: str) -> list[int]:
    lines = (KERNELS / "global_races.cu").read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if f" {kernel}(" in line)
    end = next(i for i in range(start + 1, len(lines)) if lines[i].startswith("}"))
    return [i + 1 for i in range(start, end + 1) if "BUG" in lines[i]]


def test_report_names_threads_blocks_argument_and_byte(kernels):
    with cuda_emulator.settings(schedule="forward"), pytest.raises(DriverError) as caught:
        kernels.launch("histogram_lost", 2, 1, none(2) + 3, none(4), I32(2))
    text = str(caught.value)
    assert (
        "read of byte 12 of argument 2 of the kernel is not ordered after a write by thread (0,0,0)" in text
    )
    assert "of block (0,0,0)" in text
    assert "block (1,0,0) thread (0,0,0) of kernel histogram_lost" in text


class TestCorrectTwins:
    def test_histogram(self, kernels, rng):
        x, bins = rng.integers(0, 4, 200).astype(I32), none(4)
        kernels.launch("histogram", 4, 64, x, bins, I32(200))
        np.testing.assert_array_equal(bins, np.bincount(x, minlength=4))

    def test_sum_of_blocks(self, kernels):
        x, total = ints(96) % 3, none(1)
        kernels.launch("sum_of_blocks", 3, 32, x, total)
        assert total[0] == 64

    def test_in_place(self, kernels):
        a, b, c = ints(64), np.arange(1000, dtype=F32), np.arange(200, dtype=U8)
        kernels.launch("shift_block_in_place", 2, 32, a)
        np.testing.assert_array_equal(a, np.minimum(ints(64) + 1, ints(64) // 32 * 32 + 31))
        kernels.launch("scale_in_place", 3, 64, b, I32(1000))
        np.testing.assert_array_equal(b, 2 * np.arange(1000))
        kernels.launch("invert_bytes_in_place", 4, 64, c, I32(200))
        np.testing.assert_array_equal(c, 255 - np.arange(200))

    def test_scatter(self, kernels, rng):
        where, y = rng.permutation(64).astype(I32), none(64)
        kernels.launch("scatter", 1, 64, where, y)
        np.testing.assert_array_equal(y[where], ints(64))

    def test_scratch(self, kernels):
        y = none(128)
        kernels.launch("scratch_with_barrier", 2, 64, none(128), y)
        np.testing.assert_array_equal(y, (ints(128) % 64 ^ 32) + 2)
        kernels.launch("scratch_of_a_warp", 2, 64, none(128), y)
        np.testing.assert_array_equal(y, ints(128) % 64 ^ 1)
        kernels.launch("scratch_of_a_thread", 2, 64, none(128 * 9), y, I32(9))
        assert (y == 36).all()

    def test_counts(self, kernels):
        y = none(128)
        kernels.launch("counts_and_then_reads", 2, 64, none(2), y)
        assert (y == 64).all()

    @pytest.mark.parametrize("blocks", [1, 2, 7])
    def test_last_block(self, kernels, blocks):
        y = none(64)
        kernels.launch("last_block", blocks, 64, none(64 * blocks), y)
        np.testing.assert_array_equal(y, blocks * ints(64))

    def test_lock(self, kernels):
        total = none(2)
        kernels.launch("under_a_lock", 3, 96, none(1), total)
        assert total.tolist() == [9, 45]

    def test_work_is_taken(self, kernels):
        y = none(10 * 32)
        kernels.launch("take_work", 3, 32, none(1), y, I32(10))
        np.testing.assert_array_equal(y, ints(320) // 32)

    def test_variable(self, kernels):
        kernels.launch("best_with_atomic", 2, 32, ints(64))

    def test_arrays_change_places_between_launches(self, kernels):
        a, b = DeviceArray(ints(64)), DeviceArray(none(64))
        for _ in range(3):
            kernels.launch("scratch_of_a_warp", 1, 64, a, b)
            kernels.launch("scratch_of_a_warp", 1, 64, b, a)
        a.free()
        b.free()


def test_a_lock_and_a_gate_of_blocks_of_one_thread(rng):
    """What a thread writes before its atomic, another block's thread may use after an atomic on the same word."""
    cuda_emulator.activate_anyway(announce=False)
    source = """extern "C" __global__ void locked(int* lock, int* total, const int* x) {
        while (atomicCAS(lock, 0, 1)) {}
        __threadfence();
        total[0] += x[blockIdx.x];
        __threadfence();
        atomicExch(lock, 0);
    }
    extern "C" __global__ void gate(int* open, int* y) {
        if (blockIdx.x == 0) { y[0] = 5; __threadfence(); atomicAdd(open, 1); }
        else if (atomicAdd(open, 0)) y[1] = y[0];
    }"""
    module, x = Module(source), rng.integers(1, 9, 6).astype(np.int32)
    for schedule in cuda_emulator.SCHEDULES:
        with cuda_emulator.settings(schedule=schedule):
            total, y = np.zeros(1, np.int32), np.zeros(2, np.int32)
            module.launch("locked", 6, 1, np.zeros(1, np.int32), total, x)
            module.launch("gate", 2, 1, np.zeros(1, np.int32), y)
        assert total[0] == x.sum()


def test_a_missing_barrier_and_equal_numbers():
    """No harm is done, so it is a warning; that the writers of a word read it back is not worth one."""
    cuda_emulator.activate_anyway(announce=False)
    source = """extern "C" __global__ void tiles(const float* x, float* y) {
        __shared__ float tile[64];
        float sum = 0;
        for (int t = 0; t < 3; t++) {
            tile[threadIdx.x] = x[64 * t + threadIdx.x];
            __syncthreads();
            sum += tile[63 - threadIdx.x];
        }
        y[threadIdx.x] = sum;
    }
    extern "C" __global__ void flag(float* y) {
        __shared__ float flag;
        flag = 1;
        y[threadIdx.x] = flag;
    }"""
    module, y = Module(source), np.zeros(64, np.float32)
    cuda_emulator.warnings()
    module.launch("flag", 1, 64, y)
    assert not cuda_emulator.warnings()
    module.launch("tiles", 1, 64, np.ones(192, np.float32), y)
    (warning,) = cuda_emulator.warnings()
    assert (warning.kind, warning.line) == ("benign race", 5)
    with pytest.raises(DriverError, match="shared memory race: "):
        module.launch("tiles", 1, 64, np.arange(192, dtype=np.float32), y)
