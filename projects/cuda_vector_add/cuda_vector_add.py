"""Adding two vectors on a GPU: CUDA C++ kernels, launched through PyCUDA.

    out[i] = a[i] + b[i]

A kernel is a function that thousands of threads run at once. Threads come in blocks, blocks in a grid, and each
thread finds the elements that are its own from its numbers: ``i = blockIdx.x * blockDim.x + threadIdx.x``.

The kernels are in ``kernels/``, one per file, from the plainest to the fastest, then two that are slow on purpose:
`one_per_thread`, `grid_stride`, `vectorized`; `strided`, `divergent`. `vector_add` here is the host side: it checks
the arrays, copies what is not on the device yet, chooses the size of the grid, and launches.

Sources: CUDA C++ Programming Guide, sections "Kernels" and "Thread Hierarchy"; Mark Harris, "CUDA Pro Tip: Write
Flexible Kernels with Grid-Stride Loops" (NVIDIA 2013) and "CUDA Pro Tip: Increase Performance with Vectorized
Memory Access" (Justin Luitjens, NVIDIA 2013).
"""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["KERNELS", "vector_add"]

KERNELS = ("one_per_thread", "grid_stride", "vectorized", "strided", "divergent")
"""Names of the kernels, file by file; the last two are correct and slow."""

_DTYPES = ("float16", "float32", "float64", "int32")
_BLOCKS_PER_MULTIPROCESSOR = (
    8  # 8 blocks of 256 threads are the 2048 that a multiprocessor can hold (sm_80, sm_90)
)


def vector_add(
    a: Any,
    b: Any,
    out: Any = None,
    *,
    kernel: str = "vectorized",
    block_size: int = 256,
    n_blocks: int | None = None,
) -> Any:
    """Add two arrays on the GPU, ``out[i] = a[i] + b[i]``.

    Parameters
    ----------
    a, b : arrays of one shape and dtype: float16, float32, float64 or int32
        Either NumPy arrays, which are copied to the device and back, or arrays that are on the device already: a
        PyCUDA GPUArray, a CUDA torch tensor, or anything else with ``__cuda_array_interface__``. Device arrays must
        be C-contiguous; NumPy arrays may have any strides. No elements is fine: then nothing is launched.
    out : array, optional
        Where to put the sums: of the same kind, shape and dtype. It may be `a` or `b` itself, but not overlap one of
        them in any other way.
    kernel : one of `KERNELS`
    block_size : int
        Threads per block, a multiple of 32 up to 1024.
    n_blocks : int, optional
        Blocks in the grid. The default fills the device; `one_per_thread` needs one thread for each element and
        takes no other number.

    Returns
    -------
    `out`, or a new array: NumPy for NumPy arrays, a tensor for torch tensors, else a GPUArray
        Rounded once, to the dtype of the inputs. NaN and inf propagate. Work on the device is queued on the default
        stream and may not have finished yet; copying the result to the host waits for it.

    Raises
    ------
    TypeError
        If dtypes differ or are others, or host and device arrays are mixed.
    ValueError
        If shapes differ, a device array has gaps, `out` overlaps an input, or an option is none of the above.
    """
    if kernel not in KERNELS:
        raise ValueError(f"kernel must be one of {', '.join(KERNELS)}, got {kernel!r}")
    if not 32 <= block_size <= 1024 or block_size % 32:
        raise ValueError(f"block_size must be a multiple of 32 up to 1024, got {block_size}")
    if n_blocks is not None and not 1 <= n_blocks < 2**31:
        raise ValueError(f"n_blocks must be from 1 to 2**31 - 1, got {n_blocks}")
    _check_arrays(a=a, b=b, **({} if out is None else {"out": out}))
    shapes = [_shape(array) for array in ((a, b) if out is None else (a, b, out))]
    if len(set(shapes)) > 1:
        raise ValueError(f"a, b and out must have one shape, got {', '.join(map(str, shapes))}")
    n = math.prod(shapes[0])
    if kernel == "one_per_thread" and n_blocks not in (None, -(-n // block_size)):
        raise ValueError(
            f"one_per_thread needs {-(-n // block_size)} blocks for {n} elements, got n_blocks={n_blocks}"
        )

    def launch(a: Any, b: Any, out: Any) -> None:
        _check_overlap(a, b, out)
        if n == 0:
            return  # a grid of 0 blocks is an error
        needed = -(-n // block_size)
        filling = needed if kernel == "one_per_thread" else _BLOCKS_PER_MULTIPROCESSOR * _n_multiprocessors()
        grid = (n_blocks or min(needed, filling), 1)
        function = _function(kernel, _dtype(out))
        function.prepared_call(grid, (block_size, 1, 1), _pointer(a), _pointer(b), _pointer(out), n)

    return _on_device(launch, [a, b], out)


@functools.cache
def _function(kernel: str, dtype: str) -> Any:
    """Return the entry point of a kernel file for one dtype; a pointer is "P", a long long "q"."""
    return _module(kernel).get_function(f"add_{dtype}").prepare("PPPq")


@functools.cache
def _module(kernel: str) -> Any:
    """Compile a kernel file for the device of this process (PyCUDA keeps the result on disk)."""
    from pycuda.compiler import SourceModule

    source = Path(__file__).parent / "kernels" / f"{kernel}.cu"
    return SourceModule(source.read_text(encoding="utf-8"), no_extern_c=True)


@functools.cache
def _n_multiprocessors() -> int:
    from pycuda import driver

    return int(driver.Context.get_device().get_attribute(driver.device_attribute.MULTIPROCESSOR_COUNT))


def _check_overlap(a: Any, b: Any, out: Any) -> None:
    n_bytes = math.prod(_shape(out)) * _numpy_dtype(out).itemsize
    if any(0 < abs(_pointer(out) - _pointer(array)) < n_bytes for array in (a, b)):
        raise ValueError("out overlaps an input, shifted: threads would read sums instead of inputs")


# --- arrays on the host and on the device ------------------------------------------------------------------------


def _on_device(launch: Any, inputs: list[Any], out: Any) -> Any:
    """Call ``launch(*inputs, out)`` with device arrays, copying NumPy arrays there and the result back."""
    import pycuda.autoprimaryctx  # noqa: F401  # the context that torch uses too; not at the top: importing needs no device
    from pycuda import gpuarray

    first = inputs[0]
    if not isinstance(first, np.ndarray):
        if out is None:
            is_torch = hasattr(first, "new_empty")
            out = (
                first.new_empty(first.shape)
                if is_torch
                else gpuarray.empty(_shape(first), _numpy_dtype(first))
            )
        launch(*inputs, out)
        return out
    on_device = [gpuarray.to_gpu(np.ascontiguousarray(array)) for array in inputs]
    result = gpuarray.empty(first.shape, first.dtype)
    launch(*on_device, result)
    if out is None:
        return result.get()
    out[...] = result.get()
    return out


def _check_arrays(**arrays: Any) -> None:
    """Raise unless all arrays are on one side, of one dtype that the kernels know, and without gaps on the device."""
    on_host = [isinstance(array, np.ndarray) for array in arrays.values()]
    on_device = [hasattr(array, "__cuda_array_interface__") for array in arrays.values()]
    if not all(on_host) and not all(on_device):
        kinds = ", ".join(f"{name} {type(array).__name__}" for name, array in arrays.items())
        raise TypeError(f"expected NumPy arrays only or device arrays only, got {kinds}")
    dtypes = {name: _dtype(array) for name, array in arrays.items()}
    if len(set(dtypes.values())) > 1 or not set(dtypes.values()) <= set(_DTYPES):
        got = ", ".join(f"{name} {dtype}" for name, dtype in dtypes.items())
        raise TypeError(f"expected one dtype of {', '.join(_DTYPES)}, got {got}")
    for name, array in arrays.items() if all(on_device) else ():
        strides = array.__cuda_array_interface__.get("strides")
        if strides is not None and not _is_contiguous(_shape(array), strides, _numpy_dtype(array).itemsize):
            raise ValueError(f"{name} must be C-contiguous, got shape {_shape(array)} and strides {strides}")


def _shape(array: Any) -> tuple[int, ...]:
    return tuple(int(length) for length in array.shape)


def _numpy_dtype(array: Any) -> np.dtype[Any]:
    """Return the dtype in NumPy's terms: a torch tensor only tells it through the interface."""
    return np.dtype(
        array.dtype if isinstance(array, np.ndarray) else array.__cuda_array_interface__["typestr"]
    )


def _dtype(array: Any) -> str:
    return _numpy_dtype(array).name


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
