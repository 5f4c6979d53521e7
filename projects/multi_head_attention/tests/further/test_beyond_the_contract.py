"""What the core does beyond its plain contract: half types, masks of every shape, masks that are refused by name.

tests/further/test_grouped_with_every_mask.py puts the class of grouped_query_attention.py in the place of the core's.
"""

import pytest
import torch
from oracles import (
    MASK_SHAPES,
    check_large_scores_of_half_types,
    check_one_token_of_half_types,
    mask_of,
    randn,
    random_module,
    sdpa,
)

import multi_head_attention
from shared.testing.checks import assert_close, expect_error

CONSTRUCTOR, FORWARD = "MultiHeadAttention", "MultiHeadAttention.forward"
MAPS = "MultiHeadAttention.attention_maps"


@pytest.fixture
def attention():
    return multi_head_attention.MultiHeadAttention


@pytest.mark.grades(CONSTRUCTOR, FORWARD, MAPS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_large_scores_of_half_types(attention, dtype, generator):
    """Scores of ±1e5 do not fit in float16; their softmax does, and so does the result."""
    check_one_token_of_half_types(attention, dtype)
    check_large_scores_of_half_types(attention, dtype, generator)


@pytest.mark.grades(CONSTRUCTOR, FORWARD, MAPS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kind", ["bool", "float", "float of 0 and -inf, in float32"])
@pytest.mark.parametrize("shape", MASK_SHAPES, ids=str)
def test_every_shape_of_mask(attention, shape, kind, causal, generator):
    """Whatever broadcasts to (B, n_heads, Tq, Tk) is a mask, in any float dtype."""
    module = random_module(attention, generator, causal=causal)
    query, key = randn(3, 5, 24, generator=generator), randn(3, 7, 24, generator=generator)
    mask = mask_of(shape, kind, generator)
    full = mask.expand(3, 4, 5, 7)
    seen = torch.ones(5, 7, dtype=torch.bool).tril(2 if causal else 7)
    full = full & seen if mask.dtype == torch.bool else full.double().masked_fill(~seen, -torch.inf)
    with torch.no_grad():
        expected = sdpa(module, query, key, key, mask=full)
        assert_close(module(query, key, mask=mask), expected, rtol=1e-11, what=f"result, mask of {shape}")
        maps = module.attention_maps(query, key, mask=mask)
    assert maps.shape == (3, 4, 5, 7), f"a mask of {shape} gives maps of {tuple(maps.shape)}"


@pytest.mark.grades(CONSTRUCTOR, FORWARD, MAPS)
@pytest.mark.parametrize(
    ("dtype", "of_the_mask"), [(torch.float32, torch.float64), (torch.float64, torch.float16)]
)
def test_mask_of_another_float_dtype(attention, dtype, of_the_mask, generator):
    """The mask is added, whatever float dtype it has; the result has that of the module."""
    module = random_module(attention, generator, dtype=dtype)
    query = randn(3, 5, 24, generator=generator, dtype=dtype)
    mask = randn(5, 5, generator=generator).to(of_the_mask)
    try:
        with torch.no_grad():
            got, maps = module(query, mask=mask), module.attention_maps(query, mask=mask)
    except NotImplementedError:  # a RuntimeError too
        raise
    except RuntimeError as error:
        raise AssertionError(
            f"a {of_the_mask} mask for {dtype} inputs fails: convert it first. {error}"
        ) from error
    with torch.no_grad():
        expected = sdpa(module, query, query, query, mask=mask.to(dtype))
    assert_close(got, expected, rtol=1e-5, hint="the mask is to be added in the dtype of the scores")
    assert maps.dtype == dtype, f"the maps are {maps.dtype}, the input is {dtype}"


@pytest.mark.grades(CONSTRUCTOR, FORWARD, MAPS)
@pytest.mark.parametrize(
    "shape", [(4, 7), (7, 7), (2, 1, 1, 7), (2, 1, 7), (1, 3, 1, 7), (2, 1, 1, 1, 7)], ids=str
)
def test_a_mask_enlarges_nothing(attention, shape):
    """A mask that does not broadcast to (B, n_heads, Tq, Tk) is refused by its shape, also where B or Tq is 1."""
    module = attention(24, 4)
    query, key = torch.ones(1, 1, 24), torch.ones(1, 7, 24)
    for call in (module, module.attention_maps):
        with expect_error(
            ValueError, str(shape), otherwise=f"a mask of shape {shape} is accepted for one query"
        ):
            call(query, key, mask=torch.ones(shape, dtype=torch.bool))
