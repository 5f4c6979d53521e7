"""Backpropagation through a simple network, in NumPy: layers, losses and a minibatch loop.

Every layer is a pair that stands together. `forward` computes the output and keeps what the chain rule will
need. `backward` takes the gradient of the loss with respect to that output and returns the one with respect to
the input; on the way it leaves the gradients of the layer's own parameters in `layer.gradients`. That is all of
backpropagation: no graph, no tape, each layer knows its own derivative only.

The rules that hold for every layer and loss:

- **Gradients are overwritten, not accumulated**: `backward` replaces the arrays in `layer.gradients`, so there
  is no ``zero_grad``. Before the first `backward` the dict is empty.
- `backward` belongs to the latest `forward` of the same object, in the mode that one had (training or
  evaluation). So one layer object has one place in one network. Without a `forward` it raises RuntimeError; a
  gradient whose shape is not the output's raises ValueError naming both shapes.
- Inputs are never modified. A layer may keep a reference to its input: leave it alone until `backward` has run.
- Input and parameters are float32, or all float64 (``dtype=``); then so are outputs and gradients, and sums are
  accumulated in that dtype. NaN and inf propagate. An empty batch gives an empty output, except where a mean
  over the batch would be undefined (`BatchNorm` in training, the losses): ValueError.

Longer than 150 lines of code because nine layers, two losses and the loop stand here; each of them is short.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = [
    "Linear",
    "ReLU",
    "Sigmoid",
    "Tanh",
    "Sequential",
    "SoftmaxCrossEntropy",
    "MeanSquaredError",
    "fit",
    "Residual",
    "Dropout",
    "BatchNorm",
    "LayerNorm",
]

Array = NDArray[np.floating[Any]]


class Layer(Protocol):
    """What a layer offers; any class with these members is one (nothing inherits from it)."""

    @property
    def parameters(self) -> Mapping[str, Array]:
        """Name to array; an optimizer updates the arrays in place."""

    @property
    def gradients(self) -> Mapping[str, Array]:
        """Name to gradient of the loss, with the shape of the parameter of that name."""

    def forward(self, x: Array, *, training: bool = False, rng: np.random.Generator | None = None) -> Array:
        """Return the output for `x`. `rng` is what a layer that draws at random draws from."""

    def backward(self, grad_output: Array) -> Array:
        """Return the gradient with respect to `x`, given the one with respect to the output."""


class Loss(Protocol):
    """What a loss offers: the end of the forward pass and the start of the backward pass."""

    def forward(self, prediction: Array, target: NDArray[Any]) -> float:
        """Return the mean loss of the batch."""

    def backward(self) -> Array:
        """Return the gradient of that mean with respect to `prediction`."""


class Optimizer(Protocol):
    """What `fit` asks of an optimizer; see optimizers.py."""

    def step(self, parameters: Mapping[str, Array], gradients: Mapping[str, Array]) -> None:
        """Update the arrays in `parameters` in place."""


def _recall(layer: Any, grad_output: Array) -> list[Array]:
    """Return what `layer.forward` saved behind its output's shape; refuse a gradient of another shape."""
    name = type(layer).__name__
    if layer._saved is None:
        raise RuntimeError(f"{name}.backward was called before {name}.forward")
    shape: tuple[int, ...]
    saved: list[Array]
    shape, *saved = layer._saved
    if grad_output.shape != shape:
        raise ValueError(f"{name}.backward: gradient of shape {grad_output.shape} for an output of {shape}")
    return saved


def _check_features(layer: object, x: Array, n_features: int) -> None:
    if x.ndim == 0 or x.shape[-1] != n_features:
        raise ValueError(f"{type(layer).__name__} expects an input (..., {n_features}), got {x.shape}")


class Linear:
    """Affine map of the last axis, ``y = x Wᵀ + b``.

    Backward, with the rows of all leading axes together::

        ∂L/∂x = ∂L/∂y · W        ∂L/∂W = (∂L/∂y)ᵀ · x        ∂L/∂b = sum of the rows of ∂L/∂y

    Parameters
    ----------
    n_in, n_out : int
        Widths: ``x (..., n_in)`` gives ``y (..., n_out)``. Another last axis raises ValueError.
    rng : numpy.random.Generator
        Draws the weights, normal with standard deviation √(2 / n_in), which keeps the scale through ReLU layers.
        The biases start at zero.
    bias : bool
        False leaves out b, its parameter and its gradient.
    dtype : dtype
        Of ``parameters``: "weight" (n_out, n_in) and "bias" (n_out,).

    Source: He et al., "Delving Deep into Rectifiers", ICCV 2015, eq. 10 (the initialisation).
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        rng: np.random.Generator,
        bias: bool = True,
        dtype: DTypeLike = np.float32,
    ) -> None:
        weight = rng.standard_normal((n_out, n_in)) * (2 / n_in) ** 0.5
        self.parameters: dict[str, Array] = {"weight": weight.astype(dtype)}
        if bias:
            self.parameters["bias"] = np.zeros(n_out, dtype)
        self.gradients: dict[str, Array] = {}
        self._saved: Any = None

    def forward(self, x: Array, *, training: bool = False, rng: np.random.Generator | None = None) -> Array:
        """Return ``x Wᵀ + b``, (..., n_out)."""
        weight = self.parameters["weight"]
        _check_features(self, x, weight.shape[1])
        y: Array = x @ weight.T
        if "bias" in self.parameters:
            y = y + self.parameters["bias"]
        self._saved = y.shape, x
        return y

    def backward(self, grad_output: Array) -> Array:
        """Return ``∂L/∂x`` (..., n_in); set ``gradients["weight"]`` and ``gradients["bias"]``."""
        (x,) = _recall(self, grad_output)
        weight = self.parameters["weight"]
        n_out, n_in = weight.shape
        grad_rows = grad_output.reshape(-1, n_out)
        self.gradients["weight"] = grad_rows.T @ x.reshape(-1, n_in)
        if "bias" in self.parameters:
            self.gradients["bias"] = grad_rows.sum(axis=0)
        return grad_output @ weight


class ReLU:
    """``y = max(x, 0)``: the gradient passes where x > 0 and stops elsewhere (at 0 too, as in torch)."""

    def __init__(self) -> None:
        self.parameters: dict[str, Array] = {}
        self.gradients: dict[str, Array] = {}
        self._saved: Any = None

    def forward(self, x: Array, *, training: bool = False, rng: np.random.Generator | None = None) -> Array:
        """Return ``max(x, 0)``, any shape."""
        y: Array = np.maximum(x, 0)
        self._saved = y.shape, y
        return y

    def backward(self, grad_output: Array) -> Array:
        """Return ``∂L/∂y · [x > 0]``."""
        (y,) = _recall(self, grad_output)
        return grad_output * (y > 0)


class Sigmoid:
    """``y = 1 / (1 + exp(-x))``, with ``dy/dx = y (1 - y)``; no overflow and no warning for any x."""

    def __init__(self) -> None:
        self.parameters: dict[str, Array] = {}
        self.gradients: dict[str, Array] = {}
        self._saved: Any = None

    def forward(self, x: Array, *, training: bool = False, rng: np.random.Generator | None = None) -> Array:
        """Return the sigmoid of `x`, any shape; the absolute error is a few eps (below -37 it may be 0)."""
        y: Array = 0.5 + 0.5 * np.tanh(0.5 * x)  # the same function, and tanh cannot overflow
        self._saved = y.shape, y
        return y

    def backward(self, grad_output: Array) -> Array:
        """Return ``∂L/∂y · y (1 - y)``."""
        (y,) = _recall(self, grad_output)
        return grad_output * y * (1 - y)


class Tanh:
    """``y = tanh(x)``, with ``dy/dx = 1 - y²``."""

    def __init__(self) -> None:
        self.parameters: dict[str, Array] = {}
        self.gradients: dict[str, Array] = {}
        self._saved: Any = None

    def forward(self, x: Array, *, training: bool = False, rng: np.random.Generator | None = None) -> Array:
        """Return ``tanh(x)``, any shape."""
        y: Array = np.tanh(x)
        self._saved = y.shape, y
        return y

    def backward(self, grad_output: Array) -> Array:
        """Return ``∂L/∂y · (1 - y²)``."""
        (y,) = _recall(self, grad_output)
        return grad_output * (1 - y * y)


class Sequential:
    """Layers one after the other: forward from the first to the last, backward from the last to the first.

    Parameters
    ----------
    *layers : Layer
        Kept in ``self.layers``. The same object twice raises ValueError: it could remember only one of its inputs.

    Attributes
    ----------
    parameters, gradients : dict
        Those of all layers, named as in torch: "0.weight", "0.bias", "2.weight", … The arrays are the layers'
        own, not copies.
    """

    def __init__(self, *layers: Layer) -> None:
        if len({id(layer) for layer in layers}) < len(layers):
            raise ValueError(
                "Sequential got the same layer object twice, which would remember one input only"
            )
        self.layers = list(layers)

    @property
    def parameters(self) -> dict[str, Array]:
        """Arrays of all layers, as ``"<index>.<name>"``."""
        layers = enumerate(self.layers)
        return {f"{i}.{name}": array for i, layer in layers for name, array in layer.parameters.items()}

    @property
    def gradients(self) -> dict[str, Array]:
        """Gradients of all layers, under the names of `parameters`."""
        layers = enumerate(self.layers)
        return {f"{i}.{name}": array for i, layer in layers for name, array in layer.gradients.items()}

    def forward(self, x: Array, *, training: bool = False, rng: np.random.Generator | None = None) -> Array:
        """Return the last layer's output; `training` and `rng` reach every layer."""
        for layer in self.layers:
            x = layer.forward(x, training=training, rng=rng)
        return x

    def backward(self, grad_output: Array) -> Array:
        """Return the gradient with respect to the first layer's input."""
        for layer in reversed(self.layers):
            grad_output = layer.backward(grad_output)
        return grad_output


class SoftmaxCrossEntropy:
    """Mean negative log-probability of the right class.

    Softmax and logarithm in one, so that nothing overflows::

        L = mean over the batch of  logsumexp(z) - z[target]
        ∂L/∂z = (softmax(z) - one_hot(target)) / batch
    """

    def __init__(self) -> None:
        self._saved: tuple[Array, NDArray[np.integer[Any]]] | None = None

    def forward(self, logits: Array, targets: NDArray[np.integer[Any]]) -> float:
        """Return the mean loss.

        Parameters
        ----------
        logits : (batch, classes) float
            Any finite size; -inf means probability 0.
        targets : (batch,) int
            Class indices.

        Raises
        ------
        ValueError
            Other shapes, an empty batch, or an index outside [0, classes), which the message names.
        TypeError
            Targets that are not integers.
        """
        if logits.ndim != 2 or targets.shape != logits.shape[:1] or len(logits) == 0:
            raise ValueError(
                f"expected logits (batch, classes) and targets (batch,) with batch > 0, "
                f"got {logits.shape} and {targets.shape}"
            )
        if targets.dtype.kind not in "iu":
            raise TypeError(f"targets must be integer class indices, got {targets.dtype}")
        for index in (targets.min(), targets.max()):
            if not 0 <= index < logits.shape[1]:
                raise ValueError(f"target {index} is not a class index: there are {logits.shape[1]} classes")
        shifted = logits - logits.max(axis=1, keepdims=True)  # the largest exponent is 0
        exp = np.exp(shifted)
        total = exp.sum(axis=1, keepdims=True)
        self._saved = exp / total, targets
        return float(np.mean(np.log(total[:, 0]) - shifted[np.arange(len(targets)), targets]))

    def backward(self) -> Array:
        """Return ``∂L/∂logits``, (batch, classes), for the latest `forward`."""
        if self._saved is None:
            raise RuntimeError("SoftmaxCrossEntropy.backward was called before forward")
        probabilities, targets = self._saved
        gradient = probabilities.copy()
        gradient[np.arange(len(targets)), targets] -= 1
        gradient /= len(targets)
        return gradient


class MeanSquaredError:
    """Mean of the squared difference over all entries.

    With p the prediction and n its number of entries::

        L = mean((p - target)²)        ∂L/∂p = 2 (p - target) / n
    """

    def __init__(self) -> None:
        self._saved: Array | None = None

    def forward(self, prediction: Array, target: Array) -> float:
        """Return the mean squared error.

        Both arrays have one shape, any, and at least one entry; anything else raises ValueError naming both
        shapes (broadcasting (n, 1) against (n,) would average n² differences without a word).
        """
        if prediction.shape != target.shape or prediction.size == 0:
            raise ValueError(f"expected one non-empty shape twice, got {prediction.shape} and {target.shape}")
        difference: Array = prediction - target
        self._saved = difference
        return float(np.mean(difference * difference))

    def backward(self) -> Array:
        """Return ``∂L/∂prediction`` for the latest `forward`."""
        if self._saved is None:
            raise RuntimeError("MeanSquaredError.backward was called before forward")
        return self._saved * (2 / self._saved.size)


def fit(
    model: Layer,
    loss: Loss,
    optimizer: Optimizer,
    x: Array,
    targets: NDArray[Any],
    *,
    epochs: int,
    batch_size: int = 64,
    rng: np.random.Generator,
    progress: bool = False,
) -> list[float]:
    """Train `model` in place with shuffled minibatches: forward, loss, backward, step.

    Each epoch visits every sample once, in a new random order, `batch_size` at a time; the last batch holds what
    is left. Calling again goes on from where the model and the optimizer are, so ``epochs=1`` in a loop leaves
    room for a learning-rate schedule or an evaluation.

    Parameters
    ----------
    model, loss, optimizer
        Anything with the methods of `Layer`, `Loss` and `Optimizer`. The model runs with ``training=True``.
    x : (n, ...) float
        Of the parameters' dtype, else TypeError: mixing them would compute everything in float64 without a word.
    targets : (n, ...)
        What the loss takes, sample i belonging to ``x[i]``.
    epochs, batch_size : int
        How often to visit each sample (0 or more), how many at a time (at least 1).
    rng : numpy.random.Generator
        Shuffles, and is handed to every forward pass (`Dropout`).
    progress : bool
        Show a bar with ``epoch/epochs`` and the loss on standard error: one line that is redrawn in a terminal,
        one line per epoch elsewhere. Without it nothing is printed.

    Returns
    -------
    list of float
        Mean training loss over the samples of each epoch, as seen while training.

    Raises
    ------
    ValueError
        No sample, `x` and `targets` of different length, or batch_size below 1.
    """
    n = len(x)
    if n == 0 or len(targets) != n:
        raise ValueError(f"expected one target per sample, got x {x.shape} and targets {targets.shape}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    for name, parameter in model.parameters.items():
        if parameter.dtype != x.dtype:
            raise TypeError(f"x is {x.dtype} but parameter {name!r} is {parameter.dtype}: cast one of them")
    history = []
    for epoch in range(1, epochs + 1):
        order = rng.permutation(n)
        total = 0.0
        for start in range(0, n, batch_size):
            batch = order[start : start + batch_size]
            output = model.forward(x[batch], training=True, rng=rng)
            total += loss.forward(output, targets[batch]) * len(batch)
            model.backward(loss.backward())
            optimizer.step(model.parameters, model.gradients)
        history.append(total / n)
        if progress:
            _show_progress(epoch, epochs, history[-1])
    return history


def _show_progress(epoch: int, epochs: int, loss: float) -> None:
    terminal = sys.stderr.isatty()
    bar = "#" * (30 * epoch // epochs)
    line = f"epoch {epoch:{len(str(epochs))}d}/{epochs} [{bar:30}] loss {loss:.4f}"
    end = "" if terminal and epoch < epochs else "\n"
    print(f"\r{line}" if terminal else line, end=end, file=sys.stderr, flush=True)


class Residual:
    """``y = x + body(x)``: the gradient takes both ways and adds up.

    So one way around every body stays open, however small the body's own gradient is.

    Parameters
    ----------
    body : Layer
        Kept in ``self.body``. An output of another shape than its input raises ValueError naming both.

    Attributes
    ----------
    parameters, gradients : dict
        Those of the body, under the same names.
    """

    def __init__(self, body: Layer) -> None:
        self.body = body

    @property
    def parameters(self) -> Mapping[str, Array]:
        """The body's parameters."""
        return self.body.parameters

    @property
    def gradients(self) -> Mapping[str, Array]:
        """The body's gradients."""
        return self.body.gradients

    def forward(self, x: Array, *, training: bool = False, rng: np.random.Generator | None = None) -> Array:
        """Return ``x + body(x)``."""
        update = self.body.forward(x, training=training, rng=rng)
        if update.shape != x.shape:
            raise ValueError(f"Residual needs a body that keeps the shape {x.shape}, it made {update.shape}")
        return x + update

    def backward(self, grad_output: Array) -> Array:
        """Return ``∂L/∂y + body.backward(∂L/∂y)``."""
        return grad_output + self.body.backward(grad_output)


class Dropout:
    """In training, zero each entry with probability p and divide the rest by 1 - p; in evaluation, do nothing.

    The division ("inverted" dropout) keeps the expectation of every entry, so evaluation needs no correction.
    The backward pass multiplies by the same mask.

    Parameters
    ----------
    p : float
        Probability of zeroing, in [0, 1); otherwise ValueError. Entries are dropped independently.

    Source: Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", JMLR 2014.
    """

    def __init__(self, p: float = 0.5) -> None:
        if not 0 <= p < 1:
            raise ValueError(f"p must be in [0, 1), got {p}")
        self.p = p
        self.parameters: dict[str, Array] = {}
        self.gradients: dict[str, Array] = {}
        self._saved: Any = None

    def forward(self, x: Array, *, training: bool = False, rng: np.random.Generator | None = None) -> Array:
        """Return `x` under a new mask drawn from `rng` (ValueError if training without one and p > 0), any shape."""
        if not training or self.p == 0:
            mask = np.ones_like(x)
        elif rng is None:
            raise ValueError(f"Dropout(p={self.p}) in training needs rng, a numpy.random.Generator, got None")
        else:
            mask = (rng.random(x.shape) >= self.p) / x.dtype.type(1 - self.p)
        self._saved = x.shape, mask
        return x * mask

    def backward(self, grad_output: Array) -> Array:
        """Return ``∂L/∂y · mask``, the mask of the latest `forward`."""
        (mask,) = _recall(self, grad_output)
        return grad_output * mask


def _normalise_backward(grad_x_hat: Array, x_hat: Array, inv_std: Array, axis: int) -> Array:
    """Chain rule through ``x_hat = (x - mean) / std`` where mean and std, taken over `axis`, depend on x as well.

    Their two paths project the gradient: off the constant direction (the mean) and off x_hat (the std).
    """
    through_mean = grad_x_hat.mean(axis=axis, keepdims=True)
    through_std = (grad_x_hat * x_hat).mean(axis=axis, keepdims=True)
    return inv_std * (grad_x_hat - through_mean - x_hat * through_std)


class BatchNorm:
    """Normalise each feature over the batch, then scale and shift: ``y = weight · x̂ + bias``.

    In training ``x̂ = (x - mean) / √(var + eps)`` with the batch's mean and its variance ``mean((x - mean)²)``,
    and the running statistics move::

        running_mean ← (1 - momentum) · running_mean + momentum · mean
        running_var  ← (1 - momentum) · running_var + momentum · sum((x - mean)²) / (batch - 1)

    In evaluation x̂ uses the running statistics, which are constants there: each row is treated alone.

    Parameters
    ----------
    n_features : int
        ``x (batch, n_features)``. Other shapes raise ValueError, and so does a batch below 2 in training.
    momentum : float
        Weight of the new batch (torch's convention).
    eps : float
        Added to the variance, under the root.
    dtype : dtype
        Of ``parameters`` "weight" (ones) and "bias" (zeros), and of the attributes ``running_mean`` (zeros)
        and ``running_var`` (ones), each (n_features,).

    Source: Ioffe and Szegedy, "Batch Normalization", ICML 2015, algorithm 1.
    """

    def __init__(
        self, n_features: int, *, momentum: float = 0.1, eps: float = 1e-5, dtype: DTypeLike = np.float32
    ) -> None:
        self.momentum, self.eps = momentum, eps
        weight, bias = np.ones(n_features, dtype), np.zeros(n_features, dtype)
        self.parameters: dict[str, Array] = {"weight": weight, "bias": bias}
        self.gradients: dict[str, Array] = {}
        self.running_mean: Array = np.zeros(n_features, dtype)
        self.running_var: Array = np.ones(n_features, dtype)
        self._saved: Any = None
        self._saved_training = False

    def forward(self, x: Array, *, training: bool = False, rng: np.random.Generator | None = None) -> Array:
        """Return the normalised batch, (batch, n_features)."""
        weight, bias = self.parameters["weight"], self.parameters["bias"]
        _check_features(self, x, len(weight))
        if x.ndim != 2 or (training and len(x) < 2):
            raise ValueError(
                f"BatchNorm expects (batch, {len(weight)}), batch > 1 in training, got {x.shape}"
            )
        mean, var = self.running_mean, self.running_var
        if training:
            n = len(x)
            mean = x.mean(axis=0)
            var = ((x - mean) ** 2).mean(axis=0)
            self.running_mean = (1 - self.momentum) * self.running_mean + self.momentum * mean
            self.running_var = (1 - self.momentum) * self.running_var + self.momentum * (n / (n - 1)) * var
        inv_std = 1 / np.sqrt(var + self.eps)
        x_hat = (x - mean) * inv_std
        self._saved, self._saved_training = (x.shape, x_hat, inv_std), training
        return weight * x_hat + bias

    def backward(self, grad_output: Array) -> Array:
        """Return ``∂L/∂x``; set the gradients of weight and bias."""
        x_hat, inv_std = _recall(self, grad_output)
        self.gradients["weight"] = (grad_output * x_hat).sum(axis=0)
        self.gradients["bias"] = grad_output.sum(axis=0)
        grad_x_hat = grad_output * self.parameters["weight"]
        if self._saved_training:
            return _normalise_backward(grad_x_hat, x_hat, inv_std, axis=0)
        return grad_x_hat * inv_std


class LayerNorm:
    """Normalise each row over its features, then scale and shift: ``y = weight · x̂ + bias``.

    ``x̂ = (x - mean) / √(var + eps)`` with mean and var, ``mean((x - mean)²)``, over the last axis. No row sees
    another, so training and evaluation do the same.

    Parameters
    ----------
    n_features : int
        ``x (..., n_features)``; another last axis raises ValueError.
    eps : float
        Added to the variance, under the root.
    dtype : dtype
        Of ``parameters`` "weight" (ones) and "bias" (zeros), each (n_features,).

    Source: Ba, Kiros and Hinton, "Layer Normalization", 2016, eq. 4.
    """

    def __init__(self, n_features: int, *, eps: float = 1e-5, dtype: DTypeLike = np.float32) -> None:
        self.eps = eps
        weight, bias = np.ones(n_features, dtype), np.zeros(n_features, dtype)
        self.parameters: dict[str, Array] = {"weight": weight, "bias": bias}
        self.gradients: dict[str, Array] = {}
        self._saved: Any = None

    def forward(self, x: Array, *, training: bool = False, rng: np.random.Generator | None = None) -> Array:
        """Return the normalised rows, (..., n_features)."""
        weight, bias = self.parameters["weight"], self.parameters["bias"]
        _check_features(self, x, len(weight))
        centred = x - x.mean(axis=-1, keepdims=True)
        inv_std = 1 / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + self.eps)
        x_hat = centred * inv_std
        self._saved = x.shape, x_hat, inv_std
        return weight * x_hat + bias

    def backward(self, grad_output: Array) -> Array:
        """Return ``∂L/∂x``; set the gradients of weight and bias, summed over all leading axes."""
        x_hat, inv_std = _recall(self, grad_output)
        n_features = len(self.parameters["weight"])
        self.gradients["weight"] = (grad_output * x_hat).reshape(-1, n_features).sum(axis=0)
        self.gradients["bias"] = grad_output.reshape(-1, n_features).sum(axis=0)
        return _normalise_backward(grad_output * self.parameters["weight"], x_hat, inv_std, axis=-1)
