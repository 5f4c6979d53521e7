"""device_arrays.py, which is given: what on_device makes of torch tensors, and what the launch promises."""

import numpy as np
import pytest
import torch
from additions import KERNELS, assert_sum, random

import device_arrays
import ladder
from shared.testing.checks import expect_error
from shared.testing.devices import device_array

pytestmark = pytest.mark.grades


class Tensor:
    """What a CUDA torch tensor shows of itself, on the emulator, for which torch has no device."""

    def __init__(self, array):
        self.array, self.shape, self.dtype = array, torch.Size(array.shape), torch.float32
        self.__cuda_array_interface__ = {**array.__cuda_array_interface__, "strides": None}

    def new_empty(self, shape, dtype):
        assert dtype == torch.float32
        return Tensor(device_array(np.full(shape, np.nan, np.float32)))


@pytest.mark.module("ladder")
@pytest.mark.grades("vector_add")
def test_tensors_give_tensors(rng, cuda_device):
    """A tensor is asked for a new one, and `out` may be one."""
    a, b = random(rng, (3, 40)), random(rng, (3, 40))
    tensors = Tensor(device_array(a)), Tensor(device_array(b))
    result = ladder.vector_add(*tensors)
    assert isinstance(result, Tensor), f"tensors gave a {type(result).__name__}"
    assert_sum(result.array.get(), a, b)
    assert ladder.vector_add(*tensors, result) is result


def test_a_dtype_of_its_own(cuda_device):
    """The result may have another shape and dtype than the first input, on both sides."""
    half = np.ones(3, np.float16)
    for first in (half, device_array(half)):
        result = device_arrays.on_device(lambda x, out: None, [first], shape=(2, 2), dtype="float32")
        assert (result.shape, result.dtype) == ((2, 2), np.float32)


def test_as_many_types_as_arguments(cuda_device):
    """A forgotten argument is an error before the launch."""
    x = device_array(np.ones(3, np.float32))
    with expect_error(ValueError, "shorter", otherwise="an argument without a type is accepted"):
        device_arrays.launch(KERNELS / "grid_stride.cu", "add_float32", "PPPq", x, x, x, grid=1, block=32)


def test_sizes_of_a_launch(cuda_device):
    """Integers, of NumPy too; other sizes and numbers that do not fit are refused, and a grid of nothing is CUDA's error."""
    from pycuda import driver

    x = device_array(np.ones(3, np.float32))

    def start(n=3, grid=1, block=32):
        device_arrays.launch(
            KERNELS / "grid_stride.cu", "add_float32", "PPPq", x, x, x, n, grid=grid, block=block
        )

    start(grid=np.int64(1), block=(np.int32(32), 1))
    assert x.get().tolist() == [2, 2, 2]
    for sizes in (
        {"block": 32.0},
        {"grid": 1.0},
        {"grid": True},
        {"block": "32"},
        {"block": None},
        {"grid": (1, 2.0)},
    ):
        with expect_error(TypeError, *sizes, otherwise=f"{sizes} is accepted"):
            start(**sizes)
    for sizes in ({"block": -32}, {"grid": -1}, {"grid": 2**32}):
        with expect_error(ValueError, *sizes, otherwise=f"{sizes} is accepted"):
            start(**sizes)
    for error, n in ((ValueError, 2**63), (TypeError, 3.0), (TypeError, None)):
        with expect_error(error, "argument 4 of add_float32", otherwise=f"{n!r} is accepted as a long long"):
            start(n=n)
    with pytest.raises(driver.LogicError, match="invalid argument"):
        start(grid=0)


def test_numbers():
    """A float option of a kernel is a real number that float32 has."""
    largest = float(np.finfo(np.float32).max)
    for value in (2, -0.5, 0, np.float32(3), np.float64(1e-40), np.int8(7), largest, -largest):
        assert device_arrays.check_number("alpha", value) == value
    for value in ("2", None, True, np.True_, 2j, [1.0], np.ones(1)):
        with expect_error(TypeError, "alpha", otherwise=f"{value!r} is accepted as a number"):
            device_arrays.check_number("alpha", value)
    for value in (np.nan, np.inf, -np.inf, 1e39, 10**400, 1e-50):
        with expect_error(ValueError, "alpha", otherwise=f"{value!r} is accepted as a number of float32"):
            device_arrays.check_number("alpha", value)


def test_what_overlaps(cuda_device):
    """Two arrays overlap if they have a byte in common, whatever their dtypes; empty ones have none."""
    x = device_array(np.ones(100, np.float32))
    for first, second, expected in (
        (x[:50], x[50:], False),
        (x[50:], x[:50], False),
        (x[:51], x[50:], True),
        (x[50:], x[:51], True),
        (x, x[40:41], True),
        (x[40:41], x, True),
        (x, x, True),
        (x[:0], x[:0], False),
        (x, device_array(np.ones(3, np.float16)), False),
    ):
        assert device_arrays.overlap(first, second) is expected


def test_a_cpu_tensor_is_no_device_array():
    """Nor is it a NumPy array: it is refused, not copied."""
    with expect_error(TypeError, "Tensor", otherwise="a CPU tensor is accepted"):
        device_arrays.check_side(a=torch.ones(3))
