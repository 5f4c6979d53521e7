"""Find NVIDIA's curand_kernel.h: the emulator compiles it, but does not bring it along.

It comes with a toolkit, or with the PyPI package nvidia-curand (77 MB, of which the headers are 2).
"""

from __future__ import annotations

import os
import site
import sys
from pathlib import Path

HEADER = "curand_kernel.h"
# The header's tables for the host, which its kernels read here: they are what its tables for the device are.
CURAND_TABLES = (
    "precalc_xorwow_matrix_host",
    "precalc_xorwow_offset_matrix_host",
    *(f"mrg32k3aM{number}{part}Host" for part in ("", "SubSeq", "Seq") for number in (1, 2)),
)


def curand_header() -> Path | None:
    """Return the path of NVIDIA's header, or None; the newest of several packages."""
    for toolkit in (os.environ.get("CUDA_HOME") or "/usr/local/cuda", "/usr/local/cuda"):
        if Path(toolkit, "include", HEADER).is_file():
            return Path(toolkit, "include", HEADER)
    # The nvcc stand-in runs without installed packages on its path: they are looked for beside the interpreter, at Debian's
    # place, and at the user's own.
    beside = [*Path(sys.executable).parent.parent.glob("lib/python3*/site-packages")]
    debian = [*Path("/usr/local/lib").glob("python3*/dist-packages")]
    for folder in (*map(Path, sys.path), *beside, *debian, Path(site.getusersitepackages())):
        found = sorted(folder.glob(f"nvidia/cu[0-9]*/include/{HEADER}"))
        if found:
            return found[-1]
    return None


def curand_options() -> list[str]:
    """Return the compiler's option that tells include/curand_kernel.h of NVIDIA's."""
    header = curand_header()
    return [f'-DEMULATOR_CURAND="{header}"'] if header else []
