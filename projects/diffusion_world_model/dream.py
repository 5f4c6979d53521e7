"""What the functions of diffusion_world_model.py hand to each other: a world and a batch of dreams. Both are given."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

__all__ = ["Dream", "World"]


class World(NamedTuple):
    """A learned game: B games at once, frames (B, H, W), histories (B, L, H, W) and their actions (B, L)."""

    denoiser: Callable[
        [Tensor, Tensor, Tensor, Tensor], Tensor
    ]  # (noisy frame, c_noise (B,), history, actions) -> (B, H, W)
    outcome: Callable[
        [Tensor, Tensor, Tensor], tuple[Tensor, Tensor]
    ]  # (frame, action (B,), next frame) -> (B, 3), (B, 2)


class Dream(NamedTuple):
    """T steps of B dreams, without gradients. Step t leads from the newest frame of histories[t] to the next frame."""

    histories: Tensor  # (T, B, L, H, W) float32
    actions: Tensor  # (T, B) int64
    log_probs: Tensor  # (T, B) float32: log π(a_t|history_t) of the policy that dreamt
    values: Tensor  # (T, B) float32: V(history_t)
    next_values: Tensor  # (T, B) float32: V of the history that step t led to
    rewards: Tensor  # (T, B) float32: -1, 0 or 1
    ends: Tensor  # (T, B) bool: step t ended the game
