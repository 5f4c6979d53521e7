"""The judge of the U-Net. Oracles: torch's own layers put together by the documented attributes, and laws."""

import pytest
import torch
from oracles import DOUBLE
from torch.nn import functional

import unet
from shared.testing.checks import assert_close, expect_error


def wake(module, seed=0):
    """Give every parameter a random value: zero-initialised layers would hide the rest."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return module


@pytest.mark.grades("fourier_features")
def test_fourier_features_by_hand():
    """Four frequencies from 1 to 8: 1, 2, 4, 8; cosines first."""
    level = torch.tensor([0.5, -1.0], dtype=DOUBLE)
    got = unet.fourier_features(level, 8, max_frequency=8.0)
    angles = torch.tensor([[0.5, 1.0, 2.0, 4.0], [-1.0, -2.0, -4.0, -8.0]], dtype=DOUBLE)
    mistakes = {
        "sines come first": torch.cat([angles.sin(), angles.cos()], 1),
        "the frequencies grow linearly": torch.cat(
            [f(level[:, None] * torch.linspace(1, 8, 4, dtype=DOUBLE)) for f in (torch.cos, torch.sin)], 1
        ),
    }
    assert_close(
        got, torch.cat([angles.cos(), angles.sin()], 1), rtol=1e-9, what="features", mistakes=mistakes
    )
    for n in (7, 2):
        with expect_error(ValueError, str(n), otherwise=f"{n} features are accepted"):
            unet.fourier_features(level, n)


@pytest.mark.grades("ResidualBlock")
def test_block_starts_as_its_skip(generator):
    """conv_2 starts at zero: the block passes x on, or through the 1×1 convolution where the width changes."""
    x, embedding = torch.randn(2, 8, 4, 6, generator=generator), torch.randn(2, 5, generator=generator)
    same = unet.ResidualBlock(8, 8, 5, n_groups=2)
    assert torch.equal(same(x, embedding), x), (
        "a fresh block changes x: conv_2 must start at zero, the skip is missing or scaled"
    )
    wider = unet.ResidualBlock(8, 12, 5, n_groups=2)
    assert_close(
        wider(x, embedding), wider.skip(x), what="a fresh block with more channels, against its skip"
    )


@pytest.mark.grades("ResidualBlock")
@pytest.mark.parametrize("n_out", [8, 12])
def test_block(n_out, generator):
    """The documented formula, from the block's own layers."""
    block = wake(unet.ResidualBlock(8, n_out, 5, n_groups=2).double())
    x = torch.randn(3, 8, 4, 6, dtype=DOUBLE, generator=generator)
    embedding = torch.randn(3, 5, dtype=DOUBLE, generator=generator)

    def group_norm(h, norm):
        B, C, H, W = h.shape
        g = h.reshape(B, 2, -1)
        g = (g - g.mean(-1, keepdim=True)) / (g.var(-1, unbiased=False, keepdim=True) + norm.eps).sqrt()
        return g.reshape(B, C, H, W) * norm.weight.reshape(-1, 1, 1) + norm.bias.reshape(-1, 1, 1)

    def silu(h):
        return h / (1 + (-h).exp())

    def expected(plus_one=1.0, swapped=False, modulate=True, skip=True, activate=True):
        h = functional.conv2d(
            silu(group_norm(x, block.norm_1)), block.conv_1.weight, block.conv_1.bias, padding=1
        )
        m = (silu(embedding) if activate else embedding) @ block.modulation.weight.T + block.modulation.bias
        scale, shift = m[:, :n_out, None, None], m[:, n_out:, None, None]
        scale, shift = (shift, scale) if swapped else (scale, shift)
        h = group_norm(h, block.norm_2)
        h = h * (plus_one + scale) + shift if modulate else h
        h = functional.conv2d(silu(h), block.conv_2.weight, block.conv_2.bias, padding=1)
        return h + block.skip(x) if skip else h

    mistakes = {
        "the residual connection is missing": lambda: expected(skip=False),
        "the embedding has no effect": lambda: expected(modulate=False),
        "the scale multiplies alone: it is 1 + scale": lambda: expected(plus_one=0.0),
        "scale and shift are swapped": lambda: expected(swapped=True),
        "the embedding lacks its SiLU": lambda: expected(activate=False),
    }
    assert_close(block(x, embedding), expected(), rtol=1e-9, what="the block's output", mistakes=mistakes)


@pytest.mark.grades("SelfAttention")
def test_attention(generator):
    """Against torch's scaled_dot_product_attention, head by head, with two heads and pixels in a rectangle."""
    layer = unet.SelfAttention(8, n_heads=2, n_groups=2)
    x = torch.randn(3, 8, 2, 5, dtype=DOUBLE, generator=generator)
    assert torch.equal(layer.double()(x), x), (
        "a fresh layer changes x: out must start at zero, and x must be added"
    )
    wake(layer)
    B, C, H, W = x.shape

    def expected(scale=None, heads=2, residual=True):
        qkv = functional.conv2d(
            functional.group_norm(x, 2, layer.norm.weight, layer.norm.bias), layer.qkv.weight, layer.qkv.bias
        )
        q, k, v = (
            part.reshape(B, heads, C // heads, H * W).transpose(-1, -2) for part in qkv.chunk(3, dim=1)
        )
        mixed = functional.scaled_dot_product_attention(q, k, v, scale=scale)
        out = functional.conv2d(mixed.transpose(-1, -2).reshape(B, C, H, W), layer.out.weight, layer.out.bias)
        return x + out if residual else out

    mistakes = {
        "the scores are not divided by sqrt(head width)": lambda: expected(scale=1.0),
        "the scale is sqrt(channels), not sqrt(head width)": lambda: expected(scale=8**-0.5),
        "the scores are divided by the head width, not its root": lambda: expected(scale=0.25),
        "n_heads is ignored: this is one head": lambda: expected(heads=1),
        "the residual connection is missing": lambda: expected(residual=False),
    }
    assert_close(layer(x), expected(), rtol=1e-9, what="attention over pixels", mistakes=mistakes)


def small(**options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return unet.UNet(n_classes=4, width=8, n_embedding=16, **options)


@pytest.mark.grades("UNet")
def test_unet_starts_at_zero(generator):
    """A fresh network answers 0 for everything, in the shape of x: then D(x, σ) = c_skip·x, a sane first guess."""
    x = torch.randn(3, 1, 8, 6, generator=generator)
    got = small()(x, torch.tensor([-1.0, 0.0, 1.0]), torch.tensor([0, 3, 4]))
    assert got.shape == x.shape, f"shape {tuple(got.shape)}, expected that of x, {tuple(x.shape)}"
    assert not bool(got.any()), "a fresh network must answer 0: its last convolution starts at zero"
    assert small(n_channels=3)(x.expand(3, 3, 8, 6), torch.zeros(3)).shape == (3, 3, 8, 6), (
        "n_channels is ignored"
    )


@pytest.mark.grades("UNet")
def test_unet_size():
    """About 300 thousand parameters."""
    n = sum(parameter.numel() for parameter in unet.UNet().parameters())
    assert 250_000 < n < 400_000, f"{n} parameters, expected about 300 thousand"


@pytest.mark.grades("UNet")
def test_unet_is_conditional(generator):
    """Noise level and class change the answer, each sample's its own; no label means label n_classes."""
    model = wake(small().double())
    x = torch.randn(3, 1, 8, 8, dtype=DOUBLE, generator=generator)
    c_noise, labels = torch.tensor([-1.0, 0.0, 1.0], dtype=DOUBLE), torch.tensor([0, 2, 4])
    out = model(x, c_noise, labels)
    moved = model(x, c_noise + torch.tensor([0.0, 0.3, 0.0]), labels)
    assert not torch.allclose(out[1], moved[1]), "the noise level has no effect"
    assert torch.allclose(out[[0, 2]], moved[[0, 2]]), (
        "the batch leaks: one sample's noise level changes another's answer"
    )
    other = model(x, c_noise, torch.tensor([0, 3, 4]))
    assert not torch.allclose(out[1], other[1]), "the class has no effect"
    assert torch.allclose(out[[0, 2]], other[[0, 2]]), (
        "the batch leaks: one sample's class changes another's answer"
    )
    assert torch.allclose(model(x, c_noise), model(x, c_noise, torch.full((3,), 4))), (
        "no labels must mean label n_classes"
    )
    alone = torch.cat([model(x[i : i + 1], c_noise[i : i + 1], labels[i : i + 1]) for i in range(3)])
    assert_close(out, alone, rtol=1e-9, what="answers in a batch, against alone")


@pytest.mark.grades("UNet")
def test_unet_sees_everything(generator):
    """Every pixel of the answer depends on every pixel of x, near ones and far ones alike."""
    model = wake(small().double())
    x = torch.randn(1, 1, 8, 8, dtype=DOUBLE, generator=generator, requires_grad=True)
    out = model(x, torch.zeros(1, dtype=DOUBLE))
    for row, column in ((0, 0), (7, 7), (3, 4)):
        (gradient,) = torch.autograd.grad(out[0, 0, row, column], x, retain_graph=True)
        assert bool((gradient != 0).all()), f"pixel ({row}, {column}) does not see the whole image"


@pytest.mark.grades("UNet")
def test_unet_has_a_skip_connection(generator):
    """With the bottom cut (whatever has half the height and width is 0), details still reach the output: that is the U."""
    model, seen = wake(small().double()), []
    x = torch.randn(2, 1, 8, 12, dtype=DOUBLE, generator=generator)

    def cut(module, arguments, out):
        if isinstance(out, torch.Tensor) and out.shape[2:] == (4, 6):
            seen.append(module)
            return torch.zeros_like(out)
        return None

    for module in model.modules():
        module.register_forward_hook(cut)
    c_noise = torch.zeros(1, dtype=DOUBLE)
    difference = (model(x[:1], c_noise) - model(x[1:], c_noise)).detach().abs().max()
    assert seen, "no layer works at half the height and width: the image is not halved"
    assert float(difference) > 1e-6, (
        "the skip connection is missing: nothing but the bottom reaches the output"
    )


@pytest.mark.grades("UNet")
def test_unet_gradients(generator):
    """Every parameter gets a gradient once the zero layers have moved."""
    model = wake(small())
    out = model(
        torch.randn(3, 1, 8, 8, generator=generator), torch.tensor([-1.0, 0.0, 1.0]), torch.tensor([0, 1, 4])
    )
    (out * torch.randn(out.shape, generator=generator)).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{name} takes no part in the answer"
        assert bool(parameter.grad.any()), f"the gradient of {name} is zero"


@pytest.mark.grades("UNet")
@pytest.mark.parametrize("shape", [(7, 8), (8, 5)], ids=str)
def test_odd_images(shape):
    """Halving and doubling must lead back to the same size."""
    with expect_error(ValueError, str(shape[0]), otherwise=f"an image of {shape} is accepted"):
        small()(torch.ones(2, 1, *shape), torch.zeros(2))


@pytest.mark.grades("SelfAttention")
def test_attention_in_half_precision(generator):
    """Queries and keys near 300: a score is beyond float16, the answer is not. One pixel, so it looks at itself."""
    layer = unet.SelfAttention(8, n_heads=1, n_groups=2)
    with torch.no_grad():
        for weight, factor in zip(layer.qkv.weight.chunk(3), (300.0, 300.0, 2.0), strict=True):
            weight.copy_(factor * torch.eye(8)[..., None, None])
        layer.qkv.bias.zero_()
        layer.out.weight.copy_(torch.eye(8)[..., None, None])
    x = torch.randn(3, 8, 1, 1, generator=generator).half()
    expected = x.double() + 2 * functional.group_norm(x.double(), 2)
    got = layer.half()(x)
    hint = "a score of 300·300·8 is infinite in float16: compute scores in float32"
    assert_close(got, expected.half(), rtol=5e-3, what="attention in float16", hint=hint)


@pytest.mark.grades("SelfAttention", "UNet")
def test_widths_are_refused_at_once():
    """By the name of the argument, when the module is made and not when it is called."""
    for make, name in (
        (lambda: unet.SelfAttention(16, n_heads=3, n_groups=4), "n_heads"),
        (lambda: unet.SelfAttention(16, n_heads=0, n_groups=4), "n_heads"),
        (lambda: unet.UNet(width=12), "width"),
        (lambda: unet.UNet(width=0), "width"),
        (lambda: unet.UNet(width=8, n_embedding=6), "n_embedding"),
        (lambda: unet.UNet(width=8, n_embedding=4), "n_embedding"),
    ):
        with expect_error(ValueError, name, otherwise=f"a bad {name} is accepted"):
            make()
    assert unet.UNet(width=8, n_embedding=8)(torch.ones(1, 1, 8, 8), torch.zeros(1)).shape == (1, 1, 8, 8)


@pytest.mark.grades("UNet")
@pytest.mark.parametrize(("levels", "labels"), [(1, 3), (3, 1), (3, 5), ((3, 1), 3), (3, (3, 1))], ids=str)
def test_one_level_and_label_per_sample(levels, labels):
    """Five labels for one image would give five images, one label for three be shared."""
    n = 1 if labels == 5 else 3
    c_noise = torch.zeros(n if labels == 5 else levels)
    with expect_error(
        ValueError, str(tuple(c_noise.shape)), otherwise="levels or labels of another batch are accepted"
    ):
        small()(torch.ones(n, 1, 8, 8), c_noise, torch.zeros(labels, dtype=torch.long))
