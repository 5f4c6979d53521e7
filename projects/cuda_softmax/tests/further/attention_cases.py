"""What the tests of flash attention share: inputs, the oracle, and what likely mistakes would give."""

import numpy as np
import torch

from flash_attention import flash_attention
from shared.testing.checks import assert_close


def inputs(rng, batch, heads, n_queries, n_keys, d):
    """Return random query, key and value, with scores that spread over a few units."""
    shapes = [(batch, heads, n, d) for n in (n_queries, n_keys, n_keys)]
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def oracle(query, key, value, *, causal=False, scale=None):
    tensors = [torch.from_numpy(array.astype(np.float64)) for array in (query, key, value)]
    attention = torch.nn.functional.scaled_dot_product_attention
    return attention(*tensors, is_causal=causal, scale=scale).numpy()


def uncorrected(query, key, value, *, causal=False, scale=None):
    """Return what comes out where a new largest score, in tiles of 32 keys, corrects one of the two and not the other."""
    query, key, value = (array.astype(np.float64) for array in (query, key, value))
    scores = query @ np.swapaxes(key, -1, -2) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if causal:
        scores[..., ~np.tri(*scores.shape[-2:], dtype=bool)] = -np.inf
    so_far = np.maximum.accumulate(scores, axis=-1)
    ends = np.minimum(np.arange(key.shape[-2]) // 32 * 32 + 31, key.shape[-2] - 1)
    right, wrong = np.exp(scores - so_far[..., -1:]), np.exp(scores - so_far[..., ends])
    return {
        "a new largest score must correct both the sum and the weighted values: the values are not corrected": (
            wrong @ value / right.sum(axis=-1, keepdims=True)
        ),
        "a new largest score must correct both the sum and the weighted values: the sum is not corrected": (
            right @ value / wrong.sum(axis=-1, keepdims=True)
        ),
    }


def mistakes(query, key, value, *, causal=False, scale=None):
    """Return what likely mistakes would give."""
    d, n_keys = query.shape[-1], key.shape[-2]
    right = {"causal": causal, "scale": scale}
    found = {
        "looks like the scale is 1, not 1/sqrt(d)": oracle(query, key, value, causal=causal, scale=1.0),
        "looks like the scale is 1/d, not 1/sqrt(d)": oracle(query, key, value, causal=causal, scale=1 / d),
        "only the first tile of 32 keys is seen": oracle(query, key[..., :32, :], value[..., :32, :], **right),
        "the last, incomplete tile of keys is left out": oracle(
            query, key[..., : n_keys // 32 * 32, :], value[..., : n_keys // 32 * 32, :], **right
        ) if n_keys >= 32 else np.nan,
        "heads are mixed up: every head attends to the keys of the first": oracle(
            query, np.repeat(key[:, :1], key.shape[1], 1), np.repeat(value[:, :1], key.shape[1], 1), **right
        ),
    }  # fmt: skip
    past = [(0, 0)] * (key.ndim - 2) + [(0, -n_keys % 32), (0, 0)]
    if n_keys % 32 and not causal:
        found["keys past the end of the last tile count, with the score 0: they must weigh nothing"] = oracle(
            query, np.pad(key, past), np.pad(value, past), **right
        )
    found |= uncorrected(query, key, value, **right)
    if scale is not None:
        found["the scale is ignored, or 0 is taken for none: it is 1/sqrt(d)"] = oracle(
            query, key, value, causal=causal
        )
    if causal:
        found["the causal mask is missing"] = oracle(query, key, value, scale=scale)
        n_queries = query.shape[-2]
        mask = torch.ones(n_queries, n_keys, dtype=torch.bool).tril(n_keys - n_queries)
        if n_keys > n_queries:
            tensors = [torch.from_numpy(array.astype(np.float64)) for array in (query, key, value)]
            attention = torch.nn.functional.scaled_dot_product_attention(
                *tensors, attn_mask=mask, scale=scale
            )
            found["the causal mask is aligned to the last key; query i sees keys 0 to i"] = attention.numpy()
    return found


def assert_attention(arrays, *, what="attention", **options):
    result = flash_attention(*arrays, **options)
    expected = oracle(*arrays, **options)
    diagnoses = mistakes(*arrays, **options)
    assert_close(result, expected, dtype=np.float32, rtol=2e-5, what=what, mistakes=diagnoses)
