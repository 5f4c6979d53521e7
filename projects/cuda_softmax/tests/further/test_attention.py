"""The judge of flash attention, the quick part: by hand, tiles, the causal mask, the scale. Oracle: torch in float64."""

import numpy as np
import pytest
from attention_cases import assert_attention, inputs

from flash_attention import flash_attention
from shared.testing.checks import assert_close

pytestmark = pytest.mark.grades("flash_attention")


def test_attention_by_hand(cuda_device):
    """Two keys with equal scores: the mean of their values; with one key, its value."""
    query, key = np.zeros((1, 1, 1, 32), np.float32), np.ones((1, 1, 2, 32), np.float32)
    value = np.stack([np.arange(32), np.arange(32) + 10]).astype(np.float32)[None, None]
    result = flash_attention(query, key, value)
    wrong = {
        "the weights are not divided by their sum": value.sum(axis=2, keepdims=True),
        "only the first key is seen": value[:, :, :1],
        "keys past the end of the tile count, with score 0: they need -inf": value.sum(axis=2, keepdims=True)
        / 32,
    }
    assert_close(result, value.mean(axis=2, keepdims=True), rtol=1e-6, what="attention", mistakes=wrong)


@pytest.mark.parametrize(("n_queries", "n_keys"), [(17, 33), (1, 1), (16, 32), (40, 1), (3, 100)])
def test_lengths(n_queries, n_keys, rng, cuda_device):
    """Lengths around a tile of 16 queries and 32 keys."""
    assert_attention(inputs(rng, 1, 2, n_queries, n_keys, 32), what=f"{n_queries} queries, {n_keys} keys")


@pytest.mark.parametrize(("n_queries", "n_keys"), [(40, 40), (20, 70), (70, 20)])
def test_causal(n_queries, n_keys, rng, cuda_device):
    """Query i sees keys 0 to i: equal lengths, more keys, more queries."""
    what = f"causal attention, {n_queries} queries, {n_keys} keys"
    assert_attention(inputs(rng, 1, 2, n_queries, n_keys, 32), causal=True, what=what)


def test_scale(rng, cuda_device):
    """Another scale, also a negative one, and 0, which is a scale too: all keys weigh the same."""
    arrays = inputs(rng, 1, 2, 5, 40, 32)
    for scale in (0.5, -0.1, 0.0):
        assert_attention(arrays, scale=scale, what=f"attention with scale {scale}")
