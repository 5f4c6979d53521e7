"""The ladder: `softmax` with five kernels, which read each element three times, twice, once.

`naive` and `block_reduce` are those of the core. `warp_shuffle` has a warp per row, which combines in registers; `online` finds
largest value and sum in one pass; `single_read` keeps the row in shared memory. Contract of cuda_softmax.py, and:

- float16 and bfloat16 (``V2`` in NumPy) are computed in float32 and rounded once, to the dtype of the input;
- a row that holds NaN, +inf, or nothing but -inf is NaN, as in torch. The width ends at 131072;
- `out` may be the input itself, but not overlap it on the device in any other way; on the host it may have any strides. Device
  arrays must be C-contiguous;
- work on the device is queued on the default stream.

Sources: Milakov and Gimelshein 2018, arXiv 1805.02867, algorithm 3 (online softmax); Harris, NVIDIA 2007.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from device_arrays import (
    address,
    check_arrays,
    device_attribute,
    dtype_of,
    launch,
    on_device,
    overlap,
    shape_of,
)

__all__ = ["KERNELS", "softmax"]

KERNELS = ("naive", "block_reduce", "warp_shuffle", "online", "single_read")
"""Names of the kernels, file by file, from the plainest on."""

MAX_WIDTH = 131072

_FOLDER = Path(__file__).parent / "kernels"
_DTYPES = ("float16", "bfloat16", "float32")


def softmax(x: Any, out: Any = None, *, kernel: str = "online") -> Any:
    """Softmax over the last axis; return `out`, or a new array like `x`.

    x : (..., width), width from 1 to 131072
    out : where to put the result: an array of the same side, shape and dtype
    kernel : one of `KERNELS`

    Raises ValueError for a shape that does not fit, gaps, another kernel, or an `out` that is read-only or overlaps the input,
    shifted; TypeError for dtypes and sides. The message names what came.
    """
    if kernel not in KERNELS:
        raise ValueError(f"kernel must be one of {', '.join(KERNELS)}, got {kernel!r}")
    check_arrays(_DTYPES, x=x, out=out)
    shape = shape_of(x)
    if not shape or not 1 <= shape[-1] <= MAX_WIDTH:
        raise ValueError(f"x must be (..., width) with a width from 1 to {MAX_WIDTH}, got {shape}")
    if out is not None and shape_of(out) != shape:
        raise ValueError(f"out must have the shape of x, {shape}, got {shape_of(out)}")
    n_rows, width = math.prod(shape[:-1]), shape[-1]

    def run(x: Any, out: Any) -> None:
        if overlap(out, x) and address(out) != address(x):
            raise ValueError("out overlaps the input, shifted: threads would read results instead of inputs")
        if n_rows == 0:
            return
        grid, block, n_cached = _shape_of_launch(kernel, n_rows, width)
        extra = () if kernel != "single_read" else (n_cached,)
        launch(
            _FOLDER / f"{kernel}.cu",
            f"softmax_{dtype_of(x)}",
            "PPqi" + "i" * len(extra),
            *(x, out, n_rows, width, *extra),
            grid=grid,
            block=block,
            shared_bytes=4 * n_cached,  # the cache holds float32
        )

    return on_device(run, [x], out)


def _shape_of_launch(kernel: str, n_rows: int, width: int) -> tuple[int, tuple[int, int], int]:
    """Choose blocks, threads in x and y, and the elements of a row that are kept in shared memory."""
    fills_the_device = 16 * device_attribute("MULTIPROCESSOR_COUNT")  # blocks; each goes on to further rows
    if kernel == "naive":
        return -(-n_rows // 128), (128, 1), 0
    if kernel == "warp_shuffle":
        return min(-(-n_rows // 4), 4 * fills_the_device), (32, 4), 0
    # About 8 elements for each thread, in a power of two of threads from a warp to a block's 1024.
    threads = min(1024, max(32, 1 << ((width - 1) // 8).bit_length()))
    room = 0
    if kernel == "single_read":  # leave some for the kernel's own variables
        room = device_attribute("MAX_SHARED_MEMORY_PER_BLOCK_OPTIN") - 1024
    return min(n_rows, fills_the_device), (threads, 1), min(width, room // 4)
