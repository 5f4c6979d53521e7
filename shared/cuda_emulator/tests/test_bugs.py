"""Every class of bug is found, under more than one schedule, and the report names file, line, block and thread."""

import ctypes
from pathlib import Path

import cuda_emulator
import numpy as np
import pytest
from cuda_emulator.launch import DeviceArray, DriverError, Module, call

KERNELS = Path(__file__).parent / "kernels"
F32, I32 = np.float32, np.int32
BOUNDS, RACE, UNWRITTEN = "out of bounds", "race", "uninitialised shared memory"
DIVERGENCE, ABSENT = "barrier divergence", "absent lane"


def floats(n: int) -> np.ndarray:
    return np.linspace(-1, 1, n, dtype=F32)


# kernel, grid, block, arguments, kind of the report, a part of its message
BUGS = [
    (
        "no_tail_guard",
        2,
        64,
        (floats(100), floats(100), I32(100)),
        BOUNDS,
        "bytes past the end of an array of 400 bytes",
    ),
    ("off_by_one", 2, 64, (floats(100), I32(100)), BOUNDS, "no guard for the tail"),
    ("before_the_start", 1, 64, (floats(64), floats(64), I32(64)), BOUNDS, "4 bytes before the start"),
    (
        "unsigned_wraps",
        1,
        64,
        (floats(64), floats(64), np.uint32(64)),
        BOUNDS,
        "2^32 - 1 elements after argument 1",
    ),
    ("rows_and_columns_swapped", 1, (8, 4), (floats(32), floats(32), I32(4), I32(8)), BOUNDS, "past the end"),
    (
        "past_the_row",
        1,
        32,
        (floats(35), floats(5), I32(5), I32(7)),
        BOUNDS,
        "a row or column is not checked",
    ),
    ("null_pointer", 1, 32, (np.zeros(0, F32), floats(32)), BOUNDS, "a null pointer"),
    ("far_from_null", 1, 32, (np.zeros(0, F32), floats(32)), BOUNDS, "of a null pointer, if argument 1"),
    (
        "shared_index_too_large",
        1,
        32,
        (floats(32),),
        BOUNDS,
        "index 32 is outside an array of type 'float [32]'",
    ),
    ("dynamic_shared_too_small", 1, 32, (floats(32),), BOUNDS, "the launch asked for 0 bytes"),
    ("past_the_constant", 1, 8, (floats(8),), BOUNDS, "0 bytes past the end of table, which has 16 bytes"),
    ("before_shared_memory", 1, 32, (floats(32),), (BOUNDS, UNWRITTEN), "tile, which has 128 bytes"),
    ("local_array_too_small", 1, 1, (floats(8), I32(5)), BOUNDS, "index 4 is outside"),
    ("index_overflows", 1, 32, (floats(32), I32(70000), I32(70000)), "integer overflow", "70000 * 70000"),
    ("index_sum_overflows", 1, 32, (floats(32), I32(2**31 - 8)), "integer overflow", "does not fit in 'int'"),
    (
        "smallest_divided",
        1,
        1,
        (np.array([-(2**31), -1], I32), np.zeros(1, I32)),
        "integer overflow",
        "the smallest number divided by -1",
    ),
    ("divides_by_zero", 1, 32, (np.ones(32, I32), I32(0)), "division by zero", "7 by zero"),
    ("misaligned_vector_load", 1, 8, (floats(64), floats(8)), "misaligned", "4 more than a multiple of 16"),
    ("misaligned_vector_of_constants", 1, 1, (floats(8),), "misaligned", "write of 16 bytes"),
    ("misaligned_shared_load", 1, 32, (floats(32),), "misaligned", "4 more than a multiple of 8"),
    ("too_many_partial_sums", 1, 64, (floats(32),), UNWRITTEN, "partial, byte"),
    ("edge_tile_not_filled", 1, 32, (floats(20), floats(20), I32(20)), UNWRITTEN, "edge tiles need zeros"),
    ("missing_first_barrier", 1, 64, (floats(64), floats(64)), RACE, "a missing __syncthreads()"),
    ("garbage_as_an_index", 1, 64, (floats(64), floats(64)), (RACE, UNWRITTEN), "order, byte"),
    ("missing_second_barrier", 1, 64, (floats(256), floats(64), I32(4)), RACE, "the second __syncthreads()"),
    ("two_values_in_one_flag", 1, 64, (floats(64), floats(64)), RACE, "a write by thread"),
    ("tree_without_barrier", 1, 64, (floats(64), floats(1)), RACE, "not ordered after"),
    (
        "warp_without_syncwarp",
        1,
        32,
        (floats(32), floats(32)),
        RACE,
        "inside one warp __syncwarp() is enough",
    ),
    ("shuffle_orders_no_memory", 1, 32, (floats(32), floats(32)), RACE, "__syncwarp()"),
    (
        "histogram_without_atomics",
        1,
        64,
        (np.arange(64, dtype=I32) % 4, np.zeros(4, I32)),
        RACE,
        "bins, byte",
    ),
    ("atomic_and_plain", 1, 64, (np.zeros(1, I32),), RACE, "total, byte 0"),
    ("two_reductions_one_buffer", 1, 64, (floats(64), floats(64)), RACE, "partial, byte"),
    ("barrier_in_half_a_warp", 1, 64, (floats(64),), DIVERGENCE, "wait at different __syncthreads()"),
    ("barriers_of_two_kinds", 1, 64, (floats(64),), DIVERGENCE, "wait at different __syncthreads()"),
    (
        "shuffle_in_a_branch",
        1,
        32,
        (floats(32),),
        "deadlock",
        "lane 16 is in its mask but waits at __syncthreads",
    ),
    ("reduction_after_return", 1, 32, (floats(20), floats(1), I32(20)), ABSENT, "has returned"),
    ("block_smaller_than_a_warp", 1, 16, (floats(16),), ABSENT, "which the block does not have"),
    ("mask_leaves_out_the_caller", 1, 32, (floats(32),), ABSENT, "whose mask leaves it out"),
    ("source_outside_the_mask", 1, 32, (floats(32),), ABSENT, "lane 20, which is not in the mask"),
    ("different_warp_operations", 1, 32, (floats(32),), "warp divergence", "different warp operations"),
    ("failing_assert", 1, 32, (floats(32), I32(7)), "assert", "n > 100"),
    ("traps", 1, 32, (floats(32), I32(7)), "trap", "__trap()"),
    ("bug_in_an_inlined_function", 1, 32, (floats(30), floats(32)), BOUNDS, "bug_in_an_inlined_function"),
]
# The same with a result: what GPUs since Volta let pass is said, and the launch goes on.
WARNINGS = [
    (
        "return_before_barrier",
        *(2, 64, (floats(100), I32(100)), DIVERGENCE, "only 36 of the block's 64 threads reach"),
        np.ones(100),
    ),
    (
        "barrier_in_a_branch",
        *(1, 64, (floats(64),), DIVERGENCE, "wait at different __syncthreads()"),
        np.repeat([2, 1], 32),
    ),
    (
        "barrier_in_uneven_loop",
        *(1, 64, (floats(100),), DIVERGENCE, "runs a different number of times"),
        np.ones(100),
    ),
    (
        "counts_those_who_stay",
        *(1, 64, (floats(8), I32(40)), DIVERGENCE, "only 40 of the block's 64 threads reach"),
        np.array([20, 1, 0, 1, 40, 40, 40, 40]),
    ),
]
CODES = {BOUNDS: 700, "use after free": 700, "misaligned": 716, "assert": 710, "trap": 715}


@pytest.fixture(scope="module")
def bugs() -> Module:
    cuda_emulator.activate_anyway(announce=False)
    return Module(KERNELS / "planted_bugs.cu")


def marked_lines(kernel: str) -> list[int]:
    """Return the lines marked BUG inside the body of a kernel (and of the function that it inlines)."""
    lines = (KERNELS / "planted_bugs.cu").read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if f" {kernel}(" in line and "__global__" in line)
    if kernel == "bug_in_an_inlined_function":
        start -= 3
    end = next(i for i in range(start + 1, len(lines)) if lines[i].startswith("}") and i > start + 1)
    return [i + 1 for i in range(start, end + 1) if "BUG" in lines[i]]


def check_report(error: DriverError, kernel: str, kinds: tuple[str, ...], words: str) -> None:
    (report,) = cuda_emulator.reports()
    assert report.kind in kinds, report.message
    assert report.severity == "error"
    assert error.code == report.code == CODES.get(report.kind, 719)
    assert report.message in str(error)
    if words and report.kind == kinds[0]:
        assert words in report.message
    assert report.file == "kernels/planted_bugs.cu"
    assert report.line in marked_lines(kernel), report.message
    assert f"kernels/planted_bugs.cu:{report.line}" in report.message
    block, thread = (f"({x},{y},{z})" for x, y, z in (report.block, report.thread))
    assert f"block {block} thread {thread} of kernel {kernel}" in report.message


@pytest.mark.parametrize("schedule", ["forward", "random"])
@pytest.mark.parametrize(
    ("kernel", "grid", "block", "arguments", "kind", "words"), BUGS, ids=[b[0] for b in BUGS]
)
def test_bug_is_found(bugs, schedule, kernel, grid, block, arguments, kind, words):
    cuda_emulator.reports()
    with cuda_emulator.settings(schedule=schedule), pytest.raises(DriverError) as caught:
        bugs.launch(kernel, grid, block, *arguments)
    check_report(caught.value, kernel, (kind,) if isinstance(kind, str) else kind, words)


@pytest.mark.parametrize("schedule", cuda_emulator.SCHEDULES)
@pytest.mark.parametrize(
    ("kernel", "grid", "block", "arguments", "kind", "words", "result"),
    WARNINGS,
    ids=[w[0] for w in WARNINGS],
)
def test_warning(bugs, schedule, kernel, grid, block, arguments, kind, words, result):
    """One per place, however many blocks there are; the launch goes on, and its result is right."""
    cuda_emulator.warnings()
    y = arguments[0].copy()
    with cuda_emulator.settings(schedule=schedule):
        bugs.launch(kernel, grid, block, y, *arguments[1:])
    np.testing.assert_array_equal(y, result)
    for warning in (found := cuda_emulator.warnings()):
        assert (warning.severity, warning.kind, warning.code) == ("warning", kind, 0)
        assert warning.line in marked_lines(kernel)
    assert words in found[0].message
    assert len({warning.line for warning in found}) == len(found)
    assert not cuda_emulator.reports()


def test_dynamic_shared_memory_that_was_never_written(bugs):
    cuda_emulator.reports()
    with pytest.raises(DriverError) as caught:
        bugs.launch("dynamic_never_written", 1, 32, floats(32), shared=128)
    check_report(caught.value, "dynamic_never_written", (UNWRITTEN,), "dynamic shared memory, byte 0")


def test_dynamic_shared_memory_in_elements_instead_of_bytes(bugs):
    cuda_emulator.reports()
    with pytest.raises(DriverError, match="of which the launch asked for 32 bytes"):
        bugs.launch("dynamic_shared_too_small", 1, 32, floats(32), shared=32)


def test_host_pointer(bugs):
    array = floats(32)
    cuda_emulator.reports()
    with pytest.raises(DriverError) as caught:
        bugs.launch("host_pointer", 1, 32, np.uint64(array.ctypes.data), floats(32))
    check_report(caught.value, "host_pointer", (BOUNDS,), "")


def test_use_after_free(bugs):
    array = DeviceArray(floats(32))
    address = array.address
    array.free()
    cuda_emulator.reports()
    with pytest.raises(DriverError) as caught:
        bugs.launch("after_free", 1, 32, np.uint64(address), floats(32))
    check_report(caught.value, "after_free", ("use after free",), "keep a reference")


@pytest.mark.parametrize(("row", "cols"), [(50000, 50000), (70000, 70000)], ids=["below 0", "inside"])
def test_index_that_overflows_after_something_was_read(bugs, row, cols):
    """Where the array has the element that was meant: also if the wrapped index lies inside."""
    pointer = ctypes.c_uint64()
    call("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(5 << 30))
    cuda_emulator.reports()
    try:
        with pytest.raises(DriverError) as caught:
            bugs.launch(
                "index_overflows_in_a_huge_array",
                1,
                32,
                pointer_of(pointer),
                np.zeros(1, I32),
                I32(row),
                I32(cols),
            )
    finally:
        call("cuMemFree_v2", pointer)
    words = f"{row} * {cols} does not fit in 'int'"
    check_report(caught.value, "index_overflows_in_a_huge_array", ("integer overflow",), words)


def pointer_of(pointer: ctypes.c_uint64) -> np.uint64:
    return np.uint64(pointer.value)


@pytest.mark.parametrize(
    "kernel", ["waits_for_ever", "halves_for_ever", "shuffles_for_ever", "waits_at_barriers_for_ever"]
)
def test_endless_loop(bugs, kernel):
    """Also where the loop reads and writes registers only."""
    cuda_emulator.reports()
    with cuda_emulator.settings(timeout_s=0.1), pytest.raises(DriverError) as caught:
        bugs.launch(kernel, 1, 32, np.zeros(1, I32))
    assert caught.value.code == 702
    assert cuda_emulator.reports()[0].line in marked_lines(kernel)


def test_launches_go_on_after_a_bug(bugs):
    with pytest.raises(DriverError):
        bugs.launch("no_tail_guard", 2, 64, floats(100), floats(100), I32(100))
    x, y = floats(128), np.zeros(128, F32)
    bugs.launch("no_tail_guard", 2, 64, x, y, I32(128))
    np.testing.assert_array_equal(y, 2 * x)


def test_plain_mode_survives_a_wild_address():
    """Without hooks a null pointer is a signal; the process must live, and the launch must fail."""
    cuda_emulator.activate_anyway(announce=False)
    source = """
    extern "C" __global__ void wild(float* y) { y[threadIdx.x] = 1.0f; }
    extern "C" __global__ void deep(int* y) {
        volatile char local[400000];
        for (int i = 399999; i >= 0; i -= 100) local[i] = 1;
        y[0] = local[399];
    }
    extern "C" __global__ void divide(int* y, int n) { y[0] = 7 / n; }
    """
    module = Module(source, mode="plain")
    with pytest.raises(DriverError, match="which is no memory at all") as caught:
        module.launch("wild", 1, 32, np.zeros(0, F32))
    assert caught.value.code == 700
    with pytest.raises(DriverError, match="stack overflow"):
        module.launch("deep", 1, 1, np.zeros(1, I32))
    with pytest.raises(DriverError, match="division by zero"):
        module.launch("divide", 1, 1, np.zeros(1, I32), I32(0))


def test_report_names_both_sides_of_a_race(bugs):
    cuda_emulator.reports()
    with pytest.raises(DriverError, match=r"that (read|write) is at") as caught:
        bugs.launch("missing_second_barrier", 1, 64, floats(256), floats(64), I32(4))
    first, second = marked_lines("missing_second_barrier")
    assert f"planted_bugs.cu:{first}" in str(caught.value)
    assert f"planted_bugs.cu:{second}" in str(caught.value)


def test_report_names_the_folder_of_a_bare_file_name(bugs, monkeypatch):
    monkeypatch.chdir(KERNELS)
    with pytest.raises(DriverError, match=r"at kernels/planted_bugs\.cu:\d+ in no_tail_guard"):
        Module(Path("planted_bugs.cu")).launch("no_tail_guard", 2, 64, floats(100), floats(100), I32(100))


def test_misaligned_struct_of_two_doubles(bugs):
    """A GPU reads it as two numbers. It cannot be told from a double2 here, and the report says so; its members can be read."""
    source = """struct Pair { double a, b; };
    extern "C" __global__ void whole(const double* x, double* y) { Pair p = *(const Pair*)(x + 1); y[0] = p.a + p.b; }
    extern "C" __global__ void members(const double* x, double* y) {
        const Pair* p = (const Pair*)(x + 1);
        y[0] = p->a + p->b;
    }"""
    module, x, y = Module(source), np.arange(4.0), np.zeros(1)
    with pytest.raises(DriverError, match="a struct of two 8-byte numbers"):
        module.launch("whole", 1, 1, x, y)
    module.launch("members", 1, 1, x, y)
    assert y[0] == 3


def test_driver_library_is_the_emulator():
    cuda_emulator.activate_anyway(announce=False)
    count = ctypes.c_int()
    from cuda_emulator.control import library

    assert library().cuDeviceGetCount(ctypes.byref(count)) == 0
    assert count.value == 1
