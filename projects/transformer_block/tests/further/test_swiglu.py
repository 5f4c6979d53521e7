"""swiglu.py: the gate, GPT-2's gelu, no bias. It meets the core's tests of the feed-forward network too.

Oracles: values worked by hand, torch's own activations in float64.
"""

import math

import pytest
import test_parts
import torch
import torch.nn.functional as F
from oracles import feed_forward_by_torch, gradients, normal, randomised

import swiglu
from shared.testing.checks import assert_close, assert_imports_only, expect_error

pytestmark = pytest.mark.module("swiglu")
globals().update({k: v for k, v in vars(test_parts).items() if k.startswith("test_feed_forward")})


@pytest.fixture(autouse=True)
def in_the_place_of_the_core(monkeypatch):
    """Give the core's tests this module's network."""
    monkeypatch.setattr(test_parts.tb, "FeedForward", swiglu.FeedForward)


@pytest.mark.grades
def test_swiglu_imports():
    """The module uses torch, nothing else."""
    assert_imports_only(swiglu, {"torch"})


def set_linear(layer, weight, bias):
    """Write numbers into a learner's linear layer."""
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        layer.bias.copy_(torch.tensor(bias))


@pytest.mark.grades("FeedForward")
def test_swiglu_by_hand():
    """The gate goes through silu(z) = z·sigmoid(z), `up` does not."""
    network = swiglu.FeedForward(1, 1, activation="swiglu").double()
    for name, value in (("gate", 2.0), ("up", 3.0), ("down", 1.0)):
        set_linear(getattr(network, name), [[value]], [0.0])
    silu2, silu3 = 2 / (1 + math.exp(-2)), 3 / (1 + math.exp(-3))
    mistakes = {
        "gate and up are swapped: silu belongs to the gate": [[2 * silu3]],
        "the gate goes through a sigmoid, not through silu": [[3 / (1 + math.exp(-2))]],
        "both go through silu": [[silu2 * silu3]],
        "the gate is not used": [[silu3]],
        "the gate is added, not multiplied": [[silu2 + 3]],
        "the gate goes through gelu: that is GEGLU": [[3 * 2 * 0.5 * (1 + math.erf(2 / math.sqrt(2)))]],
    }
    got = network(torch.ones(1, 1, dtype=torch.float64))
    assert_close(got, torch.tensor([[3 * silu2]], dtype=torch.float64), what="swiglu", mistakes=mistakes)


@pytest.mark.grades("FeedForward")
@pytest.mark.parametrize(
    ("options", "shapes"),
    [
        ({}, {"up": (48, 12), "down": (12, 48)}),
        ({"d_ff": 7, "activation": "relu"}, {"up": (7, 12), "down": (12, 7)}),
        ({"activation": "swiglu"}, {"up": (32, 12), "gate": (32, 12), "down": (12, 32)}),
        ({"activation": "swiglu", "d_ff": 10}, {"up": (10, 12), "gate": (10, 12), "down": (12, 10)}),
    ],
    ids=str,
)
@pytest.mark.parametrize("bias", [True, False])
def test_all_parameters(options, shapes, bias):
    """Linear layers up, down and, for swiglu, gate; d_ff is 4·d_model, or 8·d_model // 3 with three matrices."""
    odd = swiglu.FeedForward(7, activation="swiglu").up.out_features
    assert odd == 18, f"d_ff of swiglu is 8·d_model // 3: 18 for d_model = 7, got {odd}"
    network = swiglu.FeedForward(12, **options, bias=bias)
    expected = {f"{name}.weight": shape for name, shape in shapes.items()}
    if bias:
        expected |= {f"{name}.bias": shape[:1] for name, shape in shapes.items()}
    got = {name: tuple(p.shape) for name, p in network.named_parameters()}
    assert got == expected, (
        f"parameters of FeedForward(12, {options}, bias={bias}):\n{got}, expected\n{expected}"
    )


@pytest.mark.grades("FeedForward")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", ["relu", "gelu", "gelu_tanh", "swiglu"])
def test_every_activation(activation, bias, generator):
    """Every activation, with and without biases, forward and backward, in float64."""
    network = randomised(swiglu.FeedForward(5, 7, activation=activation, bias=bias), generator)
    x = (2 * normal(2, 3, 5, generator=generator)).requires_grad_()
    cotangent = normal(2, 3, 5, generator=generator)
    mistakes = {
        f"activation={activation!r} is ignored: this is {name}": lambda name=name: feed_forward_by_torch(
            network, name, x
        )
        for name in ("relu", "gelu", "gelu_tanh")
        if name != activation
    }
    y, expected = network(x), feed_forward_by_torch(network, activation, x)
    assert_close(y, expected, rtol=1e-11, what=f"feed-forward, {activation}", mistakes=mistakes)
    inputs = (x, *network.parameters())
    got, wanted = gradients(y, inputs, cotangent), gradients(expected, inputs, cotangent)
    for mine, theirs in zip(got, wanted, strict=True):
        assert_close(mine, theirs, rtol=1e-10, what="gradient of the feed-forward network")


@pytest.mark.grades("FeedForward")
def test_swiglu_dropout():
    """The gated network drops hidden entries too, after the product."""
    torch.manual_seed(0)
    network = swiglu.FeedForward(50, 50, activation="swiglu", dropout=0.25)
    for layer in (network.up, network.gate, network.down):
        set_linear(layer, torch.eye(50).tolist(), [0.0] * 50)
    x = 1 + torch.arange(2000.0).view(40, 50) / 100
    ratio = network(x) / (x * F.silu(x))
    kept = ratio > 0.5
    assert not kept.all(), "dropout does nothing in training with swiglu"
    assert torch.allclose(ratio[kept], torch.tensor(4 / 3), atol=1e-3), "dropout follows the product, once"
    assert 0.18 < 1 - kept.float().mean().item() < 0.32, "dropout=0.25 drops a quarter"


@pytest.mark.grades("FeedForward")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_feed_forward_of_half_types(dtype, generator):
    """The dtype comes back."""
    network = randomised(swiglu.FeedForward(6, activation="swiglu"), generator, dtype)
    x = normal(4, 6, generator=generator).to(dtype)
    with torch.no_grad():
        y, expected = network(x), feed_forward_by_torch(network.double(), "swiglu", x.double())
    eps = torch.finfo(dtype).eps  # half a dozen roundings
    assert_close(y, expected, dtype=dtype, rtol=4 * eps, atol=4 * eps, what=f"feed-forward in {dtype}")


@pytest.mark.grades("FeedForward")
def test_unknown_activation_is_named():
    """An unknown activation is named."""
    with expect_error(ValueError, "tanhh", otherwise="an unknown activation is accepted"):
        swiglu.FeedForward(4, activation="tanhh")
