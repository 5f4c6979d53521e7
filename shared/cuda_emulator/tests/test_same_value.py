"""Two threads that write one value do not race; a thread that writes another one does."""

from pathlib import Path

import cuda_emulator
import numpy as np
import pytest
from cuda_emulator.launch import DriverError, Module

KERNELS = Path(__file__).parent / "kernels"
F32, I32 = np.float32, np.int32
pytestmark = pytest.mark.usefixtures("schedule")


@pytest.fixture(scope="module")
def kernels() -> Module:
    cuda_emulator.activate_anyway(announce=False)
    return Module(KERNELS / "same_value.cu")


@pytest.mark.parametrize("threads", [32, 96, 256])
def test_online_softmax(kernels, rng, threads):
    x = (5 * rng.standard_normal((7, 133))).astype(F32)
    y = np.full_like(x, np.nan)
    kernels.launch("online_softmax", 2, threads, x, y, I32(7), I32(133))
    expected = np.exp(x - x.max(1, keepdims=True).astype(float))
    np.testing.assert_allclose(y, expected / expected.sum(1, keepdims=True), rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.int32, np.float64])
def test_threads_read_back_what_all_write(kernels, rng, dtype):
    x, y = rng.integers(1, 9, 8).astype(dtype), np.zeros(256, dtype)
    name, shared = ("read_back_int", 0) if dtype == np.int32 else ("read_back_double", 72)
    kernels.launch(name, 1, 256, x, y, I32(3), shared=shared)
    np.testing.assert_array_equal(y, 3 * (np.repeat(x, 32) + x[0]))


def test_sixteen_bytes(kernels):
    x, y = np.arange(1, 5, dtype=F32), np.zeros((64, 4), F32)
    kernels.launch("read_back_float4", 1, 64, x, y)
    assert (y == x).all()


def test_flags(kernels):
    x, y = np.tile([0, 1, 1, -1], 16).astype(I32), np.zeros(64, I32)
    kernels.launch("flag_is_up", 1, 64, x, y)
    assert (y == 2).all()
    for before in (0, 1):
        flag = np.full(1, before, I32)
        kernels.launch("global_flag", 3, 16, x, flag, I32(48))
        assert flag[0] == 1
        kernels.launch("global_flag_read_back", 2, 32, flag := np.full(1, before, I32), y)
        assert flag[0] == 1
        assert (y == 2).all()


def test_a_large_struct(kernels):
    y = np.zeros(5)
    kernels.launch("struct_by_all", 2, 40, np.arange(4.0), y)
    np.testing.assert_array_equal(y[:4], np.arange(4))


BUGS = {
    "reads_what_may_come": I32,
    "one_of_two_differs": F32,
    "another_value_after_the_same": I32,
    "global_flag_of_two_values": I32,
    "global_flag_looked_at": I32,
}


@pytest.mark.parametrize(("kernel", "dtype"), BUGS.items())
def test_another_value_is_a_race(kernels, kernel, dtype):
    cuda_emulator.reports()
    with pytest.raises(DriverError, match="memory race"):
        kernels.launch(kernel, 1, 64, np.arange(128, dtype=dtype), np.zeros(128, dtype))
    (report,) = cuda_emulator.reports()
    lines = (KERNELS / "same_value.cu").read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if f" {kernel}(" in line)
    end = next((i for i in range(start + 1, len(lines)) if lines[i].startswith("}")), len(lines))
    assert report.line in {i + 1 for i in range(start, end + 1) if "BUG" in lines[i]}
