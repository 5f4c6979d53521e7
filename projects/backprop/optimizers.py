"""Optimizers: SGD, RMSprop, Adam, AdamW, each a few lines on plain dicts of arrays.

The rules that hold for every optimizer:

- ``step(parameters, gradients)`` takes two dicts with the same names, as ``layer.parameters`` and
  ``layer.gradients`` are. It updates the parameter arrays in place and leaves the gradients as they are.
- State (velocity, moments) starts at zero and is kept per name: one optimizer per network. It has the dtype of
  its parameter, float32 or float64, and everything is computed in that dtype.
- ``optimizer.lr`` is a plain attribute that may be changed between steps: that is a schedule.
- A parameter without a gradient, or with one of another shape, is a ValueError that names the parameter; then no
  parameter was touched.
- NaN and inf in a gradient reach the parameter. An option out of its range is a ValueError that names the value.

The formulas are those of torch.optim. In all of them θ is the parameter, g its gradient, t counts the steps from 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["SGD", "RMSprop", "Adam", "AdamW"]

Array = NDArray[np.floating[Any]]


def _check_options(
    *, lr: float, below_one: Mapping[str, float], weight_decay: float, eps: float = 0.0
) -> None:
    for name, value in {"lr": lr, "weight_decay": weight_decay, "eps": eps}.items():
        if not value >= 0:
            raise ValueError(f"{name} must be at least 0, got {value}")
    for name, value in below_one.items():
        if not 0 <= value < 1:
            raise ValueError(f"{name} must be in [0, 1), got {value}")


def _check_step(parameters: Mapping[str, Array], gradients: Mapping[str, Array]) -> None:
    for name, parameter in parameters.items():
        if name not in gradients:
            raise ValueError(f"no gradient for parameter {name!r}: call backward before step")
        if gradients[name].shape != parameter.shape:
            shape = gradients[name].shape
            raise ValueError(f"gradient of {name!r} has shape {shape}, expected {parameter.shape}")


def _with_l2(gradient: Array, parameter: Array, weight_decay: float) -> Array:
    """Add the gradient of the penalty ``weight_decay/2 · ||θ||²``."""
    return gradient + weight_decay * parameter if weight_decay else gradient


class SGD:
    """Stochastic gradient descent, with momentum.

    The formula::

        g ← g + weight_decay · θ
        v ← momentum · v + g
        θ ← θ - lr · v                       plain momentum
        θ ← θ - lr · (g + momentum · v)      Nesterov: the gradient's view one step ahead

    Parameters
    ----------
    lr : float
        Learning rate, at least 0.
    momentum : float
        In [0, 1). 0 is plain gradient descent; 0.9 averages the last ten gradients or so.
    nesterov : bool
        Needs momentum above 0, else ValueError.
    weight_decay : float
        At least 0. For plain SGD an L2 penalty and decoupled decay are the same thing.

    Source: Sutskever et al., "On the importance of initialization and momentum in deep learning", ICML 2013, in
    the form of torch.optim.SGD.
    """

    def __init__(
        self, lr: float, *, momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0
    ) -> None:
        _check_options(lr=lr, below_one={"momentum": momentum}, weight_decay=weight_decay)
        if nesterov and momentum == 0:
            raise ValueError(f"nesterov needs momentum above 0, got momentum={momentum}")
        self.lr, self.momentum, self.nesterov, self.weight_decay = lr, momentum, nesterov, weight_decay
        self._velocity: dict[str, Array] = {}

    def step(self, parameters: Mapping[str, Array], gradients: Mapping[str, Array]) -> None:
        """Update `parameters` in place."""
        _check_step(parameters, gradients)
        for name, parameter in parameters.items():
            update = _with_l2(gradients[name], parameter, self.weight_decay)
            if self.momentum:
                if name not in self._velocity:
                    self._velocity[name] = np.zeros_like(parameter)
                velocity = self._velocity[name]
                velocity *= self.momentum
                velocity += update
                update = update + self.momentum * velocity if self.nesterov else velocity
            parameter -= self.lr * update


class RMSprop:
    """Gradient divided by its recent root mean square: every coordinate moves at a similar pace.

    The formula::

        g ← g + weight_decay · θ
        s ← alpha · s + (1 - alpha) · g²
        v ← momentum · v + g / (√s + eps)
        θ ← θ - lr · v

    Parameters
    ----------
    lr : float
        Learning rate, at least 0.
    alpha : float
        Decay of the mean square, in [0, 1).
    eps : float
        Added to the root (outside of it), at least 0.
    momentum : float
        In [0, 1), on the scaled gradient.
    weight_decay : float
        L2 penalty, at least 0.

    Source: Tieleman and Hinton, "Neural Networks for Machine Learning", lecture 6.5, 2012, in the form of
    torch.optim.RMSprop.
    """

    def __init__(
        self,
        lr: float = 1e-2,
        *,
        alpha: float = 0.99,
        eps: float = 1e-8,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        below_one = {"alpha": alpha, "momentum": momentum}
        _check_options(lr=lr, below_one=below_one, weight_decay=weight_decay, eps=eps)
        self.lr, self.alpha, self.eps, self.momentum, self.weight_decay = (
            lr,
            alpha,
            eps,
            momentum,
            weight_decay,
        )
        self._state: dict[str, tuple[Array, Array]] = {}

    def step(self, parameters: Mapping[str, Array], gradients: Mapping[str, Array]) -> None:
        """Update `parameters` in place."""
        _check_step(parameters, gradients)
        for name, parameter in parameters.items():
            if name not in self._state:
                self._state[name] = np.zeros_like(parameter), np.zeros_like(parameter)
            mean_square, velocity = self._state[name]
            gradient = _with_l2(gradients[name], parameter, self.weight_decay)
            mean_square *= self.alpha
            mean_square += (1 - self.alpha) * gradient * gradient
            velocity *= self.momentum
            velocity += gradient / (np.sqrt(mean_square) + self.eps)
            parameter -= self.lr * velocity


class Adam:
    """Momentum over RMSprop, both corrected for their start at zero.

    The formula::

        g ← g + weight_decay · θ
        m ← β₁ m + (1 - β₁) g          m̂ = m / (1 - β₁ᵗ)
        v ← β₂ v + (1 - β₂) g²         v̂ = v / (1 - β₂ᵗ)
        θ ← θ - lr · m̂ / (√v̂ + eps)

    Parameters
    ----------
    lr : float
        Learning rate, at least 0. The first step moves every coordinate by about this much.
    betas : (float, float)
        Decay of the mean and of the mean square, each in [0, 1).
    eps : float
        Added to the root (outside of it), at least 0.
    weight_decay : float
        L2 penalty, at least 0. It enters the gradient and is divided by √v̂ with it; `AdamW` keeps it out.

    Source: Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, algorithm 1.
    """

    def __init__(
        self,
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        below_one = {"betas[0]": betas[0], "betas[1]": betas[1]}
        _check_options(lr=lr, below_one=below_one, weight_decay=weight_decay, eps=eps)
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay
        self._moments: dict[str, tuple[Array, Array]] = {}
        self._t = 0

    def step(self, parameters: Mapping[str, Array], gradients: Mapping[str, Array]) -> None:
        """Update `parameters` in place."""
        _check_step(parameters, gradients)
        pairs = {name: (p, _with_l2(gradients[name], p, self.weight_decay)) for name, p in parameters.items()}
        self._update(pairs)

    def _update(self, pairs: Mapping[str, tuple[Array, Array]]) -> None:
        """Move each parameter along its gradient; `pairs` maps a name to both."""
        beta1, beta2 = self.betas
        self._t += 1
        step_size = self.lr / (1 - beta1**self._t)
        root_correction = (1 - beta2**self._t) ** 0.5
        for name, (parameter, gradient) in pairs.items():
            if name not in self._moments:
                self._moments[name] = np.zeros_like(parameter), np.zeros_like(parameter)
            m, v = self._moments[name]
            m *= beta1
            m += (1 - beta1) * gradient
            v *= beta2
            v += (1 - beta2) * gradient * gradient
            parameter -= step_size * m / (np.sqrt(v) / root_correction + self.eps)


class AdamW(Adam):
    """`Adam` with decoupled weight decay: the decay acts on the parameter, not through the moments.

    The formula::

        θ ← θ - lr · weight_decay · θ
        θ ← θ - lr · m̂ / (√v̂ + eps)     with m̂, v̂ of the loss gradient alone

    Every weight shrinks by the same factor per step, however large its gradients are.

    Parameters
    ----------
    lr, betas, eps
        As for `Adam`.
    weight_decay : float
        Decay per unit of learning rate, at least 0.

    Source: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019, algorithm 2, with the
    decay multiplied by lr as in torch.optim.AdamW.
    """

    def __init__(
        self,
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(lr, betas=betas, eps=eps, weight_decay=weight_decay)

    def step(self, parameters: Mapping[str, Array], gradients: Mapping[str, Array]) -> None:
        """Update `parameters` in place."""
        _check_step(parameters, gradients)
        for parameter in parameters.values():
            parameter *= 1 - self.lr * self.weight_decay
        self._update({name: (parameter, gradients[name]) for name, parameter in parameters.items()})
