"""The judge of the Triton twins: in Triton's interpreter without a GPU, compiled on one.

Oracles: torch's softmax and attention in float64. The interpreter computes with NumPy, which warns where a GPU does not.
"""

import pytest
import torch

import triton_kernels
from shared.testing.checks import assert_close, assert_imports_only, expect_error, refuse_calls, unchanged

HALF = [
    torch.float16,
    pytest.param(
        torch.bfloat16,
        marks=pytest.mark.gpu_only(
            "Triton's interpreter multiplies bfloat16 matrices wrongly (a documented limit)"
        ),
    ),
]

pytestmark = pytest.mark.filterwarnings(
    "ignore::RuntimeWarning"
)  # inf - inf in NumPy, inside the interpreter
sdpa = torch.nn.functional.scaled_dot_product_attention


@pytest.mark.grades
def test_triton_imports():
    """The twins use torch and Triton, nothing else."""
    assert_imports_only(triton_kernels, {"torch", "triton"})


@pytest.mark.grades("softmax_triton")
@pytest.mark.parametrize("width", [1, 2, 31, 32, 33, 1009, 2048])
def test_triton_widths(width, generator, triton_device):
    """Ragged widths: what is past the end of a row counts nothing."""
    x = (3 * torch.randn((2, 3, width), generator=generator)).to(triton_device)
    expected = torch.softmax(x.double(), -1).float()
    padded = torch.nn.functional.pad(x.double(), (0, 2 ** (width - 1).bit_length() - width))
    wrong = {
        "elements past the end of the row are counted, as 0: load them as -inf": torch.softmax(padded, -1)[
            ..., :width
        ].float(),
        "the largest value is subtracted, but nothing is divided": (x - x.amax(-1, keepdim=True)).exp(),
        "normalised over the wrong axis": torch.softmax(x.double(), 1).float(),
    }
    constant = "a row of one element has softmax 1" if width == 1 else None
    with unchanged(x), refuse_calls("softmax"):
        result = triton_kernels.softmax_triton(x)
    assert_close(result, expected, n=width, atol=1e-30, mistakes=wrong, vacuous_ok=constant)


@pytest.mark.grades("softmax_triton")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_triton_half_precision(dtype, generator, triton_device):
    """Computed in float32, rounded at the end (the interpreter cuts bfloat16 off, a GPU rounds it)."""
    x = (5 * torch.randn((3, 300), generator=generator)).to(triton_device, dtype)
    expected = torch.softmax(x.double(), -1)
    rtol = 2.0**-10 if dtype == torch.float16 else 2.0**-7
    assert_close(triton_kernels.softmax_triton(x), expected, dtype=dtype, rtol=rtol, atol=1e-7)


@pytest.mark.grades("softmax_triton")
def test_triton_special_values(generator, triton_device):
    """Large logits do not overflow; -inf weighs nothing; NaN, +inf or only -inf give NaN rows."""
    x = torch.randn((7, 70), generator=generator)
    x[0] *= 1e4
    x[1, ::2] = -torch.inf
    x[2, :-1] = -torch.inf
    x[3] = -torch.inf
    x[4, 69] = torch.nan
    x[5, 0] = torch.inf
    expected = torch.softmax(x.double(), -1).float().to(triton_device)
    result = triton_kernels.softmax_triton(x.to(triton_device))
    finite = bool(result[0].isfinite().all())
    hint = None if finite else "exp overflows: subtract the row's largest value first"
    assert_close(result, expected, n=70, atol=1e-30, hint=hint)


@pytest.mark.grades("softmax_triton")
def test_triton_softmax_arguments(triton_device):
    """No rows is fine; dtypes, widths and gaps are not."""
    assert triton_kernels.softmax_triton(torch.zeros((0, 5), device=triton_device)).shape == (0, 5)
    x = torch.ones((4, 6), device=triton_device)
    for bad, error, mention in (
        (x.double(), TypeError, "float64"),
        (x.T, ValueError, "(1, 6)"),
        (x[:, :0], ValueError, "(4, 0)"),
        (x[0, 0], ValueError, "()"),
    ):
        with expect_error(error, mention, otherwise="an argument that does not fit is accepted"):
            triton_kernels.softmax_triton(bad)


def assert_attention(tensors, device, *, what="attention", rtol=2e-5, **options):
    tensors = [tensor.to(device) for tensor in tensors]
    query, key, value = (tensor.double() for tensor in tensors)
    mask = {"is_causal": options.get("causal", False)}
    expected = sdpa(query, key, value, scale=options.get("scale"), **mask)
    wrong = {
        "looks like the scale is 1, not 1/sqrt(d)": sdpa(query, key, value, scale=1.0, **mask),
        "the causal mask is missing": sdpa(query, key, value, scale=options.get("scale")),
        "only the first tile of 32 keys is seen": sdpa(query, key[:, :, :32], value[:, :, :32], **mask),
    }
    with refuse_calls("attention", "softmax", "matmul"):
        result = triton_kernels.flash_attention_triton(*tensors, **options)
    dtype = tensors[0].dtype
    assert_close(result, expected, dtype=dtype, rtol=rtol, what=what, mistakes=wrong)


def inputs(generator, batch, heads, n_queries, n_keys, d, dtype=torch.float32):
    lengths = (n_queries, n_keys, n_keys)
    return [torch.randn((batch, heads, n, d), generator=generator).to(dtype) for n in lengths]


@pytest.mark.grades("flash_attention_triton")
@pytest.mark.parametrize("d", [32, 64, 128])
def test_triton_head_dims(d, generator, triton_device):
    """Each head dimension, with tails of queries and keys, several batches and heads."""
    assert_attention(inputs(generator, 2, 2, 19, 41, d), triton_device, what=f"attention, d = {d}")


@pytest.mark.grades("flash_attention_triton")
@pytest.mark.parametrize(("n_queries", "n_keys"), [(1, 1), (70, 70), (20, 70), (130, 20)])
def test_triton_causal(n_queries, n_keys, generator, triton_device):
    """Query i sees keys 0 to i, whatever the lengths; not causal they all see all."""
    tensors = inputs(generator, 1, 2, n_queries, n_keys, 32)
    for causal in (True, False):
        what = f"attention, {n_queries} queries, {n_keys} keys, causal {causal}"
        assert_attention(tensors, triton_device, causal=causal, what=what)


@pytest.mark.grades("flash_attention_triton")
def test_triton_scale_and_large_scores(generator, triton_device):
    """A negative scale, and scores of ±1e4 with the largest in the last tile."""
    query, key, value = inputs(generator, 1, 2, 5, 70, 32)
    assert_attention((query, key, value), triton_device, scale=-0.3)
    key[:, :, 69] *= 300
    assert_attention((30 * query, key, value), triton_device, what="attention with large scores")


@pytest.mark.grades("flash_attention_triton")
@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_triton_attention_half_precision(dtype, generator, triton_device):
    """Scores and sums are float32; the weights are rounded to the inputs' dtype before they meet the values."""
    rtol = 2e-3 if dtype == torch.float16 else 2e-2
    assert_attention(inputs(generator, 1, 2, 40, 70, 64, dtype), triton_device, rtol=rtol, causal=True)


@pytest.mark.grades("flash_attention_triton")
@pytest.mark.emulator_only("on a GPU bfloat16 is right")
def test_triton_refuses_what_its_interpreter_does_wrongly(generator, triton_device):
    """bfloat16 without a GPU: a TypeError instead of numbers of any size."""
    tensors = inputs(generator, 1, 1, 4, 4, 32, torch.bfloat16)
    with expect_error(TypeError, "bfloat16", otherwise="bfloat16 is accepted by the interpreter, and wrong"):
        triton_kernels.flash_attention_triton(*tensors)


@pytest.mark.grades("flash_attention_triton")
def test_triton_attention_options(generator, triton_device):
    """`causal` is a bool, `scale` a finite number, and all the rest tensors of one device."""
    tensors = [tensor.to(triton_device) for tensor in inputs(generator, 1, 1, 5, 7, 32)]
    for causal in (2, None, "no"):
        with expect_error(TypeError, "causal", otherwise=f"causal={causal!r} is accepted"):
            triton_kernels.flash_attention_triton(*tensors, causal=causal)
    for error, values in ((TypeError, ("0.5", True, 2j)), (ValueError, (float("nan"), float("inf"), 1e39))):
        for scale in values:
            with expect_error(error, "scale", otherwise=f"scale={scale!r} is accepted"):
                triton_kernels.flash_attention_triton(*tensors, scale=scale)
    assert_attention(tensors, triton_device, scale=1)
    with expect_error(TypeError, "ndarray", otherwise="an argument that is no tensor is accepted"):
        triton_kernels.flash_attention_triton(*tensors[:2], tensors[2].cpu().numpy())
    with expect_error(ValueError, "meta", otherwise="tensors of two devices are accepted"):
        triton_kernels.flash_attention_triton(*tensors[:2], tensors[2].to("meta"))
    huge = [torch.empty((1, 1, n, 128), device="meta") for n in (2**24, 1, 1)]
    with expect_error(ValueError, "2**31", otherwise="a head with 2**31 numbers is accepted"):
        triton_kernels.flash_attention_triton(*huge)


@pytest.mark.grades("softmax_triton")
def test_triton_softmax_takes_tensors(triton_device):
    """A NumPy array is named as what it is."""
    with expect_error(TypeError, "ndarray", otherwise="an argument that is no tensor is accepted"):
        triton_kernels.softmax_triton(torch.ones(3).numpy())


@pytest.mark.grades("flash_attention_triton")
def test_triton_attention_arguments(triton_device):
    """No queries is fine; shapes, dtypes and gaps that do not fit are not."""
    good = torch.ones((2, 3, 4, 32), device=triton_device)
    assert triton_kernels.flash_attention_triton(good[:, :, :0].contiguous(), good, good).shape == (
        2,
        3,
        0,
        32,
    )
    for tensors, error, mention in (
        ((torch.ones((2, 3, 4, 48), device=triton_device),) * 3, ValueError, "48"),
        ((good, good[:1], good[:1]), ValueError, "(1, 3, 4, 32)"),
        ((good, good, good[:, :, :3].contiguous()), ValueError, "(2, 3, 3, 32)"),
        ((good, good[:, :, :0], good[:, :, :0]), ValueError, "(2, 3, 0, 32)"),
        (tuple(torch.ones((2, 32768, n, 32), device=triton_device) for n in (0, 1, 1)), ValueError, "65535"),
        ((good, good.half(), good), TypeError, "float16"),
        ((good, good.transpose(0, 1).contiguous().transpose(0, 1), good), ValueError, "(128, 256, 32, 1)"),
    ):
        with expect_error(error, mention, otherwise="an argument that does not fit is accepted"):
            triton_kernels.flash_attention_triton(*tensors)
