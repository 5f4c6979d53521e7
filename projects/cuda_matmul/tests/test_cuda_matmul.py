"""The judge of the core: two kernels, launched here directly, so that each is graded before there is a host side; `matmul`.

The stages: by hand, edges, many tiles, alpha and beta, order, what they ask of the memory, 2³¹; then the host side. Oracle:
NumPy's product in float64 (products.py).
"""

import numpy as np
import products
import pytest
from products import IT_COUNTS, ITS_ORDER, assert_product, kernel_files, only_blocks, random

import cuda_matmul
from shared import cuda_emulator
from shared.testing.checks import assert_close, assert_imports_only, expect_error, unchanged
from shared.testing.devices import device_array

CORE = ("naive", "tiled")
core = pytest.mark.parametrize("function", CORE)
host = pytest.mark.grades("matmul")
ONE_BLOCK = "the emulator runs one block of this grid; a GPU would need up to 17 GB for all of it"


@pytest.fixture
def module():
    """Return what is judged: tests/further/test_ladder_as_core.py puts another module here."""
    return cuda_matmul


@pytest.mark.grades
def test_imports():
    """The deliverable uses NumPy, PyCUDA and device_arrays.py, nothing else."""
    assert_imports_only(cuda_matmul, {"numpy", "pycuda", "device_arrays"})


# --- the kernels ---------------------------------------------------------------------------------------------


@core
def test_by_hand(function, cuda_device):
    """A 2 x 3 matrix times a 3 x 2 one, worked by hand."""
    products.check_by_hand(function)


@core
def test_shapes(function, rng, cuda_device):
    """Sizes around a warp and a tile, all different, long and short sums."""
    products.check_shapes(function, rng)


@core
def test_several_tiles(function, rng, cuda_device):
    """A product of several tiles in each direction, the last ones incomplete."""
    products.check_several_tiles(function, rng)


@core
def test_alpha_and_beta(function, rng, cuda_device):
    """Alpha scales the product, beta what c held; with beta = 0 the NaN in c does not matter."""
    products.check_alpha_and_beta(function, rng)


@core
def test_no_inner_dimension(function, cuda_device):
    """K = 0: an empty sum is 0, so the result is beta c."""
    products.check_no_inner_dimension(function)


@core
def test_infinities(function, cuda_device):
    """An infinity reaches the elements of c that it belongs to, as inf or as NaN, and no others."""
    products.check_not_finite(function)


@pytest.mark.grades("tiled")
@pytest.mark.parametrize("schedule", ["reverse", "warp_greedy"])
@pytest.mark.emulator_only(ITS_ORDER)
def test_order_of_threads(schedule, rng, cuda_device):
    """Whichever warp goes first, no tile is overwritten while another warp reads it."""
    products.check_order("tiled", schedule, rng)


@pytest.mark.grades("tiled")
@pytest.mark.emulator_only(IT_COUNTS)
def test_reads_of_each_element(cuda_device):
    """An element of a is read once for each tile column, one of b once for each tile row."""
    products.check_reads("tiled")


@core
@pytest.mark.emulator_only(ONE_BLOCK)
def test_index_past_two_to_the_31(function, cuda_device):
    """The last tile of a c with more than 2**31 elements: row * n needs 64 bits."""
    products.check_end_of_c(function)


@core
@pytest.mark.emulator_only(ONE_BLOCK)
def test_row_of_a_past_two_to_the_31(function, cuda_device):
    """The last rows of an a with more than 2**31 elements: row * k needs 64 bits."""
    products.check_end_of_a(function)


@core
@pytest.mark.emulator_only(ONE_BLOCK)
def test_row_of_b_past_two_to_the_31(function, cuda_device):
    """The last row of a b with more than 2**31 elements: i * n needs 64 bits too."""
    products.check_end_of_b(function)


# --- the host side -------------------------------------------------------------------------------------------


@host
@pytest.mark.parametrize("kernel", CORE)
def test_every_kernel(module, kernel, rng, cuda_device):
    """Each kernel by name, on shapes of several tiles, wide and tall; the inputs stay as they are."""
    for m, k, n in ((70, 20, 135), (135, 20, 70)):
        a, b = random(rng, m, k), random(rng, k, n)
        with unchanged(a, b):
            result = module.matmul(a, b, kernel=kernel)
        assert isinstance(result, np.ndarray), (
            f"NumPy arrays should give a NumPy array, not {type(result).__name__}"
        )
        assert_product(result, a, b, what=f"{kernel}, ({m}, {k}) x ({k}, {n})")
    numbers, one = np.arange(1, 1026, dtype=np.float32), np.ones((1, 1), np.float32)
    for shape, operands in (  # 1025 is one more than many sizes of a tile
        ("one row", (one, numbers[None])),
        ("one column", (numbers[:, None], one)),
    ):
        assert_product(module.matmul(*operands, kernel=kernel), *operands, what=f"{kernel}, {shape}")


@host
@pytest.mark.emulator_only(IT_COUNTS)
def test_the_kernel_that_runs(module, cuda_device):
    """The product is computed on the device, in the file of that name; the default is naive."""
    a = np.ones((3, 3), np.float32)
    for kernel, options in (("naive", {}), *((kernel, {"kernel": kernel}) for kernel in CORE)):
        with cuda_emulator.counting() as counters:
            module.matmul(a, a, **options)
        files = kernel_files(counters)
        assert files == {kernel}, (
            f"another kernel than the one asked for ran, or none: {files} instead of {kernel}"
        )


@host
def test_unknown_kernels(module, cuda_device):
    """A name that is no kernel is refused, also one that would be a path."""
    a = np.ones((3, 3), np.float32)
    for kernel in ("fast", "../naive", "NAIVE", "", None):
        with expect_error(ValueError, otherwise=f"an unknown kernel, {kernel!r}, is accepted"):
            module.matmul(a, a, kernel=kernel)


@host
@pytest.mark.parametrize(("m", "k", "n"), [(0, 3, 4), (3, 4, 0), (3, 0, 4), (0, 0, 0)])
def test_lengths_of_zero(module, m, k, n, cuda_device):
    """Nothing to compute, or an empty sum, which is 0."""
    for kernel in CORE:
        result = module.matmul(np.ones((m, k), np.float32), np.ones((k, n), np.float32), kernel=kernel)
        assert (result.shape, result.dtype) == ((m, n), np.float32)
        assert not result.any(), "an empty sum is 0: the kernel must run for K = 0 too"


@host
@pytest.mark.parametrize("kernel", CORE)
def test_more_than_65535_blocks(module, kernel, cuda_device):
    """A grid may have 2**31 - 1 blocks along x; only y and z end at 65535."""
    wide = {"naive": False, "tiled": True}[kernel]  # which axis of c is counted along x

    def product(length, first):
        vector, one = (np.arange(length) % 101 + 1).astype(np.float32), np.ones((1, 1), np.float32)
        with only_blocks(first, 1, cuda_device):
            if wide:
                return vector, module.matmul(one, vector[None], kernel=kernel)[0]
            return vector, module.matmul(vector[:, None], one, kernel=kernel)[:, 0]

    short, result = product(2000, 0)
    per_block = max(int((result == short).sum()), 1) if cuda_device == "emulator" else 32
    length = 65535 * min(per_block, 256) + 1
    vector, result = product(length, (length - 1) // per_block)  # the last block
    missing = np.isnan(result[-1])
    hint = "the end of c is missing: is the number of blocks cut off at 65535?" if missing else None
    assert_close(result[-1:], vector[-1:], rtol=0.0, what="the last element", hint=hint)


@host
@pytest.mark.parametrize("kernel", CORE)
def test_more_than_65535_blocks_in_y(module, kernel, cuda_device):
    """No grid has more blocks in y: what needs more is refused, or computed in another way, but never left out.

    The emulator runs one block at a time: the first, for a kernel that goes on in steps of the grid, and what may be the last.
    """

    def product(length, first):
        vector, one = (np.arange(length) % 101 + 1).astype(np.float32), np.ones((1, 1), np.float32)
        with only_blocks(first, 1, cuda_device):
            if kernel == "naive":
                return vector, module.matmul(one, vector[None], kernel=kernel)[0]
            return vector, module.matmul(vector[:, None], one, kernel=kernel)[:, 0]

    short, result = product(2000, 0)
    per_block = max(int((result == short).sum()), 1) if cuda_device == "emulator" else 32
    length = 65535 * min(per_block, 64) + 1
    for first in (0, (length - 1) // per_block, *(-(-length // 2**power) - 1 for power in range(11))):
        try:
            vector, result = product(length, first)
        except Exception:  # CUDA's own error, or the host function's
            return
        if result[-1] == vector[-1]:
            return
    raise AssertionError(
        f"{length} along y: the last is missing: is the number of blocks in y cut off at 65535?"
    )


@host
def test_views(module, rng, cuda_device):
    """Strided and transposed NumPy views are packed on their way to the device."""
    hint = "the memory of a view is not the view: it must be packed before it is copied"
    a, b = random(rng, 14, 12)[::2, ::-3], random(rng, 9, 4).T
    packed = module.matmul(np.ascontiguousarray(a), np.ascontiguousarray(b))
    assert_product(packed, a, b, what="product of arrays without gaps")
    with unchanged(a, b):
        result = module.matmul(a, b)
    assert_product(result, a, b, hint=hint)
    square = random(rng, 9, 9)
    assert_product(
        module.matmul(square, square.T), square, square.T, what="square times its transpose", hint=hint
    )


@host
def test_device_arrays_stay_on_the_device(module, rng, cuda_device):
    """GPUArrays give a new GPUArray, and stay as they are."""
    a, b = random(rng, 5, 7), random(rng, 7, 6)
    device_a, device_b = device_array(a), device_array(b)
    result = module.matmul(device_a, device_b)
    assert not isinstance(result, np.ndarray), (
        "device arrays were copied to the host: the result should stay there"
    )
    assert_product(result.get(), a, b)
    for before, after in ((a, device_a), (b, device_b)):
        assert_close(after.get(), before, rtol=0.0, atol=0.0, hint="an input was modified")


@host
def test_arguments_that_do_not_fit(module, cuda_device):
    """Shapes, dtypes and sides are refused before anything is launched."""
    a, b = np.ones((3, 4), np.float32), np.ones((4, 5), np.float32)
    for arguments, error in (
        ((a, a), ValueError),
        ((a, b[0]), ValueError),
        ((a[0], b), ValueError),
        ((a, b[None]), ValueError),
        ((a[None], b), ValueError),
        ((a[None], b[None]), ValueError),
        ((np.ones((3, 5), np.float32), b), ValueError),
        ((np.ones((3, 2), np.float32), b), ValueError),
        ((a, np.ones((6, 5), np.float32)), ValueError),
        ((a.astype(np.float64), b), TypeError),
        ((a, b.astype(np.int32)), TypeError),
        *(
            ((a.astype(dtype), b.astype(dtype)), TypeError)
            for dtype in ("float16", "float64", "int32", "uint32", "int64", "bool", "complex64")
        ),
        ((a, device_array(b)), TypeError),
        ((device_array(a), b), TypeError),
    ):
        with expect_error(error, otherwise="an argument that does not fit is accepted"):
            module.matmul(*arguments)
