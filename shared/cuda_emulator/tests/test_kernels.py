"""Correct kernels stay silent and right under every schedule; what cannot run is refused by name."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import cuda_emulator
import numpy as np
import pytest
from cuda_emulator import toolchain
from cuda_emulator.launch import DeviceArray, DriverError, Module, call
from cuda_emulator.text import UnsupportedError

KERNELS = Path(__file__).parent / "kernels"
ROOT = Path(__file__).parents[2]
F32, I32 = np.float32, np.int32


@pytest.fixture(scope="module")
def correct() -> Module:
    cuda_emulator.activate_anyway(announce=False)
    return Module(KERNELS / "correct.cu")


# --- correct kernels -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("schedule")
class TestCorrectKernels:
    @pytest.mark.parametrize("n", [1, 31, 33, 1000])
    def test_grid_stride_add(self, correct, rng, n):
        a, b = rng.standard_normal((2, n)).astype(F32)
        c = np.full(n, np.nan, F32)
        correct.launch("grid_stride_add", 3, 64, a, b, c, np.int64(n))
        np.testing.assert_array_equal(c, a + b)

    def test_vector_scale(self, correct, rng):
        x = rng.standard_normal(1003).astype(F32)
        y = np.full_like(x, np.nan)
        correct.launch("vector_scale", 4, 64, x, y, I32(x.size))
        np.testing.assert_array_equal(y, 2 * x)

    def test_tiled_matmul(self, correct, rng):
        m, n, k = 13, 22, 19
        a, b = rng.standard_normal((m, k)).astype(F32), rng.standard_normal((k, n)).astype(F32)
        c = np.full((m, n), np.nan, F32)
        correct.launch("tiled_matmul", (3, 2), (8, 8), a, b, c, I32(m), I32(n), I32(k))
        np.testing.assert_allclose(c, a.astype(float) @ b, rtol=1e-5, atol=1e-5)

    def test_transpose(self, correct, rng):
        x = rng.standard_normal((21, 37)).astype(F32)
        y = np.full((37, 21), np.nan, F32)
        correct.launch("transpose", (3, 2), (16, 16), x, y, I32(21), I32(37))
        np.testing.assert_array_equal(y, x.T)

    def test_softmax_rows(self, correct, rng):
        x = (10 * rng.standard_normal((5, 133))).astype(F32)
        y = np.full_like(x, np.nan)
        correct.launch("softmax_rows", 5, 96, x, y, I32(133), shared=3 * 4)
        expected = np.exp(x - x.max(1, keepdims=True, initial=-np.inf).astype(float))
        np.testing.assert_allclose(y, expected / expected.sum(1, keepdims=True), rtol=1e-5)

    @pytest.mark.parametrize("threads", [1, 2, 31, 33, 100, 992, 1023, 1024])
    def test_sum_of_any_block(self, correct, rng, threads):
        x = rng.integers(-99, 99, 3000).astype(I32)
        y = np.zeros(1, I32)
        correct.launch("sum_of_any_block", 2, threads, x, y, I32(x.size))
        assert y[0] == x.sum()

    def test_half_warps(self, correct, rng):
        x = rng.integers(-99, 99, 64).astype(I32)
        y = np.zeros_like(x)
        correct.launch("half_warps", 1, 64, x, y)
        sums, most = x.reshape(2, 2, 16).sum(2)[:, 0], x.reshape(2, 2, 16).max(2)[:, 1]
        np.testing.assert_array_equal(y, np.repeat([sums[0], most[0], sums[1], most[1]], 16))

    def test_three_dimensions(self, correct, rng):
        x = rng.integers(-99, 99, (5, 7, 11)).astype(I32)
        y = np.zeros_like(x)
        correct.launch("three_dimensions", (2, 1, 2), (4, 3, 2), x, y, I32(11), I32(7), I32(5))
        np.testing.assert_array_equal(y, 3 * x + np.arange(11))

    def test_gather_if(self, correct, rng):
        x, y, i = rng.standard_normal(48), np.zeros(48), np.arange(48) * 7 % 48
        correct.launch("gather_if", 1, 48, x, y, shared=48 * 13)
        np.testing.assert_array_equal(y, np.where(i % 2, x[i], -x[i]))

    def test_numbers_wrap(self, correct, rng):
        """A thread that has read something computes with data: an overflow is what NumPy's is."""
        n = 32
        x = rng.integers(-(2**31), 2**31, n).astype(I32)
        x[:2] = -(2**31)
        y = np.zeros((n, 3), I32)
        correct.launch("wrapping_numbers", 1, n, x, y, I32(n))
        sums = np.array([np.sum(x * np.roll(x, -i), dtype=I32) for i in range(n)])
        with np.errstate(over="ignore"):
            total = np.full(n, -np.sum(sums, dtype=I32))
            expected = np.stack([sums + sums[np.arange(n) ^ 1], -x, total], 1)
        np.testing.assert_array_equal(y, expected)

    @pytest.mark.parametrize("limit", [0.5, 2.0])
    def test_one_value_from_many_threads(self, correct, limit):
        x, y = np.linspace(-1, 1, 64, dtype=F32), np.full(64, -1, I32)
        correct.launch("any_above", 1, 64, x, y, F32(limit))
        np.testing.assert_array_equal(y, limit < 1)

    def test_histogram(self, correct, rng):
        x = rng.integers(0, 8, 500).astype(I32)
        bins = np.zeros(8, I32)
        correct.launch("histogram", 3, 64, x, bins, I32(500))
        np.testing.assert_array_equal(bins, np.bincount(x, minlength=8))

    def test_small_elements(self, correct, rng):
        x = rng.integers(0, 80, 64).astype(np.uint8)
        y, z = np.zeros_like(x), np.zeros(64, np.uint16)
        correct.launch("small_elements", 1, 64, x, y, z)
        np.testing.assert_array_equal(y, x[::-1])
        np.testing.assert_array_equal(z, 3 * x.reshape(32, 2)[:, ::-1].ravel().astype(np.uint16))

    def test_warp_exchange(self, correct, rng):
        x = rng.integers(-9, 9, 64).astype(F32)
        y = np.zeros_like(x)
        correct.launch("warp_exchange", 1, 64, x, y)
        np.testing.assert_array_equal(y, np.repeat(x.reshape(2, 32).sum(1), 32))

    def test_compact_positive(self, correct, rng):
        x = rng.standard_normal(27).astype(F32)
        y, count = np.zeros_like(x), np.zeros(1, I32)
        correct.launch("compact_positive", 1, 32, x, y, count, I32(27))
        np.testing.assert_array_equal(y[: count[0]], x[x > 0])

    def test_convolve_with_constant_memory(self, correct, rng):
        address, size = correct.global_address("weights")
        weights = np.array([0.25, 0.5, -1.0], F32)
        assert size == weights.nbytes
        call("cuMemcpyHtoD_v2", *map(_pointer, (address, weights.ctypes.data, size)))
        x = rng.standard_normal(100).astype(F32)
        y = np.zeros_like(x)
        correct.launch("convolve", 2, 64, x, y, I32(100))
        np.testing.assert_allclose(y[1:-1], 0.25 * x[:-2] + 0.5 * x[1:-1] - x[2:], rtol=1e-5, atol=1e-6)

    def test_sum_by_last_block(self, correct, rng):
        x = rng.integers(-9, 9, 1000).astype(F32)
        y, partial = np.zeros(1, F32), np.zeros(5, F32)
        correct.launch("sum_by_last_block", 5, 64, x, partial, y, np.zeros(1, np.uint32), I32(1000))
        assert y[0] == x.sum()

    def test_scan(self, correct, rng):
        x = rng.integers(-9, 9, 64).astype(I32)
        y = np.zeros_like(x)
        correct.launch("scan", 1, 64, x, y)
        np.testing.assert_array_equal(y, np.cumsum(x))

    def test_barriers_that_count(self, correct, rng):
        x = rng.standard_normal(64).astype(F32)
        y = np.full(3, -1, I32)
        correct.launch("count_negative", 1, 64, x, y)
        assert y.tolist() == [(x < 0).sum(), (x > 2).any(), True]

    def test_templates_have_mangled_names(self, correct):
        y = np.zeros(40, np.float64)
        correct.launch("_Z4fillIdEvPT_S0_i", 1, 64, y, np.float64(2.5), I32(40))
        np.testing.assert_array_equal(y, 2.5)


def _pointer(value: int):
    import ctypes

    return ctypes.c_uint64(value)


def test_window_of_blocks_over_more_than_2_31_elements(correct):
    """A virtual array costs no memory; only a few blocks run, and the index must not wrap."""
    import ctypes

    n, block = 2**31 + 12345, 256
    blocks = -(-n // block)
    pointer = ctypes.c_uint64()
    call("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(n))
    device = DeviceArray(np.zeros(0, F32))
    device.address = pointer.value
    with cuda_emulator.settings(window=(blocks - 4, 4)):
        correct.launch("fill_huge", blocks, block, device, np.uint64(n))
    tail = np.zeros(600, np.int8)
    call(
        "cuMemcpyDtoH_v2", _pointer(tail.ctypes.data), _pointer(pointer.value + n - 600), ctypes.c_size_t(600)
    )
    device.free()
    np.testing.assert_array_equal(tail, np.arange(n - 600, n) % 100)


def test_arrays_with_gaps_and_of_another_byte_order(correct):
    """What is between the elements stays, and bytes in another order are refused, as is a Python number."""
    memory = np.arange(40, dtype=F32)
    a, c = memory[1:21:2], memory[20:40:2]
    correct.launch("grid_stride_add", 1, 64, a, a.copy(), c, np.int64(10))
    np.testing.assert_array_equal(c, 2 * np.arange(1, 21, 2))
    np.testing.assert_array_equal(memory[21::2], np.arange(21, 40, 2))
    with pytest.raises(TypeError, match=">f4"):
        correct.launch("grid_stride_add", 1, 64, a.astype(">f4"), a, c, np.int64(10))
    with pytest.raises(TypeError, match=r"argument 4 .* got int"):
        correct.launch("grid_stride_add", 1, 64, a, a, c, 10)


def test_sizes_of_a_launch_are_whole_numbers(correct):
    x, y = np.ones((2, 8), F32)
    correct.launch("grid_stride_add", np.int64(1), (np.int32(8),), x, x, y, np.int64(8))
    assert (y == 2).all()
    with pytest.raises(TypeError, match="float"):
        correct.launch("grid_stride_add", 1.0, 8, x, x, y, np.int64(8))
    for grid in (-1, (), (1, 1, 1, 1)):
        with pytest.raises(ValueError, match="one to three sizes"):
            correct.launch("grid_stride_add", grid, 8, x, x, y, np.int64(8))


@pytest.mark.parametrize(
    "bad",
    [
        *({"timeout_s": value} for value in (0, -1, float("nan"), float("inf"), "soon")),
        *({"window": value} for value in ((0, 0), (-1, 1), (0, 2**63))),
        *({"seed": -1}, {"schedule": "Forward"}, {"mode": "fast"}),
    ],
    ids=str,
)
def test_settings_that_make_no_sense(correct, bad):
    """They are refused, and leave nothing behind."""
    with pytest.raises(ValueError, match=next(iter(bad))), cuda_emulator.settings(**bad):
        pass
    for wrong_type in ({"window": 5}, {"window": (0.0, 1)}, {"seed": 1.5}):
        with pytest.raises(TypeError), cuda_emulator.settings(**wrong_type):
            pass
    x, y = np.ones((2, 8), F32)
    correct.launch("grid_stride_add", 1, 8, x, x, y, np.int64(8))
    assert (y == 2).all()


def test_counting_inside_counting(correct):
    with cuda_emulator.counting(), pytest.raises(RuntimeError, match="counted once"):
        with cuda_emulator.counting():
            pass


def test_launch_bounds_with_brackets():
    source = 'constexpr int A = 2, B = 4; extern "C" __global__ void __launch_bounds__((A + (B)) * (8 / (A))) k(int* y) { y[0] = 1; }'
    cuda_emulator.activate_anyway(announce=False)
    module, y = Module(source), np.zeros(1, I32)
    module.launch("k", 1, 24, y)
    with pytest.raises(DriverError, match="__launch_bounds__ says 24"):
        module.launch("k", 1, 25, y)


def test_unknown_fibers(monkeypatch):
    monkeypatch.setenv("CUDA_EMULATOR_FIBERS", "fast")
    with pytest.raises(toolchain.ToolchainError, match=r"CUDA_EMULATOR_FIBERS .* 'fast'"):
        toolchain.driver_path()


# --- what cannot run -------------------------------------------------------------------------------------------------

REFUSED = [
    ('asm volatile("mov.u32 %0, 1;" : "=r"(x));', "inline PTX"),
    ("nvcuda::wmma::fill_fragment(c, 0.0f);", "wmma"),
    ("__pipeline_commit();", "asynchronous copies"),
    ("other<<<1, 32>>>(x);", "launches"),
    ("long long t = clock64();", "clock"),
    ("__shared__ float s[2] = {1.0f, 2.0f};", "an initial value"),
    ("texture<float> t;", "textures"),
]


@pytest.mark.parametrize(("line", "name"), REFUSED, ids=[name for _, name in REFUSED])
def test_unsupported_feature_is_refused_by_name(line, name):
    source = f"// asm() in a comment is fine\n__global__ void k(int x) {{\n    {line}\n}}\n"
    with pytest.raises(
        UnsupportedError, match=f"^k.cu:3: error: not supported by the CPU emulator: .*{name}"
    ):
        toolchain.compile_kernels(source, "k.cu")


def test_compile_error_has_the_line_of_the_cu_file():
    source = "__global__ void k(float* x) {\n    x[0] = 1;\n    y[0] = 2;\n}\n"
    with pytest.raises(toolchain.CompileError, match=r"kernels/k\.cu:3:\d+: error: .*y.* was not declared"):
        toolchain.compile_kernels(source, "kernels/k.cu")


def test_missing_function_is_a_compile_error():
    with pytest.raises(toolchain.CompileError, match="__viaddmax_s16x2"):
        toolchain.compile_kernels(
            "__global__ void k(unsigned* x) { x[0] = __viaddmax_s16x2(x[0], x[1], 0); }", "k.cu"
        )


def test_threadidx_is_read_only():
    with pytest.raises(toolchain.CompileError, match="read-only"):
        toolchain.compile_kernels("__global__ void k() { threadIdx.x = 1; }", "k.cu")


def test_shared_memory_that_is_never_written_is_not_folded_away():
    cuda_emulator.activate_anyway(announce=False)
    module = Module('extern "C" __global__ void k(int* y) { __shared__ int s[2]; y[0] = s[y[0]]; }')
    with pytest.raises(DriverError, match="use of uninitialised shared memory: s, byte 0"):
        module.launch("k", 1, 1, np.zeros(1, I32))


def test_global_float_functions_are_the_float_ones():
    """abs(-0.5f) must not be the integer abs, nor max() lose its NaN rule."""
    cuda_emulator.activate_anyway(announce=False)
    source = """extern "C" __global__ void k(float* y, float x) {
        y[0] = abs(x); y[1] = max(x, NAN); y[2] = min(3, 2); y[3] = __saturatef(x); y[4] = exp(x) - expf(x);
        y[5] = __float2int_rn(2.5f); y[6] = __popc(255) + __ffs(8) + __clz(1); y[7] = rsqrtf(4.0f);
    }"""
    y = np.zeros(8, F32)
    Module(source).launch("k", 1, 1, y, F32(-0.5))
    np.testing.assert_array_equal(y, [0.5, -0.5, 2, 0, 0, 2, 8 + 4 + 31, 0.5])


def test_half_precision(rng):
    cuda_emulator.activate_anyway(announce=False)
    source = """#include <cuda_fp16.h>
    #include <cuda_bf16.h>
    extern "C" __global__ void convert(const float* x, __half* h, __nv_bfloat16* b, __half* sum, int n) {
        __shared__ __half tile[64];
        int i = threadIdx.x;
        h[i] = __float2half(x[i]);
        b[i] = __float2bfloat16(x[i]);
        tile[i] = h[i];
        __syncthreads();
        sum[i] = __hadd(tile[i], tile[63 - i]) * __float2half(0.5f);
    }"""
    x = (rng.standard_normal(64) * 10.0 ** rng.integers(-9, 6, 64)).astype(F32)
    x[:4] = [np.inf, -np.inf, np.nan, 65520]
    half, brain, total = np.zeros(64, np.float16), np.zeros(64, np.uint16), np.zeros(64, np.float16)
    Module(source).launch("convert", 1, 64, x, half, brain, total, I32(64))
    with np.errstate(over="ignore", invalid="ignore"):
        expected = x.astype(np.float16)
        np.testing.assert_array_equal(half, expected)
        np.testing.assert_array_equal(total, (expected + expected[::-1]) * np.float16(0.5))
    bits = x.view(np.uint32).astype(np.uint64)
    rounded = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    finite = ~np.isnan(x)
    np.testing.assert_array_equal(brain[finite], rounded[finite])
    assert brain[2] & 0x7FFF > 0x7F80  # NaN stays NaN


# --- other compilers and machines ------------------------------------------------------------------------------------

SMOKE = """
import sys; sys.path.insert(0, {root!r})
import numpy as np
from pathlib import Path
import cuda_emulator
from cuda_emulator.launch import DriverError, Module
cuda_emulator.activate_anyway(announce=False)
kernels = Path({kernels!r})
x = np.random.default_rng(1).standard_normal((5, 133)).astype(np.float32)
y = np.full_like(x, np.nan)
for schedule in ("forward", "warp_greedy"):
    with cuda_emulator.settings(schedule=schedule):
        Module(kernels / "correct.cu").launch("softmax_rows", 5, 96, x, y, np.int32(133), shared=12)
    np.testing.assert_allclose(y, np.exp(x) / np.exp(x).sum(1, keepdims=True), rtol=1e-5)
bugs = Module(kernels / "planted_bugs.cu")
cases = (
    ("missing_second_barrier", (x[:2].ravel().copy(), y[0], np.int32(4)), "race"),
    ("misaligned_vector_load", (x.ravel(), y[0]), "misaligned"),
    ("shuffle_in_a_branch", (y[0, :32].copy(),), "deadlock"),
    ("index_overflows", (y[0], np.int32(70000), np.int32(70000)), "integer overflow"),
)
for kernel, arguments, kind in cases:
    if kind == "misaligned" and {clang}:
        continue  # clang loads the four parts of a float4 one by one
    try:
        bugs.launch(kernel, 1, 64 if "barrier" in kernel else 32 if "shuffle" in kernel else 8, *arguments)
    except DriverError:
        (report,) = cuda_emulator.reports()
        assert report.kind == kind and report.line and "planted_bugs.cu" in report.file, report
    else:
        raise AssertionError(kernel + " passed")
print("silent and found")
"""


def smoke(**environment: str) -> None:
    clang = "clang" in environment.get("CXX", "")
    code = SMOKE.format(root=str(ROOT), kernels=str(KERNELS), clang=clang)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr
    assert "silent and found" in done.stdout


def test_portable_fibers():
    """The switch that arm64 uses, compiled and run here."""
    smoke(CUDA_EMULATOR_FIBERS="ucontext")


@pytest.mark.skipif(shutil.which("clang++") is None, reason="clang++ is not installed")
def test_clang():
    smoke(CXX="clang++")


ALONE = """
import subprocess, sys
from pathlib import Path
import numpy as np
import NAME
from NAME import toolchain
from NAME.launch import Module
assert not [entry for entry in sys.path if (Path(entry or ".") / "cuda_emulator" / "tests").exists()], sys.path
assert "shared" not in sys.modules
NAME.activate_anyway(announce=False)
Path("k.cu").write_text('extern "C" __global__ void k(float* y) { y[threadIdx.x] = 1; }')
y = np.zeros(4, np.float32)
Module(Path("k.cu"), name="k.cu").launch("k", 1, 4, y)
assert y.tolist() == [1, 1, 1, 1]
subprocess.run(["nvcc", "--cubin", "k.cu"], check=True)  # the stand-in, in a process of its own
assert Path("k.cubin").read_bytes() == toolchain.compile_kernels(Path("k.cu").read_text(), "k.cu").read_bytes()
"""


@pytest.mark.parametrize("name", ["cuda_emulator", "my_device"])
def test_the_folder_works_on_its_own(tmp_path, name):
    """Copied to an empty place with a difficult path, without the rest of the repository, used from elsewhere."""
    copy, elsewhere, cache = tmp_path / "it's $HOME" / name, tmp_path / "elsewhere", tmp_path / "cache"
    shutil.copytree(Path(__file__).parents[1], copy, ignore=shutil.ignore_patterns("tests", "__pycache__"))
    elsewhere.mkdir()
    built = toolchain.driver_path().parent  # its key does not depend on the place: no need to build it again
    shutil.copytree(built, cache / "cuda_emulator" / built.name)
    environment = {**os.environ, "PYTHONPATH": str(copy.parent), "GROUNDWORK_CACHE": str(cache)}
    command = [sys.executable, "-c", ALONE.replace("NAME", name)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=elsewhere, env=environment)
    assert done.returncode == 0, done.stderr
    assert len(list((cache / "cuda_emulator").glob(f"*/{toolchain.DRIVER}"))) == 1  # taken from the cache
    assert len(list((cache / "cuda_emulator").glob("*.cubin"))) == 1  # two processes, one compilation


# --- settings --------------------------------------------------------------------------------------------------------


def test_settings_are_restored(correct):
    with pytest.raises(ValueError, match="schedule must be one of"):
        cuda_emulator.settings(schedule="sideways").__enter__()
    with cuda_emulator.settings(window=(0, 1)):
        y = np.zeros(128, F32)
        correct.launch("vector_scale", 2, 16, np.ones(128, F32), y, I32(128))
        assert (y != 0).sum() == 64
    correct.launch("vector_scale", 2, 16, np.ones(128, F32), y, I32(128))
    assert (y != 0).all()


def test_real_nvcc_is_not_the_stand_in(tmp_path, monkeypatch):
    cuda_emulator.activate_anyway(announce=False)
    (tmp_path / "nvcc").write_text("")
    (tmp_path / "nvcc").chmod(0o755)
    monkeypatch.setenv("PATH", f"{toolchain.nvcc_folder()}{os.pathsep}{tmp_path}")
    assert Path(shutil.which("nvcc")).parent == toolchain.nvcc_folder()
    assert cuda_emulator.real_nvcc() == str(tmp_path / "nvcc")


def test_printf_reaches_stdout(capfd):
    cuda_emulator.activate_anyway(announce=False)
    module = Module(
        """extern "C" __global__ void k(int n) { printf("thread %d of %d\\n", threadIdx.x, n); }"""
    )
    module.launch("k", 1, 2, I32(2))
    assert capfd.readouterr().out == "thread 0 of 2\nthread 1 of 2\n"


def test_objects_are_cached_by_content(tmp_path, monkeypatch):
    monkeypatch.setenv("GROUNDWORK_CACHE", str(tmp_path))
    source = 'extern "C" __global__ void k(float* y) { y[0] = 1; }'
    first = toolchain.compile_kernels(source, "k.cu", mode="plain")
    assert toolchain.compile_kernels(source, "k.cu", mode="plain") == first
    assert toolchain.compile_kernels(source + " ", "k.cu", mode="plain") != first
    assert toolchain.compile_kernels(source, "k.cu", mode="plain", options=("-DN=1",)) != first
