"""The judge of the core: two kernels, launched here directly, so that each is graded before there is a host side; `vector_add`.

The stages: by hand, sizes, dtypes, alignment, order, what they ask of the memory, 2³²; then the host side. Oracle: additions.py.
"""

import additions
import numpy as np
import pytest
from additions import DTYPES, IT_COUNTS, ITS_ORDER, assert_sum, kernel_files, partly, random

import cuda_vector_add
from shared import cuda_emulator
from shared.testing.checks import assert_close, assert_imports_only, expect_error, unchanged
from shared.testing.devices import device_array

CORE = ("one_per_thread", "grid_stride")
core = pytest.mark.parametrize("function", CORE)
host = pytest.mark.grades("vector_add")
OTHER_DTYPES = ("int64", "int16", "uint32", "uint16", "bool", "complex64")


@pytest.fixture
def module():
    """Return what is judged: tests/further/test_ladder_as_core.py puts another module here."""
    return cuda_vector_add


@pytest.mark.grades
def test_imports():
    """The deliverable uses NumPy, PyCUDA and device_arrays.py, nothing else."""
    assert_imports_only(cuda_vector_add, {"numpy", "pycuda", "device_arrays"})


# --- the kernels ---------------------------------------------------------------------------------------------


@core
def test_by_hand(function, cuda_device):
    """Five elements, worked by hand, in one block of 32 threads."""
    additions.check_by_hand(function)


@core
@pytest.mark.parametrize("threads", [32, 64, 256])
def test_sizes(function, threads, rng, cuda_device):
    """Sizes around a warp and a block, primes, and one that fills several blocks."""
    additions.check_sizes(function, threads, rng)


@pytest.mark.grades("grid_stride")
def test_grid_of_any_size(rng, cuda_device):
    """A grid that is too small for one thread per element goes round several times; one that is too large stops."""
    additions.check_grids("grid_stride", rng)


@core
def test_each_element_is_added_once(function, cuda_device):
    """In place (out is a), a second addition of one element would show."""
    additions.check_added_once(function)


@core
@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_dtypes(function, dtype, rng, cuda_device):
    """The other entry points, with values whose sum is rounded."""
    additions.check_dtype(function, dtype, rng)


@core
def test_special_values(function, cuda_device):
    """Infinities, NaN, the largest and smallest numbers, and -0 + -0, which is -0."""
    additions.check_special_values(function)


@core
def test_sums_that_wrap(function, cuda_device):
    """int32 sums that do not fit wrap around: overflow of data is no error."""
    additions.check_wrapping(function)


@core
def test_offset_views(function, rng, cuda_device):
    """Arrays that start anywhere in an allocation, and whose neighbours stay as they are."""
    additions.check_offsets(function, rng)


@core
@pytest.mark.parametrize("schedule", ["reverse", "random"])
@pytest.mark.emulator_only(ITS_ORDER)
def test_order_of_threads(function, schedule, rng, cuda_device):
    """No thread waits for another, so any order of execution gives the same sums."""
    additions.check_order(function, schedule, rng)


@core
@pytest.mark.emulator_only(IT_COUNTS)
def test_coalesced(function, cuda_device):
    """Each warp's loads fill their 32-byte sectors: the bytes moved are the bytes asked for."""
    additions.check_coalesced(function)


@core
@pytest.mark.emulator_only("the emulator runs a few blocks of this grid; a GPU would need 9 GB for all of it")
def test_more_than_two_to_the_32_elements(function, cuda_device):
    """Indices past 2**31 and 2**32: the emulator runs the last blocks of a grid over arrays that were never filled."""
    additions.check_long(function)


# --- the host side -------------------------------------------------------------------------------------------


@host
@pytest.mark.parametrize("shape", [(210,), (7, 30), (3, 10, 7), (2, 3, 5, 7), ()], ids=str)
def test_numpy_arrays(module, shape, rng, cuda_device):
    """Arrays of any shape in, a new array of that shape out, and the inputs stay as they are."""
    a, b = (random(rng, shape or 1).reshape(shape) for _ in range(2))
    with unchanged(a, b):
        result = module.vector_add(a, b)
    assert isinstance(result, np.ndarray | np.generic), (
        f"NumPy arrays should give a NumPy array, not {type(result).__name__}"
    )
    assert result.shape == shape, f"arrays of shape {shape} give sums of shape {result.shape}"
    result, mistakes = np.asarray(result), {}
    if shape == () or not np.isnan(result).all():
        missing = (
            f"the last {np.isnan(result).sum()} of {result.size} sums are missing: how many elements has"
        )
        missing += f" an array of shape {shape}? It is the product of all axes"
        mistakes = {missing: additions.without_a_thread(result, a, b)}
    assert_sum(result, a, b, mistakes=mistakes, vacuous_ok="one number" if shape == () else None)


@host
@pytest.mark.parametrize("kernel", CORE)
def test_every_kernel(module, kernel, rng, cuda_device):
    """Each kernel by name, with more elements than one block has threads."""
    a, b = random(rng, 5000), random(rng, 5000)
    mistakes = {
        "the grid is rounded down: the last, incomplete block is missing": partly(
            a, b, slice(0, 5000 // 256 * 256)
        ),
        "only one block is launched": partly(a, b, slice(0, 256)),
    }
    assert_sum(module.vector_add(a, b, kernel=kernel), a, b, what=kernel, mistakes=mistakes)


@host
@pytest.mark.parametrize("kernel", CORE)
@pytest.mark.emulator_only(IT_COUNTS)
def test_the_kernel_that_runs(module, kernel, cuda_device):
    """The addition happens on the device, in the file of that name."""
    a = np.ones(70, np.float32)
    with cuda_emulator.counting() as counters:
        module.vector_add(a, a, kernel=kernel)
    assert counters.kernels == ["add_float32"], f"nothing is launched, or too much: {counters.kernels}"
    files = kernel_files(counters)
    assert files == {kernel}, f"another kernel than the one asked for ran: {files} instead of {kernel}"


@host
@pytest.mark.emulator_only(IT_COUNTS)
def test_the_default_kernel(cuda_device):
    """The default is the plainest."""
    a = np.ones(70, np.float32)
    with cuda_emulator.counting() as counters:
        cuda_vector_add.vector_add(a, a)
    files = kernel_files(counters)
    assert files == {"one_per_thread"}, f"the default kernel is one_per_thread, but {files} ran"


@host
@pytest.mark.parametrize("dtype", DTYPES)
def test_host_dtypes(module, dtype, rng, cuda_device):
    """Each dtype finds its own entry point, and is the dtype of the result."""
    a, b = random(rng, 501, dtype), random(rng, 501, dtype)
    assert_sum(module.vector_add(a, b), a, b, what=f"{dtype} sum")


@host
@pytest.mark.parametrize("block_size", [32, 96, 1024])
def test_block_size(module, block_size, rng, cuda_device):
    """Any block size gives the same sums, and needs its own grid size."""
    a, b = random(rng, 2500), random(rng, 2500)
    for kernel in CORE:
        result = module.vector_add(a, b, kernel=kernel, block_size=block_size)
        missing = (
            f"the last {np.isnan(result).sum()} have no thread: the number of blocks depends on block_size"
        )
        mistakes = {missing: additions.without_a_thread(result, a, b)}
        assert_sum(result, a, b, what=f"{kernel}, block_size={block_size}", mistakes=mistakes)


@host
@pytest.mark.emulator_only("only the emulator can run the first block of a grid alone")
def test_block_size_is_used(module, cuda_device):
    """The first block has block_size threads, each with one element."""
    a = np.ones(300, np.float32)
    for block_size in (64, 96):
        with cuda_emulator.settings(window=(0, 1)):
            result = module.vector_add(a, a, kernel="one_per_thread", block_size=block_size)
        done = int((result == 2).sum())
        assert done == block_size, f"block_size={block_size} is ignored: the first block adds {done} elements"


@host
def test_more_than_65535_blocks(module, cuda_device):
    """The grid of one_per_thread may have 2**31 - 1 blocks along x; only y and z end at 65535."""
    n = 32 * 65536 + 5
    a = (np.arange(n) % 1021).astype(np.float16)
    with additions.only_blocks(65535, 2, cuda_device):
        result = module.vector_add(a, a, kernel="one_per_thread", block_size=32)
    end = a[-37:]  # what 65535 blocks leave
    mistakes = {"the last blocks are missing: is their number cut off at 65535?": np.full_like(end, np.nan)}
    assert_sum(result[-37:], end, end, mistakes=mistakes)


@host
@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 4, 5)], ids=str)
def test_nothing_to_add(module, shape, cuda_device):
    """No elements: the right shape and dtype, and no launch, since a grid of 0 blocks is an error."""
    empty, other = np.zeros(shape, np.float16), np.zeros(shape, np.float16)
    result = module.vector_add(empty, other)
    assert (result.shape, result.dtype) == (shape, np.float16), f"{shape} gave {result.shape} {result.dtype}"
    device_a, device_b = device_array(empty), device_array(other)
    on_device = module.vector_add(device_a, device_b)
    assert on_device.shape == shape, f"{shape} on the device gave {on_device.shape}"
    assert not isinstance(on_device, np.ndarray), (
        "device arrays were copied to the host: the result should stay there, also when it is empty"
    )
    inputs = (empty, other, device_a, device_b)
    assert not any(given is new for given in inputs for new in (result, on_device)), (
        "an input was returned: the result is a new array, also when it is empty"
    )


@host
def test_views(module, rng, cuda_device):
    """Strided, reversed and transposed NumPy views are packed on their way to the device."""
    a, b = random(rng, (20, 12))[::2, ::-3], random(rng, (4, 10)).T
    packed = module.vector_add(np.ascontiguousarray(a), np.ascontiguousarray(b))
    assert_sum(packed, a, b, what="sum of arrays without gaps")
    with unchanged(a, b):
        result = module.vector_add(a, b)
    assert_sum(
        result, a, b, hint="the memory of a view is not the view: it must be packed before it is copied"
    )
    square = random(rng, (9, 9))
    assert_sum(
        module.vector_add(square, square.T), square, square.T, what="sum of a square and its transpose"
    )


@host
def test_device_arrays_stay_on_the_device(module, rng, cuda_device):
    """GPUArrays give a new GPUArray, and stay as they are."""
    a, b = random(rng, (5, 41), "float64"), random(rng, (5, 41), "float64")
    device_a, device_b = device_array(a), device_array(b)
    result = module.vector_add(device_a, device_b)
    assert not isinstance(result, np.ndarray), (
        "device arrays were copied to the host: the result should stay there"
    )
    assert_sum(result.get(), a, b)
    for before, after in ((a, device_a), (b, device_b)):
        assert_close(
            after.get(),
            before,
            rtol=0.0,
            atol=0.0,
            hint="an input was modified: the sums need an array of their own",
        )


@host
@pytest.mark.parametrize(
    ("other", "error"),
    [
        (np.ones((4, 3), np.float32), ValueError),
        (np.ones(12, np.float32), ValueError),
        (np.ones((1, 4), np.float32), ValueError),
        (np.ones((3, 5), np.float32), ValueError),
        (np.ones((3,), np.float32), ValueError),
        (np.ones((3, 4, 1), np.float32), ValueError),
        (np.ones((3, 4), np.float16), TypeError),
        *((np.ones((3, 4), dtype), TypeError) for dtype in OTHER_DTYPES),
    ],
    ids=["transposed", "flat", "broadcast", "longer", "shorter", "third axis", "float16", *OTHER_DTYPES],
)
def test_arguments_that_do_not_fit(module, other, error, cuda_device):
    """Another shape or dtype is refused before anything is launched, in both positions."""
    good = np.ones((3, 4), np.float32)
    has_kernel = str(other.dtype) in DTYPES
    both = () if has_kernel else ((other, other),)
    for arguments in ((good, other), (other, good), *both):
        with expect_error(error, otherwise="an argument that does not fit is accepted"):
            module.vector_add(*arguments)


@host
def test_host_and_device_together(module, cuda_device):
    """Host and device arrays are not mixed silently: the copy would be a surprise."""
    array = np.ones(5, np.float32)
    for arguments in ((array, device_array(array)), (device_array(array), array)):
        with expect_error(TypeError, otherwise="host and device arrays are mixed"):
            module.vector_add(*arguments)


@host
def test_unknown_kernels(module, cuda_device):
    """A name that is no kernel is refused, also one that would be a path."""
    for name in ("fast", "../secret", "ONE_PER_THREAD", "", None):
        with expect_error(ValueError, otherwise=f"an unknown kernel, {name!r}, is accepted"):
            module.vector_add(np.ones(3, np.float32), np.ones(3, np.float32), kernel=name)
