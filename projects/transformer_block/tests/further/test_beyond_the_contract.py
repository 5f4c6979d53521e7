"""What the core does beyond its plain contract: equal features, half types, masks that are refused by name.

Oracles: laws (equal features have no spread), torch's norm and attention in float64.
"""

import pytest
import torch
import torch.nn.functional as F
from oracles import (
    OVERFLOW,
    RefuseLibrary,
    attention_by_torch,
    block_by_torch,
    check_equal_features,
    check_large_scores_of_half_types,
    check_nearly_equal_features,
    check_one_token_of_half_types,
    normal,
    randomised,
)

import transformer_block as tb
from shared.testing.checks import assert_close, expect_error

HALVES = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)

# --- layer norm -----------------------------------------------------------------------------------------------


@pytest.mark.grades("LayerNorm")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("d_model", [3, 64, 768])
def test_equal_features_of_the_core(d_model, dtype, generator):
    """Exactly 0 before weight and bias, whatever the features are."""
    check_equal_features(tb.LayerNorm(d_model), dtype, generator)


@pytest.mark.grades("LayerNorm")
@pytest.mark.parametrize("d_model", [3, 64, 768])
def test_nearly_equal_features_of_the_core(d_model, generator):
    """Features that differ in their last bits keep what they differ by."""
    check_nearly_equal_features(tb.LayerNorm(d_model), generator)


@pytest.mark.grades("LayerNorm")
@HALVES
def test_norm_of_half_types(dtype, generator):
    """The dtype comes back; the square of 1000 overflows float16, so half types are computed in float32."""
    norm = randomised(tb.LayerNorm(300), generator, dtype)
    x = normal(3, 300, generator=generator, scale=1000.0).to(dtype)
    with torch.no_grad(), RefuseLibrary():
        got = norm(x)
    expected = F.layer_norm(x.double(), (300,), norm.weight.double(), norm.bias.double(), 1e-5).detach()
    hint = (
        "half types: compute in float32, where 1000² does not overflow, and round once, after weight and bias"
    )
    rtol = 0.52 * torch.finfo(dtype).eps  # rounded once
    assert_close(got, expected, dtype=dtype, rtol=rtol, atol=2e-6, what="layer norm", hint=hint)


@pytest.mark.grades("LayerNorm")
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64], ids=str)
def test_norm_of_integers(dtype):
    """Whole numbers are normalised, or refused with a TypeError: their result is not cut to whole numbers."""
    x = torch.tensor([[1, 2, 3, 6], [9, 2, 2, 4]], dtype=dtype)
    try:
        got = tb.LayerNorm(4)(x)
    except NotImplementedError:  # a RuntimeError too
        raise
    except (TypeError, RuntimeError):
        return
    hint = "the result of whole numbers is cut to whole numbers"
    assert_close(got, F.layer_norm(x.double(), (4,)), dtype=torch.float32, what="layer norm", hint=hint)


# --- attention and the block ----------------------------------------------------------------------------------


@pytest.mark.grades("SelfAttention")
@HALVES
def test_half_types_with_large_scores(dtype, generator):
    """Scores of ±1e5 do not fit in float16; their softmax does, and so does the result."""
    check_large_scores_of_half_types(tb.SelfAttention, dtype, generator)


@pytest.mark.grades("SelfAttention")
@HALVES
def test_one_token_of_half_types(dtype):
    """One token attends to itself alone, with a score of 66 248: its value comes back."""
    check_one_token_of_half_types(tb.SelfAttention, dtype)


@pytest.mark.grades("LayerNorm", "SelfAttention", "FeedForward", "TransformerBlock")
@HALVES
@pytest.mark.parametrize("size", [1.0, 1000.0])
def test_block_of_half_types(size, dtype, generator):
    """A whole block whose query and key weights are 100·I, and one whose features are large."""
    block = randomised(tb.TransformerBlock(64, 1), generator, dtype)
    with torch.no_grad():
        if size == 1.0:
            block.attention.qkv.weight[:128] = 100 * torch.eye(64).repeat(2, 1).to(dtype)
        x = (size * normal(2, 5, 64, generator=generator)).to(dtype)
        y = block(x)
        assert y.isfinite().all(), f"a block in {dtype} gives NaN: {OVERFLOW}"
        expected = block_by_torch(block.double(), 1, x.double())
    rtol = 8 * torch.finfo(dtype).eps  # a dozen roundings
    assert_close(y, expected, dtype=dtype, rtol=rtol, what=f"block in {dtype}")


@pytest.mark.grades("SelfAttention")
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8, torch.int64], ids=str)
def test_a_mask_of_the_core_is_boolean(dtype):
    """A mask of numbers is refused by its dtype: ~ would make -1 and -2 of ones and zeros."""
    otherwise = f"a mask of {dtype} is accepted, or refused without its name"
    with expect_error(TypeError, "mask", str(dtype), otherwise=otherwise):
        tb.SelfAttention(8, 2)(torch.ones(3, 5, 8), mask=torch.ones(5, 5, dtype=dtype))


@pytest.mark.grades("SelfAttention")
@pytest.mark.parametrize(
    "shape", [(4, 5), (3, 1, 1, 5), (2, 1, 1, 5, 5), (7, 1, 5, 5), (1, 3, 5, 5)], ids=str
)
def test_a_mask_of_the_core_enlarges_nothing(shape):
    """A mask that does not broadcast to (B, n_heads, T, T) is refused by its shape, also where B or T is 1."""
    attention = tb.SelfAttention(8, 2)
    for T in (5, 1):
        with expect_error(
            ValueError, str(shape), otherwise=f"a mask of shape {shape} is accepted with T = {T}"
        ):
            attention(torch.ones(1, T, 8), mask=torch.ones(shape, dtype=torch.bool))


@pytest.mark.grades("SelfAttention")
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    "shape", [(), (5,), (1,), (5, 5), (5, 1), (2, 1, 5), (3, 1, 1, 5), (3, 2, 5, 5), (1, 1, 5, 5)], ids=str
)
def test_every_shape_of_mask(shape, causal, generator):
    """Whatever broadcasts to (B, n_heads, T, T) is a mask."""
    attention = randomised(tb.SelfAttention(8, 2, causal=causal), generator)
    x = normal(3, 5, 8, generator=generator)
    mask = torch.rand(1, *shape, generator=generator) < 0.6
    mask[..., 0] = True  # a key for each query
    mask = mask[0]
    with torch.no_grad():
        expected = attention_by_torch(attention, 2, x, mask=mask.expand(3, 2, 5, 5), causal=causal)
        assert_close(attention(x, mask=mask), expected, rtol=1e-10, what=f"attention, mask of {shape}")
