"""The judge of the Triton twin: in Triton's interpreter without a GPU, compiled on one.

Oracle: torch's own addition, to which the sums must be equal.
"""

import numpy as np
import pytest
import torch

import triton_kernels
from shared.testing.checks import assert_close, assert_imports_only, expect_error, refuse_calls, unchanged

DTYPES = (torch.float32, torch.float16, torch.float64, torch.int32)


@pytest.mark.grades
def test_triton_imports():
    """The twin uses torch and Triton, nothing else."""
    assert_imports_only(triton_kernels, {"torch", "triton"})


@pytest.mark.grades("vector_add_triton")
@pytest.mark.parametrize("n", [1, 31, 32, 33, 127, 128, 129, 1009])
def test_triton_sizes(n, generator, triton_device):
    """Sizes around a block of 128, in a grid of several blocks; the tail is masked."""
    a, b = (torch.randn(n, generator=generator).to(triton_device) for _ in range(2))
    with unchanged(a, b), refuse_calls("add"):
        result = triton_kernels.vector_add_triton(a, b, block=128)
    expected = (a.double() + b.double()).float()
    mistakes = {"b is subtracted": a - b, "a is added to itself": a + a, "b is never read": a}
    hint = None
    if result.isnan().any():
        hint = "some elements are NaN: program p has those from 128·p on; a mask keeps the last one inside the array"
    assert_close(result, expected, rtol=0.0, atol=0.0, what=f"sum of {n}", mistakes=mistakes, hint=hint)


@pytest.mark.grades("vector_add_triton")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_triton_dtypes(dtype, generator, triton_device):
    """Every dtype gives its own, rounded once; more axes are fine."""
    a, b = (torch.randn((3, 5, 7), generator=generator).mul(1000).to(triton_device, dtype) for _ in range(2))
    expected = (a.double() + b.double()).to(dtype)
    assert_close(triton_kernels.vector_add_triton(a, b), expected, rtol=0.0, atol=0.0)


@pytest.mark.grades("vector_add_triton")
def test_triton_stays_inside_the_arrays(generator, triton_device):
    """A view in the middle of a buffer: its neighbours are neither read nor written."""
    buffer = torch.full((300,), torch.nan, device=triton_device)
    buffer[100:200] = torch.randn(100, generator=generator).to(triton_device)
    before = buffer.clone()
    result = triton_kernels.vector_add_triton(buffer[100:200], buffer[100:200], block=64)
    assert_close(result, 2 * before[100:200], rtol=0.0, atol=0.0, what="sum of views")
    assert torch.equal(buffer.nan_to_num(), before.nan_to_num()), (
        "the inputs or their neighbours were written"
    )


@pytest.mark.grades("vector_add_triton")
def test_triton_nothing_to_add(triton_device):
    """No elements: no launch."""
    empty = torch.zeros((0, 3), dtype=torch.float16, device=triton_device)
    result = triton_kernels.vector_add_triton(empty, empty)
    assert (result.shape, result.dtype) == (empty.shape, empty.dtype)


@pytest.mark.grades("vector_add_triton")
def test_triton_arguments_that_do_not_fit(triton_device):
    """Shape, dtype, gaps and block size are checked before the launch."""
    good = torch.ones((4, 6), device=triton_device)
    for bad, error, mention in (
        (torch.ones((6, 4), device=triton_device), ValueError, "(6, 4)"),
        (torch.ones(6, device=triton_device), ValueError, "(6,)"),
        (torch.ones((4, 6), dtype=torch.float16, device=triton_device), ValueError, "float16"),
        (torch.ones((6, 4), device=triton_device).T, ValueError, "(1, 4)"),
    ):
        with expect_error(error, mention, otherwise="an argument that does not fit is accepted"):
            triton_kernels.vector_add_triton(good, bad)
    with expect_error(TypeError, "int64", otherwise="another dtype is accepted"):
        triton_kernels.vector_add_triton(good.long(), good.long())
    for block in (64.0, True, "64", None):
        with expect_error(TypeError, "block", otherwise=f"block={block!r} is accepted"):
            triton_kernels.vector_add_triton(good, good, block=block)
    assert_close(
        triton_kernels.vector_add_triton(good, 2 * good, block=np.int64(8)), 3 * good, vacuous_ok="all are 3"
    )
    for arguments in ((good.cpu().numpy(), good), (good, [1.0])):
        kind = type(next(x for x in arguments if x is not good)).__name__
        with expect_error(TypeError, kind, otherwise="an argument that is no tensor is accepted"):
            triton_kernels.vector_add_triton(*arguments)
    for block in (0, 100, -128, 2**21):
        with expect_error(
            ValueError, "block", str(block), otherwise="a block that is no power of two is accepted"
        ):
            triton_kernels.vector_add_triton(good, good, block=block)


@pytest.mark.grades("vector_add_triton")
def test_triton_nan_and_inf(triton_device):
    """NaN and infinities propagate."""
    values = np.float32([np.nan, np.inf, -np.inf, 3e38, 0.0, 1e-45])
    a, b = (torch.from_numpy(array.ravel().copy()).to(triton_device) for array in np.meshgrid(values, values))
    with np.errstate(all="ignore"):  # the interpreter adds with NumPy
        result = triton_kernels.vector_add_triton(a, b)
    assert_close(result, a + b, rtol=0.0, atol=0.0, what="sum of special values")
