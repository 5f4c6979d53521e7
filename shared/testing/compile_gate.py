"""What the CUDA compiler says without a GPU: whether a kernel compiles for real devices, and what it takes there."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

ARCHITECTURES = ("sm_80", "sm_90")
TRITON_ARCHITECTURE = 90


@dataclass(frozen=True)
class Resources:
    """What one kernel takes on one architecture, as ptxas reports it."""

    kernel: str
    arch: str
    registers: int
    spilled_bytes: int
    stack_bytes: int  # arrays that are indexed by a variable, and so cannot be registers
    shared_bytes: int  # static; dynamic shared memory is the launch's choice


class NoCompilerError(RuntimeError):
    """There is no CUDA compiler on this machine."""


@functools.cache
def find_nvcc() -> Path:
    """Return NVIDIA's own nvcc: on PATH, in CUDA_HOME, or from the PyPI package nvidia-cuda-nvcc."""
    folders = [*os.environ.get("PATH", "").split(os.pathsep), os.environ.get("CUDA_HOME", "") + "/bin"]
    folders += ["/usr/local/cuda/bin", *(f"{entry}/nvidia/cu13/bin" for entry in sys.path)]
    for folder in folders:
        nvcc = Path(folder, "nvcc")
        if nvcc.is_file() and "NVIDIA" in _output([str(nvcc), "--version"]):  # the emulator's stand-in is not
            return nvcc
    raise NoCompilerError(
        "no CUDA compiler: nvcc is not on PATH, and the package nvidia-cuda-nvcc not installed"
    )


def _output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@functools.cache
def nvcc_version() -> str:
    """Return the compiler's version, such as 13.0.88."""
    found = re.search(r"V([\d.]+)", _output([str(find_nvcc()), "--version"]))
    return found.group(1) if found else "unknown"


def compile_kernel(path: Path, *options: str) -> list[Resources]:
    """Compile one .cu file for every architecture of the gate; return what each of its kernels takes.

    Raises
    ------
    AssertionError
        If it does not compile, with the compiler's message.
    NoCompilerError
        If there is no compiler.
    """
    key = "\0".join([path.read_text(encoding="utf-8"), *options])
    if key not in _compiled:
        _compiled[key] = _compile_kernel(path, options)
    return _compiled[key]


_compiled: dict[str, list[Resources]] = {}  # by source text, for the judge's many runs in one process


def _compile_kernel(path: Path, options: Sequence[str]) -> list[Resources]:
    targets = [f"-gencode=arch=compute_{arch[3:]},code={arch}" for arch in ARCHITECTURES]
    with tempfile.TemporaryDirectory() as folder:
        command = [
            str(find_nvcc()),
            "-fatbin",
            "-std=c++17",
            *targets,
            "-Xptxas=-v",
            "-o",
            f"{folder}/out",
            *options,
        ]
        done = subprocess.run([*command, str(path)], capture_output=True, text=True)
    if done.returncode:
        raise AssertionError(f"{path.name} does not compile:\n{done.stderr}")
    return _parse_ptxas(done.stderr)


def compile_triton(module: Path, listed: Path) -> list[Resources]:
    """Compile the kernels of a triton_kernels.py ahead of time, as a project's tests/ahead_of_time.json lists them.

    Each entry names a kernel of triton_kernels.py, the type of each argument and the value of each constexpr, and the
    number of warps. It runs in a process of its own, since the interpreter is switched on in this one.
    """
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    specification = listed.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-c", _AHEAD_OF_TIME, specification, str(TRITON_ARCHITECTURE), out]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=module.parent)
        if "raise NotImplementedError" in done.stderr:  # Triton compiles no `raise`
            raise NotImplementedError("a Triton kernel is not written yet")
        if done.returncode:
            raise AssertionError(f"the Triton kernels do not compile:\n{done.stderr[-3000:]}")
        found = []
        for name, shared_bytes in json.loads(done.stdout.splitlines()[-1]).items():
            kernel = assemble(Path(out, f"{name}.ptx"), f"sm_{TRITON_ARCHITECTURE}a")
            found.append(replace(kernel, kernel=name, shared_bytes=shared_bytes))
    return found


def assemble(ptx: Path, arch: str) -> Resources:
    """Return what the kernel of a PTX file takes, as the toolkit's ptxas says.

    Raises
    ------
    AssertionError
        If ptxas refuses it, with its message.
    """
    command = [
        str(find_nvcc().with_name("ptxas")),
        "-v",
        f"-arch={arch}",
        str(ptx),
        "-o",
        str(ptx.with_suffix(".cubin")),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise AssertionError(
            f"ptxas of CUDA {nvcc_version()} refuses {ptx.name}:\n{done.stderr.strip()}\n"
            "If it names the PTX version: this Triton is newer than the toolkit; see the bound in pyproject.toml."
        )
    return _parse_ptxas(done.stderr)[0]


_AHEAD_OF_TIME = """
import json, sys
import triton, triton_kernels
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
specification, arch, out = json.loads(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
shared = {}
for name, entry in specification.items():
    kernel = getattr(triton_kernels, entry["kernel"])
    signature = {**entry["arguments"], **dict.fromkeys(entry["constexprs"], "constexpr")}
    signature = {argument: signature[argument] for argument in kernel.arg_names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(signature.values()) if kind.startswith("*")}
    source = ASTSource(fn=kernel, signature=signature, constexprs=entry["constexprs"], attrs=aligned)
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options={"num_warps": entry["num_warps"]})
    open(f"{out}/{name}.ptx", "w").write(compiled.asm["ptx"])
    shared[name] = compiled.metadata.shared
print(json.dumps(shared))
"""


def _parse_ptxas(report: str) -> list[Resources]:
    """Read the lines of ``ptxas -v``."""
    found = []
    for part in re.split(r"Compiling entry function", report)[1:]:
        kernel, arch = re.findall(r"'([^']+)'", part)[:2]
        spills = re.findall(r"(\d+) bytes spill", part)
        registers = re.search(r"Used (\d+) registers", part)
        stack = re.search(r"(\d+) bytes stack frame", part)
        shared_bytes = re.search(r"(\d+) bytes smem", part)
        found.append(
            Resources(
                kernel,
                arch,
                int(registers.group(1)) if registers else 0,
                sum(map(int, spills)),
                int(stack.group(1)) if stack else 0,
                int(shared_bytes.group(1)) if shared_bytes else 0,
            )
        )
    return sorted(found, key=lambda resources: (resources.kernel, resources.arch))


def check_registers(found: Sequence[Resources]) -> None:
    """Assert that every kernel keeps its variables in registers: local memory is as far away as global memory."""
    assert found, "the file has no kernel"
    spilled = [kernel for kernel in found if kernel.spilled_bytes]
    assert not spilled, (
        f"registers spill to local memory: {spilled}; keep fewer variables alive in each thread"
    )
    stacked = [kernel for kernel in found if kernel.stack_bytes]
    assert not stacked, f"an array lies in local memory: {stacked}; unroll the loops that index it"
