"""The ladder: the kernels that are faster, or slow on purpose; special values; `ladder.vector_add` beyond the core.

test_ladder_as_core.py runs the tests of the core's `vector_add` on it. Oracle: tests/additions.py.
"""

import additions
import numpy as np
import pytest
from additions import DTYPES, IT_COUNTS, ITS_ORDER, KERNELS, assert_sum, count, kernel_files, random, total

import cuda_vector_add
import ladder
from shared import cuda_emulator
from shared.testing.checks import assert_close, assert_imports_only, expect_error
from shared.testing.devices import device_array, launch

pytestmark = pytest.mark.module("ladder")
CORE, SLOW = (
    ("one_per_thread", "grid_stride"),
    ("strided", "divergent"),
)  # the slow ones have nothing to write
host = pytest.mark.grades("vector_add")


def graded(names):
    """Parametrise by kernel; a test of one that is given grades the file as a whole."""
    marks = {name: pytest.mark.grades(*[name] * (name not in SLOW)) for name in names}
    return pytest.mark.parametrize("kernel", [pytest.param(name, marks=mark) for name, mark in marks.items()])


@pytest.mark.grades
def test_ladder_imports():
    """The ladder uses NumPy, PyCUDA and device_arrays.py, nothing else."""
    assert_imports_only(ladder, {"numpy", "pycuda", "device_arrays"})


# --- the kernels ---------------------------------------------------------------------------------------------


@pytest.mark.grades("vectorized")
def test_vectorized_by_hand(cuda_device):
    """Five elements, worked by hand, in one block of 32 threads."""
    additions.check_by_hand("vectorized")


@graded(["vectorized", *SLOW])
@pytest.mark.parametrize("threads", [32, 64, 256])
def test_sizes_further(kernel, threads, rng, cuda_device):
    """Sizes around a warp and a block, primes, and one that fills several blocks."""
    additions.check_sizes(kernel, threads, rng)


@pytest.mark.grades("vectorized")
def test_vectorized_in_grids_of_any_size(rng, cuda_device):
    """A grid that is too small goes round several times; one that is too large stops."""
    additions.check_grids("vectorized", rng)


@graded(["vectorized", *SLOW])
@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_dtypes_further(kernel, dtype, rng, cuda_device):
    """The other entry points, with values whose sum is rounded."""
    additions.check_dtype(kernel, dtype, rng)


@graded(["vectorized", *SLOW])
def test_sums_that_wrap_further(kernel, cuda_device):
    """int32 sums that do not fit wrap around."""
    additions.check_wrapping(kernel)


@pytest.mark.grades("vectorized")
def test_vectorized_adds_once(cuda_device):
    """In place (out is a), a second addition of one element would show."""
    additions.check_added_once("vectorized")


@graded([*CORE, "vectorized", *SLOW])
def test_nan_and_inf(kernel, cuda_device):
    """NaN and infinities propagate as in IEEE 754, and a large sum overflows to inf."""
    values = np.float32([np.nan, np.inf, -np.inf, 3e38, -3e38, 0.0, -0.0, 1e-45])
    a, b = (array.ravel().copy() for array in np.meshgrid(values, values))
    with np.errstate(over="ignore"):
        assert_sum(additions.add(kernel, a, b, threads=32), a, b, what="sum of special values")


@graded(["vectorized", *SLOW])
def test_offset_views_further(kernel, rng, cuda_device):
    """Arrays that start anywhere in an allocation, together or not, and whose neighbours stay as they are."""
    additions.check_offsets(kernel, rng)


@pytest.mark.grades("vectorized")
@pytest.mark.parametrize("dtype", DTYPES)
def test_heads_of_every_type(dtype, rng, cuda_device):
    """Head, packs and tail share the elements of a view, in place: the head is counted in elements of the type."""
    for n in (1, 2, 9, 67):  # the first two are shorter than a head
        a, b = random(rng, n + 8, dtype), random(rng, n + 8, dtype)
        device_a, device_b = device_array(a), device_array(b)
        arguments = (device_a[1 : 1 + n], device_b[1 : 1 + n], device_a[1 : 1 + n], np.int64(n))
        launch(KERNELS / "vectorized.cu", f"add_{dtype}", arguments, grid=1, block=32)
        expected, result = a.copy(), device_a.get()
        expected[1 : 1 + n] = total(a[1 : 1 + n], b[1 : 1 + n])
        mistakes = {
            "elements are added twice: are head, packs and tail apart?": np.where(
                result == total(expected, b), result, expected
            ),
            "no thread adds some elements: how many lie before the first multiple of 16 bytes?": np.where(
                result == a, result, expected
            ),
        }
        what = f"{n} sums of {dtype}, one element past a multiple of 16 bytes, and their neighbours"
        assert_close(result, expected, rtol=0.0, atol=0.0, what=what, mistakes=mistakes)


@pytest.mark.grades("vectorized")
@pytest.mark.parametrize("schedule", ["reverse", "random"])
@pytest.mark.emulator_only(ITS_ORDER)
def test_vectorized_in_any_order(schedule, rng, cuda_device):
    """No thread waits for another, so any order of execution gives the same sums."""
    additions.check_order("vectorized", schedule, rng)


@pytest.mark.grades("vectorized")
@pytest.mark.emulator_only(IT_COUNTS)
def test_vectorized_is_coalesced(cuda_device):
    """Each warp's loads fill their 32-byte sectors."""
    additions.check_coalesced("vectorized")


@pytest.mark.grades("vectorized")
@pytest.mark.emulator_only(IT_COUNTS)
def test_vectorized_moves_16_bytes_at_a_time(cuda_device):
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
@pytest.mark.emulator_only(IT_COUNTS)
def test_strided_moves_eight_times_the_bytes(cuda_device):
    """The lesson of strided.cu: each lane uses 4 bytes of a 32-byte sector."""
    loads = count("strided").total("global load")
    assert loads.sectors == 8 * loads.ideal_sectors, (
        f"{loads.sectors} sectors, {loads.ideal_sectors} would do"
    )


@pytest.mark.grades
@pytest.mark.emulator_only(IT_COUNTS)
def test_divergent_splits_its_warps(cuda_device):
    """The lesson of divergent.cu: in every turn, the lanes of each warp take both sides of the branch."""
    divergent = count("divergent").total("branch").divergent
    assert divergent >= 4 * (8192 // 32), (
        f"{divergent} divergent branches for {8192 // 32} warps' worth of elements"
    )


@pytest.mark.grades("grid_stride")
@pytest.mark.emulator_only(IT_COUNTS)
def test_grid_stride_does_not_diverge(cuda_device):
    """All lanes of a warp go on together, where the elements are a multiple of the grid."""
    plain = count("grid_stride").total("branch").divergent
    assert plain == 0, f"{plain} divergent branches in grid_stride.cu, whose warps stay together"


@pytest.mark.grades("vectorized")
@pytest.mark.emulator_only("the emulator runs a few blocks of this grid; a GPU would need 9 GB for all of it")
def test_vectorized_past_two_to_the_32(cuda_device):
    """Indices past 2**31 and 2**32."""
    additions.check_long("vectorized")


# --- the host side -------------------------------------------------------------------------------------------


@host
@pytest.mark.parametrize("kernel", ladder.KERNELS)
def test_every_kernel_of_the_ladder(kernel, rng, cuda_device):
    """Each kernel by name, with more elements than one block has threads."""
    a, b = random(rng, 5000), random(rng, 5000)
    result = ladder.vector_add(a, b, kernel=kernel)
    missing = {"the last elements have no thread": additions.without_a_thread(result, a, b)}
    assert_sum(result, a, b, what=kernel, mistakes=missing)


@host
@pytest.mark.parametrize("kernel", ladder.KERNELS)
@pytest.mark.emulator_only(IT_COUNTS)
def test_the_kernel_of_the_ladder_that_runs(kernel, cuda_device):
    """The addition happens on the device, in the file of that name; the default is the fastest."""
    a = np.ones(70, np.float32)
    for options in ({"kernel": kernel}, *[{}] * (kernel == "vectorized")):
        with cuda_emulator.counting() as counters:
            ladder.vector_add(a, a, **options)
        assert counters.kernels == ["add_float32"], f"nothing is launched, or too much: {counters.kernels}"
        files = kernel_files(counters)
        assert files == {kernel}, f"another kernel than the one asked for ran: {files} instead of {kernel}"


@host
def test_unknown_kernels_are_named(cuda_device):
    """The message lists the kernels that there are."""
    assert ladder.KERNELS == (*CORE, "vectorized", *SLOW)
    with expect_error(ValueError, "grid_stride", "'fast'", otherwise="an unknown kernel is accepted"):
        ladder.vector_add(np.ones(3, np.float32), np.ones(3, np.float32), kernel="fast")


@host
@pytest.mark.emulator_only("only the emulator can run the first block of a grid alone")
def test_n_blocks_is_the_grid(cuda_device):
    """One block adds everything, and the first of three a third."""
    a = np.ones(192, np.float32)
    for n_blocks in (1, 3):
        with cuda_emulator.settings(window=(0, 1)):
            result = ladder.vector_add(a, a, kernel="grid_stride", block_size=64, n_blocks=n_blocks)
        done = int((result == 2).sum())
        assert done == 192 // n_blocks, (
            f"n_blocks={n_blocks} is ignored: the first block adds {done} of 192 elements, not {192 // n_blocks}"
        )


@host
def test_n_blocks(rng, cuda_device):
    """The grid can be chosen; the kernel with one thread per element needs as many threads at least."""
    a, b = random(rng, 2500), random(rng, 2500)
    for n_blocks in (1, 3, 100):
        assert_sum(ladder.vector_add(a, b, kernel="grid_stride", n_blocks=n_blocks), a, b)
    for n_blocks in (10, 13):
        try:
            result = ladder.vector_add(a, b, kernel="one_per_thread", n_blocks=n_blocks)
        except ValueError as error:
            pytest.fail(
                f"one_per_thread refuses a grid with more threads than elements, which is harmless: {error}"
            )
        assert_sum(result, a, b, what=f"sum in {n_blocks} blocks")
    with expect_error(ValueError, "10", "3", otherwise="one_per_thread accepts a grid with too few threads"):
        ladder.vector_add(a, b, kernel="one_per_thread", n_blocks=3)


@host
def test_n_blocks_past_65535(cuda_device):
    """Along x a grid has up to 2**31 - 1 blocks."""
    a = np.ones(32 * 70000, np.float16)
    with additions.only_blocks(69999, 1, cuda_device):
        result = ladder.vector_add(a, a, kernel="grid_stride", block_size=32, n_blocks=70000)
    assert (result[-32:] == 2).all(), "n_blocks is cut off at 65535: the last block has nothing to do"


@host
@pytest.mark.parametrize("block_size", [32, 96, 1024])
def test_block_size_of_vectorized(block_size, rng, cuda_device):
    """Any block size gives the same sums."""
    a, b = random(rng, 2500), random(rng, 2500)
    assert_sum(ladder.vector_add(a, b, block_size=block_size), a, b, what="vectorized")


@host
def test_arrays_without_axes(cuda_device):
    """A 0-d array has one element."""
    result = ladder.vector_add(np.array(1.5, np.float32), np.array(2.0, np.float32))
    assert (result.shape, float(result)) == ((), 3.5), f"1.5 + 2 gave {result!r}"


@host
def test_byte_order(rng, cuda_device):
    """NumPy arrays in the other byte order are converted on their way, and so is `out`; on the device there is no way."""
    a, b = random(rng, 40), random(rng, 40)
    swapped = a.astype(">f4"), b.astype(">f4")
    hint = "the bytes were copied as they lie: bring them to native order first"
    for module in (ladder, cuda_vector_add):  # mixed orders too
        for arrays in (swapped, (a, swapped[1]), (swapped[0], b)):
            result = module.vector_add(*arrays)
            assert_sum(result, a, b, hint=hint)
            assert result.dtype.isnative, f"the result is in the byte order {result.dtype.str}"
    out = np.zeros(40, ">f4")
    ladder.vector_add(a, b, out)
    assert_sum(out.astype(np.float32), a, b, what="out", hint=hint)
    foreign = Foreign(device_array(a))
    foreign.__cuda_array_interface__["typestr"] = ">f4"
    for arrays in ((foreign, device_array(b)), (device_array(b), foreign), (foreign, foreign)):
        with expect_error(TypeError, ">f4", otherwise="a device array in the other byte order is accepted"):
            ladder.vector_add(*arrays)


class Foreign:
    """A device array of some other library: nothing but a shape and the CUDA array interface, without strides."""

    def __init__(self, array, strides=None):
        self.shape = array.shape
        self._array = array  # keeps the memory
        self.__cuda_array_interface__ = {**array.__cuda_array_interface__, "strides": strides}


@host
def test_foreign_device_arrays(rng, cuda_device):
    """Anything with the CUDA array interface is as good as a GPUArray."""
    a, b = random(rng, (5, 41), "float64"), random(rng, (5, 41), "float64")
    result = ladder.vector_add(Foreign(device_array(a)), Foreign(device_array(b)))
    assert_sum(result.get(), a, b, what="sum of arrays with __cuda_array_interface__")


@host
def test_out(rng, cuda_device):
    """The sums go to `out`, which is what is returned; it may be an input."""
    a, b = random(rng, 300), random(rng, 300)
    out = np.full(300, np.nan, np.float32)
    assert ladder.vector_add(a, b, out) is out, "vector_add(a, b, out) returns out itself"
    assert_sum(out, a, b, what="out")
    device_a, device_b, device_out = (device_array(array) for array in (a, b, np.full_like(a, np.nan)))
    assert ladder.vector_add(device_a, device_b, device_out) is device_out
    assert_sum(device_out.get(), a, b, what="out on the device")
    ladder.vector_add(device_a, device_b, device_a)
    assert_sum(device_a.get(), a, b, what="sum in place")


@host
def test_out_that_is_a_view(rng, cuda_device):
    """A strided `out` on the host is written, not a packed copy of it, and what lies between its elements stays."""
    a, b = random(rng, (10, 8)), random(rng, (10, 8))
    buffer = np.full((10, 16), np.nan, np.float32)
    out = buffer[:, ::2]
    assert ladder.vector_add(a, b, out) is out, (
        "vector_add(a, b, out) returns out itself, also where it is a view"
    )
    copied = {"the sums went to a packed copy of out, which is NaN as before": np.full_like(a, np.nan)}
    assert_sum(buffer[:, ::2], a, b, what="out", mistakes=copied)
    assert np.isnan(buffer[:, 1::2]).all(), (
        "out is a view, and what lies between its elements was overwritten"
    )
    turned = np.full((8, 10), np.nan, np.float32)
    ladder.vector_add(a, b, turned.T)
    assert_sum(turned.T, a, b, what="transposed out", mistakes=copied)
    before = a.copy()
    ladder.vector_add(a, b, a)
    assert_sum(a, before, b, what="sum in place on the host")


@host
def test_out_that_overlaps(rng, cuda_device):
    """An output that is an input, shifted, would be read after it was overwritten."""
    buffer = device_array(random(rng, 100))
    for first, second in ((0, 1), (1, 0), (0, 49)):
        a, out = buffer[first : first + 50], buffer[second : second + 50]
        for arguments in (
            (a, device_array(np.ones(50, np.float32)), out),
            (device_array(np.ones(50, np.float32)), a, out),
        ):
            with expect_error(
                ValueError, "out", otherwise="an out that overlaps an input, shifted, is accepted"
            ):
                ladder.vector_add(*arguments)
    ladder.vector_add(buffer[:50], buffer[:50], buffer[50:])  # neighbours do not overlap


@host
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
            ladder.vector_add(*arguments)
    ladder.vector_add(Foreign(array, (16, 4)), array)  # contiguous, and says so
    one_row = device_array(np.ones((1, 4), np.float32))
    ladder.vector_add(Foreign(one_row, (999, 4)), one_row)  # the stride of an axis of length 1 means nothing


@host
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
def test_messages_name_what_came(other, error, mentions, cuda_device):
    """Another shape, dtype or kind of argument is refused before anything is launched, in any position."""
    good = np.ones((3, 4), np.float32)
    has_kernel = str(getattr(other, "dtype", None)) in DTYPES
    both = () if has_kernel else ((other, other),)
    for arguments in ((good, other), (other, good), (good, good, other), *both):
        with expect_error(error, *mentions, otherwise="an argument that does not fit is accepted"):
            ladder.vector_add(*arguments)


@host
def test_out_on_the_other_side(cuda_device):
    """Host and device arrays are not mixed silently: the copy would be a surprise."""
    array = np.ones(5, np.float32)
    for arguments in (
        (array, device_array(array)),
        (device_array(array), array),
        (array, array, device_array(array)),
    ):
        with expect_error(TypeError, "ndarray", "GPUArray", otherwise="host and device arrays are mixed"):
            ladder.vector_add(*arguments)


NO_INTEGERS = (64.0, True, "64", [64], np.float32(64), np.array(64), float("nan"))


@host
@pytest.mark.parametrize("value", NO_INTEGERS, ids=repr)
@pytest.mark.parametrize("option", ["block_size", "n_blocks"])
def test_sizes_are_integers(option, value, cuda_device):
    """Anything else is refused by the option's name, before PyCUDA sees it."""
    a = np.ones(500, np.float32)
    for kernel in ladder.KERNELS:
        with expect_error(TypeError, option, otherwise=f"{option}={value!r} is accepted"):
            ladder.vector_add(a, a, kernel=kernel, **{option: value})


@host
def test_block_size_of_the_core(rng, cuda_device):
    """The core refuses the same block sizes, None too, and takes an integer of NumPy, as the ladder does."""
    a, b = random(rng, 500), random(rng, 500)
    for error, values in ((TypeError, (*NO_INTEGERS, None)), (ValueError, (0, -32, 31, 48, 2048))):
        for value in values:
            with expect_error(error, "block_size", otherwise=f"block_size={value!r} is accepted"):
                cuda_vector_add.vector_add(a, b, block_size=value)
            with expect_error(error, "block_size", otherwise=f"block_size={value!r} is accepted"):
                ladder.vector_add(a, b, block_size=value)
    for integer in (np.int64, np.uint8):
        assert_sum(cuda_vector_add.vector_add(a, b, block_size=integer(64)), a, b)
        assert_sum(
            ladder.vector_add(a, b, kernel="one_per_thread", block_size=integer(64), n_blocks=integer(8)),
            a,
            b,
        )


@host
def test_arrays_that_no_kernel_understands(rng, cuda_device):
    """A mask, fields of two bytes, or an `out` that may not be written: refused, not ignored."""
    a = random(rng, 6)
    hidden = np.ma.array(a, mask=a > 0)
    for arguments in ((hidden, a), (a, hidden), (a, a, hidden)):
        with expect_error(TypeError, "MaskedArray", otherwise="the mask is ignored"):
            ladder.vector_add(*arguments)
    fields = np.zeros(6, [("x", "u1"), ("y", "u1")])
    with expect_error(TypeError, "void16", otherwise="a structured array is accepted"):
        ladder.vector_add(fields, fields)
    out = np.full(6, np.nan, np.float32)
    out.flags.writeable = False
    read_only = Foreign(device_array(a))
    read_only.__cuda_array_interface__["data"] = (read_only.__cuda_array_interface__["data"][0], True)
    for arguments in ((a, a, out), (device_array(a), device_array(a), read_only)):
        with expect_error(ValueError, "read-only", otherwise="an out that is read-only is accepted"):
            ladder.vector_add(*arguments)


@host
@pytest.mark.parametrize(
    "options",
    [
        {"block_size": 0},
        {"block_size": 31},
        {"block_size": 48},
        {"block_size": 2048},
        {"n_blocks": 0},
        {"n_blocks": -1},
        {"n_blocks": 2**31},
    ],
    ids=str,
)
def test_options_out_of_range(options, cuda_device):
    """Block and grid sizes that no device has are refused by name, not by the driver."""
    with expect_error(ValueError, *options, otherwise=f"{options} is accepted"):
        ladder.vector_add(np.ones(5, np.float32), np.ones(5, np.float32), kernel="grid_stride", **options)
