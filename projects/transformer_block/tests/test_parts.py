"""The judge of the parts: norms, the feed-forward network, positions. test_transformer_block.py goes on with the block.

Oracles: values worked by hand, torch's own norms and activations in float64, complex multiplication for rotations, laws.
"""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from peers import gradients, normal, randomised

import transformer_block as tb
from shared.testing.checks import (
    assert_close,
    assert_imports_only,
    expect_error,
    refuse_calls,
    tolerance,
    unchanged,
)

LIBRARY = ("layer_norm", "rms_norm", "batch_norm", "group_norm", "instance_norm")


@pytest.mark.grades
def test_imports():
    """The deliverable uses torch, nothing else."""
    assert_imports_only(tb, {"torch"})


# --- norms ------------------------------------------------------------------------------------------------------------


def norm_with(kind, d_model, dtype=torch.float64, **options):
    """Build the learner's norm in this dtype."""
    return getattr(tb, kind)(d_model, **options).to(dtype)


@pytest.mark.grades("LayerNorm")
def test_layer_norm_by_hand():
    """Mean 3, variance 3.5, eps 0.5: divide by 2; then scale and shift."""
    norm = norm_with("LayerNorm", 4, eps=0.5)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
        norm.bias.copy_(torch.tensor([10.0, 20.0, 30.0, 40.0]))
    w, b = np.arange(1, 5.0), 10 * np.arange(1, 5.0)
    x = np.array([[1.0, 2.0, 3.0, 6.0]])
    centred = x - 3
    assert_close(
        norm(torch.from_numpy(x)),
        torch.tensor([[9.0, 19.0, 30.0, 46.0]], dtype=torch.float64),
        what="layer norm",
        mistakes={
            "the variance divides by d_model - 1: layer norm divides by d_model": centred
            / math.sqrt(14 / 3 + 0.5)
            * w
            + b,
            "eps is outside the root: it belongs to the variance": centred / (math.sqrt(3.5) + 0.5) * w + b,
            "eps is not used": centred / math.sqrt(3.5) * w + b,
            "divided by the variance, not by its root": centred / 4 * w + b,
            "the mean is not subtracted": x / 2 * w + b,
            "the sum of squares is used, not their mean": centred / math.sqrt(14 + 0.5) * w + b,
            "divided by the root mean square of x, not by the standard deviation": centred
            / math.sqrt(12.5 + 0.5)
            * w
            + b,
            "weight and bias are not used": centred / 2,
            "the bias is not added": centred / 2 * w,
            "the norm returns its input": x,
            "the norm returns zeros": 0 * x,
        },
    )


@pytest.mark.grades("LayerNorm")
def test_layer_norm_parameters():
    """Weight starts at one, bias at zero; bias=False leaves it out."""
    names = {name: p.detach() for name, p in tb.LayerNorm(5).named_parameters()}
    assert set(names) == {"weight", "bias"}, f"the parameters are weight and bias, got {sorted(names)}"
    assert torch.equal(names["weight"], torch.ones(5)), f"weight must start at one, got {names['weight']}"
    assert torch.equal(names["bias"], torch.zeros(5)), f"bias must start at zero, got {names['bias']}"
    without = tb.LayerNorm(5, bias=False)
    assert [name for name, _ in without.named_parameters()] == ["weight"], "bias=False keeps a bias"
    assert without.bias is None, "with bias=False the attribute bias is None"
    x = torch.tensor([[1.0, 2.0, 3.0, 6.0, 3.0]])
    assert_close(without(x), F.layer_norm(x, (5,)), rtol=1e-5, what="layer norm without bias")


@pytest.mark.grades("RMSNorm")
def test_rms_norm_by_hand():
    """Mean square 25, eps 11: divide by 6; then scale."""
    norm = norm_with("RMSNorm", 4, eps=11.0)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    x, w = np.array([[1.0, 7.0, -5.0, 5.0]]), np.arange(1, 5.0)
    centred = x - 2
    assert_close(
        norm(torch.from_numpy(x)),
        torch.tensor([[1 / 6, 14 / 6, -15 / 6, 20 / 6]], dtype=torch.float64),
        what="RMS norm",
        mistakes={
            "the mean is subtracted: RMS norm does not centre": centred / math.sqrt(21 + 11) * w,
            "the mean is subtracted before dividing: RMS norm does not centre": centred / 6 * w,
            "divided by the standard deviation: the mean square is that of x itself": x
            / math.sqrt(21 + 11)
            * w,
            "the sum of squares is used, not their mean": x / math.sqrt(100 + 11) * w,
            "eps is outside the root: it belongs to the mean square": x / (5 + 11) * w,
            "eps is not used": x / 5 * w,
            "the weight is not used": x / 6,
            "divided by the mean square, not by its root": x / 36 * w,
            "the norm returns its input": x,
        },
    )
    names = dict(tb.RMSNorm(5).named_parameters())
    assert list(names) == ["weight"], f"RMS norm has a weight and nothing else, got {list(names)}"
    assert torch.equal(names["weight"].detach(), torch.ones(5)), "weight must start at one"


def library_norm(kind, norm, x, eps):
    """Return what torch's own function makes of it."""
    if kind == "LayerNorm":
        return F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, eps)
    return F.rms_norm(x, x.shape[-1:], norm.weight, eps)


@pytest.mark.filterwarnings("ignore:.*degrees of freedom")  # torch.var_mean of an empty batch
@pytest.mark.parametrize("function", ["LayerNorm", "RMSNorm"])
@pytest.mark.parametrize("shape", [(5,), (4, 5), (2, 3, 5), (2, 4, 3, 5), (2, 0, 5)], ids=str)
def test_norm_equals_torch(function, shape, generator):
    """Output and all gradients, for any leading axes: every token on its own."""
    eps = 1e-5 if function == "LayerNorm" else 1e-6
    norm = randomised(norm_with(function, 5), generator)
    with torch.no_grad():
        norm.weight.add_(1.0)
    x = (3 * normal(*shape, generator=generator) + 2).requires_grad_()
    cotangent = normal(*shape, generator=generator)
    inputs = (x, *norm.parameters())
    y, expected = norm(x), library_norm(function, norm, x, eps)
    if x.numel() == 0:
        assert y.shape == x.shape, f"an empty batch {tuple(x.shape)} gave shape {tuple(y.shape)}"
        return
    tokens = x.detach().numpy().reshape(-1, 5)
    w = norm.weight.detach().numpy()

    def along(*axes):
        centred = x.detach().numpy()
        centre = centred.mean(axes, keepdims=True) if function == "LayerNorm" else 0
        z = (centred - centre) / np.sqrt(((centred - centre) ** 2).mean(axes, keepdims=True) + eps) * w
        return z + norm.bias.detach().numpy() if function == "LayerNorm" else z

    mistakes = {}
    if len(shape) > 1 and len(tokens) > 1:
        mistakes = {
            "normalised over the batch, not over the features: this is batch norm": lambda: along(0),
            "normalised over the sequence: the axis is the last one": lambda: along(-2),
            "normalised over batch and sequence: the axis is the last one": lambda: along(
                *range(len(shape) - 1)
            ),
            "normalised over everything at once: each token has a mean of its own": lambda: along(
                *range(len(shape))
            ),
            "normalised over the sequence and the features: each token has a mean of its own": lambda: along(
                -2, -1
            ),
        }
    assert_close(y, expected, rtol=1e-11, what=f"{function} of {tuple(shape)}", mistakes=mistakes)
    got = gradients(y, inputs, cotangent)
    for name, mine, theirs in zip(
        ("x", "weight", "bias"), got, gradients(expected, inputs, cotangent), strict=False
    ):
        hint = "mean and root depend on x too: the gradient flows through them"
        assert_close(mine, theirs, rtol=1e-10, what=f"gradient by {name}", hint=hint)


@pytest.mark.parametrize("function", ["LayerNorm", "RMSNorm"])
def test_norm_default_eps(function):
    """Values near zero show which eps is the default: 1e-5 for layer norm, 1e-6 for RMS norm."""
    x = torch.tensor([[1e-3, -2e-3, 3e-3, -2e-3]], dtype=torch.float64)  # of mean zero
    eps = {"LayerNorm": 1e-5, "RMSNorm": 1e-6}[function]
    expected = x / (x.square().mean() + eps).sqrt()
    hint = f"the default eps of {function} is {eps:g}, inside the root"
    assert_close(norm_with(function, 4)(x), expected, rtol=1e-9, what=function, hint=hint)


@pytest.mark.parametrize("function", ["LayerNorm", "RMSNorm"])
def test_norm_of_equal_features(function):
    """A token of equal features has variance zero: no NaN forward or backward."""
    x = torch.tensor([[2.0, 2.0, 2.0], [0.0, 0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    y = norm_with(function, 3)(x)
    expected = library_norm(function, norm_with(function, 3), x, 1e-5 if function == "LayerNorm" else 1e-6)
    reason = "zeros are the answer where there is nothing to normalise"
    assert_close(y, expected, rtol=1e-9, atol=1e-9, what=function, vacuous_ok=reason)
    (gradient,) = gradients(y, (x,), torch.tensor([[1.0, -2.0, 4.0], [3.0, 1.0, 1.0]], dtype=torch.float64))
    assert gradient.isfinite().all(), f"the gradient of equal features must be finite, got {gradient}"


@pytest.mark.parametrize("function", ["LayerNorm", "RMSNorm"])
def test_norm_of_nan(function, generator):
    """A NaN spoils its own token, and no other."""
    norm, x = norm_with(function, 4), normal(2, 3, 4, generator=generator)
    expected = norm(x).detach()
    x[1, 2, 0] = expected[1, 2] = float("nan")
    assert_close(
        norm(x), expected, rtol=1e-12, what=function, hint="a NaN is hidden, or spreads to other tokens"
    )


@pytest.mark.grades("LayerNorm")
def test_layer_norm_of_a_large_mean(generator):
    """float32 features around 10 000: mean(x²) - mean(x)² would lose everything."""
    x = (10_000 + normal(4, 64, generator=generator)).float()
    expected = F.layer_norm(x.double(), (64,), eps=1e-5).float()
    hint = "the variance is lost to rounding: subtract the mean first, then square"
    assert_close(tb.LayerNorm(64)(x), expected, rtol=0.0, atol=3e-3, what="layer norm", hint=hint)


@pytest.mark.parametrize("function", ["LayerNorm", "RMSNorm"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_norm_dtypes(function, dtype, generator):
    """The dtype comes back; squares of 1000 overflow float16, so half types are computed in float32."""
    norm = randomised(norm_with(function, 300), generator, dtype)
    x = normal(3, 300, generator=generator, scale=1000.0).to(dtype)
    with torch.no_grad():
        got, expected = norm(x), library_norm(function, norm.double(), x.double(), 1e-5)
    hint = (
        "half types: compute in float32, where 1000² does not overflow, and round once, after weight and bias"
    )
    half = dtype != torch.float32
    rtol = 0.52 * torch.finfo(dtype).eps if half else tolerance(dtype) / 4  # half types: rounded once
    atol = 2e-6 if half else rtol
    assert_close(got, expected, dtype=dtype, rtol=rtol, atol=atol, what=function, hint=hint)


@pytest.mark.parametrize("function", ["LayerNorm", "RMSNorm"])
def test_norm_contract(function):
    """A wrong last axis is refused, the input is left alone, and the library is not called."""
    norm = getattr(tb, function)(6)
    x = torch.arange(12.0).view(2, 6)
    with unchanged(x), refuse_calls(*LIBRARY):
        norm(x)
    for shape in [(2, 5), (6, 1), ()]:
        with expect_error(
            ValueError, "6", str(tuple(shape)), otherwise=f"x {shape} is accepted by a norm of 6 features"
        ):
            norm(torch.ones(shape))


# --- the feed-forward network -----------------------------------------------------------------------------------------


def set_linear(layer, weight, bias=None):
    """Write numbers into a learner's linear layer."""
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        if bias is not None:
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
        "the bias of `up` is missing": [[170.0, 1006.0]],
        "an activation follows `down`": [[131.0, 1009.5]],
        "the input is added: the residual connection belongs to the block": [[132.0, 1011.5]],
    }
    expected = torch.tensor([[131.0, 1009.5]], dtype=torch.float64)
    x = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    assert_close(network(x), expected, what="feed-forward", mistakes=mistakes)
    negative = network(-10 * x)  # hidden (-49, 9, -19.5) after ReLU (0, 9, 0)
    assert_close(negative, torch.tensor([[145.0, 1063.0]], dtype=torch.float64), what="feed-forward of -10x")


@pytest.mark.grades("FeedForward")
def test_swiglu_by_hand():
    """The gate goes through silu(z) = z·sigmoid(z), `up` does not."""
    network = tb.FeedForward(1, 1, activation="swiglu").double()
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
def test_feed_forward_parameters(options, shapes, bias):
    """Linear layers up, down and, for swiglu, gate; d_ff is 4·d_model, or 8·d_model // 3 with three matrices."""
    network = tb.FeedForward(12, **options, bias=bias)
    expected = {f"{name}.weight": shape for name, shape in shapes.items()}
    if bias:
        expected |= {f"{name}.bias": shape[:1] for name, shape in shapes.items()}
    got = {name: tuple(p.shape) for name, p in network.named_parameters()}
    assert got == expected, (
        f"parameters of FeedForward(12, {options}, bias={bias}):\n{got}, expected\n{expected}"
    )


REFERENCE = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda h: F.gelu(h, approximate="tanh"),
    "silu": F.silu,
}


@pytest.mark.grades("FeedForward")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", ["relu", "gelu", "gelu_tanh", "swiglu"])
def test_feed_forward_equals_torch(activation, bias, generator):
    """Every activation, forward and backward, in float64; the two kinds of gelu differ in the third digit."""
    network = randomised(tb.FeedForward(5, 7, activation=activation, bias=bias), generator)
    x = (2 * normal(2, 3, 5, generator=generator)).requires_grad_()
    cotangent = normal(2, 3, 5, generator=generator)

    def compute(name):
        up = F.linear(x, network.up.weight, network.up.bias)
        h = (
            F.silu(F.linear(x, network.gate.weight, network.gate.bias)) * up
            if activation == "swiglu"
            else None
        )
        h = REFERENCE[name](up) if h is None else h
        return F.linear(h, network.down.weight, network.down.bias)

    mistakes = {
        f"activation={activation!r} is ignored: this is {name}": lambda name=name: compute(name)
        for name in REFERENCE
        if name != activation and activation != "swiglu"
    }
    y, expected = network(x), compute(activation)
    assert_close(y, expected, rtol=1e-11, what=f"feed-forward, {activation}", mistakes=mistakes)
    inputs = (x, *network.parameters())
    for mine, theirs in zip(
        gradients(y, inputs, cotangent), gradients(expected, inputs, cotangent), strict=True
    ):
        assert_close(mine, theirs, rtol=1e-10, what="gradient of the feed-forward network")


@pytest.mark.grades("FeedForward")
def test_feed_forward_dropout():
    """In training hidden entries are zero or scaled up; in evaluation nothing happens."""
    network = tb.FeedForward(50, 50, activation="relu", dropout=0.25)
    for layer in (network.up, network.down):
        set_linear(layer, torch.eye(50).tolist(), [0.0] * 50)
    with torch.no_grad():
        network.down.bias.fill_(7.0)  # comes after dropout: it is never dropped
    x = 1 + torch.arange(2000.0).view(40, 50)
    ratio = (network(x) - 7) / x
    kept = ratio > 0.5
    assert not kept.all(), "dropout does nothing in training"
    assert torch.allclose(ratio[kept], torch.tensor(4 / 3), atol=1e-2), (
        "what dropout keeps is divided by 1 - p, so that the expectation stays"
    )
    assert torch.allclose(ratio[~kept], torch.tensor(0.0), atol=1e-2), (
        "dropout belongs between the activation and `down`: the bias of `down` is not dropped"
    )
    for axis, what in enumerate(("tokens", "features")):
        alike = (kept == kept.roll(1, axis)).float().mean().item()  # 0.75² + 0.25² of them by chance
        assert alike < 0.75, f"all {what} drop alike: dropout is drawn for every entry"
    share = 1 - kept.float().mean().item()
    assert 0.18 < share < 0.32, f"dropout=0.25 dropped {share:.0%} of 2000 entries"
    evaluated = network.eval()(x)
    assert_close(
        evaluated, x + 7, what="feed-forward in evaluation", hint="dropout is still on in evaluation mode"
    )


@pytest.mark.grades("FeedForward")
def test_feed_forward_contract():
    """An unknown activation is named."""
    with expect_error(ValueError, "tanhh", otherwise="an unknown activation is accepted"):
        tb.FeedForward(4, activation="tanhh")


# --- positions --------------------------------------------------------------------------------------------------------


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
@pytest.mark.parametrize(("n_positions", "d_model"), [(0, 6), (1, 2), (7, 6), (20_000, 10)], ids=str)
def test_sinusoidal_equals_complex_exponential(n_positions, d_model):
    """All positions and frequencies, against exp(i·t·w) in float64: late positions are as exact as early ones."""
    i = np.arange(d_model // 2)
    z = np.exp(1j * np.arange(n_positions)[:, None] * 10000.0 ** (-2 * i / d_model))
    expected = np.stack([z.imag, z.real], axis=-1).reshape(n_positions, d_model)
    hint = "angles in float32 are wrong by 1e-3 at position 10 000: compute them in float64"
    got = tb.sinusoidal_encoding(n_positions, d_model)
    if n_positions == 0:
        assert tuple(got.shape) == (0, 6), f"no positions gave shape {tuple(got.shape)}"
        return
    assert_close(
        got, torch.from_numpy(expected), dtype=torch.float32, atol=2e-7, what="sinusoidal encoding", hint=hint
    )


@pytest.mark.grades("sinusoidal_encoding")
def test_sinusoidal_odd():
    """Each frequency takes two features."""
    with expect_error(ValueError, "7", otherwise="an odd d_model is accepted"):
        tb.sinusoidal_encoding(3, 7)


@pytest.mark.grades("LearnedEncoding")
def test_learned_encoding(generator):
    """Row t is added to token t; gradients reach the rows that were used, summed over the batch."""
    encoding = tb.LearnedEncoding(6, 3)
    names = {name: tuple(p.shape) for name, p in encoding.named_parameters()}
    assert names == {"weight": (6, 3)}, f"the parameter is weight (n_positions, d_model), got {names}"
    table = encoding.weight.detach()
    assert 0.005 < table.std() < 0.05, f"rows start with a standard deviation of 0.02, got {table.std():.3g}"
    encoding = randomised(encoding, generator)
    x = normal(2, 4, 3, generator=generator)
    with unchanged(x):
        y = encoding(x)
    rows = encoding.weight.detach().numpy()
    mistakes = {
        "the last rows of the table are used: token t gets row t": x.numpy() + rows[2:],
        "the encoding is returned, not added": np.broadcast_to(rows[:4], (2, 4, 3)),
        "x is returned as it is": x,
    }
    assert_close(y, x + encoding.weight.detach()[:4], rtol=1e-12, what="learned encoding", mistakes=mistakes)
    cotangent = normal(2, 4, 3, generator=generator)
    (gradient,) = gradients(y, (encoding.weight,), cotangent)
    expected = torch.cat((cotangent.sum(0), torch.zeros(2, 3, dtype=torch.float64)))
    assert_close(gradient, expected, rtol=1e-12, what="gradient of the table")
    assert_close(encoding(x[0]), y[0].detach(), rtol=1e-12, what="learned encoding of one sequence")
    assert_close(
        encoding(torch.zeros(2, 6, 3, dtype=torch.float64))[1],
        encoding.weight.detach(),
        what="learned encoding of as many tokens as there are rows",
    )


@pytest.mark.grades("LearnedEncoding")
def test_learned_encoding_errors():
    """There is no row for a position that was never learned."""
    encoding = tb.LearnedEncoding(6, 3)
    with expect_error(ValueError, "6", "7", otherwise="more tokens than learned positions are accepted"):
        encoding(torch.ones(2, 7, 3))
    with expect_error(ValueError, "(2, 4, 1)", otherwise="another last axis is accepted and broadcast"):
        encoding(torch.ones(2, 4, 1))
    with expect_error(ValueError, "(3,)", otherwise="x without a sequence axis is accepted"):
        encoding(torch.ones(3))


def rotated_by_complex(x, positions, base=10000.0):
    """Rotate (..., T, d) NumPy float64 by complex multiplication."""
    half = x.shape[-1] // 2
    turn = np.exp(1j * np.asarray(positions)[..., None] * base ** (-np.arange(half) / half))
    z = (x[..., :half] + 1j * x[..., half:]) * turn
    return np.concatenate([z.real, z.imag], axis=-1)


@pytest.mark.grades("rotary")
def test_rotary_by_hand():
    """Position 1 turns the pair (1, 3) by one radian, the pair (2, 4) by 1/100."""
    x, position = np.array([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([1])
    c, s, c2, s2 = math.cos(1), math.sin(1), math.cos(0.01), math.sin(0.01)
    right = [[c - 3 * s, 2 * c2 - 4 * s2, 3 * c + s, 4 * c2 + 2 * s2]]
    mistakes = {
        "neighbours are paired (interleaved): feature i belongs to feature i + d_head/2": [
            [c - 2 * s, 2 * c + s, 3 * c2 - 4 * s2, 4 * c2 + 3 * s2]
        ],
        "rotated backwards: x cos - y sin, y cos + x sin": [
            [c + 3 * s, 2 * c2 + 4 * s2, 3 * c - s, 4 * c2 - 2 * s2]
        ],
        "the positions given are ignored: counted from zero": x,
        "positions are counted from 1: use those that are given": rotated_by_complex(x, [2]),
        "the exponent is i / d_head, not 2i / d_head": [
            [
                c - 3 * s,
                2 * math.cos(0.1) - 4 * math.sin(0.1),
                3 * c + s,
                4 * math.cos(0.1) + 2 * math.sin(0.1),
            ]
        ],
        "a sign is wrong: the length of a pair must stay": [
            [c - 3 * s, 2 * c2 - 4 * s2, 3 * c - s, 4 * c2 - 2 * s2]
        ],
    }
    expected = torch.tensor(right, dtype=torch.float64)
    assert_close(
        tb.rotary(torch.from_numpy(x), position), expected, rtol=1e-12, what="rotary", mistakes=mistakes
    )


@pytest.mark.grades("rotary")
@pytest.mark.parametrize("base", [10000.0, 500000.0, 10.0])
@pytest.mark.parametrize("positions", ["gaps", "fractions", "per sequence"])
def test_rotary_equals_complex_multiplication(base, positions, rng):
    """Any positions, any base, any leading axes."""
    x = rng.normal(size=(2, 3, 5, 8))
    at = {
        "gaps": rng.choice(1000, 5, replace=False),
        "fractions": rng.uniform(0, 50, 5),
        "per sequence": rng.integers(0, 100, (2, 1, 5)),
    }[positions]
    counted = rotated_by_complex(x, np.arange(5), base)
    mistakes = {
        "the positions given are ignored: counted from zero": counted,
        "base is ignored": rotated_by_complex(x, at),
        "positions are counted backwards": rotated_by_complex(x, -at, base),
    }
    with unchanged(x):
        got = tb.rotary(torch.from_numpy(x), torch.from_numpy(at), base=base)
    expected = torch.from_numpy(rotated_by_complex(x, at, base))
    assert_close(got, expected, rtol=1e-11, what="rotary", mistakes=mistakes)


@pytest.mark.grades("rotary")
def test_rotary_relative_position_law(rng):
    """⟨rotary(q, m), rotary(k, n)⟩ depends on m - n only: to 1e-6 in float32, up to position 16 000."""
    q, k = (torch.from_numpy(v / np.linalg.norm(v)).float() for v in rng.normal(size=(2, 1, 64)))
    shifts = torch.arange(0, 16_001, 500)
    for distance in (1, 7, 100):
        queries = tb.rotary(q.expand(len(shifts), 64), shifts + distance)
        products = (queries * tb.rotary(k.expand(len(shifts), 64), shifts)).sum(-1)
        spread = (products - products[0]).abs().max().item()
        assert spread < 1e-6, (
            "the product of a rotated query and a rotated key must depend on the distance only: "
            f"at distance {distance} it varies by {spread:.1e}. Angles in float32 do that: compute them in float64"
        )
    near, far = (float((tb.rotary(q, torch.tensor([m])) * k).sum()) for m in (1, 40))
    assert abs(near - far) > 1e-3, "the product does not depend on the distance at all"


@pytest.mark.grades("rotary")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_rotary_dtypes(dtype, rng):
    """The dtype comes back, rounded once; positions that bfloat16 cannot hold stay exact."""
    x, at = torch.from_numpy(rng.normal(size=(3, 20))).to(dtype), np.array([257, 1001, 4099])
    expected = rotated_by_complex(x.double().numpy(), at)
    hint = f"rotate in float32 with angles in float64, then round to {dtype}"
    rtol = (0.55 if dtype != torch.float32 else 4) * torch.finfo(dtype).eps  # half types: rounded once
    assert_close(
        tb.rotary(x, torch.from_numpy(at)),
        torch.from_numpy(expected),
        dtype=dtype,
        rtol=rtol,
        atol=1e-6,
        what="rotary",
        hint=hint,
    )


@pytest.mark.grades("rotary")
def test_rotary_gradient(rng):
    """The gradient is the cotangent rotated back."""
    x = torch.from_numpy(rng.normal(size=(2, 5, 6))).requires_grad_()
    cotangent, at = rng.normal(size=(2, 5, 6)), np.array([3, 1, 4, 15, 9])
    (gradient,) = gradients(tb.rotary(x, torch.from_numpy(at)), (x,), torch.from_numpy(cotangent))
    expected = torch.from_numpy(rotated_by_complex(cotangent, -at))
    assert_close(gradient, expected, rtol=1e-11, what="gradient of rotary")


@pytest.mark.grades("rotary")
def test_rotary_errors():
    """An odd head has a feature without a partner; one position is not broadcast to all tokens."""
    with expect_error(ValueError, "(4, 7)", otherwise="an odd d_head is accepted"):
        tb.rotary(torch.ones(4, 7), torch.arange(4))
    with expect_error(ValueError, "4", "(1,)", otherwise="one position is used for all tokens"):
        tb.rotary(torch.ones(4, 6), torch.tensor([3]))
    with expect_error(ValueError, "4", "(5,)", otherwise="five positions for four tokens are accepted"):
        tb.rotary(torch.ones(2, 4, 6), torch.arange(5))


@pytest.mark.grades("alibi_bias")
@pytest.mark.parametrize(
    ("n_heads", "powers"),
    [
        (1, [8]),
        (2, [4, 8]),
        (3, [4, 8, 2]),
        (4, [2, 4, 6, 8]),
        (6, [2, 4, 6, 8, 1, 3]),
        (8, [1, 2, 3, 4, 5, 6, 7, 8]),
        (12, [1, 2, 3, 4, 5, 6, 7, 8, 0.5, 1.5, 2.5, 3.5]),
    ],
    ids=str,
)
def test_alibi_bias(n_heads, powers):
    """Slopes 2^-p with the p of the paper, worked by hand; distances count in both directions."""
    slopes, T = 2.0 ** -np.array(powers)[:, None, None], 5
    i, j = np.arange(T)[:, None], np.arange(T)
    straight = 2.0 ** (-8 * np.arange(1, n_heads + 1) / n_heads)[:, None, None]
    from_zero = 2.0 ** (-8 * np.arange(n_heads) / n_heads)[:, None, None]
    late = [p + 1 if 2 ** int(math.log2(n_heads)) <= h else p for h, p in enumerate(powers)]
    mistakes = {
        "the bias is a reward for distance: it must be negative": slopes * abs(i - j),
        "keys on one side get a positive bias: take the absolute distance": -slopes * (i - j),
        "keys on one side get a positive bias: take the absolute distance |i - j|": slopes * (i - j),
        "n_heads is no power of two: the slopes are those of the power below, then every second of twice as many": (
            -straight * abs(i - j)
        ),
        "heads count from 1: the first slope is 2^(-8/n_heads)": -from_zero * abs(i - j),
        "of the slopes of 2p heads the first, third, … are used, not the second, fourth, …": -(
            2.0 ** -np.array(late, float)[:, None, None]
        )
        * abs(i - j),
    }
    assert_close(
        tb.alibi_bias(n_heads, T),
        torch.from_numpy(-slopes * abs(i - j)).float(),
        what=f"ALiBi bias of {n_heads} heads",
        mistakes=mistakes,
    )
