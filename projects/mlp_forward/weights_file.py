"""A network in a safetensors file, which PyTorch reads and writes too.

The file holds the tensors of ``torch.nn.Sequential(Linear, activation, Linear, ..., Linear)``: "0.weight" (out, in),
"0.bias" (out,), "2.weight", "2.bias" and so on, all float16, all float32 or all float64. The metadata entry "activation"
names the activation.

Source: https://github.com/huggingface/safetensors (the format).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from mlp_forward import MLP

__all__ = ["read_network", "write_network"]


def read_network(path: str | os.PathLike[str], network: type[MLP] = MLP) -> MLP:
    """Read a `network` from a file: its dtype is the file's, its activation the metadata's, or "relu" where there is none.

    FileNotFoundError if there is no such file. ValueError if it is damaged, truncated or not in the format; a tensor is
    missing or unexpected; a shape does not fit or has a zero; dtypes differ or are no floats; a value is NaN or infinite;
    the activation is unknown. The message holds the path, and the tensor or activation at fault where there is one.
    """
    tensors, activation = _read(path)
    numbers = {name.split(".")[0] for name in tensors if name.endswith((".weight", ".bias"))}
    names = [(f"{2 * k}.weight", f"{2 * k}.bias") for k in range(max(len(numbers), 1))]
    missing = [name for pair in names for name in pair if name not in tensors]
    unexpected = tensors.keys() - {name for pair in names for name in pair}
    if missing or unexpected:
        raise ValueError(
            f"{path}: the tensors are not those of linear layers 0, 2, ...: "
            f"missing {missing or 'none'}, unexpected {sorted(unexpected) or 'none'}"
        )
    for weight_name, bias_name in names:
        _check_tensors(tensors, weight_name, bias_name, path)
    first = tensors["0.weight"]
    sizes = [first.shape[1], *(len(tensors[weight_name]) for weight_name, _ in names)]
    rng = np.random.default_rng(0)  # draws nothing that stays
    try:
        mlp = network(sizes, activation=activation, init="zeros", rng=rng, dtype=first.dtype)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    for (weight, bias), (weight_name, bias_name) in zip(mlp.layers, names, strict=True):
        weight[...], bias[...] = tensors[weight_name], tensors[bias_name]
    return mlp


def write_network(mlp: MLP, path: str | os.PathLike[str]) -> None:
    """Write a network to a file that `read_network` reads back bit for bit, and torch with the same names.

    An existing file is replaced once the new one is complete and on the disk (``os.fsync``); no other file is left behind, not
    even where writing fails. ValueError if a parameter is NaN or infinite; the message holds the tensor's name, and nothing
    is written.
    """
    tensors = {}
    for k, layer in enumerate(mlp.layers):
        for kind, parameter in zip(("weight", "bias"), layer, strict=True):
            if not np.isfinite(parameter).all():
                raise ValueError(f"{2 * k}.{kind} holds NaN or inf: not written to {path}")
            # `save` copies memory without looking at strides: a column-major weight would come back scrambled.
            tensors[f"{2 * k}.{kind}"] = np.ascontiguousarray(parameter)
    temporary = Path(f"{os.fspath(path)}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(save(tensors, metadata={"activation": mlp.activation}))
            file.flush()
            os.fsync(file.fileno())  # else a power cut can leave the new name with nothing behind it
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, NDArray[Any]], str]:
    """Return the tensors of a safetensors file and the name of its activation."""
    try:
        with safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            return tensors, (file.metadata() or {}).get("activation", "relu")
    except FileNotFoundError:
        raise
    # TypeError and AttributeError: a dtype that NumPy lacks, such as bfloat16; OSError: a folder.
    except (SafetensorError, OSError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not a file of safetensors that NumPy can read: {error}") from error


def _check_tensors(
    tensors: dict[str, NDArray[Any]], weight_name: str, bias_name: str, path: str | os.PathLike[str]
) -> None:
    """Raise ValueError if the tensors of one layer could not follow those of the layer before."""
    weight, bias = tensors[weight_name], tensors[bias_name]
    k = int(weight_name.split(".")[0])
    n_in = len(tensors[f"{k - 2}.bias"]) if k else (weight.shape or (1,))[-1]
    if weight.ndim != 2 or weight.size == 0 or weight.shape[1] != n_in:
        raise ValueError(f"{path}: {weight_name} must be (out, {n_in}), got {weight.shape}")
    if bias.shape != weight.shape[:1]:
        raise ValueError(f"{path}: {bias_name} must be {weight.shape[:1]}, got {bias.shape}")
    for name in (weight_name, bias_name):
        dtype = tensors["0.weight"].dtype
        if dtype.kind != "f" or tensors[name].dtype != dtype:
            raise ValueError(
                f"{path}: {name} must be of the floating dtype of 0.weight, got {tensors[name].dtype}"
            )
        if not np.isfinite(tensors[name]).all():
            raise ValueError(f"{path}: {name} holds NaN or inf")
