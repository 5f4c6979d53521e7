"""What the functions of token_world_model.py hand to each other, all given: what goes into a world and what comes out of it."""

from typing import NamedTuple

from torch import Tensor

__all__ = ["PLAIN", "Cache", "Dream", "Episodes", "Output", "Past", "Sampling", "Vocabulary"]


class Vocabulary(NamedTuple):
    """All tokens as integers: first the codes of the tokenizer, then the texts (0: no text), then the actions.

    A step of the game is ``step`` tokens: a text, `n_image` codes, an action.
    """

    n_codes: int = 256
    n_image: int = 9
    n_texts: int = 3
    n_actions: int = 3

    @property
    def step(self) -> int:
        """Tokens of one step."""
        return self.n_image + 2

    @property
    def size(self) -> int:
        """Different tokens."""
        return self.n_codes + self.n_texts + self.n_actions


class Episodes(NamedTuple):
    """B pieces of episodes of T frames each, and what was done between them. No game ends before the last action."""

    text: Tensor  # (B,) int64
    images: Tensor  # (B, T, n_image) int64
    actions: Tensor  # (B, T - 1) int64: actions[:, t] leads from images[:, t] to images[:, t + 1]
    rewards: Tensor  # (B, T - 1) float32
    ends: Tensor  # (B, T - 1) bool


class Output(NamedTuple):
    """What a world says at each of T positions of B sequences, as logits."""

    image: Tensor  # (B, T, n_codes): the next token, where that is one of an image
    reward: Tensor  # (B, T, 3): the reward -1, 0 or 1, where this token is an action
    end: Tensor  # (B, T, 2): the game goes on or ends, where this token is an action


Past = tuple[Tensor, Tensor]  # of one layer: keys and values (B, n_heads, P, d_head) of the last P positions


class Cache(NamedTuple):
    """What later positions need of earlier ones. Nothing changes it: the world returns a new one."""

    layers: tuple[Past, ...]
    position: int  # how many tokens have been read, those that are forgotten included


class Sampling(NamedTuple):
    """How the tokens of an image are drawn."""

    guidance: float = 1.0
    temperature: float = 1.0
    k: int | None = None  # None: all codes


PLAIN = Sampling()


class Dream(NamedTuple):
    """T steps of B dreams that began with L frames. Step t leads from images[:, L - 1 + t] to images[:, L + t]."""

    images: Tensor  # (B, L + T, n_image) int64, those of the beginning first
    actions: Tensor  # (T, B) int64
    log_probs: Tensor  # (T, B) float32: log π(a_t) of the policy that dreamt
    values: Tensor  # (T, B) float32: V of the images before step t
    next_values: Tensor  # (T, B) float32: V of the images after it
    rewards: Tensor  # (T, B) float32: -1, 0 or 1
    ends: Tensor  # (T, B) bool: step t ended the game
    alive: Tensor  # (T, B) bool: the game had not ended before step t; other steps mean nothing
