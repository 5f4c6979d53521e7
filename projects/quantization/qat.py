"""Quantization-aware training: the rounding is in the loop, so the network learns weights that survive it."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from batch_norm import fold_batch_norms
from observers import MovingAverage, along
from quantization import choose_qparams, fake_quantize

__all__ = ["FakeQuantized", "prepare_qat"]


class FakeQuantized(nn.Module):
    """A linear or convolution that computes with fake-quantized weight and input, in training and in evaluation alike.

    Weight: symmetric, one scale per output. Input: affine, 8 bits (7 with `reduce_range`), with the range of a
    ``MovingAverage(momentum=0.9)`` over the training batches, this one included; evaluation does not move it, and before any
    training batch it raises RuntimeError. ``n_bits=4`` with a `group_size` imitates `Int4Linear` instead: a weight scale per
    group, and the input stays float.
    """

    def __init__(
        self,
        layer: nn.Linear | nn.Conv2d,
        *,
        n_bits: int = 8,
        group_size: int | None = None,
        reduce_range: bool = False,
    ) -> None:
        super().__init__()
        self.layer = layer
        self.n_bits, self.group_size, self.reduce_range = n_bits, group_size, reduce_range
        self.observer = MovingAverage(momentum=0.9)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer."""
        if self.group_size is None:
            if self.training:
                self.observer.observe(x)
            n_bits = 8 - self.reduce_range
            x = fake_quantize(x, *choose_qparams(*self.observer.range(), n_bits=n_bits), n_bits=n_bits)
        weight = self.layer.weight
        rows = weight.flatten(1) if self.group_size is None else weight.reshape(-1, self.group_size)
        largest = rows.detach().abs().amax(1)
        scale, zero = choose_qparams(-largest, largest, n_bits=self.n_bits, symmetric=True)
        fake = fake_quantize(rows, along(scale, 0, 2), along(zero, 0, 2), n_bits=self.n_bits)
        return torch.func.functional_call(self.layer, {"weight": fake.reshape(weight.shape)}, x)


def prepare_qat(
    model: nn.Module, *, n_bits: int = 8, group_size: int | None = None, reduce_range: bool = False
) -> nn.Module:
    """Return a copy of `model` to train with quantization in the loop, in training mode; see `FakeQuantized`.

    Folds batch norms first (in their evaluation form), so that what is trained is what will be deployed. When
    trained, give it to `deploy.quantize_network` with mode "static" (or "weight_only" and 4 bits). With 4 bits convolutions
    stay as they are. ValueError if one of `n_bits` = 4 and a `group_size` comes without the other, or n_bits is not 4 or 8.
    """
    if n_bits not in (4, 8) or (n_bits == 4) != (group_size is not None):
        raise ValueError(f"n_bits must be 8, or 4 with a group_size, got {n_bits} and {group_size}")
    prepared = fold_batch_norms(copy.deepcopy(model))
    for name, layer in list(prepared.named_modules(remove_duplicate=False)):
        if type(layer) is nn.Linear or (type(layer) is nn.Conv2d and n_bits == 8):
            fake = FakeQuantized(layer, n_bits=n_bits, group_size=group_size, reduce_range=reduce_range)
            if not name:
                return fake.train()  # the model is a single layer
            prepared.set_submodule(name, fake)
    return prepared.train()
