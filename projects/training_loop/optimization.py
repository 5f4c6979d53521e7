"""Clipping that is fast, sharded and does not wait for a GPU, and averaged weights."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

__all__ = ["clip_gradients", "Ema"]


@torch.no_grad()
def clip_gradients(parameters: Iterable[Tensor], max_norm: float) -> Tensor:
    """Scale all gradients by one factor so that their joint norm is at most `max_norm`.

    norm = sqrt(Σ over all parameters and entries of g²),   g ← g · min(1, max_norm/norm)

    One factor for all: the direction of the step stays. Gradients must be unscaled before (`torch.amp.GradScaler`).

    Parameters
    ----------
    parameters : iterable of Tensor
        Those without a gradient are passed over; one that comes twice counts once. Gradients may be sharded (DTensor): the
        norm is over all ranks.
    max_norm : float
        Above 0; ``inf`` measures without clipping.

    Returns
    -------
    Tensor
        The norm before clipping, a scalar, in float32 at least. Where it is NaN or inf the gradients are left alone: the
        step is to be skipped.

    Raises
    ------
    ValueError
        If `max_norm` is not above 0.
    TypeError
        If `parameters` is one tensor: its rows have no gradients.

    Notes
    -----
    Source: Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural networks", 2013, algorithm 1.
    """
    if not max_norm > 0:
        raise ValueError(f"max_norm must be above 0, got {max_norm}")
    if isinstance(parameters, Tensor):
        raise TypeError(
            f"parameters must be an iterable of tensors, got a tensor of shape {tuple(parameters.shape)}"
        )
    gradients = [p.grad for p in dict.fromkeys(parameters) if p.grad is not None]
    if not gradients:
        return torch.tensor(0.0)
    # in float16 a norm above 65504 would be inf
    wide = functools.reduce(torch.promote_types, {gradient.dtype for gradient in gradients}, torch.float32)
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients, 2, wide)))
    if isinstance(norm, DTensor):  # each rank has the norm of its shard: one all-reduce of a single number
        norm = norm.full_tensor()
    # Only on a CPU, where the number is at hand: reading it on a GPU would wait for the whole backward pass.
    if norm.device.type == "cpu" and norm <= max_norm:
        return norm
    # A NaN factor must not reach the gradients.
    factor = torch.where(torch.isfinite(norm), (max_norm / norm).clamp(max=1.0), torch.ones_like(norm))
    torch._foreach_mul_(_local(gradients), factor)
    return norm


class Ema:
    """An exponential moving average of the weights, which is often better than the last weights.

    average ← average + (1 - d)·(weight - average),   d = min(decay, (1 + n)/(10 + n)) after n updates

    The rising d keeps the random first weights from lingering in short runs. The averages are float32 at least, also of 16-bit
    weights: there a step of (1 - d)·(weight - average) would be rounded away, and the average would never move.

    Parameters
    ----------
    model : nn.Module
        Its trainable parameters are averaged; buffers are not.
    decay : float
        In 0..1, below 1.

    Raises
    ------
    ValueError
        If `decay` is outside.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in 0..1, below 1, got {decay}")
        self.decay = decay
        self.n_updates = 0
        self._weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._averages = {
            name: p.detach().to(torch.promote_types(p.dtype, torch.float32), copy=True)
            for name, p in self._weights.items()
        }

    @torch.no_grad()
    def update(self) -> None:
        """Take in the current weights. Call it after each optimizer step that was taken, and only then."""
        decay = min(self.decay, (1 + self.n_updates) / (10 + self.n_updates))
        averages = _local(self._averages.values())
        weights = [w.to(a.dtype) for w, a in zip(_local(self._weights.values()), averages, strict=True)]
        torch._foreach_lerp_(averages, weights, 1 - decay)
        self.n_updates += 1

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Put the averages into the model for the block; afterwards the weights are back, also after an error."""
        weights, averages = _local(self._weights.values()), _local(self._averages.values())
        saved = [weight.detach().clone() for weight in weights]
        try:
            with torch.no_grad():
                torch._foreach_copy_(weights, averages)
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(weights, saved)

    def state_dict(self) -> dict[str, Any]:
        """Return ``{"n_updates": int, "averages": {parameter name: Tensor}}``; the tensors are the live ones."""
        return {"n_updates": self.n_updates, "averages": dict(self._averages)}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned; ValueError unless names and shapes are the same."""
        found = {name: tuple(average.shape) for name, average in state["averages"].items()}
        if found != {name: tuple(average.shape) for name, average in self._averages.items()}:
            raise ValueError(f"averages of other weights: {found}")
        for name, average in self._averages.items():
            average.copy_(state["averages"][name])
        self.n_updates = int(state["n_updates"])


def _local(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Return the part of each tensor that this rank holds: the operations here are entry by entry."""
    return [t.detach().to_local() if isinstance(t, DTensor) else t for t in tensors]  # type: ignore[attr-defined]
