"""CUDA devices as a pytest parameter, and launching a kernel of a file.

As a pytest plugin (``pytest_plugins = ["shared.testing.plugin", "shared.testing.devices"]``) it decides, before anything
imports PyCUDA or Triton, what this machine offers:

- ``gpu``: a CUDA device. The kernels and their Triton twins run on it;
- ``emulator``: no device, so the kernels run on the CPU emulator of shared/cuda_emulator, under the real PyCUDA;
- ``interpreter``: no device, so the Triton twins run in Triton's own interpreter.

A test that takes the fixture `cuda_device` or `triton_device` runs on each of them, and what cannot run here is reported
as NOT RUN with the reason.
"""

from __future__ import annotations

import functools
import importlib.util
import operator
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest
from numpy.typing import NDArray

from shared import cuda_emulator
from shared.cuda_emulator.control import real_driver
from shared.measuring.device import cuda_required
from shared.projects import ROOT
from shared.testing.compile_gate import NoCompilerError, find_nvcc

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
        return "PyCUDA is not installed: python -m shared.cuda_emulator.pycuda_wheel builds it, on Linux"
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


@pytest.fixture
def nvcc() -> Path:
    """Return NVIDIA's compiler; skip a test that needs it where there is none."""
    try:
        return find_nvcc()
    except NoCompilerError as error:
        _not_run(str(error))


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

    Arguments are device arrays and NumPy scalars, sizes are integers, of NumPy too. What PyCUDA, the compiler or the emulator has to say against it is
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
    grids, blocks = (
        tuple(map(operator.index, size if isinstance(size, tuple | list) else (size,)))
        for size in (grid, block)
    )
    blocks = (*blocks, 1, 1)[:3]
    if cuda_emulator.is_active():
        cuda_emulator.warnings()  # of what came before
    function(*arguments, grid=(*grids, 1)[: max(2, len(grids))], block=blocks, shared=shared_bytes)
    driver.Context.synchronize()
    # Right here, and on the GPUs before Volta; an early return before a barrier, the other warning, is right anywhere.
    unsafe = (
        [one for one in cuda_emulator.warnings() if one.kind == "lockstep"]
        if cuda_emulator.is_active()
        else []
    )
    if unsafe:
        raise AssertionError(unsafe[0].message)


def device_array(array: NDArray[Any]) -> Any:
    """Return a PyCUDA GPUArray with the content of a NumPy array, whose bytes are copied in the order in which they are."""
    import pycuda.autoprimaryctx  # noqa: F401
    from pycuda import gpuarray

    return gpuarray.to_gpu(array)
