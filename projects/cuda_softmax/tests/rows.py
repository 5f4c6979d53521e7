"""What the tests share: launching a kernel on NumPy rows, and the comparison.

Oracle: ``exp(x - log(sum(exp(x))))`` in float64, the logarithm by np.logaddexp.
"""

import contextlib
from pathlib import Path

import numpy as np

import cuda_softmax
from shared import cuda_emulator
from shared.testing.checks import assert_close
from shared.testing.devices import device_array, launch

KERNELS = Path(cuda_softmax.__file__).parent / "kernels"
CACHED = 200  # elements of a row that single_read may keep in shared memory here
IT_COUNTS = "the emulator counts; on a GPU ask ncu for l1tex__t_sectors_pipe_lsu_mem_global_op_ld.sum"
ITS_ORDER = "a GPU runs its threads in an order of its own"
ONE_BLOCK = "the emulator runs a few blocks of this grid; a GPU would need 17 GB for all of it"


def run(kernel, x, *, blocks=None, threads=64, entry="float32"):
    """Launch one kernel on a copy of the (rows, width) array `x` and return the result, which starts as -7 (no softmax is)."""
    n_rows, width = x.shape
    source = device_array(x)
    out = device_array(np.full(x.shape, -7 if x.dtype.kind == "f" else 0xFFFF, x.dtype))
    arguments = [source, out, np.int64(n_rows), np.int32(width)]
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
    assert source.get().tobytes() == x.tobytes(), "x was modified: the kernel writes out only"
    return out.get()


def expected(x):
    """Return the softmax of each row, in float64."""
    wide = x.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)  # or 1e38 + log(7) would be 1e38
    return np.exp(wide - np.logaddexp.reduce(wide, axis=-1, keepdims=True))


def is_wrong(result, x):
    """Say whether more than rounding is wrong; a hint is looked for only then."""
    return not np.allclose(result, expected(x), rtol=1e-4, atol=1e-30)


def right_alone(kernel, x, **options):
    """Say whether a kernel gives the right rows here: then what fails elsewhere is no matter of these numbers."""
    try:
        return not is_wrong(run(kernel, x, **options), x)
    except Exception:  # what the emulator reports is no right answer
        return False


def mistakes(x):
    """Return what likely mistakes would give for `x`."""
    wide = x.astype(np.float64)
    overflow = "the largest value is not subtracted: exp overflows"
    underflow = "the largest value is not subtracted, or looked for from 0 on instead of -inf: all of a row underflows"
    with np.errstate(all="ignore"):
        exponentials = np.exp(wide - wide.max(axis=-1, keepdims=True))
        unshifted = np.exp(x.astype(np.float32))
        by_column = np.exp(wide - wide.max(axis=0))
        return {
            "nothing was written: out still holds the -7 it started with": np.full(x.shape, -7.0),
            "the exponentials are not divided by their sum": exponentials,
            overflow if x.max() > 89 else underflow: unshifted / unshifted.sum(axis=-1, keepdims=True),
            "normalised over the wrong axis: each row sums to one": by_column / by_column.sum(axis=0),
            "the sum is one over all rows": exponentials / exponentials.sum(),
            "this is the logarithm of the softmax": np.log(
                exponentials / exponentials.sum(axis=-1, keepdims=True)
            ),
        }


def another_divisor(actual, x):
    """Return the mistake of rows that are a softmax, but for one factor each."""
    right = expected(x)
    if not isinstance(actual, np.ndarray) or actual.shape != x.shape or not np.isfinite(actual).all():
        return {}
    first = np.argmax(right, axis=-1)[..., None]
    factors = np.take_along_axis(actual / right.max(axis=-1, keepdims=True), first, axis=-1)
    wrong = np.abs(factors - 1) > 1e-5
    if (
        not wrong.any()
        or not (factors > 0).all()
        or not np.allclose(actual, factors * right, rtol=1e-4, atol=1e-30)
    ):
        return {}
    fact = f"a row is its softmax times {factors[wrong][0]:.6g}, so what the exponentials are divided by is not their sum"
    return {f"{fact}: are all elements counted, and none twice, and nothing else?": actual}


def by_warp(x, threads):
    """Return what comes out where each warp knows its own elements only."""
    warps, result = np.arange(x.shape[-1]) % threads // 32, np.empty(x.shape)
    for warp in np.unique(warps):
        result[:, warps == warp] = expected(x[:, warps == warp])
    return {
        "each warp has divided by the sum of its own elements: what the warps found must be combined": result
    }


def unwritten(actual, x):
    """Return the mistake of a result that is right but for elements that still hold -7."""
    columns, rows = np.flatnonzero((actual == -7).any(axis=0)), np.flatnonzero((actual == -7).any(axis=1))
    if not rows.size:
        return {}
    where = f"rows {rows[0]} to {rows[-1]}, columns {columns[0]} to {columns[-1]}"
    return {f"no thread writes {where}: -7 is what out started with": np.where(actual == -7, -7, expected(x))}


def assert_softmax(actual, x, *, what="softmax", hint=None, **options):
    """Assert that `actual` is the softmax of `x`; a hint is proved by the caller, so it tells more than the divisor."""
    options.setdefault("mistakes", mistakes(x))
    if hint is None:
        options["mistakes"] = {**options["mistakes"], **another_divisor(actual, x)}
    options["hint"] = hint
    assert_close(actual, expected(x), dtype=np.float32, n=x.shape[-1], atol=1e-30, what=what, **options)


def of_another_shape(result, x):
    """Return the mistakes of a host function that counts other rows, or others as wide, than the axes say."""
    found, sums = {}, expected(x)
    if isinstance(result, np.ndarray) and result.shape == x.shape:
        missing = np.isnan(result).all(axis=-1)
        fact = f"{missing.sum()} of {missing.size} rows are missing"
        if missing.any() and not missing.all():
            found[f"{fact}: all axes but the last are rows: how many has {x.shape}?"] = np.where(
                missing[..., None], np.nan, sums
            )
    found["these are rows as long as the first axis: the last axis is the row"] = expected(
        x.reshape(-1, x.shape[0])
    ).reshape(x.shape)
    return found


def check_launched(kernel, result, x, rows_hint):
    """What the host function launches gives what the kernel gives when it is launched here."""
    flat = x.reshape(-1, x.shape[-1])
    missing, hint = np.isnan(result).all(axis=-1), None
    partly = {}
    if missing.any():
        fact = f"{missing.sum()} of {missing.size} rows are missing"
        partly = {f"{fact}: {rows_hint}": np.where(missing[..., None], np.nan, expected(x))}
    if is_wrong(result, x) and right_alone(kernel, flat):
        hint = "launched by this test the kernel is right, so what the host function launches is not: "
        hint += "the number of blocks or threads, or an argument"
    assert_softmax(result, x, what=f"{kernel} {x.shape}", mistakes={**mistakes(x), **partly}, hint=hint)


def only_blocks(first, n_blocks, device):
    """On the emulator, run only some blocks of a grid whose others have the same work; a GPU runs all of them."""
    emulated = device == "emulator"
    return cuda_emulator.settings(window=(first, n_blocks)) if emulated else contextlib.nullcontext()


def kernel_files(counters):
    """Return the kernel files that ran while `counters` counted."""
    return {Path(row.file).stem for row in counters.rows}


# --- what every kernel of the ladder has to pass -----------------------------------------------------------------


def check_by_hand(kernel):
    """Three rows whose exponentials are 1, 2, 5, then 1, 1, 2, then 2, 2, 1 times a constant."""
    x = np.log(np.float32([[1, 2, 5], [1, 1, 2], [2, 2, 1]]))
    shares = np.float32([[0.125, 0.25, 0.625], [0.25, 0.25, 0.5], [0.4, 0.4, 0.2]])
    result = run(kernel, x, threads=32)
    exponentials = shares / shares.max(axis=1, keepdims=True)
    wrong = {
        "each exponential is cut to a whole number before it is added: the sum must be a float": (
            exponentials / np.floor(exponentials).sum(axis=1, keepdims=True)
        ),
        **mistakes(x),
    }
    full = np.linspace(-1, 1, 2048, dtype=np.float32).reshape(2, 1024)
    if np.isnan(result).all() and kernel != "naive" and right_alone(kernel, full, threads=1024):
        wrong[
            "out is right where each thread has an element, and NaN here. "
            "What does a thread start with that has seen none? -inf minus -inf is NaN"
        ] = result
    wrong |= {**another_divisor(result, x), **unwritten(result, x)}
    assert_close(result, shares, rtol=1e-6, what="softmax", mistakes=wrong)


def check_width(kernel, width, rng):
    """A width around a warp, a block of 64 threads, or the 200 elements that single_read may keep."""
    x = (3 * rng.normal(size=(3, width))).astype(np.float32)
    constant = "a row of one element has softmax 1" if width == 1 else None
    result = run(kernel, x)
    wrong = {**mistakes(x), **unwritten(result, x), **({} if kernel == "naive" else by_warp(x, 64))}
    assert_softmax(result, x, what=f"softmax of width {width}", mistakes=wrong, vacuous_ok=constant)
    if width == 1:
        assert (abs(result - 1) <= 2.0**-23).all(), (
            f"the softmax of one number is 1, exp(0) / exp(0), not {result[0, 0]!r}"
        )


def check_threads(kernel, threads, rng):
    """One warp, and several: what the warps find must be combined, with more threads than elements too."""
    for width in (20, 300):
        x = (3 * rng.normal(size=(2, width))).astype(np.float32)
        x[1, width * 5 // 6] += (
            1000  # found by a thread of the upper half: exp overflows unless all know of it
        )
        result, hint = run(kernel, x, threads=threads), None
        if (
            np.isclose(result[0], expected(x)[0], rtol=1e-4, atol=0).all()
            and not np.isfinite(result[1]).all()
        ):
            hint = "exp overflows: the largest value of the row is not subtracted, which a thread of the upper half finds"
        elif threads != 64 and is_wrong(result, x) and right_alone(kernel, x, threads=64):
            hint = f"right with 64 threads, wrong with {threads}: what all threads found, and no others, must be combined"
        assert_softmax(
            result, x, what=f"{threads} threads, width {width}", mistakes=by_warp(x, threads), hint=hint
        )


def check_many_rows(kernel, rng):
    """More rows than blocks: each block goes on to further rows, and starts afresh."""
    x = rng.normal(size=(37, 50)).astype(np.float32)
    x -= np.arange(37, dtype=np.float32)[:, None] ** 2  # the first row holds the largest values
    for blocks in (3, 7):
        result, hint = run(kernel, x, blocks=blocks), None
        goes_on = {
            f"{fact}; each block goes on to further rows, gridDim.x apart": mistake
            for fact, mistake in unwritten(result, x).items()
            if kernel != "naive"
        }
        goes_on["a block computes its first row again and again: read row `row` of x"] = expected(x)[
            np.arange(37) % blocks
        ]
        if kernel != "naive" and is_wrong(result, x) and right_alone(kernel, x, blocks=37):
            hint = "rows are right in blocks of their own, and wrong in one that has computed others: "
            hint += "what is left from the row before? Start each row with its own largest value and sum"
        wrong = {**mistakes(x), **goes_on}
        assert_softmax(result, x, what=f"37 rows in {blocks} blocks", mistakes=wrong, hint=hint)


def check_blocks_of_rows(kernel, rng):
    """A thread for each row, in blocks of any number of threads, the last of which is not full."""
    x = rng.normal(size=(37, 5)).astype(np.float32)
    for threads in (1, 8, 32, 100):
        result, hint = run(kernel, x, threads=threads), None
        if is_wrong(result, x) and right_alone(kernel, x, threads=64):
            hint = (
                "right with one block of 64 threads, but the row is blockIdx.x * blockDim.x + threadIdx.x, "
            )
            hint += "whatever the size of a block"
        assert_softmax(result, x, what=f"37 rows, {threads} threads a block", mistakes={}, hint=hint)


def check_large_logits(kernel, scale, rng):
    """exp(89) overflows in float32; a softmax of large logits does not."""
    x = (scale * rng.uniform(-1, 1, size=(3, 100))).astype(np.float32)
    x[1] = np.float32(scale) * (np.arange(100) % 7 == 3)
    x[2] = -np.float32(scale) * rng.uniform(
        0.5, 1, size=100
    )  # all below any number that one might start with
    result, hint = run(kernel, x), None
    if np.isclose(result[:2], expected(x)[:2], rtol=1e-4, atol=1e-30).all():
        hint = "the row that is all below 0 is wrong, and so is its largest value: "
        hint += "start to look for it at -inf, not at a number"
    elif not np.isfinite(result[:2]).all():
        hint = "exp overflows: subtract the row's largest value first"
    assert_softmax(result, x, what=f"softmax of logits up to {scale:g}", mistakes={}, hint=hint)


def check_minus_inf(kernel, rng):
    """-inf gets probability 0, also where it is all that a thread, or the first 64 of them, see."""
    x = rng.normal(size=(5, 70)).astype(np.float32)
    x[0, ::2] = -np.inf
    x[1, :-1] = -np.inf
    x[2, :64] = -np.inf
    x[3, 1:] = -np.inf
    result = run(kernel, x)
    most = np.nan_to_num(result[np.isneginf(x)]).max()
    assert most <= 0, f"-inf has probability 0, not {most}"
    wrong = ~np.isclose(result, expected(x), rtol=1e-4, atol=1e-30)
    hint = None
    if wrong.any() and np.isnan(result[wrong]).all():
        hint = "rows with -inf come out as NaN: -inf minus -inf is NaN, and so is 0 times -inf. "
        hint += "" if kernel == "naive" else "What does a thread have that has seen only -inf?"
    assert_softmax(result, x, what="softmax with -inf", hint=hint, mistakes=unwritten(result, x))
    assert most == 0, f"-inf has probability 0, not {most}"


def check_order(kernel, schedule, rng):
    """Whichever warp goes first, the barriers keep reading and writing apart."""
    x = rng.normal(size=(5, 300)).astype(np.float32)
    with cuda_emulator.settings(schedule=schedule):
        result = run(kernel, x, blocks=2, threads=128)
    hint = None
    if is_wrong(result, x) and right_alone(kernel, x, blocks=2, threads=128):
        hint = "right when the warps go first to last, so a barrier is missing: "
        hint += "a warp overwrites shared memory that another has not read yet, or reads too early"
    assert_softmax(result, x, what=f"softmax, threads in {schedule} order", hint=hint)


def check_long(kernel):
    """The last rows of an array of more than 2**31 elements: row * width needs 64 bits."""
    from pycuda import driver

    width, rows_here = 32768, 2
    n_rows = 2**31 // width + 8
    x = np.tile(np.log(np.arange(1, width + 1, dtype=np.float32)), (rows_here, 1))
    n_bytes = 4 * n_rows * width
    source, target = driver.mem_alloc(n_bytes), driver.mem_alloc(n_bytes)
    driver.memcpy_htod(int(source) + n_bytes - x.nbytes, x)
    arguments = [source, target, np.int64(n_rows), np.int32(width)]
    grid, block, shared_bytes = n_rows, (256, 1, 1), 0
    if kernel == "warp_shuffle":
        grid, block = -(-n_rows // 2), (32, 2, 1)
    if kernel == "naive":
        grid, block = -(-n_rows // 2), (2, 1, 1)
    if kernel == "single_read":
        arguments.append(np.int32(CACHED))
        shared_bytes = 4 * CACHED
    last = 1 if kernel in ("naive", "warp_shuffle") else rows_here  # blocks that hold the last rows
    try:
        path = KERNELS / f"{kernel}.cu"
        with cuda_emulator.settings(window=(grid - last, last)):
            launch(path, "softmax_float32", arguments, grid=grid, block=block, shared_bytes=shared_bytes)
        result = np.empty_like(x)
        driver.memcpy_dtoh(result, int(target) + n_bytes - x.nbytes)
    finally:
        source.free()
        target.free()
    hint = None
    if is_wrong(result, x) and right_alone(kernel, x, threads=256):
        hint = "these rows are right in a small array, so a number of 32 bits is too small here: row * width, or n_rows"
    assert_softmax(result, x, what="the last rows", hint=hint, mistakes={})


def check_more_rows_than_32_bits(kernel):
    """A row's number past 2**32: blockIdx.x * blockDim.x needs 64 bits. Rows of one element have softmax 1."""
    from pycuda import driver

    n_rows, threads = 2**32 + 500, 256
    source, target = driver.mem_alloc(2 * n_rows), driver.mem_alloc(2 * n_rows)
    blocks = -(-n_rows // threads)
    arguments = (source, target, np.int64(n_rows), np.int32(1))
    try:
        driver.memcpy_htod(int(source) + 2 * (n_rows - 200), np.zeros(200, np.float16))
        for start in (source, target):  # where a row number that has lost its 33rd bit points
            driver.memcpy_htod(start, np.zeros(512, np.float16))
        with cuda_emulator.settings(window=(blocks - 1, 1)):
            launch(KERNELS / f"{kernel}.cu", "softmax_float16", arguments, grid=blocks, block=threads)
        result, at_the_start = np.empty(200, np.float16), np.empty(512, np.float16)
        driver.memcpy_dtoh(result, int(target) + 2 * (n_rows - 200))
        driver.memcpy_dtoh(at_the_start, target)
    finally:
        source.free()
        target.free()
    assert not at_the_start.any(), (
        "a row number of 32 bits: the first rows were computed in the place of the last ones; "
        "blockIdx.x * blockDim.x wraps around before it is widened, so cast blockIdx.x first"
    )
    assert (result == 1).all(), f"the last of 2**32 + 500 rows should be 1, got {result[:4]}"


def check_passes(kernel, most):
    """Each element is read `most` times at most, and written once."""
    x = np.linspace(-1, 1, 4 * 128, dtype=np.float32).reshape(4, 128)
    with cuda_emulator.counting() as counters:
        run(kernel, x)
    reads, writes = counters.global_bytes_read / x.nbytes, counters.global_bytes_written / x.nbytes
    assert reads <= most, (
        f"each element is read {reads:g} times, {most} are enough: "
        "keep what was loaded in registers or shared memory, and find maximum and sum in one pass"
    )
    assert writes == 1, f"each element is written {writes:g} times"


def check_coalesced(kernel):
    """Neighbouring threads read neighbouring elements."""
    x = np.linspace(-1, 1, 4 * 128, dtype=np.float32).reshape(4, 128)
    with cuda_emulator.counting() as counters:
        run(kernel, x)
    for kind in ("global load", "global store"):
        total = counters.total(kind)
        assert total.sectors == total.ideal_sectors, (
            f"not coalesced: {total.sectors} sectors for what fits into {total.ideal_sectors} ({kind}s); "
            "thread t takes elements t, t + blockDim.x, and so on"
        )
