"""Catch with a ball that bounces, a vector environment of Gymnasium: small enough for a world model on one core.

A frame is 12 × 12: a wall around a field of 10 × 10. The ball starts in the top row at a random column and moves one row down
and one column to the side at every step; which side, the first frame does not tell. It bounces off the walls. (Either way leads it
from column c to 9 - c in the end; between, the ways differ.) The paddle, two wide, starts at a random place of the bottom row and
moves by -1, 0 or 1. After nine steps the ball is in the bottom row and the episode ends: reward 1 if it hits the paddle, else -1;
before that 0. With `gust` > 0 the wind moves the ball, with that probability at each step, by another column to a random side.
"""

from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

__all__ = ["BALL", "N_ACTIONS", "N_STEPS", "PADDLE", "SIZE", "WALL", "Catch"]

FIELD, SIZE, N_STEPS, N_ACTIONS = 10, 12, 9, 3
EMPTY, WALL, PADDLE, BALL = -1.0, -0.5, 0.5, 1.0  # grey levels

Frames = NDArray[np.float32]


class Catch(VectorEnv[Frames, NDArray[np.int64], NDArray[Any]]):
    """`num_envs` games side by side; frames (num_envs, 12, 12) float32 in [-1, 1], actions 0 (left), 1 (stay), 2 (right).

    A game that ends starts again in the same step (``AutoresetMode.SAME_STEP``); its last frame is in ``infos["final_obs"]``,
    where ``infos["_final_obs"]`` is true. ValueError for a `gust` outside [0, 1] or an action outside 0..2.
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(self, num_envs: int = 1, *, gust: float = 0.0) -> None:
        if not 0 <= gust <= 1:
            raise ValueError(f"gust must be a probability, got {gust}")
        self.num_envs, self.gust = num_envs, gust
        self.single_observation_space, self.single_action_space = (
            Box(-1, 1, (SIZE, SIZE)),
            Discrete(N_ACTIONS),
        )
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.row, self.column, self.direction, self.paddle = np.zeros((4, num_envs), dtype=np.int64)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Frames, dict[str, Any]]:
        """Start all games anew; return their first frames and no infos. The same seed gives the same games."""
        super().reset(seed=seed)
        self._start(np.ones(self.num_envs, dtype=bool))
        return self.frames(), {}

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[Frames, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """Return frames, rewards float64, terminated and truncated (never) bool, each (num_envs, ...), and infos."""
        actions = np.asarray(actions)
        if actions.shape != (self.num_envs,) or not np.isin(actions, range(N_ACTIONS)).all():
            raise ValueError(f"need {self.num_envs} actions in 0..2, got {actions}")
        self.paddle = np.clip(self.paddle + actions - 1, 0, FIELD - 2)
        ahead = self.column + self.direction
        self.direction = np.where((ahead < 0) | (ahead >= FIELD), -self.direction, self.direction)
        self.row, self.column = self.row + 1, self.column + self.direction
        if self.gust:
            blown = self.np_random.random(self.num_envs) < self.gust
            self.column = np.clip(
                self.column + blown * self.np_random.choice([-1, 1], self.num_envs), 0, FIELD - 1
            )
        ended = self.row == N_STEPS
        rewards = ended * np.where(np.isin(self.column - self.paddle, (0, 1)), 1.0, -1.0)
        infos = {"final_obs": self.frames(), "_final_obs": ended} if ended.any() else {}
        self._start(ended)
        return self.frames(), rewards, ended, np.zeros_like(ended), infos

    def frames(self) -> Frames:
        """Draw the present state of all games, (num_envs, 12, 12)."""
        frames = np.full((self.num_envs, SIZE, SIZE), WALL, dtype=np.float32)
        frames[:, 1:-1, 1:-1] = EMPTY
        games = np.arange(self.num_envs)
        frames[games, FIELD, self.paddle + 1] = frames[games, FIELD, self.paddle + 2] = PADDLE
        frames[games, self.row + 1, self.column + 1] = BALL
        return frames

    def _start(self, which: NDArray[np.bool_]) -> None:
        n = int(which.sum())
        self.row[which] = 0
        self.column[which] = self.np_random.integers(FIELD, size=n)
        self.direction[which] = self.np_random.choice([-1, 1], n)
        self.paddle[which] = self.np_random.integers(FIELD - 1, size=n)
