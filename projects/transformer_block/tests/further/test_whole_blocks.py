"""All further modules together: empty input, half types, and no call of the library's norms and attention."""

import pytest
import torch
from oracles import RefuseLibrary, block_by_torch, normal, randomised

from gpt2_and_llama import Transformer, TransformerBlock
from shared.testing.checks import assert_close

WHOLE = pytest.mark.grades(
    *("norms.LayerNorm", "RMSNorm", "rotary", "swiglu.FeedForward", "attention_in_groups.SelfAttention"),
    *("gpt2_and_llama.TransformerBlock", "Transformer"),
)


@pytest.mark.filterwarnings("ignore:.*degrees of freedom")  # torch.var_mean of an empty batch
@WHOLE
@pytest.mark.parametrize("shape", [(0, 5, 8), (2, 0, 8)], ids=str)
def test_block_of_nothing(shape):
    """No sequences or no tokens give an empty result of the same shape."""
    for module in (TransformerBlock(8, 2, position="rotary", causal=True), Transformer(2, 8, 2, norm="rms")):
        got = tuple(module(torch.zeros(shape)).shape)
        assert got == shape, f"x {shape} gave shape {got}"


@WHOLE
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_block_dtypes(dtype, generator):
    """The dtype of x comes back, with rotary positions and a float32 mask as well."""
    options = {"position": "rotary", "norm": "rms", "activation": "swiglu"}
    block = randomised(TransformerBlock(16, 2, **options), generator, dtype)
    x = normal(2, 5, 16, generator=generator, scale=3.0).to(dtype)
    mask = normal(5, 5, generator=generator).float()
    with torch.no_grad(), RefuseLibrary():
        y = block(x, mask=mask)
    with torch.no_grad():
        how = {"mask": mask.double(), "rotary": True, "activation": "swiglu"}
        expected = block_by_torch(block.double(), 2, x.double(), **how)
    eps = torch.finfo(dtype).eps  # a dozen roundings of numbers up to 10
    assert_close(y, expected, dtype=dtype, rtol=4 * eps, atol=8 * eps, what=f"block in {dtype}")
