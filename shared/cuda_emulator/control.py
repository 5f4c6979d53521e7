"""Switch the emulator on, choose how launches run, and read what it found and counted."""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import operator
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from . import toolchain
from .counters import Counters

SCHEDULES = ("forward", "reverse", "random", "warp_greedy")
NO_LIMIT = 2**64 - 1


@dataclass(frozen=True)
class Report:
    """One mistake of a kernel: an error, which the launch was stopped for, or a warning.

    Parameters
    ----------
    kind : "out of bounds", "misaligned", "use after free", "uninitialised shared memory", "race",
        "barrier divergence", "deadlock", "absent lane", "warp divergence", "integer overflow", "division by zero",
        "cast out of range", "host variable", "host access", "failed call", "assert", "trap", "timeout" or "crash"; of warnings
        "barrier divergence", "lockstep", "kind of copy" or "unchecked"
    severity : "error" or "warning"
    message : the whole text, as in the exception
    code : CUDA's error code; 0 of a warning
    kernel : the kernel's name
    file, line : the place in the .cu file
    block, thread : blockIdx and threadIdx
    """

    kind: str
    severity: str
    message: str
    code: int
    kernel: str
    file: str
    line: int
    block: tuple[int, int, int]
    thread: tuple[int, int, int]


class _State:
    """What this process has switched on; there is one driver per process."""

    library: ctypes.CDLL | None = None
    schedule: str = "forward"
    seed: int = 1
    window: tuple[int, int] | None = None
    timeout_s: float = 60.0
    counting: bool = False


def read_environment() -> None:
    """Take the settings of a program or script that runs on its own: `run` and `check` set them (programs.py)."""
    _State.schedule = os.environ.get("CUDA_EMULATOR_SCHEDULE", _State.schedule)
    _State.seed = int(os.environ.get("CUDA_EMULATOR_SEED", _State.seed))
    _State.timeout_s = float(os.environ.get("CUDA_EMULATOR_TIMEOUT", _State.timeout_s))
    library().emulator_read_environment()  # and how fresh memory is filled
    _apply()


def real_driver() -> bool:
    """Tell whether NVIDIA's driver offers a device (and not only this emulator's)."""
    if _State.library is not None:
        return False
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    if hasattr(driver, "emulator_version") or driver.cuInit(0) != 0:
        return False
    return driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0


def activate(kernels: str | Path | Iterable[str | Path] = (), *, announce: bool = True) -> bool:
    """Make the emulator this process's CUDA device, unless there is a real one; return whether it is active.

    Call it before ``pycuda.driver`` is imported. The library is compiled on first use (about ten seconds) and cached.

    Parameters
    ----------
    kernels : folders with .cu files. PyCUDA passes kernels as text; a file here with that text lends its name to reports
    announce : say so on stderr, once
    """
    if _State.library is None and real_driver():
        return False
    activate_anyway(kernels, announce=announce)
    return True


def activate_anyway(kernels: str | Path | Iterable[str | Path] = (), *, announce: bool = True) -> None:
    """Do what `activate` does even where there is a GPU (its own driver must not be loaded in this process)."""
    if sys.platform != "linux":
        raise toolchain.ToolchainError(f"the CUDA emulator needs Linux; this is {sys.platform}")
    folders = [kernels] if isinstance(kernels, str | Path) else list(kernels)
    known = list(filter(None, os.environ.get("CUDA_EMULATOR_KERNELS", "").split(os.pathsep)))
    wanted = [str(Path(folder).resolve()) for folder in folders]
    os.environ["CUDA_EMULATOR_KERNELS"] = os.pathsep.join(dict.fromkeys([*wanted, *known]))
    if _State.library is not None:
        return
    if "pycuda._driver" in sys.modules:
        raise RuntimeError("activate() comes too late: pycuda.driver is imported, and has its driver")
    # PyCUDA's extension asks for libcuda.so.1; a library of that name which is loaded already is what it gets.
    library = _State.library = ctypes.CDLL(str(toolchain.driver_path()), mode=ctypes.RTLD_GLOBAL)
    library.emulator_set_timeout.argtypes = [ctypes.c_double]
    library.emulator_set_window.argtypes = [ctypes.c_uint64, ctypes.c_uint64]
    for take in (
        library.emulator_take_reports,
        library.emulator_take_warnings,
        library.emulator_take_counters,
    ):
        take.restype = ctypes.c_char_p
    os.environ["PATH"] = f"{toolchain.nvcc_folder()}{os.pathsep}{os.environ.get('PATH', '')}"
    os.environ["PYCUDA_DISABLE_CACHE"] = (
        "1"  # PyCUDA's own cache does not know modes; the emulator has one that does
    )
    _apply()
    if announce:
        mode = os.environ.get("CUDA_EMULATOR_MODE", "checked")
        print(f"no CUDA device: kernels run on the CPU emulator ({mode} mode)", file=sys.stderr)


def real_nvcc() -> str | None:
    """Return the path of NVIDIA's nvcc, or None: after activate() the one on PATH is the stand-in."""
    own = str(toolchain.nvcc_folder())
    folders = [folder for folder in os.environ.get("PATH", "").split(os.pathsep) if folder != own]
    return shutil.which("nvcc", path=os.pathsep.join(folders))


def is_active() -> bool:
    """Tell whether this process's CUDA device is the emulator."""
    return _State.library is not None


def library() -> ctypes.CDLL:
    """Return the loaded driver."""
    if _State.library is None:
        raise RuntimeError("the emulator is not active: call cuda_emulator.activate() first")
    return _State.library


def _apply() -> None:
    driver = library()
    first, count = _State.window or (0, NO_LIMIT)
    driver.emulator_set_schedule(SCHEDULES.index(_State.schedule), ctypes.c_uint(_State.seed))
    driver.emulator_set_window(first, count)
    driver.emulator_set_timeout(_State.timeout_s)
    driver.emulator_set_counting(int(_State.counting))


def _checked(
    schedule: str | None,
    seed: int | None,
    window: tuple[int, int] | None,
    timeout_s: float | None,
    mode: str | None,
) -> tuple[int, int] | None:
    """Raise ValueError or TypeError for settings that make no sense; return the window as integers."""
    if schedule is not None and schedule not in SCHEDULES:
        raise ValueError(f"schedule must be one of {SCHEDULES}, got {schedule!r}")
    if mode not in (None, "checked", "plain"):
        raise ValueError(f"mode must be 'checked' or 'plain', got {mode!r}")
    if seed is not None and not 0 <= operator.index(seed) < 2**32:
        raise ValueError(f"seed must be from 0 to 2**32 - 1, got {seed!r}")
    if window is not None:
        first, count = (operator.index(number) for number in window)
        if first < 0 or count < 1 or first + count >= 2**63:
            raise ValueError(f"window must be (first block, number of blocks), one at least, got {window!r}")
        window = first, count
    if timeout_s is not None and not (isinstance(timeout_s, int | float) and 0 < timeout_s < math.inf):
        raise ValueError(f"timeout_s must be a number of seconds above 0, got {timeout_s!r}")
    return window


@contextlib.contextmanager
def settings(
    *,
    schedule: str | None = None,
    seed: int | None = None,
    window: tuple[int, int] | None = None,
    timeout_s: float | None = None,
    mode: str | None = None,
) -> Iterator[None]:
    """Run the launches inside under other settings; what is not given stays.

    Parameters
    ----------
    schedule : "forward", "reverse", "random" or "warp_greedy": which thread goes first
    seed : of the last two
    window : (first block, number of blocks): only these run, so that a grid over a huge array stays testable
    timeout_s : after which a launch is stopped
    mode : "checked" or "plain", for kernels that are compiled inside
    """
    window = _checked(schedule, seed, window, timeout_s, mode)
    before = (
        _State.schedule,
        _State.seed,
        _State.window,
        _State.timeout_s,
        os.environ.get("CUDA_EMULATOR_MODE"),
    )
    _State.schedule = schedule or _State.schedule
    _State.seed = _State.seed if seed is None else seed
    _State.window = window or _State.window
    _State.timeout_s = _State.timeout_s if timeout_s is None else float(timeout_s)
    if mode:
        os.environ["CUDA_EMULATOR_MODE"] = mode
    _apply()
    try:
        yield
    finally:
        _State.schedule, _State.seed, _State.window, _State.timeout_s, old_mode = before
        os.environ.pop("CUDA_EMULATOR_MODE", None)
        if old_mode:
            os.environ["CUDA_EMULATOR_MODE"] = old_mode
        _apply()


@contextlib.contextmanager
def counting() -> Iterator[Counters]:
    """Count what the launches inside ask of the memory system; the counters are filled when the block ends.

    One at a time: a launch belongs to one block.
    """
    if _State.counting:
        raise RuntimeError("counting() inside counting(): each launch is counted once")
    counters = Counters()
    library().emulator_take_counters()  # whatever an earlier block left
    _State.counting = True
    _apply()
    try:
        yield counters
    finally:
        _State.counting = False
        _apply()
        counters.read(json.loads(library().emulator_take_counters()))


def reports() -> list[Report]:
    """Return what launches were stopped for since the last call, oldest first."""
    return _read(library().emulator_take_reports())


def warnings() -> list[Report]:
    """Return what launches were not stopped for since the last call, oldest first: it works, but look at it."""
    return _read(library().emulator_take_warnings())


def _read(text: bytes) -> list[Report]:
    found = json.loads(text)
    return [Report(**{**one, "block": tuple(one["block"]), "thread": tuple(one["thread"])}) for one in found]
