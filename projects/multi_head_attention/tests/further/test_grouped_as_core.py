"""grouped_query_attention.py keeps the contract of the core: the same tests, with its class, written out and fused."""

import functools

import pytest
import test_multi_head_attention

import grouped_query_attention

pytestmark = pytest.mark.module("grouped_query_attention")
WRITTEN_OUT = {"test_no_library_call", "test_imports_torch_only"}
globals().update(
    {
        k: v
        for k, v in vars(test_multi_head_attention).items()
        if k.startswith("test_") and k not in WRITTEN_OUT
    }
)


@pytest.fixture(params=[False, True], ids=["written out", "fused"])
def attention(request):
    return functools.partial(grouped_query_attention.MultiHeadAttention, fused=request.param)
