"""The ladder: `vector_add` with all kernels, from the plainest to the fastest, into `out`, with a grid of your choice.

The first two are those of the core. `vectorized` moves 16 bytes with each load; `strided` and `divergent` are correct and slow
on purpose. Contract of cuda_vector_add.py, and:

- `out` may be an input itself, but not overlap one on the device in any other way; on the host it may have any strides;
- device arrays must be C-contiguous; arrays that are not in native byte order are converted on the host, refused on the device;
- NaN and inf propagate as in IEEE 754. Work on the device is queued on the default stream and may not have finished yet.

Sources: Mark Harris, "CUDA Pro Tip: Write Flexible Kernels with Grid-Stride Loops" (NVIDIA 2013) and "CUDA Pro Tip: Increase
Performance with Vectorized Memory Access" (Justin Luitjens, NVIDIA 2013).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from device_arrays import (
    address,
    check_arrays,
    check_integer,
    device_attribute,
    dtype_of,
    launch,
    on_device,
    overlap,
    shape_of,
)

__all__ = ["KERNELS", "vector_add"]

KERNELS = ("one_per_thread", "grid_stride", "vectorized", "strided", "divergent")
"""Names of the kernels, file by file; the last two are correct and slow."""

_FOLDER = Path(__file__).parent / "kernels"
_DTYPES = ("float16", "float32", "float64", "int32")
_BLOCKS_PER_MULTIPROCESSOR = 8  # of 256 threads: the 2048 that a multiprocessor can hold (sm_80, sm_90)


def vector_add(
    a: Any,
    b: Any,
    out: Any = None,
    *,
    kernel: str = "vectorized",
    block_size: int = 256,
    n_blocks: int | None = None,
) -> Any:
    """Add two arrays on the GPU, ``out[i] = a[i] + b[i]``; return `out`, or a new array like `a`.

    out : where to put the sums: an array of the same side, shape and dtype
    kernel : one of `KERNELS`
    block_size : threads per block, a multiple of 32 up to 1024
    n_blocks : blocks in the grid; the default fills the device. `one_per_thread` needs a thread for each element

    Raises ValueError for an option or shape that does not fit, gaps, or an `out` that is read-only or overlaps an input, shifted;
    TypeError for dtypes, sides, and sizes that are not integers. The message names what came.
    """
    if kernel not in KERNELS:
        raise ValueError(f"kernel must be one of {', '.join(KERNELS)}, got {kernel!r}")
    block_size = check_integer("block_size", block_size, range(32, 1025, 32))
    if n_blocks is not None:
        n_blocks = check_integer("n_blocks", n_blocks, range(1, 2**31))
    check_arrays(_DTYPES, a=a, b=b, out=out)
    shapes = [shape_of(array) for array in (a, b, out) if array is not None]
    if len(set(shapes)) > 1:
        raise ValueError(f"a, b and out must have one shape, got {', '.join(map(str, shapes))}")
    n = math.prod(shapes[0])
    needed = -(-n // block_size)
    if kernel == "one_per_thread" and n_blocks is not None and n_blocks < needed:
        raise ValueError(f"one_per_thread needs {needed} blocks for {n} elements, got n_blocks={n_blocks}")

    def add(a: Any, b: Any, out: Any) -> None:
        if any(overlap(out, array) and address(out) != address(array) for array in (a, b)):
            raise ValueError("out overlaps an input, shifted: threads would read sums instead of inputs")
        if n == 0:
            return
        filling = _BLOCKS_PER_MULTIPROCESSOR * device_attribute("MULTIPROCESSOR_COUNT")
        chosen = n_blocks or (needed if kernel == "one_per_thread" else min(needed, filling))
        path, entry = _FOLDER / f"{kernel}.cu", f"add_{dtype_of(out)}"
        launch(path, entry, "PPPq", a, b, out, n, grid=chosen, block=block_size)

    return on_device(add, [a, b], out)
