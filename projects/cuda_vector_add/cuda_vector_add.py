"""Adding two vectors on a GPU: two CUDA C++ kernels, and the host function that launches them.

    out[i] = a[i] + b[i]

A kernel is a function that thousands of threads run at once. Threads come in blocks, blocks in a grid, and each thread
finds the elements that are its own from its numbers: ``i = blockIdx.x * blockDim.x + threadIdx.x``. The kernels are in
``kernels/``: one_per_thread.cu, grid_stride.cu. Each has an entry point for each dtype, ``add_float32`` and so on, with
the arguments (a, b, out, n): three pointers and a long long.

The contract: arrays have any shape, and one of the dtypes float16, float32, float64 and int32, whose sums wrap around as
in NumPy. NumPy arrays may have any strides; they are copied to the device and the result back. Arrays that are on the
device already stay there. Inputs are not modified. Bad arguments are refused before anything is launched.
device_arrays.py, which is given, does the copies, the launch, and the checks of dtypes, sides and gaps.

ladder.py has faster kernels, `out`, and the choice of the grid; triton_kernels.py is the same in Triton.

Source: CUDA C++ Programming Guide, "Kernels" and "Thread Hierarchy".
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from device_arrays import check_arrays, check_integer, device_attribute, dtype_of, launch, on_device, shape_of

__all__ = ["vector_add"]

KERNELS = Path(__file__).parent / "kernels"
DTYPES = ("float16", "float32", "float64", "int32")


def vector_add(a: Any, b: Any, *, kernel: str = "one_per_thread", block_size: int = 256) -> Any:
    """Add two arrays of one shape and dtype, ``out[i] = a[i] + b[i]``; return a new array, rounded once.

    kernel : "one_per_thread" or "grid_stride"; the former needs at least one thread for each element
    block_size : threads per block, a multiple of 32 up to 1024

    Without elements nothing is launched: a grid of 0 blocks is an error of CUDA's.
    Raises ValueError for another kernel or block size, or two shapes; TypeError for two or other dtypes, or arrays on two sides.
    """
    if kernel not in ("one_per_thread", "grid_stride"):
        raise ValueError(f"kernel must be one_per_thread or grid_stride, got {kernel!r}")
    block_size = check_integer("block_size", block_size, range(32, 1025, 32))
    check_arrays(DTYPES, a=a, b=b)
    if shape_of(a) != shape_of(b):
        raise ValueError(f"a and b must have one shape, got {shape_of(a)} and {shape_of(b)}")
    n = math.prod(shape_of(a))
    n_blocks = -(-n // block_size)  # rounded up
    if kernel == "grid_stride":  # about as many as the device runs at once; each goes on to further elements
        n_blocks = min(n_blocks, 8 * device_attribute("MULTIPROCESSOR_COUNT"))

    def add(a: Any, b: Any, out: Any) -> None:
        if n:
            path, entry = KERNELS / f"{kernel}.cu", f"add_{dtype_of(a)}"
            launch(path, entry, "PPPq", a, b, out, n, grid=n_blocks, block=block_size)

    return on_device(add, [a, b])
