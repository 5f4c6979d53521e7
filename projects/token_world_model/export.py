"""The weights as a page can carry them: JSON with base64, int8 where there are many numbers.

    python export.py                writes build/dream.json, which `nox -s tour` puts into its page

A tensor of two or more axes is stored as q = round(w / scale), in -127..127, with one scale per row of its first axis: an output
channel, a token of a table, an input channel of a transposed convolution. It is the rule of the quantization project, symmetric.
Vectors (biases, norms) stay float32; they are few. So do the codes and the encoder: they decide on tokens, and where two codes lie
close together, a rounded one would win instead of that which the world learned from. Bytes are little-endian, as in JavaScript's
typed arrays on every machine that has a browser.
"""

import base64
import json
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

HERE = Path(__file__).resolve().parent
WHOLE = ("tokenizer.codebook", "tokenizer.encoder.")  # what stays float32, whatever its shape


class Stored(TypedDict):
    """A tensor in JSON; without scales the data are float32, else int8."""

    shape: list[int]
    data: str  # base64
    scales: str  # base64 of float32, one per row of the first axis; "" for none


def store(weights: dict[str, Tensor]) -> dict[str, Stored]:
    """Return the tensors by name as JSON can hold them. ValueError for one that is not finite."""
    return {name: _store(name, tensor.float()) for name, tensor in weights.items()}


def restore(stored: dict[str, Stored]) -> dict[str, Tensor]:
    """Return what the page computes with, float32."""
    return {name: _restore(entry) for name, entry in stored.items()}


def write(
    weights: Path = HERE / "weights" / "catch.safetensors", path: Path = HERE / "build" / "dream.json"
) -> Path:
    """Write the file that the page is made of; return its path."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(store(load_file(weights))), encoding="utf-8")
    return path


def _store(name: str, tensor: Tensor) -> Stored:
    if not tensor.isfinite().all():
        raise ValueError(f"{name} holds a number that is not finite")
    shape = list(tensor.shape)
    if tensor.ndim < 2 or name.startswith(WHOLE):
        return {"shape": shape, "data": _encode(tensor, "<f4"), "scales": ""}
    rows = tensor.flatten(1)
    scales = rows.abs().amax(dim=1, keepdim=True) / 127
    scales = scales.where(scales > 0, 1.0)  # a row of zeros needs none
    return {"shape": shape, "data": _encode((rows / scales).round(), "i1"), "scales": _encode(scales, "<f4")}


def _restore(entry: Stored) -> Tensor:
    if not entry["scales"]:
        return _decode(entry["data"], "<f4").reshape(entry["shape"])
    scales = _decode(entry["scales"], "<f4")
    rows = _decode(entry["data"], "i1").reshape(len(scales), -1) * scales[:, None]
    return rows.reshape(entry["shape"])


def _encode(tensor: Tensor, dtype: str) -> str:
    return base64.b64encode(tensor.numpy().astype(dtype).tobytes()).decode("ascii")


def _decode(text: str, dtype: str) -> Tensor:
    return torch.from_numpy(np.frombuffer(base64.b64decode(text), dtype).astype(np.float32))


if __name__ == "__main__":
    path = write()
    print(f"wrote {path} ({path.stat().st_size / 1000:.0f} kB)")
