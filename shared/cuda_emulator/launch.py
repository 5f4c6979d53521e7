"""Launch kernels through the driver API with ctypes alone: for the emulator's own tests and its profiler.

Projects use PyCUDA. This is the same driver without it, so that the emulator can be tested where no wheel can be built.
"""

from __future__ import annotations

import ctypes
import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import control, toolchain


class DriverError(RuntimeError):
    """A driver function has failed: `code` is CUDA's, the message says more."""

    def __init__(self, function: str, code: int, text: str) -> None:
        super().__init__(f"{function} failed ({code}): {text}")
        self.code = code


def call(function: str, *arguments: Any) -> None:
    """Call a driver function and raise DriverError unless it succeeds."""
    driver = control.library()
    code = getattr(driver, function)(*arguments)
    if code:
        text = ctypes.c_char_p()
        driver.cuGetErrorString(code, ctypes.byref(text))
        raise DriverError(function, code, (text.value or b"").decode())


def ensure_context() -> None:
    """Make the primary context current, once."""
    context = ctypes.c_void_p()
    control.library().cuCtxGetCurrent(ctypes.byref(context))
    if not context:
        call("cuInit", 0)
        call("cuDevicePrimaryCtxRetain", ctypes.byref(context), 0)
        call("cuCtxPushCurrent_v2", context)


class Module:
    """The kernels of one .cu file (or text).

    Parameters
    ----------
    source : path of a .cu file, or CUDA C++ text
    name : what reports call a text
    mode : "checked" or "plain"
    options : -D and -I options
    """

    def __init__(
        self, source: Path | str, *, name: str = "", mode: str = "checked", options: tuple[str, ...] = ()
    ) -> None:
        ensure_context()
        text = source.read_text(encoding="utf-8") if isinstance(source, Path) else source
        path = source.resolve() if isinstance(source, Path) else Path("kernel.cu")
        title = name or "/".join(path.parts[-2:])
        image = toolchain.compile_kernels(text, title, mode=mode, options=options).read_bytes()
        self.handle = ctypes.c_void_p()
        call("cuModuleLoadData", ctypes.byref(self.handle), image)

    def function(self, name: str) -> ctypes.c_void_p:
        """Return the handle of a kernel."""
        handle = ctypes.c_void_p()
        call("cuModuleGetFunction", ctypes.byref(handle), self.handle, name.encode())
        return handle

    def global_address(self, name: str) -> tuple[int, int]:
        """Return address and bytes of a __constant__ or __device__ variable."""
        address, size = ctypes.c_uint64(), ctypes.c_size_t()
        call("cuModuleGetGlobal_v2", ctypes.byref(address), ctypes.byref(size), self.handle, name.encode())
        return address.value, size.value

    def launch(
        self,
        name: str,
        grid: int | Sequence[int],
        block: int | Sequence[int],
        *arguments: Any,
        shared: int = 0,
    ) -> None:
        """Launch a kernel and wait for it.

        NumPy arrays are copied to the device and back, packed; NumPy scalars, and DeviceArray for arrays that stay, are
        passed as they are. TypeError for anything else: the kernel's types are not known here.
        """
        for i, value in enumerate(arguments):
            if not isinstance(value, np.ndarray | np.generic | DeviceArray):
                kind = type(value).__name__
                raise TypeError(
                    f"argument {i + 1} must be a NumPy array or scalar, such as np.int32(5), got {kind}"
                )
        arrays = {i: DeviceArray(value) for i, value in enumerate(arguments) if isinstance(value, np.ndarray)}
        packed = b""
        for i, value in enumerate(arguments):
            value = arrays.get(i, value)
            item = np.uint64(value.address) if isinstance(value, DeviceArray) else value
            packed += b"\0" * (-len(packed) % item.nbytes) + item.tobytes()
        buffer, size = ctypes.create_string_buffer(packed, len(packed) or 1), ctypes.c_size_t(len(packed))
        extra = (ctypes.c_void_p * 5)(1, ctypes.addressof(buffer), 2, ctypes.addressof(size), 0)
        dims = [ctypes.c_uint(n) for shape in (grid, block) for n in _triple(shape)]
        try:
            call("cuLaunchKernel", self.function(name), *dims, ctypes.c_uint(shared), None, None, extra)
            for i, device in arrays.items():
                if arguments[i].flags.writeable:
                    device.read(arguments[i])
        finally:
            for device in arrays.values():
                device.free()


class DeviceArray:
    """Device memory with the content of a NumPy array: its elements without gaps, in the byte order of the machine."""

    def __init__(self, content: np.ndarray) -> None:
        if not content.dtype.isnative or content.dtype.hasobject:
            raise TypeError(
                f"an array for a kernel is numbers in native byte order, got dtype {content.dtype.str}"
            )
        ensure_context()
        self.bytes = content.nbytes
        pointer = ctypes.c_uint64()
        if content.nbytes:
            call("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(content.nbytes))
            data = np.ascontiguousarray(content)
            call("cuMemcpyHtoD_v2", pointer, ctypes.c_void_p(data.ctypes.data), ctypes.c_size_t(data.nbytes))
        self.address = pointer.value

    def read(self, target: np.ndarray) -> None:
        """Copy the content back."""
        if target.nbytes != self.bytes:
            raise ValueError(f"{self.bytes} bytes do not fit in an array of {target.nbytes}")
        if self.bytes:
            packed = np.empty(target.shape, target.dtype)
            address = ctypes.c_void_p(packed.ctypes.data)
            call("cuMemcpyDtoH_v2", address, ctypes.c_uint64(self.address), ctypes.c_size_t(self.bytes))
            target[...] = packed

    def free(self) -> None:
        """Give the memory back."""
        if self.address:
            call("cuMemFree_v2", ctypes.c_uint64(self.address))
        self.address = 0


def _triple(shape: int | Sequence[int]) -> tuple[int, ...]:
    sizes = tuple(operator.index(size) for size in (shape if isinstance(shape, tuple | list) else (shape,)))
    if not 1 <= len(sizes) <= 3 or not all(0 <= size < 2**32 for size in sizes):
        raise ValueError(f"a grid or block has one to three sizes from 0 on, got {shape}")
    return (*sizes, *[1] * (3 - len(sizes)))
