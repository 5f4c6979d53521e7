"""Which device this machine has, asked of the driver, so that asking imports no framework."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
from pathlib import Path


def cuda_device_count() -> int:
    """Return how many CUDA devices the driver offers (honours CUDA_VISIBLE_DEVICES); 0 without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    if hasattr(driver, "emulator_version"):
        return 0  # shared/cuda_emulator: a CUDA device made of the CPU
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def cuda_required() -> bool:
    """Tell whether this runner promises a GPU, so that a GPU test that cannot run is a failure."""
    return os.environ.get("REQUIRE_CUDA") == "1"


def cpu_name() -> str:
    """Return the processor's model name, or the machine type where the system does not tell."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return platform.processor() or platform.machine()
