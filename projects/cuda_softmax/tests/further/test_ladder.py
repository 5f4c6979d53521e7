"""The ladder: the kernels that read less, half precision, NaN and inf; `ladder.softmax` beyond the core.

test_ladder_as_core.py runs the tests of the core's `softmax` on it. Oracle: tests/rows.py, and SciPy where a row has no softmax.
"""

import warnings

import numpy as np
import pytest
import rows
from rows import IT_COUNTS, ITS_ORDER, ONE_BLOCK, assert_softmax, expected, kernel_files, run
from scipy.special import softmax as scipy_softmax

import cuda_softmax
import ladder
from shared import cuda_emulator
from shared.testing.checks import assert_close, assert_imports_only, expect_error
from shared.testing.devices import device_array

pytestmark = pytest.mark.module("ladder")
MORE = ("warp_shuffle", "online", "single_read")
ALL = ("naive", "block_reduce", *MORE)
rungs = pytest.mark.parametrize("function", MORE)
every = pytest.mark.parametrize("function", ALL)
host = pytest.mark.grades("softmax")


@pytest.mark.grades
def test_ladder_imports():
    """The ladder uses NumPy, PyCUDA and device_arrays.py, nothing else."""
    assert_imports_only(ladder, {"numpy", "pycuda", "device_arrays"})


# --- the kernels ---------------------------------------------------------------------------------------------


@rungs
def test_rung_by_hand(function, cuda_device):
    """Three rows whose exponentials are 1, 2, 5, then 1, 1, 2, then 2, 2, 1 times a constant."""
    rows.check_by_hand(function)


@rungs
@pytest.mark.parametrize("width", [1, 2, 31, 32, 33, 63, 64, 65, 127, 199, 257, 1009])
def test_rung_widths(function, width, rng, cuda_device):
    """Widths around a warp, a block of 64 threads and the 200 elements that single_read may keep."""
    rows.check_width(function, width, rng)


@rungs
@pytest.mark.parametrize("threads", [32, 128, 256])
def test_rung_block_sizes(function, threads, rng, cuda_device):
    """One warp, and several: what the warps find must be combined, with more threads than elements too."""
    rows.check_threads(function, threads, rng)


@rungs
def test_rung_many_rows(function, rng, cuda_device):
    """More rows than blocks: each block goes on to further rows, and starts afresh."""
    rows.check_many_rows(function, rng)


@rungs
@pytest.mark.parametrize("scale", [1e4, 1e38])
def test_rung_large_logits(function, scale, rng, cuda_device):
    """exp(89) overflows in float32; a softmax of large logits does not."""
    rows.check_large_logits(function, scale, rng)


@rungs
def test_rung_minus_inf(function, rng, cuda_device):
    """-inf gets probability 0, also where it is all that a thread, or the first 64 of them, see."""
    rows.check_minus_inf(function, rng)


@every
def test_special_values(function, rng, cuda_device):
    """A row with NaN, +inf, or only -inf is NaN, and no other row is."""
    x = rng.normal(size=(6, 70)).astype(np.float32)
    x[0, ::2] = -np.inf
    x[2] = -np.inf
    x[3, 69] = np.nan
    x[4, 0] = np.inf
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wide = scipy_softmax(x.astype(np.float64), axis=-1)
    hint = "a row that holds NaN, +inf, or only -inf has no softmax: it is NaN, and the other rows are as they were"
    assert_close(
        run(function, x),
        wide,
        dtype=np.float32,
        n=70,
        atol=1e-30,
        what="softmax with -inf, inf and NaN",
        hint=hint,
    )


@pytest.mark.grades("naive")
@pytest.mark.emulator_only(ONE_BLOCK)
def test_more_than_two_to_the_32_rows(cuda_device):
    """The number of a row is more than 32 bits wide."""
    rows.check_more_rows_than_32_bits("naive")


@every
@pytest.mark.parametrize("entry", ["float16", "bfloat16"])
def test_half_precision(function, entry, rng, cuda_device):
    """Two-byte types are computed in float32 and rounded once."""
    x = to_half((5 * rng.normal(size=(3, 300))).astype(np.float32), entry)
    result = from_half(run(function, x, entry=entry), entry)
    wide = expected(from_half(x, entry))
    rtol = 2.0**-11 if entry == "float16" else 2.0**-8  # half a unit in the last place, and a little
    hint = None
    if np.allclose(result, wide, rtol=0.02, atol=2.0**-12):
        hint = "digits are lost, as in sums of half precision: compute in float32, round the result only"
    assert_close(
        result, wide.astype(np.float32), rtol=1.05 * rtol, atol=2.0**-25, what=f"{entry} softmax", hint=hint
    )


def to_half(x, entry):
    """Return float32 numbers in a two-byte dtype; NumPy has no bfloat16, so that is the upper half of the bits."""
    return x.astype(np.float16) if entry == "float16" else (x.view(np.uint32) >> 16).astype(np.uint16)


def from_half(x, entry):
    return x.astype(np.float32) if entry == "float16" else (x.astype(np.uint32) << 16).view(np.float32)


@rungs
@pytest.mark.parametrize("schedule", ["reverse", "warp_greedy"])
@pytest.mark.emulator_only(ITS_ORDER)
def test_rung_order_of_threads(function, schedule, rng, cuda_device):
    """Whichever warp goes first, the barriers keep reading and writing apart."""
    rows.check_order(function, schedule, rng)


@rungs
@pytest.mark.emulator_only(ONE_BLOCK)
def test_rung_index_past_two_to_the_31(function, cuda_device):
    """The last rows of an array of more than 2**31 elements: row * width needs 64 bits."""
    rows.check_long(function)


@every
@pytest.mark.emulator_only(IT_COUNTS)
def test_passes_over_memory(function, cuda_device):
    """The ladder reads each element 3, 3, 3, 2 and 1 times, and writes it once."""
    rows.check_passes(function, {"online": 2, "single_read": 1}.get(function, 3))


@rungs
@pytest.mark.emulator_only(IT_COUNTS)
def test_rung_coalesced(function, cuda_device):
    """Neighbouring threads read neighbouring elements."""
    rows.check_coalesced(function)


# --- the host side -------------------------------------------------------------------------------------------


@host
@pytest.mark.parametrize("kernel", ALL)
def test_every_rung(kernel, rng, cuda_device):
    """Each kernel by name, narrow and wide, with rows enough for several blocks."""
    for shape in ((300, 5), (2, 3000)):
        x = rng.normal(size=shape).astype(np.float32)
        hint = "do all rows get a thread, a warp or a block? The grid must be rounded up"
        rows.check_launched(kernel, ladder.softmax(x, kernel=kernel), x, hint)


@host
@pytest.mark.emulator_only(IT_COUNTS)
def test_the_rung_that_runs(cuda_device):
    """The softmax is computed on the device, in the file of that name; unknown names are answered with the known ones."""
    x = np.float32([[1, 2, 3]])
    assert ladder.KERNELS == ALL
    for kernel, options in (("online", {}), *((kernel, {"kernel": kernel}) for kernel in ALL)):
        with cuda_emulator.counting() as counters:
            ladder.softmax(x, **options)
        assert counters.kernels == ["softmax_float32"], (
            f"nothing is launched, or too much: {counters.kernels}"
        )
        files = kernel_files(counters)
        assert files == {kernel}, f"another kernel than the one asked for ran: {files} instead of {kernel}"
    for kernel in ("fast", "flash_attention", None):
        with expect_error(ValueError, "single_read", otherwise="an unknown kernel is accepted"):
            ladder.softmax(x, kernel=kernel)


@host
@pytest.mark.parametrize("kernel", ["online", "single_read"])
def test_widest_rows(kernel, rng, cuda_device):
    """131072 elements do not fit into shared memory: single_read must read the rest again."""
    x = rng.normal(size=(1, 131072)).astype(np.float16)
    result = ladder.softmax(x, kernel=kernel)
    assert_close(result, expected(x).astype(np.float32), dtype=np.float16, rtol=1e-3, atol=2.0**-24)


@host
def test_float16_and_bfloat16(rng, cuda_device):
    """The dtype chooses the entry point and is the dtype of the result; V2 stands for bfloat16."""
    x = (5 * rng.normal(size=(4, 50))).astype(np.float32)
    for entry, view in (("float16", np.float16), ("bfloat16", "V2")):
        half = to_half(x, entry)
        result = ladder.softmax(half.view(view))
        assert result.dtype == np.dtype(view), f"{entry} gave {result.dtype}"
        wide = expected(from_half(half, entry)).astype(np.float32)
        assert_close(from_half(result.view(half.dtype), entry), wide, rtol=2.0**-8, atol=2.0**-24, what=entry)


@host
def test_out(rng, cuda_device):
    """The result goes to `out`, which is what is returned and may be the input."""
    x = rng.normal(size=(3, 40)).astype(np.float32)
    device_x, device_out = device_array(x), device_array(np.full((3, 40), np.nan, np.float32))
    assert ladder.softmax(device_x, device_out) is device_out, "softmax(x, out) returns out itself"
    assert_softmax(device_out.get(), x, what="out on the device")
    assert ladder.softmax(device_x, device_x) is device_x, "softmax(x, out) returns out itself"
    assert_softmax(device_x.get(), x, what="softmax in place")
    out = x.copy()
    assert ladder.softmax(out, out) is out, "softmax(x, out) returns out itself"
    assert_softmax(out, x, what="softmax in place on the host")


@host
def test_out_that_is_a_view(rng, cuda_device):
    """A strided `out` on the host is written, not a packed copy of it, and what lies between its elements stays."""
    x = rng.normal(size=(3, 40)).astype(np.float32)
    buffer = np.full((3, 80), np.nan, np.float32)
    out = buffer[:, ::2]
    copied = {"the result went to a packed copy of out, which is NaN as before": np.full_like(x, np.nan)}
    assert ladder.softmax(x, out) is out, "softmax(x, out) returns out itself, also where it is a view"
    assert_softmax(buffer[:, ::2], x, what="softmax into a view", mistakes=copied)
    assert np.isnan(buffer[:, 1::2]).all(), "what lies between the elements of out was overwritten"
    turned = np.full((40, 3), np.nan, np.float32)
    ladder.softmax(x, turned.T)
    assert_softmax(turned.T, x, what="softmax into a transposed view", mistakes=copied)


@host
def test_byte_order(rng, cuda_device):
    """A NumPy array in the other byte order is converted on its way, and so is `out`."""
    x = rng.normal(size=(3, 40)).astype(np.float32)
    out = np.zeros((3, 40), ">f4")
    ladder.softmax(x.astype(">f4"), out)
    hint = "the bytes were copied as they lie: bring them to native order first"
    assert_softmax(out.astype(np.float32), x, hint=hint)


@host
def test_byte_order_of_the_core_and_on_the_device(rng, cuda_device):
    """The core converts too; on the device the other order is refused."""
    x = rng.normal(size=(3, 40)).astype(np.float32)
    hint = "the bytes were copied as they lie: bring them to native order first"
    for module in (ladder, cuda_softmax):
        result = module.softmax(x.astype(">f4"))
        assert_softmax(result, x, hint=hint)
        assert result.dtype.isnative, f"the result is in the byte order {result.dtype.str}"
        with expect_error(TypeError, ">f4", otherwise="a device array in the other byte order is accepted"):
            module.softmax(device_array(x.astype(">f4")))


@host
@pytest.mark.parametrize("kernel", ALL)
def test_out_that_overlaps(kernel, rng, cuda_device):
    """An output that is the input, shifted, would be read after it was overwritten."""
    buffer = device_array(rng.normal(size=1200).astype(np.float32))
    for first, second in ((0, 1), (1, 0), (0, 599)):
        x, out = (buffer[i : i + 600].reshape(6, 100) for i in (first, second))
        with expect_error(
            ValueError, "out", otherwise="an out that overlaps the input, shifted, is accepted"
        ):
            ladder.softmax(x, out, kernel=kernel)
    x, out = (buffer[i : i + 600].reshape(6, 100) for i in (0, 600))  # neighbours do not overlap
    assert_softmax(ladder.softmax(x, out, kernel=kernel).get(), x.get())


@host
def test_arrays_that_no_kernel_understands(rng, cuda_device):
    """An `out` that is read-only, a mask, fields of two bytes that are no bfloat16."""
    x = rng.normal(size=(3, 4)).astype(np.float32)
    out = x.copy()
    out.flags.writeable = False
    with expect_error(ValueError, "read-only", otherwise="an out that is read-only is accepted"):
        ladder.softmax(x, out)
    with expect_error(TypeError, "MaskedArray", otherwise="the mask is ignored"):
        ladder.softmax(np.ma.array(x, mask=x > 0))
    with expect_error(TypeError, "void16", otherwise="fields are taken for bfloat16"):
        ladder.softmax(np.zeros((3, 4), [("x", "u1"), ("y", "u1")]))


class Foreign:
    """A device array of some other library: nothing but a shape and the CUDA array interface."""

    def __init__(self, array, strides=None):
        self.shape = array.shape
        self._array = array  # keeps the memory
        self.__cuda_array_interface__ = {**array.__cuda_array_interface__, "strides": strides}


@host
def test_messages_name_what_came(cuda_device):
    """Dtype, shape, gaps, sides: refused before anything is launched."""
    x = np.ones((3, 4), np.float32)
    for bad, error, mention in (
        (Foreign(device_array(x), (32, 4)), ValueError, "(32, 4)"),
        (np.ones((3, 4)), TypeError, "float64"),
        (np.ones((3, 4), np.int32), TypeError, "int32"),
        ([1.0, 2.0], TypeError, "list"),
        (np.array(1, np.float32), ValueError, "()"),
        (np.ones((3, 0), np.float32), ValueError, "(3, 0)"),
        (np.ones((1, 131073), np.float16), ValueError, "131073"),
    ):
        with expect_error(error, mention, otherwise="an argument that does not fit is accepted"):
            ladder.softmax(bad)
    for out, error, mention in (
        (np.ones((4, 3), np.float32), ValueError, "(4, 3)"),
        (np.ones(12, np.float32), ValueError, "(12,)"),
        (np.ones((3, 4), np.float16), TypeError, "float16"),
        (device_array(x), TypeError, "GPUArray"),
    ):
        with expect_error(error, mention, otherwise="an out that does not fit is accepted"):
            ladder.softmax(x, out)
