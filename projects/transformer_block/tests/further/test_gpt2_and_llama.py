"""gpt2_and_llama.py: post-norm and the other options, around parts that torch lends; then the stack of blocks.

The block meets the core's tests too. Oracles: nn.TransformerEncoderLayer and nn.TransformerEncoder in float64, torch's fused
functions where they have no such option. test_with_transformers.py goes on with the library's own blocks.
"""

import oracles
import pytest
import test_transformer_block
import torch
from oracles import (
    block_by_torch,
    block_mistakes,
    copy_into,
    encoder_layer,
    gradients,
    norm_by_torch,
    normal,
    randomised,
    silence,
    torch_masks,
    translated,
    without_keys,
)
from torch import nn

import attention_in_groups
import gpt2_and_llama
import norms
import swiglu
from gpt2_and_llama import Transformer, TransformerBlock
from shared.testing.checks import assert_close, assert_imports_only, expect_error

pytestmark = pytest.mark.module("gpt2_and_llama")
PARTS = {
    "LayerNorm": norms,
    "RMSNorm": norms,
    "FeedForward": swiglu,
    "SelfAttention": attention_in_groups,
}
FOLDER = {"norms", "swiglu", "attention_in_groups", "positions", "transformer_block"}
_core = vars(test_transformer_block).items()
globals().update({k: v for k, v in _core if k.startswith("test_") and k != "test_whole_block"})


@pytest.fixture(autouse=True)
def lent(monkeypatch):
    """Put torch's parts in the place of the learner's, and this module's block in the place of the core's."""
    monkeypatch.setattr(test_transformer_block.tb, "TransformerBlock", TransformerBlock)
    for part, module in PARTS.items():
        monkeypatch.setattr(module, part, getattr(oracles, part))
        monkeypatch.setattr(gpt2_and_llama, part, getattr(oracles, part), raising=False)


@pytest.mark.grades
def test_gpt2_and_llama_imports():
    """The module uses torch and the modules beside it, nothing else."""
    assert_imports_only(gpt2_and_llama, {"torch", *FOLDER})


# --- the block ------------------------------------------------------------------------------------------------


@pytest.mark.grades("TransformerBlock")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("norm", ["layer", "rms"])
@pytest.mark.parametrize("activation", ["gelu", "swiglu"])
def test_all_parameters(norm, activation, bias):
    """Names and shapes of all parameters, as the docstrings list them."""
    block = TransformerBlock(12, 3, norm=norm, activation=activation, bias=bias)
    d_ff = 32 if activation == "swiglu" else 48
    linear = {
        "attention.qkv": (36, 12),
        "attention.out": (12, 12),
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
    ("option", "value"),
    [
        ("norm", "batch"),
        ("norm", "RMS"),
        ("norm_position", "middle"),
        ("norm_position", ""),
        ("activation", "tanhh"),
        ("position", "sinusoidal"),
    ],
)
def test_wrong_block_options(option, value):
    """An option that is none of the documented values is refused at once and named."""
    with expect_error(ValueError, repr(value), otherwise=f"{option}={value!r} is accepted"):
        TransformerBlock(8, 2, **{option: value})


@pytest.mark.grades("TransformerBlock")
@pytest.mark.parametrize("norm", ["layer", "rms"])
@pytest.mark.parametrize("norm_position", ["pre", "post"])
def test_norms_and_residuals(norm_position, norm, generator):
    """Both branches silenced: pre-norm returns x itself, post-norm the norm of the norm of x."""
    x = 3 * normal(2, 5, 8, generator=generator) + 1
    block = randomised(TransformerBlock(8, 2, norm=norm, norm_position=norm_position), generator)
    silence(block.attention.out, block.feed_forward.down)
    kind = "LayerNorm" if norm == "layer" else "RMSNorm"
    kinds = {type(block.attention_norm).__name__, type(block.feed_forward_norm).__name__}
    assert kinds == {kind}, f"norm={norm!r} must use {kind} twice, got {kinds}"
    first, second = block.attention_norm, block.feed_forward_norm
    pre = norm_position == "pre"
    mistakes = {
        "the residual connection is missing: each branch is added to its input": lambda: (
            0 * x if pre else second(0 * x)
        ),
        "only one of the two norms is there": lambda: first(x),
        "the first norm is left out": lambda: second(x),
        "the norms are in the wrong order": lambda: first(second(x)),
    }
    if pre:
        mistakes[
            "post-norm where pre-norm is asked, or the residual is taken from the normed input: "
            "add the branch to x itself"
        ] = lambda: second(first(x))
    else:
        mistakes["pre-norm where post-norm is asked, or the block returns its input"] = x
    with torch.no_grad():
        expected = x if pre else second(first(x))
        what = f"{norm_position}-norm block whose branches add nothing"
        assert_close(block(x), expected, rtol=1e-12, what=what, mistakes=mistakes)


def compare_with_encoder_layer(generator, *, activation, bias, mask):
    """Output and all gradients of a post-norm block against nn.TransformerEncoderLayer."""
    B, T, D, H, d_ff = 4, 7, 12, 3, 20
    layer = encoder_layer(D, H, d_ff, generator, norm_first=False, activation=activation, bias=bias)
    causal, ours, theirs = torch_masks(mask, B, T, H)
    options = {"activation": activation, "bias": bias, "causal": causal, "norm_position": "post"}
    block = TransformerBlock(D, H, d_ff=d_ff, **options).double()
    copy_into(block, layer)
    x = (2 * normal(B, T, D, generator=generator) + 0.5).requires_grad_()
    cotangent = normal(B, T, D, generator=generator)
    y, expected = block(x, mask=ours), layer(x, src_mask=theirs)
    how = {"mask": ours, "causal": causal, "pre": False, "activation": activation}
    case = f"post-norm block ({activation}, bias={bias}, mask: {mask})"
    assert_close(y, expected, rtol=1e-10, what=case, mistakes=block_mistakes(block, H, x, **how))
    names = [name for name, _ in block.named_parameters()]
    parameters = dict(layer.named_parameters())
    got = gradients(y, (x, *block.parameters()), cotangent)
    wanted = gradients(expected, (x, *(parameters[translated(name)] for name in names)), cotangent)
    for name, mine, other in zip(("x", *names), got, wanted, strict=True):
        mine, other = without_keys(name, mine), without_keys(name, other)
        assert_close(mine, other, rtol=1e-10, what=f"gradient by {name}", hint=f"backward of the {case}")


@pytest.mark.grades("TransformerBlock")
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("mask", ["none", "causal", "added and causal"])
def test_post_norm_equals_torch(activation, bias, mask, generator):
    """Post-norm, relu and gelu, with and without bias; forward and backward."""
    compare_with_encoder_layer(generator, activation=activation, bias=bias, mask=mask)


@pytest.mark.grades("TransformerBlock")
@pytest.mark.parametrize("activation", ["gelu_tanh", "swiglu"])
@pytest.mark.parametrize("norm", ["layer", "rms"])
@pytest.mark.parametrize("norm_position", ["pre", "post"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("position", [None, "rotary"])
def test_other_options(activation, norm, norm_position, bias, position, generator):
    """What nn.TransformerEncoderLayer does not offer, with torch's fused functions."""
    options = {"activation": activation, "norm": norm, "norm_position": norm_position, "bias": bias}
    options |= {"position": position, "causal": position == "rotary"}
    block = randomised(TransformerBlock(12, 3, d_ff=10, **options), generator)
    x = normal(2, 5, 12, generator=generator) + 0.5
    how = {"pre": norm_position == "pre", "activation": activation}
    how |= {"rotary": position == "rotary", "causal": position == "rotary"}
    with torch.no_grad():
        expected, mistakes = block_by_torch(block, 3, x, **how), block_mistakes(block, 3, x, **how)
        assert_close(block(x), expected, rtol=1e-10, what=f"block with {options}", mistakes=mistakes)


# --- the stack ------------------------------------------------------------------------------------------------


@pytest.mark.grades("Transformer", "TransformerBlock")
@pytest.mark.parametrize("norm", ["layer", "rms"])
@pytest.mark.parametrize("norm_position", ["pre", "post"])
def test_stack_parameters(norm, norm_position):
    """Each block has parameters of its own; the norm at the end is there with pre-norm only."""
    stack = Transformer(3, 8, 2, norm=norm, norm_position=norm_position, bias=False)
    assert len(stack.blocks) == 3, f"3 layers make 3 blocks, got {len(stack.blocks)}"
    for block in stack.blocks:
        names = [name for name, _ in block.named_parameters() if name.endswith("bias")]
        assert not names, f"bias=False does not reach the blocks: {names}"
    assert len({id(p) for p in stack.blocks.parameters()}) == 3 * len(list(stack.blocks[0].parameters())), (
        "blocks share parameters: build a new block for each layer"
    )
    weights = [block.attention.qkv.weight for block in stack.blocks]
    assert not torch.equal(*weights[:2]), "all blocks start with the same weights: draw new ones for each"
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


@pytest.mark.grades("Transformer", "TransformerBlock")
@pytest.mark.parametrize("pre", [True, False], ids=["pre", "post"])
@pytest.mark.parametrize("mask", ["none", "causal", "causal and padding", "added"])
def test_stack_equals_encoder(pre, mask, generator):
    """Against nn.TransformerEncoder with other weights in each layer, forward and backward."""
    B, T, D, H, d_ff = 3, 6, 8, 2, 10
    prototype = encoder_layer(D, H, d_ff, generator, norm_first=pre, activation="gelu")
    final = nn.LayerNorm(D) if pre else None
    encoder = nn.TransformerEncoder(prototype, 3, norm=final, enable_nested_tensor=False)
    encoder = randomised(encoder, generator)
    causal, ours, theirs = torch_masks(mask, B, T, H)
    options = {"d_ff": d_ff, "norm_position": "pre" if pre else "post", "causal": causal}
    stack = Transformer(3, D, H, **options).double()
    for block, layer in zip(stack.blocks, encoder.layers, strict=True):
        copy_into(block, layer)
    if pre:
        stack.final_norm.load_state_dict(final.state_dict())
    x = normal(B, T, D, generator=generator).requires_grad_()
    y, expected = stack(x, mask=ours), encoder(x, mask=theirs)

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


@pytest.mark.grades("Transformer", "TransformerBlock")
@pytest.mark.parametrize("n_layers", [0, -1, 2.0, True, "2", None])
def test_wrong_number_of_layers(n_layers):
    """A stack has a layer; without one, it would not even look at its options."""
    with expect_error(ValueError, "n_layers", repr(n_layers), otherwise=f"n_layers={n_layers!r} is accepted"):
        Transformer(n_layers, 8, 2)


LLAMA = {"norm": "rms", "activation": "swiglu", "position": "rotary", "causal": True, "bias": False}


@pytest.mark.grades("Transformer", "TransformerBlock")
@pytest.mark.parametrize(
    "options",
    [{**LLAMA, "d_ff": 5}, {"norm": "layer", "activation": "relu", "norm_position": "post"}],
    ids=["llama", "post"],
)
def test_stack_options(options, generator):
    """Every option reaches every block."""
    stack = randomised(Transformer(2, 8, 2, **options), generator)
    x = normal(2, 5, 8, generator=generator)
    how = {
        "causal": options.get("causal", False),
        "rotary": options.get("position") == "rotary",
        "pre": options.get("norm_position", "pre") == "pre",
        "activation": options["activation"],
    }
    with torch.no_grad():
        expected = x
        for block in stack.blocks:
            expected = block_by_torch(block, 2, expected, **how)
        expected = norm_by_torch(stack.final_norm, expected) if how["pre"] else expected
        mistakes = {"the options are not handed to the blocks": lambda: block_by_torch(stack.blocks[0], 2, x)}
        assert_close(stack(x), expected, rtol=1e-9, what=f"stack with {options}", mistakes=mistakes)


@pytest.mark.grades("Transformer", "TransformerBlock")
def test_stack_dropout(generator):
    """Dropout reaches the blocks, and eval() reaches dropout."""
    torch.manual_seed(0)
    stack = randomised(Transformer(2, 8, 2, dropout=0.3), generator)
    x = normal(2, 5, 8, generator=generator)
    with torch.no_grad():
        assert not torch.equal(stack(x), stack(x)), (
            "dropout=0.3 does nothing in training: is it handed to the blocks?"
        )
        stack.eval()
        assert torch.equal(stack(x), stack(x)), "dropout is still on in evaluation mode"


@pytest.mark.grades("TransformerBlock")
@pytest.mark.parametrize("branch", ["attention", "feed-forward"])
def test_post_norm_dropout(branch):
    """Each branch's output is dropped before it is added, with post-norm too."""
    torch.manual_seed(0)
    block = TransformerBlock(40, 2, norm_position="post", dropout=0.2)
    silence(block.attention.out, block.feed_forward.down)
    linear = block.attention.out if branch == "attention" else block.feed_forward.down
    with torch.no_grad():
        linear.bias.fill_(4.0)
        y = block(torch.zeros(5, 10, 40))  # each token is 0 or 5 before it is normed
        quiet = block.eval()(torch.zeros(5, 10, 40))
    low = y < 0
    share = low.float().mean().item()
    assert 0.1 < share < 0.3, (
        f"dropout=0.2 dropped {share:.0%} of the {branch} branch's output: it is dropped before it is added"
    )
    assert quiet.abs().max() < 1e-3, "dropout is still on in evaluation mode"
