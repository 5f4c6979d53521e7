"""The agent: a small convolutional actor-critic, and one improvement of it from a batch of dreams.

DIAMOND's agent reads one frame at a time and remembers by an LSTM; this one sees the last four frames at once, which is all that the
game's future depends on. DIAMOND takes one step of REINFORCE per dream; here each batch of dreams is used several times, with
PPO's clip, because on a laptop the dream is what costs.
"""

from collections.abc import Iterator

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from diffusion_world_model import actor_critic_loss, lambda_returns
from dream import Dream

__all__ = ["ActorCritic", "act", "improve"]


class ActorCritic(nn.Module):
    """Histories (B, L, H, W) -> action logits (B, n_actions) and values (B,).

    The last layer starts at zero, so all actions are alike. The empty field, -1, enters as 0.
    """

    def __init__(self, *, n_frames: int = 4, size: int = 12, n_actions: int = 3, width: int = 16) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(n_frames, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, stride=2, padding=1), nn.ReLU(),
            nn.Flatten(), nn.Linear(width * (size // 2) ** 2, 64), nn.ReLU(), nn.Linear(64, n_actions + 1),
        )  # fmt: skip
        for parameter in self.body[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, history: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        out = self.body(history + 1)
        return out[:, :-1], out[:, -1]


@torch.no_grad()
def act(
    agent: nn.Module, history: Tensor, *, greedy: bool = True, generator: Generator | None = None
) -> Tensor:
    """Return the most probable action of each history, (B,), or one drawn from the policy; on the CPU, as the game is."""
    logits = agent(history.to(next(agent.parameters()).device))[0].cpu()
    return logits.argmax(1) if greedy else torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]


def improve(
    agent: ActorCritic, optimizer: Optimizer, dream: Dream, *, n_epochs: int = 4, n_parts: int = 4, gamma: float = 0.985,
    lam: float = 0.95, entropy_weight: float = 0.01, generator: Generator | None = None,
) -> float:  # fmt: skip
    """Take `n_epochs` passes over the dream, each in `n_parts` random parts; return the mean of its λ-returns.

    Advantages are G - V as they are. Where V is right they are noise, and normalised they would be loud noise: with it two agents of
    three stopped learning half-way.
    """
    returns = lambda_returns(dream.rewards, dream.ends, dream.next_values, gamma=gamma, lam=lam)
    advantages = returns - dream.values
    columns = [
        c.flatten(0, 1) for c in (dream.histories, dream.actions, dream.log_probs, advantages, returns)
    ]
    for rows in _parts(returns.numel(), n_epochs, n_parts, generator):
        history, actions, log_probs, a, g = (c[rows] for c in columns)
        logits, values = agent(history)
        loss = actor_critic_loss(logits, values, actions, log_probs, a, g, entropy_weight=entropy_weight)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
        optimizer.step()
    return returns.mean().item()


def _parts(n: int, n_epochs: int, n_parts: int, generator: Generator | None) -> Iterator[Tensor]:
    for _ in range(n_epochs):
        yield from torch.randperm(n, generator=generator).chunk(n_parts)
