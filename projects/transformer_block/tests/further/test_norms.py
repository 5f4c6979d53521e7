"""norms.py: RMS norm, and what layer norm does beyond the core. It meets the core's tests of layer norm too.

Oracles: values worked by hand, torch's own norms in float64.
"""

import math

import numpy as np
import pytest
import test_parts
import torch
import torch.nn.functional as F
from oracles import (
    RefuseLibrary,
    check_equal_features,
    check_nearly_equal_features,
    gradients,
    normal,
    randomised,
)

import norms
from shared.testing.checks import assert_close, assert_imports_only, expect_error, tolerance, unchanged

pytestmark = pytest.mark.module("norms")
BOTH = pytest.mark.parametrize("function", ["LayerNorm", "RMSNorm"])
globals().update({k: v for k, v in vars(test_parts).items() if k.startswith("test_layer_norm")})


@pytest.fixture(autouse=True)
def in_the_place_of_the_core(monkeypatch):
    """Give the core's tests this module's layer norm."""
    monkeypatch.setattr(test_parts.tb, "LayerNorm", norms.LayerNorm)


@pytest.mark.grades
def test_norms_imports():
    """The module uses torch, nothing else."""
    assert_imports_only(norms, {"torch"})


def norm_with(kind, d_model, dtype=torch.float64, **options):
    """Build the learner's norm in this dtype."""
    return getattr(norms, kind)(d_model, **options).to(dtype)


@pytest.mark.grades("RMSNorm")
def test_rms_norm_by_hand():
    """Mean square 25, eps 11: divide by 6; then scale."""
    norm = norm_with("RMSNorm", 4, eps=11.0)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    x, w = np.array([[1.0, 7.0, -5.0, 5.0]]), np.arange(1, 5.0)
    centred = x - 2
    assert_close(
        norm(torch.from_numpy(x)),
        torch.tensor([[1 / 6, 14 / 6, -15 / 6, 20 / 6]], dtype=torch.float64),
        what="RMS norm",
        mistakes={
            "the mean is subtracted: RMS norm does not centre": centred / math.sqrt(21 + 11) * w,
            "the mean is subtracted before dividing: RMS norm does not centre": centred / 6 * w,
            "divided by the standard deviation: the mean square is that of x itself": x
            / math.sqrt(21 + 11)
            * w,
            "the sum of squares is used, not their mean": x / math.sqrt(100 + 11) * w,
            "eps is outside the root: it belongs to the mean square": x / (5 + 11) * w,
            "eps is not used": x / 5 * w,
            "the weight is not used": x / 6,
            "divided by the mean square, not by its root": x / 36 * w,
            "the norm returns its input": x,
        },
    )
    names = dict(norms.RMSNorm(5).named_parameters())
    assert list(names) == ["weight"], f"RMS norm has a weight and nothing else, got {list(names)}"
    assert torch.equal(names["weight"].detach(), torch.ones(5)), "weight must start at one"


def library_norm(kind, norm, x):
    """Return what torch's own function makes of it."""
    if kind == "LayerNorm":
        return F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, 1e-5)
    return F.rms_norm(x, x.shape[-1:], norm.weight, 1e-6)


@pytest.mark.grades("LayerNorm")
def test_without_bias():
    """bias=False leaves the bias out."""
    without = norms.LayerNorm(5, bias=False)
    assert [name for name, _ in without.named_parameters()] == ["weight"], "bias=False keeps a bias"
    assert without.bias is None, "with bias=False the attribute bias is None"
    x = torch.tensor([[1.0, 2.0, 3.0, 6.0, 3.0]])
    assert_close(without(x), F.layer_norm(x, (5,)), rtol=1e-5, what="layer norm without bias")


@pytest.mark.parametrize("shape", [(5,), (4, 5), (5, 5), (2, 3, 5), (2, 4, 3, 5)], ids=str)
@pytest.mark.grades("RMSNorm")
def test_rms_norm_equals_torch(shape, generator):
    """Output and all gradients, for any leading axes: every token on its own, the large beside the small."""
    norm = randomised(norm_with("RMSNorm", 5), generator)
    with torch.no_grad():
        norm.weight.add_(1.0)
    size = 10 ** (2 * normal(*shape[:-1], 1, generator=generator).clamp(-1, 1))
    x = (size * (3 * normal(*shape, generator=generator) + 2)).requires_grad_()
    cotangent = normal(*shape, generator=generator)
    values, w = x.detach().numpy(), norm.weight.detach().numpy()
    mistakes = {}
    if len(shape) > 1:
        every = tuple(range(len(shape)))
        mistakes = {
            f"normalised over {over}: the axis is the last one": lambda axes=axes: (
                values / np.sqrt((values**2).mean(axes, keepdims=True) + 1e-6) * w
            )
            for over, axes in (("the batch", 0), ("the sequence", -2), ("everything at once", every))
        }
    inputs = (x, norm.weight)
    y, expected = norm(x), library_norm("RMSNorm", norm, x)
    assert_close(y, expected, rtol=1e-11, what=f"RMS norm of {shape}", mistakes=mistakes)
    got, wanted = gradients(y, inputs, cotangent), gradients(expected, inputs, cotangent)
    for name, mine, theirs in zip(("x", "weight"), got, wanted, strict=True):
        hint = "the root depends on x too: the gradient flows through it"
        assert_close(mine, theirs, rtol=1e-10, what=f"gradient by {name}", hint=hint)


@pytest.mark.grades("RMSNorm")
def test_rms_norm_default_eps():
    """Values near zero show which eps is the default; a token of zeros gives zeros, and a finite gradient."""
    x = torch.tensor([[1e-3, -2e-3, 3e-3, -2e-3], [0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    x.requires_grad_()
    y = norm_with("RMSNorm", 4)(x)
    expected = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    hint = "the default eps of RMSNorm is 1e-6, inside the root"
    assert_close(y, expected, rtol=1e-9, what="RMSNorm", hint=hint)
    (gradient,) = gradients(y, (x,), torch.tensor([[1.0, -2.0, 4.0, 3.0]], dtype=torch.float64))
    assert gradient.isfinite().all(), f"the gradient of a token of zeros must be finite, got {gradient}"


@pytest.mark.grades("LayerNorm")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("d_model", [3, 64, 768])
def test_equal_features(d_model, dtype, generator):
    """Exactly 0 before weight and bias, whatever the features are."""
    check_equal_features(norms.LayerNorm(d_model), dtype, generator)


@pytest.mark.grades("LayerNorm")
@pytest.mark.parametrize("d_model", [3, 64, 768])
def test_nearly_equal_features(d_model, generator):
    """Features that differ in their last bits keep what they differ by."""
    check_nearly_equal_features(norms.LayerNorm(d_model), generator)


@pytest.mark.filterwarnings("ignore:.*degrees of freedom")  # torch.var_mean of an empty batch
@BOTH
def test_norm_of_nothing(function):
    """An empty batch gives an empty result."""
    got = tuple(norm_with(function, 5)(torch.zeros(2, 0, 5, dtype=torch.float64)).shape)
    assert got == (2, 0, 5), f"an empty batch (2, 0, 5) gave shape {got}"


@BOTH
def test_norm_of_nan(function, generator):
    """A NaN spoils its own token, and no other."""
    norm, x = norm_with(function, 4), normal(2, 3, 4, generator=generator)
    expected = norm(x).detach()
    x[1, 2, 0] = expected[1, 2] = float("nan")
    hint = "a NaN is hidden, or spreads to other tokens"
    assert_close(norm(x), expected, rtol=1e-12, what=function, hint=hint)


@BOTH
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_norm_dtypes(function, dtype, generator):
    """The dtype comes back; squares of 1000 overflow float16, so half types are computed in float32."""
    norm = randomised(norm_with(function, 300), generator, dtype)
    x = normal(3, 300, generator=generator, scale=1000.0).to(dtype)
    with torch.no_grad():
        got, expected = norm(x), library_norm(function, norm.double(), x.double())
    hint = (
        "half types: compute in float32, where 1000² does not overflow, and round once, after weight and bias"
    )
    half = dtype != torch.float32
    rtol = 0.52 * torch.finfo(dtype).eps if half else tolerance(dtype) / 4  # half types: rounded once
    atol = 2e-6 if half else rtol
    assert_close(got, expected, dtype=dtype, rtol=rtol, atol=atol, what=function, hint=hint)


@BOTH
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool, torch.complex64], ids=str)
def test_norm_refuses_other_dtypes(function, dtype):
    """A result in the dtype of x would be cut to whole numbers: refused by name."""
    with expect_error(TypeError, str(dtype), otherwise=f"{function} accepts {dtype}"):
        getattr(norms, function)(4)(torch.ones(2, 4, dtype=dtype))


@BOTH
@pytest.mark.parametrize("eps", [-1e-5, math.nan, math.inf])
def test_norm_refuses_eps(function, eps):
    """An eps that makes NaN, or zeros, is refused when the norm is made."""
    with expect_error(ValueError, "eps", str(eps), otherwise=f"{function}(eps={eps}) is accepted"):
        getattr(norms, function)(4, eps=eps)
    assert getattr(norms, function)(4, eps=0.0)(torch.tensor([1.0, 2.0, 3.0, 6.0])).isfinite().all(), "eps=0"


@BOTH
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_norm_of_squares_that_overflow(function, dtype):
    """1e20 squared is inf in float32, and x / inf is 0, as if nothing were there: NaN in that token, and only there."""
    x = torch.tensor([[1e20, -2e20, 1e20, 3e20], [1.0, 2.0, 3.0, 6.0]], dtype=dtype)
    with torch.no_grad():
        got = getattr(norms, function)(4).to(dtype)(x)
    assert got[0].isnan().all(), f"features of 1e20 give {got[0].tolist()}: their squares overflow, say NaN"
    assert got[1].isfinite().all(), "a token with large features spoils another one"


@BOTH
def test_norm_contract(function):
    """A wrong last axis is refused by name, the input is left alone, and the library is not called."""
    norm = getattr(norms, function)(6)
    x = torch.arange(12.0).view(2, 6)
    with unchanged(x), RefuseLibrary():
        norm(x)
    for shape in [(2, 5), (6, 1), ()]:
        otherwise = f"x {shape} is accepted by a norm of 6 features"
        with expect_error(ValueError, "6", str(tuple(shape)), otherwise=otherwise):
            norm(torch.ones(shape))
