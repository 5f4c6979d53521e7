"""The forward pass of a multilayer perceptron, in plain NumPy.

    h_0 = x,   h_k = activation(h_{k-1} W_kᵀ + b_k),   logits = h_{L-1} W_Lᵀ + b_L

The contract: arrays or lists of real numbers, with any number of leading axes: (..., in) to (..., out), empty ones included.
float32 and float64 keep their dtype, the wider one counts; bool and integers become float64. Complex numbers and objects
raise TypeError. Shapes that do not fit raise ValueError: nothing is broadcast. No argument is modified, and each result is
a new array. NaN and inf in an input are not defined here.

fast.py is the same network faster, with float16, and refuses what is not finite; weights_file.py keeps it in a file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

__all__ = ["MLP", "linear"]

Floats = NDArray[np.floating]


def linear(x: ArrayLike, weight: ArrayLike, bias: ArrayLike | None = None) -> Floats:
    """Apply one layer of neurons, ``x @ weight.T + bias``: (..., in) to (..., out).

    weight : (out, in), row j holds the weights of neuron j, as in ``torch.nn.Linear``; bias : (out,), or None for zeros.
    """
    x, weight = _as_float(x), _as_float(weight)
    if weight.ndim != 2 or x.ndim == 0 or x.shape[-1] != weight.shape[1]:
        raise ValueError(f"x must be (..., in) and weight (out, in), got {x.shape} and {weight.shape}")
    if bias is None:
        return x @ weight.T
    bias = _as_float(bias)
    if bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must be {weight.shape[:1]} for weight {weight.shape}, got {bias.shape}")
    return x @ weight.T + bias


class MLP:
    """A multilayer perceptron: linear layers with an activation between them; the last layer has none.

    ``MLP([64, 128, 10], rng=rng)`` has 64 inputs, one hidden layer of 128 neurons and 10 logits.

    sizes : two or more widths, of the input, of each hidden layer, of the output
    activation : "relu", "tanh", "sigmoid" or "identity"
    init : weights are independent normal numbers of mean 0 and variance 2/in ("he"), 2/(in + out) ("xavier"), 1/in
        ("lecun") or 0 ("zeros"); biases are 0
    rng : numpy.random.Generator, the only source of randomness
    dtype : float32 or float64, of the parameters; each x is converted to it, and each output has it

    Another `activation` or `init` raises ValueError. The attribute `layers` is a list of the (weight, bias) pairs, first
    layer first, with the shapes of `linear`. They are the network's own: who writes into one changes the network.

    Source: He et al. 2015, arXiv 1502.01852, eq. 10; Glorot and Bengio 2010, eq. 12; LeCun et al. 1998, eq. 16.
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
        if activation not in _ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(_ACTIVATIONS)}, got {activation!r}")
        if init not in _VARIANCES:
            raise ValueError(f"init must be one of {', '.join(_VARIANCES)}, got {init!r}")
        self.activation = activation
        self.layers: list[tuple[Floats, Floats]] = []
        for n_in, n_out in pairwise(sizes):
            weight = rng.normal(0, _VARIANCES[init](n_in, n_out) ** 0.5, (n_out, n_in))
            self.layers.append((weight.astype(dtype), np.zeros(n_out, dtype)))

    @property
    def n_parameters(self) -> int:
        """Count the numbers that the network learns: all weights and all biases."""
        return sum(weight.size + bias.size for weight, bias in self.layers)

    def activations(self, x: ArrayLike) -> list[Floats]:
        """Compute every layer's output: the hidden layers after their activation, then the logits; `x` is not among them.

        Each is an array of its own, (..., out of the layer).
        """
        h = _as_float(x).astype(self.layers[0][0].dtype)
        outputs = []
        for weight, bias in self.layers[:-1]:
            h = _ACTIVATIONS[self.activation](linear(h, weight, bias))
            outputs.append(h)
        return [*outputs, linear(h, *self.layers[-1])]

    def forward(self, x: ArrayLike) -> Floats:
        """Compute the logits, (..., in) to (..., out). No row depends on the other rows."""
        return self.activations(x)[-1]

    def predict(self, x: ArrayLike) -> NDArray[np.intp]:
        """Return the class of the largest logit, (..., in) to (...); of equal ones the lowest class."""
        return np.asarray(self.forward(x).argmax(axis=-1))

    def predict_proba(self, x: ArrayLike) -> Floats:
        """Return the softmax of the logits over the last axis: each row sums to 1; logits of ±1e4 do not overflow."""
        logits = self.forward(x)
        e = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return e / e.sum(axis=-1, keepdims=True)


_ACTIVATIONS: dict[str, Callable[[Floats], Floats]] = {
    "relu": lambda h: np.maximum(h, 0),
    "tanh": np.tanh,
    "sigmoid": lambda h: (1 + np.tanh(h / 2)) / 2,  # 1 / (1 + exp(-h)), and cannot overflow
    "identity": lambda h: h,
}

_VARIANCES: dict[str, Callable[[int, int], float]] = {
    "he": lambda n_in, n_out: 2 / n_in,
    "xavier": lambda n_in, n_out: 2 / (n_in + n_out),
    "lecun": lambda n_in, n_out: 1 / n_in,
    "zeros": lambda n_in, n_out: 0.0,
}


def _as_float(x: ArrayLike) -> Floats:
    """Return `x` as a floating array."""
    x = np.asarray(x)
    if x.dtype.kind not in "fiub":
        raise TypeError(f"real numbers are needed, got dtype {x.dtype}")
    return x if x.dtype.kind == "f" else x.astype(np.float64)
