"""Arrays on the host and on the device, and the launch of a kernel: what the host function of a CUDA project needs.

An array is a NumPy array, or one that is on the device already: a PyCUDA GPUArray, a CUDA torch tensor, or anything else
with ``__cuda_array_interface__``. NumPy has no bfloat16: two opaque bytes (``V2``) stand for it, as in ml_dtypes. Bytes in
another order than the machine's are put right where NumPy arrays are copied, and refused on the device.

A host function checks its arguments, and then gives `on_device` a function of device arrays, which launches:

    def double(x):
        def run(x, out):
            launch(KERNELS / "double.cu", "double_float32", "PPi", x, out, n, grid=-(-n // 128), block=128)

        check_arrays(("float32",), x=x)
        n = math.prod(shape_of(x))
        return on_device(run, [x])

PyCUDA is imported only when something is launched. Work is queued on the default stream.
"""

from __future__ import annotations

import functools
import math
import numbers
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = [
    "address",
    "check_arrays",
    "check_integer",
    "check_number",
    "check_side",
    "device_attribute",
    "dtype_of",
    "launch",
    "on_device",
    "overlap",
    "shape_of",
]

_INTEGERS = {"i": range(-(2**31), 2**31), "q": range(-(2**63), 2**63)}  # what a letter of `types` holds
_SHARED_BYTES = 47 << 10  # 48 KB need no permission; the kernel's own variables have a part of them


# --- what an array is ----------------------------------------------------------------------------------------


def shape_of(array: Any) -> tuple[int, ...]:
    """Return the shape as a tuple of int, whatever library the array is of."""
    return tuple(int(length) for length in array.shape)


def dtype_of(array: Any) -> str:
    """Return the name of the dtype, such as "float32"; a device array that is not in native byte order has none ("<f4")."""
    if isinstance(array, np.ndarray):
        dtype = array.dtype
    else:
        dtype = np.dtype(array.__cuda_array_interface__["typestr"])
        if not dtype.isnative:
            return dtype.str
    return "bfloat16" if dtype == np.dtype("V2") else dtype.name


def address(array: Any) -> int:
    """Return the device address of the first element; an empty array has none, which is 0."""
    return int(array.__cuda_array_interface__["data"][0] or 0)


def overlap(first: Any, second: Any) -> bool:
    """Tell whether two device arrays without gaps have a byte in common."""
    starts, sizes = zip(
        *((address(x), math.prod(shape_of(x)) * _numpy_dtype(x).itemsize) for x in (first, second)),
        strict=True,
    )
    return max(starts) < min(start + size for start, size in zip(starts, sizes, strict=True))


# --- checks --------------------------------------------------------------------------------------------------


def check_arrays(dtypes: Sequence[str], **arrays: Any) -> None:
    """Raise TypeError unless all arrays are on one side and have one dtype, one of `dtypes`; then do as `check_side`."""
    check_side(**arrays)
    got = {name: dtype_of(array) for name, array in arrays.items() if array is not None}
    if len(set(got.values())) > 1 or not set(got.values()) <= set(dtypes):
        listed = ", ".join(f"{name} {dtype}" for name, dtype in got.items())
        raise TypeError(f"expected one dtype of {', '.join(dtypes)}, got {listed}")


def check_side(**arrays: Any) -> None:
    """Raise TypeError unless all arrays are on the host or all on the device, ValueError if one has gaps on the device.

    A kernel sees an address, no strides and no mask: a masked array is a TypeError. None stands for an array that was not given.
    """
    given = {name: array for name, array in arrays.items() if array is not None}
    if masked := [name for name, array in given.items() if isinstance(array, np.ma.MaskedArray)]:
        raise TypeError(f"expected arrays without a mask, got a MaskedArray as {masked[0]}")
    on_host = [isinstance(array, np.ndarray) for array in given.values()]
    if not all(on_host) and (
        any(on_host) or not all(hasattr(array, "__cuda_array_interface__") for array in given.values())
    ):
        kinds = ", ".join(f"{name} {type(array).__name__}" for name, array in given.items())
        raise TypeError(f"expected NumPy arrays only or device arrays only, got {kinds}")
    for name, array in given.items() if not any(on_host) else ():
        strides = array.__cuda_array_interface__.get("strides")
        if strides is not None and not _is_contiguous(shape_of(array), strides, _numpy_dtype(array).itemsize):
            raise ValueError(
                f"{name} must be C-contiguous, got shape {shape_of(array)} and strides {strides}"
            )


def check_integer(name: str, value: Any, allowed: range) -> int:
    """Return an option as an int, NumPy's too; TypeError for another type (64.0, True), ValueError if not allowed."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if int(value) not in allowed:
        steps = f" in steps of {allowed.step}" if allowed.step > 1 else ""
        raise ValueError(f"{name} must be from {allowed[0]} to {allowed[-1]}{steps}, got {value}")
    return int(value)


def check_number(name: str, value: Any) -> float:
    """Return an option as a float; TypeError unless it is a real number, ValueError unless float32 has it, as 0 only if it is 0."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a real number, got {value!r}")
    number: Any = value
    if not abs(number) <= float(np.finfo(np.float32).max) or (number != 0 and np.float32(number) == 0):
        raise ValueError(f"{name} must be a finite number of float32, got {value!r}")
    return float(number)


def _is_contiguous(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> bool:
    """Tell whether strides in bytes leave no gaps, the last axis fastest; an axis of length 1 is never stepped along."""
    expected = itemsize
    for length, stride in zip(reversed(shape), reversed(strides), strict=True):
        if length > 1 and stride != expected:
            return 0 in shape
        expected *= length
    return True


def _numpy_dtype(array: Any) -> np.dtype[Any]:
    return np.dtype(
        array.dtype if isinstance(array, np.ndarray) else array.__cuda_array_interface__["typestr"]
    )


# --- copies and launches -------------------------------------------------------------------------------------


def on_device(
    run: Callable[..., None],
    inputs: Sequence[Any],
    out: Any = None,
    *,
    shape: tuple[int, ...] | None = None,
    dtype: str | None = None,
) -> Any:
    """Call ``run(*inputs, out)`` with all arrays on the device, and return `out`.

    NumPy arrays are packed, copied to the device, and `out` is copied back: into the array that was given, or into a new one.
    ValueError for an `out` that is read-only.
    Without `out` it has the shape and dtype of the first input, unless `shape` or `dtype` say otherwise, and is where the
    inputs are: a tensor for torch tensors, else a GPUArray.
    """
    import pycuda.autoprimaryctx  # noqa: F401  # the context that torch uses too; not at the top: importing needs no device
    from pycuda import gpuarray

    if out is not None and _is_read_only(out):
        raise ValueError("the array for the result is read-only")
    first = inputs[0]
    shape = shape_of(first) if shape is None else shape
    if not isinstance(first, np.ndarray) and hasattr(first, "new_empty"):
        out = _new_tensor(first, shape, dtype) if out is None else out
        run(*inputs, out)
        return out
    new_dtype = np.dtype(dtype or _numpy_dtype(first).newbyteorder("="))
    if not isinstance(first, np.ndarray):
        out = gpuarray.empty(shape, new_dtype) if out is None else out
        run(*inputs, out)
        return out
    result = gpuarray.empty(shape, new_dtype) if out is None else gpuarray.to_gpu(_packed(out))
    run(*(gpuarray.to_gpu(_packed(array)) for array in inputs), result)
    if out is None:
        return result.get()
    out[...] = result.get()
    return out


def _is_read_only(array: Any) -> bool:
    return (
        not array.flags.writeable
        if isinstance(array, np.ndarray)
        else bool(array.__cuda_array_interface__["data"][1])
    )


def _new_tensor(like: Any, shape: tuple[int, ...], dtype: str | None) -> Any:
    import torch

    return like.new_empty(shape, dtype=like.dtype if dtype is None else getattr(torch, dtype))


def _packed(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the elements without gaps and in native byte order."""
    return np.asarray(array, dtype=array.dtype.newbyteorder("="), order="C")


def launch(
    path: Path,
    entry: str,
    types: str,
    *arguments: Any,
    grid: int | tuple[int, ...],
    block: int | tuple[int, ...],
    shared_bytes: int = 0,
) -> None:
    """Queue the kernel `entry` of a .cu file, which is compiled once.

    `types` has a letter for each argument: "P" for an array, "q" for a long long, "i" for an int, "f" for a float. `grid` and
    `block` are numbers of blocks and of threads in a block, along x or along (x, y, …). A grid of 0 blocks is an error of CUDA's.
    TypeError for sizes and integers that are none, ValueError for those that their type does not hold.
    """
    threads, blocks = _sizes("block", block), _sizes("grid", grid)
    function = _function(path, entry, types)
    if shared_bytes > _SHARED_BYTES:
        from pycuda import driver

        function.set_attribute(driver.function_attribute.MAX_DYNAMIC_SHARED_SIZE_BYTES, shared_bytes)
    values = [
        _value(f"argument {i} of {entry}", kind, value)
        for i, (kind, value) in enumerate(zip(types, arguments, strict=True), 1)
    ]
    function.prepared_call((*blocks, 1)[:2], (*threads, 1, 1)[:3], *values, shared_size=shared_bytes)


def _value(name: str, kind: str, value: Any) -> Any:
    if kind == "P":
        return address(value)
    return check_integer(name, value, _INTEGERS[kind]) if kind in _INTEGERS else value


def _sizes(name: str, sizes: Any) -> tuple[int, ...]:
    return tuple(
        check_integer(name, size, range(2**32)) for size in (sizes if isinstance(sizes, tuple) else (sizes,))
    )


@functools.cache
def _function(path: Path, entry: str, types: str) -> Any:
    return _module(path).get_function(entry).prepare(types)


@functools.cache
def _module(path: Path) -> Any:
    """Compile a kernel file for the device of this process (PyCUDA keeps the result on disk)."""
    from pycuda.compiler import SourceModule

    return SourceModule(path.read_text(encoding="utf-8"), no_extern_c=True)


@functools.cache
def device_attribute(name: str) -> int:
    """Return what the device says of itself, such as "MULTIPROCESSOR_COUNT" (CUDA's name for it)."""
    import pycuda.autoprimaryctx  # noqa: F401
    from pycuda import driver

    return int(driver.Context.get_device().get_attribute(getattr(driver.device_attribute, name)))
