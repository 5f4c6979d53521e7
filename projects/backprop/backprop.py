"""Backpropagation through a simple network, in plain NumPy: layers, a loss, two optimizers and the loop that trains.

The contract. A layer's `forward(x)` returns the output and keeps what the chain rule needs. `backward(grad)` takes the
gradient of the loss by the latest output and returns the one by the input. On the way it puts the gradients of the layer's
own `parameters` into `gradients`, a dict of the same names, where they replace the earlier ones: nothing is added up.
An optimizer's `step` changes the arrays in `parameters` in place. What it remembers it keeps by name, in arrays of its own:
those of the gradients may be overwritten. Its attribute `lr` may change at any time.
Nothing else that was handed in or returned is modified. Input and parameters are all float32 or all float64; so are outputs
and gradients. `training` and `rng` are for layers that behave in another way while they learn; the layers here ignore them.
Not defined here: NaN and inf, empty batches, shapes and dtypes that do not fit, a backward without a forward, one layer or
array twice. checked.py refuses those; regularization.py has dropout, norms, residual connections, optimizers.py AdamW.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = ["Linear", "ReLU", "Tanh", "Sequential", "SoftmaxCrossEntropy", "SGD", "Adam", "fit"]

Array = NDArray[np.floating]
Arrays = dict[str, Array]
Rng = np.random.Generator


class Linear:
    """Affine map of the last axis, ``y = x Wᵀ + b``: (..., n_in) to (..., n_out), with any number of leading axes, or none.

    Backward: ``∂L/∂x = ∂L/∂y W``, ``∂L/∂W = (∂L/∂y)ᵀ x``, ``∂L/∂b = Σ ∂L/∂y``, summed over all leading axes.
    parameters : "weight" (n_out, n_in), normal numbers from `rng` with mean 0 and standard deviation ``√(2/n_in)``, and
        "bias" (n_out,), zeros, which ``bias=False`` leaves out; arrays of `dtype`
    Source: He et al. 2015, arXiv 1502.01852, eq. 10.
    """

    def __init__(self, n_in: int, n_out: int, *, rng: Rng, bias: bool = True, dtype: DTypeLike = np.float32):
        weight = rng.standard_normal((n_out, n_in)) * (2 / n_in) ** 0.5
        self.parameters, self.gradients = Arrays(weight=weight.astype(dtype)), Arrays()
        if bias:
            self.parameters["bias"] = np.zeros(n_out, dtype)

    def forward(self, x: Array, *, training: bool = False, rng: Rng | None = None) -> Array:
        """Return ``x Wᵀ + b``."""
        self._x = x
        return x @ self.parameters["weight"].T + self.parameters.get("bias", 0)

    def backward(self, grad: Array) -> Array:
        """Return ``∂L/∂x``; set the gradients of "weight" and "bias"."""
        rows = grad.reshape(-1, grad.shape[-1])
        self.gradients["weight"] = rows.T @ self._x.reshape(-1, self._x.shape[-1])
        if "bias" in self.parameters:
            self.gradients["bias"] = rows.sum(axis=0)
        return grad @ self.parameters["weight"]


class ReLU:
    """``y = max(x, 0)``, any shape; the gradient passes where ``x > 0`` and stops elsewhere, at 0 too."""

    parameters, gradients = Arrays(), Arrays()

    def forward(self, x: Array, *, training: bool = False, rng: Rng | None = None) -> Array:
        """Return ``max(x, 0)``."""
        self._passes = x > 0
        return np.maximum(x, 0)

    def backward(self, grad: Array) -> Array:
        """Return ``∂L/∂y`` where ``x > 0``, else 0."""
        return grad * self._passes


class Tanh:
    """``y = tanh(x)``, any shape, with ``dy/dx = 1 - y²``."""

    parameters, gradients = Arrays(), Arrays()

    def forward(self, x: Array, *, training: bool = False, rng: Rng | None = None) -> Array:
        """Return ``tanh(x)``."""
        self._y = np.tanh(x)
        return self._y

    def backward(self, grad: Array) -> Array:
        """Return ``∂L/∂y · (1 - y²)``."""
        return grad * (1 - self._y * self._y)


class Sequential:
    """Layers one after the other: forward from the first to the last, backward from the last to the first.

    `parameters` and `gradients` are those of all layers, named as in torch: "0.weight", "0.bias", "2.weight", … The arrays
    are the layers' own, not copies. A layer is any object that keeps the contract, another `Sequential` too.
    """

    def __init__(self, *layers: Any):
        self.layers = layers

    @property
    def parameters(self) -> Arrays:
        """The arrays of all layers, as ``"<index>.<name>"``."""
        return {f"{i}.{k}": v for i, layer in enumerate(self.layers) for k, v in layer.parameters.items()}

    @property
    def gradients(self) -> Arrays:
        """The gradients of all layers, under the names of `parameters`."""
        return {f"{i}.{k}": v for i, layer in enumerate(self.layers) for k, v in layer.gradients.items()}

    def forward(self, x: Array, *, training: bool = False, rng: Rng | None = None) -> Array:
        """Return the last layer's output; `training` and `rng` are handed to every layer."""
        for layer in self.layers:
            x = layer.forward(x, training=training, rng=rng)
        return x

    def backward(self, grad: Array) -> Array:
        """Return the gradient by the first layer's input."""
        for layer in reversed(self.layers):
            grad = layer.backward(grad)
        return grad


class SoftmaxCrossEntropy:
    """Mean over the batch of ``-log softmax(logits)[target]``; logits of ±1e4 do not overflow; further: a loss of 1e-18 keeps its digits."""

    def forward(self, logits: Array, targets: NDArray[np.integer]) -> float:
        """Return the loss for logits (batch, classes) and class indices (batch,); one outside [0, classes): ValueError."""
        if not 0 <= targets.min() <= targets.max() < logits.shape[1]:  # NumPy would count -1 from the end
            raise ValueError(f"{targets.min()} to {targets.max()} are not among {logits.shape[1]} classes")
        z = logits - logits.max(axis=1, keepdims=True)  # the largest exponent is 0
        e, rows = np.exp(z), np.arange(len(z))
        self._softmax, self._right = e / e.sum(axis=1, keepdims=True), (rows, targets)
        e[rows, z.argmax(axis=1)] = 0  # the 1 in log(1 + rest), where log1p does not lose a small rest
        return float(np.mean(np.log1p(e.sum(axis=1)) - z[self._right]))

    def backward(self) -> Array:
        """Return ``∂L/∂logits = (softmax(logits) - one_hot(target)) / batch`` for the latest `forward`; further: a tiny p - 1 keeps its digits."""
        grad = self._softmax.copy()
        grad[self._right] = 0
        grad[self._right] = -grad.sum(axis=1)  # p - 1, without its rounding
        return grad / len(grad)


class SGD:
    """Stochastic gradient descent with momentum: ``v ← momentum · v + g``, ``θ ← θ - lr · v``, where v starts at 0."""

    def __init__(self, lr: float, *, momentum: float = 0.0):
        self.lr, self.momentum = lr, momentum
        self._velocity: Arrays = {}

    def step(self, parameters: Arrays, gradients: Arrays) -> None:
        """Move every array in `parameters` along the gradient of its name, in place."""
        for name, parameter in parameters.items():
            v = self._velocity[name] = self.momentum * self._velocity.get(name, 0) + gradients[name]
            parameter -= self.lr * v


class Adam:
    """Momentum, divided by the gradient's recent size; both are running means, corrected for their start at 0.

        m ← β₁ m + (1 - β₁) g        v ← β₂ v + (1 - β₂) g²        t counts the steps from 1
        θ ← θ - lr · m̂ / (√v̂ + eps)        m̂ = m / (1 - β₁ᵗ)        v̂ = v / (1 - β₂ᵗ)

    Source: Kingma and Ba 2015, arXiv 1412.6980, algorithm 1.
    """

    def __init__(self, lr: float = 1e-3, *, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8):
        self.lr, self.betas, self.eps, self._t = lr, betas, eps, 0
        self._moments: dict[str, tuple[Array, Array]] = {}

    def step(self, parameters: Arrays, gradients: Arrays) -> None:
        """Move every array in `parameters` along the gradient of its name, in place."""
        self._t += 1
        beta1, beta2 = self.betas
        for name, parameter in parameters.items():
            g, (m, v) = gradients[name], self._moments.get(name, (0, 0))
            m, v = self._moments[name] = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
            m_hat, v_hat = m / (1 - beta1**self._t), v / (1 - beta2**self._t)
            parameter -= self.lr * m_hat / (np.sqrt(v_hat) + self.eps)


def fit(
    model: Any, loss: Any, optimizer: Any, x: Array, targets: NDArray[Any], *, epochs: int, batch_size: int = 64, rng: Rng
) -> list[float]:  # fmt: skip
    """Train `model` in place with shuffled minibatches; return the mean training loss per sample of each epoch.

    Each epoch visits every sample once, ``x[i]`` with ``targets[i]``, in a new random order from `rng`; its last batch holds
    what is left. Per batch: forward (with ``training=True`` and `rng`), loss.forward, loss.backward, backward, step.
    `x` and `targets` of different length raise ValueError.
    """
    if len(x) != len(targets):
        raise ValueError(f"one target per sample is needed, got {len(x)} samples and {len(targets)} targets")
    history = []
    for _ in range(epochs):
        order, total = rng.permutation(len(x)), 0.0
        for start in range(0, len(x), batch_size):
            batch = order[start : start + batch_size]
            output = model.forward(x[batch], training=True, rng=rng)
            total += loss.forward(output, targets[batch]) * len(batch)
            model.backward(loss.backward())
            optimizer.step(model.parameters, model.gradients)
        history.append(total / len(x))
    return history
