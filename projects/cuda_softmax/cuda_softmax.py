"""Softmax on a GPU: two CUDA C++ kernels, and the host function that launches them.

    softmax(x)_i = exp(x_i - m) / sum_j exp(x_j - m),    m = max_j x_j

Softmax does little arithmetic, so what counts is how a row is read. In the naive kernel a thread computes a whole row; in
block_reduce a block does, and combines what its threads found in shared memory. Both are in ``kernels/``, with an entry point
``softmax_float32`` that has the arguments (x, out, n_rows, width): two pointers, a long long and an int.

The contract: everything is float32. Logits of any size neither overflow nor underflow as a whole, and -inf gets probability 0.
NaN, +inf and rows of nothing but -inf are not defined here. NumPy arrays may have any strides; they are copied to the device and
the result back. Arrays that are on the device already stay there. Inputs are not modified. Bad arguments are refused before
anything is launched. device_arrays.py, which is given, does the copies, the launch, and the checks of dtypes and sides.

ladder.py has kernels that read a row less often, half precision and `out`; flash_attention.py puts a softmax between two matrix
products; triton_kernels.py is the same in Triton.

Source: Mark Harris, "Optimizing Parallel Reduction in CUDA" (NVIDIA 2007).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from device_arrays import check_arrays, launch, on_device, shape_of

__all__ = ["softmax"]

KERNELS = Path(__file__).parent / "kernels"


def softmax(x: Any, *, kernel: str = "naive") -> Any:
    """Softmax over the last axis, ``exp(x - max) / sum(exp(x - max))``; return a new array.

    x : (..., width), with at least one axis and a width of 1 or more
    kernel : "naive", a thread for each row, or "block_reduce", a power of two of threads for each block

    Without rows nothing is launched: a grid of 0 blocks is an error of CUDA's.
    Raises ValueError for another kernel, no axis, or a width of 0; TypeError for another dtype.
    """
    if kernel not in ("naive", "block_reduce"):
        raise ValueError(f"kernel must be naive or block_reduce, got {kernel!r}")
    check_arrays(("float32",), x=x)
    shape = shape_of(x)
    if not shape or shape[-1] == 0:
        raise ValueError(f"x must be (..., width) with a width of 1 or more, got {shape}")
    n_rows, width = math.prod(shape[:-1]), shape[-1]
    grid, block = (-(-n_rows // 128), 128) if kernel == "naive" else (n_rows, 256)

    def run(x: Any, out: Any) -> None:
        if n_rows:
            path = KERNELS / f"{kernel}.cu"
            launch(path, "softmax_float32", "PPqi", x, out, n_rows, width, grid=grid, block=block)

    return on_device(run, [x])
