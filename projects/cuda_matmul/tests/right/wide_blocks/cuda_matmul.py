"""Multiplying two matrices on a GPU: two CUDA C++ kernels, and the host function that launches them.

    c = a b,    c[i, j] = sum_k a[i, k] · b[k, j],    (M, K) times (K, N)

A product of n x n matrices does 2n³ FLOP on 3n² numbers, so each number can be used n times. The naive kernel fetches it from
memory each time; the tiled one keeps a piece of both matrices in shared memory, where a whole block uses it. Both are in
``kernels/``, and both compute ``c = alpha · a b + beta · c``: the entry point ``matmul`` has the arguments (a, b, c, m, n, k,
alpha, beta), three pointers, three ints and two floats.

The contract: everything is float32 and row-major. NumPy arrays may have any strides; they are copied to the device and the
result back. Arrays that are on the device already stay there. Inputs are not modified. Bad arguments are refused before anything
is launched. Any length may be 0. device_arrays.py, which is given, does the copies, the launch, and the checks of dtypes and sides.

ladder.py goes on to the techniques of cuBLAS, with alpha, beta and c; triton_kernels.py is the same in Triton.

Source: CUDA C++ Programming Guide, "Shared Memory".
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from device_arrays import check_arrays, launch, on_device, shape_of

__all__ = ["matmul"]

KERNELS = Path(__file__).parent / "kernels"
TILE = 32  # as in tiled.cu
MAX_BLOCKS_Y = 65535  # CUDA's limit; the kernels go on from there in a loop


def matmul(a: Any, b: Any, *, kernel: str = "naive") -> Any:
    """Multiply two matrices, ``c = a b``; return a new array.

    a : (M, K)    b : (K, N)    result : (M, N)
    kernel : "naive", a thread for each element, with rows along x, or "tiled", blocks of 32 x 32 threads with columns along x

    Without elements of c nothing is launched: a grid of 0 blocks is an error of CUDA's. For K = 0 all sums are 0.
    Raises ValueError for another kernel, or shapes that do not fit; TypeError for another dtype, or one array on each side.
    """
    if kernel not in ("naive", "tiled"):
        raise ValueError(f"kernel must be 'naive' or 'tiled', got {kernel!r}")
    check_arrays(("float32",), a=a, b=b)
    a_shape, b_shape = shape_of(a), shape_of(b)
    if len(a_shape) != 2 or len(b_shape) != 2 or a_shape[1] != b_shape[0]:
        raise ValueError(f"a must be (M, K) and b (K, N), got {a_shape} and {b_shape}")
    (m, k), n = a_shape, b_shape[1]
    if kernel == "naive":
        block, grid = (128, 2), (-(-m // 128), min(-(-n // 2), MAX_BLOCKS_Y))
    else:
        block, grid = (TILE, TILE), (-(-n // TILE), min(-(-m // TILE), MAX_BLOCKS_Y))

    def run(a: Any, b: Any, c: Any) -> None:
        if m and n:
            launch(
                KERNELS / f"{kernel}.cu",
                "matmul",
                "PPPiiiff",
                a,
                b,
                c,
                m,
                n,
                k,
                1.0,
                0.0,
                grid=grid,
                block=block,
            )

    return on_device(run, [a, b], shape=(m, n))
