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


def test_a_cpu_tensor_is_no_device_array():
    """Nor is it a NumPy array: it is refused, not copied."""
    with expect_error(TypeError, "Tensor", otherwise="a CPU tensor is accepted"):
        device_arrays.check_side(a=torch.ones(3))
