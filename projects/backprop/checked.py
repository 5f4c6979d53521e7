"""Every misuse refused: put `Checked` around a layer or a loss and train with `fit`, and no mistake is silent.

Each computes what the plain one computes, bit for bit. An error names what was expected and what came. Nothing has
happened when it is raised: no array has been changed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

import backprop

__all__ = ["Checked", "Sequential", "SoftmaxCrossEntropy", "fit"]

Array = NDArray[np.floating]
Rng = np.random.Generator


class Checked:
    """A layer that watches another one, `layer`: the same outputs, gradients and parameters, and errors for misuse.

    `forward` raises TypeError for an input that is not of the parameters' dtype, naming both, or neither float32 nor float64.
    `backward` raises RuntimeError before the first forward, and ValueError for a gradient that has not the shape of the
    output, naming both shapes: it would broadcast. Both lend the layer an array that is read-only; a layer that writes into
    it is named in a ValueError.
    """

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self._shape: tuple[int, ...] | None = None

    @property
    def parameters(self) -> Mapping[str, Array]:
        """The layer's parameters."""
        return self.layer.parameters

    @property
    def gradients(self) -> Mapping[str, Array]:
        """The layer's gradients."""
        return self.layer.gradients

    def forward(self, x: Array, *, training: bool = False, rng: Rng | None = None) -> Array:
        """Return the layer's output."""
        _check_dtype(self.layer, x)
        y = self._lend(x, lambda lent: self.layer.forward(lent, training=training, rng=rng))
        self._shape = y.shape
        return y

    def backward(self, grad: Array) -> Array:
        """Return the layer's gradient by its input."""
        name = type(self.layer).__name__
        if self._shape is None:
            raise RuntimeError(f"{name}.backward was called before {name}.forward")
        if grad.shape != self._shape:
            raise ValueError(
                f"{name}.backward: gradient of shape {grad.shape} for an output of {self._shape}"
            )
        return self._lend(grad, self.layer.backward)

    def _lend(self, array: Array, function: Callable[[Array], Array]) -> Array:
        """Return what `function` makes of a view of `array` that it cannot write into."""
        lent = array.view()
        lent.flags.writeable = False
        try:
            return function(lent)
        except ValueError as error:
            if "read-only" not in str(error):
                raise
            name = type(self.layer).__name__
            raise ValueError(f"{name} writes into an array that others may have kept: {error}") from error


class Sequential(backprop.Sequential):
    """`backprop.Sequential` of layers that are each `Checked`; one object or parameter array twice raises ValueError.

    A layer could remember only one of its two inputs, and an optimizer would move the array twice. Layers inside are looked
    at too: those of another Sequential (`layers`), of a residual connection (`body`), of a `Checked` (`layer`).
    """

    def __init__(self, *layers: Any) -> None:
        objects = [inner for layer in layers for inner in _with_those_inside(layer)]
        if len({id(layer) for layer in objects}) < len(objects):
            raise ValueError("the same layer object twice would remember one input only")
        super().__init__(*map(Checked, layers))
        arrays = self.parameters
        if len({id(array) for array in arrays.values()}) < len(arrays):
            raise ValueError(f"the same array twice in {list(arrays)} would be moved twice")


class SoftmaxCrossEntropy(backprop.SoftmaxCrossEntropy):
    """`backprop.SoftmaxCrossEntropy` that also takes -inf as a logit, which means probability 0, and refuses misuse.

    `forward` raises ValueError for other shapes than (batch, classes) and (batch,), for an empty batch, each naming the
    shapes, and for an index outside [0, classes), naming it; TypeError for targets that are not integers. `backward` raises
    RuntimeError before the first forward.
    """

    _ran = False

    def forward(self, logits: Array, targets: NDArray[np.integer]) -> float:
        """Return the mean loss."""
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
        self._ran = True
        return super().forward(logits, targets)

    def backward(self) -> Array:
        """Return ``∂L/∂logits``, (batch, classes), for the latest `forward`."""
        if not self._ran:
            raise RuntimeError("SoftmaxCrossEntropy.backward was called before forward")
        return super().backward()


def fit(
    model: Any,
    loss: Any,
    optimizer: Any,
    x: Array,
    targets: NDArray[Any],
    *,
    epochs: int,
    batch_size: int = 64,
    rng: Rng,
    progress: bool = False,
) -> list[float]:
    """Do what `backprop.fit` does, refuse what cannot be trained, and show how far it came.

    `progress` shows a bar with ``epoch/epochs`` and the loss on standard error: one line that is redrawn in a terminal, one
    line per epoch elsewhere. Without it nothing is printed.

    No sample, `x` and `targets` of different length, a batch_size that is no integer of at least 1 and an `epochs` that
    is none of at least 0 raise ValueError that names the shapes or the number. An `x` that has not the dtype of every
    parameter raises TypeError that names both: mixing them would compute everything in float64 without a word.
    """
    if len(x) == 0 or len(targets) != len(x):
        raise ValueError(f"expected one target per sample, got x {x.shape} and targets {targets.shape}")
    for name, n, least in (("batch_size", batch_size, 1), ("epochs", epochs, 0)):
        if not isinstance(n, int | Integral) or isinstance(n, bool) or n < least:
            raise ValueError(f"{name} must be an integer of at least {least}, got {n!r}")
    _check_dtype(model, x)
    history: list[float] = []
    for epoch in range(1, epochs + 1):
        history += backprop.fit(model, loss, optimizer, x, targets, epochs=1, batch_size=batch_size, rng=rng)
        if progress:
            _show_progress(epoch, epochs, history[-1])
    return history


def _with_those_inside(layer: Any) -> Iterator[Any]:
    """Yield `layer`, and all layers that it is made of."""
    yield layer
    parts = (getattr(layer, name) for name in ("body", "layer") if hasattr(layer, name))
    for inner in (*getattr(layer, "layers", ()), *parts):
        yield from _with_those_inside(inner)


def _check_dtype(layer: Any, x: Array) -> None:
    if x.dtype.type not in (np.float32, np.float64):
        raise TypeError(f"x is {x.dtype}, expected float32 or float64")
    for name, parameter in layer.parameters.items():
        if parameter.dtype != x.dtype:
            raise TypeError(f"x is {x.dtype} but parameter {name!r} is {parameter.dtype}: cast one of them")


def _show_progress(epoch: int, epochs: int, loss: float) -> None:
    terminal = sys.stderr.isatty()
    bar = "#" * (30 * epoch // epochs)
    line = f"epoch {epoch:{len(str(epochs))}d}/{epochs} [{bar:30}] loss {loss:.4f}"
    end = "" if terminal and epoch < epochs else "\n"
    print(f"\r{line}" if terminal else line, end=end, file=sys.stderr, flush=True)
