"""The judge of the cache alone; the next file decodes with it.

Oracle: concatenation.
"""

import copy
import pickle

import numpy as np
import pytest
import torch
from oracles import randn

from key_value_cache import KeyValueCache
from shared.testing.checks import assert_close, expect_error, unchanged

B, H, D_HEAD = 2, 3, 5
CHUNKINGS = [(7,), (1, 1, 1, 1, 1, 1, 1), (3, 1, 2, 1), (1, 5, 1), (0, 4, 0, 3)]


def tokens(n_tokens, generator, *, dtype=torch.float32):
    """Return the keys and the values of `n_tokens` tokens."""
    return tuple(randn(B, H, n_tokens, D_HEAD, generator=generator, dtype=dtype) for _ in range(2))


@pytest.mark.grades("KeyValueCache", "KeyValueCache.append")
def test_length(generator):
    """An empty cache has length 0; appending adds the number of tokens."""
    cache = KeyValueCache(9)
    assert len(cache) == 0, f"a new cache holds nothing, len() says {len(cache)}"
    assert cache.max_tokens == 9, f"max_tokens must be as given, got {cache.max_tokens}"
    for n_new, expected in ((4, 4), (1, 5), (2, 7)):
        cache.append(*tokens(n_new, generator))
        assert len(cache) == expected, f"len() is {len(cache)} after {expected} tokens"


@pytest.mark.grades("KeyValueCache", "KeyValueCache.append")
def test_room_for_one_token(generator):
    """The smallest cache holds one token."""
    key, value = tokens(1, generator)
    keys, values = KeyValueCache(1).append(key, value)
    assert_close(keys, key, what="the only key")
    assert_close(values, value, what="the only value", mistakes={"the keys come back as values": key})


@pytest.mark.grades("KeyValueCache")
@pytest.mark.parametrize("max_tokens", [0, -1, 2.5, None, 64.0, True, "64"])
def test_wrong_max_tokens(max_tokens):
    """`max_tokens` is a positive integer."""
    with expect_error(ValueError, str(max_tokens), otherwise=f"max_tokens={max_tokens} is accepted"):
        KeyValueCache(max_tokens)


@pytest.mark.grades("KeyValueCache.append")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_first_tokens(generator, dtype):
    """The first call gives back what it got, in its dtype, keys first, without the room that is still empty."""
    key, value = tokens(4, generator, dtype=dtype)
    with unchanged(key, value):
        keys, values = KeyValueCache(6).append(key, value)
    assert keys.shape == key.shape, (
        f"after 4 of 6 tokens the keys must be {tuple(key.shape)}, got {tuple(keys.shape)}: only what is held"
    )
    assert_close(keys, key, what="keys", mistakes={"keys and values are swapped": value})
    assert_close(values, value, what="values", mistakes={"the keys come back as values": key})


@pytest.mark.grades("KeyValueCache.append")
@pytest.mark.parametrize("chunks", CHUNKINGS, ids=str)
def test_any_chunking(generator, chunks):
    """However the tokens arrive, each call gives all of them so far, in order, bit for bit; the last one just fits."""
    key, value = tokens(7, generator)
    cache, end = KeyValueCache(7), 0
    for n_new in chunks:
        start, end = end, end + n_new
        keys, values = cache.append(key[:, :, start:end], value[:, :, start:end])
        for got, all_tokens, what in ((keys, key, "keys"), (values, value, "values")):
            if end == 0:
                assert got.shape == (B, H, 0, D_HEAD), f"no token so far: got {tuple(got.shape)}"
                continue
            assert_close(
                got,
                all_tokens[:, :, :end],
                rtol=0.0,
                what=f"{what} after {end} tokens",
                mistakes={
                    "only the new tokens come back: return all that the cache holds": all_tokens[
                        :, :, start:end
                    ],
                    "the new tokens come before the old ones": torch.cat(
                        [all_tokens[:, :, start:end], all_tokens[:, :, :start]], dim=2
                    ),
                },
                hint="an old token was overwritten, or a new one is off by one: write from len(cache) on",
            )


@pytest.mark.grades("KeyValueCache.append")
def test_memory_is_taken_once(generator):
    """All calls write into the memory of the first one."""
    cache = KeyValueCache(8)
    first = cache.append(*tokens(3, generator))
    for _ in range(5):
        last = cache.append(*tokens(1, generator))
        for before, now in zip(first, last, strict=True):
            assert before.data_ptr() == now.data_ptr(), (
                "all tokens were copied to new memory (torch.cat?): allocate max_tokens once and write into it"
            )
    n_bytes = last[0].untyped_storage().nbytes()
    assert n_bytes <= 2 * B * H * 8 * D_HEAD * 4, f"8 tokens take {n_bytes} bytes of keys"


@pytest.mark.grades("KeyValueCache.append")
def test_tokens_are_copied(generator):
    """Writing into a tensor after it was appended does not change the cache."""
    key, value = tokens(7, generator)
    expected = key.clone(), value.clone()
    cache = KeyValueCache(7)
    held = cache.append(key, value)
    key.zero_()
    value.zero_()
    for got, wanted, what in zip(held, expected, ("keys", "values"), strict=True):
        assert_close(got, wanted, what=what, hint="the cache holds the caller's own tensor: copy it")


@pytest.mark.grades("KeyValueCache.append")
@pytest.mark.parametrize("n_new", [1, 2, 6])
def test_overflow_changes_nothing(generator, n_new):
    """Tokens that do not fit are refused with both numbers; what was held stays, and what fits still does."""
    key, value = tokens(5, generator)
    cache = KeyValueCache(6)
    cache.append(key, value)
    room = cache.append(*tokens(0, generator))
    if n_new == 1:
        cache.append(*tokens(1, generator))  # now it is exactly full
        key, value = (x.clone() for x in cache.append(*tokens(0, generator)))
    held = len(cache)
    with expect_error(
        ValueError, str(held), "6", otherwise=f"{n_new} tokens on top of {held} of 6 are accepted"
    ):
        cache.append(*tokens(n_new, generator))
    assert len(cache) == held, (
        f"an overflow changed the length from {held} to {len(cache)}: check before you write"
    )
    for got, wanted in zip(room, (key, value), strict=True):
        assert torch.equal(got, wanted[:, :, :5]), (
            "an overflow overwrote tokens that were held: check before you write"
        )
    if held < 6:
        more = tokens(1, generator)
        keys, _ = cache.append(*more)
        assert_close(keys, torch.cat([key, more[0]], dim=2), rtol=0.0, what="keys after an overflow")


@pytest.mark.grades("KeyValueCache.append")
def test_overflow_of_an_empty_cache(generator):
    """More than `max_tokens` at once do not fit either."""
    cache = KeyValueCache(6)
    with expect_error(ValueError, "7", "6", otherwise="7 tokens are accepted by a cache of 6"):
        cache.append(*tokens(7, generator))
    assert len(cache) == 0, "an overflow changed the length: check before you write"


@pytest.mark.grades("KeyValueCache.append")
@pytest.mark.parametrize(
    "change",
    [
        {"batch": 1},
        {"heads": 1},
        {"d_head": 1},
        {"dtype": torch.float64},
    ],
    ids=str,
)
def test_tokens_of_another_kind(generator, change):
    """Held tokens fix the batch, the heads, the width and the dtype: nothing is broadcast or converted."""
    key, value = tokens(2, generator)
    cache = KeyValueCache(6)
    held, _ = cache.append(key, value)
    shape = (change.get("batch", B), change.get("heads", H), 1, change.get("d_head", D_HEAD))
    wrong = torch.ones(shape, dtype=change.get("dtype", torch.float32))
    with expect_error(ValueError, otherwise=f"tokens with another {next(iter(change))} are accepted"):
        cache.append(wrong, wrong)
    assert len(cache) == 2, "a refused call changed the length"
    assert torch.equal(held, key), "a refused call changed the tokens that were held"


@pytest.mark.grades("KeyValueCache.append")
@pytest.mark.parametrize(
    "shapes",
    [((B, H, 2, 5), (B, H, 1, 5)), ((H, 2, 5), (H, 2, 5)), ((B, H, 2, 5), (B, 1, 2, 5))],
    ids=str,
)
def test_wrong_shapes(shapes):
    """Keys and values are both (B, n_kv_heads, T, d_head)."""
    key, value = (torch.ones(shape) for shape in shapes)
    cache = KeyValueCache(6)
    with expect_error(ValueError, str(shapes[1]), otherwise=f"shapes {shapes} are accepted"):
        cache.append(key, value)
    assert len(cache) == 0, "a refused call changed the length"


@pytest.mark.grades("KeyValueCache.append")
def test_gradients_are_refused(generator):
    """Writing in place would cut the gradient off without a word, so it is refused; under no_grad all is well."""
    key, value = tokens(2, generator)
    for gradient in (key, value):
        cache = KeyValueCache(6)
        gradient.requires_grad_()
        with expect_error(ValueError, otherwise="tokens with a gradient are accepted, which would be lost"):
            cache.append(key, value)
        assert len(cache) == 0, "a refused call changed the length"
        with torch.no_grad():
            try:
                cache.append(key, value)
            except ValueError as error:
                raise AssertionError(
                    f"refused although gradients are off, so that none can be lost: {error}"
                ) from error
        gradient.requires_grad_(False)


@pytest.mark.grades("KeyValueCache.reset")
def test_reset(generator):
    """After `reset` the cache is as new, also for another batch size."""
    cache = KeyValueCache(6)
    before, _ = cache.append(*tokens(5, generator))
    cache.reset()
    assert len(cache) == 0, f"after reset len() is {len(cache)}"
    key, value = tokens(6, generator)
    keys, values = cache.append(key, value)
    assert keys.data_ptr() == before.data_ptr(), "reset gave the memory away: keep it for the next sequences"
    assert_close(keys, key, rtol=0.0, what="keys after a reset", hint="are old tokens still there?")
    assert_close(values, value, rtol=0.0, what="values after a reset", hint="are old tokens still there?")
    cache.reset()
    other = randn(B + 2, 1, 2, 4, generator=generator)
    keys, _ = cache.append(other, other)
    assert_close(keys, other, rtol=0.0, what="keys of another batch after a reset")
    cache.reset()
    keys, _ = cache.append(other.float(), other.float())
    assert keys.dtype == torch.float32, f"float32 tokens after a reset come back as {keys.dtype}"


@pytest.mark.grades("KeyValueCache.reset")
def test_reset_makes_room(generator):
    """A full cache takes `max_tokens` again after `reset`, as often as one likes."""
    cache = KeyValueCache(3)
    for _ in range(3):
        cache.append(*tokens(3, generator))
        cache.reset()
    cache.append(*tokens(3, generator))
    assert len(cache) == 3


@pytest.mark.grades("KeyValueCache", "KeyValueCache.append")
def test_max_tokens_of_numpy(generator):
    """An integer of NumPy is an integer."""
    try:
        cache = KeyValueCache(np.int64(4))
    except ValueError as error:
        raise AssertionError(f"np.int64(4) is refused, and it is an integer: {error}") from error
    cache.append(*tokens(3, generator))
    assert len(cache) == 3


@pytest.mark.grades("KeyValueCache", "KeyValueCache.append")
@pytest.mark.parametrize("first", [torch.inference_mode, torch.no_grad])
def test_modes_may_change(generator, first):
    """What was begun in inference mode goes on under no_grad, and the other way round."""
    second = torch.no_grad if first is torch.inference_mode else torch.inference_mode
    cache, parts = KeyValueCache(9), []
    for mode in (first, second, first):
        with mode():
            key, value = (x.clone() for x in tokens(3, generator))  # in inference mode, an inference tensor
            parts.append((key, value))
            try:
                keys, values = cache.append(key, value)
            except NotImplementedError:  # a RuntimeError too
                raise
            except RuntimeError as error:
                raise AssertionError(f"a cache begun under {first.__name__} cannot go on: {error}") from error
    for got, which, what in ((keys, 0, "keys"), (values, 1, "values")):
        expected = torch.cat([part[which] for part in parts], dim=2)
        assert_close(got, expected, rtol=0.0, what=what)


@pytest.mark.grades("KeyValueCache", "KeyValueCache.append", "KeyValueCache.reset")
def test_one_cache_serves_one_layer(generator):
    """The tokens of another layer are refused, and nothing has changed; after `reset` they are welcome."""
    cache, one, other = KeyValueCache(9), object(), object()
    key, value = tokens(3, generator)
    cache.append(key, value, layer=one)
    with expect_error(ValueError, "layer", otherwise="keys of two layers are mixed in one cache"):
        cache.append(key, value, layer=other)
    assert len(cache) == 3, "a refused call changed the length"
    cache.append(*tokens(1, generator), layer=one)
    cache.append(*tokens(1, generator))
    with expect_error(ValueError, "layer", otherwise="keys of two layers are mixed in one cache"):
        cache.append(key, value, layer=other)
    cache.reset()
    cache.append(key, value, layer=other)
    with expect_error(ValueError, "layer", otherwise="after a reset the next layer owns the cache"):
        cache.append(key, value, layer=one)
    cache = KeyValueCache(9)
    cache.append(key, value)
    cache.append(key, value, layer=one)
    with expect_error(ValueError, "layer", otherwise="tokens of nobody, then of one layer, then of another"):
        cache.append(key, value, layer=other)


@pytest.mark.grades("KeyValueCache", "KeyValueCache.append")
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_may_serve_a_copy_of_the_layer(generator, copied):
    """A copy of the cache goes on where the cache stands, with whichever layer comes first."""
    cache, layer = KeyValueCache(9), object()
    key, value = tokens(3, generator)
    cache.append(key, value, layer=layer)
    twin = copied(cache)
    try:
        keys, _ = twin.append(key, value, layer=object())
    except ValueError as error:
        raise AssertionError(f"a copy of the cache is refused to a copy of its layer: {error}") from error
    assert_close(keys, torch.cat([key, key], dim=2), rtol=0.0, what="keys of the copy")
    assert len(cache) == 3, "the copy changed the length of the original"
