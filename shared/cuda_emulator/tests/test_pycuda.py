"""The real PyCUDA runs on the emulated driver, unchanged."""

import subprocess
import sys
from pathlib import Path

import cuda_emulator
import numpy as np
import pytest
from cuda_emulator.control import real_driver
from cuda_emulator.curand import curand_header

if real_driver():
    pytest.skip("this process has NVIDIA's own driver", allow_module_level=True)
pytest.importorskip(
    "pycuda", reason="PyCUDA is not installed: python -m cuda_emulator.pycuda_wheel builds its wheel"
)
cuda_emulator.activate_anyway(Path(__file__).parent / "kernels", announce=False)

import pycuda.autoprimaryctx  # noqa: E402, F401
import pycuda.driver as drv  # noqa: E402
from pycuda import gpuarray  # noqa: E402
from pycuda.compiler import SourceModule  # noqa: E402

KERNELS = Path(__file__).parent / "kernels"
SOURCE = """
__constant__ float scale;
__global__ void add(const float* a, const float* b, float* c, long long n) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i < n) c[i] = a[i] + b[i];
}
__global__ void times(float* y, int n) {
    int i = threadIdx.x;
    if (i < n) y[i] *= scale;
}
"""
F32 = np.float32


@pytest.fixture(scope="module")
def module():
    return SourceModule(SOURCE)


def test_device():
    assert drv.Device(0).name() == "CPU emulator"
    assert drv.Device(0).compute_capability() == (9, 0)
    assert drv.Device(0).get_attribute(drv.device_attribute.MAX_THREADS_PER_BLOCK) == 1024
    assert drv.Device(0).get_attribute(drv.device_attribute.WARP_SIZE) == 32


@pytest.mark.parametrize("n", [1, 255, 257, 5000])
def test_in_and_out(module, rng, n):
    a, b = rng.standard_normal((2, n)).astype(F32)
    c = np.full(n, np.nan, F32)
    grid = (-(-n // 256), 1)
    module.get_function("add")(drv.In(a), drv.In(b), drv.Out(c), np.int64(n), grid=grid, block=(256, 1, 1))
    np.testing.assert_array_equal(c, a + b)


def test_inout_and_constant_memory(module):
    pointer, size = module.get_global("scale")
    drv.memcpy_htod(pointer, F32(2.5))
    y = np.arange(20, dtype=F32)
    module.get_function("times")(drv.InOut(y), np.int32(20), block=(32, 1, 1))
    assert size == 4
    np.testing.assert_array_equal(y, 2.5 * np.arange(20))


def test_gpuarray(rng):
    x, y = rng.standard_normal((2, 7, 5)).astype(F32)
    a, b = gpuarray.to_gpu(x), gpuarray.to_gpu(y)
    np.testing.assert_array_equal(a.get(), x)
    np.testing.assert_array_equal((a + b).get(), x + y)
    np.testing.assert_allclose((2 * a - b).get(), 2 * x - y, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(gpuarray.zeros((3, 2), F32).get(), 0)
    assert a.__cuda_array_interface__["shape"] == (7, 5)


def test_prepared_call_stream_and_events(module, rng):
    a, b = rng.standard_normal((2, 300)).astype(F32)
    arrays = gpuarray.to_gpu(a), gpuarray.to_gpu(b), gpuarray.empty(300, F32)
    add = module.get_function("add")
    add.prepare("PPPq")
    stream, start, end = drv.Stream(), drv.Event(), drv.Event()
    start.record(stream)
    add.prepared_async_call((2, 1), (256, 1, 1), stream, *[array.gpudata for array in arrays], 300)
    end.record(stream)
    end.synchronize()
    assert start.time_till(end) >= 0
    np.testing.assert_array_equal(arrays[2].get(), a + b)


def test_elementwise_kernel(rng):
    from pycuda.elementwise import ElementwiseKernel

    x = rng.standard_normal(100).astype(F32)
    a, out = gpuarray.to_gpu(x), gpuarray.empty(100, F32)
    ElementwiseKernel("float *x, float *y", "y[i] = x[i] * x[i]")(a, out)
    np.testing.assert_array_equal(out.get(), x * x)


def test_random_numbers():
    if not hasattr(drv, "direction_vector_set"):
        pytest.skip(
            "this PyCUDA was built without cuRAND: python -m cuda_emulator.pycuda_wheel builds one with it"
        )
    from pycuda import curandom

    x = curandom.rand((300,)).get()
    assert (x >= 0).all()
    assert 0.35 < x.mean() < 0.65
    if not curand_header():
        pytest.skip("the generators need NVIDIA's header: pip install nvidia-curand")
    y = curandom.XORWOWRandomNumberGenerator().gen_normal(3000, F32).get()
    assert abs(y.mean()) < 0.1
    assert 0.9 < y.std() < 1.1


def test_pycudas_own_argument_checks(module):
    add = module.get_function("add")
    with pytest.raises(TypeError):
        add(1, 2, 3, 4, block=(32, 1, 1))
    y = np.ones(4, F32)
    with pytest.raises(drv.LogicError, match=r"invalid argument: .*the arguments take 28 bytes"):
        add(drv.In(y), drv.In(y), drv.Out(y), np.int32(4), block=(32, 1, 1))
    with pytest.raises(drv.LogicError, match="1025, 1, 1"):
        add(drv.In(y), drv.In(y), drv.Out(y), np.int64(4), block=(1025, 1, 1))


def test_bug_is_an_exception_with_the_line(module):
    source = (KERNELS / "planted_bugs.cu").read_text()
    bugs = SourceModule(source, no_extern_c=True)
    y = np.ones(100, F32)
    cuda_emulator.reports()
    with pytest.raises(drv.Error, match="out-of-bounds global read of 4 bytes") as caught:
        bugs.get_function("no_tail_guard")(
            drv.In(y), drv.Out(y), np.int32(100), grid=(2, 1), block=(64, 1, 1)
        )
    (report,) = cuda_emulator.reports()
    line = next(i + 1 for i, text in enumerate(source.splitlines()) if "2.0f * x[i]" in text)
    assert (report.file, report.line) == (
        "kernels/planted_bugs.cu",
        line,
    )  # found by its text: PyCUDA hides the name
    assert (report.block, report.thread) == ((1, 0, 0), (36, 0, 0))
    assert f"kernels/planted_bugs.cu:{line} in no_tail_guard" in str(caught.value)


def test_compile_error_has_the_line():
    with pytest.raises(drv.CompileError, match=r"kernel\.cu:2:\d+: error: .*missing.* was not declared"):
        SourceModule("__global__ void k(float* y) {\n    y[0] = missing;\n}")


def test_unsupported_feature_is_a_compile_error():
    with pytest.raises(
        drv.CompileError, match=r"kernel\.cu:2: error: not supported by the CPU emulator: inline PTX"
    ):
        SourceModule('__global__ void k() {\n    asm("bar.sync 0;");\n}')


def test_shared_memory_attribute():
    source = "__global__ void k(float* y) { extern __shared__ float s[]; s[9999] = 2; y[0] = s[9999]; }"
    function = SourceModule(source).get_function("k")
    y = np.zeros(1, F32)
    with pytest.raises(drv.LogicError, match="MAX_DYNAMIC_SHARED_SIZE_BYTES"):
        function(drv.InOut(y), block=(1, 1, 1), shared=60000)
    function.set_attribute(drv.function_attribute.MAX_DYNAMIC_SHARED_SIZE_BYTES, 60000)
    function(drv.InOut(y), block=(1, 1, 1), shared=60000)
    assert y[0] == 2


def test_counting_through_pycuda(module):
    arrays = [gpuarray.zeros(256, F32) for _ in range(3)]
    with cuda_emulator.counting() as counters:
        module.get_function("add")(*arrays, np.int64(256), block=(256, 1, 1))
    assert counters.global_bytes_read == 2 * 1024
    assert counters.total("global load").sectors == 2 * 32


def test_activation_after_pycuda_is_an_error():
    code = "import sys; sys.modules['pycuda._driver'] = sys; import cuda_emulator as e; e.activate_anyway()"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert "activate() comes too late" in done.stderr
