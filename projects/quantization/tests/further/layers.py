"""Layers with rows of different size, and what torch's fake quantization makes of weights and inputs."""

import torch
from torch import nn

torch_fake = torch.fake_quantize_per_tensor_affine


def linear_layer(n_in=24, n_out=9, *, bias=True):
    """Return a layer whose rows differ in size by up to 30 times."""
    layer, generator = nn.Linear(n_in, n_out, bias=bias), torch.Generator().manual_seed(5)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(n_out, n_in, generator=generator))
        layer.weight.mul_(torch.linspace(0.1, 3, n_out)[:, None])
        if bias:
            layer.bias.copy_(torch.randn(n_out, generator=generator))
    return layer


def conv_layer(*, bias=True, **options):
    """Return a convolution from 4 to 6 channels whose filters differ in size."""
    layer, generator = nn.Conv2d(4, 6, (3, 2), bias=bias, **options), torch.Generator().manual_seed(5)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator))
        layer.weight.mul_(torch.linspace(0.1, 3, 6)[:, None, None, None])
        if bias:
            layer.bias.copy_(torch.randn(6, generator=generator))
    return layer


def rounded_weight(weight, *, per_channel=True, n_bits=8):
    """Round a weight as torch does, symmetrically, in float32."""
    top = 2 ** (n_bits - 1) - 1
    rows = weight.detach().flatten(1)
    scale = rows.abs().amax(1) / top if per_channel else (rows.abs().max() / top).expand(len(rows))
    zeros = torch.zeros(len(rows), dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight.detach(), scale, zeros, 0, -top - 1, top)


def rounded_input(x, low, high, *, n_bits=8):
    """Round an input as torch does, with the affine map of [low, high]."""
    low, high, q_min = min(float(low), 0.0), max(float(high), 0.0), -(2 ** (n_bits - 1))
    scale = (high - low) / (2**n_bits - 1)
    return torch_fake(x, scale, round(q_min - low / scale), q_min, -q_min - 1)
