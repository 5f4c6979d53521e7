"""Quantized networks as safetensors files: the integers, and which layer is quantized how."""

from __future__ import annotations

import copy
import json
import os

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from batch_norm import fold_batch_norms
from convolution import QuantizedConv2d
from int4 import Int4Linear
from int8_kernel import QuantizedLinear

__all__ = ["save_quantized", "load_quantized"]


def save_quantized(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a network from `quantize_network` to a safetensors file: its state_dict, and which layer is quantized how."""
    layers: dict[str, dict[str, object]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, Int4Linear):
            layers[name] = {"group_size": 2 * module.packed.shape[1] // module.scale.shape[1]}
        elif isinstance(module, QuantizedConv2d):
            layers[name] = _options(module.products[0])
        elif isinstance(module, QuantizedLinear) and name.rpartition(".products.")[0] not in layers:
            layers[name] = _options(module)
    tensors = {name: tensor.clone().contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, path, metadata={"layers": json.dumps(layers)})


def load_quantized(model: nn.Module, path: str | os.PathLike[str]) -> nn.Module:
    """Read a file of `save_quantized` back, bit for bit.

    `model` is the float architecture; its values do not matter and it stays as it is. ValueError if the file is not from
    `save_quantized`, or does not fit the architecture.
    """
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
    if "layers" not in metadata:
        raise ValueError(f"{path} was not written by save_quantized")
    quantized = fold_batch_norms(copy.deepcopy(model)).eval()
    for parameter in quantized.parameters():
        nn.init.zeros_(parameter)  # whatever stands there, NaN too
    floats = dict(quantized.named_modules(remove_duplicate=False))
    for name, options in json.loads(metadata["layers"]).items():
        layer = floats.get(name)
        try:
            new = _quantized(layer, options)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: layer {name!r} does not fit this model: {error}") from None
        if name:
            quantized.set_submodule(name, new)
        else:
            quantized = new
    try:
        quantized.load_state_dict(load_file(path))
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit this model: {error}") from error
    return quantized.eval()


def _options(module: nn.Module) -> dict[str, object]:
    assert isinstance(module, QuantizedLinear)
    return {"mode": module.mode, "reduce_range": module.n_bits == 7}


def _quantized(layer: nn.Module | None, options: dict[str, object]) -> nn.Module:
    """Quantize a layer like the one in the file; the file's tensors will replace its own."""
    if isinstance(layer, nn.Linear) and "group_size" in options:
        return Int4Linear(layer, **options)  # type: ignore[arg-type]
    if not isinstance(layer, nn.Linear | nn.Conv2d):
        raise TypeError(f"{type(layer).__name__} is not a linear layer or convolution")
    kind = QuantizedLinear if isinstance(layer, nn.Linear) else QuantizedConv2d
    return kind(layer, input_range=(0.0, 1.0), **options)  # type: ignore[arg-type]
