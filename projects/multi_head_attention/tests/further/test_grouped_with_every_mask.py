"""grouped_query_attention.py on what the core does beyond its contract, written out and fused."""

import functools

import pytest
import test_beyond_the_contract

import grouped_query_attention

pytestmark = pytest.mark.module("grouped_query_attention")
globals().update({k: v for k, v in vars(test_beyond_the_contract).items() if k.startswith("test_")})


@pytest.fixture(params=[False, True], ids=["written out", "fused"])
def attention(request):
    return functools.partial(grouped_query_attention.MultiHeadAttention, fused=request.param)
