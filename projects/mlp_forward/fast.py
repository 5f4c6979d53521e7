"""The network of mlp_forward.py for large batches and for input that nobody has looked at: the fast twin.

What it adds: float16, computed and summed in float32 and rounded once per layer; weights in the order in which BLAS reads
them; bias and activation in place; large batches in blocks; and it refuses NaN, inf, and arguments of a wrong kind.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

import mlp_forward

__all__ = ["MLP", "linear"]

Floats = NDArray[np.floating[Any]]


def linear(x: ArrayLike, weight: ArrayLike, bias: ArrayLike | None = None) -> Floats:
    """Apply one layer of neurons, ``x @ weight.T + bias``: (..., in) to (..., out).

    weight : (out, in); bias : (out,), or None. The result has the dtype that NumPy promotes all arguments to together, or
    float64 where that is bool or an integer; float16 is multiplied and summed in float32 and rounded once. NaN and inf
    propagate without a warning. Shapes that do not fit raise ValueError, complex numbers and objects TypeError; the
    messages hold the shapes, the dtype.
    """
    dtype = _float_dtype(*(np.asarray(a) for a in (x, weight, bias) if a is not None))
    x, weight = np.asarray(x, dtype), np.asarray(weight, dtype)
    if weight.ndim != 2 or x.ndim == 0 or x.shape[-1] != weight.shape[1]:
        raise ValueError(f"x must be (..., in) and weight (out, in), got {x.shape} and {weight.shape}")
    bias = np.zeros(len(weight), dtype) if bias is None else np.asarray(bias, dtype)
    if bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must be {weight.shape[:1]} for weight {weight.shape}, got {bias.shape}")
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])  # one matrix product, not one per leading index
    with np.errstate(over="ignore", invalid="ignore"):
        y = _affine(rows, weight, bias)
    return y.reshape(*x.shape[:-1], len(weight))


class MLP(mlp_forward.MLP):
    """The network of mlp_forward.py, with the same parameters for the same `rng`; `dtype` may be float16 too.

    ValueError for sizes that are not two or more positive integers, an activation or an init that does not exist;
    TypeError if `rng` is not a ``numpy.random.Generator`` (a seed is not) or for another dtype. The messages hold the value;
    for `rng` they hold its type.

    The methods that take an `x` raise ValueError if its last axis is not `in` (the message holds the shape and the expected
    width) or if a value is NaN or infinite in the network's dtype (the message holds its index, such as ``[3, 17]``), and
    TypeError if it is complex or holds no numbers. If a layer overflows on finite input, the outputs are inf or NaN, without
    a warning.
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
        whole = [size for size in sizes if isinstance(size, int | np.integer) and not isinstance(size, bool)]
        widths = [int(size) for size in whole if size > 0]
        if len(widths) < 2 or len(widths) != len(sizes):
            raise ValueError(f"sizes must be two or more positive integers, got {sizes!r}")
        if not isinstance(rng, np.random.Generator):
            raise TypeError(f"rng must be a numpy.random.Generator, got {type(rng).__name__}")
        if np.dtype(dtype) not in (np.float16, np.float32, np.float64):
            raise TypeError(f"dtype must be float16, float32 or float64, got {np.dtype(dtype)}")
        super().__init__(widths, activation=activation, init=init, rng=rng, dtype=dtype)
        # Column-major, because the matrix product reads weight.T: MEASURED.md says what that is worth.
        self.layers = [(np.asfortranarray(weight), bias) for weight, bias in self.layers]

    def activations(self, x: ArrayLike) -> list[Floats]:
        """Compute every layer's output, as arrays of their own: the hidden layers after their activation, then the logits."""
        return self._outputs(self._checked(x))

    def forward(self, x: ArrayLike) -> Floats:
        """Compute the logits, (..., in) to (..., out), as a new array, in blocks of rows."""
        x = self._checked(x)
        rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
        n_logits = len(self.layers[-1][1])
        logits = np.empty((len(rows), n_logits), rows.dtype)
        for start in range(0, len(rows), _BLOCK_ROWS):
            block = slice(start, start + _BLOCK_ROWS)
            logits[block] = self._outputs(rows[block])[-1]
        return logits.reshape(*x.shape[:-1], n_logits)

    def predict_proba(self, x: ArrayLike) -> Floats:
        """Return the softmax of the logits over the last axis; float16 logits are exponentiated and summed in float32."""
        logits = self.forward(x)
        with np.errstate(over="ignore", invalid="ignore"):
            p = np.array(logits, np.result_type(logits, np.float32))
            p -= p.max(axis=-1, keepdims=True)
            np.exp(p, out=p)
            p /= p.sum(axis=-1, keepdims=True)
        return np.asarray(p, logits.dtype)

    def _checked(self, x: ArrayLike) -> Floats:
        """Return `x` in the network's dtype, or raise what the class promises."""
        x = np.asarray(x)
        _float_dtype(x)
        weight = self.layers[0][0]
        if x.ndim == 0 or x.shape[-1] != weight.shape[1]:
            raise ValueError(f"x must be (..., {weight.shape[1]}), got {x.shape}")
        with np.errstate(over="ignore"):
            x = np.asarray(x, weight.dtype)
        if not np.isfinite(x).all():
            position = np.argwhere(~np.isfinite(x))[0].tolist()
            raise ValueError(f"x holds {x[tuple(position)]} at {position}: not a finite {x.dtype}")
        return x

    def _outputs(self, x: Floats) -> list[Floats]:
        """Return what `activations` promises, for an `x` that is known to be good."""
        outputs = [x]
        with np.errstate(over="ignore", invalid="ignore"):
            for weight, bias in self.layers[:-1]:
                outputs.append(_affine(outputs[-1], weight, bias))
                _ACTIVATIONS[self.activation](outputs[-1])
            outputs.append(_affine(outputs[-1], *self.layers[-1]))
        return outputs[1:]


# Keeps the hidden layers of a large batch small (2 MB each for 512 neurons) and the matrix products large.
_BLOCK_ROWS = 1024


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


def _float_dtype(*arrays: NDArray[Any]) -> np.dtype[Any]:
    """Return the floating dtype that `arrays` promote to; bool and integers become float64."""
    for array in arrays:
        if array.dtype.kind not in "fiub":
            raise TypeError(f"real numbers are needed, got an array of {array.dtype}")
    dtype = np.result_type(*arrays)
    return dtype if dtype.kind == "f" else np.dtype(np.float64)
