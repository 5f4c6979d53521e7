"""The ladder: the faster kernels, NaN and inf, 16-byte loads, tensor cores; `ladder.matmul` beyond the core.

test_ladder_as_core.py runs the tests of the core's `matmul` on it. Oracle: tests/products.py.
"""

import numpy as np
import products
import pytest
from products import (
    IT_COUNTS,
    ITS_ORDER,
    TILES,
    assert_product,
    global_loads,
    kernel_files,
    only_blocks,
    queue,
    random,
    run,
)

import cuda_matmul
import ladder
from shared import cuda_emulator
from shared.testing.checks import assert_imports_only, expect_error
from shared.testing.devices import device_array

pytestmark = pytest.mark.module("ladder")
ALL = [name for name in TILES if name != "tensor_core"]  # which the emulator does not have
MORE = [name for name in ALL if name not in ("naive", "tiled")]
rungs = pytest.mark.parametrize("function", MORE)
host = pytest.mark.grades("matmul")
ONE_BLOCK = "the emulator runs one block of this grid; a GPU would need up to 17 GB for all of it"


@pytest.mark.grades
def test_ladder_imports():
    """The ladder uses NumPy, PyCUDA and device_arrays.py, nothing else."""
    assert_imports_only(ladder, {"numpy", "pycuda", "device_arrays"})


# --- the kernels ---------------------------------------------------------------------------------------------


@rungs
def test_rung_by_hand(function, cuda_device):
    """A 2 x 3 matrix times a 3 x 2 one, worked by hand."""
    products.check_by_hand(function)


@rungs
def test_rung_shapes(function, rng, cuda_device):
    """Sizes around a warp and a tile, all different, long and short sums."""
    products.check_shapes(function, rng)


@rungs
def test_rung_several_tiles(function, rng, cuda_device):
    """A product of several tiles in each direction, the last ones incomplete."""
    products.check_several_tiles(function, rng)


@rungs
def test_rung_alpha_and_beta(function, rng, cuda_device):
    """Alpha scales the product, beta what c held; with beta = 0 the NaN in c does not matter."""
    products.check_alpha_and_beta(function, rng)


@rungs
def test_rung_no_inner_dimension(function, cuda_device):
    """K = 0: an empty sum is 0, so the result is beta c."""
    products.check_no_inner_dimension(function)


@pytest.mark.parametrize("function", ALL)
def test_special_values(function, rng, cuda_device):
    """NaN and inf reach the rows and columns they belong to, and no others."""
    a, b = random(rng, 37, 19), random(rng, 19, 34)
    a[3, 18], a[35, 0], b[5, 33] = np.nan, np.inf, np.inf
    a[7, 5] = 0  # 0 times inf is NaN: a zero may not be skipped
    with np.errstate(invalid="ignore"):
        result = run(function, a, b)
        skipped = np.isnan(a @ b) & np.isfinite(result)
        hint = "0 times inf is NaN: no element may be skipped" if skipped.any() else None
        assert_product(result, a, b, what="product with NaN and inf", hint=hint)


@pytest.mark.parametrize("function", ["vectorized", "warp_tiled"])
@pytest.mark.parametrize("which", [0, 1])
def test_matrices_at_odd_addresses(function, which, rng, cuda_device):
    """A device array may start anywhere in an allocation: a 16-byte load also needs an address that suits it."""
    m, k, n = 9, 12, 20
    matrices = [random(rng, m, k), random(rng, k, n)]
    arguments = [device_array(matrix) for matrix in matrices]
    shifted = device_array(np.append(np.float32(0), matrices[which]))
    arguments[which] = shifted[1:]
    result = device_array(np.full((m, n), np.nan, np.float32))
    queue(function, (*arguments, result), m, n, k)
    hint = None
    if products.right_alone(function, *matrices):
        hint = "right where the matrices start at a multiple of 16 bytes: that their rows are as long is not enough"
    assert_product(result.get(), *matrices, what=f"product, {'ab'[which]} at an odd address", hint=hint)


@pytest.mark.parametrize("function", MORE[1:])
@pytest.mark.parametrize("schedule", ["reverse", "warp_greedy"])
@pytest.mark.emulator_only(ITS_ORDER)
def test_rung_order_of_threads(function, schedule, rng, cuda_device):
    """Whichever warp goes first, no tile is overwritten while another warp reads it."""
    products.check_order(function, schedule, rng)


@pytest.mark.parametrize("function", ["naive", *MORE])
@pytest.mark.emulator_only(IT_COUNTS)
def test_rung_reads_of_each_element(function, cuda_device):
    """An element of a is read once for each tile column, one of b once for each tile row: 2 n³ / tile in all."""
    products.check_reads(function)


@pytest.mark.parametrize("function", ["vectorized", "warp_tiled"])
@pytest.mark.emulator_only(IT_COUNTS)
def test_loads_of_16_bytes(function, cuda_device):
    """Four elements with each instruction, from global to shared memory and from there to registers."""
    a = np.ones((128, 128), np.float32)
    with cuda_emulator.counting() as counters:
        run(function, a, a)
    for kind in ("global load", "shared load"):
        loads = counters.total(kind)
        assert loads.bytes == 16 * loads.lanes, (
            f"not vectorized: a {kind} moves {loads.bytes / loads.lanes:.3g} bytes for each thread instead of 16; "
            "read a float4"
        )


@pytest.mark.parametrize("function", ALL)
@pytest.mark.emulator_only(IT_COUNTS)
def test_sectors(function, cuda_device):
    """The 32-byte sectors of all loads are as many as can be told from the addresses of a warp.

    naive: each step of a warp touches 32 sectors of a and 1 of b, coalesced: 1 and 4. The others read whole sectors, so
    only as many as the bytes of the tiles fill.
    """
    size = 128
    loads, (tile_m, tile_n) = global_loads(function, size), TILES[function][0]
    by_thread = {"naive": 33, "coalesced": 5}
    tiles = size**3 * (tile_m + tile_n) // (8 * tile_m * tile_n)
    expected = by_thread[function] * size**3 // 32 if function in by_thread else tiles
    assert loads.sectors <= expected, (
        f"not coalesced: {loads.sectors:,} sectors are moved where {expected:,} are enough; neighbouring threads must "
        "read neighbouring elements of a row"
    )


@rungs
@pytest.mark.emulator_only(ONE_BLOCK)
def test_rung_index_past_two_to_the_31(function, cuda_device):
    """The last tile of a c with more than 2**31 elements: row * n needs 64 bits."""
    products.check_end_of_c(function)


@rungs
@pytest.mark.emulator_only(ONE_BLOCK)
def test_rung_row_of_b_past_two_to_the_31(function, cuda_device):
    """The last row of a b with more than 2**31 elements: i * n needs 64 bits too."""
    products.check_end_of_b(function)


@pytest.mark.grades
@pytest.mark.emulator_only("a GPU has tensor cores")
def test_tensor_cores_are_declined(cuda_device):
    """The emulator has no tensor cores, and says so instead of computing something else."""
    from pycuda import driver

    a = np.ones((16, 16), np.uint16)
    with pytest.raises(driver.CompileError, match="not supported by the CPU emulator"):
        run("tensor_core", a, a)


@pytest.mark.requires_cuda  # the emulator has no tensor cores; the compile gate covers tensor_core.cu
@host
def test_tensor_cores(rng):
    """On a GPU: bfloat16 in, float32 sums and result, with tiles that are incomplete."""
    a, b = random(rng, 70, 50), random(rng, 50, 90)
    cut = [(array.view(np.uint32) >> 16).astype(np.uint16) for array in (a, b)]
    wide = [(half.astype(np.uint32) << 16).view(np.float32) for half in cut]
    result = ladder.matmul(*(half.view("V2") for half in cut), kernel="tensor_core", alpha=-2.0)
    assert_product(result, *wide, what="bfloat16 product", alpha=-2.0)


# --- the host side -------------------------------------------------------------------------------------------


@host
@pytest.mark.parametrize("kernel", ALL)
def test_every_rung(kernel, rng, cuda_device):
    """Each rung by name, on a shape of several tiles."""
    a, b = random(rng, 70, 20), random(rng, 20, 135)
    assert_product(ladder.matmul(a, b, kernel=kernel), a, b, what=kernel)


@host
@pytest.mark.emulator_only(IT_COUNTS)
def test_the_rung_that_runs(cuda_device):
    """The product is computed on the device, in the file of that name; an unknown name is answered with the known ones."""
    assert [rung.name for rung in ladder.RUNGS] == list(TILES)
    a = np.ones((3, 3), np.float32)
    for kernel in ALL:
        with cuda_emulator.counting() as counters:
            ladder.matmul(a, a, kernel=kernel)
        files = kernel_files(counters)
        assert files == {kernel}, (
            f"another kernel than the one asked for ran, or none: {files} instead of {kernel}"
        )
    with expect_error(ValueError, "warp_tiled", "'fast'", otherwise="an unknown kernel is accepted"):
        ladder.matmul(a, a, kernel="fast")


@host
def test_c(rng, cuda_device):
    """The result goes to c where there is one, on the host and on the device."""
    a, b, c = random(rng, 5, 7), random(rng, 7, 6), random(rng, 5, 6)
    before = c.copy()
    assert ladder.matmul(a, b, alpha=2.0, beta=-1.0, c=c) is c, "matmul(a, b, c=c) returns c itself"
    assert_product(c, a, b, alpha=2.0, beta=-1.0, c=before)
    device_c = device_array(before)
    device_a, device_b = device_array(a), device_array(b)
    assert ladder.matmul(device_a, device_b, alpha=2.0, beta=-1.0, c=device_c) is device_c
    assert_product(device_c.get(), a, b, alpha=2.0, beta=-1.0, c=before)


@host
def test_c_with_beta_0(rng, cuda_device):
    """With beta = 0 the old c is not read, but the result goes there all the same."""
    a, b = random(rng, 5, 7), random(rng, 7, 6)
    left = "c was left alone: with beta = 0 it is not read, but it is written"
    c = np.full((5, 6), np.nan, np.float32)
    assert ladder.matmul(a, b, c=c) is c, "matmul(a, b, c=c) returns c itself, for beta = 0 too"
    assert_product(c, a, b, what="c", hint=left if np.isnan(c).all() else None)
    device_c = device_array(np.full((5, 6), 7, np.float32))
    assert ladder.matmul(device_array(a), device_array(b), alpha=3.0, c=device_c) is device_c
    result = device_c.get()
    assert_product(
        result, a, b, alpha=3.0, what="c on the device", hint=left if (result == 7).all() else None
    )


@host
def test_alpha_without_c(rng, cuda_device):
    """Alpha needs no c; 0 and negative numbers are numbers too."""
    a, b = random(rng, 5, 7), random(rng, 7, 6)
    assert_product(ladder.matmul(a, b, alpha=-2.5), a, b, alpha=-2.5)
    result = ladder.matmul(a, b, alpha=0.0, beta=2.0, c=np.ones((5, 6), np.float32))
    assert (result == 2).all(), f"0 a b + 2 c should be 2 everywhere, got {result[0]}"


@host
def test_c_that_is_a_view(rng, cuda_device):
    """A strided or transposed c on the host is read and written, not a packed copy of it."""
    a, b = random(rng, 7, 4), random(rng, 4, 9)
    copied = "c is as it was: the result went to a packed copy"
    for c in (np.asfortranarray(random(rng, 7, 9)), random(rng, 7, 18)[:, ::2], random(rng, 9, 7).T):
        before = c.copy()
        assert ladder.matmul(a, b, beta=2.0, c=c) is c, (
            "matmul(a, b, c=c) returns c itself, also where it is a view"
        )
        hint = copied if np.array_equal(c, before) else None
        assert_product(c, a, b, beta=2.0, c=before, what="c", hint=hint)


@host
def test_grids_that_are_too_tall(cuda_device):
    """A grid has at most 65535 blocks in y: more tiles than that are refused, not launched with an error of CUDA's."""
    for kernel, m, n in (("naive", 1, 8 * 65535 + 1), ("coalesced", 8 * 65535 + 1, 1)):
        a, b = np.ones((m, 0), np.float32), np.ones((0, n), np.float32)
        with expect_error(ValueError, "65535", otherwise="a grid of 65536 blocks in y is accepted"):
            ladder.matmul(a, b, kernel=kernel)
    with only_blocks(0, 1, cuda_device):  # the shape is what counts
        tall = ladder.matmul(np.ones((8 * 65535 + 1, 0), np.float32), np.ones((0, 1), np.float32))
        assert tall.shape == (8 * 65535 + 1, 1), "naive counts rows in x, which has room for them"
        most = ladder.matmul(np.ones((1, 0), np.float32), np.ones((0, 8 * 65535), np.float32))
        assert most.shape == (1, 8 * 65535), (
            "65535 blocks in y are allowed, and there may be no block without elements"
        )


@host
def test_byte_order(rng, cuda_device):
    """NumPy arrays in the other byte order are converted on their way, and so is c."""
    a, b, c = random(rng, 5, 7), random(rng, 7, 6), random(rng, 5, 6)
    swapped = c.astype(">f4")
    ladder.matmul(a.astype(">f4"), b.astype(">f4"), beta=1.0, c=swapped)
    hint = "the bytes were copied as they lie: bring them to native order first"
    assert_product(swapped.astype(np.float32), a, b, beta=1.0, c=c, hint=hint)


@host
def test_mixed_byte_orders(rng, cuda_device):
    """One matrix in each order, for the core too; on the device the other order is refused."""
    a, b = random(rng, 5, 7), random(rng, 7, 6)
    hint = "the bytes were copied as they lie: bring them to native order first"
    for module in (ladder, cuda_matmul):
        for arrays in ((a.astype(">f4"), b), (a, b.astype(">f4")), (a.astype(">f4"), b.astype(">f4"))):
            result = module.matmul(*arrays)
            assert_product(result, a, b, hint=hint)
            assert result.dtype.isnative, f"the result is in the byte order {result.dtype.str}"
        for arrays in ((a.astype(">f4"), b), (a, b.astype(">f4"))):
            with expect_error(
                TypeError, ">f4", otherwise="a device array in the other byte order is accepted"
            ):
                module.matmul(*map(device_array, arrays))


@host
@pytest.mark.parametrize("kernel", ALL)
def test_c_that_is_an_input(kernel, rng, cuda_device):
    """On the device other threads still read it: refused, as any overlap. On the host a and b are copied first."""
    a, b = random(rng, 40, 40), random(rng, 40, 40)
    for which in (0, 1):
        inputs = [device_array(a), device_array(b)]
        with expect_error(
            ValueError, "c", otherwise="a c that is an input is accepted: other threads still read it"
        ):
            ladder.matmul(*inputs, c=inputs[which], kernel=kernel)
        with expect_error(
            ValueError, "c", otherwise="a c that is an input is accepted: other threads still read it"
        ):
            ladder.matmul(*inputs, c=inputs[which], kernel=kernel, beta=1.0)
        inputs = [a.copy(), b.copy()]
        assert ladder.matmul(*inputs, c=inputs[which], kernel=kernel) is inputs[which]
        assert_product(inputs[which], a, b, what=f"c that is {'ab'[which]}, on the host")
    buffer = device_array(np.ones(2 * 1600 + 1, np.float32))
    first, shifted, after = (buffer[i : i + 1600].reshape(40, 40) for i in (0, 1, 1600))
    with expect_error(ValueError, "c", otherwise="a c that overlaps an input is accepted"):
        ladder.matmul(first, device_array(b), c=shifted, kernel=kernel)
    assert ladder.matmul(first, first, c=after, kernel=kernel) is after  # neighbours do not overlap


@host
def test_a_vector_is_no_matrix(cuda_device):
    """Neither as a row nor as a column, in any position, in the core and in the ladder."""
    for module in (ladder, cuda_matmul):
        for a, b in (((4,), (4, 5)), ((3, 4), (4,)), ((4,), (4,)), ((), (4, 5)), ((1, 3, 4), (4, 5))):
            shape = str(min(a, b, key=lambda shape: len(shape) == 2))
            with expect_error(ValueError, shape, otherwise="an array that is no matrix is accepted"):
                module.matmul(np.ones(a, np.float32), np.ones(b, np.float32))


@host
def test_alpha_and_beta_are_numbers(rng, cuda_device):
    """A string, None or True is no number; NaN, inf and what float32 does not have are refused too."""
    a, c = random(rng, 4, 4), random(rng, 4, 4)
    for option in ("alpha", "beta"):
        for error, values in (
            (TypeError, ("2", None, True, 2j)),
            (ValueError, (np.nan, np.inf, 1e39, 1e-50)),
        ):
            for value in values:
                with expect_error(error, option, otherwise=f"{option}={value!r} is accepted"):
                    ladder.matmul(a, a, c=c.copy(), **{option: value})
    result = ladder.matmul(a, a, alpha=np.float64(2), beta=np.int64(3), c=c.copy())
    assert_product(result, a, a, alpha=2.0, beta=3.0, c=c)


@host
def test_arrays_that_no_kernel_understands(rng, cuda_device):
    """A c that is read-only, a mask, fields of two bytes that are no bfloat16."""
    a = random(rng, 4, 4)
    c = a.copy()
    c.flags.writeable = False
    with expect_error(ValueError, "read-only", otherwise="a c that is read-only is accepted"):
        ladder.matmul(a, a, c=c)
    with expect_error(TypeError, "MaskedArray", otherwise="the mask is ignored"):
        ladder.matmul(np.ma.array(a, mask=a > 0), a)
    fields = np.zeros((4, 4), [("x", "u1"), ("y", "u1")])
    with expect_error(TypeError, "void16", otherwise="fields are taken for bfloat16"):
        ladder.matmul(fields, fields, kernel="tensor_core")


class Foreign:
    """A device array of some other library: nothing but a shape and the CUDA array interface."""

    def __init__(self, array, strides):
        self.shape = array.shape
        self._array = device_array(array)  # keeps the memory
        self.__cuda_array_interface__ = {**self._array.__cuda_array_interface__, "strides": strides}


@host
def test_messages_name_what_came(cuda_device):
    """Shapes, dtypes, sides and a missing c are refused before anything is launched."""
    a, b = np.ones((3, 4), np.float32), np.ones((4, 5), np.float32)
    for arguments, options, error, mention in (
        ((Foreign(a, (32, 4)), device_array(b)), {}, ValueError, "(32, 4)"),
        ((device_array(a), Foreign(b, (4, 16))), {}, ValueError, "(4, 16)"),
        ((a, a), {}, ValueError, "(3, 4)"),
        ((a, b[0]), {}, ValueError, "(5,)"),
        ((a, b[None]), {}, ValueError, "(1, 4, 5)"),
        ((a[None], b), {}, ValueError, "(1, 3, 4)"),
        ((a, b), {"c": np.ones((5, 3), np.float32)}, ValueError, "(5, 3)"),
        ((a, b), {"c": np.ones((3, 6), np.float32)}, ValueError, "(3, 6)"),
        ((a, b), {"c": np.ones(5, np.float32)}, ValueError, "(5,)"),
        ((a, b), {"c": np.ones((1, 3, 5), np.float32)}, ValueError, "(1, 3, 5)"),
        ((a, b), {"beta": 1.0}, ValueError, "beta"),
        ((a.astype(np.float64), b), {}, TypeError, "float64"),
        ((a, b.astype(np.int32)), {}, TypeError, "int32"),
        ((a, b), {"c": np.ones((3, 5), np.float16)}, TypeError, "float16"),
        ((a, device_array(b)), {}, TypeError, "GPUArray"),
        ((a, b), {"c": device_array(np.ones((3, 5), np.float32))}, TypeError, "GPUArray"),
        (([[1.0]], b), {}, TypeError, "list"),
        ((a, b), {"kernel": "tensor_core"}, TypeError, "float32"),
    ):
        with expect_error(error, mention, otherwise="an argument that does not fit is accepted"):
            ladder.matmul(*arguments, **options)
