"""The judge of the block and of the stack, after test_parts.py; test_with_transformers.py has the blocks in use.

Oracles: values worked by hand, nn.TransformerEncoderLayer and nn.TransformerEncoder in float64, torch's fused functions
where they have no such option (peers.by_torch), laws (nothing leaks from the future, from padding, from the batch).
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from peers import (
    ENCODER_LAYER,
    block_mistakes,
    by_torch,
    copy_into,
    encoder_layer,
    gradients,
    normal,
    randomised,
    translated,
)
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import transformer_block as tb
from shared.testing.checks import assert_close, expect_error, refuse_calls, unchanged

LIBRARY = (
    *("layer_norm", "rms_norm", "batch_norm", "group_norm", "instance_norm"),
    *("scaled_dot_product", "multi_head_attention", "transformer_encoder"),
)

# --- contract ---------------------------------------------------------------------------------------------------------


@pytest.mark.grades("TransformerBlock")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("norm", ["layer", "rms"])
@pytest.mark.parametrize("activation", ["gelu", "swiglu"])
def test_parameters(norm, activation, bias):
    """Names and shapes of all parameters, as the docstrings list them."""
    block = tb.TransformerBlock(12, 3, norm=norm, activation=activation, bias=bias)
    d_ff = 32 if activation == "swiglu" else 48
    linear = {
        "qkv": (36, 12),
        "out": (12, 12),
        "feed_forward.up": (d_ff, 12),
        "feed_forward.down": (12, d_ff),
    }
    if activation == "swiglu":
        linear["feed_forward.gate"] = (d_ff, 12)
    expected = {f"{name}.weight": shape for name, shape in linear.items()}
    expected |= {f"{name}.bias": shape[:1] for name, shape in linear.items() if bias}
    expected |= {f"{name}.weight": (12,) for name in ("attention_norm", "feed_forward_norm")}
    if norm == "layer" and bias:
        expected |= {f"{name}.bias": (12,) for name in ("attention_norm", "feed_forward_norm")}
    got = {name: tuple(p.shape) for name, p in block.named_parameters()}
    missing, extra = sorted(expected.keys() - got.keys()), sorted(got.keys() - expected.keys())
    assert not missing, f"parameters are missing: {missing}"
    assert not extra, f"parameters that should not be there: {extra} (norm={norm!r}, bias={bias})"
    wrong = {name: got[name] for name in got if got[name] != expected[name]}
    assert not wrong, f"wrong shapes {wrong}, expected { ({name: expected[name] for name in wrong}) }"


@pytest.mark.grades("TransformerBlock")
@pytest.mark.parametrize(
    ("arguments", "options", "mentions"),
    [
        ((10, 3), {}, ["10", "3"]),
        ((10, 0), {}, ["0"]),
        ((6, 2), {"position": "rotary"}, ["6", "2"]),
        ((8, 2), {"norm": "batch"}, ["batch"]),
        ((8, 2), {"norm_position": "middle"}, ["middle"]),
        ((8, 2), {"activation": "tanhh"}, ["tanhh"]),
        ((8, 2), {"position": "sinusoidal"}, ["sinusoidal"]),
    ],
    ids=str,
)
def test_wrong_options(arguments, options, mentions):
    """An option that is none of the documented values is refused at once and named."""
    with expect_error(ValueError, *mentions, otherwise=f"{arguments} with {options} is accepted"):
        tb.TransformerBlock(*arguments, **options)


@pytest.mark.grades("TransformerBlock")
def test_wrong_inputs():
    """x is (B, T, d_model); a mask broadcasts to (B, n_heads, T, T) and is boolean or floating."""
    block = tb.TransformerBlock(8, 2)
    for shape in [(5, 8), (2, 5, 7), (2, 1, 5, 8)]:
        with expect_error(ValueError, str(shape), otherwise=f"x of shape {shape} is accepted"):
            block(torch.ones(shape))
    x = torch.ones(3, 5, 8)
    for shape in [(3, 5), (4, 5), (3, 3, 5, 5), (1, 3, 2, 5, 5), (3, 2, 5, 6)]:
        with expect_error(ValueError, str(shape), otherwise=f"a mask of shape {shape} is accepted"):
            block(x, mask=torch.ones(shape, dtype=torch.bool))
    with expect_error(TypeError, "int64", otherwise="an integer mask is accepted: is 1 allowed, or added?"):
        block(x, mask=torch.ones(5, 5, dtype=torch.int64))


# --- isolated: with other parts silenced ------------------------------------------------------------------------------


def silence(*linears):
    """Set linear layers to zero, so that their branch adds nothing."""
    with torch.no_grad():
        for linear in linears:
            for parameter in linear.parameters():
                parameter.zero_()


@pytest.mark.grades("TransformerBlock")
@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_residual_only(norm, generator):
    """Both branches silenced: pre-norm returns x itself, post-norm the norm of the norm of x."""
    x = 3 * normal(2, 5, 8, generator=generator) + 1
    layer = tb.LayerNorm if norm == "layer" else tb.RMSNorm
    for norm_position in ("pre", "post"):
        block = randomised(tb.TransformerBlock(8, 2, norm=norm, norm_position=norm_position), generator)
        silence(block.out, block.feed_forward.down)
        kinds = {type(block.attention_norm).__name__, type(block.feed_forward_norm).__name__}
        assert kinds == {layer.__name__}, f"norm={norm!r} must use {layer.__name__} twice, got {kinds}"
        first, second = block.attention_norm, block.feed_forward_norm
        mistakes = {
            "the residual connection is missing: each branch is added to its input": (
                0 * x if norm_position == "pre" else second(0 * x).detach()
            ),
            "only one of the two norms is there": first(x).detach(),
            "the first norm is left out": second(x).detach(),
            "the norms are in the wrong order": first(second(x)).detach(),
        }
        if norm_position == "pre":
            mistakes[
                "post-norm where pre-norm is asked, or the residual is taken from the normed input: "
                "add the branch to x itself"
            ] = second(first(x)).detach()
        else:
            mistakes["pre-norm where post-norm is asked, or the block returns its input"] = x
        with torch.no_grad():
            expected = x if norm_position == "pre" else second(first(x))
            what = f"{norm_position}-norm block whose branches add nothing"
            assert_close(block(x), expected, rtol=1e-12, what=what, mistakes=mistakes)


@pytest.mark.grades("TransformerBlock")
def test_attention_by_hand():
    """Two tokens, one feature per head, the feed-forward silenced: values are averaged by weights worked by hand.

    The input makes the norm give (1, -1) and (-1, 1). Head 0 has query = key = value = first feature, head 1 has
    query 0 and value 10 times the second feature.
    """
    block = tb.TransformerBlock(2, 2, bias=False).double()
    silence(block.feed_forward.down)
    with torch.no_grad():
        block.qkv.weight.copy_(
            torch.tensor([[1.0, 0], [0, 0], [1, 0], [0, 0], [1, 0], [0, 10]])
        )  # q0 q1 k0 k1 v0 v1
        block.out.weight.copy_(torch.eye(2))
        block.attention_norm.weight.fill_((1 + 1e-5) ** 0.5)  # undoes eps
    x = torch.tensor([[[1.0, -1.0], [-1.0, 1.0]]], dtype=torch.float64)
    e = np.exp(1.0)
    mean = (e - 1 / e) / (e + 1 / e)  # weights softmax(1, -1) on the values 1, -1; head 1: (10 - 10)/2 = 0
    expected = torch.tensor([[[1 + mean, -1.0], [-1 - mean, 1.0]]], dtype=torch.float64)
    mistakes = {
        "the residual connection is missing: each branch is added to its input": [
            [[mean, 0.0], [-mean, 0.0]]
        ],
        "every token attends to itself only: scores need keys of all tokens": [[[2.0, -11.0], [-2.0, 11.0]]],
        "softmax goes over the queries, not over the keys": None,
        "the weights are not used: values are averaged": [[[1.0, -1.0], [-1.0, 1.0]]],
    }
    mistakes = {diagnosis: value for diagnosis, value in mistakes.items() if value is not None}
    assert_close(block(x), expected, rtol=1e-9, what="block of two tokens", mistakes=mistakes)


# --- the full comparison ----------------------------------------------------------------------------------------------


def copied(layer, d_model, n_heads, d_ff, dtype=torch.float64, **options):
    """Build the learner's block with the weights of an nn.TransformerEncoderLayer."""
    block = tb.TransformerBlock(d_model, n_heads, d_ff=d_ff, **options).to(dtype)
    copy_into(block, layer, ENCODER_LAYER)
    return block


def torch_masks(kind, B, T, n_heads):
    """Return (our options, our mask, arguments for torch's layer): there True means forbidden."""
    causal = torch.ones(T, T, dtype=torch.bool).triu(1)
    lengths = torch.tensor([T, T - 2, 1, T - 1][:B])
    padding = torch.arange(T) >= lengths[:, None]
    keep = ~padding[:, None, None, :]
    added = torch.linspace(-2, 3, B * n_heads * T * T, dtype=torch.float64).cos().view(B, n_heads, T, T)
    return {
        "none": ({}, None, {}),
        "causal": ({"causal": True}, None, {"src_mask": causal}),
        "padding": ({}, keep, {"src_key_padding_mask": padding}),
        "causal and padding": (
            {"causal": True},
            keep,
            {"src_mask": causal, "src_key_padding_mask": padding},
        ),
        "boolean (T, T)": ({}, ~causal.flip(1), {"src_mask": causal.flip(1)}),
        "added": ({}, added, {"src_mask": added.flatten(0, 1)}),
        "added and causal": (
            {"causal": True},
            added,
            {"src_mask": added.masked_fill(causal, -torch.inf).flatten(0, 1)},
        ),
    }[kind]


def compare_with_encoder_layer(generator, *, pre, activation, bias, mask, dtype=torch.float64, rtol=1e-10):
    """Output and all gradients against nn.TransformerEncoderLayer."""
    B, T, D, H, d_ff = 4, 7, 12, 3, 20
    layer = encoder_layer(
        D, H, d_ff, generator, dtype=dtype, norm_first=pre, activation=activation, bias=bias
    )
    options, ours, theirs = torch_masks(mask, B, T, H)
    theirs = {key: value.to(dtype) if value.is_floating_point() else value for key, value in theirs.items()}
    ours = ours.to(dtype) if ours is not None and ours.is_floating_point() else ours
    norm_position = "pre" if pre else "post"
    block = copied(
        layer, D, H, d_ff, dtype, norm_position=norm_position, activation=activation, bias=bias, **options
    )
    x = (2 * normal(B, T, D, generator=generator) + 0.5).to(dtype).requires_grad_()
    cotangent = normal(B, T, D, generator=generator, dtype=dtype)
    y, expected = block(x, mask=ours), layer(x, **theirs)
    how = {"mask": ours, "causal": bool(options), "pre": pre}
    mistakes = block_mistakes(block, H, x, **how)
    case = f"block ({norm_position}-norm, {activation}, bias={bias}, mask: {mask})"
    assert_close(y, expected, rtol=rtol, what=case, mistakes=mistakes)
    names = [name for name, _ in block.named_parameters()]
    parameters = dict(layer.named_parameters())
    got = gradients(y, (x, *block.parameters()), cotangent)
    wanted = gradients(expected, (x, *(parameters[translated(n, ENCODER_LAYER)] for n in names)), cotangent)
    for name, mine, other in zip(("x", *names), got, wanted, strict=True):
        if name == "qkv.bias":  # a key's bias changes no weight: its gradient is rounding alone
            mine, other = mine[[*range(D), *range(2 * D, 3 * D)]], other[[*range(D), *range(2 * D, 3 * D)]]
        assert_close(mine, other, rtol=rtol, what=f"gradient by {name}", hint=f"backward of the {case}")


@pytest.mark.grades("TransformerBlock")
@pytest.mark.parametrize("pre", [True, False], ids=["pre", "post"])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_equals_encoder_layer(pre, activation, bias, generator):
    """Pre and post, relu and gelu, with and without bias; forward and backward."""
    compare_with_encoder_layer(generator, pre=pre, activation=activation, bias=bias, mask="none")


@pytest.mark.grades("TransformerBlock")
@pytest.mark.parametrize(
    "mask",
    ["causal", "padding", "causal and padding", "boolean (T, T)", "added", "added and causal"],
)
def test_masks_equal_encoder_layer(mask, generator):
    """Causal, padded, both, and a mask that is added; forward and backward."""
    compare_with_encoder_layer(generator, pre=True, activation="gelu", bias=True, mask=mask)
    compare_with_encoder_layer(generator, pre=False, activation="relu", bias=True, mask=mask)


@pytest.mark.grades("TransformerBlock")
def test_equals_encoder_layer_in_float32(generator):
    """The same in float32, the dtype it will run in."""
    compare_with_encoder_layer(
        generator, pre=True, activation="gelu", bias=True, mask="causal", dtype=torch.float32, rtol=1e-5
    )


@pytest.mark.grades("TransformerBlock")
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_rotary_block(causal, norm, generator):
    """Queries and keys are rotated by their position, values are not; by complex multiplication."""
    options = {"position": "rotary", "norm": norm, "causal": causal}
    block = randomised(tb.TransformerBlock(12, 2, **options), generator)
    x = (3 * normal(3, 7, 12, generator=generator)).requires_grad_()
    how = {"causal": causal, "rotary": True}
    y, expected = block(x), by_torch(block, 2, x, **how)
    mistakes = block_mistakes(block, 2, x, **how)
    assert_close(y, expected, rtol=1e-10, what="rotary block", mistakes=mistakes)
    cotangent, inputs = normal(3, 7, 12, generator=generator), (x, *block.parameters())
    keyless = [*range(12), *range(24, 36)]  # see above
    for (name, _), mine, other in zip(
        (("x", x), *block.named_parameters()),
        gradients(y, inputs, cotangent),
        gradients(expected, inputs, cotangent),
        strict=True,
    ):
        mine, other = (mine[keyless], other[keyless]) if name == "qkv.bias" else (mine, other)
        assert_close(mine, other, rtol=1e-9, what=f"gradient by {name} of a rotary block")


@pytest.mark.grades("TransformerBlock")
@pytest.mark.parametrize("activation", ["gelu_tanh", "swiglu"])
@pytest.mark.parametrize("norm", ["layer", "rms"])
@pytest.mark.parametrize("norm_position", ["pre", "post"])
@pytest.mark.parametrize("bias", [True, False])
def test_other_options(activation, norm, norm_position, bias, generator):
    """What nn.TransformerEncoderLayer does not offer, with torch's fused functions."""
    options = {"activation": activation, "norm": norm, "norm_position": norm_position, "bias": bias}
    block = randomised(tb.TransformerBlock(12, 3, d_ff=10, **options), generator)
    x = normal(2, 5, 12, generator=generator) + 0.5
    with torch.no_grad():
        expected = by_torch(block, 3, x, pre=norm_position == "pre")
        mistakes = block_mistakes(block, 3, x, pre=norm_position == "pre")
        assert_close(block(x), expected, rtol=1e-10, what=f"block with {options}", mistakes=mistakes)


# --- laws and edge cases ----------------------------------------------------------------------------------------------


@pytest.mark.grades("TransformerBlock")
def test_batch_does_not_leak(generator):
    """A sequence alone gives what it gives in a batch: in training too, which is what batch norm does not."""
    block = randomised(tb.TransformerBlock(8, 2), generator)
    x = normal(4, 5, 8, generator=generator)
    with torch.no_grad():
        together, alone = block(x), torch.cat([block(x[i : i + 1]) for i in range(4)])
    hint = "the batch leaks: a sequence alone gives other numbers than the same sequence in a batch"
    assert_close(together, alone, rtol=1e-10, what="block of a batch", hint=hint)


@pytest.mark.grades("TransformerBlock")
def test_future_does_not_leak(generator):
    """causal=True: token t depends on the tokens 0 … t, each of them, and on no later one."""
    block = randomised(tb.TransformerBlock(8, 2, causal=True, position="rotary"), generator)
    x = normal(1, 6, 8, generator=generator)
    jacobian = torch.autograd.functional.jacobian(lambda x: block(x)[0].sum(-1), x)[:, 0].abs().sum(-1)
    for t in range(6):
        assert not jacobian[t, t + 1 :].any(), f"token {t} sees its future: it depends on a later token"
        assert jacobian[t, : t + 1].all(), f"token {t} does not depend on one of the tokens 0 … {t}"


@pytest.mark.grades("TransformerBlock")
@pytest.mark.parametrize("activation", ["relu", "gelu", "swiglu"])
def test_nan_is_not_hidden(activation, generator):
    """A NaN in one token shows there and in the tokens that see it, in no other sequence."""
    block = randomised(tb.TransformerBlock(8, 2, activation=activation), generator)
    x = normal(3, 4, 8, generator=generator)
    with torch.no_grad():
        expected = block(x)
        x[1, 2, 5] = float("nan")
        got = block(x)
    assert got[1].isnan().all(), "a NaN is hidden: something replaces it"
    assert_close(
        got[[0, 2]], expected[[0, 2]], rtol=1e-12, what="other sequences", hint="a NaN spreads to them"
    )


@pytest.mark.grades("TransformerBlock")
def test_order_without_positions(generator):
    """Without positions a block cannot tell an order: permuted tokens give permuted results."""
    block = randomised(tb.TransformerBlock(8, 2), generator)
    x, order = normal(2, 6, 8, generator=generator), torch.tensor([3, 1, 5, 0, 4, 2])
    with torch.no_grad():
        hint = "a position sneaks in: with position=None, permuted tokens give permuted results"
        assert_close(block(x[:, order]), block(x)[:, order], rtol=1e-10, what="block", hint=hint)


@pytest.mark.grades("TransformerBlock")
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_does_not_leak(side, generator):
    """A padded sequence gives what it gives without padding, whatever the padding holds.

    On the left too: rotary positions are shifted by the padding, but only differences count.
    """
    block = randomised(tb.TransformerBlock(8, 2, position="rotary", causal=True), generator)
    x, padding = normal(3, 4, 8, generator=generator), 100 * normal(3, 3, 8, generator=generator)
    padded = torch.cat((padding, x) if side == "left" else (x, padding), dim=1)
    at = slice(3, 7) if side == "left" else slice(0, 4)
    keep = torch.zeros(3, 7, dtype=torch.bool)
    keep[:, at] = True
    with torch.no_grad():
        y = block(padded, mask=keep[:, None, None, :])
        assert y.isfinite().all(), "a padding token that sees nothing gives NaN: let it get zeros"
        assert_close(
            y[:, at], block(x), rtol=1e-9, what="padded sequence", hint="the result depends on the padding"
        )


@pytest.mark.grades("TransformerBlock")
@pytest.mark.parametrize("kind", ["boolean", "added", "one head of one sequence"])
def test_nothing_to_attend_to(kind, generator):
    """A query that may attend to nothing gets zeros from attention, and its gradients are finite."""
    block = randomised(tb.TransformerBlock(8, 2), generator)
    silence(block.feed_forward.down)
    x = normal(2, 4, 8, generator=generator).requires_grad_()
    allowed = torch.ones(4, 4, dtype=torch.bool)
    allowed[1] = False
    if kind == "one head of one sequence":
        allowed = torch.ones(2, 2, 4, 4, dtype=torch.bool)
        allowed[0, 1, 1] = False
    mask = (
        allowed
        if kind != "added"
        else torch.zeros(4, 4, dtype=torch.float64).masked_fill(~allowed, -torch.inf)
    )
    y = block(x, mask=mask)
    expected = by_torch(block, 2, x, mask=mask)
    hint = "zeros from attention leave x plus the bias of `out`"
    assert y.isfinite().all(), "a query that may attend to nothing gives NaN: softmax of a row of -inf"
    if kind != "one head of one sequence":
        assert_close(y[:, 1], x[:, 1] + block.out.bias, rtol=1e-10, what="query without keys", hint=hint)
    hint = "zeros are for the query, the head and the sequence that may attend to nothing, for no other"
    assert_close(y, expected, rtol=1e-10, what="block with a masked row", hint=hint)
    inputs, cotangent = (x, *block.parameters()), normal(2, 4, 8, generator=generator)
    got = gradients(y, inputs, cotangent)
    assert all(g.isfinite().all() for g in got), (
        "the gradient of a query without keys is NaN: do not let -inf fill a whole row of the softmax"
    )
    assert_close(
        got[0], gradients(expected, inputs, cotangent)[0], rtol=1e-9, what="gradient by x with a masked row"
    )


@pytest.mark.grades("TransformerBlock")
def test_mask_that_is_learned(generator):
    """A mask that is added gets a gradient, summed over what it was broadcast to: relative biases are learned so."""
    block = randomised(tb.TransformerBlock(8, 2, causal=True), generator)
    x, cotangent = normal(3, 5, 8, generator=generator), normal(3, 5, 8, generator=generator)
    mask = normal(2, 5, 5, generator=generator).requires_grad_()
    allowed = torch.ones(5, 5, dtype=torch.bool).tril()
    expected = by_torch(block, 2, x, mask=mask.masked_fill(~allowed, -torch.inf))
    with unchanged(mask):
        y = block(x, mask=mask)
    (got,), (wanted,) = gradients(y, (mask,), cotangent), gradients(expected, (mask,), cotangent)
    assert_close(got, wanted, rtol=1e-9, what="gradient by the mask")


@pytest.mark.grades("TransformerBlock")
def test_alibi_as_mask(generator):
    """`alibi_bias` is used as a mask: heads differ, late positions weigh less."""
    block = randomised(tb.TransformerBlock(8, 4, causal=True), generator)
    x = normal(3, 6, 8, generator=generator)
    i = torch.arange(6)
    distance = (i[:, None] - i).abs()
    bias = -torch.tensor([2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8]).double()[:, None, None] * distance
    with torch.no_grad():
        how = {"mask": bias, "causal": True}
        mistakes = block_mistakes(block, 4, x, **how)
        got = block(x, mask=tb.alibi_bias(4, 6))
        assert_close(got, by_torch(block, 4, x, **how), rtol=1e-10, what="ALiBi block", mistakes=mistakes)


@pytest.mark.grades("TransformerBlock")
@pytest.mark.parametrize(("B", "T", "H"), [(5, 1, 2), (2, 67, 4), (3, 400, 2), (1, 750, 2)], ids=str)
def test_sizes(B, T, H, generator):
    """Short and long sequences: nothing depends on a block of the computation being complete."""
    x = normal(B, T, 8, generator=generator)
    mask = normal(B, H, 1, T, generator=generator)
    for causal in (False, True):
        block = randomised(tb.TransformerBlock(8, H, d_ff=3, causal=causal), generator)
        for given in (None, mask):
            what = f"{'causal ' * causal}block of B={B}, T={T}, {H} heads, {'no' if given is None else 'added'} mask"
            hint = (
                "right for short sequences: is a part of a long one left out, or is its mask another one's?"
            )
            with torch.no_grad():
                expected = by_torch(block, H, x, mask=given, causal=causal)
                assert_close(block(x, mask=given), expected, rtol=1e-10, what=what, hint=hint)


@pytest.mark.grades("TransformerBlock")
def test_huge_scores(generator):
    """Scores of ±100 000: no overflow, and what is forbidden stays so however large its score is."""
    block = randomised(tb.TransformerBlock(8, 2, causal=True), generator)
    with torch.no_grad():
        block.qkv.weight[:16] *= 300
        x = normal(3, 6, 8, generator=generator)
        keep = torch.tensor([True, False, True, True, True, True])
        for mask in (None, keep):
            expected = by_torch(block, 2, x, mask=mask, causal=True)
            hint = "a forbidden score is replaced by a large negative number, which others undercut: use -inf"
            y = block(x, mask=mask)
            assert y.isfinite().all(), "scores of ±100 000 overflow: subtract the largest one before exp"
            assert_close(y, expected, rtol=1e-9, what="block with huge scores", hint=hint)


@pytest.mark.filterwarnings("ignore:.*degrees of freedom")  # torch.var_mean of an empty batch
@pytest.mark.grades("TransformerBlock", "Transformer")
@pytest.mark.parametrize("shape", [(0, 5, 8), (2, 0, 8)], ids=str)
def test_empty(shape):
    """No sequences or no tokens give an empty result of the same shape."""
    for module in (tb.TransformerBlock(8, 2, position="rotary", causal=True), tb.Transformer(2, 8, 2)):
        got = tuple(module(torch.zeros(shape)).shape)
        assert got == shape, f"x {shape} gave shape {got}"


@pytest.mark.grades("TransformerBlock")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_dtypes(dtype, generator):
    """The dtype of x comes back, with rotary positions and a float32 mask as well."""
    block = randomised(tb.TransformerBlock(16, 2, position="rotary", norm="rms"), generator, dtype)
    x = normal(2, 5, 16, generator=generator, scale=3.0).to(dtype)
    mask = normal(5, 5, generator=generator).float()
    with torch.no_grad():
        y = block(x, mask=mask)
        expected = by_torch(block.double(), 2, x.double(), mask=mask.double(), rotary=True)
    eps = torch.finfo(dtype).eps  # a dozen roundings of numbers up to 10
    assert_close(y, expected, dtype=dtype, rtol=4 * eps, atol=8 * eps, what=f"block in {dtype}")


@pytest.mark.grades("TransformerBlock")
def test_input_and_library(generator):
    """x and mask are left alone, views work, and the library's fused functions are not called."""
    for options in ({}, {"norm": "rms", "norm_position": "post"}):
        block = randomised(tb.TransformerBlock(8, 2, **options), generator)
        base, mask = normal(5, 3, 16, generator=generator), torch.zeros(5, 5, dtype=torch.float64)
        allowed = torch.ones(3, 2, 5, 5, dtype=torch.bool)
        x = base.transpose(0, 1)[..., ::2]
        with unchanged(base, mask, allowed), refuse_calls(*LIBRARY):
            y = block(x, mask=mask)
            tb.TransformerBlock(8, 2, causal=True, **options).double()(x, mask=allowed)
        assert_close(block(x.clone()), y.detach(), rtol=1e-10, what="block of a view")


@pytest.mark.grades("TransformerBlock")
@pytest.mark.parametrize("causal", [False, True])
def test_flops(causal, generator):
    """The matrix products take 24·B·n·d² + 4·B·n²·d FLOPs forward, and twice that backward."""
    B, n, d = 2, 10, 24
    block = tb.TransformerBlock(d, 3, causal=causal)
    x = torch.randn(B, n, d, generator=generator, requires_grad=True)
    with FlopCounterMode(display=False) as forward:
        y = block(x)
    expected = 24 * B * n * d**2 + 4 * B * n**2 * d
    got = forward.get_total_flops()
    assert got == expected, (
        f"{got} FLOPs in matrix products, expected 24·B·n·d² + 4·B·n²·d = {expected}: the projections take "
        f"{8 * B * n * d**2}, the feed-forward network {16 * B * n * d**2}, attention {4 * B * n**2 * d}"
    )
    with FlopCounterMode(display=False) as backward:
        y.backward(torch.ones_like(y))
    got = backward.get_total_flops()
    assert got == 2 * expected, (
        f"the backward pass takes {got} FLOPs, expected twice the forward's {expected}"
    )


# --- dropout ----------------------------------------------------------------------------------------------------------


@pytest.mark.grades("TransformerBlock")
def test_dropout_in_evaluation(generator):
    """In evaluation dropout does nothing; in training two passes differ."""
    block = randomised(tb.TransformerBlock(12, 3, dropout=0.5), generator)
    x = normal(2, 5, 12, generator=generator)
    with torch.no_grad():
        assert not torch.equal(block(x), block(x)), "dropout=0.5 does nothing in training"
        hidden = [block.feed_forward(x) for _ in range(2)]
        assert not torch.equal(*hidden), "dropout is not handed to the feed-forward network"
        block.eval()
        hint = "dropout is still on in evaluation mode"
        assert_close(block(x), by_torch(block.eval(), 3, x), rtol=1e-10, what="evaluation", hint=hint)


@pytest.mark.grades("TransformerBlock")
@pytest.mark.parametrize("branch", ["attention", "feed-forward"])
def test_dropout_of_branches(branch):
    """Each branch's output is dropped entry by entry before it is added; x itself never is."""
    block = tb.TransformerBlock(40, 2, dropout=0.2)
    silence(block.out, block.feed_forward.down)
    linear = block.out if branch == "attention" else block.feed_forward.down
    with torch.no_grad():
        linear.bias.fill_(4.0)
    x = torch.linspace(-1, 1, 2000).view(5, 10, 40)
    added = block(x) - x
    dropped = added.abs() < 1e-4
    assert dropped.any(), f"the output of the {branch} branch is not dropped in training"
    assert torch.allclose(added[~dropped], torch.tensor(5.0), atol=1e-4), (
        f"what dropout keeps of the {branch} branch is divided by 1 - p once, and x itself is never dropped; "
        f"added were {added.unique()[:5].tolist()} instead of 0 and 5"
    )
    for axis, what in enumerate(("sequences", "tokens", "features")):
        alike = (dropped == dropped.roll(1, axis)).float().mean().item()  # 0.8² + 0.2² of them by chance
        assert alike < 0.8, f"all {what} drop alike in the {branch} branch: dropout is drawn for every entry"
    share = dropped.float().mean().item()
    assert 0.14 < share < 0.26, f"dropout=0.2 dropped {share:.0%} of the {branch} branch's output"


@pytest.mark.grades("TransformerBlock")
@pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])
def test_dropout_of_weights(masked):
    """Attention weights are dropped: with equal values, heads give more or less than that value."""
    block = tb.TransformerBlock(40, 2, dropout=0.2)
    mask = torch.zeros(10, 10) if masked else None  # of no effect
    silence(block.feed_forward.down, block.qkv, block.out)
    with torch.no_grad():
        block.qkv.bias[80:] = 1.0  # every value is 1
        block.out.weight.copy_(torch.eye(40))
    x = torch.zeros(6, 10, 40)
    heads = block(x, mask=mask).view(60, 2, 20)
    # per token and head 0.8·added = sum of kept weights / 0.8, the same for all features that survive
    totals = heads.amax(-1)
    assert totals.unique().numel() > 3, "attention weights are not dropped in training"
    for axis, what in enumerate(("sequences", "queries", "heads")):
        by_axis = totals.view(6, 10, 2)
        alike = ((by_axis - by_axis.roll(1, axis)).abs() < 1e-4).float().mean().item()
        assert alike < 0.7, f"all {what} drop the same weights: dropout is drawn for every weight"
    same = (heads - totals[..., None]).abs().minimum(heads.abs())
    assert same.max() < 1e-4, "weights are dropped per query and key, the same for all features of a head"
    mean = 0.8 * totals.mean().item()
    assert 0.9 < mean < 1.1, f"kept weights are divided by 1 - p: on average they sum to 1, got {mean:.2f}"


# --- the stack --------------------------------------------------------------------------------------------------------


@pytest.mark.grades("Transformer")
@pytest.mark.parametrize("norm", ["layer", "rms"])
@pytest.mark.parametrize("norm_position", ["pre", "post"])
def test_stack_parameters(norm, norm_position):
    """Each block has parameters of its own; the norm at the end is there with pre-norm only."""
    stack = tb.Transformer(3, 8, 2, norm=norm, norm_position=norm_position, bias=False)
    assert len(stack.blocks) == 3, f"3 layers make 3 blocks, got {len(stack.blocks)}"
    assert len({id(p) for p in stack.blocks.parameters()}) == 3 * len(list(stack.blocks[0].parameters())), (
        "blocks share parameters: build a new block for each layer"
    )
    first, second = stack.blocks[0].qkv.weight, stack.blocks[1].qkv.weight
    assert not torch.equal(first, second), "all blocks start with the same weights: draw new ones for each"
    if norm_position == "post":
        assert stack.final_norm is None, (
            "with post-norm the last block has normed already: final_norm is None"
        )
        return
    kind = "LayerNorm" if norm == "layer" else "RMSNorm"
    assert type(stack.final_norm).__name__ == kind, (
        f"a pre-norm stack needs final_norm, a {kind}: no norm has seen the sum that it hands out"
    )
    assert getattr(stack.final_norm, "bias", None) is None, "bias=False does not reach final_norm"


@pytest.mark.grades("Transformer")
@pytest.mark.parametrize("pre", [True, False], ids=["pre", "post"])
@pytest.mark.parametrize("mask", ["none", "causal", "causal and padding", "added"])
def test_stack_equals_encoder(pre, mask, generator):
    """Against nn.TransformerEncoder with other weights in each layer, forward and backward."""
    B, T, D, H, d_ff = 3, 6, 8, 2, 10
    prototype = encoder_layer(D, H, d_ff, generator, norm_first=pre, activation="gelu")
    final = nn.LayerNorm(D) if pre else None
    encoder = nn.TransformerEncoder(prototype, 3, norm=final, enable_nested_tensor=False)
    encoder = randomised(encoder, generator)
    options, ours, theirs = torch_masks(mask, B, T, H)
    stack = tb.Transformer(3, D, H, d_ff=d_ff, norm_position="pre" if pre else "post", **options).double()
    for block, layer in zip(stack.blocks, encoder.layers, strict=True):
        copy_into(block, layer, ENCODER_LAYER)
    if pre:
        stack.final_norm.load_state_dict(final.state_dict())
    x = normal(B, T, D, generator=generator).requires_grad_()
    renamed = {{"src_mask": "mask"}.get(name, name): value for name, value in theirs.items()}
    y, expected = stack(x, mask=ours), encoder(x, **renamed)

    def run(blocks, masks=(ours, ours, ours), norm=True):
        h = x.detach()
        for block, given in zip(blocks, masks, strict=False):
            h = block(h, mask=given)
        return stack.final_norm(h) if pre and norm else h

    mistakes = {
        "the final norm is missing: a pre-norm stack ends in one": lambda: run(stack.blocks, norm=False),
        "the mask reaches the first block only": lambda: run(stack.blocks, (ours, None, None)),
        "the mask is not handed to the blocks": lambda: run(stack.blocks, (None, None, None)),
        "the first block is used for every layer": lambda: run([stack.blocks[0]] * 3),
        "only the last block is used": lambda: run(stack.blocks[-1:]),
        "the last block is left out": lambda: run(stack.blocks[:-1]),
        "the blocks run in reverse": lambda: run(list(stack.blocks)[::-1]),
    }
    assert_close(y, expected, rtol=1e-9, what=f"stack, mask: {mask}", mistakes=mistakes)
    cotangent = normal(B, T, D, generator=generator)
    (got,), (wanted,) = gradients(y, (x,), cotangent), gradients(expected, (x,), cotangent)
    assert_close(got, wanted, rtol=1e-9, what="gradient by x of the stack")


@pytest.mark.grades("Transformer")
@pytest.mark.parametrize(
    "options",
    [
        {
            "norm": "rms",
            "activation": "swiglu",
            "position": "rotary",
            "causal": True,
            "bias": False,
            "d_ff": 5,
        },
        {"norm": "layer", "activation": "relu", "norm_position": "post"},
    ],
    ids=["llama", "post"],
)
def test_stack_options(options, generator):
    """Every option reaches every block."""
    stack = randomised(tb.Transformer(2, 8, 2, **options), generator)
    x = normal(2, 5, 8, generator=generator)
    how = {
        "causal": options.get("causal", False),
        "rotary": options.get("position") == "rotary",
        "pre": options.get("norm_position", "pre") == "pre",
    }
    with torch.no_grad():
        expected = x
        for block in stack.blocks:
            if options["activation"] == "relu":
                ff = block.feed_forward
                assert torch.equal(ff(x), ff.down(F.relu(ff.up(x)))), "activation does not reach the blocks"
            expected = by_torch(block, 2, expected, **how)
        if how["pre"]:
            expected = F.rms_norm(expected, (8,), stack.final_norm.weight, 1e-6)
        mistakes = {"the options are not handed to the blocks": lambda: by_torch(stack.blocks[0], 2, x)}
        assert_close(stack(x), expected, rtol=1e-9, what=f"stack with {options}", mistakes=mistakes)


@pytest.mark.grades("Transformer")
def test_stack_dropout(generator):
    """Dropout reaches the blocks, and eval() reaches dropout."""
    stack = randomised(tb.Transformer(2, 8, 2, dropout=0.3), generator)
    x = normal(2, 5, 8, generator=generator)
    with torch.no_grad():
        assert not torch.equal(stack(x), stack(x)), (
            "dropout=0.3 does nothing in training: is it handed to the blocks?"
        )
        stack.eval()
        assert torch.equal(stack(x), stack(x)), "dropout is still on in evaluation mode"
