"""attention_in_groups.py: masks that are added, queries that see nothing, rotary, long sequences, half types.

It meets the core's tests of attention too. Oracles: torch's fused attention in float64, complex multiplication for rotations, laws.
"""

import oracles
import pytest
import test_self_attention
import torch
from oracles import (
    RefuseLibrary,
    attention_by_torch,
    attention_mistakes,
    check_large_scores_of_half_types,
    check_one_token_of_half_types,
    gradients,
    normal,
    randomised,
    torch_masks,
    without_keys,
)
from torch.overrides import TorchFunctionMode

import attention_in_groups
import positions
from attention_in_groups import GROUP_SCORES, SelfAttention
from shared.testing.checks import assert_close, assert_imports_only, expect_error, unchanged

pytestmark = [pytest.mark.module("attention_in_groups"), pytest.mark.grades("SelfAttention")]
globals().update({k: v for k, v in vars(test_self_attention).items() if k.startswith("test_")})


@pytest.fixture(autouse=True)
def in_the_place_of_the_core(monkeypatch):
    """Give the core's tests this module's attention, and lend it a rotation."""
    monkeypatch.setattr(test_self_attention.tb, "SelfAttention", SelfAttention)
    monkeypatch.setattr(positions, "rotary", oracles.rotary)
    monkeypatch.setattr(attention_in_groups, "rotary", oracles.rotary, raising=False)


@pytest.mark.grades
def test_attention_in_groups_imports():
    """The module uses torch and positions.py, nothing else."""
    assert_imports_only(attention_in_groups, {"torch", "positions"})


@pytest.mark.parametrize("bias", [True, False])
def test_bias(bias):
    """bias=False leaves the biases of qkv and out out."""
    got = {name for name, _ in SelfAttention(12, 3, bias=bias).named_parameters()}
    expected = {"qkv.weight", "out.weight"} | ({"qkv.bias", "out.bias"} if bias else set())
    assert got == expected, f"bias={bias} gives the parameters {sorted(got)}"


@pytest.mark.parametrize(
    ("arguments", "options", "mentions"),
    [
        ((10, 3), {}, ["10", "3"]),
        ((10, 0), {}, ["0"]),
        ((10, 2.0), {}, ["2.0"]),
        ((10, "2"), {}, ["'2'"]),
        ((10, True), {}, ["True"]),
        ((10.0, 2), {}, ["10.0"]),
        ((0, 2), {}, ["0"]),
        ((6, 2), {"position": "rotary"}, ["6", "2"]),
        ((8, 2), {"position": "sinusoidal"}, ["sinusoidal"]),
        ((8, 2), {"position": ""}, ["''"]),
    ],
    ids=str,
)
def test_wrong_options(arguments, options, mentions):
    """What cannot be is refused at once and named."""
    with expect_error(ValueError, *mentions, otherwise=f"{arguments} with {options} is accepted"):
        SelfAttention(*arguments, **options)


def test_wrong_inputs():
    """x is (B, T, d_model); a mask broadcasts to (B, n_heads, T, T) and is boolean or floating."""
    attention = SelfAttention(8, 2)
    for shape in [(5, 8), (2, 5, 7), (2, 1, 5, 8)]:
        with expect_error(ValueError, str(shape), otherwise=f"x of shape {shape} is accepted"):
            attention(torch.ones(shape))
    x = torch.ones(3, 5, 8)
    for shape in [(3, 5), (4, 5), (3, 3, 5, 5), (1, 3, 2, 5, 5), (3, 2, 5, 6)]:
        with expect_error(ValueError, str(shape), otherwise=f"a mask of shape {shape} is accepted"):
            attention(x, mask=torch.ones(shape, dtype=torch.bool))
    with expect_error(TypeError, "int64", otherwise="an integer mask is accepted: is 1 allowed, or added?"):
        attention(x, mask=torch.ones(5, 5, dtype=torch.int64))


def compare(attention, n_heads, x, what, *, rtol=1e-9, **how):
    """Output and all gradients against torch's fused attention."""
    mask = how.pop("mask", None)
    y, expected = attention(x, mask=mask), attention_by_torch(attention, n_heads, x, mask=mask, **how)
    mistakes = attention_mistakes(attention, n_heads, x, mask=mask, **how)
    assert_close(y, expected, rtol=rtol, what=what, mistakes=mistakes)
    cotangent = normal(*x.shape, generator=torch.Generator().manual_seed(1))
    inputs = dict(attention.named_parameters()) | {"x": x}
    got = gradients(y, tuple(inputs.values()), cotangent)
    wanted = gradients(expected, tuple(inputs.values()), cotangent)
    for name, mine, other in zip(inputs, got, wanted, strict=True):
        mine, other = without_keys(name, mine), without_keys(name, other)
        assert_close(mine, other, rtol=rtol, what=f"gradient by {name}", hint=f"backward of the {what}")


@pytest.mark.parametrize("kind", ["added", "added and causal"])
def test_added_masks(kind, generator):
    """A floating mask is added to the scores."""
    causal, mask, _ = torch_masks(kind, 4, 7, 3)
    attention = randomised(SelfAttention(12, 3, causal=causal), generator)
    x = normal(4, 7, 12, generator=generator).requires_grad_()
    compare(attention, 3, x, f"attention, mask: {kind}", mask=mask, causal=causal)


@pytest.mark.parametrize("causal", [False, True])
def test_rotary_attention(causal, generator):
    """Queries and keys are rotated by their position, values are not; by complex multiplication."""
    attention = randomised(SelfAttention(12, 2, causal=causal, position="rotary"), generator)
    x = (3 * normal(3, 7, 12, generator=generator)).requires_grad_()
    compare(attention, 2, x, "rotary attention", causal=causal, rotary=True)


def test_nan_is_not_hidden(generator):
    """A NaN in one token shows in the tokens that see it, and in no other sequence."""
    attention = randomised(SelfAttention(8, 2), generator)
    x = normal(3, 4, 8, generator=generator)
    with torch.no_grad():
        expected = attention(x)
        x[1, 2, 5] = float("nan")
        got = attention(x)
    assert got[1].isnan().all(), "a NaN is hidden: something replaces it"
    hint = "a NaN spreads to other sequences"
    assert_close(got[[0, 2]], expected[[0, 2]], rtol=1e-12, what="other sequences", hint=hint)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_both_sides(side, generator):
    """A padded sequence gives what it gives without padding, whatever the padding holds.

    On the left too: rotary positions are shifted by the padding, but only differences count.
    """
    attention = randomised(SelfAttention(8, 2, position="rotary", causal=True), generator)
    x, padding = normal(3, 4, 8, generator=generator), 100 * normal(3, 3, 8, generator=generator)
    padded = torch.cat((padding, x) if side == "left" else (x, padding), dim=1)
    at = slice(3, 7) if side == "left" else slice(0, 4)
    keep = torch.zeros(3, 7, dtype=torch.bool)
    keep[:, at] = True
    with torch.no_grad():
        y = attention(padded, mask=keep[:, None, None, :])
        assert y.isfinite().all(), "a padding token that sees nothing gives NaN: let it get zeros"
        hint = "the result depends on the padding"
        assert_close(y[:, at], attention(x), rtol=1e-9, what="padded sequence", hint=hint)


@pytest.mark.parametrize("kind", ["boolean", "added", "one head of one sequence", "causal"])
def test_nothing_to_attend_to(kind, generator):
    """A query that may attend to nothing gets zeros from its head, and its gradients are finite."""
    attention = randomised(SelfAttention(8, 2, causal=kind == "causal"), generator)
    x = normal(2, 4, 8, generator=generator).requires_grad_()
    allowed = torch.ones(4, 4, dtype=torch.bool)
    allowed[1] = False
    if kind == "causal":
        allowed[1, 2:] = True  # only what is still to come: nothing is left
    if kind == "one head of one sequence":
        allowed = torch.ones(2, 2, 4, 4, dtype=torch.bool)
        allowed[0, 1, 1] = False
    mask = allowed
    if kind == "added":
        mask = torch.zeros(4, 4, dtype=torch.float64).masked_fill(~allowed, -torch.inf)
    y = attention(x, mask=mask)
    assert y.isfinite().all(), "a query that may attend to nothing gives NaN: softmax of a row of -inf"
    expected = attention_by_torch(attention, 2, x, mask=mask, causal=kind == "causal")
    if kind != "one head of one sequence":
        hint = "zeros from the heads leave the bias of `out`"
        alone = attention.out.bias.expand(2, 8)
        assert_close(y[:, 1], alone, rtol=1e-10, what="query without keys", hint=hint)
    hint = "zeros are for the query, the head and the sequence that may attend to nothing, for no other"
    assert_close(y, expected, rtol=1e-10, what="attention with a masked row", hint=hint)
    inputs, cotangent = (x, *attention.parameters()), normal(2, 4, 8, generator=generator)
    got = gradients(y, inputs, cotangent)
    assert all(g.isfinite().all() for g in got), (
        "the gradient of a query without keys is NaN: do not let -inf fill a whole row of the softmax"
    )
    wanted = gradients(expected, inputs, cotangent)
    assert_close(got[0], wanted[0], rtol=1e-9, what="gradient by x with a masked row")


@pytest.mark.parametrize("causal", [False, True])
def test_mask_that_is_learned(causal, generator):
    """A mask that is added gets a gradient, summed over what it was broadcast to: relative biases are learned so."""
    attention = randomised(SelfAttention(8, 2, causal=causal), generator)
    x, cotangent = normal(3, 5, 8, generator=generator), normal(3, 5, 8, generator=generator)
    mask = normal(2, 5, 5, generator=generator).requires_grad_()
    allowed = torch.ones(5, 5, dtype=torch.bool).tril(0 if causal else 5)
    expected = attention_by_torch(attention, 2, x, mask=mask.masked_fill(~allowed, -torch.inf))
    with unchanged(mask):
        y = attention(x, mask=mask)
    (got,), (wanted,) = gradients(y, (mask,), cotangent), gradients(expected, (mask,), cotangent)
    assert_close(got, wanted, rtol=1e-9, what="gradient by the mask", hint="is the mask detached?")


@pytest.mark.parametrize(("B", "T", "H"), [(5, 1, 2), (3, 400, 2), (1, 750, 2)], ids=str)
def test_long_sequences(B, T, H, generator):
    """Short and long sequences: nothing depends on a group being complete."""
    assert T == 1 or B * H * T * T > GROUP_SCORES, "these are to take several groups"
    x = normal(B, T, 8, generator=generator)
    mask = normal(B, H, 1, T, generator=generator)
    for causal in (False, True):
        attention = randomised(SelfAttention(8, H, causal=causal), generator)
        for given in (None, mask):
            kind = f"{'causal ' * causal}attention, {'no' if given is None else 'added'} mask"
            hint = (
                "right for short sequences: is a part of a long one left out, or is its mask another one's?"
            )
            with torch.no_grad():
                expected = attention_by_torch(attention, H, x, mask=given, causal=causal)
                got, what = attention(x, mask=given), f"{kind}, B={B}, T={T}, {H} heads"
                assert_close(got, expected, rtol=1e-10, what=what, hint=hint)


class LargestTensor(TorchFunctionMode):
    """Remember how many numbers the largest tensor holds that is in memory; a view counts as what it is a view of."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.numel = max(self.numel, result.untyped_storage().nbytes() // result.element_size())
        return result


@pytest.mark.parametrize(("B", "T", "H"), [(3, 400, 2), (9, 170, 3), (1, 750, 2)], ids=str)
@pytest.mark.parametrize("causal", [False, True])
def test_scores_stay_in_the_cache(causal, B, T, H):
    """Never more scores at a time than GROUP_SCORES, but for a single matrix that has more."""
    attention, x = SelfAttention(6, H, causal=causal), torch.ones(B, T, 6)
    with torch.no_grad(), LargestTensor() as largest:
        attention(x)
    allowed = max(GROUP_SCORES, T * T)
    assert largest.numel <= allowed < B * H * T * T, (
        f"{largest.numel:,} numbers in one tensor for {B * H} matrices of {T * T:,} scores: at most {allowed:,} at a time"
    )


@pytest.mark.parametrize("shape", [(0, 5, 8), (2, 0, 8)], ids=str)
def test_attention_of_nothing(shape):
    """No sequences or no tokens give an empty result of the same shape."""
    got = tuple(SelfAttention(8, 2, position="rotary", causal=True)(torch.zeros(shape)).shape)
    assert got == shape, f"x {shape} gave shape {got}"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_attention_dtypes(dtype, generator):
    """The dtype of x comes back, with rotary positions and a float32 mask as well."""
    attention = randomised(SelfAttention(16, 2, position="rotary"), generator, dtype)
    x = normal(2, 5, 16, generator=generator).to(dtype)
    mask = normal(5, 5, generator=generator).float()
    with torch.no_grad():
        y = attention(x, mask=mask)
        expected = attention_by_torch(attention.double(), 2, x.double(), mask=mask.double(), rotary=True)
    eps = torch.finfo(dtype).eps  # half a dozen roundings of numbers up to 4
    assert_close(y, expected, dtype=dtype, rtol=4 * eps, atol=8 * eps, what=f"attention in {dtype}")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_large_scores_of_half_types(dtype, generator):
    """Scores of ±1e5 do not fit in float16; their softmax does, and so does the result."""
    check_one_token_of_half_types(SelfAttention, dtype)
    check_large_scores_of_half_types(SelfAttention, dtype, generator)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("added", [False, True], ids=["boolean", "added"])
@pytest.mark.parametrize(
    "shape", [(), (1,), (1, 1), (5, 1), (5, 5), (2, 1, 5), (3, 1, 1, 5), (3, 2, 5, 5)], ids=str
)
def test_every_shape_of_mask(shape, added, causal, generator):
    """Whatever broadcasts to (B, n_heads, T, T) is a mask."""
    attention = randomised(SelfAttention(8, 2, causal=causal), generator)
    x = normal(3, 5, 8, generator=generator)
    mask = normal(1, *shape, generator=generator)[0]
    mask = mask if added else mask < 0.7
    with torch.no_grad():
        expected = attention_by_torch(attention, 2, x, mask=mask.expand(3, 2, 5, 5), causal=causal)
        assert_close(attention(x, mask=mask), expected, rtol=1e-10, what=f"attention, mask of {shape}")


def test_added_mask_and_library(generator):
    """x and an added mask are left alone, and torch's fused attention is not called."""
    attention = randomised(SelfAttention(8, 2), generator)
    x, mask = normal(3, 5, 8, generator=generator), normal(5, 5, generator=generator)
    expected = attention_by_torch(attention, 2, x, mask=mask)
    with unchanged(x, mask), RefuseLibrary():
        y = attention(x, mask=mask)
    assert_close(y, expected, rtol=1e-10, what="attention with an added mask")


def test_a_low_mask_is_not_minus_infinity(generator):
    """What is added is added: -1e9 for every key of a query changes nothing for that query."""
    attention = randomised(SelfAttention(8, 2), generator)
    x = normal(2, 4, 8, generator=generator)
    mask = torch.zeros(4, 4, dtype=torch.float64)
    mask[1] = -1e9
    hint = "only -inf forbids: a query whose keys all get -1e9 still sees them"
    with torch.no_grad():
        assert_close(attention(x, mask=mask), attention(x), rtol=0.0, atol=1e-5, what="low mask", hint=hint)


@pytest.mark.parametrize("causal", [False, True])
def test_a_mask_is_added_in_the_dtype_of_x(causal, generator):
    """-1e9 in a float32 mask is -inf in float16: a query whose keys all get it sees nothing, which is no NaN."""
    attention = randomised(SelfAttention(8, 2, causal=causal), generator, torch.float16)
    x = normal(2, 4, 8, generator=generator).half()
    mask = torch.zeros(4, 4)
    mask[1] = -1e9
    with torch.no_grad():
        y, bias = attention(x, mask=mask)[:, 1], attention.out.bias.expand(2, 8)
    hint = "-1e9 overflows float16: convert the mask first, then see which queries see nothing"
    assert_close(y, bias, dtype=torch.float16, what="query without keys", hint=hint)
