"""What the tests share: launching a kernel on NumPy matrices, and the comparison. Oracle: NumPy's product in float64."""

import contextlib
from pathlib import Path

import numpy as np

import cuda_matmul
from shared import cuda_emulator
from shared.testing.checks import assert_close
from shared.testing.devices import device_array, launch

KERNELS = Path(cuda_matmul.__file__).parent / "kernels"
IT_COUNTS = "the emulator counts; on a GPU ask ncu for l1tex__t_sectors_pipe_lsu_mem_global_op_ld.sum"
ITS_ORDER = "a GPU runs its threads in an order of its own"
TILES = {  # kernel: rows and columns of c for each block, threads of a block, and whether x counts rows
    "naive": ((32, 8), (32, 8), True),
    "coalesced": ((8, 32), (32, 8), False),
    "tiled": ((32, 32), (32, 32), False),
    "thread_tiled_1d": ((64, 64), (512, 1), False),
    "thread_tiled_2d": ((128, 128), (256, 1), False),
    "vectorized": ((128, 128), (256, 1), False),
    "warp_tiled": ((128, 128), (128, 1), False),
    "tensor_core": ((64, 64), (128, 1), False),
}


def queue(kernel, arguments, m, n, k, *, alpha=1.0, beta=0.0):
    """Launch one kernel on device arrays (a, b, c)."""
    (tile_m, tile_n), block, rows_in_x = TILES[kernel]
    rows, columns = -(-m // tile_m), -(-n // tile_n)
    grid = (rows, columns) if rows_in_x else (columns, rows)
    sizes = (np.int32(m), np.int32(n), np.int32(k), np.float32(alpha), np.float32(beta))
    launch(KERNELS / f"{kernel}.cu", "matmul", (*arguments, *sizes), grid=grid, block=(*block, 1))


def run(kernel, a, b, *, alpha=1.0, beta=0.0, c=None):
    """Launch one kernel on copies of NumPy matrices and return c, which starts as NaN where none is given."""
    (m, k), n = a.shape, b.shape[1]
    device_a, device_b = device_array(a), device_array(b)
    device_c = device_array(np.full((m, n), np.nan, np.float32) if c is None else c)
    queue(kernel, (device_a, device_b, device_c), m, n, k, alpha=alpha, beta=beta)
    for name, before, after in (("a", a, device_a), ("b", b, device_b)):
        assert after.get().tobytes() == before.tobytes(), f"{name} was modified: the kernel writes c only"
    return device_c.get()


def random(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


def only_blocks(first, n_blocks, device):
    """On the emulator, run only some blocks of a grid whose others have the same work; a GPU runs all of them."""
    emulated = device == "emulator"
    return cuda_emulator.settings(window=(first, n_blocks)) if emulated else contextlib.nullcontext()


def kernel_files(counters):
    """Return the kernel files that ran while `counters` counted."""
    return {Path(row.file).stem for row in counters.rows}


def is_wrong(result, product):
    """Say whether more than rounding is wrong; a hint is looked for only then."""
    return not np.allclose(result, product, rtol=1e-4, atol=1e-4)


def right_alone(kernel, a, b):
    """Say whether a kernel gives the right product here: then what fails elsewhere is no matter of these numbers."""
    try:
        return not is_wrong(run(kernel, a, b), a.astype(np.float64) @ b)
    except Exception:  # what the emulator reports is no right answer
        return False


def right_in_whole_tiles(kernel):
    """Say whether a kernel is right where all sizes are multiples of its tiles."""
    a = np.arange(128 * 128, dtype=np.float32).reshape(128, 128) % 13 - 6
    return right_alone(kernel, a, a.T % 5)


def gaps(actual, expected, start, *, starts_as_nan):
    """Return the mistake of a result that is right but for elements that were never written, or hold an empty sum."""
    found = {}
    if isinstance(actual, np.ndarray) and actual.shape == expected.shape:
        unwritten, empty = np.isnan(actual) & ~np.isnan(expected), (actual == start) & (expected != start)
        if unwritten.any() and starts_as_nan:
            where = f"no thread writes {extent(unwritten)}: NaN is what c started with"
            found[f"{where}. Which rows and columns of c are a block's, and a thread's?"] = np.where(
                unwritten, np.nan, expected
            )
        is_rectangle = empty.any(axis=0).sum() * empty.any(axis=1).sum() == empty.sum()
        if empty.any() and not empty.all() and is_rectangle:
            where = f"{extent(empty)} of the product are 0"
            found[f"{where}: a part of a tile for which no thread adds up products"] = np.where(
                empty, start, expected
            )
    return found


def rounded_sums(a, b, rounded):
    """Return the product where each sum is rounded after each step; where all of it is 0, that proves nothing."""
    sums = np.zeros((a.shape[0], b.shape[1]), np.float32)
    for i in range(a.shape[1]):
        sums = rounded(sums + a[:, i, None] * b[i]).astype(np.float32)
    return sums if sums.any() else None


def extent(where):
    """Say which rows and columns an array of bool is true in."""
    rows, columns = (np.flatnonzero(where.any(axis=axis)) for axis in (1, 0))
    return f"rows {rows[0]} to {rows[-1]}, columns {columns[0]} to {columns[-1]}"


def of_beta(wide, alpha, beta, c):
    """Return the mistakes of alpha and beta: one is left out, or stands in the wrong place."""
    if c is None or beta == 0:
        return {}
    return {
        "beta is ignored: this is the result for 0": alpha * wide,
        "beta is ignored: this is the result for 1": alpha * wide + c,
        "alpha is a factor of beta c too": alpha * (wide + beta * c),
        "alpha and beta are swapped": beta * wide + alpha * c,
    }


def assert_product(actual, a, b, *, what="product", alpha=1.0, beta=0.0, c=None, **options):
    """Compare with the product in float64; the tolerance grows with the root of the length of the sums."""
    wide = a.astype(np.float64) @ b.astype(np.float64)
    expected = alpha * wide + (0 if c is None or beta == 0 else beta * c.astype(np.float64))
    square, added = a.shape[0] == a.shape[1] == b.shape[1], expected - alpha * wide
    mistakes = {
        "c still holds the NaN it started with: nothing was written, or c was read although beta is 0": np.full(
            expected.shape, np.nan
        ),
        **({"alpha is ignored: this is the result for 1": wide + added} if alpha != 1 else {}),
        **of_beta(wide, alpha, beta, c),
        **{
            f"only the first tile of k is added up, {tile} of {a.shape[1]}": alpha
            * (a[:, :tile].astype(np.float64) @ b[:tile])
            + added
            for tile in (8, 16, 32)
            if tile < a.shape[1]
        },
        "the sum is cut to a whole number after each step: sums must be float32": lambda: (
            alpha * rounded_sums(a, b, np.trunc) + added
        ),
        "the sum is rounded to half precision after each step: sums must be float32": lambda: (
            alpha * rounded_sums(a, b, np.float16) + added
        ),
        **({"rows and columns are swapped: this is b a": b.astype(np.float64) @ a} if square else {}),
        **({"rows and columns are swapped: this is the transpose": wide.T} if square else {}),
        **gaps(
            actual,
            expected,
            0 if c is None or beta == 0 else beta * c,
            starts_as_nan=c is None or np.isnan(c).all(),
        ),
    }
    n = a.shape[1] or 1
    assert_close(actual, expected, dtype=np.float32, n=n, what=what, mistakes=mistakes, **options)


# --- what every kernel of the ladder has to pass -----------------------------------------------------------------


def check_by_hand(kernel):
    """A 2 x 3 matrix times a 3 x 2 one, worked by hand."""
    a, b = np.float32([[1, 2, 3], [4, 5, 6]]), np.float32([[1, 0], [10, 2], [100, 0]])
    expected = np.float32([[321, 4], [654, 10]])
    rows = "both rows are the first: which row of a does a thread take?"
    if kernel not in ("naive", "coalesced", "tiled"):  # whose threads have one sum each
        rows = "both rows are the first: the sums of a thread are not kept apart, or take the same row of a"
    wrong = {
        "b is read transposed: c[i, j] sums a[i, :] · b[:, j]": a @ b.reshape(2, 3).T,
        "rows and columns are swapped: this is the transpose": expected.T,
        rows: expected[[0, 0]],
        "c still holds the NaN it started with: nothing was written, or c was read although beta is 0": np.full(
            (2, 2), np.nan
        ),
    }
    assert_close(run(kernel, a, b), expected, rtol=1e-6, what="product", mistakes=wrong)


def check_shapes(kernel, rng):
    """Sizes around a warp and a tile, all different, long and short sums; and a square."""
    for m, k, n in ((33, 7, 5), (1, 1, 1), (5, 33, 31), (32, 32, 32), (31, 40, 67), (65, 9, 130), (1, 65, 2)):
        a, b = random(rng, m, k), random(rng, k, n)
        result, hint = run(kernel, a, b), None
        wrong = is_wrong(result, a.astype(np.float64) @ b)
        if wrong and kernel not in ("naive", "coalesced") and right_in_whole_tiles(kernel):
            hint = (
                "right where all sizes are multiples of the tile, so the edges are wrong: "
                "past them tiles hold zeros, and nothing is stored"
            )
        constant = "one number" if (m, n) == (1, 1) else None
        assert_product(result, a, b, what=f"({m}, {k}) x ({k}, {n})", hint=hint, vacuous_ok=constant)


def check_several_tiles(kernel, rng):
    """A product of several tiles in each direction, the last ones incomplete."""
    a, b = random(rng, 140, 50), random(rng, 50, 136)
    assert_product(run(kernel, a, b), a, b, what="(140, 50) x (50, 136)")


def check_alpha_and_beta(kernel, rng):
    """Alpha scales the product, beta what c held; with beta = 0 the NaN in c does not matter."""
    a, b, c = random(rng, 40, 21), random(rng, 21, 35), random(rng, 40, 35)
    for alpha, beta in ((-0.5, 3.0), (1.0, -2.0), (2.0, 2.0**-12), (0.0, 0.5)):
        options = {"alpha": alpha, "beta": beta, "c": c / np.float32(abs(beta))}
        assert_product(run(kernel, a, b, **options), a, b, what=f"{alpha:g} a b + {beta:g} c", **options)
    nan = np.full_like(c, np.nan)
    assert_product(run(kernel, a, b, alpha=2.0, c=nan), a, b, what="2 a b + 0 c", alpha=2.0, c=nan)


def check_no_inner_dimension(kernel):
    """K = 0: an empty sum is 0, so the result is beta c."""
    a, b = np.zeros((3, 0), np.float32), np.zeros((0, 5), np.float32)
    result = run(kernel, a, b, beta=2.0, c=np.arange(15, dtype=np.float32).reshape(3, 5))
    assert_close(result, 2 * np.arange(15, dtype=np.float32).reshape(3, 5), what="2 c")
    result = run(kernel, a, b)
    left = ", not left as it was" if np.isnan(result).all() else ""
    assert (result == 0).all(), f"K = 0 and beta = 0: c must be filled with zeros{left}: {result[0]}"


def with_inf_at_the_end(which, m, k, n):
    """Return matrices of ones, with an infinity in the last column of a, or the last row of b."""
    a, b = np.ones((m, k), np.float32), np.ones((k, n), np.float32)
    if which == "a":
        a[3, -1] = np.inf
    else:
        b[-1, 3] = -np.inf
    return a, b


def check_not_finite(kernel):
    """An infinity in the last step of the sums stays one, and 0 times infinity is NaN."""
    m, k, n = 35, 37, 34
    for which in ("a", "b"):
        (a, b), hint = with_inf_at_the_end(which, m, k, n), None
        with np.errstate(invalid="ignore"):
            expected = a @ b
        result = run(kernel, a, b)
        wrong = ~((result == expected) | np.isclose(result, expected))
        if wrong.any() and np.isnan(result[wrong]).all():
            whole = run(kernel, *with_inf_at_the_end(which, m, 128, n))
            if np.array_equal(np.isinf(whole), np.isinf(expected)):
                hint = f"inf in the last {'column of a' if which == 'a' else 'row of b'} is lost, but not where k is 128: "
                hint += "past the end of k, what is added must be 0 times 0, since 0 times inf is NaN"
        assert_close(result, expected, what=f"product with inf in {which}", hint=hint)
    for which in ("a", "b"):  # zeros in the other matrix
        a, b = np.ones((m, k), np.float32), np.ones((k, n), np.float32)
        if which == "a":
            a[3, 5], b[5, 7] = np.inf, 0
        else:
            a[3, 5], b[5, 7] = 0, np.inf
        with np.errstate(invalid="ignore"):
            expected = a @ b
        result = run(kernel, a, b)
        skipped = {
            "0 times inf is NaN, so a step whose factor is 0 must not be skipped": np.where(
                np.isnan(expected) & np.isfinite(result), result, expected
            )
        }
        what = f"product with inf in {which}, 0 in the other"
        assert_close(result, expected, what=what, mistakes=skipped)


def check_end_of_a(kernel):
    """The last rows of an a with more than 2**31 elements: row * k needs 64 bits."""
    from pycuda import driver

    tile_m = TILES[kernel][0][0]
    m, k = 64536 * tile_m, 2**31 // (64536 * tile_m) + 1
    pointers = [
        driver.mem_alloc(4 * m * k),
        device_array(np.ones((k, 1), np.float32)),
        driver.mem_alloc(4 * m),
    ]
    rows = np.ones((1, k), np.float32) * np.arange(1, tile_m + 1, dtype=np.float32)[:, None]
    driver.memcpy_htod(int(pointers[0]) + 4 * (m - tile_m) * k, rows)
    try:
        with cuda_emulator.settings(window=(m // tile_m - 1, 1)):
            queue(kernel, pointers, m, 1, k)
        result = np.empty(tile_m, np.float32)
        driver.memcpy_dtoh(result, int(pointers[2]) + 4 * (m - tile_m))
    finally:
        for pointer in (pointers[0], pointers[2]):
            pointer.free()
    hint = None
    if is_wrong(result, rows.sum(axis=1)) and right_alone(kernel, rows, np.ones((k, 1), np.float32)):
        hint = "these rows are right in a small matrix, so 32 bits are too small here: row * k needs 64"
    assert_close(result, rows.sum(axis=1), what="the end of the column", hint=hint)


def check_order(kernel, schedule, rng):
    """Whichever warp goes first, no tile is overwritten while another warp reads it."""
    a, b = random(rng, 34, 70), random(rng, 70, 33)
    with cuda_emulator.settings(schedule=schedule):
        result, hint = run(kernel, a, b), None
    if is_wrong(result, a.astype(np.float64) @ b) and right_alone(kernel, a, b):
        hint = "right when the warps go first to last, so a barrier is missing: "
        hint += "after the loads of a tile, or before the next loads"
    assert_product(result, a, b, what=f"product, threads in {schedule} order", hint=hint)


def global_loads(kernel, size):
    """Return the counters of the global loads of a product of two size x size matrices."""
    a = np.ones((size, size), np.float32)
    with cuda_emulator.counting() as counters:
        run(kernel, a, a)
    return counters.total("global load")


def check_reads(kernel, size=128):
    """An element of a is read once for each tile column, one of b once for each tile row: 2 n³ / tile in all."""
    loads, (tile_m, tile_n) = global_loads(kernel, size), TILES[kernel][0]
    if kernel in ("naive", "coalesced"):
        tile_m = tile_n = 1
    expected = 4 * size**3 * (1 / tile_m + 1 / tile_n)
    assert loads.bytes <= expected, (
        f"{loads.bytes:,} bytes are read from global memory, {expected:,.0f} are enough for tiles of {tile_m} x {tile_n}"
    )


def check_end_of_c(kernel):
    """The last tile of a c with more than 2**31 elements: row * n needs 64 bits."""
    from pycuda import driver

    m, n = 2**16, 2**15 + 128
    tile_m, tile_n = TILES[kernel][0]
    a, b = np.arange(m, dtype=np.float32)[:, None], np.arange(n, dtype=np.float32)[None] % 101
    target = driver.mem_alloc(4 * m * n)
    try:
        with cuda_emulator.settings(window=(m // tile_m * (n // tile_n) - 1, 1)):
            queue(kernel, (device_array(a), device_array(b), target), m, n, 1)
        result = np.empty(8, np.float32)
        driver.memcpy_dtoh(result, int(target) + 4 * (m * n - 8))
    finally:
        target.free()
    hint = None
    if is_wrong(result, a[-1] * b[0, -8:]) and right_alone(kernel, a[-8:], b[:, -8:]):
        hint = "these elements are right in a small matrix, so 32 bits are too small here: row * n needs 64"
    assert_close(result, a[-1] * b[0, -8:], what="the end of the last row", hint=hint)


def check_end_of_b(kernel):
    """The last row of a b with more than 2**31 elements: i * n needs 64 bits too."""
    from pycuda import driver

    k, n = (4200, 8 * 65535) if TILES[kernel][2] else (3, 2**30)  # naive counts columns in y
    pointers = [
        device_array(np.ones((1, k), np.float32)),
        driver.mem_alloc(4 * k * n),
        driver.mem_alloc(4 * n),
    ]
    end = np.arange(1, 9, dtype=np.float32)
    driver.memcpy_htod(int(pointers[1]) + 4 * (k * n - 8), end)
    try:
        with cuda_emulator.settings(window=(n // TILES[kernel][0][1] - 1, 1)):
            queue(kernel, pointers, 1, n, k)
        result = np.empty(8, np.float32)
        driver.memcpy_dtoh(result, int(pointers[2]) + 4 * (n - 8))
    finally:
        for pointer in pointers[1:]:
            pointer.free()
    hint = None
    if is_wrong(result, end) and right_alone(kernel, np.ones((1, 3), np.float32), np.diag(end[:3])):
        hint = "a small product is right, so 32 bits are too small here: i * n needs 64, for row i of b"
    assert_close(result, end, what="the end of the row", hint=hint)
