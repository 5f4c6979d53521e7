"""The core, `SingleHeadAttention`: its parameters, then its forward pass.

Oracles: torch's nn.MultiheadAttention with one head, its scaled_dot_product_attention in float64.
"""

import math
from itertools import pairwise

import pytest
import torch
from oracles import LIBRARY, double, gradients, sdpa
from torch import nn
from torch.nn import functional as F

import attention
from shared.testing.checks import assert_close, refuse_calls

INF = math.inf


def expected_output(head, x, context=None, **options):
    """Return the output from the module's parameters, by F.linear and torch's attention in float64."""
    context = x if context is None else context
    projected = [
        F.linear(source.double(), layer.weight.double(), None if layer.bias is None else layer.bias.double())
        for source, layer in ((x, head.query), (context, head.key), (context, head.value))
    ]
    return sdpa(*projected, **options)


def random_head(generator, *args, dtype=torch.float64, **options):
    """Return a module in which every parameter, biases too, is random."""
    head = attention.SingleHeadAttention(*args, **options).to(dtype)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=dtype))
    return head


@pytest.mark.grades("SingleHeadAttention")
@pytest.mark.parametrize("d_head", [None, 3])
@pytest.mark.parametrize("bias", [False, True])
def test_parameters(d_head, bias):
    """Three linear layers named query, key and value, (d_model, d_head), with or without a bias."""
    head = attention.SingleHeadAttention(5, d_head, bias=bias)
    width = 5 if d_head is None else d_head
    kinds = ("weight", "bias") if bias else ("weight",)
    expected = {f"{name}.{kind}" for name in ("query", "key", "value") for kind in kinds}
    found = {name: tuple(parameter.shape) for name, parameter in head.named_parameters()}
    assert set(found) == expected, f"the parameters are {sorted(found)}, expected {sorted(expected)}"
    for name, shape in found.items():
        right = (width, 5) if name.endswith("weight") else (width,)
        assert shape == right, f"{name} has shape {shape}, expected {right}"
    weights = [head.query.weight, head.key.weight, head.value.weight]
    assert not any(torch.equal(a, b) for a, b in pairwise(weights)), "the projections are the same"
    assert attention.SingleHeadAttention(5).query.bias is None, "bias is on by default"


@pytest.mark.grades("SingleHeadAttention", "SingleHeadAttention.forward")
@pytest.mark.parametrize("leading", [(), (2,), (2, 3)], ids=str)
@pytest.mark.parametrize("bias", [False, True])
def test_self_attention(bias, leading, generator):
    """Without a context, x attends to itself."""
    head = random_head(generator, 5, 3, bias=bias)
    x = torch.randn(*leading, 7, 5, generator=generator, dtype=torch.float64)
    query, key, value = (layer(x) for layer in (head.query, head.key, head.value))
    mistakes = {
        "query and key have changed places": lambda: sdpa(key, query, value),
        "the values are x itself: the value projection is missing": lambda: sdpa(query, key, x),
        "the scale is 1/sqrt(d_model): the scores have the width d_head": lambda: sdpa(
            query, key, value, scale=5**-0.5
        ),
        "x is added to the output: the residual connection belongs to the block around this": lambda: (
            sdpa(query, key, value) + x
        ),
    }
    assert_close(head(x), expected_output(head, x), n=20, mistakes=mistakes, what="output")


@pytest.mark.grades("SingleHeadAttention.forward")
@pytest.mark.parametrize("causal", [False, True], ids=["", "causal"])
def test_equals_multihead_attention_with_one_head(causal, generator):
    """torch's nn.MultiheadAttention with one head and an identity at its end gives the same."""
    head = random_head(generator, 6, bias=True, causal=causal)
    twin = nn.MultiheadAttention(6, 1, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        twin.in_proj_weight.copy_(torch.cat([p.weight for p in (head.query, head.key, head.value)]))
        twin.in_proj_bias.copy_(torch.cat([p.bias for p in (head.query, head.key, head.value)]))
        twin.out_proj.weight.copy_(torch.eye(6))
        twin.out_proj.bias.zero_()
    x = torch.randn(2, 4, 6, generator=generator, dtype=torch.float64)
    forbidden = torch.ones(4, 4, dtype=torch.bool).triu(1) if causal else None
    expected, _ = twin(x, x, x, attn_mask=forbidden, need_weights=False)
    hint = "causal is ignored" if causal else None
    assert_close(head(x), expected, n=20, what="output", hint=hint)


@pytest.mark.grades("SingleHeadAttention.forward")
def test_cross_attention(generator):
    """With a context, x asks and the context answers."""
    head = random_head(generator, 5, 3)
    x = torch.randn(2, 4, 5, generator=generator, dtype=torch.float64)
    context = torch.randn(2, 7, 5, generator=generator, dtype=torch.float64)
    mistakes = {
        "the context is ignored": lambda: expected_output(head, x),
        "the queries come from the context": lambda: expected_output(head, context, x),
    }
    assert_close(head(x, context), expected_output(head, x, context), n=20, mistakes=mistakes)
    same = torch.randn(2, 4, 5, generator=generator, dtype=torch.float64)  # as long as x, and yet not x
    hint = "a context of the same shape as x is a context too"
    assert_close(head(x, same), expected_output(head, x, same), n=20, hint=hint)


@pytest.mark.grades("SingleHeadAttention.forward")
def test_leading_axes_broadcast(generator):
    """One context serves a whole batch, and a batch of contexts one x."""
    head = random_head(generator, 5, 3)
    x = torch.randn(2, 4, 5, generator=generator, dtype=torch.float64)
    context = torch.randn(2, 7, 5, generator=generator, dtype=torch.float64)
    hint = "leading axes of x and context must broadcast, as in torch.matmul"
    for asks, answers in ((x, context[0]), (x[0], context)):
        expected = expected_output(head, asks.expand(2, -1, -1), answers.expand(2, -1, -1))
        assert_close(head(asks, answers), expected, n=20, hint=hint)


@pytest.mark.grades("SingleHeadAttention.forward")
@pytest.mark.parametrize("causal", [False, True], ids=["", "causal"])
@pytest.mark.parametrize("kind", ["boolean", "float"])
def test_mask(kind, causal, generator):
    """A mask reaches the attention, together with causal."""
    head = random_head(generator, 5, 3, causal=causal)
    x = torch.randn(2, 4, 5, generator=generator, dtype=torch.float64)
    context = torch.randn(2, 7, 5, generator=generator, dtype=torch.float64)
    mask = torch.rand(2, 4, 7, generator=generator) > 0.4
    mask[..., 0] = True
    if kind == "float":
        mask = torch.randn(2, 4, 7, generator=generator, dtype=torch.float64).masked_fill(~mask, -INF)
    mistakes = {
        "the mask is ignored": lambda: expected_output(head, x, context, causal=causal),
        "causal is ignored": lambda: expected_output(head, x, context, mask=mask),
    }
    expected = expected_output(head, x, context, mask=mask, causal=causal)
    mistakes = mistakes if causal else {"the mask is ignored": mistakes["the mask is ignored"]}
    assert_close(head(x, context, mask=mask), expected, n=20, mistakes=mistakes)
    mask = mask[..., :4]  # and without a context
    expected = expected_output(head, x, mask=mask, causal=causal)
    assert_close(head(x, mask=mask), expected, n=20, hint="the mask is ignored in self-attention")
    hint = "no mask this time: is the one of an earlier call used again?"
    assert_close(head(x), expected_output(head, x, causal=causal), n=20, hint=hint)


@pytest.mark.grades("SingleHeadAttention", "SingleHeadAttention.forward")
def test_dropout_in_training_only(generator):
    """In training the weights are dropped and the rest rescaled; in evaluation nothing is dropped."""
    head = random_head(generator, 5, 3, dropout=0.25, dtype=torch.float32)
    with torch.no_grad():
        head.query.weight.mul_(0.1)  # soft weights: where one takes all, dropping it is dropping the output
    x = torch.randn(4, 6, 5, generator=generator) + 2.0  # values with a common part, so that the two differ
    plain = double(expected_output(head, x))
    # Training is a mode of the module; it has nothing to do with whether gradients are on.
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        runs = head(x.expand(2000, -1, -1, -1)).detach().double()
        head.eval()
        evaluated = head(x)
    assert_close(
        evaluated, plain, dtype=torch.float32, rtol=1e-5, what="output", hint="dropout in evaluation"
    )
    # Nor has evaluation to do with it.
    assert_close(
        head(x.requires_grad_()),
        plain,
        dtype=torch.float32,
        rtol=1e-5,
        what="output",
        hint="dropout in evaluation",
    )
    assert runs.std(dim=0).max() > 0, "dropout is ignored in training"
    away = ((runs.mean(dim=0) - plain) / (runs.std(dim=0) / math.sqrt(2000) + 1e-9)).abs()
    assert away.max() < 6, "the mean over many draws is not the output without dropout: rescale by 1/(1 - p)"
    # Dropout of weights changes the output by Σ (w v)² p/(1 - p), of the output itself by its square p/(1 - p).
    layers = [F.linear(x, layer.weight).double() for layer in (head.query, head.key, head.value)]
    weights = torch.softmax(layers[0] @ layers[1].mT / 3**0.5, dim=-1)
    variance = (weights**2 @ layers[2] ** 2) * 0.25 / 0.75
    ratio = (runs.var(dim=0).sum() / variance.sum()).item()
    assert 0.95 < ratio < 1.05, (
        f"the spread of the output is {ratio:.2f} times what dropout of the weights gives: what is dropped instead?"
    )


@pytest.mark.grades("SingleHeadAttention", "SingleHeadAttention.forward")
@pytest.mark.parametrize("beside", ["nothing", "causal", "mask", "context"])
def test_dropout_is_drawn_from_the_global_generator(beside, generator):
    """torch.manual_seed repeats it, another call draws anew; causal, a mask and a context do not switch it off."""
    head = random_head(generator, 5, 3, dropout=0.5, causal=beside == "causal")
    x = torch.randn(2, 6, 5, generator=generator, dtype=torch.float64)
    context = torch.randn(2, 7, 5, generator=generator, dtype=torch.float64) if beside == "context" else None
    mask = torch.ones(6, 6, dtype=torch.bool).tril(2) if beside == "mask" else None
    with torch.random.fork_rng():
        torch.manual_seed(3)
        first, second = head(x, context, mask=mask), head(x, context, mask=mask)
        torch.manual_seed(3)
        again = head(x, context, mask=mask)
    plain = expected_output(head, x, context, mask=mask, causal=beside == "causal")
    assert not torch.allclose(first, plain), f"dropout is ignored in training, beside {beside}"
    assert torch.equal(first, again), "torch.manual_seed does not repeat the module's dropout"
    assert not torch.equal(first, second), "two calls of the module drop the same weights"


@pytest.mark.grades("SingleHeadAttention", "SingleHeadAttention.forward")
def test_gradients_of_parameters(generator):
    """All parameters and both inputs get the gradients that torch's attention gives them."""
    head = random_head(generator, 5, 3, bias=True, causal=True)
    x = torch.randn(2, 4, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    context = torch.randn(2, 7, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    names = ["x", "context", *dict(head.named_parameters())]
    leaves = [x, context, *head.parameters()]
    expected = expected_output(head, x, context, causal=True)
    cotangent = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    right = gradients(expected, leaves, cotangent, names)
    found = gradients(head(x, context), leaves, cotangent, names)
    for name, mine, oracle in zip(names, found, right, strict=True):
        # Adding the same to every key shifts all scores of a row alike: no gradient, but for rounding.
        ok = "the bias of the keys has no effect" if name == "key.bias" else None
        assert_close(mine, oracle, rtol=1e-11, atol=1e-12, what=f"gradient of {name}", vacuous_ok=ok)


@pytest.mark.grades("SingleHeadAttention.forward")
def test_does_not_call_the_library(generator):
    """The module uses the attention of this file."""
    head = random_head(generator, 5, 3, causal=True, dropout=0.5, dtype=torch.float32)
    with refuse_calls(*LIBRARY):
        head(torch.randn(2, 4, 5, generator=generator)).sum().backward()
