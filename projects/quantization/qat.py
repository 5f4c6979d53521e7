"""Quantization-aware training: the rounding is in the loop, so the network learns weights that survive it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from float_copy import float_copy
from int4 import in_groups
from observers import MovingAverage, along
from quantization import choose_qparams, fake_quantize

__all__ = ["FakeQuantized", "prepare_qat"]


class FakeQuantized(nn.Module):
    """A linear or convolution that computes with fake-quantized weight and input, in training and in evaluation alike.

    Weight: symmetric, one scale per output. Input: affine, 8 bits (7 with `reduce_range`), with the range of a
    ``MovingAverage(momentum=0.9)`` over the training batches, this one included; evaluation does not move it, and before any
    training batch it raises RuntimeError. The range is in the state_dict (`low` and `high`). ``n_bits=4`` with a `group_size`
    imitates `Int4Linear` instead: a weight scale per group, and the input stays float; its ValueErrors come at once.
    """

    low: Tensor
    high: Tensor

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
        self.n_bits, self.reduce_range = n_bits, reduce_range
        self.group_size = None if group_size is None else in_groups(layer, group_size).shape[2]  # type: ignore[arg-type]
        self.register_buffer("low", torch.tensor(math.inf))  # low > high: no batch yet
        self.register_buffer("high", torch.tensor(-math.inf))

    def observe(self, x: Tensor) -> None:
        """Take one training batch into account."""
        observer = MovingAverage(momentum=0.9)
        if self.low <= self.high:
            observer.low, observer.high = self.low, self.high
        observer.observe(x)
        self.low, self.high = observer.range()

    def range(self) -> tuple[Tensor, Tensor]:
        """Return (low, high) of the input; RuntimeError if nothing was observed."""
        if self.low > self.high:
            raise RuntimeError("nothing was observed: run training batches through the model first")
        return self.low, self.high

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer."""
        if self.group_size is None:
            if self.training:
                self.observe(x)
            n_bits = 8 - self.reduce_range
            x = fake_quantize(x, *choose_qparams(*self.range(), n_bits=n_bits), n_bits=n_bits)
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

    A `float_copy`: batch norms are folded (in their evaluation form), so that what is trained is what will be deployed. When
    trained, give it to `deploy.quantize_network` with mode "static" (or "weight_only" and 4 bits). With 4 bits convolutions
    stay as they are. ValueError if one of `n_bits` = 4 and a `group_size` comes without the other, n_bits is not 4 or 8, 4 comes
    with `reduce_range`, or a group_size does not fit a layer.
    """
    if n_bits not in (4, 8) or (n_bits == 4) != (group_size is not None):
        raise ValueError(f"n_bits must be 8, or 4 with a group_size, got {n_bits!r} and {group_size!r}")
    if reduce_range not in (False, True) or (reduce_range and n_bits == 4):
        raise ValueError(f"reduce_range must be True or False, and False with 4 bits, got {reduce_range!r}")
    prepared = float_copy(model)
    for name, layer in list(prepared.named_modules(remove_duplicate=False)):
        if type(layer) is nn.Linear or (type(layer) is nn.Conv2d and n_bits == 8):
            fake = FakeQuantized(layer, n_bits=n_bits, group_size=group_size, reduce_range=reduce_range)
            if not name:
                return fake.train()  # the model is a single layer
            prepared.set_submodule(name, fake)
    return prepared.train()
