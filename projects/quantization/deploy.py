"""Whole networks with every option: convolutions, four bits, batch norms, any observer, and what `prepare_qat` trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from convolution import QuantizedConv2d
from float_copy import float_copy
from int4 import Int4Linear
from int8_kernel import MODES, QuantizedLinear
from qat import FakeQuantized
from quantization import MinMax

__all__ = ["quantize_network"]

Range = tuple[Tensor | float, Tensor | float]


class Observer(Protocol):
    """What `MinMax` and the classes of observers.py can do."""

    def observe(self, x: Tensor) -> None:
        """Take one batch into account."""

    def range(self) -> Range:
        """Return (low, high)."""


def quantize_network(
    model: nn.Module,
    *,
    mode: str = "dynamic",
    calibration: Iterable[Tensor] | None = None,
    observer: Callable[[], Observer] = MinMax,
    n_bits: int = 8,
    group_size: int = 32,
    per_channel: bool = True,
    reduce_range: bool = False,
) -> nn.Module:
    """Return a quantized copy of `model`, in evaluation mode; the model itself stays as it is, and may be one layer alone.

    Starts from a `float_copy`: float32, batch norms folded. Replaces every ``nn.Linear`` and ``nn.Conv2d`` (not subclasses:
    attention reads the weight of its own kind directly), also one that is used in two places.

    mode : "dynamic", "static" or "weight_only", see `int8_kernel.QuantizedLinear`.
    calibration, observer : "static" only; the batches run through the float copy in evaluation mode while an
        ``observer()`` per layer watches its input: one range per layer, so none per channel. A model from `prepare_qat`
        needs none: its training was the calibration.
    n_bits, group_size : 4 with "weight_only" makes linear layers `Int4Linear`; convolutions keep 8 bits.
    per_channel, reduce_range : see `int8_kernel.QuantizedLinear`.

    ValueError for an unknown mode, other n_bits than 4 and 8, 4 in another mode than "weight_only", or "static" without
    calibration batches. TypeError if a batch is not a tensor. RuntimeError, with its name, for a layer that no batch reached.
    """
    if mode not in MODES or n_bits not in (4, 8) or (n_bits == 4 and mode != "weight_only"):
        raise ValueError(
            f"mode must be one of {', '.join(MODES)}, n_bits 8 (or 4 with weight_only), got {mode!r}, {n_bits!r}"
        )
    quantized = float_copy(model)
    layers = dict(_float_layers(quantized))
    ranges = _observe(quantized, layers, calibration, observer) if mode == "static" else {}
    for name, layer in layers.items():
        layer = layer.layer if isinstance(layer, FakeQuantized) else layer
        if isinstance(layer, nn.Linear) and n_bits == 4:
            new: nn.Module = Int4Linear(layer, group_size=group_size)
        else:
            kind = QuantizedLinear if isinstance(layer, nn.Linear) else QuantizedConv2d
            new = kind(
                layer,  # type: ignore[arg-type]
                mode=mode,
                input_range=ranges.get(name),
                per_channel=per_channel,
                reduce_range=reduce_range,
            )
        if not name:
            return new  # the model is a single layer
        quantized.set_submodule(name, new)
    return quantized


def _float_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the layers to replace by name, once per place; what lies inside a `FakeQuantized` is its own affair."""
    inside: tuple[str, ...] = ()
    for name, module in model.named_modules(remove_duplicate=False):
        if type(module) in (nn.Linear, nn.Conv2d, FakeQuantized) and not name.startswith(inside):
            yield name, module
            if isinstance(module, FakeQuantized):
                inside += (f"{name}.layer" if name else "layer",)


def _observe(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    calibration: Iterable[Tensor] | None,
    observer: Callable[[], Observer],
) -> dict[str, Range]:
    """Return the input range of each layer: from training where it was fake-quantized, from calibration elsewhere."""
    observers: dict[str, Observer] = {}
    for name, layer in layers.items():
        if isinstance(layer, FakeQuantized):
            observers[name] = layer
        else:  # the hook will go with the float layer
            observers[name] = observer()
            layer.register_forward_pre_hook(lambda _, args, name=name: observers[name].observe(args[0]))
    trained = all(isinstance(layer, FakeQuantized) for layer in layers.values())
    if isinstance(calibration, Tensor):
        raise TypeError("calibration must be an iterable of batches, got one tensor: write [x]")
    n_batches = 0
    with torch.no_grad():
        for x in () if calibration is None else calibration:
            if not isinstance(x, Tensor):
                raise TypeError(f"a batch of calibration must be a tensor, got {type(x).__name__}")
            model(x.float() if x.is_floating_point() else x)
            n_batches += 1
    if not n_batches and not trained:
        raise ValueError('mode "static" needs calibration batches, and there was none')
    ranges = {}
    for name, seen in observers.items():
        try:
            ranges[name] = seen.range()
        except RuntimeError as error:
            raise RuntimeError(f"calibration never reached layer {name!r}: {error}") from None
    return ranges
