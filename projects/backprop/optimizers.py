"""Four optimizers with the options of torch.optim, in place and checked: SGD, RMSprop, Adam, AdamW.

The rules that hold for each:

- ``step(parameters, gradients)`` takes two dicts with the same names, as ``layer.parameters`` and ``layer.gradients`` are. It
  updates the parameter arrays in place and leaves the gradients as they are.
- State (velocity, moments) starts at zero and is kept per name: one optimizer per network. It has the dtype of its parameter,
  float32 or float64, and everything is computed in that dtype, without a new array for the state at each step.
- ``optimizer.lr`` is a plain attribute that may be changed between steps: that is a schedule.
- A parameter without a gradient, or with one of another shape, is a ValueError that names the parameter, and so is one array
  under two names: it would be moved twice. Another dtype than float32 and float64 is a TypeError. Then no parameter was
  touched.
- NaN and inf in a gradient reach the parameter.
- lr, eps and weight_decay are at least 0 and finite; momentum, alpha and each of the betas in [0, 1). Else ValueError,
  naming option and value.

In the formulas θ is the parameter, g its gradient, t counts the steps from 1, and ``g ← g + weight_decay · θ`` comes first,
except in `AdamW`: the gradient of the penalty ``weight_decay/2 · ||θ||²``.
"""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real

import numpy as np
from numpy.typing import NDArray

__all__ = ["SGD", "RMSprop", "Adam", "AdamW"]

Array = NDArray[np.floating]
Arrays = Mapping[str, Array]


class SGD:
    """Stochastic gradient descent, with plain or Nesterov momentum, and weight decay.

        v ← momentum · v + g
        θ ← θ - lr · v                       plain
        θ ← θ - lr · (g + momentum · v)      nesterov: the gradient's view one step ahead

    ``nesterov=True`` without momentum raises ValueError.

    Source: Sutskever et al., "On the importance of initialization and momentum in deep learning", ICML 2013, in the form of
    torch.optim.SGD.
    """

    def __init__(
        self, lr: float, *, momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0
    ) -> None:
        _check_options(lr=lr, below_one={"momentum": momentum}, weight_decay=weight_decay)
        if nesterov and momentum == 0:
            raise ValueError(f"nesterov needs momentum above 0, got momentum={momentum}")
        self.lr, self.momentum, self.nesterov, self.weight_decay = lr, momentum, nesterov, weight_decay
        self._velocity: dict[str, Array] = {}

    def step(self, parameters: Arrays, gradients: Arrays) -> None:
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

        s ← alpha · s + (1 - alpha) · g²
        v ← momentum · v + g / (√s + eps)
        θ ← θ - lr · v

    Source: Tieleman and Hinton, "Neural Networks for Machine Learning", lecture 6.5, 2012, in the form of torch.optim.RMSprop.
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
        self.lr, self.alpha, self.eps = lr, alpha, eps
        self.momentum, self.weight_decay = momentum, weight_decay
        self._state: dict[str, tuple[Array, Array]] = {}

    def step(self, parameters: Arrays, gradients: Arrays) -> None:
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

        m ← β₁ m + (1 - β₁) g          m̂ = m / (1 - β₁ᵗ)
        v ← β₂ v + (1 - β₂) g²         v̂ = v / (1 - β₂ᵗ)
        θ ← θ - lr · m̂ / (√v̂ + eps)

    `weight_decay` is an L2 penalty: it enters the gradient and is divided by √v̂ with it; `AdamW` keeps it out.

    Source: Kingma and Ba, "Adam: A Method for Stochastic Optimization", arXiv 1412.6980, algorithm 1.
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

    def step(self, parameters: Arrays, gradients: Arrays) -> None:
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

        θ ← θ - lr · weight_decay · θ
        θ ← θ - lr · m̂ / (√v̂ + eps)     with m̂, v̂ of the loss gradient alone

    Every weight shrinks by the same factor per step, however large its gradients are.

    Source: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", arXiv 1711.05101, algorithm 2, with the decay
    multiplied by lr as in torch.optim.AdamW.
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

    def step(self, parameters: Arrays, gradients: Arrays) -> None:
        """Update `parameters` in place."""
        _check_step(parameters, gradients)
        for parameter in parameters.values():
            parameter *= 1 - self.lr * self.weight_decay
        self._update({name: (parameter, gradients[name]) for name, parameter in parameters.items()})


def _check_options(
    *, lr: float, below_one: Mapping[str, float], weight_decay: float, eps: float = 0.0
) -> None:
    for name, value in {"lr": lr, "weight_decay": weight_decay, "eps": eps}.items():
        if not isinstance(value, Real) or not 0 <= value < np.inf:
            raise ValueError(f"{name} must be at least 0 and finite, got {value!r}")
    for name, value in below_one.items():
        if not isinstance(value, Real) or not 0 <= value < 1:
            raise ValueError(f"{name} must be in [0, 1), got {value!r}")


def _check_step(parameters: Arrays, gradients: Arrays) -> None:
    names: dict[int, str] = {}
    for name, parameter in parameters.items():
        if parameter.dtype.type not in (np.float32, np.float64):
            raise TypeError(f"parameter {name!r} is {parameter.dtype}, expected float32 or float64")
        if names.setdefault(id(parameter), name) != name:
            raise ValueError(
                f"parameters {names[id(parameter)]!r} and {name!r} are one array: add their gradients up"
            )
        if name not in gradients:
            raise ValueError(f"no gradient for parameter {name!r}: call backward before step")
        if gradients[name].shape != parameter.shape:
            shape = gradients[name].shape
            raise ValueError(f"gradient of {name!r} has shape {shape}, expected {parameter.shape}")


def _with_l2(gradient: Array, parameter: Array, weight_decay: float) -> Array:
    """Add the gradient of the penalty."""
    return gradient + weight_decay * parameter if weight_decay else gradient
