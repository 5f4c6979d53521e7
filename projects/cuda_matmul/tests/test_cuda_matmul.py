"""The judge of the ladder and of the host side: by hand, edges, many tiles, alpha and beta, counts, `matmul`.

The kernels are launched here directly, so each is graded before there is a host side. Oracle: NumPy's product in float64.
"""

import contextlib
from pathlib import Path

import numpy as np
import pytest

import cuda_matmul
from shared import cuda_emulator
from shared.testing.checks import assert_close, assert_imports_only, expect_error, unchanged
from shared.testing.devices import device_array, launch

KERNELS = Path(cuda_matmul.__file__).parent / "kernels"
RUNGS = {rung.name: rung for rung in cuda_matmul.RUNGS}
LADDER = [name for name, rung in RUNGS.items() if rung.dtype == "float32"]

ladder = pytest.mark.parametrize("function", LADDER)


def run(kernel, a, b, *, alpha=1.0, beta=0.0, c=None):
    """Launch one kernel on copies of NumPy matrices and return c, which starts as NaN where none is given."""
    rung = RUNGS[kernel]
    (m, k), n = a.shape, b.shape[1]
    device_c = device_array(np.full((m, n), np.nan, np.float32) if c is None else c)
    rows, columns = -(-m // rung.tile[0]), -(-n // rung.tile[1])
    grid = (rows, columns) if rung.rows_in_x else (columns, rows)
    sizes = (np.int32(m), np.int32(n), np.int32(k), np.float32(alpha), np.float32(beta))
    arguments = (device_array(a), device_array(b), device_c, *sizes)
    launch(KERNELS / f"{kernel}.cu", "matmul", arguments, grid=grid, block=(*rung.block, 1))
    return device_c.get()


def random(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


def gaps(actual, expected, start):
    """Return the mistake of a result that is right but for elements that were never written, or hold an empty sum."""
    found = {}
    if isinstance(actual, np.ndarray) and actual.shape == expected.shape:
        unwritten, empty = np.isnan(actual) & ~np.isnan(expected), (actual == start) & (expected != start)
        if unwritten.any():
            where = f"no thread writes {extent(unwritten)}: NaN is what c started with"
            found[
                f"{where}. Which piece of c is a block's, and a thread's? Are rows and columns swapped?"
            ] = np.where(unwritten, np.nan, expected)
        if empty.any():
            where = f"{extent(empty)} of the product are 0"
            found[f"{where}: a part of a tile for which no thread adds up products (is a pass missing?)"] = (
                np.where(empty, start, expected)
            )
    return found


def extent(where):
    """Say which rows and columns an array of bool is true in."""
    rows, columns = (np.flatnonzero(where.any(axis=axis)) for axis in (1, 0))
    return f"rows {rows[0]} to {rows[-1]}, columns {columns[0]} to {columns[-1]}"


def assert_product(actual, a, b, *, what="product", alpha=1.0, beta=0.0, c=None, **options):
    """Compare with the product in float64; the tolerance grows with the root of the length of the sums."""
    wide = a.astype(np.float64) @ b.astype(np.float64)
    expected = alpha * wide + (0 if c is None or beta == 0 else beta * c.astype(np.float64))
    square = a.shape[0] == a.shape[1] == b.shape[1]
    mistakes = {
        "c still holds the NaN it started with: nothing was written, or c was read although beta is 0": np.full(
            expected.shape, np.nan
        ),
        "alpha is ignored": expected - alpha * wide + wide,
        "beta is ignored": alpha * wide,
        "only the first tile of k is added up": alpha * (a[:, :32].astype(np.float64) @ b[:32]),
        "only the first tile of k is added up ": alpha * (a[:, :8].astype(np.float64) @ b[:8]),
        **({"rows and columns are swapped: this is b a": b.astype(np.float64) @ a} if square else {}),
        **({"rows and columns are swapped: this is the transpose": wide.T} if square else {}),
        **gaps(actual, expected, 0 if c is None or beta == 0 else beta * c),
    }
    n = a.shape[1] or 1
    assert_close(actual, expected, dtype=np.float32, n=n, what=what, mistakes=mistakes, **options)


@pytest.mark.grades
def test_imports():
    """The deliverable uses NumPy and PyCUDA, nothing else."""
    assert_imports_only(cuda_matmul, {"numpy", "pycuda"})


@ladder
def test_by_hand(function, cuda_device):
    """A 2 x 3 matrix times a 3 x 2 one, worked by hand."""
    a, b = np.float32([[1, 2, 3], [4, 5, 6]]), np.float32([[1, 0], [10, 2], [100, 0]])
    expected = np.float32([[321, 4], [654, 10]])
    wrong = {
        "b is read transposed: c[i, j] sums a[i, :] · b[:, j]": a @ b.reshape(2, 3).T,
        "rows and columns are swapped: this is the transpose": expected.T,
        "both rows are the first: the sums of a thread are not kept apart, or take the same row of a": expected[
            [0, 0]
        ],
        "c still holds the NaN it started with: nothing was written, or c was read although beta is 0": np.full(
            (2, 2), np.nan
        ),
    }
    assert_close(run(function, a, b), expected, rtol=1e-6, what="product", mistakes=wrong)


@ladder
def test_shapes(function, rng, cuda_device):
    """Sizes around a warp and a tile, all different, long and short sums."""
    for m, k, n in ((1, 1, 1), (33, 7, 5), (5, 33, 31), (32, 32, 32), (31, 40, 67), (65, 9, 130)):
        a, b = random(rng, m, k), random(rng, k, n)
        hint = (
            "are the edges right? Past them tiles hold zeros, and nothing is stored. "
            "If only the last digits differ: sums must be float32"
        )
        constant = "one number" if (m, n) == (1, 1) else None
        assert_product(
            run(function, a, b), a, b, what=f"({m}, {k}) x ({k}, {n})", hint=hint, vacuous_ok=constant
        )


@ladder
def test_several_tiles(function, rng, cuda_device):
    """A product of several tiles in each direction, the last ones incomplete."""
    a, b = random(rng, 140, 50), random(rng, 50, 136)
    hint = "does each block add up all tiles of k, and write its own tile of c?"
    assert_product(run(function, a, b), a, b, what="(140, 50) x (50, 136)", hint=hint)


@ladder
def test_alpha_and_beta(function, rng, cuda_device):
    """Alpha scales the product, beta what c held; with beta = 0 the NaN in c does not matter."""
    a, b, c = random(rng, 40, 21), random(rng, 21, 35), random(rng, 40, 35)
    options = {"alpha": -0.5, "beta": 3.0, "c": c}
    assert_product(run(function, a, b, **options), a, b, what="-0.5 a b + 3 c", **options)
    nan = np.full_like(c, np.nan)
    hint = "beta is 0, so c must not be read: 0 times NaN is NaN"
    assert_product(
        run(function, a, b, alpha=2.0, c=nan), a, b, what="2 a b + 0 c", alpha=2.0, c=nan, hint=hint
    )


@ladder
def test_no_inner_dimension(function, cuda_device):
    """K = 0: an empty sum is 0, so the result is beta c."""
    a, b = np.zeros((3, 0), np.float32), np.zeros((0, 5), np.float32)
    result = run(function, a, b, beta=2.0, c=np.arange(15, dtype=np.float32).reshape(3, 5))
    assert_close(result, 2 * np.arange(15, dtype=np.float32).reshape(3, 5), what="2 c")


@ladder
def test_special_values(function, rng, cuda_device):
    """NaN and inf reach the rows and columns they belong to, and no others."""
    a, b = random(rng, 37, 19), random(rng, 19, 34)
    a[3, 18], a[35, 0], b[5, 33] = np.nan, np.inf, np.inf
    a[7, 5] = 0  # 0 times inf is NaN: a zero may not be skipped
    with np.errstate(invalid="ignore"):
        hint = "0 times inf is NaN: no element may be skipped"
        assert_product(run(function, a, b), a, b, what="product with NaN and inf", hint=hint)


@pytest.mark.parametrize("function", LADDER[5:])
@pytest.mark.parametrize("which", [0, 1])
def test_matrices_at_odd_addresses(function, which, rng, cuda_device):
    """A device array may start anywhere in an allocation: a 16-byte load also needs an address that suits it."""
    m, k, n = 9, 12, 20
    matrices = [random(rng, m, k), random(rng, k, n)]
    arguments = [device_array(matrix) for matrix in matrices]
    shifted = device_array(np.append(np.float32(0), matrices[which]))
    arguments[which] = shifted[1:]
    result = device_array(np.full((m, n), np.nan, np.float32))
    sizes = (np.int32(m), np.int32(n), np.int32(k), np.float32(1), np.float32(0))
    block = (*RUNGS[function].block, 1)
    launch(KERNELS / f"{function}.cu", "matmul", (*arguments, result, *sizes), grid=(1, 1), block=block)
    hint = "rows that are multiples of 16 bytes long are not enough, the first must start at one"
    assert_product(result.get(), *matrices, what=f"product, {'ab'[which]} at an odd address", hint=hint)


@pytest.mark.parametrize("function", LADDER[2:])
@pytest.mark.parametrize("schedule", ["reverse", "warp_greedy"])
@pytest.mark.emulator_only("a GPU runs its threads in an order of its own")
def test_order_of_threads(function, schedule, rng, cuda_device):
    """Whichever warp goes first, no tile is overwritten while another warp reads it."""
    a, b = random(rng, 34, 70), random(rng, 70, 33)
    with cuda_emulator.settings(schedule=schedule):
        hint = "a barrier is missing: after the loads of a tile, or before the next loads"
        assert_product(run(function, a, b), a, b, what=f"product, threads in {schedule} order", hint=hint)


# --- what the kernels ask of the memory (counted by the emulator) ------------------------------------------------


@pytest.fixture
def counting_device(cuda_device):
    if cuda_device == "gpu":
        pytest.skip(
            "the emulator counts; on a GPU ask ncu for l1tex__t_sectors_pipe_lsu_mem_global_op_ld.sum"
        )
    return cuda_device


def reads(kernel, size):
    """Return the counters of the global loads of a product of two size x size matrices."""
    a = np.ones((size, size), np.float32)
    with cuda_emulator.counting() as counters:
        run(kernel, a, a)
    return counters.total("global load")


@ladder
def test_reads_of_each_element(function, counting_device):
    """An element of a is read once for each tile column, one of b once for each tile row: 2 n³ / tile in all."""
    size = 128
    loads, (tile_m, tile_n) = reads(function, size), RUNGS[function].tile
    if function in ("naive", "coalesced"):
        tile_m = tile_n = 1
    expected = 4 * size**3 * (1 / tile_m + 1 / tile_n)
    assert loads.bytes == expected, (
        f"{loads.bytes:,} bytes are read from global memory, {expected:,.0f} are enough for tiles of {tile_m} x {tile_n}"
    )


@pytest.mark.parametrize("function", LADDER[5:])
def test_loads_of_16_bytes(function, counting_device):
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


@ladder
def test_sectors(function, counting_device):
    """The 32-byte sectors of all loads are as many as can be told from the addresses of a warp.

    naive: each step of a warp touches 32 sectors of a and 1 of b, coalesced: 1 and 4. The others read whole sectors, so
    only as many as the bytes of the tiles fill.
    """
    size = 128
    loads, (tile_m, tile_n) = reads(function, size), RUNGS[function].tile
    by_thread = {"naive": 33, "coalesced": 5}
    tiles = size**3 * (tile_m + tile_n) // (8 * tile_m * tile_n)
    expected = by_thread[function] * size**3 // 32 if function in by_thread else tiles
    assert loads.sectors == expected, (
        f"not coalesced: {loads.sectors:,} sectors are moved where {expected:,} are enough; neighbouring threads must "
        "read neighbouring elements of a row"
        if loads.sectors > expected
        else f"{loads.sectors:,} sectors are moved, fewer than the {expected:,} of this rung: is it the right kernel?"
    )


@ladder
@pytest.mark.emulator_only("the emulator runs one block of this grid; a GPU would need 9 GB for all of it")
def test_index_past_two_to_the_31(function, cuda_device):
    """The last tile of a c with more than 2**31 elements: row * n needs 64 bits."""
    from pycuda import driver

    m, n, rung = 2**16, 2**15 + 128, RUNGS[function]
    a, b = np.arange(m, dtype=np.float32)[:, None], np.arange(n, dtype=np.float32)[None] % 101
    target = driver.mem_alloc(4 * m * n)
    rows, columns = m // rung.tile[0], n // rung.tile[1]
    grid = (rows, columns) if rung.rows_in_x else (columns, rows)
    sizes = (np.int32(m), np.int32(n), np.int32(1), np.float32(1), np.float32(0))
    try:
        with cuda_emulator.settings(window=(rows * columns - 1, 1)):
            arguments = (device_array(a), device_array(b), target, *sizes)
            launch(KERNELS / f"{function}.cu", "matmul", arguments, grid=grid, block=(*rung.block, 1))
        result = np.empty(8, np.float32)
        driver.memcpy_dtoh(result, int(target) + 4 * (m * n - 8))
    finally:
        target.free()
    hint = "an index of 32 bits: row * n wraps around; make the row a long long"
    assert_close(result, a[-1] * b[0, -8:], what="the end of the last row", hint=hint)


@ladder
@pytest.mark.emulator_only("the emulator runs one block of this grid; a GPU would need 17 GB for all of it")
def test_row_of_b_past_two_to_the_31(function, cuda_device):
    """The last row of a b with more than 2**31 elements: i * n needs 64 bits too."""
    from pycuda import driver

    k, n = (4200, 8 * 65535) if RUNGS[function].rows_in_x else (3, 2**30)  # naive counts columns in y
    pointers = [
        device_array(np.ones((1, k), np.float32)),
        driver.mem_alloc(4 * k * n),
        driver.mem_alloc(4 * n),
    ]
    end = np.arange(1, 9, dtype=np.float32)
    driver.memcpy_htod(int(pointers[1]) + 4 * (k * n - 8), end)
    columns = n // RUNGS[function].tile[1]
    grid = (1, columns) if RUNGS[function].rows_in_x else (columns, 1)
    sizes = (np.int32(1), np.int32(n), np.int32(k), np.float32(1), np.float32(0))
    try:
        with cuda_emulator.settings(window=(columns - 1, 1)):
            path, block = KERNELS / f"{function}.cu", (*RUNGS[function].block, 1)
            launch(path, "matmul", (*pointers, *sizes), grid=grid, block=block)
        result = np.empty(8, np.float32)
        driver.memcpy_dtoh(result, int(pointers[2]) + 4 * (n - 8))
    finally:
        for pointer in pointers[1:]:
            pointer.free()
    hint = "an index of 32 bits: i * n wraps around; make i, or the row of b, a long long"
    assert_close(result, end, what="the end of the row", hint=hint)


@pytest.mark.grades
@pytest.mark.emulator_only("a GPU has tensor cores")
def test_tensor_cores_are_declined(cuda_device):
    """The emulator has no tensor cores, and says so instead of computing something else."""
    from pycuda import driver

    a = np.ones((16, 16), np.uint16)
    with pytest.raises(driver.CompileError, match="not supported by the CPU emulator"):
        run("tensor_core", a, a)


@pytest.mark.requires_cuda  # the emulator has no tensor cores; the compile gate covers tensor_core.cu
@pytest.mark.grades("matmul")
def test_tensor_cores(rng):
    """On a GPU: bfloat16 in, float32 sums and result, with tiles that are incomplete."""
    a, b = random(rng, 70, 50), random(rng, 50, 90)
    cut = [(array.view(np.uint32) >> 16).astype(np.uint16) for array in (a, b)]
    wide = [(half.astype(np.uint32) << 16).view(np.float32) for half in cut]
    result = cuda_matmul.matmul(*(half.view("V2") for half in cut), kernel="tensor_core", alpha=-2.0)
    assert_product(result, *wide, what="bfloat16 product", alpha=-2.0)


# --- the host side ---------------------------------------------------------------------------------------------


@pytest.mark.grades("matmul")
@pytest.mark.parametrize("kernel", LADDER)
def test_every_rung(kernel, rng, cuda_device):
    """Each rung by name, on a shape of several tiles; the default is naive."""
    a, b = random(rng, 70, 20), random(rng, 20, 135)
    with unchanged(a, b):
        result = cuda_matmul.matmul(a, b, kernel=kernel)
    assert isinstance(result, np.ndarray), (
        f"NumPy arrays should give a NumPy array, not {type(result).__name__}"
    )
    hint = "is the grid the right way round for this kernel, and rounded up?"
    assert_product(result, a, b, what=kernel, hint=hint)


@pytest.mark.grades("matmul")
def test_the_kernel_that_runs(counting_device):
    """The product is computed on the device, in the file of that name; unknown names are refused."""
    a = np.ones((3, 3), np.float32)
    for kernel, options in (("naive", {}), *((kernel, {"kernel": kernel}) for kernel in LADDER)):
        with cuda_emulator.counting() as counters:
            cuda_matmul.matmul(a, a, **options)
        files = {Path(row.file).stem for row in counters.rows}
        assert files == {kernel}, (
            f"another kernel than the one asked for ran, or none: {files} instead of {kernel}"
        )
    for kernel in ("fast", "../naive", None):
        with expect_error(ValueError, "warp_tiled", otherwise="an unknown kernel is accepted"):
            cuda_matmul.matmul(a, a, kernel=kernel)


@pytest.mark.grades("matmul")
def test_c(rng, cuda_device):
    """The result goes to c where there is one, on the host and on the device."""
    a, b, c = random(rng, 5, 7), random(rng, 7, 6), random(rng, 5, 6)
    before = c.copy()
    assert cuda_matmul.matmul(a, b, alpha=2.0, beta=-1.0, c=c) is c, "matmul(a, b, c=c) returns c itself"
    assert_product(c, a, b, alpha=2.0, beta=-1.0, c=before)
    device_c = device_array(before)
    device_a, device_b = device_array(a), device_array(b)
    assert cuda_matmul.matmul(device_a, device_b, alpha=2.0, beta=-1.0, c=device_c) is device_c
    assert_product(device_c.get(), a, b, alpha=2.0, beta=-1.0, c=before)
    result = cuda_matmul.matmul(device_a, device_b)
    assert not isinstance(result, np.ndarray), (
        "device arrays were copied to the host: the result should stay there"
    )
    assert_product(result.get(), a, b)


@pytest.mark.grades("matmul")
@pytest.mark.parametrize(("m", "k", "n"), [(0, 3, 4), (3, 4, 0), (3, 0, 4), (0, 0, 0)])
def test_lengths_of_zero(m, k, n, cuda_device):
    """Nothing to compute, or an empty sum, which is 0."""
    result = cuda_matmul.matmul(np.ones((m, k), np.float32), np.ones((k, n), np.float32))
    assert (result.shape, result.dtype) == ((m, n), np.float32)
    assert not result.any(), "an empty sum is 0: the kernel must run for K = 0 too"


@pytest.mark.grades("matmul")
def test_grids_that_are_too_tall(cuda_device):
    """A grid has at most 65535 blocks in y: more tiles than that are refused, not launched with an error of CUDA's."""
    for kernel, m, n in (("naive", 1, 8 * 65535 + 1), ("coalesced", 8 * 65535 + 1, 1)):
        a, b = np.ones((m, 0), np.float32), np.ones((0, n), np.float32)
        with expect_error(ValueError, "65535", otherwise="a grid of 65536 blocks in y is accepted"):
            cuda_matmul.matmul(a, b, kernel=kernel)
    first = cuda_emulator.settings(window=(0, 1)) if cuda_device == "emulator" else contextlib.nullcontext()
    with first:  # one block of each grid: the shape is what counts
        long = cuda_matmul.matmul(np.ones((8 * 65535 + 1, 0), np.float32), np.ones((0, 1), np.float32))
        assert long.shape == (8 * 65535 + 1, 1), "naive counts rows in x, which has room for them"
        most = cuda_matmul.matmul(np.ones((1, 0), np.float32), np.ones((0, 8 * 65535), np.float32))
        assert most.shape == (1, 8 * 65535), (
            "65535 blocks in y are allowed, and there may be no block without elements"
        )


@pytest.mark.grades("matmul")
def test_views(rng, cuda_device):
    """Strided and transposed NumPy views are packed on their way to the device."""
    a, b = random(rng, 14, 12)[::2, ::-3], random(rng, 9, 4).T
    hint = "the memory of a view is not the view: np.ascontiguousarray packs it"
    assert_product(cuda_matmul.matmul(a, b), a, b, hint=hint)
    c = np.asfortranarray(random(rng, 7, 9))
    before = c.copy()
    cuda_matmul.matmul(a, b, beta=2.0, c=c)
    assert_product(c, a, b, beta=2.0, c=before, hint=f"c too may be a view: {hint}")


class Foreign:
    """A device array of some other library: nothing but a shape and the CUDA array interface."""

    def __init__(self, array, strides):
        self.shape = array.shape
        self._array = device_array(array)  # keeps the memory
        self.__cuda_array_interface__ = {**self._array.__cuda_array_interface__, "strides": strides}


@pytest.mark.grades("matmul")
def test_arguments_that_do_not_fit(cuda_device):
    """Shapes, dtypes, sides and a missing c are refused before anything is launched."""
    a, b = np.ones((3, 4), np.float32), np.ones((4, 5), np.float32)
    for arguments, options, error, mention in (
        ((a, a), {}, ValueError, "(3, 4)"),
        ((a, b[0]), {}, ValueError, "(5,)"),
        ((a, b[None]), {}, ValueError, "(1, 4, 5)"),
        ((a, b), {"c": np.ones((5, 3), np.float32)}, ValueError, "(5, 3)"),
        ((a, b), {"c": np.ones((3, 6), np.float32)}, ValueError, "(3, 6)"),
        ((Foreign(a, (32, 4)), device_array(b)), {}, ValueError, "(32, 4)"),
        ((device_array(a), Foreign(b, (4, 16))), {}, ValueError, "(4, 16)"),
        ((a, b), {"beta": 1.0}, ValueError, "beta"),
        ((a.astype(np.float64), b), {}, TypeError, "float64"),
        ((a, b.astype(np.int32)), {}, TypeError, "int32"),
        ((a, b), {"c": np.ones((3, 5), np.float16)}, TypeError, "float16"),
        ((a, device_array(b)), {}, TypeError, "GPUArray"),
        (([[1.0]], b), {}, TypeError, "list"),
        ((a, b), {"kernel": "tensor_core"}, TypeError, "float32"),
    ):
        with expect_error(error, mention, otherwise="an argument that does not fit is accepted"):
            cuda_matmul.matmul(*arguments, **options)
