"""The judge of flash attention, kernel and host side, goes on: dtypes, counts, arguments. Oracle: torch in float64."""

import numpy as np
import pytest
from attention_cases import assert_attention, inputs, oracle
from rows import KERNELS

from flash_attention import flash_attention
from shared import cuda_emulator
from shared.testing.checks import assert_close, expect_error, unchanged
from shared.testing.devices import device_array, launch

pytestmark = pytest.mark.grades("flash_attention")


@pytest.mark.parametrize("d", [32, 64, 128])
def test_head_dims(d, rng, cuda_device):
    """Each head dimension, with tails of queries and keys, several batches and heads."""
    assert_attention(inputs(rng, 2, 2, 19, 41, d), what=f"attention, d = {d}")


def test_large_scores(rng, cuda_device):
    """Scores of ±1e4, the largest in the last tile: what came before must vanish, not overflow."""
    query, key, value = inputs(rng, 1, 1, 4, 70, 32)
    key[:, :, 69] *= 300
    query *= 30
    assert_attention((query, key, value), what="attention with large scores")


def test_attention_dtypes(rng, cuda_device):
    """float16 and bfloat16 are computed in float32 and rounded once."""
    arrays = inputs(rng, 1, 2, 18, 40, 64)
    half = [array.astype(np.float16) for array in arrays]
    expected = oracle(*half).astype(np.float32)
    assert_close(flash_attention(*half), expected, dtype=np.float16, rtol=2.0**-10, atol=1e-6)
    brain = [(array.view(np.uint32) >> 16).astype(np.uint16) for array in arrays]
    wide = [(bits.astype(np.uint32) << 16).view(np.float32) for bits in brain]
    result = flash_attention(*(bits.view("V2") for bits in brain))
    got = (result.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    assert_close(got, oracle(*wide).astype(np.float32), rtol=2.0**-8, atol=1e-6, what="bfloat16 attention")


@pytest.mark.parametrize("schedule", ["reverse", "warp_greedy"])
@pytest.mark.emulator_only("a GPU runs its threads in an order of its own")
def test_order_of_warps(schedule, rng, cuda_device):
    """Whichever warp goes first, no tile is overwritten while another warp reads it."""
    with cuda_emulator.settings(schedule=schedule):
        assert_attention(inputs(rng, 1, 1, 17, 70, 32), what=f"attention, threads in {schedule} order")


@pytest.mark.emulator_only("the emulator counts; on a GPU ask ncu for dram__bytes_write.sum")
def test_memory_is_linear(rng, cuda_device):
    """Twice the keys, twice the bytes read, and nothing written but the result: no matrix of scores."""
    read = {}
    for n_keys in (64, 128):
        arrays = [device_array(array) for array in inputs(rng, 1, 1, 32, n_keys, 32)]
        with cuda_emulator.counting() as counters:
            flash_attention(*arrays)
        read[n_keys] = counters.global_bytes_read
        written = counters.global_bytes_written
        assert written == 32 * 32 * 4, (
            f"{written} bytes written for a result of {32 * 32 * 4}: are scores stored?"
        )
    growth = read[128] - read[64]
    once = 2 * 64 * 32 * 4 * 2  # 64 more keys and values, float32, for two blocks of 16 queries
    assert growth == once, (
        f"64 more keys and values are read {growth / once:g} times per block, once is enough"
    )
    arrays = [device_array(array) for array in inputs(rng, 1, 1, 32, 128, 32)]
    with cuda_emulator.counting() as counters:
        flash_attention(*arrays, causal=True)
    seen = counters.global_bytes_read - 32 * 32 * 4
    assert seen == 2 * 2 * 32 * 32 * 4, (  # two blocks, keys and values, 32 of them, d = 32
        f"{seen // (32 * 4)} keys and values are read, {2 * 2 * 32} are enough: with a causal mask, the tiles after a "
        "block's last query weigh nothing and need not be read"
    )


def test_attention_views_and_out(rng, cuda_device):
    """Transposed NumPy views as (batch, n, heads, d) layouts give them; inputs unchanged; out is returned."""
    arrays = [rng.normal(size=(2, n, 3, 32)).astype(np.float32).transpose(0, 2, 1, 3) for n in (5, 7, 7)]
    out = np.full((2, 3, 5, 32), np.nan, np.float32)
    with unchanged(*arrays):
        assert flash_attention(*arrays, out) is out, "flash_attention(q, k, v, out) returns out itself"
    assert_close(out, oracle(*arrays), dtype=np.float32, rtol=2e-5, what="attention of views")
    on_device = flash_attention(*(device_array(np.ascontiguousarray(array)) for array in arrays))
    assert not isinstance(on_device, np.ndarray), "device arrays were copied to the host"
    assert_close(
        on_device.get(), oracle(*arrays), dtype=np.float32, rtol=2e-5, what="attention on the device"
    )


@pytest.mark.emulator_only("the emulator runs one block of this grid; a GPU would need 17 GB for all of it")
def test_heads_past_two_to_the_31(rng, cuda_device):
    """The last head of arrays with more than 2**31 elements: the offset of a head needs 64 bits."""
    from pycuda import driver

    heads, n, d = 2**16 - 1, 1040, 32
    bytes_of_head = 2 * n * d
    head = [array.astype(np.float16) for array in inputs(rng, 1, 1, n, n, d)]
    pointers = [driver.mem_alloc(heads * bytes_of_head) for _ in range(4)]
    for pointer, array in zip(pointers, head, strict=False):
        driver.memcpy_htod(int(pointer) + (heads - 1) * bytes_of_head, array)
    sizes = (np.int32(n), np.int32(n), np.float32(1 / np.sqrt(d)), np.int32(True))
    try:
        with cuda_emulator.settings(window=(heads * n // 16 - n // 16, 1)):
            path, grid = (
                KERNELS / "flash_attention.cu",
                (n // 16, heads),
            )
            launch(path, "attention_float16_32", (*pointers, *sizes), grid=grid, block=(128, 1, 1))
        result = np.empty((1, 1, 16, d), np.float16)
        driver.memcpy_dtoh(result, int(pointers[3]) + (heads - 1) * bytes_of_head)
    finally:
        for pointer in pointers:
            pointer.free()
    expected = oracle(*head, causal=True)[:, :, :16].astype(np.float32)
    what = "last head, at head * n * d, more than 32 bits hold"
    assert_close(result, expected, dtype=np.float16, rtol=2.0**-10, atol=1e-6, what=what)


def test_no_queries(cuda_device):
    """No queries: no launch."""
    keys = np.ones((1, 2, 3, 32), np.float32)
    assert flash_attention(keys[:, :, :0], keys, keys).shape == (1, 2, 0, 32)


def test_attention_arguments_that_do_not_fit(cuda_device):
    """Shapes and dtypes are refused before anything is launched."""
    good = np.ones((2, 3, 4, 32), np.float32)
    for arrays, error, mention in (
        ((np.ones((2, 3, 4, 48), np.float32),) * 3, ValueError, "48"),
        ((np.ones((3, 4, 32), np.float32),) * 3, ValueError, "(3, 4, 32)"),
        ((good, good[:1], good[:1]), ValueError, "(1, 3, 4, 32)"),
        ((good, good[:, :1], good[:, :1]), ValueError, "(2, 1, 4, 32)"),
        ((good, good, good[:, :, :3]), ValueError, "(2, 3, 3, 32)"),
        ((good, good[:, :, :0], good[:, :, :0]), ValueError, "(2, 3, 0, 32)"),
        ((good, good, good, good[:, :, :3]), ValueError, "(2, 3, 3, 32)"),
        (
            (np.ones((2, 32768, 0, 32), np.float32), *[np.ones((2, 32768, 1, 32), np.float32)] * 2),
            ValueError,
            "65535",
        ),
        ((good, good.astype(np.float16), good), TypeError, "float16"),
        ((good.astype(np.float64),) * 3, TypeError, "float64"),
    ):
        with expect_error(error, mention, otherwise="an argument that does not fit is accepted"):
            flash_attention(*arrays)


def test_attention_out_that_is_an_input(rng, cuda_device):
    """`out` may be the query, which nobody else reads. Key and value are read by all; on the host they are copied first."""
    arrays = inputs(rng, 1, 2, 40, 40, 32)
    expected = oracle(*arrays)
    on_device = [device_array(array) for array in arrays]
    for which, name in ((1, "key"), (2, "value")):
        with expect_error(
            ValueError, name, otherwise=f"an out that is {name} is accepted: other blocks still read it"
        ):
            flash_attention(*on_device, on_device[which])
    query = on_device[0]
    with expect_error(ValueError, "key", otherwise="an out that is key and query is accepted"):
        flash_attention(query, query, on_device[2], query)
    buffer = device_array(np.ones(2561, np.float32))
    shifted = [buffer[i : i + 2560].reshape(1, 2, 40, 32) for i in (0, 1)]
    with expect_error(ValueError, "query", otherwise="an out that overlaps query, shifted, is accepted"):
        flash_attention(shifted[0], *on_device[1:], shifted[1])
    assert flash_attention(*on_device, query) is query
    assert_close(query.get(), expected, dtype=np.float32, rtol=2e-5, what="attention in the place of query")
    for which in range(3):
        copies = [array.copy() for array in arrays]
        flash_attention(*copies, copies[which])
        what = "attention in the place of an input, on the host"
        assert_close(copies[which], expected, dtype=np.float32, rtol=2e-5, what=what)


def test_attention_byte_orders(rng, cuda_device):
    """Mixed orders on the host, refused on the device."""
    query, key, value = inputs(rng, 1, 2, 5, 7, 32)
    out = np.zeros(query.shape, ">f4")
    flash_attention(query.astype(">f4"), key, value.astype(">f4"), out)
    assert_close(out.astype(np.float32), oracle(query, key, value), dtype=np.float32, rtol=2e-5)
    with expect_error(TypeError, ">f4", otherwise="a device array in the other byte order is accepted"):
        flash_attention(device_array(query), device_array(key.astype(">f4")), device_array(value))


def test_attention_options(rng, cuda_device):
    """`causal` is a bool and `scale` a number of float32; integers and NumPy's own are fine."""
    arrays = inputs(rng, 1, 1, 5, 7, 32)
    for causal in (2, 0.5, None, "no", "1", np.ones(1)):
        with expect_error(TypeError, "causal", otherwise=f"causal={causal!r} is accepted"):
            flash_attention(*arrays, causal=causal)
    for error, values in ((TypeError, ("0.5", True, 2j, [1.0])), (ValueError, (np.nan, np.inf, 1e39, 1e-50))):
        for scale in values:
            with expect_error(error, "scale", otherwise=f"scale={scale!r} is accepted"):
                flash_attention(*arrays, scale=scale)
    assert_attention(arrays, causal=True, scale=0.25)
    result = flash_attention(*arrays, causal=np.True_, scale=np.float64(0.25))
    assert_close(result, oracle(*arrays, causal=True, scale=0.25), dtype=np.float32, rtol=2e-5)
