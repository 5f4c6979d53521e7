"""The judge of the kernels and of the host side: by hand, widths, many rows, special values, dtypes, counts, `softmax`.

The kernels are launched here directly, so each is graded before there is a host side. Oracle: SciPy's softmax in float64.
"""

import warnings
from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax as scipy_softmax

import cuda_softmax
from shared import cuda_emulator
from shared.testing.checks import assert_close, assert_imports_only, expect_error, unchanged
from shared.testing.devices import device_array, launch

KERNELS = Path(cuda_softmax.__file__).parent / "kernels"
LADDER = ("naive", "block_reduce", "warp_shuffle", "online", "single_read")
CACHED = 200  # elements of a row that single_read may keep in shared memory here

ladder = pytest.mark.parametrize("function", LADDER)
by_block = pytest.mark.parametrize("function", ["block_reduce", "warp_shuffle", "online", "single_read"])


def run(kernel, x, *, blocks=None, threads=64, entry="float32"):
    """Launch one kernel on a copy of the (rows, width) array `x` and return the result, which starts as -7 (no softmax is)."""
    n_rows, width = x.shape
    out = device_array(np.full(x.shape, -7 if x.dtype.kind == "f" else 0xFFFF, x.dtype))
    arguments = [device_array(x), out, np.int64(n_rows), np.int32(width)]
    grid, block = (blocks or n_rows, (threads, 1, 1))
    shared_bytes = 0
    if kernel == "naive":
        grid = -(-n_rows // threads)
    elif kernel == "warp_shuffle":
        grid, block = blocks or -(-n_rows // 2), (32, 2, 1)
    elif kernel == "single_read":
        arguments.append(np.int32(min(width, CACHED)))
        shared_bytes = 4 * min(width, CACHED)
    path, name = KERNELS / f"{kernel}.cu", f"softmax_{entry}"
    launch(path, name, arguments, grid=grid, block=block, shared_bytes=shared_bytes)
    return out.get()


def expected(x):
    """Return SciPy's softmax of each row, in float64; NaN where a row has no softmax."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return scipy_softmax(x.astype(np.float64), axis=-1)


def mistakes(x):
    """Return what likely mistakes would give for `x`."""
    wide = x.astype(np.float64)
    with np.errstate(all="ignore"):
        exponentials = np.exp(wide - wide.max(axis=-1, keepdims=True))
        unshifted = np.exp(x.astype(np.float32))
        return {
            "nothing was written: out still holds the -7 it started with": np.full(x.shape, -7.0),
            "all is NaN: -inf minus -inf? What does a thread start with that has seen no element": x * np.nan,
            "the exponentials are not divided by their sum": exponentials,
            "the largest value is not subtracted: exp overflows": unshifted
            / unshifted.sum(axis=-1, keepdims=True),
            "normalised over the wrong axis: each row sums to one": scipy_softmax(wide, axis=0),
            "the sum is one over all rows": exponentials / exponentials.sum(),
            "this is the logarithm of the softmax": np.log(
                exponentials / exponentials.sum(axis=-1, keepdims=True)
            ),
        }


def assert_softmax(actual, x, *, what="softmax", **options):
    options.setdefault("mistakes", mistakes(x))
    assert_close(actual, expected(x), dtype=np.float32, n=x.shape[-1], atol=1e-30, what=what, **options)


@pytest.mark.grades
def test_imports():
    """The deliverable uses NumPy and PyCUDA, nothing else."""
    assert_imports_only(cuda_softmax, {"numpy", "pycuda"})


# --- the kernels -----------------------------------------------------------------------------------------------


@ladder
def test_by_hand(function, cuda_device):
    """Two rows whose exponentials are 1, 2, 5 and 1, 1, 2 times a constant."""
    x = np.log(np.float32([[1, 2, 5], [1, 1, 2]]))
    shares = np.float32([[0.125, 0.25, 0.625], [0.25, 0.25, 0.5]])
    assert_close(run(function, x, threads=32), shares, rtol=1e-6, what="softmax", mistakes=mistakes(x))


@ladder
@pytest.mark.parametrize("width", [1, 2, 31, 32, 33, 63, 64, 65, 127, 199, 257, 1009])
def test_widths(function, width, rng, cuda_device):
    """Widths around a warp, a block of 64 threads and the 200 elements that single_read may keep."""
    x = (3 * rng.normal(size=(3, width))).astype(np.float32)
    # a width of 1 has softmax 1
    constant = "a row of one element has softmax 1" if width == 1 else None
    hint = "are all elements counted, and none twice? The first 64 threads, and the last, incomplete turn, are suspects"
    assert_softmax(run(function, x), x, what=f"softmax of width {width}", hint=hint, vacuous_ok=constant)


@by_block
@pytest.mark.parametrize("threads", [32, 128, 256])
def test_block_sizes(function, threads, rng, cuda_device):
    """One warp, and several: what the warps find must be combined, with more threads than elements too."""
    for width in (20, 300):
        x = (3 * rng.normal(size=(2, width))).astype(np.float32)
        x[1, width * 5 // 6] += (
            1000  # found by a thread of the upper half: exp overflows unless all know of it
        )
        hint = "each warp found its own part: are the parts of all warps combined, and of no others?"
        assert_softmax(
            run(function, x, threads=threads), x, what=f"{threads} threads, width {width}", hint=hint
        )


@ladder
def test_many_rows(function, rng, cuda_device):
    """More rows than blocks: each block goes on to further rows, and starts afresh."""
    x = rng.normal(size=(37, 50)).astype(np.float32)
    x -= np.arange(37, dtype=np.float32)[:, None] ** 2  # the first row holds the largest values
    hint = "what is left from the row before? Start each row with its own largest value and sum"
    assert_softmax(run(function, x, blocks=3), x, what="37 rows in 3 blocks", hint=hint)


@ladder
@pytest.mark.parametrize("scale", [1e4, 1e38])
def test_large_logits(function, scale, rng, cuda_device):
    """exp(89) overflows in float32; a softmax of large logits does not."""
    x = (scale * rng.uniform(-1, 1, size=(3, 100))).astype(np.float32)
    x[1] = np.float32(scale) * (np.arange(100) % 7 == 3)
    x[2] = -np.float32(scale) * rng.uniform(
        0.5, 1, size=100
    )  # all below any number that one might start with
    hint = "exp overflows: subtract the row's largest value first, and start to look for it at -inf, not at a number"
    assert_softmax(run(function, x), x, what=f"softmax of logits up to {scale:g}", hint=hint)


@ladder
def test_special_values(function, rng, cuda_device):
    """-inf is an element of weight 0; a row with NaN, +inf, or only -inf is NaN, and no other row is."""
    x = rng.normal(size=(8, 70)).astype(np.float32)
    x[0, ::2] = -np.inf
    x[1, :-1] = -np.inf
    x[2] = -np.inf
    x[3, 69] = np.nan
    x[4, 0] = np.inf
    x[5, :64] = -np.inf  # all that the first 64 threads see first
    hint = "-inf minus -inf is NaN: what does a thread start with that has seen no element, or only -inf?"
    assert_softmax(run(function, x), x, what="softmax with -inf, inf and NaN", hint=hint, mistakes={})


@ladder
@pytest.mark.parametrize("entry", ["float16", "bfloat16"])
def test_half_precision(function, entry, rng, cuda_device):
    """Two-byte types are computed in float32 and rounded once."""
    x = to_half((5 * rng.normal(size=(3, 300))).astype(np.float32), entry)
    result = from_half(run(function, x, entry=entry), entry)
    wide = expected(from_half(x, entry))
    rtol = 2.0**-11 if entry == "float16" else 2.0**-8  # half a unit in the last place, and a little
    hint = "sums in half precision lose digits: compute in float32, round the result only"
    assert_close(
        result, wide.astype(np.float32), rtol=1.05 * rtol, atol=2.0**-25, what=f"{entry} softmax", hint=hint
    )


def to_half(x, entry):
    """Return float32 numbers in a two-byte dtype; NumPy has no bfloat16, so that is the upper half of the bits."""
    return x.astype(np.float16) if entry == "float16" else (x.view(np.uint32) >> 16).astype(np.uint16)


def from_half(x, entry):
    return x.astype(np.float32) if entry == "float16" else (x.astype(np.uint32) << 16).view(np.float32)


@by_block
@pytest.mark.parametrize("schedule", ["reverse", "warp_greedy"])
@pytest.mark.emulator_only("a GPU runs its threads in an order of its own")
def test_order_of_threads(function, schedule, rng, cuda_device):
    """Whichever warp goes first, the barriers keep reading and writing apart."""
    x = rng.normal(size=(5, 300)).astype(np.float32)
    with cuda_emulator.settings(schedule=schedule):
        result = run(function, x, blocks=2, threads=128)
    hint = "a barrier is missing: a warp overwrites shared memory that another has not read yet, or reads too early"
    assert_softmax(result, x, what=f"softmax, threads in {schedule} order", hint=hint)


@ladder
@pytest.mark.emulator_only("the emulator runs a few blocks of this grid; a GPU would need 9 GB for all of it")
def test_index_past_two_to_the_31(function, cuda_device):
    """The last rows of an array of more than 2**31 elements: row * width needs 64 bits."""
    from pycuda import driver

    width, rows_here = 65536, 2
    n_rows = 2**31 // width + 8
    x = np.tile(np.log(np.arange(1, width + 1, dtype=np.float32)), (rows_here, 1)).astype(np.float16)
    n_bytes = 2 * n_rows * width
    source, target = driver.mem_alloc(n_bytes), driver.mem_alloc(n_bytes)
    driver.memcpy_htod(int(source) + n_bytes - x.nbytes, x)
    arguments = [source, target, np.int64(n_rows), np.int32(width)]
    grid, block, shared_bytes = n_rows, (256, 1, 1), 0
    if function == "warp_shuffle":
        grid, block = -(-n_rows // 2), (32, 2, 1)
    if function == "naive":
        grid, block = -(-n_rows // 32), (32, 1, 1)
    if function == "single_read":
        arguments.append(np.int32(CACHED))
        shared_bytes = 4 * CACHED
    last = 1 if function in ("naive", "warp_shuffle") else rows_here  # blocks that hold the last rows
    window = (grid - last, last)
    try:
        path = KERNELS / f"{function}.cu"
        with cuda_emulator.settings(window=window):
            launch(path, "softmax_float16", arguments, grid=grid, block=block, shared_bytes=shared_bytes)
        result = np.empty_like(x)
        driver.memcpy_dtoh(result, int(target) + n_bytes - x.nbytes)
    finally:
        source.free()
        target.free()
    hint = "an index of 32 bits: row * width wraps around; make the row a long long"
    assert_close(
        result, expected(x).astype(np.float32), dtype=np.float16, rtol=1e-3, atol=2.0**-24, hint=hint
    )


# --- what the kernels ask of the memory (counted by the emulator) ------------------------------------------------

PASSES = {"naive": 3, "block_reduce": 3, "warp_shuffle": 3, "online": 2, "single_read": 1}


@pytest.fixture
def counting_device(cuda_device):
    if cuda_device == "gpu":
        pytest.skip(
            "the emulator counts; on a GPU ask ncu for l1tex__t_sectors_pipe_lsu_mem_global_op_ld.sum"
        )
    return cuda_device


@ladder
def test_passes_over_memory(function, counting_device):
    """The ladder reads each element 3, 3, 3, 2 and 1 times, and writes it once."""
    x = np.linspace(-1, 1, 4 * 128, dtype=np.float32).reshape(4, 128)
    with cuda_emulator.counting() as counters:
        run(function, x)
    reads, writes = counters.global_bytes_read / x.nbytes, counters.global_bytes_written / x.nbytes
    assert reads == PASSES[function], (
        f"each element is read {reads:g} times, {PASSES[function]} are enough: "
        "keep what was loaded in registers or shared memory, and find maximum and sum in one pass"
    )
    assert writes == 1, f"each element is written {writes:g} times"


@by_block
def test_coalesced(function, counting_device):
    """Neighbouring threads read neighbouring elements."""
    x = np.linspace(-1, 1, 4 * 128, dtype=np.float32).reshape(4, 128)
    with cuda_emulator.counting() as counters:
        run(function, x)
    for kind in ("global load", "global store"):
        total = counters.total(kind)
        assert total.sectors == total.ideal_sectors, (
            f"not coalesced: {total.sectors} sectors for what fits into {total.ideal_sectors} ({kind}s); "
            "thread t takes elements t, t + blockDim.x, and so on"
        )


# --- the host side ---------------------------------------------------------------------------------------------


@pytest.mark.grades("softmax")
@pytest.mark.parametrize("shape", [(5,), (4, 30), (2, 3, 33), (2, 1, 3, 7)], ids=str)
def test_numpy_arrays(shape, rng, cuda_device):
    """Any leading shape; NumPy in, a new NumPy array out, and the input stays as it is."""
    x = rng.normal(size=shape).astype(np.float32)
    with unchanged(x):
        result = cuda_softmax.softmax(x)
    assert isinstance(result, np.ndarray), (
        f"a NumPy array should give a NumPy array, not {type(result).__name__}"
    )
    assert_softmax(result, x)


@pytest.mark.grades("softmax")
@pytest.mark.parametrize("kernel", LADDER)
def test_every_kernel(kernel, rng, cuda_device):
    """Each kernel by name, narrow and wide, with rows enough for several blocks."""
    for shape in ((300, 5), (2, 3000)):
        x = rng.normal(size=shape).astype(np.float32)
        hint = "do all rows get a thread, a warp or a block? The grid must be rounded up"
        assert_softmax(cuda_softmax.softmax(x, kernel=kernel), x, what=f"{kernel} {shape}", hint=hint)


@pytest.mark.grades("softmax")
def test_the_kernel_that_runs(counting_device):
    """The softmax is computed on the device, in the file of that name; unknown names are refused."""
    x = np.float32([[1, 2, 3]])
    for kernel, options in (("online", {}), *((kernel, {"kernel": kernel}) for kernel in LADDER)):
        with cuda_emulator.counting() as counters:
            cuda_softmax.softmax(x, **options)
        assert counters.kernels == ["softmax_float32"], (
            f"nothing is launched, or too much: {counters.kernels}"
        )
        files = {Path(row.file).stem for row in counters.rows}
        assert files == {kernel}, f"another kernel than the one asked for ran: {files} instead of {kernel}"
    for kernel in ("fast", "flash_attention", None):
        with expect_error(ValueError, "single_read", otherwise="an unknown kernel is accepted"):
            cuda_softmax.softmax(x, kernel=kernel)


@pytest.mark.grades("softmax")
@pytest.mark.parametrize("kernel", ["online", "single_read"])
def test_widest_rows(kernel, rng, cuda_device):
    """131072 elements do not fit into shared memory: single_read must read the rest again."""
    x = rng.normal(size=(1, 131072)).astype(np.float16)
    result = cuda_softmax.softmax(x, kernel=kernel)
    assert_close(result, expected(x).astype(np.float32), dtype=np.float16, rtol=1e-3, atol=2.0**-24)


@pytest.mark.grades("softmax")
def test_float16_and_bfloat16(rng, cuda_device):
    """The dtype chooses the entry point and is the dtype of the result; V2 stands for bfloat16."""
    x = (5 * rng.normal(size=(4, 50))).astype(np.float32)
    for entry, view in (("float16", np.float16), ("bfloat16", "V2")):
        half = to_half(x, entry)
        result = cuda_softmax.softmax(half.view(view))
        assert result.dtype == np.dtype(view), f"{entry} gave {result.dtype}"
        wide = expected(from_half(half, entry)).astype(np.float32)
        assert_close(from_half(result.view(half.dtype), entry), wide, rtol=2.0**-8, atol=2.0**-24, what=entry)


@pytest.mark.grades("softmax")
def test_no_rows(cuda_device):
    """No rows: the right shape and no launch, since a grid of 0 blocks is an error."""
    for shape in ((0, 5), (3, 0, 7)):
        result = cuda_softmax.softmax(np.zeros(shape, np.float32))
        assert (result.shape, result.dtype) == (shape, np.float32), (
            f"{shape} gave {result.shape} {result.dtype}"
        )


@pytest.mark.grades("softmax")
def test_device_arrays_and_out(rng, cuda_device):
    """Device arrays stay on the device; the result goes to `out`, which is what is returned and may be the input."""
    x = rng.normal(size=(3, 40)).astype(np.float32)
    device_x = device_array(x)
    result = cuda_softmax.softmax(device_x)
    assert not isinstance(result, np.ndarray), (
        "device arrays were copied to the host: the result should stay there"
    )
    assert_softmax(result.get(), x)
    assert cuda_softmax.softmax(device_x, device_x) is device_x, "softmax(x, out) returns out itself"
    assert_softmax(device_x.get(), x, what="softmax in place")
    out = np.full((3, 80), np.nan, np.float32)
    assert_softmax(cuda_softmax.softmax(x, out[:, ::2]), x, what="softmax into a view")
    assert np.isnan(out[:, 1::2]).all(), "what lies between the elements of out was overwritten"


@pytest.mark.grades("softmax")
def test_views(rng, cuda_device):
    """Strided, reversed and transposed NumPy views are packed on their way to the device."""
    x = rng.normal(size=(20, 14)).astype(np.float32)
    for view in (x[::2, ::-3], x.T, x[:, 1:9]):
        hint = "the memory of a view is not the view: np.ascontiguousarray packs it"
        assert_softmax(cuda_softmax.softmax(view), view, what="softmax of a view", hint=hint)


class Foreign:
    """A device array of some other library: nothing but a shape and the CUDA array interface."""

    def __init__(self, array, strides=None):
        self.shape = array.shape
        self._array = array  # keeps the memory
        self.__cuda_array_interface__ = {**array.__cuda_array_interface__, "strides": strides}


@pytest.mark.grades("softmax")
def test_arguments_that_do_not_fit(cuda_device):
    """Dtype, shape, gaps, sides: refused before anything is launched."""
    x = np.ones((3, 4), np.float32)
    for bad, error, mention in (
        (np.ones((3, 4)), TypeError, "float64"),
        (np.ones((3, 4), np.int32), TypeError, "int32"),
        ([1.0, 2.0], TypeError, "list"),
        (np.array(1, np.float32), ValueError, "()"),
        (np.ones((3, 0), np.float32), ValueError, "(3, 0)"),
        (np.ones((1, 131073), np.float16), ValueError, "131073"),
        (Foreign(device_array(x), (32, 4)), ValueError, "(32, 4)"),
    ):
        with expect_error(error, mention, otherwise="an argument that does not fit is accepted"):
            cuda_softmax.softmax(bad)
    for out, error, mention in (
        (np.ones((4, 3), np.float32), ValueError, "(4, 3)"),
        (np.ones((3, 4), np.float16), TypeError, "float16"),
        (device_array(x), TypeError, "GPUArray"),
    ):
        with expect_error(error, mention, otherwise="an out that does not fit is accepted"):
            cuda_softmax.softmax(x, out)
