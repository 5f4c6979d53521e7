"""Quantized networks as safetensors files: the integers, and which layer is quantized how.

A file is written beside its place, flushed to the disk, and renamed: a crash leaves the old file or the new one, whole.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from convolution import QuantizedConv2d
from float_copy import float_copy
from int4 import Int4Linear
from int8_kernel import QuantizedLinear

__all__ = ["save_quantized", "load_quantized"]


def save_quantized(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a network from `quantize_network` to a safetensors file: its state_dict, and which layer is quantized how.

    ValueError if no layer is: `load_quantized` could not tell what the core, or torch, made of the others.
    """
    layers: dict[str, dict[str, object]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, Int4Linear):
            layers[name] = {"group_size": 2 * module.packed.shape[1] // module.scale.shape[1]}
        elif isinstance(module, QuantizedConv2d):
            layers[name] = _options(module.products[0])
        elif isinstance(module, QuantizedLinear) and name.rpartition(".products.")[0] not in layers:
            layers[name] = _options(module)
    if not layers:
        raise ValueError(f"no layer of quantize_network is in this {type(model).__name__}")
    tensors = {name: tensor.clone().contiguous() for name, tensor in model.state_dict().items()}
    content = save(tensors, metadata={"layers": json.dumps(layers)})
    beside = Path(f"{os.fspath(path)}.{os.getpid()}.new")
    try:
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def load_quantized(model: nn.Module, path: str | os.PathLike[str]) -> nn.Module:
    """Read a file of `save_quantized` back, bit for bit.

    `model` is the float architecture; its values and its precision do not matter and it stays as it is. ValueError, with the
    path, if the file is not from `save_quantized` (empty, cut, another format), or does not fit the architecture; OSError if it
    cannot be opened.
    """
    layers, tensors = _read(path)
    quantized = float_copy(model)
    for parameter in quantized.parameters():
        nn.init.zeros_(parameter)  # whatever stands there, NaN too
    floats = dict(quantized.named_modules(remove_duplicate=False))
    for name, options in layers.items():
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
        for name, own in quantized.state_dict().items():
            if name in tensors and tensors[name].dtype != own.dtype:
                raise RuntimeError(f"{name} is {tensors[name].dtype}, {own.dtype} is needed")
        quantized.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit this model: {error}") from error
    return quantized.eval()


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, dict[str, object]], dict[str, Tensor]]:
    """Return the options of each quantized layer, and all tensors."""
    with open(path, "rb"):  # OSError, with the path, if there is none
        pass
    try:
        with safe_open(path, framework="pt") as file:
            layers = json.loads((file.metadata() or {})["layers"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} was not written by save_quantized, or is damaged: {error}") from None
    if not isinstance(layers, dict) or not all(isinstance(options, dict) for options in layers.values()):
        raise ValueError(f"{path} was not written by save_quantized: its layers are {str(layers)[:80]}")
    return layers, tensors


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
    input_range = (0.0, 1.0) if options.get("mode") == "static" else None
    return kind(layer, input_range=input_range, **options)  # type: ignore[arg-type]
