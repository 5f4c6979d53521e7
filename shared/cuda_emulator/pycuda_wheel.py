"""Build PyCUDA once into a cached wheel: it comes as source only, and its plain build needs a driver and a toolkit.

Only PyPI packages are needed. The CUDA headers come from three small ones, and the library that the extension
links against is a generated stub: the driver that is loaded later is the GPU's own, or the CPU emulator's.
Where a toolkit is installed beside a real driver, its headers are used, so that both are of one version.

    python -m cuda_emulator.pycuda_wheel [--python PYTHON]      prints the path of the wheel
"""

from __future__ import annotations

import argparse
import fcntl
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from .control import real_driver
from .toolchain import ToolchainError, cache_folder, compiler

VERSION = "2026.1"
CUDA = "13.0"
HEADER_PACKAGES = ("nvidia-cuda-runtime", "nvidia-cuda-crt", "nvidia-cuda-profiler-api")
# -O1: the extension only forwards calls, and builds twice as fast.
SITECONF = """\
CUDA_ROOT = {root!r}
CUDA_INC_DIR = [{include!r}, {stubs!r}]
CUDADRV_LIB_DIR = [{stubs!r}]
CURAND_LIB_DIR = [{stubs!r}]
CURAND_LIBNAME = ["curand", "dl"]
CXXFLAGS = ["-O1", "-g0", "-w"]
LDFLAGS = ["-Wl,-rpath,$ORIGIN/../nvidia/cu{major}/lib"]
"""
# pycuda.curandom calls these four functions of cuRAND's library and a fifth for its version; the generators themselves are
# device code. The library is 100 MB: it is not linked, but looked for when one of the functions is called (beside PyCUDA, by
# the rpath, is where the package nvidia-curand puts it), and only Sobol's generators call one. CURAND_H is a toolkit's header in small, for where there is none.
CURAND_H = """\
#pragma once
typedef int curandStatus_t;
enum { CURAND_STATUS_SUCCESS = 0, CURAND_STATUS_NOT_INITIALIZED = 101 };
typedef enum {
    CURAND_DIRECTION_VECTORS_32_JOEKUO6 = 101, CURAND_SCRAMBLED_DIRECTION_VECTORS_32_JOEKUO6,
    CURAND_DIRECTION_VECTORS_64_JOEKUO6, CURAND_SCRAMBLED_DIRECTION_VECTORS_64_JOEKUO6
} curandDirectionVectorSet_t;
typedef unsigned int curandDirectionVectors32_t[32];
typedef unsigned long long curandDirectionVectors64_t[64];
extern "C" {
curandStatus_t curandGetVersion(int*);
curandStatus_t curandGetDirectionVectors32(curandDirectionVectors32_t**, curandDirectionVectorSet_t);
curandStatus_t curandGetDirectionVectors64(curandDirectionVectors64_t**, curandDirectionVectorSet_t);
curandStatus_t curandGetScrambleConstants32(unsigned int**);
curandStatus_t curandGetScrambleConstants64(unsigned long long**);
}
"""
CURAND_C = """\
#include <dlfcn.h>
static int forward(const char* name, void* result, int set) {
    void* library = dlopen("libcurand.so.10", RTLD_NOW);
    int (*function)(void*, int) = library ? dlsym(library, name) : 0;
    return function ? function(result, set) : 101;  /* CURAND_STATUS_NOT_INITIALIZED */
}
int curandGetVersion(int* version) {
    *version = 10400;
    forward("curandGetVersion", version, 0);
    return 0;
}
int curandGetDirectionVectors32(void* p, int set) { return forward("curandGetDirectionVectors32", p, set); }
int curandGetDirectionVectors64(void* p, int set) { return forward("curandGetDirectionVectors64", p, set); }
int curandGetScrambleConstants32(void* p) { return forward("curandGetScrambleConstants32", p, 0); }
int curandGetScrambleConstants64(void* p) { return forward("curandGetScrambleConstants64", p, 0); }
"""


class WheelError(RuntimeError):
    """PyCUDA cannot be built on this machine; the message says why and what would help."""


def pycuda_wheel(python: str = sys.executable) -> Path:
    """Return the path of a PyCUDA wheel for the given Python, building it on the first call (one to two minutes).

    Parameters
    ----------
    python : path of the interpreter that will import it

    Raises
    ------
    WheelError
        not on Linux, no C++ compiler, PyPI out of reach, or the build failed
    """
    if sys.platform != "linux":
        raise WheelError(f"PyCUDA on the emulator needs Linux; this is {sys.platform}")
    try:
        compiler()
    except ToolchainError as error:
        raise WheelError(str(error)) from None
    toolkit = installed_toolkit() if real_driver() else None
    headers = f"toolkit{toolkit_version(toolkit)}" if toolkit else f"cuda{CUDA}"
    tag = _ask(python, "import sys, sysconfig; print(sys.implementation.cache_tag, sysconfig.get_platform())")
    folder = cache_folder("pycuda") / "-".join([VERSION, headers, "curand", *tag.split()])
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a second session waits for the first one's build
        built = sorted(folder.glob("*.whl"))
        if built:
            return built[0]
        print(f"building PyCUDA {VERSION} once, into {folder} (one to two minutes)", file=sys.stderr)
        with tempfile.TemporaryDirectory() as work:
            wheel = _build(python, Path(work), toolkit)
            shutil.move(wheel, folder / (wheel.name + ".part"))
        return (folder / (wheel.name + ".part")).rename(folder / wheel.name)


def installed_toolkit() -> Path | None:
    """Return the root of an installed CUDA toolkit with headers, or None."""
    nvcc = shutil.which("nvcc")
    roots = [Path(os.environ.get("CUDA_HOME") or "/usr/local/cuda"), Path("/usr/local/cuda")]
    roots += [Path(nvcc).resolve().parent.parent] if nvcc else []
    return next((root for root in roots if (root / "include" / "cuda.h").exists()), None)


def toolkit_version(root: Path) -> str:
    """Return the version in a toolkit's cuda.h, such as 13.0."""
    found = re.search(
        r"#define CUDA_VERSION (\d+)", (root / "include" / "cuda.h").read_text(errors="replace")
    )
    number = int(found.group(1)) if found else 0
    return f"{number // 1000}.{number % 1000 // 10}"


def _build(python: str, work: Path, toolkit: Path | None) -> Path:
    """Download, configure and build in the folder `work`; return the wheel."""
    _run([python, "-m", "venv", work / "venv"], "cannot make a virtual environment (Debian: python3-venv)")
    pip: list[str | Path] = [
        work / "venv" / "bin" / "python",
        "-m",
        "pip",
        "--quiet",
        "--disable-pip-version-check",
    ]
    root = toolkit or _download_headers(pip, work)
    _run([*pip, "download", "--no-deps", "--no-binary=pycuda", "-d", work, f"pycuda=={VERSION}"], "no PyCUDA")
    with tarfile.open(work / f"pycuda-{VERSION}.tar.gz") as archive:
        archive.extractall(work, filter="data")
    source = work / f"pycuda-{VERSION}"
    _write_stub(root / "include", work / "stubs")
    _write_curand(work / "stubs")
    conf = SITECONF.format(
        root=str(root),
        include=str(root / "include"),
        stubs=str(work / "stubs"),
        major=toolkit_version(root).split(".")[0],
    )
    (source / "siteconf.py").write_text(conf)
    _run([*pip, "wheel", "--no-deps", "-w", work / "wheel", source], "the build of PyCUDA failed")
    return next((work / "wheel").glob("*.whl"))


def _download_headers(pip: list[str | Path], work: Path) -> Path:
    """Unpack the header packages; they share one folder, nvidia/cu13, which looks like a toolkit's root."""
    wanted = [f"{package}=={CUDA}.*" for package in HEADER_PACKAGES]
    _run(
        [*pip, "download", "--no-deps", "--only-binary=:all:", "-d", work / "headers", *wanted],
        "no CUDA headers",
    )
    for wheel in (work / "headers").glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(work / "toolkit")
    return next((work / "toolkit").glob("nvidia/cu*"))


def _write_stub(include: Path, folder: Path) -> None:
    """Write a libcuda.so that defines every function that the headers declare.

    It is only linked against. Its soname is the driver's, so that the extension asks for the driver when it is
    imported; an empty stub would link as well, but the linker would then drop that request.
    """
    folder.mkdir()
    headers = "#include <cuda.h>\n#include <cudaProfiler.h>\n"
    command = [compiler(), "-E", "-P", "-x", "c", f"-I{include}", "-"]
    text = subprocess.run(command, input=headers, capture_output=True, text=True, check=True).stdout
    names = sorted(set(re.findall(r"\bCUresult\s+(cu[A-Za-z0-9_]+)\s*\(", text)))
    stub = "".join(f"int {name}(void) {{ return 34; /* CUDA_ERROR_STUB_LIBRARY */ }}\n" for name in names)
    (folder / "stub.c").write_text(stub)
    link = [compiler(), "-shared", "-fPIC", "-w", "-x", "c", "-Wl,-soname,libcuda.so.1"]
    _run([*link, "-o", folder / "libcuda.so", folder / "stub.c"], "the link stub failed")


def _write_curand(folder: Path) -> None:
    """Write curand.h and a static library, whose functions become part of the extension."""
    (folder / "curand.h").write_text(CURAND_H)
    (folder / "curand.c").write_text(CURAND_C)
    built = folder / "curand.o"
    _run(
        [compiler(), "-c", "-fPIC", "-fvisibility=hidden", "-w", "-x", "c", "-o", built, folder / "curand.c"],
        "cuRAND's stub failed",
    )
    _run(["ar", "rcs", folder / "libcurand.a", built], "cuRAND's stub failed")


def _run(command: Sequence[str | Path], problem: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise WheelError(f"{problem}:\n{(done.stdout + done.stderr)[-4000:]}")


def _ask(python: str, code: str) -> str:
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    """Print the path of the wheel."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--python", default=sys.executable, help="the interpreter that will import PyCUDA")
    try:
        print(pycuda_wheel(parser.parse_args().python))
    except (WheelError, ToolchainError) as error:
        sys.exit(f"NOT BUILT: {error}")


if __name__ == "__main__":
    main()
