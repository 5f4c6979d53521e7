"""The core's block: two branches around parts that torch lends, so that none of yours needs to be written; then all yours.

Oracles: nn.TransformerEncoderLayer in float64, and laws.
"""

import oracles
import pytest
import torch
from oracles import (
    RefuseLibrary,
    block_by_torch,
    block_mistakes,
    copy_into,
    encoder_layer,
    gradients,
    normal,
    randomised,
    silence,
    torch_masks,
    translated,
    without_keys,
)

import transformer_block as tb
from shared.testing.checks import assert_close, expect_error, unchanged

PARTS = ("LayerNorm", "FeedForward", "SelfAttention")


@pytest.fixture
def lent(monkeypatch):
    """Put torch's parts in the place of the learner's."""
    for part in PARTS:
        monkeypatch.setattr(tb, part, getattr(oracles, part))


@pytest.mark.grades("TransformerBlock")
@pytest.mark.usefixtures("lent")
@pytest.mark.parametrize("d_ff", [None, 7])
def test_block_parameters(d_ff):
    """Names and shapes of all parameters, as the docstrings list them."""
    block = tb.TransformerBlock(12, 3, d_ff=d_ff)
    d_ff = d_ff or 48
    linear = {
        "attention.qkv": (36, 12),
        "attention.out": (12, 12),
        "feed_forward.up": (d_ff, 12),
        "feed_forward.down": (12, d_ff),
    }
    expected = {f"{name}.weight": shape for name, shape in linear.items()}
    expected |= {f"{name}.bias": shape[:1] for name, shape in linear.items()}
    for name in ("attention_norm", "feed_forward_norm"):
        expected |= {f"{name}.weight": (12,), f"{name}.bias": (12,)}
    got = {name: tuple(p.shape) for name, p in block.named_parameters()}
    missing, extra = sorted(expected.keys() - got.keys()), sorted(got.keys() - expected.keys())
    assert not missing, f"parameters are missing: {missing}"
    assert not extra, f"parameters that should not be there: {extra}"
    wrong = {name: got[name] for name in got if got[name] != expected[name]}
    assert not wrong, f"wrong shapes {wrong}, expected { ({name: expected[name] for name in wrong}) }"


@pytest.mark.grades("TransformerBlock")
@pytest.mark.usefixtures("lent")
def test_block_options():
    """What the parts refuse the block refuses: the options reach them."""
    with expect_error(ValueError, otherwise="activation='tanhh' is accepted: is it handed on?"):
        tb.TransformerBlock(8, 2, activation="tanhh")
    with expect_error(ValueError, otherwise="3 heads for d_model=8 are accepted: is n_heads handed on?"):
        tb.TransformerBlock(8, 3)


@pytest.mark.grades("TransformerBlock")
@pytest.mark.usefixtures("lent")
def test_residual_only(generator):
    """Both branches silenced: x itself is left, for pre-norm never touches it."""
    x = 3 * normal(2, 5, 8, generator=generator) + 1
    block = randomised(tb.TransformerBlock(8, 2), generator)
    silence(block.attention.out, block.feed_forward.down)
    first, second = block.attention_norm, block.feed_forward_norm
    mistakes = {
        "the residual connection is missing: each branch is added to its input": 0 * x,
        "post-norm where pre-norm is asked, or the residual is taken from the normed input: "
        "add the branch to x itself": lambda: second(first(x)),
        "x is normed on its way past the branches": lambda: first(x),
        "x is normed on its way past the second branch": lambda: second(x),
        "x is added twice": 2 * x,
        "x is added twice in each branch": 4 * x,
    }
    with torch.no_grad(), unchanged(x):
        assert_close(block(x), x, rtol=1e-12, what="block whose branches add nothing", mistakes=mistakes)


@pytest.mark.grades("TransformerBlock")
@pytest.mark.usefixtures("lent")
def test_batch_does_not_leak(generator):
    """A sequence alone gives what it gives in a batch: in training too, which is what batch norm does not."""
    block = randomised(tb.TransformerBlock(8, 2), generator)
    x = normal(4, 5, 8, generator=generator)
    with torch.no_grad(), unchanged(x):
        together, alone = block(x), torch.cat([block(x[i : i + 1]) for i in range(4)])
    hint = "the batch leaks: a sequence alone gives other numbers than the same sequence in a batch"
    assert_close(together, alone, rtol=1e-10, what="block of a batch", hint=hint)


def compare_with_encoder_layer(generator, *, mask="none", activation="gelu", dtype=torch.float64, rtol=1e-10):
    """Output and all gradients against nn.TransformerEncoderLayer."""
    B, T, D, H, d_ff = 4, 7, 12, 3, 20
    options = {"norm_first": True, "activation": activation}
    layer = encoder_layer(D, H, d_ff, generator, dtype=dtype, **options)
    causal, ours, theirs = torch_masks(mask, B, T, H)
    given = {"activation": activation} if activation != "gelu" else {}  # gelu, and not causal, by default
    given |= {"causal": True} if causal else {}
    block = tb.TransformerBlock(D, H, d_ff=d_ff, **given).to(dtype)
    copy_into(block, layer)
    x = (2 * normal(B, T, D, generator=generator) + 0.5).to(dtype).requires_grad_()
    cotangent = normal(B, T, D, generator=generator, dtype=dtype)
    y, expected = block(x, mask=ours), layer(x, src_mask=theirs)
    mistakes = block_mistakes(block, H, x, activation=activation, mask=ours, causal=causal)
    case = f"block ({activation}, mask: {mask})"
    assert_close(y, expected, rtol=rtol, what=case, mistakes=mistakes)
    names = [name for name, _ in block.named_parameters()]
    parameters = dict(layer.named_parameters())
    got = gradients(y, (x, *block.parameters()), cotangent)
    wanted = gradients(expected, (x, *(parameters[translated(name)] for name in names)), cotangent)
    for name, mine, other in zip(("x", *names), got, wanted, strict=True):
        mine, other = without_keys(name, mine), without_keys(name, other)
        assert_close(mine, other, rtol=rtol, what=f"gradient by {name}", hint=f"backward of the {case}")


@pytest.mark.grades("TransformerBlock")
@pytest.mark.usefixtures("lent")
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("mask", ["none", "causal", "padding", "causal and padding"])
def test_block_equals_torch(mask, activation, generator):
    """Both activations, causal, a mask, both; forward and backward."""
    compare_with_encoder_layer(generator, mask=mask, activation=activation)


@pytest.mark.grades("TransformerBlock")
@pytest.mark.usefixtures("lent")
def test_dropout_is_handed_on():
    """The same probability for the hidden layer and for the attention weights."""
    block = tb.TransformerBlock(12, 3, dropout=0.25)
    for name in ("attention", "feed_forward"):
        got = getattr(block, name).dropout_rate  # the lent parts remember it
        assert got == 0.25, f"dropout is not handed to {name}: it got {got}, not 0.25"


@pytest.mark.grades("TransformerBlock")
@pytest.mark.usefixtures("lent")
@pytest.mark.parametrize("branch", ["attention", "feed-forward"])
def test_dropout_of_branches(branch):
    """Each branch's output is dropped entry by entry before it is added; x itself never is."""
    torch.manual_seed(0)
    block = tb.TransformerBlock(40, 2, dropout=0.2)
    silence(block.attention.out, block.feed_forward.down)
    linear = block.attention.out if branch == "attention" else block.feed_forward.down
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
    hint = "dropout is still on in evaluation mode"
    assert_close(block.eval()(x), x + 4, rtol=1e-5, what="evaluation", hint=hint)


@pytest.mark.grades("LayerNorm", "FeedForward", "SelfAttention", "TransformerBlock")
@pytest.mark.parametrize("mask", ["none", "causal and padding"])
def test_whole_block(mask, generator):
    """All parts yours, against nn.TransformerEncoderLayer, forward and backward; in float32 too."""
    compare_with_encoder_layer(generator, mask=mask)
    compare_with_encoder_layer(generator, mask=mask, dtype=torch.float32, rtol=1e-5)
    block = randomised(tb.TransformerBlock(12, 3, causal=True), generator)
    x = normal(2, 5, 12, generator=generator)
    with torch.no_grad():
        expected = block_by_torch(block, 3, x, causal=True)
        for mode in (True, False):
            with RefuseLibrary():
                y = block.train(mode)(x)
            assert_close(y, expected, rtol=1e-10, what="block")
