"""Continuous actions: the policy network gives the mean of a Gaussian, and one parameter per component its width.

    a = μ(s) + σ·z,   z ~ N(0, 1),   σ = exp(log_std)
    log π(a|s) = Σ_i [ -((a_i - μ_i)/σ_i)²/2 - log σ_i - log(2π)/2 ]
    H          = Σ_i [ log σ_i + (1 + log 2π)/2 ]

Nothing clips the actions here. Where an action must lie within bounds, that is the environment's part: Pendulum-v1 clips what
it gets, for others there is ``gymnasium.wrappers.ClipAction``. The log-probability is that of the action as it was drawn. It
belongs to a density, and ρ is a ratio of two densities at the same point; a clipped action has none, since all that was drawn
beyond a bound lies on the bound. That the world clips is its business, as is everything else that it does with an action.

Source: Schulman et al. 2017, arXiv 1707.06347, section 6.1.
"""

import math

import torch
from torch import Generator, Tensor, nn

from ppo import ActorCritic
from rollout import Settings

__all__ = ["GaussianActorCritic", "PENDULUM"]

# For 73 updates of 8 environments, 150,000 steps of Pendulum-v1; MEASURED.md has what other settings reach. A short horizon is
# what it needs most: gamma 0.9, not 0.99.
PENDULUM = Settings(gamma=0.9, n_epochs=10, n_minibatches=16, learning_rate=1e-3, entropy_weight=0.0)


class GaussianActorCritic(ActorCritic):
    """An ActorCritic of actions (N, n_actions), float32: `policy` gives their mean. All else is as there.

    log_std : (n_actions,) Parameter, log σ, starts at 0. It does not depend on the observation.
    """

    def __init__(
        self, d: int, n_actions: int, *, hidden: int = 64, generator: Generator | None = None
    ) -> None:
        super().__init__(d, n_actions, hidden=hidden, generator=generator)
        self.log_std = nn.Parameter(torch.zeros(n_actions))

    def act(self, observations: Tensor, *, generator: Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw an action for each observation (N, d); return the actions (N, n_actions) and their log-probabilities (N,)."""
        mean = self.policy(observations)
        actions = mean + self.log_std.exp() * torch.randn(mean.shape, generator=generator)
        return actions, self._log_density(actions, mean)

    def greedy(self, observations: Tensor) -> Tensor:
        """Return the most probable action of each observation, the mean: (N, d) to (N, n_actions)."""
        return self.policy(observations)

    def judge(self, observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return log π(action|observation) of given actions (N, n_actions), the entropies and the values, each (N,)."""
        log_probs = self._log_density(actions, self.policy(observations))
        entropy = (self.log_std + (1 + math.log(2 * math.pi)) / 2).sum()
        return log_probs, entropy.expand(len(log_probs)), self.value(observations)[:, 0]

    def _log_density(self, actions: Tensor, mean: Tensor) -> Tensor:
        z = (actions - mean) / self.log_std.exp()
        return -(z.square() / 2 + self.log_std + math.log(2 * math.pi) / 2).sum(dim=-1)
