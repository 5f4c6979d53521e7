"""The judge of decoding: the module together with a cache.

Oracle: SDPA over the whole sequence at once, causal.
"""

import pytest
import torch
from oracles import D_MODEL, MASK_SHAPES, N_HEADS, mask_of, mistakes, randn, random_module, sdpa
from torch.nn.attention.bias import causal_lower_right

from grouped_query_attention import MultiHeadAttention
from key_value_cache import KeyValueCache
from shared.testing.checks import assert_close, expect_error

pytestmark = pytest.mark.module("grouped_query_attention")

B, T = 3, 7
CHUNKINGS = [(1,) * T, (T,), (4, 1, 1, 1), (1, 3, 2, 1), (2, 5)]
FORWARD, APPEND = "MultiHeadAttention.forward", "KeyValueCache.append"


def decode(module, x, chunks, **options):
    """Feed `x` in chunks of these many tokens to the module with a cache, and return all outputs."""
    cache, outputs, start = KeyValueCache(x.shape[1]), [], 0
    with torch.no_grad():
        for n_new in chunks:
            outputs.append(module(x[:, start : start + n_new], cache=cache, **options))
            start += n_new
    assert len(cache) == x.shape[1], f"{x.shape[1]} tokens went in, the cache holds {len(cache)}"
    return torch.cat(outputs, dim=1)


@pytest.mark.grades(FORWARD, APPEND)
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("n_kv_heads", [1, 2, N_HEADS])
@pytest.mark.parametrize("chunks", CHUNKINGS, ids=str)
def test_decoding_is_the_full_pass(generator, chunks, n_kv_heads, fused):
    """In any chunking, the outputs are those of one causal pass over the whole sequence."""
    module = random_module(MultiHeadAttention, generator, n_kv_heads=n_kv_heads, causal=True, fused=fused)
    x = randn(B, T, D_MODEL, generator=generator)
    expected = sdpa(module, x, x, x, mask=causal_lower_right(T, T)).detach()
    ends = torch.tensor(chunks).cumsum(0)
    start = torch.repeat_interleave(ends - torch.tensor(chunks), torch.tensor(chunks))
    keys, queries = torch.arange(T), torch.arange(T)[:, None]

    def seen(mask):
        return lambda: sdpa(module, x, x, x, mask=mask).detach()

    assert_close(
        decode(module, x, chunks),
        expected,
        rtol=1e-12,
        what="outputs of decoding",
        mistakes={
            "new tokens see one another, also later ones: causal=True holds within a chunk too": seen(
                keys < torch.repeat_interleave(ends, torch.tensor(chunks))[:, None]
            ),
            "the causal mask of a chunk is aligned with the first key of the cache: align the last query with the "
            "last key": seen(keys <= queries - start[:, None]),
            "a new token does not see the old ones": seen((keys <= queries) & (keys >= start[:, None])),
        },
        hint="is a token missing from the cache, or in it twice?",
    )


@pytest.mark.grades(FORWARD, APPEND)
@pytest.mark.parametrize("fused", [False, True])
def test_decoding_in_float32(generator, fused):
    """Decoding 40 tokens in float32 stays within 1e-5 of the full pass of torch's SDPA."""
    module = random_module(
        MultiHeadAttention, generator, dtype=torch.float32, causal=True, n_kv_heads=2, fused=fused
    )
    x = randn(2, 40, D_MODEL, generator=generator, dtype=torch.float32)
    expected = sdpa(module, x, x, x, mask=causal_lower_right(40, 40)).detach()
    assert_close(decode(module, x, (1,) * 40), expected, rtol=1e-5)


@pytest.mark.grades(FORWARD, APPEND)
@pytest.mark.parametrize("fused", [False, True])
def test_padded_prompts(generator, fused):
    """A mask counts all tokens, old and new: prompts of different lengths, padded on the left."""
    module = random_module(MultiHeadAttention, generator, causal=True, fused=fused)
    x = randn(B, T, D_MODEL, generator=generator)
    real = torch.arange(T) >= torch.tensor([0, 2, 3])[:, None]
    expected = sdpa(
        module, x, x, x, mask=(real[:, None, None] & torch.ones(T, T, dtype=torch.bool).tril())
    ).detach()
    cache, outputs = KeyValueCache(T), []
    with torch.no_grad():
        for start, end in ((0, 4), (4, 5), (5, 7)):
            outputs.append(module(x[:, start:end], mask=real[:, None, None, :end], cache=cache))
    got = torch.cat(outputs, dim=1)
    assert_close(got[real], expected[real], rtol=1e-12, hint="the mask has one column for each token so far")


@pytest.mark.grades(FORWARD)
def test_not_causal_with_a_cache(generator):
    """Without `causal` the new tokens see all that the cache holds, and each other."""
    module = random_module(MultiHeadAttention, generator)
    x = randn(B, T, D_MODEL, generator=generator)
    ends = torch.tensor([3, 3, 3, T, T, T, T])[:, None]
    expected = sdpa(module, x, x, x, mask=torch.arange(T) < ends).detach()
    assert_close(decode(module, x, (3, 4)), expected, rtol=1e-12)


@pytest.mark.grades(FORWARD)
def test_cache_takes_projected_heads(generator):
    """What the cache holds are n_kv_heads heads: with grouped heads it is smaller by n_heads/n_kv_heads."""
    module = random_module(MultiHeadAttention, generator, n_kv_heads=2, causal=True)
    x = randn(B, T, D_MODEL, generator=generator)
    cache = KeyValueCache(T + 1)
    with torch.no_grad():
        module(x, cache=cache)
        empty = x.new_empty(B, 2, 0, D_MODEL // N_HEADS)
        with_room = x.new_empty(B, N_HEADS, 0, D_MODEL // N_HEADS)
        try:
            keys, values = cache.append(empty, empty)
        except ValueError as error:
            with expect_error(
                ValueError, otherwise="the cache holds a copy per query head: keep n_kv_heads only"
            ):
                cache.append(with_room, with_room)
            raise AssertionError(f"the cache should hold 2 heads: {error}") from error
        for got, layer, what in ((keys, module.k_proj, "keys"), (values, module.v_proj, "values")):
            assert_close(got.transpose(1, 2).flatten(2), layer(x), rtol=1e-12, what=f"{what} in the cache")


@pytest.mark.grades(FORWARD, APPEND)
@pytest.mark.parametrize("n_new", [1, 3])
def test_overflow_while_decoding(generator, n_new):
    """A token that does not fit is a ValueError, and the cache is as before: what fits still decodes."""
    module = random_module(MultiHeadAttention, generator, causal=True)
    x = randn(B, T, D_MODEL, generator=generator)
    expected = sdpa(module, x, x, x, mask=causal_lower_right(T, T)).detach()
    cache = KeyValueCache(T - (1 if n_new == 1 else 0))
    held = T - 1
    with torch.no_grad():
        module(x[:, :held], cache=cache)
        with expect_error(ValueError, str(held), otherwise="a token too many is accepted"):
            module(x[:, held - n_new + 1 :] if n_new > 1 else x[:, held:], cache=cache)
        assert len(cache) == held, f"a refused call changed the cache from {held} to {len(cache)} tokens"
        if n_new > 1:
            assert_close(module(x[:, held:], cache=cache), expected[:, held:], rtol=1e-12)


@pytest.mark.grades(FORWARD, APPEND)
def test_bad_mask_leaves_the_cache(generator):
    """A call that is refused for its mask or its width appends nothing."""
    module = random_module(MultiHeadAttention, generator, causal=True)
    x = randn(B, T, D_MODEL, generator=generator)
    cache = KeyValueCache(T)
    with torch.no_grad():
        module(x[:, :4], cache=cache)
        for bad in (
            {"mask": torch.ones(1, 1, dtype=torch.int64)},
            {"mask": torch.ones(2, 3, dtype=torch.bool)},
        ):
            with expect_error((ValueError, TypeError), otherwise="a bad mask is accepted"):
                module(x[:, 4:5], cache=cache, **bad)
            assert len(cache) == 4, "a call that was refused for its mask has appended: check the mask first"


@pytest.mark.grades(FORWARD)
def test_cache_is_for_self_attention(generator):
    """A cache with a key or a value of another sequence makes no sense, and is refused."""
    module = random_module(MultiHeadAttention, generator, causal=True)
    x, other = (randn(B, T, D_MODEL, generator=generator) for _ in range(2))
    cache = KeyValueCache(T)
    with torch.no_grad():
        for given in ((x, other), (x, x, other)):
            with expect_error(ValueError, otherwise="cross-attention with a cache is accepted"):
                module(*given, cache=cache)
        assert len(cache) == 0, "a refused call changed the cache"


@pytest.mark.grades(FORWARD, APPEND)
def test_one_cache_for_two_layers(generator):
    """A second layer would attend to the keys of the first: refused, and the cache is as before."""
    first, second = (random_module(MultiHeadAttention, generator, causal=True) for _ in range(2))
    x, cache = randn(B, T, D_MODEL, generator=generator), KeyValueCache(2 * T)
    with torch.no_grad():
        y = first(x, cache=cache)
        with expect_error(
            ValueError, "layer", otherwise="two layers share a cache: one would see the other's keys"
        ):
            second(y, cache=cache)
    assert len(cache) == T, f"a refused call changed the cache from {T} to {len(cache)} tokens"


@pytest.mark.grades(FORWARD, APPEND)
def test_cache_is_not_for_training(generator):
    """With gradients on, a cache is refused: it would lose them."""
    module = random_module(MultiHeadAttention, generator, causal=True)
    x = randn(B, T, D_MODEL, generator=generator)
    cache = KeyValueCache(T)
    with expect_error(ValueError, otherwise="a cache is accepted with gradients on, and loses them"):
        module(x, cache=cache)
    assert len(cache) == 0, "a refused call changed the cache"


@pytest.mark.grades(FORWARD, APPEND, "KeyValueCache.reset")
def test_second_sequence(generator):
    """After `reset` the cache serves the next sequences, whatever was in it."""
    module = random_module(MultiHeadAttention, generator, causal=True)
    cache = KeyValueCache(T)
    with torch.no_grad():
        module(randn(B, T, D_MODEL, generator=generator), cache=cache)
        cache.reset()
        x = randn(B - 1, 4, D_MODEL, generator=generator)
        got = torch.cat([module(x[:, i : i + 1], cache=cache) for i in range(4)], dim=1)
    assert_close(
        got,
        sdpa(module, x, x, x, mask=causal_lower_right(4, 4)).detach(),
        rtol=1e-12,
        mistakes=mistakes(module, x, x, x),
        hint="old tokens are still seen after reset",
    )


@pytest.mark.grades(FORWARD, APPEND)
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("n_kv_heads", [1, 2])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kind", ["bool", "float"])
@pytest.mark.parametrize("shape", MASK_SHAPES, ids=str)
def test_every_shape_of_mask_with_a_cache(shape, kind, causal, n_kv_heads, fused, generator):
    """Two tokens are in the cache, five are new: Tk counts all seven. The heads share keys."""
    module = random_module(MultiHeadAttention, generator, causal=causal, n_kv_heads=n_kv_heads, fused=fused)
    x, mask = randn(3, 7, 24, generator=generator), mask_of(shape, kind, generator)
    full = mask.expand(3, 4, 5, 7)
    seen = torch.ones(5, 7, dtype=torch.bool).tril(2 if causal else 7)
    full = full & seen if mask.dtype == torch.bool else full.masked_fill(~seen, -torch.inf)
    cache = KeyValueCache(8)
    with torch.no_grad():
        module(x[:, :2], cache=cache)
        expected = sdpa(module, x[:, 2:], x, x, mask=full)
        got = module(x[:, 2:], mask=mask, cache=cache)
    assert_close(got, expected, rtol=1e-11, what=f"result with a cache, mask of {shape}")
