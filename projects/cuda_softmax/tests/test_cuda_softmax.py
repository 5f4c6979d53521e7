"""The judge of the core: two kernels, launched here directly, so that each is graded before there is a host side; `softmax`.

The stages: by hand, widths, many rows, large logits, -inf, order, what they ask of the memory, 2³¹; then the host side. Oracle: rows.py.
"""

import numpy as np
import pytest
import rows
from rows import IT_COUNTS, ITS_ORDER, ONE_BLOCK, assert_softmax, kernel_files, mistakes, only_blocks

import cuda_softmax
from shared import cuda_emulator
from shared.testing.checks import assert_close, assert_imports_only, expect_error, unchanged
from shared.testing.devices import device_array

CORE = ("naive", "block_reduce")
core = pytest.mark.parametrize("function", CORE)
host = pytest.mark.grades("softmax")


@pytest.fixture
def module():
    """Return what is judged: tests/further/test_ladder_as_core.py puts another module here."""
    return cuda_softmax


@pytest.mark.grades
def test_imports():
    """The deliverable uses NumPy, PyCUDA and device_arrays.py, nothing else."""
    assert_imports_only(cuda_softmax, {"numpy", "pycuda", "device_arrays"})


# --- the kernels ---------------------------------------------------------------------------------------------


@core
def test_by_hand(function, cuda_device):
    """Three rows whose exponentials are 1, 2, 5, then 1, 1, 2, then 2, 2, 1 times a constant."""
    rows.check_by_hand(function)


@core
@pytest.mark.parametrize("width", [1, 2, 31, 32, 33, 63, 64, 65, 127, 257, 1009])
def test_widths(function, width, rng, cuda_device):
    """Widths around a warp and a block of 64 threads, primes, several turns."""
    rows.check_width(function, width, rng)


@pytest.mark.grades("block_reduce")
@pytest.mark.parametrize("threads", [32, 128, 256, 1024])
def test_block_sizes(threads, rng, cuda_device):
    """One warp, and several: what the warps find must be combined, with more threads than elements too."""
    rows.check_threads("block_reduce", threads, rng)


@pytest.mark.grades("naive")
def test_blocks_of_rows(rng, cuda_device):
    """Blocks of any number of threads: several of them, and the last one not full."""
    rows.check_blocks_of_rows("naive", rng)


@core
def test_many_rows(function, rng, cuda_device):
    """More rows than blocks: each block goes on to further rows, and starts afresh."""
    rows.check_many_rows(function, rng)


@core
@pytest.mark.parametrize("scale", [1e4, 1e38])
def test_large_logits(function, scale, rng, cuda_device):
    """exp(89) overflows in float32; a softmax of large logits does not."""
    rows.check_large_logits(function, scale, rng)


@core
def test_minus_inf(function, rng, cuda_device):
    """-inf gets probability 0, also where it is all that a thread sees."""
    rows.check_minus_inf(function, rng)


@pytest.mark.grades("block_reduce")
@pytest.mark.parametrize("schedule", ["reverse", "warp_greedy"])
@pytest.mark.emulator_only(ITS_ORDER)
def test_order_of_threads(schedule, rng, cuda_device):
    """Whichever warp goes first, the barriers keep reading and writing apart."""
    rows.check_order("block_reduce", schedule, rng)


@pytest.mark.grades("block_reduce")
@pytest.mark.emulator_only(IT_COUNTS)
def test_coalesced(cuda_device):
    """Neighbouring threads read neighbouring elements."""
    rows.check_coalesced("block_reduce")


@core
@pytest.mark.emulator_only(ONE_BLOCK)
def test_index_past_two_to_the_31(function, cuda_device):
    """The last rows of an array of more than 2**31 elements: row * width needs 64 bits."""
    rows.check_long(function)


# --- the host side -------------------------------------------------------------------------------------------


@host
@pytest.mark.parametrize("shape", [(5,), (4, 30), (2, 3, 33), (2, 1, 3, 7)], ids=str)
def test_numpy_arrays(module, shape, rng, cuda_device):
    """Any leading shape; NumPy in, a new NumPy array out, and the input stays as it is."""
    x = rng.normal(size=shape).astype(np.float32)
    with unchanged(x):
        result = module.softmax(x)
    assert isinstance(result, np.ndarray), (
        f"a NumPy array should give a NumPy array, not {type(result).__name__}"
    )
    assert_softmax(result, x, mistakes={**mistakes(x), **rows.of_another_shape(result, x)})


@host
@pytest.mark.parametrize("kernel", CORE)
def test_every_kernel(module, kernel, rng, cuda_device):
    """Each kernel by name, narrow and wide, with rows enough for several blocks."""
    for shape in ((300, 5), (3, 20, 5), (2, 3000)):
        x = rng.normal(size=shape).astype(np.float32)
        with unchanged(x):
            result = module.softmax(x, kernel=kernel)
        rows.check_launched(
            kernel, result, x, "do all rows get a thread or a block? The grid must be rounded up"
        )


@host
@pytest.mark.emulator_only(IT_COUNTS)
def test_the_kernel_that_runs(module, cuda_device):
    """The softmax is computed on the device, in the file of that name."""
    x = np.float32([[1, 2, 3]])
    for kernel in CORE:
        with cuda_emulator.counting() as counters:
            module.softmax(x, kernel=kernel)
        assert counters.kernels == ["softmax_float32"], (
            f"nothing is launched, or too much: {counters.kernels}"
        )
        files = kernel_files(counters)
        assert files == {kernel}, f"another kernel than the one asked for ran: {files} instead of {kernel}"


@host
@pytest.mark.emulator_only(IT_COUNTS)
def test_the_default_kernel(cuda_device):
    """The default is the plainest."""
    with cuda_emulator.counting() as counters:
        cuda_softmax.softmax(np.float32([[1, 2, 3]]))
    files = kernel_files(counters)
    assert files == {"naive"}, f"the default kernel is naive, but {files} ran"


@host
def test_unknown_kernels(module, cuda_device):
    """A name that is no kernel is refused, also one that would be a path."""
    for kernel in ("fast", "../naive", "NAIVE", "", None):
        with expect_error(ValueError, otherwise=f"an unknown kernel, {kernel!r}, is accepted"):
            module.softmax(np.float32([[1, 2, 3]]), kernel=kernel)


@host
@pytest.mark.parametrize("kernel", CORE)
def test_no_rows(module, kernel, cuda_device):
    """No rows: the right shape and no launch, since a grid of 0 blocks is an error."""
    for shape in ((0, 5), (3, 0, 7)):
        result = module.softmax(np.zeros(shape, np.float32), kernel=kernel)
        assert (result.shape, result.dtype) == (shape, np.float32), (
            f"{shape} gave {result.shape} {result.dtype}"
        )


@host
def test_more_than_65535_blocks(module, cuda_device):
    """The grid of naive may have 2**31 - 1 blocks along x; only y and z end at 65535."""

    def end(n_rows, first):
        x = np.zeros((n_rows, 2), np.float32)
        x[:, 0] = 1
        with only_blocks(first, 1, cuda_device):
            return x, module.softmax(x, kernel="naive")

    x, result = end(2000, 0)
    per_block = int((result[:, 1] == result[0, 1]).sum()) if cuda_device == "emulator" else 128
    n_rows = 65535 * min(per_block, 256) + 1
    x, result = end(n_rows, (n_rows - 1) // per_block)  # the last block
    untouched = not np.nan_to_num(result[-1]).any()  # memory that nobody wrote is 0, or NaN
    hint = "the last rows are missing: is the number of blocks cut off at 65535?" if untouched else None
    assert_softmax(result[-1:], x[-1:], what="the last row", hint=hint, mistakes={})


@host
def test_views(module, rng, cuda_device):
    """Strided, reversed and transposed NumPy views are packed on their way to the device."""
    x = rng.normal(size=(20, 14)).astype(np.float32)
    for view in (x[::2, ::-3], x.T, x[:, 1:9], x[:14].T):
        assert_softmax(module.softmax(np.array(view, order="C")), view, what=f"softmax of {view.shape}")
        hint = "the memory of a view is not the view: it must be packed before it is copied"
        assert_softmax(module.softmax(view), view, what="softmax of a view", hint=hint, mistakes={})


@host
def test_device_arrays_stay_on_the_device(module, rng, cuda_device):
    """A GPUArray gives a new GPUArray, and stays as it is."""
    x = rng.normal(size=(3, 40)).astype(np.float32)
    device_x = device_array(x)
    result = module.softmax(device_x)
    assert not isinstance(result, np.ndarray), (
        "device arrays were copied to the host: the result should stay there"
    )
    assert_softmax(result.get(), x)
    assert_close(device_x.get(), x, rtol=0.0, atol=0.0, hint="the input was modified")


@host
def test_arguments_that_do_not_fit(module, cuda_device):
    """Another dtype or shape is refused before anything is launched."""
    for bad, error in (
        (np.ones((3, 4)), TypeError),
        (np.ones((3, 4), np.int32), TypeError),
        (np.array(1, np.float32), ValueError),
        (np.ones((3, 0), np.float32), ValueError),
        (np.ones((0, 0), np.float32), ValueError),
    ):
        with expect_error(error, otherwise="an argument that does not fit is accepted"):
            module.softmax(bad)
