"""The core's parts: layer norm, the feed-forward network, sinusoids. The attention and the block have files of their own.

Oracles: values worked by hand, torch's own norm and activations in float64, complex exponentials.
"""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oracles import RefuseLibrary, gradients, normal, randomised

import transformer_block as tb
from shared.testing.checks import assert_close, assert_imports_only, expect_error, unchanged


@pytest.mark.grades
def test_imports():
    """The deliverable uses torch, nothing else."""
    assert_imports_only(tb, {"torch"})


# --- layer norm -----------------------------------------------------------------------------------------------


@pytest.mark.grades("LayerNorm")
def test_layer_norm_by_hand():
    """Mean 3, variance 3.5, eps 0.5: divide by 2; then scale and shift."""
    norm = tb.LayerNorm(4, eps=0.5).double()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
        norm.bias.copy_(torch.tensor([10.0, 20.0, 30.0, 40.0]))
    w, b = np.arange(1, 5.0), 10 * np.arange(1, 5.0)
    x = np.array([[1.0, 2.0, 3.0, 6.0]])
    c = x - 3
    root = math.sqrt(12.5 + 0.5)
    assert_close(
        norm(torch.from_numpy(x)),
        torch.tensor([[9.0, 19.0, 30.0, 46.0]], dtype=torch.float64),
        what="layer norm",
        mistakes={
            "the variance divides by d_model - 1: layer norm divides by d_model": (
                c / math.sqrt(14 / 3 + 0.5) * w + b
            ),
            "eps is outside the root: it belongs to the variance": c / (math.sqrt(3.5) + 0.5) * w + b,
            "eps is not used": c / math.sqrt(3.5) * w + b,
            "divided by the variance, not by its root": c / 4 * w + b,
            "the mean is not subtracted": x / 2 * w + b,
            "the sum of squares is used, not their mean": c / math.sqrt(14 + 0.5) * w + b,
            "divided by the root mean square of x, not by the standard deviation": c / root * w + b,
            "weight and bias are not used": c / 2,
            "the bias is not added": c / 2 * w,
            "the norm returns its input": x,
            "the norm returns zeros": 0 * x,
        },
    )


@pytest.mark.grades("LayerNorm")
def test_layer_norm_parameters():
    """Weight starts at one, bias at zero."""
    parameters = dict(tb.LayerNorm(5).named_parameters())
    assert all(p.requires_grad for p in parameters.values()), (
        "weight and bias must be trained: requires_grad is off"
    )
    names = {name: p.detach() for name, p in parameters.items()}
    assert set(names) == {"weight", "bias"}, f"the parameters are weight and bias, got {sorted(names)}"
    assert torch.equal(names["weight"], torch.ones(5)), f"weight must start at one, got {names['weight']}"
    assert torch.equal(names["bias"], torch.zeros(5)), f"bias must start at zero, got {names['bias']}"


@pytest.mark.grades("LayerNorm")
@pytest.mark.parametrize("shape", [(5,), (4, 5), (5, 5), (2, 3, 5), (2, 4, 3, 5)], ids=str)
def test_layer_norm_equals_torch(shape, generator):
    """Output and all gradients, for any leading axes: every token on its own, the large beside the small."""
    norm = randomised(tb.LayerNorm(5), generator)
    with torch.no_grad():
        norm.weight.add_(1.0)
    size = 10 ** (2 * normal(*shape[:-1], 1, generator=generator).clamp(-1, 1))  # 0.01 to 100
    x = (size * (3 * normal(*shape, generator=generator) + 2)).requires_grad_()
    cotangent = normal(*shape, generator=generator)
    values, w, b = x.detach().numpy(), norm.weight.detach().numpy(), norm.bias.detach().numpy()

    def along(*axes):
        centred = values - values.mean(axes, keepdims=True)
        return centred / np.sqrt((centred**2).mean(axes, keepdims=True) + 1e-5) * w + b

    mistakes = {}
    if len(shape) > 1:
        every = tuple(range(len(shape)))
        mistakes = {
            "normalised over the batch, not over the features: this is batch norm": lambda: along(0),
            "normalised over the sequence: the axis is the last one": lambda: along(-2),
            "normalised over batch and sequence: the axis is the last one": lambda: along(*every[:-1]),
            "normalised over everything at once: each token has a mean of its own": lambda: along(*every),
            "normalised over the sequence and the features: each token has a mean of its own": lambda: along(
                -2, -1
            ),
        }
    inputs = (x, *norm.parameters())
    y, expected = norm(x), F.layer_norm(x, (5,), norm.weight, norm.bias, 1e-5)
    assert_close(y, expected, rtol=1e-11, what=f"layer norm of {shape}", mistakes=mistakes)
    got, wanted = gradients(y, inputs, cotangent), gradients(expected, inputs, cotangent)
    for name, mine, theirs in zip(("x", "weight", "bias"), got, wanted, strict=True):
        hint = "mean and root depend on x too: the gradient flows through them"
        assert_close(mine, theirs, rtol=1e-10, what=f"gradient by {name}", hint=hint)


@pytest.mark.grades("LayerNorm")
def test_layer_norm_of_nearly_equal_features():
    """Values near zero show that eps is 1e-5 by default; equal features give zeros, and a finite gradient."""
    x = torch.tensor([[1e-3, -2e-3, 3e-3, -2e-3], [2.0, 2.0, 2.0, 2.0]], dtype=torch.float64)
    x.requires_grad_()
    norm = tb.LayerNorm(4).double()
    y = norm(x)
    expected = torch.cat((x[:1] / (x[:1].square().mean() + 1e-5).sqrt(), 0 * x[1:]))
    hint = "the default eps is 1e-5, inside the root"
    assert_close(y, expected, rtol=1e-9, what="layer norm", hint=hint)
    (gradient,) = gradients(y, (x,), torch.tensor([[1.0, -2.0, 4.0, 3.0]], dtype=torch.float64).expand(2, 4))
    assert gradient.isfinite().all(), f"the gradient of equal features must be finite, got {gradient}"


@pytest.mark.grades("LayerNorm")
def test_layer_norm_of_a_large_mean(generator):
    """float32 features around 10 000: mean(x²) - mean(x)² would lose everything."""
    x = (10_000 + normal(4, 64, generator=generator)).float()
    expected = F.layer_norm(x.double(), (64,), eps=1e-5).float()
    hint = "the variance is lost to rounding: subtract the mean first, then square"
    assert_close(tb.LayerNorm(64)(x), expected, rtol=0.0, atol=3e-3, what="layer norm", hint=hint)


@pytest.mark.grades("LayerNorm")
def test_layer_norm_contract(generator):
    """A wrong last axis is refused, views work, x is left alone, and the library is not called."""
    norm = tb.LayerNorm(6)
    base = normal(12, 4, generator=generator, dtype=torch.float32)
    x = base[::2].T
    expected = F.layer_norm(x.double(), (6,)).float()
    for mode in (True, False):
        with unchanged(base), RefuseLibrary():
            y = norm.train(mode)(x)
        assert_close(y, expected, rtol=1e-5, what="layer norm of a transposed view")
    for shape in [(2, 5), (6, 1), (2, 7)]:
        with expect_error(ValueError, otherwise=f"x {shape} is accepted by a norm of 6 features"):
            norm(torch.ones(shape))


# --- the feed-forward network ---------------------------------------------------------------------------------


def set_linear(layer, weight, bias):
    """Write numbers into a learner's linear layer."""
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        layer.bias.copy_(torch.tensor(bias))


@pytest.mark.grades("FeedForward")
def test_feed_forward_by_hand():
    """Two features, three hidden ones, one of them negative before ReLU."""
    network = tb.FeedForward(2, 3, activation="relu").double()
    set_linear(network.up, [[1.0, 2.0], [-3.0, 1.0], [2.0, 0.0]], [1.0, -1.0, 0.5])
    set_linear(network.down, [[1.0, 5.0, 10.0], [2.0, 7.0, -1.0]], [100.0, 1000.0])
    # x = (1, 2): hidden (6, -2, 2.5), after ReLU (6, 0, 2.5); out (6 + 25 + 100, 12 - 2.5 + 1000)
    mistakes = {
        "the activation is missing": [[121.0, 995.5]],
        "the bias of `down` is missing": [[31.0, 9.5]],
        "the bias of `up` is missing": [[140.0, 1006.0]],
        "an activation follows `down`": [[131.0, 1009.5]],
        "the input is added: the residual connection belongs to the block": [[132.0, 1011.5]],
    }
    expected = torch.tensor([[131.0, 1009.5]], dtype=torch.float64)
    x = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    with unchanged(x):
        y = network(x)
    assert_close(y, expected, what="feed-forward", mistakes=mistakes)
    set_linear(network.down, [[-1.0, 5.0, 1.0], [2.0, 7.0, -1.0]], [-100.0, 1000.0])
    # -10·x: hidden (-49, 9, -19.5), after ReLU (0, 9, 0)
    expected = torch.tensor([[-55.0, 1063.0]], dtype=torch.float64)
    mistakes = {"an activation follows `down`": [[0.0, 1063.0]]}
    assert_close(network(-10 * x), expected, what="feed-forward of -10x", mistakes=mistakes)


@pytest.mark.grades("FeedForward")
@pytest.mark.parametrize(("options", "d_ff"), [({}, 48), ({"d_ff": 7, "activation": "relu"}, 7)], ids=str)
def test_feed_forward_parameters(options, d_ff):
    """Linear layers up and down; d_ff is 4·d_model by default."""
    network = tb.FeedForward(12, **options)
    expected = {"up.weight": (d_ff, 12), "up.bias": (d_ff,), "down.weight": (12, d_ff), "down.bias": (12,)}
    got = {name: tuple(p.shape) for name, p in network.named_parameters()}
    assert got == expected, f"parameters of FeedForward(12, {options}):\n{got}, expected\n{expected}"


@pytest.mark.grades("FeedForward")
@pytest.mark.parametrize("activation", ["relu", "gelu", "gelu by default"])
def test_feed_forward_equals_torch(activation, generator):
    """Both activations, forward and backward, in float64; the two kinds of gelu differ in the third digit."""
    options = {} if activation == "gelu by default" else {"activation": activation}
    activation = activation.split()[0]
    network = randomised(tb.FeedForward(5, 7, **options), generator)
    x = (2 * normal(2, 3, 5, generator=generator)).requires_grad_()
    cotangent = normal(2, 3, 5, generator=generator)

    def compute(function):
        h = function(F.linear(x, network.up.weight, network.up.bias))
        return F.linear(h, network.down.weight, network.down.bias)

    kinds = {
        "relu": F.relu,
        "gelu": F.gelu,
        "gelu_tanh": lambda h: F.gelu(h, approximate="tanh"),
        "silu": F.silu,
    }
    mistakes = {
        f"activation={activation!r} is ignored: this is {name}": lambda f=function: compute(f)
        for name, function in kinds.items()
        if name != activation
    }
    y, expected = network(x), compute(kinds[activation])
    assert_close(y, expected, rtol=1e-11, what=f"feed-forward, {activation}", mistakes=mistakes)
    inputs = (x, *network.parameters())
    got, wanted = gradients(y, inputs, cotangent), gradients(expected, inputs, cotangent)
    for mine, theirs in zip(got, wanted, strict=True):
        assert_close(mine, theirs, rtol=1e-10, what="gradient of the feed-forward network")


def dropped_entries(kept, axes):
    """Check that dropout is drawn for every entry, a quarter of them."""
    for axis, what in enumerate(axes):
        alike = (kept == kept.roll(1, axis)).float().mean().item()  # 0.75² + 0.25² of them by chance
        assert alike < 0.75, f"all {what} drop alike: dropout is drawn for every entry"
    share = 1 - kept.float().mean().item()
    assert 0.18 < share < 0.32, f"dropout=0.25 dropped {share:.0%} of {kept.numel()} entries"


@pytest.mark.grades("FeedForward")
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_feed_forward_dropout(activation):
    """In training hidden entries are zero or scaled up; in evaluation nothing happens."""
    torch.manual_seed(0)
    network = tb.FeedForward(50, 50, activation=activation, dropout=0.25)
    for layer in (network.up, network.down):
        set_linear(layer, torch.eye(50).tolist(), [0.0] * 50)
    with torch.no_grad():
        network.down.bias.fill_(7.0)  # comes after dropout: it is never dropped
    x = 0.5 + torch.arange(2000.0).view(40, 50) / 1000
    hidden = {"relu": F.relu, "gelu": F.gelu}[activation](x)
    y = network(x)
    assert (y > 6.9).all(), (
        "what `down` returns is dropped: dropout belongs between the activation and `down`"
    )
    ratio = (y - 7) / hidden
    kept = ratio > 0.5
    assert not kept.all(), "dropout does nothing in training"
    assert torch.allclose(ratio[kept], torch.tensor(4 / 3), atol=1e-2), (
        "dropout follows the activation, once, and divides what it keeps by 1 - p, so that the expectation stays"
    )
    assert torch.allclose(ratio[~kept], torch.tensor(0.0), atol=1e-2), "what dropout drops must be 0"
    dropped_entries(kept, ("tokens", "features"))
    hint = "dropout is still on in evaluation mode"
    assert_close(network.eval()(x), hidden + 7, what="feed-forward in evaluation", hint=hint)


@pytest.mark.grades("FeedForward")
@pytest.mark.parametrize("activation", ["tanhh", "", "GELU", "gelu_"])
def test_feed_forward_refuses(activation):
    """An unknown activation is refused at once."""
    with expect_error(ValueError, otherwise=f"activation={activation!r} is accepted"):
        tb.FeedForward(4, activation=activation)


# --- positions ------------------------------------------------------------------------------------------------


@pytest.mark.grades("sinusoidal_encoding")
def test_sinusoidal_by_hand():
    """Four features: two frequencies, 1 and 1/100."""
    t = np.arange(3.0)
    right = np.stack([np.sin(t), np.cos(t), np.sin(t / 100), np.cos(t / 100)], axis=-1)
    assert_close(
        tb.sinusoidal_encoding(3, 4),
        torch.from_numpy(right),
        dtype=torch.float32,
        atol=2e-7,
        what="sinusoidal encoding",
        mistakes={
            "sine and cosine are swapped: even features are sines": right[:, [1, 0, 3, 2]],
            "sines and cosines are in two halves: they alternate": right[:, [0, 2, 1, 3]],
            "positions start at 1: the first one is 0": lambda: np.stack(
                [np.sin(t + 1), np.cos(t + 1), np.sin((t + 1) / 100), np.cos((t + 1) / 100)], axis=-1
            ),
            "the exponent is i / d_model, not 2i / d_model": np.stack(
                [np.sin(t), np.cos(t), np.sin(t / 10), np.cos(t / 10)], axis=-1
            ),
            "every feature has an exponent of its own: sine and cosine share one": np.stack(
                [np.sin(t), np.cos(t / 10), np.sin(t / 100), np.cos(t / 1000)], axis=-1
            ),
            "the last frequency is 1/10000: divide 2i by d_model, not by d_model - 2": np.stack(
                [np.sin(t), np.cos(t), np.sin(t / 1e4), np.cos(t / 1e4)], axis=-1
            ),
        },
    )


@pytest.mark.grades("sinusoidal_encoding")
@pytest.mark.parametrize(("n_positions", "d_model"), [(1, 2), (7, 6), (6, 6), (70_000, 10)], ids=str)
def test_sinusoidal_equals_complex_exponential(n_positions, d_model):
    """All positions and frequencies, against exp(i·t·w) in float64: late positions are as exact as early ones."""
    i = np.arange(d_model // 2)
    z = np.exp(1j * np.arange(n_positions)[:, None] * 10000.0 ** (-2 * i / d_model))
    expected = torch.from_numpy(np.stack([z.imag, z.real], axis=-1).reshape(n_positions, d_model))
    hint = "angles in float32 are wrong by 1e-3 at position 10 000: compute them in float64"
    got = tb.sinusoidal_encoding(n_positions, d_model)
    assert_close(got, expected, dtype=torch.float32, atol=2e-7, what="sinusoidal encoding", hint=hint)


@pytest.mark.grades("sinusoidal_encoding")
def test_sinusoidal_odd():
    """Each frequency takes two features."""
    for d_model in (7, 1):
        with expect_error(ValueError, otherwise=f"an odd d_model is accepted: {d_model}"):
            tb.sinusoidal_encoding(3, d_model)
