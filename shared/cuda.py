"""What the CUDA projects share: devices as a pytest parameter, the compile gate, and measuring on a GPU.

As a pytest plugin (``pytest_plugins = ["shared.plugin", "shared.cuda"]``) it decides, before anything imports PyCUDA
or Triton, what this machine offers:

- ``gpu``: a CUDA device. The kernels and their Triton twins run on it;
- ``emulator``: no device, so the kernels run on the CPU emulator of shared/cuda_emulator, under the real PyCUDA;
- ``interpreter``: no device, so the Triton twins run in Triton's own interpreter.

A test that takes the fixture `cuda_device` or `triton_device` runs on each of them, and what cannot run here is reported
as NOT RUN with the reason.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest
from numpy.typing import NDArray

from shared import cuda_emulator
from shared.bench import ROUNDS, Benchmark, provenance
from shared.cuda_emulator.control import real_driver
from shared.device import cuda_required
from shared.projects import ROOT
from shared.readme import fill_readme

ARCHITECTURES = ("sm_80", "sm_90")
TRITON_ARCHITECTURE = 90


# --- devices --------------------------------------------------------------------------------------------------


@functools.cache
def gpu_present() -> bool:
    """Tell whether NVIDIA's driver offers a device; asked once, before the emulator's driver is loaded."""
    return real_driver()


@functools.cache
def start_devices() -> str:
    """Choose the devices of this process; return why the kernels cannot run here, or "" where they can.

    Without a GPU this activates the emulator and Triton's interpreter, so it comes before the imports of PyCUDA and
    Triton.
    """
    if importlib.util.find_spec("pycuda") is None:
        return "PyCUDA is not installed: python -m shared.pycuda_wheel builds it, on Linux"
    if gpu_present():
        return ""
    os.environ["TRITON_INTERPRET"] = "1"
    try:
        cuda_emulator.activate(announce=False)
    except (RuntimeError, OSError) as error:
        return f"the emulator does not start: {error}"
    return ""


def describe_devices() -> str:
    """Say in one line where this process runs CUDA kernels and Triton kernels."""
    if gpu_present():
        return "CUDA: the kernels run on the GPU"
    return (
        "CUDA: no GPU here; the kernels run on the CPU emulator, their Triton twins in Triton's interpreter"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Choose the devices before a test module imports PyCUDA or Triton."""
    config.addinivalue_line(
        "markers", "emulator_only(reason): not for a GPU, which the test would be wrong about"
    )
    config.addinivalue_line("markers", "gpu_only(reason): not for the emulator or Triton's interpreter")
    start_devices()
    if cuda_emulator.is_active():  # so that reports name the .cu files, a learner's as well
        given = config.getoption("--practice", None)
        practice = Path(given) if given else ROOT / "practice" / config.rootpath.name
        folders = [*([practice / "kernels"] if given is not None else []), config.rootpath / "kernels"]
        cuda_emulator.activate(folders, announce=False)


def pytest_report_header() -> str:
    """Announce the devices."""
    return describe_devices()


@pytest.fixture(params=["emulator", "gpu"])
def cuda_device(request: pytest.FixtureRequest) -> str:
    """Return where the kernels run: "emulator" or "gpu"; skip what this machine does not have."""
    if request.param == "gpu":
        _need_gpu()
    elif gpu_present():
        pytest.skip("emulator: this machine has a GPU, and the kernels run on it")
    if reason := start_devices():
        _not_run(reason)
    _skip_other_device(request, "emulator_only" if request.param == "gpu" else "gpu_only")
    return str(request.param)


@pytest.fixture(params=["interpreter", "gpu"])
def triton_device(request: pytest.FixtureRequest) -> str:
    """Return where Triton kernels run, as a torch device: "cpu" (in the interpreter) or "cuda"."""
    if request.param == "gpu":
        _need_gpu()
    elif gpu_present():
        pytest.skip("interpreter: this machine has a GPU, and Triton compiles for it")
    _skip_other_device(request, "emulator_only" if request.param == "gpu" else "gpu_only")
    return "cuda" if request.param == "gpu" else "cpu"


def _skip_other_device(request: pytest.FixtureRequest, marker: str) -> None:
    """Skip here and not in the test: a skip that comes while a test runs is the answer's, and counts as a failure."""
    if mark := request.node.get_closest_marker(marker):
        pytest.skip(mark.args[0])


def _need_gpu() -> None:
    if not gpu_present():
        _not_run("no CUDA device on this machine")


def _not_run(reason: str) -> NoReturn:
    if cuda_required():
        pytest.fail(f"REQUIRE_CUDA=1 promises that this test runs, but: {reason}")
    pytest.skip(reason)


# --- launching a kernel of a file, as the tests do ----------------------------------------------------------------

_modules: dict[str, Any] = {}  # by source text: a wrong solution compiles its own file only


def launch(
    path: Path,
    name: str,
    arguments: Sequence[Any],
    *,
    grid: int | tuple[int, ...],
    block: int | tuple[int, ...],
    shared_bytes: int = 0,
) -> None:
    """Launch one kernel of a .cu file through PyCUDA and wait for it.

    Arguments are device arrays and NumPy scalars. What PyCUDA, the compiler or the emulator has to say against it is
    raised as it is: the text is the diagnosis.
    """
    import pycuda.autoprimaryctx  # noqa: F401
    from pycuda import driver
    from pycuda.compiler import SourceModule

    source = path.read_text(encoding="utf-8")
    if source not in _modules:
        try:
            _modules[source] = SourceModule(source, no_extern_c=True)
        except driver.CompileError as error:
            _modules[source] = error
    if isinstance(_modules[source], Exception):
        raise _modules[source]
    function = _modules[source].get_function(name)
    if shared_bytes > 48 << 10:
        function.set_attribute(driver.function_attribute.MAX_DYNAMIC_SHARED_SIZE_BYTES, shared_bytes)
    grids, blocks = ((size,) if isinstance(size, int) else size for size in (grid, block))
    blocks = (*blocks, 1, 1)[:3]
    function(*arguments, grid=(*grids, 1)[: max(2, len(grids))], block=blocks, shared=shared_bytes)
    driver.Context.synchronize()


def device_array(array: NDArray[Any]) -> Any:
    """Return a PyCUDA GPUArray with the content of a NumPy array."""
    import pycuda.autoprimaryctx  # noqa: F401
    from pycuda import gpuarray

    return gpuarray.to_gpu(array)


# --- the compile gate: what the compiler says without a GPU -----------------------------------------------------


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


@pytest.fixture
def nvcc() -> Path:
    """Return NVIDIA's compiler; skip a test that needs it where there is none."""
    try:
        return find_nvcc()
    except NoCompilerError as error:
        _not_run(str(error))


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
        if done.returncode:
            raise AssertionError(f"the Triton kernels do not compile:\n{done.stderr[-3000:]}")
        found = []
        for name, shared_bytes in json.loads(done.stdout.splitlines()[-1]).items():
            ptx = f"{out}/{name}.ptx"
            arch = f"sm_{TRITON_ARCHITECTURE}a"
            ptxas = [str(find_nvcc().with_name("ptxas")), "-v", f"-arch={arch}", ptx, "-o", f"{out}/cubin"]
            report = subprocess.run(ptxas, capture_output=True, text=True, check=True).stderr
            kernel = _parse_ptxas(report)[0]
            found.append(
                Resources(
                    name, arch, kernel.registers, kernel.spilled_bytes, kernel.stack_bytes, shared_bytes
                )
            )
    return found


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


def write_resources(folder: Path) -> None:
    """Write results/resources.json from the compile gate, in the format of a benchmark's results."""
    rows: list[dict[str, Any]] = []
    for path in sorted((folder / "kernels").glob("*.cu")):
        found = compile_kernel(path)
        for arch in ARCHITECTURES:
            rows.append(
                _resource_row(f"{path.name}, {arch}", [kernel for kernel in found if kernel.arch == arch])
            )
    listed = folder / "tests" / "ahead_of_time.json"
    for kernel in compile_triton(folder / "triton_kernels.py", listed):
        rows.append(_resource_row(f"Triton: {kernel.kernel}, {kernel.arch}", [kernel]))
    others = [path for path in folder.glob("results/*.json") if path.stem not in ("demo", "resources")]
    if not others:
        state = (
            "NOT RUN: no GPU result is committed; on a GPU, python benchmark.py writes results/<device>.json"
        )
        rows.append({"group": "on a GPU", "case": "all targets", "columns": {"state": state}})
    where = provenance(1, f"compiled with nvcc {nvcc_version()}, not run")
    result = {"provenance": where, "rows": rows}
    (folder / "results").mkdir(exist_ok=True)
    (folder / "results" / "resources.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    fill_readme(folder / "README.md")


def _resource_row(case: str, kernels: list[Resources]) -> dict[str, Any]:
    """Return one row for the entry points of a file (one for each dtype): the range of what they take."""

    def span(values: list[int]) -> str:
        return f"{min(values):,}" if min(values) == max(values) else f"{min(values):,} to {max(values):,}"

    columns = {
        "entry points": str(len(kernels)),
        "registers per thread": span([kernel.registers for kernel in kernels]),
        "bytes spilled": span([kernel.spilled_bytes + kernel.stack_bytes for kernel in kernels]),
        "bytes of static shared memory": span([kernel.shared_bytes for kernel in kernels]),
    }
    return {"group": "compile gate", "case": case, "columns": columns}


# --- measuring on a GPU ------------------------------------------------------------------------------------------


class GpuBenchmark(Benchmark):
    """One benchmark.py of a CUDA project: `Benchmark` with events instead of the host's clock, and a cold L2 cache.

    Everything is queued on the default stream. Before each sample an array larger than the L2 cache is written, which
    also lets the host run ahead, so that its own time is not measured.
    """

    def __init__(self, file: str) -> None:
        import torch

        super().__init__(file, device=torch.cuda.get_device_name(0))
        self._event: Any = torch.cuda.Event
        l2_bytes = torch.cuda.get_device_properties(0).L2_cache_size
        self._flush = torch.empty(max(4 * l2_bytes, 256 << 20), dtype=torch.uint8, device="cuda")

    def time(self, callables: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
        """Time all callables in turn, `rounds` times, and return seconds per call by name."""
        for call in callables.values():
            for _ in range(3):
                call()
        times: dict[str, list[float]] = {name: [] for name in callables}
        order = list(callables)
        for _ in range(rounds):
            order.append(order.pop(0))
            for name in order:
                start, stop = (self._event(enable_timing=True) for _ in range(2))
                self._flush.zero_()
                start.record()
                callables[name]()
                stop.record()
                stop.synchronize()
                times[name].append(start.elapsed_time(stop) / 1e3)
        return times

    def median_ms(self, call: Callable[[], Any]) -> float:
        """Return the median time of one callable."""
        return statistics.median(self.time({"call": call}, 6 if self._quick else ROUNDS)["call"]) * 1e3

    def save(self) -> None:
        """Write results/<GPU>.json, the compile gate and the tables in the README; with ``--quick`` only show them."""
        super().save()
        if not self._quick:
            write_resources(self._folder)


def without_gpu(file: str) -> None:
    """Do what a benchmark.py can do without a GPU: run the compile gate, and say what was not run."""
    folder = Path(file).resolve().parent
    print("NOT RUN: no CUDA device on this machine, so nothing was timed. The compile gate alone:")
    if "--quick" in sys.argv:
        for path in sorted((folder / "kernels").glob("*.cu")):
            for kernel in compile_kernel(path):
                print(f"  {path.name}: {kernel}")
        return
    write_resources(folder)
    print("wrote results/resources.json and the tables in README.md")
