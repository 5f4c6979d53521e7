"""Matrix multiplication on a GPU: a ladder of CUDA C++ kernels, launched through PyCUDA.

    c = alpha · a b + beta · c,    (M, K) times (K, N)

A product of n x n matrices does 2n³ FLOP on 3n² numbers, so each number can be used n times. The naive kernel fetches it from
memory each time; every later rung keeps more of it nearby: in shared memory for a block, in registers for a thread.

`RUNGS` lists the kernels in ``kernels/``, from `naive` to `tensor_core`, with their tiles. This module is the host side: it
checks the arrays, copies what is not on the device yet, chooses the grid, and launches.

Source: Simon Boehm, "How to Optimize a CUDA Matmul Kernel for cuBLAS-like Performance" (2022), kernels 1 to 6 and 10.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

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


def matmul(
    a: Any, b: Any, *, kernel: str = "naive", alpha: float = 1.0, beta: float = 0.0, c: Any = None
) -> Any:
    """Multiply two matrices on the GPU, ``alpha · a b + beta · c``.

    Parameters
    ----------
    a : (M, K) array of float32; for the kernel `tensor_core` of bfloat16
        Either a NumPy array, which is copied to the device and back, or an array that is on the device already: a
        PyCUDA GPUArray, a CUDA torch tensor, or anything else with ``__cuda_array_interface__``. Device arrays must be
        C-contiguous. bfloat16, which NumPy lacks, is ``V2``. Any length may be 0; for K = 0 the product is all zeros.
    b : (K, N) array like `a`
    kernel : name of one of `RUNGS`
    alpha, beta : float
        With beta = 0, `c` is not read: it may hold NaN.
    c : (M, N) array of float32, optional
        Added to the product, and where the result goes.

    Returns
    -------
    (M, N) array of float32
        `c`, or a new array: NumPy for NumPy arrays, a tensor for torch tensors, else a GPUArray. Sums are float32, in an
        order that depends on the kernel. Work on the device is queued on the default stream.

    Raises
    ------
    TypeError
        If a dtype is another one, or host and device arrays are mixed.
    ValueError
        If shapes do not fit, a device array has gaps, there is no such kernel, beta is not 0 and `c` is missing, or c has
        more tiles along one axis than a grid may have blocks in y.
    """
    rung = next((rung for rung in RUNGS if rung.name == kernel), None)
    if rung is None:
        raise ValueError(f"kernel must be one of {', '.join(rung.name for rung in RUNGS)}, got {kernel!r}")
    if c is None and beta != 0:
        raise ValueError(f"beta is {beta}, so there must be a c to add")
    _check_arrays(rung.dtype, a=a, b=b, **({} if c is None else {"c": c}))
    if len(_shape(a)) != 2 or len(_shape(b)) != 2 or _shape(a)[1] != _shape(b)[0]:
        raise ValueError(f"a must be (M, K) and b (K, N), got {_shape(a)} and {_shape(b)}")
    (M, K), N = _shape(a), _shape(b)[1]
    if c is not None and _shape(c) != (M, N):
        raise ValueError(f"c must be ({M}, {N}), got {_shape(c)}")
    rows, columns = -(-M // rung.tile[0]), -(-N // rung.tile[1])
    grid = (rows, columns) if rung.rows_in_x else (columns, rows)
    if grid[1] > MOST_BLOCKS_IN_Y:
        raise ValueError(
            f"{kernel}: ({M}, {N}) needs {grid[1]} blocks in y, a grid has at most {MOST_BLOCKS_IN_Y}"
        )

    def launch(a: Any, b: Any, c: Any) -> None:
        if M and N:  # K = 0 launches: the kernel writes beta · c
            pointers = [_pointer(array) for array in (a, b, c)]
            _function(kernel).prepared_call(grid, (*rung.block, 1), *pointers, M, N, K, alpha, beta)

    return _on_device(launch, a, b, c)


@functools.cache
def _function(kernel: str) -> Any:
    """Compile a kernel file for the device of this process; a pointer is "P", an int "i", a float "f"."""
    from pycuda.compiler import SourceModule

    source = Path(__file__).parent / "kernels" / f"{kernel}.cu"
    module = SourceModule(source.read_text(encoding="utf-8"), no_extern_c=True)
    return module.get_function("matmul").prepare("PPPiiiff")


# --- arrays on the host and on the device (nearly the lines of the project cuda_vector_add: a folder stands alone) ----


def _on_device(launch: Any, a: Any, b: Any, c: Any) -> Any:
    """Call ``launch(a, b, c)`` with device arrays, copying NumPy arrays there and the result back."""
    import pycuda.autoprimaryctx  # noqa: F401  # the context that torch uses too; not at the top: importing needs no device
    from pycuda import gpuarray

    shape = (_shape(a)[0], _shape(b)[1])
    if not isinstance(a, np.ndarray):
        if c is None and hasattr(a, "new_empty"):  # a torch tensor
            c = a.new_empty(shape).float()
        elif c is None:
            c = gpuarray.empty(shape, np.float32)
        launch(a, b, c)
        return c
    device_a, device_b = (gpuarray.to_gpu(np.ascontiguousarray(array)) for array in (a, b))
    device_c = gpuarray.empty(shape, np.float32) if c is None else gpuarray.to_gpu(np.ascontiguousarray(c))
    launch(device_a, device_b, device_c)
    if c is None:
        return device_c.get()
    c[...] = device_c.get()
    return c


def _check_arrays(dtype: str, **arrays: Any) -> None:
    """Raise unless all arrays are on one side, a and b of `dtype`, c of float32, and without gaps on the device."""
    on_host = [isinstance(array, np.ndarray) for array in arrays.values()]
    on_device = [hasattr(array, "__cuda_array_interface__") for array in arrays.values()]
    if not all(on_host) and not all(on_device):
        kinds = ", ".join(f"{name} {type(array).__name__}" for name, array in arrays.items())
        raise TypeError(f"expected NumPy arrays only or device arrays only, got {kinds}")
    for name, array in arrays.items():
        expected = "float32" if name == "c" else dtype
        if _dtype(array) != expected:
            raise TypeError(f"{name} must be {expected}, got {_dtype(array)}")
        strides = array.__cuda_array_interface__.get("strides") if all(on_device) else None
        if strides is not None and not _is_contiguous(_shape(array), strides, _numpy_dtype(array).itemsize):
            raise ValueError(f"{name} must be C-contiguous, got shape {_shape(array)} and strides {strides}")


def _shape(array: Any) -> tuple[int, ...]:
    return tuple(int(length) for length in array.shape)


def _numpy_dtype(array: Any) -> np.dtype[Any]:
    """Return the dtype in NumPy's terms; bfloat16, which NumPy lacks, is V2."""
    return np.dtype(
        array.dtype if isinstance(array, np.ndarray) else array.__cuda_array_interface__["typestr"]
    )


def _dtype(array: Any) -> str:
    dtype = _numpy_dtype(array)
    return "bfloat16" if dtype.kind == "V" and dtype.itemsize == 2 else dtype.name


def _pointer(array: Any) -> int:
    """Return the device address of the first element; an empty array has none."""
    return int(array.__cuda_array_interface__["data"][0] or 0)


def _is_contiguous(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> bool:
    """Tell whether strides in bytes leave no gaps, the last axis fastest; an axis of length 1 is never stepped along."""
    expected = itemsize
    for length, stride in zip(reversed(shape), reversed(strides), strict=True):
        if length > 1 and stride != expected:
            return 0 in shape
        expected *= length
    return True
