"""The judge of the Triton twin: in Triton's interpreter without a GPU, compiled on one.

Oracle: torch's product in float64.
"""

import pytest
import torch

import triton_kernels
from shared.testing.checks import assert_close, assert_imports_only, expect_error, refuse_calls, unchanged

SHAPES = [(1, 1, 1), (31, 33, 32), (5, 40, 67), (65, 7, 130)]
HALF = [
    torch.float16,
    pytest.param(
        torch.bfloat16,
        marks=pytest.mark.gpu_only(
            "Triton's interpreter multiplies bfloat16 matrices wrongly (a documented limit)"
        ),
    ),
]


def assert_product(actual, a, b, *, alpha=1.0, beta=0.0, c=None, **options):
    wide = a.double() @ b.double()
    expected = alpha * wide + (0 if beta == 0 else beta * c.double())
    k = a.shape[1] // 16 * 16
    mistakes = {
        **({"beta is ignored": alpha * wide} if beta else {}),
        **({"alpha is ignored": expected - alpha * wide + wide} if alpha != 1 else {}),
        "the last, incomplete tile of k is left out": alpha * (a[:, :k].double() @ b[:k].double()),
        "only the first tile of k is added up": alpha * (a[:, :16].double() @ b[:16].double()),
    }
    assert_close(actual, expected.float(), n=max(1, a.shape[1]), mistakes=mistakes, **options)


def random(generator, device, *shapes):
    return [torch.randn(shape, generator=generator).to(device) for shape in shapes]


@pytest.mark.grades
def test_triton_imports():
    """The twin uses torch and Triton, nothing else."""
    assert_imports_only(triton_kernels, {"torch", "triton"})


@pytest.mark.grades("matmul_triton")
@pytest.mark.parametrize(("m", "k", "n"), SHAPES)
def test_triton_shapes(m, k, n, generator, triton_device):
    """Ragged shapes: what is past the edges counts nothing; float32 sums without TF32."""
    a, b = random(generator, triton_device, (m, k), (k, n))
    with unchanged(a, b), refuse_calls("matmul", "mm"):
        result = triton_kernels.matmul_triton(a, b)
    constant = "one number" if (m, n) == (1, 1) else None
    assert_product(result, a, b, what=f"({m}, {k}) x ({k}, {n})", vacuous_ok=constant)


@pytest.mark.grades("matmul_triton")
def test_triton_many_tiles(generator, triton_device):
    """More rows of tiles than are walked in one group, the last group incomplete."""
    a, b = random(generator, triton_device, (64 * 9 + 1, 20), (20, 64 * 2 + 3))
    assert_product(triton_kernels.matmul_triton(a, b), a, b, what="product of 10 x 3 tiles")


@pytest.mark.grades("matmul_triton")
def test_triton_alpha_and_beta(generator, triton_device):
    """Alpha scales the product, beta what c held; with beta = 0 the NaN in c does not matter."""
    a, b, c = random(generator, triton_device, (40, 21), (21, 35), (40, 35))
    before = c.clone()
    assert triton_kernels.matmul_triton(a, b, alpha=-0.5, beta=3.0, c=c) is c, "the result goes to c"
    assert_product(c, a, b, alpha=-0.5, beta=3.0, c=before)
    result = triton_kernels.matmul_triton(a, b, alpha=2.0, c=torch.full_like(c, torch.nan))
    hint = "beta is 0, so c must not be read: 0 times NaN is NaN" if result.isnan().any() else None
    assert_product(result, a, b, alpha=2.0, hint=hint)


@pytest.mark.grades("matmul_triton")
@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_triton_half_precision(dtype, generator, triton_device):
    """Two-byte inputs, float32 sums and result: products of two such numbers are exact in float32."""
    a, b = (x.to(dtype) for x in random(generator, triton_device, (33, 70), (70, 130)))
    assert_product(triton_kernels.matmul_triton(a, b), a, b, what=f"{dtype} product", rtol=2e-5)


@pytest.mark.grades("matmul_triton")
def test_triton_lengths_of_zero(triton_device):
    """Nothing to compute, or an empty sum, which is 0."""
    for m, k, n in ((0, 3, 4), (3, 4, 0), (3, 0, 4)):
        a, b = torch.ones((m, k), device=triton_device), torch.ones((k, n), device=triton_device)
        result = triton_kernels.matmul_triton(a, b)
        assert result.shape == (m, n), f"({m}, {k}) x ({k}, {n}) gave {tuple(result.shape)}"
        assert not result.any(), "an empty sum is 0: the kernel must run for K = 0 too"


@pytest.mark.grades("matmul_triton")
@pytest.mark.emulator_only("on a GPU bfloat16 is right")
def test_triton_refuses_what_its_interpreter_does_wrongly(triton_device):
    """bfloat16 without a GPU: a TypeError instead of numbers of any size."""
    a = torch.ones((4, 4), dtype=torch.bfloat16, device=triton_device)
    with expect_error(TypeError, "bfloat16", otherwise="bfloat16 is accepted by the interpreter, and wrong"):
        triton_kernels.matmul_triton(a, a)


@pytest.mark.grades("matmul_triton")
def test_triton_c_that_is_an_input(generator, triton_device):
    """Other programs still read it."""
    a, b = random(generator, triton_device, (70, 70), (70, 70))
    for c in (a, b, a.T.contiguous().view(-1)[:0].new_empty(4901)[1:].view(70, 70)):
        if c is a or c is b:
            with expect_error(
                ValueError, "c", otherwise="a c that is an input is accepted: other programs still read it"
            ):
                triton_kernels.matmul_triton(a, b, c=c)
        else:
            assert_product(triton_kernels.matmul_triton(a, b, c=c), a, b)
    buffer = torch.ones(4901, device=triton_device)
    with expect_error(ValueError, "c", otherwise="a c that overlaps an input is accepted"):
        triton_kernels.matmul_triton(buffer[:4900].view(70, 70), b, c=buffer[1:].view(70, 70))


@pytest.mark.grades("matmul_triton")
def test_triton_options(generator, triton_device):
    """Alpha and beta are finite numbers, a, b and c tensors."""
    a, c = random(generator, triton_device, (20, 20), (20, 20))
    for option in ("alpha", "beta"):
        for error, values in (
            (TypeError, ("2", None, True, 2j)),
            (ValueError, (float("nan"), float("inf"), 1e39)),
        ):
            for value in values:
                with expect_error(error, option, otherwise=f"{option}={value!r} is accepted"):
                    triton_kernels.matmul_triton(a, a, c=c.clone(), **{option: value})
    assert_product(
        triton_kernels.matmul_triton(a, a, alpha=2, beta=3, c=c.clone()), a, a, alpha=2.0, beta=3.0, c=c
    )
    for arguments, options in (((a.cpu().numpy(), a), {}), ((a, a), {"c": a.cpu().numpy()})):
        with expect_error(TypeError, "ndarray", otherwise="an argument that is no tensor is accepted"):
            triton_kernels.matmul_triton(*arguments, **options)
    with expect_error(ValueError, "meta", otherwise="tensors of two devices are accepted"):
        triton_kernels.matmul_triton(a, a.to("meta"))


@pytest.mark.grades("matmul_triton")
def test_triton_arguments(triton_device):
    """Shapes, dtypes, gaps and a missing c are refused."""
    a, b = torch.ones((3, 4), device=triton_device), torch.ones((4, 5), device=triton_device)
    for arguments, options, error, mention in (
        ((a, a), {}, ValueError, "(3, 4)"),
        ((a, b[0]), {}, ValueError, "(5,)"),
        ((a.double(), b.double()), {}, TypeError, "float64"),
        ((a, b.half()), {}, TypeError, "float16"),
        ((b.T, a.T), {}, ValueError, "(1, 5)"),
        ((a, b), {"beta": 1.0}, ValueError, "beta"),
        ((a, b), {"c": torch.ones((5, 3), device=triton_device)}, ValueError, "(5, 3)"),
        ((a, b), {"c": torch.ones((3, 5), device=triton_device).half()}, TypeError, "float16"),
    ):
        with expect_error(error, mention, otherwise="an argument that does not fit is accepted"):
            triton_kernels.matmul_triton(*arguments, **options)
