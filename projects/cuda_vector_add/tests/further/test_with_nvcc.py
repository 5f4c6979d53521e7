"""The compile gate: what NVIDIA's compiler says about the kernels, without a GPU."""

from pathlib import Path

import pytest

import ladder
import triton_kernels
from shared.testing.compile_gate import check_registers, compile_kernel, compile_triton

KERNELS = Path(ladder.__file__).parent / "kernels"

pytestmark = pytest.mark.timeout(300)  # compilers in processes of their own: seconds, more on a busy machine


@pytest.mark.grades
@pytest.mark.parametrize("kernel", ladder.KERNELS)
def test_compiles_without_spilling(kernel, nvcc):
    """Each file compiles for sm_80 and sm_90, and keeps its variables in registers."""
    check_registers(compile_kernel(KERNELS / f"{kernel}.cu"))


@pytest.mark.grades("vector_add_triton")
def test_triton_compiles_ahead_of_time(nvcc):
    """The Triton twin compiles for sm_90."""
    module = Path(triton_kernels.__file__)
    if "raise NotImplementedError" in module.read_text(encoding="utf-8"):
        raise NotImplementedError("not written yet, so there is no need to start the compiler")
    check_registers(compile_triton(module, Path(__file__).parents[1] / "ahead_of_time.json"))
