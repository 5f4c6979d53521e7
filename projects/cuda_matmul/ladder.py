"""The ladder: `matmul` with eight kernels, from the naive one to tensor cores, ``c = alpha · a b + beta · c``.

The first and the third are those of the core. Every later rung keeps more of the matrices nearby: in shared memory for a block,
in registers for a thread. `RUNGS` lists them with their tiles. Contract of cuda_matmul.py, and:

- with beta = 0, c is not read: it may hold NaN. The result goes to c where there is one, always. On the device c must not share
  memory with a or b, which other threads still read; on the host it may;
- device arrays must be C-contiguous; `tensor_core` takes bfloat16, which is ``V2`` in NumPy, and its result is float32;
- sums are float32, in an order that depends on the kernel. Work on the device is queued on the default stream.

Source: Simon Boehm, "How to Optimize a CUDA Matmul Kernel for cuBLAS-like Performance" (2022), kernels 1 to 6 and 10.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from device_arrays import check_arrays, check_number, check_side, launch, on_device, overlap, shape_of

__all__ = ["RUNGS", "matmul"]

MOST_BLOCKS_IN_Y = 65535  # CUDA's limit; x has 2**31 - 1


@dataclass(frozen=True)
class Rung:
    """One kernel of the ladder: which piece of c a block computes, with how many threads."""

    name: str
    tile: tuple[int, int]  # rows and columns of c for each block
    block: tuple[int, int]  # threads in x and y
    rows_in_x: bool = False  # blockIdx.x counts tiles of rows, not of columns
    dtype: str = "float32"  # of a and b; c is always float32


RUNGS = (
    Rung("naive", (32, 8), (32, 8), rows_in_x=True),
    Rung("coalesced", (8, 32), (32, 8)),
    Rung("tiled", (32, 32), (32, 32)),
    Rung("thread_tiled_1d", (64, 64), (512, 1)),
    Rung("thread_tiled_2d", (128, 128), (256, 1)),
    Rung("vectorized", (128, 128), (256, 1)),
    Rung("warp_tiled", (128, 128), (128, 1)),
    Rung("tensor_core", (64, 64), (128, 1), dtype="bfloat16"),
)
"""The ladder, from the plainest kernel on; it drives tests, benchmark and tables."""

_FOLDER = Path(__file__).parent / "kernels"


def matmul(
    a: Any, b: Any, *, kernel: str = "naive", alpha: float = 1.0, beta: float = 0.0, c: Any = None
) -> Any:
    """Multiply two matrices, ``alpha · a b + beta · c``; return `c`, or a new array.

    a : (M, K)    b : (K, N)    c : (M, N), added to the product, and where the result goes
    kernel : name of one of `RUNGS`

    Raises ValueError for shapes that do not fit, gaps, another kernel, alpha or beta beyond float32, beta without a c, a c that is
    read-only, overlaps an input, or has more tiles along one axis than a grid may have blocks in y; TypeError for dtypes and
    sides, and if alpha or beta is no real number. The message names what came.
    """
    rung = next((rung for rung in RUNGS if rung.name == kernel), None)
    if rung is None:
        raise ValueError(f"kernel must be one of {', '.join(rung.name for rung in RUNGS)}, got {kernel!r}")
    alpha, beta = check_number("alpha", alpha), check_number("beta", beta)
    if c is None and beta != 0:
        raise ValueError(f"beta is {beta}, so there must be a c to add")
    check_arrays((rung.dtype,), a=a, b=b)
    if c is not None:
        check_side(a=a, c=c)
        check_arrays(("float32",), c=c)
    if len(shape_of(a)) != 2 or len(shape_of(b)) != 2 or shape_of(a)[1] != shape_of(b)[0]:
        raise ValueError(f"a must be (M, K) and b (K, N), got {shape_of(a)} and {shape_of(b)}")
    (M, K), N = shape_of(a), shape_of(b)[1]
    if c is not None and shape_of(c) != (M, N):
        raise ValueError(f"c must be ({M}, {N}), got {shape_of(c)}")
    rows, columns = -(-M // rung.tile[0]), -(-N // rung.tile[1])
    grid = (rows, columns) if rung.rows_in_x else (columns, rows)
    if grid[1] > MOST_BLOCKS_IN_Y:
        raise ValueError(
            f"{kernel}: ({M}, {N}) needs {grid[1]} blocks in y, a grid has at most {MOST_BLOCKS_IN_Y}"
        )

    def multiply(a: Any, b: Any, c: Any) -> None:
        if overlap(c, a) or overlap(c, b):
            raise ValueError("c overlaps an input: threads would read results instead of inputs")
        if M and N:  # K = 0 launches: the kernel writes beta · c
            path = _FOLDER / f"{kernel}.cu"
            launch(path, "matmul", "PPPiiiff", a, b, c, M, N, K, alpha, beta, grid=grid, block=rung.block)

    return on_device(multiply, [a, b], c, shape=(M, N), dtype="float32")
