"""The PyCUDA wheel: what does not need a build of minutes."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cuda_emulator import pycuda_wheel


def test_not_on_linux_is_said(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(pycuda_wheel.WheelError, match="needs Linux; this is darwin"):
        pycuda_wheel.pycuda_wheel()


def test_no_compiler_is_said(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(pycuda_wheel.WheelError, match="install g\\+\\+ or clang"):
        pycuda_wheel.pycuda_wheel()


def test_cached_wheel_is_not_built_again(monkeypatch, tmp_path):
    monkeypatch.setenv("GROUNDWORK_CACHE", str(tmp_path))
    monkeypatch.setattr(pycuda_wheel, "real_driver", lambda: False)
    builds = []

    def build(python, work, toolkit):
        builds.append(toolkit)
        (work / "pycuda-1.whl").write_text("wheel")
        return work / "pycuda-1.whl"

    monkeypatch.setattr(pycuda_wheel, "_build", build)
    first, second = pycuda_wheel.pycuda_wheel(), pycuda_wheel.pycuda_wheel()
    assert first == second
    assert first.read_text() == "wheel"
    assert builds == [None]
    assert f"cpython-{sys.version_info.major}{sys.version_info.minor}" in str(first)


def test_stub_defines_what_the_headers_declare(tmp_path):
    include = tmp_path / "include"
    include.mkdir()
    (include / "cuda.h").write_text(
        "typedef int CUresult;\nCUresult cuInit(unsigned flags);\n#define CUDA_VERSION 13000\n"
    )
    (include / "cudaProfiler.h").write_text("CUresult cuProfilerStart(void);\n")
    assert pycuda_wheel.toolkit_version(tmp_path) == "13.0"
    pycuda_wheel._write_stub(include, tmp_path / "stubs")
    symbols = subprocess.run(
        ["nm", "-D", tmp_path / "stubs" / "libcuda.so"], capture_output=True, text=True
    ).stdout
    assert " T cuInit" in symbols
    assert " T cuProfilerStart" in symbols


def test_curands_functions_are_looked_for_when_called(tmp_path):
    """The library need not be there: an import that fails for want of 100 MB would be no help."""
    pycuda_wheel._write_curand(tmp_path)
    extension = tmp_path / "extension.so"
    whole = ["-Wl,--whole-archive", "-lcurand", "-Wl,--no-whole-archive", "-ldl"]
    code = '#include "curand.h"\nextern "C" int version() { int v = 0; curandGetVersion(&v); return v; }'
    code += '\nextern "C" int vectors() {\n#include "curand.h"\n'  # twice: PyCUDA includes it twice
    code += "curandDirectionVectors32_t* p; return curandGetDirectionVectors32(&p, CURAND_DIRECTION_VECTORS_32_JOEKUO6); }"
    command = [
        "g++",
        "-shared",
        "-fPIC",
        "-x",
        "c++",
        f"-I{tmp_path}",
        "-",
        "-x",
        "none",
        f"-L{tmp_path}",
        *whole,
    ]
    subprocess.run([*command, "-o", extension], input=code, text=True, check=True)
    functions = ctypes.CDLL(str(extension))
    assert functions.version() >= 10400
    assert functions.vectors() in (0, 101)  # CURAND_STATUS_NOT_INITIALIZED, unless the library is there


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path):
    """A HOME of another user, or none: here a file stands in its place."""
    (tmp_path / "home").write_text("")
    environment = {**os.environ, "HOME": str(tmp_path / "home"), "GROUNDWORK_CACHE": "", "XDG_CACHE_HOME": ""}
    command = [sys.executable, "-m", "cuda_emulator.pycuda_wheel"]
    cwd = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd)
    assert done.returncode == 1
    assert done.stderr.startswith("NOT BUILT: no place for what is built once: ")
    assert len(done.stderr.splitlines()) == 1
