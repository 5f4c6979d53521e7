"""The forward pass of a multilayer perceptron in NumPy, its initialisation, and its weights in a file.

    h_0 = x,   h_k = activation(h_{k-1} W_kᵀ + b_k),   logits = h_{L-1} W_Lᵀ + b_L

Reading order: `linear` is one layer, `MLP` is a stack of them. No activation follows the last layer: its outputs
are logits, and `MLP.predict_proba` turns them into probabilities.

The forward pass itself takes fifteen lines. Half of the rest refuses what is wrong with an input or a weights file,
which is why this module is longer than others.

Sources: Goodfellow, Bengio and Courville, "Deep Learning" (2016), section 6.1 (the forward pass);
https://github.com/huggingface/safetensors (the file format).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

__all__ = ["MLP", "linear"]

Floats = NDArray[np.floating[Any]]
Layer = tuple[Floats, Floats]  # (weight, bias)


def linear(x: ArrayLike, weight: ArrayLike, bias: ArrayLike | None = None) -> Floats:
    """Apply one layer of neurons, ``x @ weight.T + bias``: each output is one neuron's weighted sum of the inputs.

    Parameters
    ----------
    x : (..., in) array
        Any number of leading axes, none and empty ones included. It is not modified.
    weight : (out, in) array
        Row j holds the weights of neuron j, as in ``torch.nn.Linear``.
    bias : (out,) array, optional
        What neuron j adds to its sum.

    Returns
    -------
    (..., out) array
        A new array of the dtype that NumPy promotes the arguments to; bool and integers give float64. float16 is
        multiplied and summed in float32 and rounded once. NaN and inf propagate without a warning.

    Raises
    ------
    ValueError
        If the shapes do not fit; the message holds the offending shapes. Nothing is broadcast: the bias of n neurons
        has shape (n,).
    TypeError
        If an argument is complex or holds no numbers; the message holds its dtype.
    """
    x, weight = np.asarray(x), np.asarray(weight)
    bias = None if bias is None else np.asarray(bias)
    dtype = _float_dtype(x, weight) if bias is None else _float_dtype(x, weight, bias)
    if weight.ndim != 2 or x.ndim == 0 or x.shape[-1] != weight.shape[1]:
        raise ValueError(f"x must be (..., in) and weight (out, in), got {x.shape} and {weight.shape}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must be {weight.shape[:1]} for weight {weight.shape}, got {bias.shape}")
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])  # one matrix product, not one per leading index
    rows, weight = rows.astype(dtype, copy=False), weight.astype(dtype, copy=False)
    bias = np.zeros(len(weight), dtype) if bias is None else bias.astype(dtype, copy=False)
    with np.errstate(over="ignore", invalid="ignore"):
        y = _affine(rows, weight, bias)
    return y.reshape(*x.shape[:-1], len(weight))


class MLP:
    """A multilayer perceptron: linear layers with one activation between each two of them.

    ``MLP([64, 128, 10], rng=rng)`` has 64 inputs, one hidden layer of 128 neurons and 10 logits.

    Parameters
    ----------
    sizes : sequence of int
        Number of inputs, neurons of each hidden layer, number of outputs: two or more positive integers.
    activation : {"relu", "tanh", "sigmoid", "identity"}
        Applied to the output of every layer but the last.
    init : {"he", "xavier", "lecun", "zeros"}
        Weights are independent normal variables of mean 0 and variance 2/in ("he"), 2/(in + out) ("xavier", also
        called Glorot), 1/in ("lecun") or 0 ("zeros"), for a layer of shape (out, in). Biases are 0.
    rng : numpy.random.Generator
        The only source of randomness: the same seed gives the same network.
    dtype : dtype, default float32
        float16, float32 or float64: the dtype of the parameters, to which every input is converted and in which
        every output is given.

    Attributes
    ----------
    activation : str
        As given.

    Raises
    ------
    ValueError
        For sizes, an activation or an init that is none of these; the message holds the offending value.
    TypeError
        If `rng` is not a ``numpy.random.Generator`` (a seed is not) or for another dtype; the message names it.

    Notes
    -----
    The methods that take an `x` accept any (..., in) array of real numbers, empty ones included, and do not modify
    it. They raise ValueError if the last axis is not `in` (the message holds the shape and the expected width) or if
    a value is NaN or infinite in the network's dtype (the message holds its index, such as ``[3, 17]``), and
    TypeError if `x` is complex or holds no numbers. If a layer overflows on finite input, the outputs are inf or NaN,
    without a warning.

    Source: He et al. 2015, arXiv 1502.01852, eq. 10 ("he"); Glorot and Bengio 2010, AISTATS 9, eq. 12 ("xavier");
    LeCun et al. 1998, "Efficient BackProp", eq. 16 ("lecun").
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        activation: str = "relu",
        init: str = "he",
        rng: np.random.Generator,
        dtype: DTypeLike = np.float32,
    ) -> None:
        widths = [int(size) for size in sizes if isinstance(size, int | np.integer) and size > 0]
        if len(widths) < 2 or len(widths) != len(sizes):
            raise ValueError(f"sizes must be two or more positive integers, got {sizes!r}")
        if activation not in _ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(_ACTIVATIONS)}, got {activation!r}")
        if init not in _VARIANCES:
            raise ValueError(f"init must be one of {', '.join(_VARIANCES)}, got {init!r}")
        if not isinstance(rng, np.random.Generator):
            raise TypeError(f"rng must be a numpy.random.Generator, got {type(rng).__name__}")
        if np.dtype(dtype) not in (np.float16, np.float32, np.float64):
            raise TypeError(f"dtype must be float16, float32 or float64, got {np.dtype(dtype)}")
        self.activation = activation
        layers = []
        for n_in, n_out in pairwise(widths):
            weight = rng.normal(0, _VARIANCES[init](n_in, n_out) ** 0.5, size=(n_out, n_in))
            # Column-major, because the matrix product reads weight.T: benchmark.py measures what that is worth.
            layers.append((np.asfortranarray(weight, dtype=dtype), np.zeros(n_out, dtype)))
        self._layers: tuple[Layer, ...] = tuple(layers)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The network's own ``(weight, bias)`` arrays, first layer first: writing into one changes the network.

        Shapes are those of `linear`, (out, in) and (out,).
        """
        return self._layers

    @property
    def n_parameters(self) -> int:
        """How many numbers the network holds: all weights and all biases."""
        return sum(weight.size + bias.size for weight, bias in self._layers)

    def forward(self, x: ArrayLike) -> Floats:
        """Compute the logits, (..., in) to (..., out), as a new array; Notes of `MLP` state what `x` may be.

        The logits of one row do not depend on the other rows.
        """
        x = self._checked(x)
        rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
        n_logits = len(self._layers[-1][1])
        logits = np.empty((len(rows), n_logits), rows.dtype)
        for start in range(0, len(rows), _BLOCK_ROWS):
            block = slice(start, start + _BLOCK_ROWS)
            logits[block] = self._outputs(rows[block])[-1]
        return logits.reshape(*x.shape[:-1], n_logits)

    def activations(self, x: ArrayLike) -> list[Floats]:
        """Compute every layer's output, first layer first: the hidden layers after their activation, then the logits.

        Item k is an array of its own, of shape (..., out of layer k). `x` itself is not in the list.
        """
        return self._outputs(self._checked(x))

    def predict(self, x: ArrayLike) -> NDArray[np.intp]:
        """Return the class of the largest logit, (..., in) to (...) intp; of equal ones the lowest class."""
        return np.asarray(self.forward(x).argmax(axis=-1))

    def predict_proba(self, x: ArrayLike) -> Floats:
        """Return the softmax of the logits over the last axis, (..., in) to (..., out): each row sums to 1.

        Logits of ±1e4 give no overflow and no NaN. A float16 network's logits are exponentiated and summed in float32.
        """
        logits = self.forward(x)
        # The softmax of the project `activations`, again: a folder here stands alone.
        with np.errstate(over="ignore", invalid="ignore"):
            p = logits.astype(np.result_type(logits, np.float32))
            p -= p.max(axis=-1, keepdims=True)
            np.exp(p, out=p)
            p /= p.sum(axis=-1, keepdims=True)
        return p.astype(logits.dtype, copy=False)

    @classmethod
    def from_safetensors(cls, path: str | os.PathLike[str]) -> Self:
        """Read a network from a safetensors file.

        The file holds the tensors of ``torch.nn.Sequential(Linear, activation, Linear, ..., Linear)``: "0.weight"
        (out, in), "0.bias" (out,), "2.weight", "2.bias" and so on, all float16, all float32 or all float64, which
        becomes the network's dtype. The activation is the metadata entry "activation", or "relu" where there is none.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the file is damaged, truncated or not in the format; a tensor is missing or unexpected; a shape does
            not fit or has a zero; dtypes differ or are no floats; a value is NaN or infinite; the activation is
            unknown. The message holds the path, and the tensor or activation at fault where there is one.
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
        if activation not in _ACTIVATIONS:
            raise ValueError(
                f"{path}: activation must be one of {', '.join(_ACTIVATIONS)}, got {activation!r}"
            )
        first = tensors["0.weight"]
        sizes = [first.shape[1], *(len(tensors[weight_name]) for weight_name, _ in names)]
        mlp = cls(sizes, activation=activation, init="zeros", rng=np.random.default_rng(0), dtype=first.dtype)
        for (weight, bias), (weight_name, bias_name) in zip(mlp.layers, names, strict=True):
            weight[...], bias[...] = tensors[weight_name], tensors[bias_name]
        return mlp

    def to_safetensors(self, path: str | os.PathLike[str]) -> None:
        """Write the network to a file that `from_safetensors` reads back bit for bit, and torch with the same names.

        An existing file is replaced once the new one is complete; no other file is left behind.

        Raises
        ------
        ValueError
            If a parameter is NaN or infinite; the message holds the tensor's name, and nothing is written.
        """
        tensors = {}
        for k, layer in enumerate(self._layers):
            for kind, parameter in zip(("weight", "bias"), layer, strict=True):
                if not np.isfinite(parameter).all():
                    raise ValueError(f"{2 * k}.{kind} holds NaN or inf: not written to {path}")
                # `save` copies memory without looking at strides: a column-major weight would come back scrambled.
                tensors[f"{2 * k}.{kind}"] = np.ascontiguousarray(parameter)
        temporary = Path(f"{os.fspath(path)}.tmp")
        temporary.write_bytes(save(tensors, metadata={"activation": self.activation}))
        temporary.replace(path)

    def _checked(self, x: ArrayLike) -> Floats:
        """Return `x` in the network's dtype, or raise what Notes of `MLP` promise."""
        x = np.asarray(x)
        _float_dtype(x)
        weight = self._layers[0][0]
        if x.ndim == 0 or x.shape[-1] != weight.shape[1]:
            raise ValueError(f"x must be (..., {weight.shape[1]}), got {x.shape}")
        with np.errstate(over="ignore"):
            x = x.astype(weight.dtype, copy=False)
        if not np.isfinite(x).all():
            position = np.argwhere(~np.isfinite(x))[0].tolist()
            raise ValueError(f"x holds {x[tuple(position)]} at {position}: not a finite {x.dtype}")
        return x

    def _outputs(self, x: Floats) -> list[Floats]:
        """Return what `activations` promises, for an `x` that is known to be good."""
        outputs = [x]
        with np.errstate(over="ignore", invalid="ignore"):
            for weight, bias in self._layers[:-1]:
                outputs.append(_affine(outputs[-1], weight, bias))
                _ACTIVATIONS[self.activation](outputs[-1])
            outputs.append(_affine(outputs[-1], *self._layers[-1]))
        return outputs[1:]


def _affine(x: Floats, weight: Floats, bias: Floats) -> Floats:
    """Return x @ weight.T + bias for arrays of one dtype and fitting shapes: `linear` without its checks."""
    if x.dtype == np.float16:
        wide = _affine(x.astype(np.float32), weight.astype(np.float32), bias.astype(np.float32))
        return wide.astype(np.float16)
    y: Floats = x @ weight.T
    y += bias
    return y


def _relu(h: Floats) -> None:
    np.maximum(h, 0, out=h)


def _tanh(h: Floats) -> None:
    np.tanh(h, out=h)


def _sigmoid(h: Floats) -> None:
    """1/(1 + e^-h) through tanh, which cannot overflow."""
    h *= 0.5
    np.tanh(h, out=h)
    h *= 0.5
    h += 0.5


def _identity(h: Floats) -> None:
    """Leave the layer linear, so that the whole network is one linear map."""


_ACTIVATIONS: dict[str, Callable[[Floats], None]] = {  # each works in place
    "relu": _relu,
    "tanh": _tanh,
    "sigmoid": _sigmoid,
    "identity": _identity,
}

_VARIANCES: dict[str, Callable[[int, int], float]] = {
    "he": lambda n_in, n_out: 2 / n_in,
    "xavier": lambda n_in, n_out: 2 / (n_in + n_out),
    "lecun": lambda n_in, n_out: 1 / n_in,
    "zeros": lambda n_in, n_out: 0.0,
}

# Keeps the hidden layers of a large batch small (2 MB each for 512 neurons) and the matrix products large.
_BLOCK_ROWS = 1024


def _float_dtype(*arrays: NDArray[Any]) -> np.dtype[Any]:
    """Return the floating dtype that `arrays` promote to; bool and integers become float64."""
    for array in arrays:
        if array.dtype.kind not in "fiub":
            raise TypeError(f"real numbers are needed, got an array of {array.dtype}")
    dtype = np.result_type(*arrays)
    return dtype if dtype.kind == "f" else np.dtype(np.float64)


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
