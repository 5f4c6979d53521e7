"""Warps without barriers: __activemask(), arguments that are copied by the kernel, code that relies on lockstep."""

from pathlib import Path

import cuda_emulator
import numpy as np
import pytest
from cuda_emulator.launch import DriverError, Module

KERNELS = Path(__file__).parent / "kernels"
F32, I32, U32 = np.float32, np.int32, np.uint32
pytestmark = pytest.mark.usefixtures("schedule")


@pytest.fixture(scope="module", params=["checked", "plain"])
def warps(request) -> Module:
    cuda_emulator.activate_anyway(announce=False)
    return Module(KERNELS / "warps.cu", mode=request.param)


def lanes(condition: np.ndarray) -> np.ndarray:
    """Return, per thread, the mask of the lanes of its warp for which the condition holds."""
    bits = condition.reshape(-1, 32) @ (1 << np.arange(32, dtype=np.uint64))
    return np.repeat(bits.astype(U32), 32)


@pytest.mark.parametrize("n", [5, 64, 150])
def test_aggregated_atomic(warps, rng, n):
    x = rng.integers(-3, 4, n).astype(I32)
    count, places = np.zeros(1, I32), np.full(n, -1, I32)
    warps.launch("aggregated_count", 3, 64, x, count, places, I32(n))
    assert count[0] == (x > 0).sum()
    assert sorted(places[x > 0]) == list(range(count[0]))
    assert (places[x <= 0] == -1).all()
    for start in range(0, n, 32):  # one warp's places are neighbours: its lanes came together
        own = places[start : start + 32][x[start : start + 32] > 0]
        assert (np.diff(own) == 1).all()


def test_masks_of_a_branch(warps, rng):
    x = rng.integers(0, 9, 64).astype(I32)
    masks, sums = np.zeros(64, U32), np.zeros(64, I32)
    warps.launch("masks_of_a_branch", 1, 64, x, masks, sums)
    np.testing.assert_array_equal(masks, np.where(x % 2, lanes(x % 2 == 1), lanes(x % 2 == 0)))
    warp = x.reshape(2, 32)
    odd = np.repeat((warp * (warp % 2)).sum(1), 32)
    even = np.repeat(((warp % 2 == 0) & (warp > 4)).sum(1), 32)
    np.testing.assert_array_equal(sums, np.where(x % 2, odd, even))


def test_masks_of_a_loop(warps, rng):
    x = rng.integers(0, 6, 64).astype(I32)
    masks = np.zeros((6, 64), U32)
    warps.launch("masks_of_a_loop", 1, 64, x, masks)
    np.testing.assert_array_equal(masks, [np.where(x > k, lanes(x > k), 0) for k in range(6)])


def test_arguments_with_copy_constructors(warps):
    """The kernel's own code copies them: from memory of the driver's, which is none of the host's."""
    scaled = np.zeros((), np.dtype([("x", F32), ("y", np.float64)], align=True))
    wide, y = np.zeros((), np.dtype([("v", F32, 8)])), np.zeros(32, F32)
    scaled["x"], scaled["y"], wide["v"] = 2.5, 4.0, np.arange(8)
    warps.launch("arguments_with_constructors", 1, 32, y, I32(7), np.int8(3), scaled[()], wide[()])
    np.testing.assert_array_equal(y, 2.5 + 4.0 + np.tile(np.arange(8), 4) + 3 + 7)


# --- lockstep --------------------------------------------------------------------------------------------------------


def marked(word: str) -> set[int]:
    """Return the lines of warps.cu that carry a mark."""
    lines = (KERNELS / "warps.cu").read_text().splitlines()
    return {i + 1 for i, line in enumerate(lines) if f"// {word}" in line}


@pytest.mark.parametrize("dtype", ["int32", "float32", "float64"])
def test_reduction_without_syncwarp(warps, request, rng, dtype):
    """The end of PyCUDA's reductions: right numbers in both modes, and in checked mode a warning for each step."""
    kernel, block = {"int32": ("sum_int", 128), "float32": ("sum_float", 64), "float64": ("sum_double", 64)}[
        dtype
    ]
    x, y = rng.integers(-99, 99, 1000).astype(dtype), np.zeros(3, dtype)
    cuda_emulator.warnings()
    warps.launch(kernel, 3, block, x, y, I32(x.size))
    index = np.arange(x.size) // block % 3
    np.testing.assert_array_equal(y, [x[index == b].sum() for b in range(3)])
    check_lockstep_warnings("plain" in request.node.name)


def test_complex_reduction_without_syncwarp(warps, request, rng):
    x, y = rng.integers(-99, 99, (32, 2)).astype(F32), np.zeros(2, F32)
    cuda_emulator.warnings()
    warps.launch("sum_complex", 1, 32, x, y, shared=256)
    np.testing.assert_array_equal(y, x.sum(0))
    check_lockstep_warnings("plain" in request.node.name)


def check_lockstep_warnings(plain: bool) -> None:
    found = cuda_emulator.warnings()
    assert plain == (not found)
    assert {warning.kind for warning in found} <= {"lockstep"}
    assert {warning.line for warning in found} <= marked("LOCKSTEP")
    assert all("__syncwarp() is missing" in warning.message for warning in found)


def test_reduction_with_syncwarp_is_silent(warps, rng):
    x, y = rng.integers(-99, 99, 32).astype(F32), np.zeros(32, F32)
    cuda_emulator.warnings()
    warps.launch("sum_with_syncwarp", 1, 32, x, y)
    assert (y == x.sum()).all()
    assert not cuda_emulator.warnings()


@pytest.mark.parametrize("kernel", ["two_warps_without_barrier", "two_values_in_one_step"])
def test_lockstep_hides_no_race(kernel):
    module = Module(KERNELS / "warps.cu")
    dtype = F32 if kernel == "two_warps_without_barrier" else I32
    cuda_emulator.reports()
    with pytest.raises(DriverError, match="shared memory race"):
        module.launch(kernel, 1, 64 if dtype == F32 else 32, np.arange(64, dtype=dtype), np.zeros(64, dtype))
    assert cuda_emulator.reports()[0].line in marked("BUG")


def test_endless_spin(warps):
    cuda_emulator.reports()
    with cuda_emulator.settings(timeout_s=0.1), pytest.raises(DriverError) as caught:
        warps.launch("spins_for_ever", 1, 64, np.zeros(64, I32))
    assert caught.value.code == 702
