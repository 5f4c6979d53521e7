"""PyCUDA's own reductions, which end in lockstep without a __syncwarp(), give the right numbers in both modes."""

from pathlib import Path

import cuda_emulator
import numpy as np
import pytest
from cuda_emulator.control import real_driver

if real_driver():
    pytest.skip("this process has NVIDIA's own driver", allow_module_level=True)
pytest.importorskip(
    "pycuda", reason="PyCUDA is not installed: python -m cuda_emulator.pycuda_wheel builds its wheel"
)
cuda_emulator.activate_anyway(Path(__file__).parent / "kernels", announce=False)

import pycuda.autoprimaryctx  # noqa: E402, F401
from pycuda import gpuarray  # noqa: E402
from pycuda.reduction import ReductionKernel  # noqa: E402

TYPES = {
    "int32": "int",
    "float32": "float",
    "float64": "double",
    "complex64": "pycuda::complex<float>",
    "complex128": "pycuda::complex<double>",
}


@pytest.mark.parametrize("mode", ["checked", "plain"])
@pytest.mark.parametrize("dtype", TYPES)
def test_dot_product(rng, dtype, mode):
    """Complex numbers come with copy constructors, too."""
    cuda_type = TYPES[dtype]
    with cuda_emulator.settings(mode=mode):
        dot = ReductionKernel(
            np.dtype(dtype),
            name=f"dot_{mode}",
            neutral="0",
            reduce_expr="a + b",
            map_expr="x[i] * y[i]",
            arguments=f"const {cuda_type} *x, const {cuda_type} *y",
            preamble="#include <pycuda-complex.hpp>",
        )
        for n in (1, 33, 3000):
            imaginary = 1j * rng.integers(-9, 9, (2, n)) if dtype.startswith("complex") else 0
            x, y = (rng.integers(-9, 9, (2, n)) + imaginary).astype(dtype)
            device = gpuarray.to_gpu(x), gpuarray.to_gpu(y)
            for schedule in cuda_emulator.SCHEDULES:
                with cuda_emulator.settings(schedule=schedule):
                    assert dot(*device).get() == (x * y).sum()  # whole numbers: exact
    kinds = {warning.kind for warning in cuda_emulator.warnings()}
    assert kinds == ({"lockstep"} if mode == "checked" else set())


def test_sums_of_arrays(rng):
    x = rng.standard_normal(1000).astype(np.float32)
    device = gpuarray.to_gpu(x)
    for schedule in cuda_emulator.SCHEDULES:
        with cuda_emulator.settings(schedule=schedule):
            np.testing.assert_allclose(gpuarray.sum(device).get(), x.sum(), rtol=1e-4, atol=1e-4)
            assert gpuarray.max(device).get() == x.max()
            np.testing.assert_allclose(gpuarray.dot(device, device).get(), (x * x).sum(), rtol=1e-4)


def test_complex_arithmetic(rng):
    x = (rng.standard_normal(50) + 1j * rng.standard_normal(50)).astype(np.complex64)
    device = gpuarray.to_gpu(x)
    two = np.complex64(2 - 1j)
    np.testing.assert_allclose((device * device + two * device).get(), x * x + two * x, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose((device / device).get(), np.ones(50), rtol=1e-5, atol=1e-5)
