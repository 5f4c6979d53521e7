"""What makes deep networks train: dropout, batch norm, layer norm and residual connections, as layers of backprop.py.

They keep the contract of a layer there, and stand alone. In training (``forward(x, training=True, rng=rng)``) dropout
draws its mask from `rng`, and batch norm uses the batch and moves its running statistics; the default is evaluation.
`backward` belongs to the latest `forward`, in the mode that one had.

Input and parameters are all float32 or all float64; so are outputs, gradients, masks and running statistics. NaN and inf
propagate. A shape that does not fit raises ValueError that names it: it would broadcast without a word. So does an option
that is out of range; another dtype raises TypeError that names the layer and it, but complex numbers pass through. Equal
numbers are normalised to exactly 0, before weight and bias.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = ["Residual", "Dropout", "BatchNorm", "LayerNorm"]

Array = NDArray[np.floating]
Arrays = dict[str, Array]
Rng = np.random.Generator


class Residual:
    """``y = x + body(x)``: the gradient takes both ways and adds up, so the direct one stays open, whatever the body does.

    `parameters` and `gradients` are the body's, under the same names, and so are their arrays. A body that does not keep the
    shape raises ValueError, naming both.

    Source: He et al., "Deep Residual Learning for Image Recognition", arXiv 1512.03385, eq. 1.
    """

    def __init__(self, body: Any) -> None:
        self.body = body

    @property
    def parameters(self) -> Arrays:
        """The body's parameters."""
        return dict(self.body.parameters)

    @property
    def gradients(self) -> Arrays:
        """The body's gradients."""
        return dict(self.body.gradients)

    def forward(self, x: Array, *, training: bool = False, rng: Rng | None = None) -> Array:
        """Return ``x + body(x)``; the body gets `training` and `rng`."""
        update = self.body.forward(x, training=training, rng=rng)
        if update.shape != x.shape:
            raise ValueError(f"Residual needs a body that keeps the shape {x.shape}, it made {update.shape}")
        return x + update

    def backward(self, grad: Array) -> Array:
        """Return ``∂L/∂y + body.backward(∂L/∂y)``."""
        return grad + self.body.backward(grad)


class Dropout:
    """In training, zero each entry with probability `p` and divide the rest by 1 - p; in evaluation, do nothing.

    The division keeps the expectation of every entry, so evaluation needs no correction. Entries are dropped independently.
    `p` outside [0, 1) raises ValueError, naming it.

    Source: Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", JMLR 2014.
    """

    def __init__(self, p: float = 0.5) -> None:
        if not 0 <= p < 1:
            raise ValueError(f"p must be in [0, 1), got {p}")
        self.p = p
        self.parameters, self.gradients = Arrays(), Arrays()

    def forward(self, x: Array, *, training: bool = False, rng: Rng | None = None) -> Array:
        """Return `x` under a new mask drawn from `rng`, any shape; training without one raises ValueError unless p is 0."""
        if not training or self.p == 0:
            self._mask = np.ones_like(x)
        elif rng is None:
            raise ValueError(f"Dropout(p={self.p}) in training needs rng, a numpy.random.Generator, got None")
        elif x.dtype.kind != "f":  # 1 - p would be 0
            raise TypeError(f"Dropout expects float32 or float64, got {x.dtype}")
        else:
            self._mask = (rng.random(x.shape) >= self.p) / x.dtype.type(1 - self.p)
        return x * self._mask

    def backward(self, grad: Array) -> Array:
        """Return ``∂L/∂y · mask``, the mask of the latest `forward`."""
        return grad * self._mask


class BatchNorm:
    """Normalise each feature over the batch, then scale and shift: ``y = weight · x̂ + bias``, (batch, n_features).

    In training ``x̂ = (x - mean) / √(var + eps)`` with the batch's mean and its variance ``mean((x - mean)²)``, and::

        running_mean ← (1 - momentum) · running_mean + momentum · mean
        running_var  ← (1 - momentum) · running_var + momentum · sum((x - mean)²) / (batch - 1)

    In evaluation x̂ uses the running statistics, which are constants there: each row is treated alone.

    parameters : "weight" (ones) and "bias" (zeros), each (n_features,) of `dtype`
    running_mean, running_var : attributes, zeros and ones at first, alike

    Another shape raises ValueError that names it, and so do a batch below 2 in training and a momentum outside [0, 1].

    Source: Ioffe and Szegedy, "Batch Normalization", ICML 2015, algorithm 1.
    """

    def __init__(
        self, n_features: int, *, momentum: float = 0.1, eps: float = 1e-5, dtype: DTypeLike = np.float32
    ) -> None:
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum must be in [0, 1], got {momentum}")
        _check_norm(eps, dtype)
        self.momentum, self.eps = momentum, eps
        self.parameters = Arrays(weight=np.ones(n_features, dtype), bias=np.zeros(n_features, dtype))
        self.gradients = Arrays()
        self.running_mean: Array = np.zeros(n_features, dtype)
        self.running_var: Array = np.ones(n_features, dtype)

    def forward(self, x: Array, *, training: bool = False, rng: Rng | None = None) -> Array:
        """Return the normalised batch, scaled and shifted."""
        weight, bias = self.parameters["weight"], self.parameters["bias"]
        if x.ndim != 2 or x.shape[1] != len(weight) or (training and len(x) < 2):
            expected = f"(batch, {len(weight)}), batch > 1 in training"
            raise ValueError(f"BatchNorm expects {expected}, got {x.shape}")
        _check_dtype("BatchNorm", x.dtype)
        if training:
            n, momentum = len(x), self.momentum
            centred = _centred(x, axis=0)
            mean, var = x[0] - centred[0], (centred**2).mean(axis=0)
            self.running_mean = (1 - momentum) * self.running_mean + momentum * mean
            self.running_var = (1 - momentum) * self.running_var + momentum * (n / (n - 1)) * var
        else:
            centred, var = x - self.running_mean, self.running_var
        self._training, self._inv_std = training, 1 / np.sqrt(var + self.eps)
        self._x_hat = centred * self._inv_std
        return weight * self._x_hat + bias

    def backward(self, grad: Array) -> Array:
        """Return ``∂L/∂x``; set the gradients of "weight" and "bias"."""
        self.gradients["weight"] = (grad * self._x_hat).sum(axis=0)
        self.gradients["bias"] = grad.sum(axis=0)
        grad_x_hat = grad * self.parameters["weight"]
        if self._training:
            return _normalise_backward(grad_x_hat, self._x_hat, self._inv_std, axis=0)
        return grad_x_hat * self._inv_std


class LayerNorm:
    """Normalise each row over its features, then scale and shift: ``y = weight · x̂ + bias``, (..., n_features).

    ``x̂ = (x - mean) / √(var + eps)`` with mean and var, ``mean((x - mean)²)``, over the last axis. No row sees another, so
    training and evaluation do the same. Another last axis raises ValueError.

    parameters : "weight" (ones) and "bias" (zeros), each (n_features,) of `dtype`

    Source: Ba, Kiros and Hinton, "Layer Normalization", arXiv 1607.06450, eq. 4.
    """

    def __init__(self, n_features: int, *, eps: float = 1e-5, dtype: DTypeLike = np.float32) -> None:
        _check_norm(eps, dtype)
        self.eps = eps
        self.parameters = Arrays(weight=np.ones(n_features, dtype), bias=np.zeros(n_features, dtype))
        self.gradients = Arrays()

    def forward(self, x: Array, *, training: bool = False, rng: Rng | None = None) -> Array:
        """Return the normalised rows, scaled and shifted."""
        weight, bias = self.parameters["weight"], self.parameters["bias"]
        if x.ndim == 0 or x.shape[-1] != len(weight):
            raise ValueError(f"LayerNorm expects (..., {len(weight)}), got {x.shape}")
        _check_dtype("LayerNorm", x.dtype)
        centred = _centred(x, axis=-1)
        self._inv_std = 1 / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + self.eps)
        self._x_hat = centred * self._inv_std
        return weight * self._x_hat + bias

    def backward(self, grad: Array) -> Array:
        """Return ``∂L/∂x``; set the gradients of "weight" and "bias", summed over all leading axes."""
        n_features = len(self.parameters["weight"])
        self.gradients["weight"] = (grad * self._x_hat).reshape(-1, n_features).sum(axis=0)
        self.gradients["bias"] = grad.reshape(-1, n_features).sum(axis=0)
        return _normalise_backward(grad * self.parameters["weight"], self._x_hat, self._inv_std, axis=-1)


def _centred(x: Array, axis: int) -> Array:
    """Return ``x - mean`` over `axis`, 0 or -1.

    One of the numbers is subtracted first, which changes nothing but the rounding: equal numbers are 0 from then on, while
    their mean is not quite one of them, and what is left would be divided by √eps.
    """
    shifted = x - (x[:1] if axis == 0 else x[..., :1])
    shifted -= shifted.mean(axis=axis, keepdims=True)
    return shifted


def _check_norm(eps: float, dtype: DTypeLike) -> None:
    if not eps >= 0:
        raise ValueError(f"eps must be at least 0, got {eps}")
    _check_dtype("a norm", np.dtype(dtype))


def _check_dtype(what: str, dtype: np.dtype[Any]) -> None:
    """Refuse half precision, whose squares overflow at 256, and integers; the complex step is welcome."""
    if dtype.kind not in "fc" or dtype.itemsize < 4:
        raise TypeError(f"{what} expects float32 or float64, got {dtype}")


def _normalise_backward(grad_x_hat: Array, x_hat: Array, inv_std: Array, axis: int) -> Array:
    """Chain rule through ``x_hat = (x - mean) / std`` where mean and std, taken over `axis`, depend on x as well.

    Their two paths project the gradient: off the constant direction (the mean) and off x_hat (the std).
    """
    grad_x_hat = _centred(grad_x_hat, axis)
    through_std = (grad_x_hat * x_hat).mean(axis=axis, keepdims=True)
    return inv_std * (grad_x_hat - x_hat * through_std)
