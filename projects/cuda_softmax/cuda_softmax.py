"""Softmax and flash attention on a GPU: CUDA C++ kernels, launched through PyCUDA.

    softmax(x)_i = exp(x_i - m) / sum_j exp(x_j - m),    m = max_j x_j

Softmax does little arithmetic, so its speed is the number of times it goes over memory. The kernels in ``kernels/`` are
a ladder of that: `naive` (three passes, one thread per row), `block_reduce` (a block per row, a tree in shared memory),
`warp_shuffle` (a warp per row, in registers), `online` (largest value and sum in one pass), `single_read` (the row stays
in shared memory), and `flash_attention`, which puts the online softmax between two matrix products.

This module is the host side: it checks the arrays, copies what is not on the device yet, chooses grid, block and shared
memory, and launches.

Sources: Milakov and Gimelshein 2018, arXiv 1805.02867, algorithm 3 (online softmax); Dao, Fu, Ermon, Rudra and Ré 2022,
arXiv 2205.14135, algorithm 1 (flash attention); Mark Harris, "Optimizing Parallel Reduction in CUDA" (NVIDIA 2007).
"""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["KERNELS", "flash_attention", "softmax"]

KERNELS = ("naive", "block_reduce", "warp_shuffle", "online", "single_read")
"""Names of the softmax kernels, file by file, from the plainest on."""

MAX_WIDTH = 131072
HEAD_DIMS = (32, 64, 128)
MOST_BLOCKS_IN_Y = 65535  # CUDA's limit; flash_attention.cu has a head for each

_DTYPES = ("float16", "bfloat16", "float32")
_DEFAULT_SHARED_BYTES = 48 << 10  # what a launch may ask for without setting an attribute
_ROWS = 16  # queries per block, and threads per block, in flash_attention.cu
_ATTENTION_THREADS = 128


def softmax(x: Any, out: Any = None, *, kernel: str = "online") -> Any:
    """Softmax over the last axis, on the GPU.

    Parameters
    ----------
    x : (..., width) array of float16, bfloat16 or float32, width from 1 to 131072
        Either a NumPy array, which is copied to the device and back, or an array that is on the device already: a
        PyCUDA GPUArray, a CUDA torch tensor, or anything else with ``__cuda_array_interface__``. Device arrays must be
        C-contiguous. NumPy has no bfloat16: arrays of two-byte opaque values (``V2``), such as those of ml_dtypes, are
        taken for it. No rows is fine: then nothing is launched.
    out : array, optional
        Where to put the result: of the same kind, shape and dtype. It may be `x` itself.
    kernel : one of `KERNELS`

    Returns
    -------
    `out`, or a new array: NumPy for NumPy arrays, a tensor for torch tensors, else a GPUArray
        Computed in float32 and rounded once, to the dtype of `x`. A row that holds NaN, +inf, or nothing but -inf is
        NaN, as in torch. Work on the device is queued on the default stream.

    Raises
    ------
    TypeError
        If the dtype is another one, or host and device arrays are mixed.
    ValueError
        If a shape does not fit, a device array has gaps, or there is no such kernel.
    """
    if kernel not in KERNELS:
        raise ValueError(f"kernel must be one of {', '.join(KERNELS)}, got {kernel!r}")
    _check_arrays(x=x, **({} if out is None else {"out": out}))
    shape = _shape(x)
    if not shape or not 1 <= shape[-1] <= MAX_WIDTH:
        raise ValueError(f"x must be (..., width) with a width from 1 to {MAX_WIDTH}, got {shape}")
    if out is not None and _shape(out) != shape:
        raise ValueError(f"out must have the shape of x, {shape}, got {_shape(out)}")

    def launch(x: Any, out: Any) -> None:
        n_rows, width = math.prod(shape[:-1]), shape[-1]
        if n_rows:
            _launch_softmax(kernel, _dtype(x), _pointer(x), _pointer(out), n_rows, width)

    return _on_device(launch, [x], out)


def flash_attention(
    query: Any, key: Any, value: Any, out: Any = None, *, causal: bool = False, scale: float | None = None
) -> Any:
    """Attention, ``softmax(query keyᵀ · scale) value``, without storing the matrix of scores.

    Parameters
    ----------
    query : (batch, heads, n_queries, d) array of float16, bfloat16 or float32; d is 32, 64 or 128
        NumPy or device arrays, as for `softmax`.
    key, value : (batch, heads, n_keys, d) arrays of the same dtype, with at least one key
    out : (batch, heads, n_queries, d) array, optional
        Where to put the result.
    causal : bool
        Query i sees keys 0 to i only, counted from the first of each, as in torch.
    scale : float, optional
        The default is ``1 / sqrt(d)``.

    Returns
    -------
    `out`, or a new (batch, heads, n_queries, d) array
        Computed in float32 and rounded once.

    Raises
    ------
    TypeError, ValueError
        As for `softmax`; also if there is no key, d is another number, or batch · heads is more than 65535, the most blocks
        that a grid may have in y.
    """
    _check_arrays(query=query, key=key, value=value, **({} if out is None else {"out": out}))
    shapes = [_shape(array) for array in (query, key, value)]
    if len(shapes[0]) != 4 or shapes[0][-1] not in HEAD_DIMS:
        raise ValueError(f"query must be (batch, heads, n_queries, d) with d in {HEAD_DIMS}, got {shapes[0]}")
    B, H, n_queries, d = shapes[0]
    if shapes[1] != shapes[2] or len(shapes[1]) != 4 or (*shapes[1][:2], shapes[1][3]) != (B, H, d):
        raise ValueError(f"key and value must be ({B}, {H}, n_keys, {d}), got {shapes[1]} and {shapes[2]}")
    if B * H > MOST_BLOCKS_IN_Y:
        raise ValueError(f"at most {MOST_BLOCKS_IN_Y} heads in all batches, got {B} x {H}")
    n_keys = shapes[1][2]
    if n_keys == 0:
        raise ValueError(f"there must be a key to attend to, got {shapes[1]}")
    if out is not None and _shape(out) != shapes[0]:
        raise ValueError(f"out must have the shape of query, {shapes[0]}, got {_shape(out)}")
    factor = 1 / math.sqrt(d) if scale is None else scale

    def launch(query: Any, key: Any, value: Any, out: Any) -> None:
        if math.prod(shapes[0]) == 0:
            return
        function = _function("flash_attention", f"attention_{_dtype(query)}_{d}", "PPPPiifi")
        grid = (-(-n_queries // _ROWS), B * H)
        pointers = [_pointer(array) for array in (query, key, value, out)]
        function.prepared_call(
            grid, (_ATTENTION_THREADS, 1, 1), *pointers, n_queries, n_keys, factor, int(causal)
        )

    return _on_device(launch, [query, key, value], out)


def _launch_softmax(kernel: str, dtype: str, x: int, out: int, n_rows: int, width: int) -> None:
    """Choose grid, block and shared memory for one kernel, and queue it; x and out are device addresses."""
    fills_the_device = 16 * _attribute("MULTIPROCESSOR_COUNT")  # blocks; each goes on to further rows
    # About 8 elements for each thread, in a power of two of threads from a warp to a block's 1024.
    threads = min(1024, max(32, 1 << max(0, (width - 1) // 8).bit_length()))
    grid, block = (min(n_rows, fills_the_device), 1), (threads, 1, 1)
    extra: tuple[int, ...] = ()
    shared_bytes = 0
    if kernel == "naive":
        grid, block = (-(-n_rows // 128), 1), (128, 1, 1)
    elif kernel == "warp_shuffle":
        grid, block = (min(-(-n_rows // 4), 4 * fills_the_device), 1), (32, 4, 1)
    elif kernel == "single_read":
        room = _attribute("MAX_SHARED_MEMORY_PER_BLOCK_OPTIN") - 1024  # some for the kernel's own variables
        extra = (min(width, room // 4),)  # the cache holds float32
        shared_bytes = 4 * extra[0]
    function = _function(kernel, f"softmax_{dtype}", "PPqi" + "i" * len(extra))
    if shared_bytes > _DEFAULT_SHARED_BYTES - 1024:
        from pycuda import driver

        function.set_attribute(driver.function_attribute.MAX_DYNAMIC_SHARED_SIZE_BYTES, shared_bytes)
    function.prepared_call(grid, block, x, out, n_rows, width, *extra, shared_size=shared_bytes)


@functools.cache
def _function(kernel: str, name: str, arguments: str) -> Any:
    """Return an entry point of a kernel file; a pointer is "P", a long long "q", an int "i", a float "f"."""
    return _module(kernel).get_function(name).prepare(arguments)


@functools.cache
def _module(kernel: str) -> Any:
    """Compile a kernel file for the device of this process (PyCUDA keeps the result on disk)."""
    from pycuda.compiler import SourceModule

    source = Path(__file__).parent / "kernels" / f"{kernel}.cu"
    return SourceModule(source.read_text(encoding="utf-8"), no_extern_c=True)


@functools.cache
def _attribute(name: str) -> int:
    from pycuda import driver

    return int(driver.Context.get_device().get_attribute(getattr(driver.device_attribute, name)))


# --- arrays on the host and on the device (the same lines as in the project cuda_vector_add: a folder stands alone) ---


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
