"""What the functions of ppo.py hand to each other: the settings of a run, and the steps that were played. Both are given."""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

__all__ = ["Rollout", "Settings"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a run."""

    n_steps: int = 256  # T, of each environment in a rollout
    gamma: float = 0.99  # discount
    lam: float = 0.95  # λ of the advantages
    clip: float = 0.2  # ε of the clipped loss
    n_epochs: int = 4  # passes over a rollout
    n_minibatches: int = 8  # parts of a pass, one gradient step each
    learning_rate: float = 2.5e-3  # of the first update
    value_weight: float = 0.5
    entropy_weight: float = 0.01
    max_norm: float = 0.5  # of all gradients together


class Rollout(NamedTuple):
    """T steps of N environments, without gradients. s_{t+1} is what step t led to: the final observation at an end."""

    observations: Tensor  # (T, N, d) float32: s_t
    actions: Tensor  # (T, N) int64; (T, N, n_actions) float32 for continuous ones
    log_probs: Tensor  # (T, N) float32: log π(a_t|s_t) of the policy that acted
    values: Tensor  # (T, N) float32: V(s_t)
    next_values: Tensor  # (T, N) float32: V(s_{t+1})
    rewards: Tensor  # (T, N) float32
    terminated: Tensor  # (T, N) bool: step t ended the episode
    truncated: Tensor  # (T, N) bool: a time limit cut the episode off after step t
