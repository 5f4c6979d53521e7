"""The core's attention: one sequence at a time, several heads, masks.

Oracles: values worked by hand, nn.MultiheadAttention in float64, laws (nothing leaks from the future, from padding).
"""

import numpy as np
import pytest
import torch
from oracles import (
    RefuseLibrary,
    attention_by_torch,
    attention_mistakes,
    gradients,
    normal,
    randomised,
    silence,
    torch_masks,
    without_keys,
)
from torch import nn

import transformer_block as tb
from shared.testing.checks import assert_close, expect_error, unchanged

pytestmark = pytest.mark.grades("SelfAttention")


def test_attention_parameters():
    """Layers qkv and out, and nothing else to train."""
    got = {name: tuple(p.shape) for name, p in tb.SelfAttention(12, 3).named_parameters()}
    expected = {"qkv.weight": (36, 12), "qkv.bias": (36,), "out.weight": (12, 12), "out.bias": (12,)}
    assert got == expected, f"parameters of SelfAttention(12, 3):\n{got}, expected\n{expected}"


@pytest.mark.parametrize(("d_model", "n_heads"), [(10, 3), (4, 8)])
def test_heads_must_divide(d_model, n_heads):
    """d_model is shared out equally among the heads."""
    with expect_error(ValueError, otherwise=f"{n_heads} heads for d_model={d_model} are accepted"):
        tb.SelfAttention(d_model, n_heads)


def test_attention_by_hand():
    """Two tokens (1, -1) and (-1, 1), one feature per head: values are averaged by weights worked by hand.

    Head 0 has query = key = value = first feature, head 1 has key 0 and value 10 times the second feature.
    """
    attention = tb.SelfAttention(2, 2).double()
    silence(attention.qkv, attention.out)
    with torch.no_grad():
        rows = [[1.0, 0], [2, 0], [1, 0], [0, 0], [1, 0], [0, 10]]  # q0 q1 k0 k1 v0 v1
        attention.qkv.weight.copy_(torch.tensor(rows))
        attention.out.weight.copy_(torch.eye(2))
        attention.out.bias.copy_(torch.tensor([0.25, 0.5]))
    x = torch.tensor([[[1.0, -1.0], [-1.0, 1.0]]], dtype=torch.float64)
    e = np.exp(1.0)
    mean = (e - 1 / e) / (e + 1 / e)  # weights softmax(1, -1) on the values 1, -1; head 1: (10 - 10)/2 = 0
    expected = torch.tensor([[[mean + 0.25, 0.5], [-mean + 0.25, 0.5]]], dtype=torch.float64)
    mistakes = {
        "the residual connection belongs to the block": expected + x,
        "every token attends to itself only: scores need keys of all tokens": [[[1.25, -9.5], [-0.75, 10.5]]],
        "qkv holds all queries, then all keys, then all values; not head by head": (
            [[[np.tanh(2.0) + 0.25, 0.5], [-np.tanh(2.0) + 0.25, 0.5]]]
        ),
        "the weights are not used: values are averaged": [[[0.25, 0.5], [0.25, 0.5]]],
        "the bias of `out` is missing": [[[mean, 0.0], [-mean, 0.0]]],
        "the attention returns zeros": 0 * x,
        "the attention returns its input": x,
    }
    assert_close(attention(x), expected, rtol=1e-9, what="attention of two tokens", mistakes=mistakes)


UNDERCUT = "a forbidden score is replaced by a large negative number, which others undercut: use -inf"
MASKS = ["none", "causal", "boolean (T, T)", "boolean per head", "padding", "causal and padding"]


@pytest.mark.parametrize("mask", [*MASKS, "causal and per head"])
def test_attention_equals_torch(mask, generator):
    """Output and all gradients against nn.MultiheadAttention, for each kind of mask."""
    compare_with_torch(mask, generator, torch.float64, 1e-10)


def test_attention_in_float32(generator):
    """The same in float32, the dtype it will run in: a dozen roundings in each sum."""
    compare_with_torch("causal", generator, torch.float32, 1e-5)


def compare_with_torch(mask, generator, dtype, rtol):
    B, T, D, H = 4, 7, 12, 3
    causal, ours, theirs = torch_masks(mask, B, T, H)
    attention = randomised(tb.SelfAttention(D, H, causal=causal), generator, dtype)
    peer = nn.MultiheadAttention(D, H, batch_first=True, dtype=dtype)
    own = (attention.qkv.weight, attention.qkv.bias, attention.out.weight, attention.out.bias)
    other = (peer.in_proj_weight, peer.in_proj_bias, peer.out_proj.weight, peer.out_proj.bias)
    with torch.no_grad():
        for mine, parameter in zip(own, other, strict=True):
            parameter.copy_(mine)
    x = (2 * normal(B, T, D, generator=generator) + 0.5).to(dtype).requires_grad_()
    expected, _ = peer(x, x, x, attn_mask=theirs, need_weights=False)
    y = attention(x, mask=ours)
    what = f"attention, mask: {mask}"
    mistakes = attention_mistakes(attention, H, x, mask=ours, causal=causal)
    assert_close(y, expected, rtol=rtol, what=what, mistakes=mistakes)
    cotangent = normal(B, T, D, generator=generator, dtype=dtype)
    got, wanted = gradients(y, (x, *own), cotangent), gradients(expected, (x, *other), cotangent)
    names = ("x", "qkv.weight", "qkv.bias", "out.weight", "out.bias")
    for name, mine, theirs in zip(names, got, wanted, strict=True):
        mine, theirs = without_keys(name, mine), without_keys(name, theirs)
        assert_close(mine, theirs, rtol=rtol, what=f"gradient by {name}", hint=f"backward of the {what}")


def test_future_does_not_leak(generator):
    """causal=True: token t depends on the tokens 0 … t, each of them, and on no later one."""
    attention = randomised(tb.SelfAttention(8, 2, causal=True), generator)
    x = normal(1, 6, 8, generator=generator)
    jacobian = torch.autograd.functional.jacobian(lambda x: attention(x)[0].sum(-1), x)
    influence = jacobian[:, 0].abs().sum(-1)
    for t in range(6):
        assert not influence[t, t + 1 :].any(), f"token {t} sees its future: it depends on a later token"
        assert influence[t, : t + 1].all(), f"token {t} does not depend on one of the tokens 0 … {t}"


def test_order_does_not_matter(generator):
    """Attention cannot tell an order: permuted tokens give permuted results."""
    attention = randomised(tb.SelfAttention(8, 2), generator)
    x, order = normal(2, 6, 8, generator=generator), torch.tensor([3, 1, 5, 0, 4, 2])
    with torch.no_grad():
        hint = "a position sneaks in: permuted tokens must give permuted results"
        got, expected = attention(x[:, order]), attention(x)[:, order]
        assert_close(got, expected, rtol=1e-10, what="attention", hint=hint)


def test_padding_does_not_leak(generator):
    """A padded sequence gives what it gives without padding, whatever the padding holds."""
    attention = randomised(tb.SelfAttention(8, 2, causal=True), generator)
    x, padding = normal(3, 4, 8, generator=generator), 100 * normal(3, 3, 8, generator=generator)
    is_token = torch.arange(7) < torch.tensor([[4], [4], [4]])
    with torch.no_grad():
        y = attention(torch.cat((x, padding), dim=1), mask=is_token[:, None, None, :])
        hint = "the result depends on the padding"
        assert_close(y[:, :4], attention(x), rtol=1e-9, what="padded sequence", hint=hint)


@pytest.mark.parametrize(("B", "T", "H"), [(5, 1, 2), (1, 8, 1), (2, 67, 4), (3, 2, 8)], ids=str)
def test_sizes(B, T, H, generator):
    """One token, one head, heads of one feature, and a longer sequence."""
    x = normal(B, T, 8, generator=generator)
    for causal in (False, True):
        attention = randomised(tb.SelfAttention(8, H, causal=causal), generator)
        with torch.no_grad():
            what = f"{'causal ' * causal}attention of B={B}, T={T}, {H} heads"
            expected = attention_by_torch(attention, H, x, causal=causal)
            assert_close(attention(x), expected, rtol=1e-10, what=what)


def test_huge_scores(generator):
    """Scores of ±100 000: no overflow, and what is forbidden stays so however large its score is."""
    attention = randomised(tb.SelfAttention(8, 2, causal=True), generator)
    with torch.no_grad():
        attention.qkv.weight[:16] *= 300
        x = normal(3, 6, 8, generator=generator)
        keep = torch.tensor([True, False, True, True, True, True])
        for mask in (None, keep):
            expected = attention_by_torch(attention, 2, x, mask=mask, causal=True)
            y = attention(x, mask=mask)
            assert y.isfinite().all(), "scores of ±100 000 overflow: subtract the largest one before exp"
            hint = f"large scores are clamped, or {UNDERCUT}"
            assert_close(y, expected, rtol=1e-9, what="attention with huge scores", hint=hint)


@pytest.mark.parametrize("hidden_by", ["causal", "mask"])
def test_nothing_undercuts_what_is_forbidden(hidden_by):
    """All scores are -100 000: each token gets the mean of the values that it sees, and nothing of the others."""
    attention = tb.SelfAttention(8, 2, causal=hidden_by == "causal").double()
    silence(attention.qkv, attention.out)
    with torch.no_grad():
        attention.qkv.bias[:8], attention.qkv.bias[8:16] = -250.0, 200.0  # · 4 features / sqrt(4)
        attention.qkv.weight[16:] = torch.eye(8)
        attention.out.weight.copy_(torch.eye(8))
    x = torch.arange(40.0, dtype=torch.float64).view(1, 5, 8) ** 2
    past = torch.ones(5, 5, dtype=torch.bool).tril()
    expected = torch.stack([x[0, : t + 1].mean(0) for t in range(5)])[None]
    with torch.no_grad():
        y = attention(x, mask=None if hidden_by == "causal" else past)
    hint = f"every score is -100 000, and {UNDERCUT}"
    assert_close(y, expected, rtol=1e-9, what=f"attention, hidden by {hidden_by}", hint=hint)


def test_inputs_and_library(generator):
    """x and mask are left alone, views work, and the library's fused functions are not called."""
    attention = randomised(tb.SelfAttention(8, 2, causal=True), generator)
    base = normal(5, 3, 16, generator=generator)
    x, mask = base.transpose(0, 1)[..., ::2], torch.ones(3, 1, 5, 5, dtype=torch.bool)
    mask[:, :, 2, 1] = False
    expected = attention_by_torch(attention, 2, x, mask=mask, causal=True)
    for mode in (True, False):
        with unchanged(base, mask), RefuseLibrary():
            y = attention.train(mode)(x, mask=mask)
        assert_close(y, expected, rtol=1e-10, what="attention of a view")


def test_dropout_of_weights():
    """Attention weights are dropped in training: with equal values, heads give more or less than that value."""
    torch.manual_seed(0)
    attention = tb.SelfAttention(40, 2, dropout=0.2)
    silence(attention.qkv, attention.out)
    with torch.no_grad():
        attention.qkv.bias[80:] = 1.0  # every value is 1
        attention.out.weight.copy_(torch.eye(40))
        attention.out.bias.fill_(3.0)  # comes after dropout: it is never dropped
    heads = (attention(torch.zeros(6, 10, 40)) - 3).view(6, 10, 2, 20)
    # per token and head: the number of kept weights / (10·0.8), the same for all features
    totals = heads.mean(-1)
    assert totals.unique().numel() > 3, "attention weights are not dropped in training"
    assert (heads - totals[..., None]).abs().max() < 1e-4, (
        "weights are dropped per query and key, the same for all features of a head"
    )
    for axis, what in enumerate(("sequences", "queries", "heads")):
        alike = ((totals - totals.roll(1, axis)).abs() < 1e-4).float().mean().item()
        assert alike < 0.7, f"all {what} drop the same weights: dropout is drawn for every weight"
    mean = totals.mean().item()
    assert 0.9 < mean < 1.1, f"kept weights are divided by 1 - p: on average they sum to 1, got {mean:.2f}"
    y = attention.eval()(torch.zeros(2, 5, 40))
    hint = "dropout is still on in evaluation mode"
    reason = "every value is 1, so the answer is 1 plus the bias"
    assert_close(y, torch.full((2, 5, 40), 4.0), what="evaluation", hint=hint, vacuous_ok=reason)
