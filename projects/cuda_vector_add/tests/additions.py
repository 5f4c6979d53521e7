"""What the tests share: launching a kernel on NumPy arrays, random arrays, and the oracle.

Oracle: NumPy's addition in a wider type, rounded once, to which the sums must be equal: one addition has no tolerance.
"""

import contextlib
from pathlib import Path

import numpy as np

import cuda_vector_add
from shared import cuda_emulator
from shared.testing.checks import assert_close
from shared.testing.devices import device_array, launch

KERNELS = Path(cuda_vector_add.__file__).parent / "kernels"
DTYPES = ("float32", "float16", "float64", "int32")
IT_COUNTS = "the emulator counts; on a GPU ask ncu for l1tex__t_sectors_pipe_lsu_mem_global_op_ld.sum"
ITS_ORDER = "a GPU runs its threads in an order of its own"


def add(kernel, a, b, *, blocks=None, threads=64, out=None):
    """Launch one kernel on copies of NumPy arrays and return the sums; the output starts as NaN, or -1."""
    n = a.size
    out = device_array(np.full(n, np.nan if a.dtype.kind == "f" else -1, a.dtype)) if out is None else out
    blocks = -(-n // threads) if blocks is None else blocks
    arguments = (device_array(a), device_array(b), out, np.int64(n))
    launch(KERNELS / f"{kernel}.cu", f"add_{a.dtype}", arguments, grid=blocks, block=threads)
    return out.get()


def random(rng, n, dtype="float32"):
    if dtype == "int32":
        return rng.integers(
            -(2**30), 2**30, n, dtype=np.int32
        )  # no sum overflows, most need more than 24 bits
    return rng.normal(size=n).astype(dtype)


def total(a, b):
    """Return the sums from a wider type, rounded once."""
    wide = np.int64 if a.dtype.kind == "i" else np.float64
    with np.errstate(invalid="ignore"):
        return (a.astype(wide) + b.astype(wide)).astype(a.dtype)


def assert_sum(actual, a, b, *, what="sum", mistakes=None, **diagnosis):
    """Assert that `actual` is a + b, bit for bit; a mistake is named only where it gives just these bits."""
    mistakes = {
        name: value
        for name, value in (mistakes or {}).items()
        if isinstance(actual, np.ndarray) and np.array_equal(actual, value, equal_nan=True)
    }
    assert_close(actual, total(a, b), rtol=0.0, atol=0.0, what=what, mistakes=mistakes, **diagnosis)


def partly(a, b, where):
    """Return the sums with NaN outside `where`: what is left when a kernel skips elements."""
    result = np.full_like(a, np.nan)
    result[where] = a[where] + b[where]
    return result


def without_a_thread(result, a, b):
    """Return the sums but for the last elements, as many as `result` has as NaN at its end."""
    sums, missing = np.array(total(a, b), order="C"), np.isnan(result)
    first = np.argmax(missing.ravel()) if missing.any() else result.size
    sums.ravel()[first:] = np.nan
    return sums


def count(kernel, n=8192, blocks=4, threads=64, first=0):
    """Return the emulator's counters for one launch on float32, with arrays that start at element `first` of others."""
    a, b, out = (device_array(np.ones(first + n, np.float32))[first:] for _ in range(3))
    if kernel == "one_per_thread":
        blocks = n // threads
    with cuda_emulator.counting() as counters:
        launch(KERNELS / f"{kernel}.cu", "add_float32", (a, b, out, np.int64(n)), grid=blocks, block=threads)
    return counters


def only_blocks(first, n_blocks, device):
    """On the emulator, run only some blocks of a grid whose others have the same work; a GPU runs all of them."""
    emulated = device == "emulator"
    return cuda_emulator.settings(window=(first, n_blocks)) if emulated else contextlib.nullcontext()


def kernel_files(counters):
    """Return the kernel files that ran while `counters` counted."""
    return {Path(row.file).stem for row in counters.rows}


def check_by_hand(kernel):
    """Five elements, worked by hand, in one block of 32 threads."""
    a, b = np.float32([1, 2, 3, 4, 5]), np.float32([10, 20, 40, 80, 160])
    last = "the last element is missing"
    if kernel == "vectorized":
        last = "the tail is missing: five elements are a pack of four and one more"
    assert_close(
        add(kernel, a, b, threads=32),
        np.float32([11, 22, 43, 84, 165]),
        what="sum",
        mistakes={
            "out still holds the NaN it started with: nothing was written, or out was read": np.full(
                5, np.nan
            ),
            last: np.float32([11, 22, 43, 84, np.nan]),
            "this is a - b": a - b,
            "this is a: b is not added": a,
            "this is a + a: b is not added": a + a,
        },
    )


def check_sizes(kernel, threads, rng):
    """Sizes around a warp and a block, primes, and one that fills several blocks."""
    for n in (1, 31, 32, 33, threads - 1, threads, threads + 1, 1009):
        a, b = random(rng, n), random(rng, n)
        blocks = -(-n // threads)
        result = add(kernel, a, b, threads=threads, blocks=blocks)
        mistakes = {
            "only the first block adds: i needs blockIdx.x * blockDim.x": partly(a, b, slice(0, threads)),
            "the last, incomplete block adds nothing": partly(a, b, slice(0, n // threads * threads)),
            "the first element is missing: indices start at 0": partly(a, b, slice(1, n)),
            "the last element is missing": partly(a, b, slice(0, n - 1)),
        }
        assert_sum(
            result, a, b, what=f"sum of {n} elements in {blocks} blocks of {threads}", mistakes=mistakes
        )


def check_grids(kernel, rng):
    """A grid that is too small for one thread per element goes round several times; one that is too large stops."""
    n = 1009
    a, b = random(rng, n), random(rng, n)
    for blocks, threads in ((1, 32), (1, 96), (3, 64), (40, 64)):
        one_turn = slice(0, blocks * threads * (4 if kernel == "vectorized" else 1))
        result = add(kernel, a, b, blocks=blocks, threads=threads)
        mistakes = {
            "only one turn: each thread must go on in steps of the whole grid": partly(a, b, one_turn),
            "no thread comes to some elements: from one turn to the next it is gridDim.x * blockDim.x threads": partly(
                a, b, ~np.isnan(result)
            ),
        }
        assert_sum(result, a, b, what=f"sum with {blocks} blocks of {threads}", mistakes=mistakes)


def check_added_once(kernel):
    """In place (out is a, or b), a second addition of one element would show."""
    n = 1009
    a, b = np.arange(n, dtype=np.float32), np.full(n, 0.5, np.float32)
    blocks = 4 if kernel != "one_per_thread" else -(-n // 64)
    twice = "elements are added more than once: two threads share them"
    if kernel == "vectorized":
        twice += ", or head, packs and tail overlap"
    for which in (0, 1):
        inputs = [device_array(a), device_array(b)]
        arguments = (*inputs, inputs[which], np.int64(n))
        launch(KERNELS / f"{kernel}.cu", "add_float32", arguments, grid=blocks, block=64)
        result = inputs[which].get()
        start, added = ((a, b), (b, a))[which]
        times = (result - start) / np.where(added == 0, 1, added)
        mistakes = {
            f"out is written before {'ab'[which]} is read, and may be {'ab'[which]}": added + added,
            twice: np.where((times >= 2) & (times % 1 == 0), result, a + b),
        }
        assert_sum(result, a, b, what=f"sum, where out is {'ab'[which]}", mistakes=mistakes)


def taken_for(other, a, b):
    """Return what is left where a kernel takes the bits for another dtype: n sums of it, or all bytes if those are fewer."""
    out = np.full(a.size, np.nan if a.dtype.kind == "f" else -1, a.dtype)
    whole = a.size * a.itemsize // np.dtype(other).itemsize
    a, b, sums = (
        array.view(np.uint8)[: whole * np.dtype(other).itemsize].view(other) for array in (a, b, out)
    )
    n = min(out.size, whole)
    with np.errstate(all="ignore"):
        sums[:n] = a[:n] + b[:n]
    return out


def check_dtype(kernel, dtype, rng):
    """The other entry points, with values whose sum is rounded."""
    a, b = random(rng, 333, dtype), random(rng, 333, dtype)
    blocks = None if kernel == "one_per_thread" else 3
    result, mistakes = add(kernel, a, b, blocks=blocks), {}
    if dtype in ("float64", "int32"):
        in_float32 = a.astype(np.float32) + b.astype(np.float32)
        mistakes["the sums are computed in float32, whatever T is: add T to T"] = in_float32.astype(dtype)
    for other in DTYPES:
        if other != dtype:
            name = f"these are the sums of {dtype}'s bits taken for {other}: add {dtype} to {dtype}"
            mistakes[name] = taken_for(other, a, b)
    mistakes = {  # some elements may be right, the tail for example
        name: np.where(result == total(a, b), result, mistake) for name, mistake in mistakes.items()
    }
    assert_sum(result, a, b, what=f"{dtype} sum", mistakes=mistakes)


def check_special_values(kernel):
    """Infinities, NaN, the ends of the range and both zeros, in every float dtype: the sums of IEEE arithmetic."""
    for dtype in ("float16", "float32", "float64"):
        ends = np.finfo(dtype)
        values = [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, ends.max, -ends.max, ends.smallest_subnormal]
        a, b = (grid.astype(dtype).ravel() for grid in np.meshgrid(values, values))
        with np.errstate(over="ignore", invalid="ignore"):
            expected = a + b
        result = add(kernel, a, b, blocks=None if kernel == "one_per_thread" else 1)
        wrong = ~((result == expected) | (np.isnan(result) & np.isnan(expected)))
        first = f"{a[wrong][0]} + {b[wrong][0]} is {expected[wrong][0]}" if wrong.any() else None
        what = f"{dtype} sums of 0, inf, NaN and the like"
        assert_close(result, expected, rtol=0.0, atol=0.0, what=what, hint=first)
        wrong = (np.signbit(result) != np.signbit(expected)) & ~np.isnan(expected)
        first = (
            f"{a[wrong][0]} + {b[wrong][0]} is {expected[wrong][0]}, not {result[wrong][0]}"
            if wrong.any()
            else ""
        )
        assert not wrong.any(), f"the sign of a zero is wrong, in {dtype}: {first}"


def check_wrapping(kernel):
    """int32 sums past the ends of the range wrap around, as in NumPy."""
    values = np.int32([2**31 - 1, -(2**31), 2**30, 1, 0, -1])
    a, b = (grid.ravel() for grid in np.meshgrid(values, values))
    result = add(kernel, a, b)
    fits = total(a, b) == a.astype(np.int64) + b
    mistakes = {
        "int32 sums wrap around: 2147483647 + 1 is -2147483648, as in NumPy": np.where(
            fits, total(a, b), result
        )
    }
    assert_sum(result, a, b, what="int32 sums past the ends of the range", mistakes=mistakes)


def check_offsets(kernel, rng):
    """Arrays that start anywhere in an allocation, together or not, and whose neighbours stay as they are."""
    n, room = 67, 80
    buffers = [device_array(random(rng, room)) for _ in range(3)]
    for offsets in ((0, 0, 0), (1, 1, 1), (2, 2, 2), (3, 3, 3), (1, 0, 0), (0, 1, 0), (0, 0, 1), (3, 1, 2)):
        before = [buffer.get() for buffer in buffers]
        a, b, out = (buffer[first : first + n] for buffer, first in zip(buffers, offsets, strict=True))
        blocks = 2 if kernel != "one_per_thread" else 3
        launch(KERNELS / f"{kernel}.cu", "add_float32", (a, b, out, np.int64(n)), grid=blocks, block=32)
        after = [buffer.get() for buffer in buffers]
        views = [array[first : first + n] for array, first in zip(before, offsets, strict=True)]
        result, sums = after[2][offsets[2] : offsets[2] + n], total(*views[:2])
        what = f"sum of {n} elements, with a, b and out at elements {offsets} of their allocations"
        left = "no thread writes some elements"
        if kernel == "vectorized":
            left += ": what no 16-byte access covers (its address is a multiple of 16) is left; add the rest singly"
        mistakes = {left: np.where(result == views[2], result, sums)}
        assert_sum(result, *views[:2], what=what, mistakes=mistakes)
        expected = before[2].copy()
        expected[offsets[2] : offsets[2] + n] = result
        hint = "elements before or after out were written"
        assert_close(after[2], expected, rtol=0.0, atol=0.0, what="the whole allocation", hint=hint)
        assert all(np.array_equal(*pair) for pair in zip(before[:2], after[:2], strict=True)), (
            "an input was modified"
        )


def check_order(kernel, schedule, rng):
    """No thread waits for another, so any order of execution gives the same sums."""
    a, b = random(rng, 1009), random(rng, 1009)
    with cuda_emulator.settings(schedule=schedule):
        assert_sum(add(kernel, a, b), a, b, what=f"sum, threads in {schedule} order")


def check_coalesced(kernel):
    """Each warp's loads fill their 32-byte sectors: the bytes moved are the bytes asked for."""
    loads, stores = (count(kernel).total(kind) for kind in ("global load", "global store"))
    assert (loads.bytes, stores.bytes) == (2 * 4 * 8192, 4 * 8192), (
        f"two reads and one write for each sum are {2 * 4 * 8192} and {4 * 8192} bytes, counted {loads.bytes} and "
        f"{stores.bytes}"
    )
    moved, ideal = (loads.sectors, stores.sectors), (loads.ideal_sectors, stores.ideal_sectors)
    assert moved == ideal, (
        f"not coalesced: the loads move {loads.bytes_moved} bytes for {loads.bytes}, the stores {stores.bytes_moved} "
        f"for {stores.bytes}; in each turn, neighbouring threads must take neighbouring elements"
    )


def check_long(kernel):
    """Indices past 2**31 and 2**32: the emulator runs the last blocks of a grid over arrays that were never filled."""
    from pycuda import driver

    n, threads = 2**32 + 1000, 256
    x = np.arange(1000, dtype=np.float16)
    pointer = driver.mem_alloc(2 * n)
    try:
        driver.memcpy_htod(int(pointer) + 2 * (n - x.size), x)
        driver.memcpy_htod(pointer, x)  # where an index that has lost its 33rd bit points
        blocks = -(-n // (threads * (8 if kernel == "vectorized" else 1)))
        with cuda_emulator.settings(window=(blocks - 5, 5), timeout_s=5):  # x + x, in place
            arguments = (pointer, pointer, pointer, np.int64(n))
            launch(KERNELS / f"{kernel}.cu", "add_float16", arguments, grid=blocks, block=threads)
        result, at_the_start = np.empty_like(x), np.empty_like(x)
        driver.memcpy_dtoh(result, int(pointer) + 2 * (n - x.size))
        driver.memcpy_dtoh(at_the_start, pointer)
    finally:
        pointer.free()
    if np.array_equal(at_the_start, x):
        mistakes = {"the last elements are left as they were: n and every index need 64 bits": x}
        assert_sum(result, x, x, what="end of 2**32 + 1000 sums", mistakes=mistakes)
    hint = "an index of 32 bits: the first elements were added in the place of the last ones; "
    hint += "blockIdx.x * blockDim.x wraps around before it is widened, so cast blockIdx.x first"
    assert_sum(result, x, x, what="end of 2**32 + 1000 sums", hint=hint)
    assert_sum(at_the_start, x / 2, x / 2, what="the first elements, which these blocks must not write")
