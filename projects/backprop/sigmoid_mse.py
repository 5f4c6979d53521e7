"""The pair that backpropagation became known with: the sigmoid layer and the mean squared error.

They keep the contract of backprop.py, and stand alone. NaN and inf propagate, and complex numbers pass through.

Source: Rumelhart, Hinton and Williams, "Learning representations by back-propagating errors", Nature 1986.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["Sigmoid", "MeanSquaredError"]

Array = NDArray[np.floating]
Arrays = dict[str, Array]
Rng = np.random.Generator


class Sigmoid:
    """``y = 1 / (1 + exp(-x))``, any shape, with ``dy/dx = y (1 - y)``; no overflow and no warning for any x.

    Both keep their digits far from 0, where y is nearly 0 or 1: with ``e = exp(-|x|)``, y is ``1 / (1 + e)`` or
    ``e / (1 + e)``, and the slope is ``e / (1 + e)²``.
    """

    def __init__(self) -> None:
        self.parameters, self.gradients = Arrays(), Arrays()

    def forward(self, x: Array, *, training: bool = False, rng: Rng | None = None) -> Array:
        """Return the sigmoid of `x`."""
        e = np.exp(np.where(x < 0, x, -x))  # at most 1
        self._slope = e / (1 + e) ** 2
        return np.where(x < 0, e, 1) / (1 + e)

    def backward(self, grad: Array) -> Array:
        """Return ``∂L/∂y · y (1 - y)``."""
        return grad * self._slope


class MeanSquaredError:
    """Mean of the squared difference over all n entries: ``L = mean((p - target)²)``, ``∂L/∂p = 2 (p - target) / n``."""

    def forward(self, prediction: Array, target: Array) -> float:
        """Return the mean squared error.

        Both arrays have one shape, any, and at least one entry; anything else raises ValueError naming both shapes:
        broadcasting (n, 1) against (n,) would average n² differences without a word.
        """
        if prediction.shape != target.shape or prediction.size == 0:
            raise ValueError(f"expected one non-empty shape twice, got {prediction.shape} and {target.shape}")
        self._difference = prediction - target
        return float(np.mean(self._difference * self._difference))

    def backward(self) -> Array:
        """Return ``∂L/∂prediction`` for the latest `forward`."""
        return self._difference * (2 / self._difference.size)
