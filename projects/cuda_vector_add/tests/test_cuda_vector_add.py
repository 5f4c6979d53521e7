"""The judge of the kernels and of the host side: contract, by hand, sizes, dtypes, alignment, 2³¹, then `vector_add`.

The kernels are launched here directly, so each is graded before there is a host side. Oracle: NumPy's addition in
float64, rounded once, to which the sums must be equal: one addition has no tolerance.
"""

from pathlib import Path

import numpy as np
import pytest

import cuda_vector_add
from shared import cuda_emulator
from shared.testing.checks import assert_close, assert_imports_only, expect_error, unchanged
from shared.testing.devices import device_array, launch

KERNELS = Path(cuda_vector_add.__file__).parent / "kernels"
LADDER = ("one_per_thread", "grid_stride", "vectorized")
SLOW = ("strided", "divergent")  # correct as well, but nothing to write
DTYPES = ("float32", "float16", "float64", "int32")

ladder = pytest.mark.parametrize("function", LADDER)
any_grid = pytest.mark.parametrize("function", LADDER[1:])
kernels = pytest.mark.parametrize(
    "kernel",
    [pytest.param(name, marks=pytest.mark.grades(*[name] * (name in LADDER))) for name in LADDER + SLOW],
)


def add(kernel, a, b, *, blocks=None, threads=64, out=None):
    """Launch one kernel on copies of NumPy arrays and return the sums; the output starts as NaN, or -1."""
    n = a.size
    out = device_array(np.full(n, np.nan if a.dtype.kind == "f" else -1, a.dtype)) if out is None else out
    blocks = -(-n // threads) if blocks is None else blocks
    arguments = (device_array(a), device_array(b), out, np.int64(n))
    launch(KERNELS / f"{kernel}.cu", f"add_{a.dtype}", arguments, grid=blocks, block=threads)
    return out.get()


def random(rng, n, dtype):
    if dtype == "int32":
        return rng.integers(-(10**6), 10**6, n, dtype=np.int32)
    return rng.normal(size=n).astype(dtype)


def total(a, b):
    """Return the sums from a wider type, rounded once."""
    wide = np.int64 if a.dtype.kind == "i" else np.float64
    with np.errstate(invalid="ignore"):
        return (a.astype(wide) + b.astype(wide)).astype(a.dtype)


def assert_sum(actual, a, b, *, what="sum", **diagnosis):
    """Assert that `actual` is a + b, bit for bit."""
    assert_close(actual, total(a, b), rtol=0.0, atol=0.0, what=what, **diagnosis)


@pytest.mark.grades
def test_imports():
    """The deliverable uses NumPy and PyCUDA, nothing else."""
    assert_imports_only(cuda_vector_add, {"numpy", "pycuda"})


# --- the kernels -----------------------------------------------------------------------------------------------


@ladder
def test_by_hand(function, cuda_device):
    """Five elements, worked by hand, in one block of 32 threads."""
    a, b = np.float32([1, 2, 3, 4, 5]), np.float32([10, 20, 40, 80, 160])
    assert_close(
        add(function, a, b, threads=32),
        np.float32([11, 22, 43, 84, 165]),
        what="sum",
        mistakes={
            "nothing was written: out still holds the NaN it started with": np.full(5, np.nan),
            "the tail is missing: five elements are a pack of four and one more": np.float32(
                [11, 22, 43, 84, np.nan]
            ),
            "b is subtracted": a - b,
            "a is copied, b never read": a,
            "a is added to itself": a + a,
        },
    )


@kernels
@pytest.mark.parametrize("threads", [32, 64, 256])
def test_sizes(kernel, threads, rng, cuda_device):
    """Sizes around a warp and a block, primes, and one that fills several blocks."""
    for n in (1, 31, 32, 33, threads - 1, threads, threads + 1, 1009):
        a, b = random(rng, n, "float32"), random(rng, n, "float32")
        blocks = -(-n // threads)
        result = add(kernel, a, b, threads=threads, blocks=blocks)
        mistakes = {
            "only the first block adds: i needs blockIdx.x * blockDim.x": partly(a, b, slice(0, threads)),
            "the last, incomplete block adds nothing": partly(a, b, slice(0, n // threads * threads)),
            "the first element is missing: indices start at 0": partly(a, b, slice(1, n)),
            "the last element is missing": partly(a, b, slice(0, n - 1)),
        }
        what = f"sum of {n} elements in {blocks} blocks of {threads}"
        assert_sum(result, a, b, what=what, mistakes=mistakes)


def partly(a, b, where):
    """Return the sums with NaN outside `where`: what is left when a kernel skips elements."""
    result = np.full_like(a, np.nan)
    result[where] = a[where] + b[where]
    return result


@any_grid
def test_grid_of_any_size(function, rng, cuda_device):
    """A grid that is too small for one thread per element goes round several times; one that is too large stops."""
    n = 1009
    a, b = random(rng, n, "float32"), random(rng, n, "float32")
    for blocks, threads in ((1, 32), (1, 96), (3, 64), (40, 64)):
        one_turn = slice(0, blocks * threads * (4 if function == "vectorized" else 1))
        mistakes = {
            "only one turn: each thread must go on in steps of the whole grid": partly(a, b, one_turn)
        }
        hint = "the step from one turn to the next is gridDim.x * blockDim.x threads"
        result = add(function, a, b, blocks=blocks, threads=threads)
        assert_sum(result, a, b, what=f"sum with {blocks} blocks of {threads}", mistakes=mistakes, hint=hint)


@ladder
def test_each_element_is_added_once(function, cuda_device):
    """In place (out is a), a second addition of one element would show."""
    n = 1009
    a, b = device_array(np.arange(n, dtype=np.float32)), np.full(n, 0.5, np.float32)
    arguments = (a, device_array(b), a, np.int64(n))
    blocks = 4 if function != "one_per_thread" else -(-n // 64)
    launch(KERNELS / f"{function}.cu", "add_float32", arguments, grid=blocks, block=64)
    hint = "elements are added more than once: two threads share them, or head, body and tail overlap"
    assert_close(a.get(), np.arange(n, dtype=np.float32) + b, rtol=0.0, atol=0.0, hint=hint)


@kernels
@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_dtypes(kernel, dtype, rng, cuda_device):
    """The other entry points, with values whose sum is rounded."""
    a, b = random(rng, 333, dtype), random(rng, 333, dtype)
    hint = "are the loads as wide as the type? A 16-byte pack holds 8, 4 or 2 elements"
    assert_sum(
        add(kernel, a, b, blocks=None if kernel == LADDER[0] else 3), a, b, what=f"{dtype} sum", hint=hint
    )


@kernels
def test_nan_and_inf(kernel, cuda_device):
    """NaN and infinities propagate as in IEEE 754, and a large sum overflows to inf."""
    values = np.float32([np.nan, np.inf, -np.inf, 3e38, -3e38, 0.0, -0.0, 1e-45])
    a, b = (array.ravel().copy() for array in np.meshgrid(values, values))
    with np.errstate(over="ignore"):
        assert_sum(add(kernel, a, b, threads=32), a, b, what="sum of special values")


@kernels
def test_offset_views(kernel, rng, cuda_device):
    """Arrays that start anywhere in an allocation, together or not, and whose neighbours stay as they are."""
    n, room = 67, 80
    buffers = [device_array(random(rng, room, "float32")) for _ in range(3)]
    for offsets in ((0, 0, 0), (1, 1, 1), (2, 2, 2), (3, 3, 3), (1, 0, 0), (0, 1, 0), (0, 0, 1), (3, 1, 2)):
        before = [buffer.get() for buffer in buffers]
        a, b, out = (buffer[first : first + n] for buffer, first in zip(buffers, offsets, strict=True))
        blocks = 2 if kernel != "one_per_thread" else 3
        launch(KERNELS / f"{kernel}.cu", "add_float32", (a, b, out, np.int64(n)), grid=blocks, block=32)
        after = [buffer.get() for buffer in buffers]
        expected = before[2].copy()
        sums = total(*(array[first : first + n] for array, first in zip(before[:2], offsets, strict=False)))
        expected[offsets[2] : offsets[2] + n] = sums
        hint = "a 16-byte access needs an address that is a multiple of 16, in all three arrays; add the rest singly"
        assert_close(after[2], expected, rtol=0.0, atol=0.0, what=f"arrays at offsets {offsets}", hint=hint)
        assert all(np.array_equal(*pair) for pair in zip(before[:2], after[:2], strict=True)), (
            "an input was modified"
        )


@pytest.mark.grades("vectorized")
@pytest.mark.parametrize("dtype", DTYPES)
def test_heads_of_every_type(dtype, rng, cuda_device):
    """Head, packs and tail share the elements of a view, in place: the head is counted in elements of the type."""
    for n in (1, 2, 9, 67):  # the first two are shorter than a head
        a, b = random(rng, n + 8, dtype), random(rng, n + 8, dtype)
        device_a, device_b = device_array(a), device_array(b)
        arguments = (device_a[1 : 1 + n], device_b[1 : 1 + n], device_a[1 : 1 + n], np.int64(n))
        launch(KERNELS / "vectorized.cu", f"add_{dtype}", arguments, grid=1, block=32)
        expected = a.copy()
        expected[1 : 1 + n] = total(a[1 : 1 + n], b[1 : 1 + n])
        hint = (
            "how many elements lie before the first multiple of 16 bytes, and are head, packs and tail apart?"
        )
        what = f"{n} sums of {dtype}, one element past a multiple of 16 bytes, and their neighbours"
        assert_close(device_a.get(), expected, rtol=0.0, atol=0.0, what=what, hint=hint)


@ladder
@pytest.mark.parametrize("schedule", ["reverse", "random"])
@pytest.mark.emulator_only("a GPU runs its threads in an order of its own")
def test_order_of_threads(function, schedule, rng, cuda_device):
    """No thread waits for another, so any order of execution gives the same sums."""
    a, b = random(rng, 1009, "float32"), random(rng, 1009, "float32")
    with cuda_emulator.settings(schedule=schedule):
        assert_sum(add(function, a, b), a, b, what=f"sum, threads in {schedule} order")


# --- what the kernels ask of the memory (counted by the emulator) ------------------------------------------------


def count(kernel, n=8192, blocks=4, threads=64, first=0):
    """Return the emulator's counters for one launch on float32, with arrays that start at element `first` of others."""
    a, b, out = (device_array(np.ones(first + n, np.float32))[first:] for _ in range(3))
    if kernel == "one_per_thread":
        blocks = n // threads
    with cuda_emulator.counting() as counters:
        launch(KERNELS / f"{kernel}.cu", "add_float32", (a, b, out, np.int64(n)), grid=blocks, block=threads)
    return counters


@pytest.fixture
def counting_device(cuda_device):
    if cuda_device == "gpu":
        pytest.skip(
            "the emulator counts; on a GPU ask ncu for l1tex__t_sectors_pipe_lsu_mem_global_op_ld.sum"
        )
    return cuda_device


@ladder
def test_coalesced(function, counting_device):
    """Each warp's loads fill their 32-byte sectors: the bytes moved are the bytes asked for."""
    loads, stores = (count(function).total(kind) for kind in ("global load", "global store"))
    assert (loads.bytes, stores.bytes) == (2 * 4 * 8192, 4 * 8192), (
        f"two reads and one write of each element are {2 * 4 * 8192} and {4 * 8192} bytes, counted {loads.bytes} and "
        f"{stores.bytes}: some elements are loaded twice or never"
    )
    moved, ideal = (loads.sectors, stores.sectors), (loads.ideal_sectors, stores.ideal_sectors)
    assert moved == ideal, (
        f"not coalesced: the loads move {loads.bytes_moved} bytes for {loads.bytes}, the stores {stores.bytes_moved} "
        f"for {stores.bytes}; in each turn, neighbouring threads must take neighbouring elements"
    )


@pytest.mark.grades("vectorized")
def test_vectorized_moves_16_bytes_at_a_time(counting_device):
    """A quarter of the load instructions, for the same bytes."""
    loads = count("vectorized").total("global load")
    assert loads.bytes == 16 * loads.lanes, (
        f"not vectorized: a thread moves {loads.bytes / loads.lanes:.0f} bytes with each load instead of 16; "
        "read an int4 or float4"
    )
    loads = count("vectorized", first=1).total("global load")
    assert loads.bytes > 15 * loads.lanes, (
        "three arrays that start 4 bytes past a multiple of 16 need a head of three elements; the rest fits in packs, "
        f"but a thread moves {loads.bytes / loads.lanes:.0f} bytes with each load"
    )


@pytest.mark.grades
def test_strided_moves_eight_times_the_bytes(counting_device):
    """The lesson of strided.cu: each lane uses 4 bytes of a 32-byte sector."""
    loads = count("strided").total("global load")
    assert loads.sectors == 8 * loads.ideal_sectors, (
        f"{loads.sectors} sectors, {loads.ideal_sectors} would do"
    )


@pytest.mark.grades
def test_divergent_splits_its_warps(counting_device):
    """The lesson of divergent.cu: in every turn, the lanes of each warp take both sides of the branch."""
    divergent, plain = (count(kernel).total("branch").divergent for kernel in ("divergent", "grid_stride"))
    assert divergent >= 4 * (8192 // 32), (
        f"{divergent} divergent branches for {8192 // 32} warps' worth of elements"
    )
    assert plain == 0, f"{plain} divergent branches in grid_stride.cu, whose warps stay together"


@ladder
@pytest.mark.emulator_only("the emulator runs a few blocks of this grid; a GPU would need 9 GB for all of it")
def test_more_than_two_to_the_32_elements(function, cuda_device):
    """Indices past 2**31 and 2**32: the emulator runs the last blocks of a grid over arrays that were never filled."""
    from pycuda import driver

    n, threads = 2**32 + 1000, 256
    x = np.arange(1000, dtype=np.float16)
    pointer = driver.mem_alloc(2 * n)
    try:
        driver.memcpy_htod(int(pointer) + 2 * (n - x.size), x)
        blocks = -(-n // (threads * (8 if function == "vectorized" else 1)))
        with cuda_emulator.settings(window=(blocks - 5, 5)):  # x + x, in place
            arguments = (pointer, pointer, pointer, np.int64(n))
            launch(KERNELS / f"{function}.cu", "add_float16", arguments, grid=blocks, block=threads)
        result = np.empty_like(x)
        driver.memcpy_dtoh(result, int(pointer) + 2 * (n - x.size))
    finally:
        pointer.free()
    hint = "an index of 32 bits: blockIdx.x * blockDim.x wraps around before it is widened; cast blockIdx.x first"
    assert_sum(result, x, x, what="end of 2**32 + 1000 sums", hint=hint)


# --- the host side ---------------------------------------------------------------------------------------------


@pytest.mark.grades("vector_add")
def test_numpy_arrays(rng, cuda_device):
    """NumPy arrays in, a new NumPy array out, and the inputs stay as they are."""
    a, b = random(rng, (7, 30), "float32"), random(rng, (7, 30), "float32")
    with unchanged(a, b):
        result = cuda_vector_add.vector_add(a, b)
    assert isinstance(result, np.ndarray), (
        f"NumPy arrays should give a NumPy array, not {type(result).__name__}"
    )
    assert_sum(result, a, b)


@pytest.mark.grades("vector_add")
@pytest.mark.parametrize("kernel", LADDER + SLOW)
def test_every_kernel(kernel, rng, cuda_device):
    """Each kernel by name, with more elements than one block has threads."""
    a, b = random(rng, 5000, "float32"), random(rng, 5000, "float32")
    mistakes = {
        "the grid is rounded down: the last elements have no thread": partly(
            a, b, slice(0, 5000 // 256 * 256)
        ),
        "only one block is launched": partly(a, b, slice(0, 256)),
    }
    assert_sum(cuda_vector_add.vector_add(a, b, kernel=kernel), a, b, what=kernel, mistakes=mistakes)


@pytest.mark.grades("vector_add")
def test_unknown_kernels(cuda_device):
    """A name that is no kernel is refused, also one that would be a path."""
    assert tuple(cuda_vector_add.KERNELS) == LADDER + SLOW
    for name in ("fast", "../secret", "", None):
        with expect_error(ValueError, "grid_stride", otherwise="an unknown kernel is accepted"):
            cuda_vector_add.vector_add(np.ones(3, np.float32), np.ones(3, np.float32), kernel=name)


@pytest.mark.grades("vector_add")
@pytest.mark.parametrize("kernel", LADDER + SLOW)
def test_the_kernel_that_runs(kernel, counting_device):
    """The addition happens on the device, in the file of that name."""
    a = np.ones(70, np.float32)
    with cuda_emulator.counting() as counters:
        cuda_vector_add.vector_add(a, a, kernel=kernel)
    assert counters.kernels == ["add_float32"], f"nothing is launched, or too much: {counters.kernels}"
    files = {Path(row.file).stem for row in counters.rows}
    assert files == {kernel}, f"another kernel than the one asked for ran: {files} instead of {kernel}"


@pytest.mark.grades("vector_add")
def test_the_default_kernel(counting_device):
    """The default is the fastest."""
    a = np.ones(70, np.float32)
    with cuda_emulator.counting() as counters:
        cuda_vector_add.vector_add(a, a)
    files = {Path(row.file).stem for row in counters.rows}
    assert files == {"vectorized"}, f"the default kernel is vectorized, but {files} ran"


@pytest.mark.grades("vector_add")
@pytest.mark.emulator_only("only the emulator can run the first block of a grid alone")
def test_n_blocks_is_the_grid(cuda_device):
    """One block adds everything, and the first of three a third."""
    a = np.ones(192, np.float32)
    for n_blocks in (1, 3):
        with cuda_emulator.settings(window=(0, 1)):
            result = cuda_vector_add.vector_add(a, a, kernel="grid_stride", block_size=64, n_blocks=n_blocks)
        done = int((result == 2).sum())
        assert done == 192 // n_blocks, (
            f"n_blocks={n_blocks} is ignored: the first block adds {done} of 192 elements, not {192 // n_blocks}"
        )


@pytest.mark.grades("vector_add")
@pytest.mark.parametrize("dtype", DTYPES)
def test_host_dtypes(dtype, rng, cuda_device):
    """Each dtype finds its own entry point, and is the dtype of the result."""
    a, b = random(rng, 501, dtype), random(rng, 501, dtype)
    assert_sum(cuda_vector_add.vector_add(a, b), a, b, what=f"{dtype} sum")


@pytest.mark.grades("vector_add")
@pytest.mark.parametrize("block_size", [32, 96, 1024])
def test_block_size(block_size, rng, cuda_device):
    """Any block size gives the same sums, and needs its own grid size."""
    a, b = random(rng, 2500, "float32"), random(rng, 2500, "float32")
    for kernel in LADDER:
        result = cuda_vector_add.vector_add(a, b, kernel=kernel, block_size=block_size)
        assert_sum(result, a, b, what=kernel, hint="the number of blocks depends on block_size")


@pytest.mark.grades("vector_add")
def test_n_blocks(rng, cuda_device):
    """The grid can be chosen, except for the kernel that needs one thread per element."""
    a, b = random(rng, 2500, "float32"), random(rng, 2500, "float32")
    for n_blocks in (1, 3, 100):
        assert_sum(cuda_vector_add.vector_add(a, b, kernel="grid_stride", n_blocks=n_blocks), a, b)
    assert_sum(cuda_vector_add.vector_add(a, b, kernel="one_per_thread", n_blocks=10), a, b)
    with expect_error(ValueError, "10", "3", otherwise="one_per_thread accepts a grid with too few threads"):
        cuda_vector_add.vector_add(a, b, kernel="one_per_thread", n_blocks=3)


@pytest.mark.grades("vector_add")
@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 4, 5)], ids=str)
def test_nothing_to_add(shape, cuda_device):
    """No elements: the right shape and dtype, and no launch, since a grid of 0 blocks is an error."""
    empty = np.zeros(shape, np.float16)
    result = cuda_vector_add.vector_add(empty, empty)
    assert (result.shape, result.dtype) == (shape, np.float16), f"{shape} gave {result.shape} {result.dtype}"
    on_device = cuda_vector_add.vector_add(device_array(empty), device_array(empty))
    assert on_device.shape == shape, f"{shape} on the device gave {on_device.shape}"


@pytest.mark.grades("vector_add")
def test_strided_numpy_arrays(rng, cuda_device):
    """Strided, reversed and transposed NumPy views are packed on their way to the device."""
    a, b = random(rng, (20, 12), "float32")[::2, ::-3], random(rng, (4, 10), "float32").T
    out = np.full((10, 8), np.nan, np.float32)
    result = cuda_vector_add.vector_add(a, b, out[:, ::2])
    assert_sum(result, a, b, hint="the memory of a view is not the view: np.ascontiguousarray packs it")
    assert_sum(out[:, ::2], a, b, what="out")
    assert np.isnan(out[:, 1::2]).all(), "out is a view, and what lies between its elements was overwritten"


@pytest.mark.grades("vector_add")
def test_device_arrays_stay_on_the_device(rng, cuda_device):
    """GPUArrays give a GPUArray; anything with the CUDA array interface is as good."""
    a, b = random(rng, (5, 41), "float64"), random(rng, (5, 41), "float64")
    result = cuda_vector_add.vector_add(device_array(a), device_array(b))
    assert not isinstance(result, np.ndarray), (
        "device arrays were copied to the host: the result should stay there"
    )
    assert_sum(result.get(), a, b)
    result = cuda_vector_add.vector_add(Foreign(device_array(a)), Foreign(device_array(b)))
    assert_sum(result.get(), a, b, what="sum of arrays with __cuda_array_interface__")


class Foreign:
    """A device array of some other library: nothing but a shape and the CUDA array interface, without strides."""

    def __init__(self, array, strides=None):
        self.shape = array.shape
        self._array = array  # keeps the memory
        self.__cuda_array_interface__ = {**array.__cuda_array_interface__, "strides": strides}


@pytest.mark.grades("vector_add")
def test_out(rng, cuda_device):
    """The sums go to `out`, which is what is returned; it may be an input."""
    a, b = random(rng, 300, "float32"), random(rng, 300, "float32")
    out = np.full(300, np.nan, np.float32)
    assert cuda_vector_add.vector_add(a, b, out) is out, "vector_add(a, b, out) returns out itself"
    assert_sum(out, a, b, what="out")
    device_a, device_b, device_out = (device_array(array) for array in (a, b, np.full_like(a, np.nan)))
    assert cuda_vector_add.vector_add(device_a, device_b, device_out) is device_out
    assert_sum(device_out.get(), a, b, what="out on the device")
    cuda_vector_add.vector_add(device_a, device_b, device_a)
    assert_sum(device_a.get(), a, b, what="sum in place")


@pytest.mark.grades("vector_add")
def test_out_that_overlaps(rng, cuda_device):
    """An output that is an input, shifted, would be read after it was overwritten."""
    buffer = device_array(random(rng, 100, "float32"))
    for first, second in ((0, 1), (1, 0), (0, 49)):
        a, out = buffer[first : first + 50], buffer[second : second + 50]
        for arguments in (
            (a, device_array(np.ones(50, np.float32)), out),
            (device_array(np.ones(50, np.float32)), a, out),
        ):
            with expect_error(
                ValueError, "overlap", otherwise="an out that overlaps an input, shifted, is accepted"
            ):
                cuda_vector_add.vector_add(*arguments)
    cuda_vector_add.vector_add(buffer[:50], buffer[:50], buffer[50:])  # neighbours do not overlap


@pytest.mark.grades("vector_add")
def test_gaps_on_the_device(cuda_device):
    """A device array with gaps is refused: its strides never reach the kernel."""
    array, gaps = device_array(np.ones((6, 4), np.float32)), (32, 4)
    for arguments in (
        (Foreign(array, gaps), array),
        (array, Foreign(array, gaps)),
        (array, array, Foreign(array, gaps)),
    ):
        with expect_error(
            ValueError, "(32, 4)", otherwise="a device array that is not contiguous is accepted"
        ):
            cuda_vector_add.vector_add(*arguments)
    cuda_vector_add.vector_add(Foreign(array, (16, 4)), array)  # contiguous, and says so
    one_row = device_array(np.ones((1, 4), np.float32))
    cuda_vector_add.vector_add(
        Foreign(one_row, (999, 4)), one_row
    )  # the stride of an axis of length 1 means nothing


@pytest.mark.grades("vector_add")
@pytest.mark.parametrize(
    ("other", "error", "mentions"),
    [
        (np.ones((4, 3), np.float32), ValueError, ["(3, 4)", "(4, 3)"]),
        (np.ones(12, np.float32), ValueError, ["(3, 4)", "(12,)"]),
        (np.ones((1, 4), np.float32), ValueError, ["(3, 4)", "(1, 4)"]),
        (np.ones((3, 4), np.float16), TypeError, ["float32", "float16"]),
        (np.ones((3, 4), np.int64), TypeError, ["int64"]),
        (np.ones((3, 4), np.complex64), TypeError, ["complex64"]),
        (np.ones((3, 4), bool), TypeError, ["bool"]),
        ([[1.0] * 4] * 3, TypeError, ["list"]),
        (2.0, TypeError, ["float"]),
    ],
    ids=["transposed", "flat", "broadcast", "float16", "int64", "complex", "bool", "list", "scalar"],
)
def test_arguments_that_do_not_fit(other, error, mentions, cuda_device):
    """Another shape, dtype or kind of argument is refused before anything is launched, in any position."""
    good = np.ones((3, 4), np.float32)
    has_kernel = str(getattr(other, "dtype", None)) in DTYPES
    both = () if has_kernel else ((other, other),)
    for arguments in ((good, other), (other, good), (good, good, other), *both):
        with expect_error(error, *mentions, otherwise="an argument that does not fit is accepted"):
            cuda_vector_add.vector_add(*arguments)


@pytest.mark.grades("vector_add")
def test_host_and_device_together(cuda_device):
    """Host and device arrays are not mixed silently: the copy would be a surprise."""
    host = np.ones(5, np.float32)
    for arguments in (
        (host, device_array(host)),
        (device_array(host), host),
        (host, host, device_array(host)),
    ):
        with expect_error(TypeError, "ndarray", "GPUArray", otherwise="host and device arrays are mixed"):
            cuda_vector_add.vector_add(*arguments)


@pytest.mark.grades("vector_add")
@pytest.mark.parametrize(
    "options",
    [
        {"block_size": 0},
        {"block_size": 31},
        {"block_size": 48},
        {"block_size": 2048},
        {"n_blocks": 0},
        {"n_blocks": -1},
    ],
    ids=str,
)
def test_options_out_of_range(options, cuda_device):
    """Block and grid sizes that no device has are refused by name, not by the driver."""
    with expect_error(ValueError, *options, otherwise=f"{options} is accepted"):
        cuda_vector_add.vector_add(
            np.ones(5, np.float32), np.ones(5, np.float32), kernel="grid_stride", **options
        )
