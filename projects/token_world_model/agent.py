"""The agent: a small convolutional actor-critic that sees decoded frames, and one improvement of it from a batch of dreams.

As in IRIS it never sees a real frame: in the dream and in the game alike it gets what the tokenizer makes of it. Each batch of
dreams is used several times, with PPO's clip, as in the project of the diffusion world model.

    G_t = r_t + γ·(1 - end_t)·((1 - λ)·V(s_{t+1}) + λ·G_{t+1})
"""

from collections.abc import Callable, Iterator

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from tokenizer import Tokenizer
from world import Dream

__all__ = ["ActorCritic", "improve", "lambda_returns", "recent", "watching"]

N_SEEN = 4  # frames


class ActorCritic(nn.Module):
    """The last frames (B, 4, H, W) -> action logits (B, n_actions) and values (B,).

    The last layer starts at zero, so all actions are alike. The empty field, -1, enters as 0.
    """

    def __init__(self, *, size: int = 12, n_actions: int = 3, width: int = 16) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(N_SEEN, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, stride=2, padding=1), nn.ReLU(),
            nn.Flatten(), nn.Linear(width * (size // 2) ** 2, 64), nn.ReLU(), nn.Linear(64, n_actions + 1),
        )  # fmt: skip
        for parameter in self.body[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        out = self.body(frames + 1)
        return out[:, :-1], out[:, -1]


def recent(frames: Tensor) -> Tensor:
    """Return for each frame of games (B, T, H, W) the last four up to it, (B, T, 4, H, W); before the first stand copies of it."""
    before = frames[:, :1].expand(-1, N_SEEN - 1, -1, -1)
    return torch.cat([before, frames], dim=1).unfold(1, N_SEEN, 1).movedim(-1, 2)


def watching(agent: nn.Module, tokenizer: Tokenizer) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Return a policy for one call of `imagine`: the agent, looking at decoded frames, each of which is decoded once."""
    seen: list[Tensor] = []

    def policy(images: Tensor) -> tuple[Tensor, Tensor]:
        n_seen = sum(frames.shape[1] for frames in seen)
        seen.append(tokenizer.decode(images[:, n_seen:]))
        return agent(recent(torch.cat(seen, dim=1))[:, -1])

    return policy


def lambda_returns(
    rewards: Tensor, ends: Tensor, next_values: Tensor, *, gamma: float = 0.985, lam: float = 0.95
) -> Tensor:
    """Return G_t of the module's formula, all (T, B). After the last step the game goes on: there G_{t+1} is V(s_{t+1})."""
    following, returns = next_values[-1], []
    for reward, end, value in reversed(list(zip(rewards, ends, next_values, strict=True))):
        following = reward + gamma * ~end * ((1 - lam) * value + lam * following)
        returns.append(following)
    return torch.stack(returns[::-1])


def improve(
    agent: ActorCritic, optimizer: Optimizer, dream: Dream, frames: Tensor, *, n_epochs: int = 4, n_parts: int = 4,
    clip: float = 0.2, value_weight: float = 0.5, entropy_weight: float = 0.01, generator: Generator | None = None,
) -> float:  # fmt: skip
    """Take `n_epochs` passes over the steps that are alive, each in `n_parts` random parts; return the mean of their λ-returns.

    `frames` (B, L + T, H, W) are the dream's images, decoded. Advantages are G - V as they are: where V is right they are noise, and
    normalised they would be loud noise. The gradient's norm is cut to 0.5.
    """
    n_steps = len(dream.actions)
    seen = recent(frames)[:, -n_steps - 1 : -1].transpose(0, 1)
    returns = lambda_returns(dream.rewards, dream.ends, dream.next_values)
    columns = [
        c[dream.alive] for c in (seen, dream.actions, dream.log_probs, returns - dream.values, returns)
    ]
    for rows in _parts(len(columns[0]), n_epochs, n_parts, generator):
        s, a, old, advantage, g = (c[rows] for c in columns)
        logits, values = agent(s)
        log_p = logits.log_softmax(dim=-1)
        ratio = (log_p.gather(1, a[:, None])[:, 0] - old).exp()
        gain = torch.min(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
        entropy = -(log_p.exp() * log_p).sum(dim=-1)
        loss = -gain.mean() + value_weight * (values - g).square().mean() - entropy_weight * entropy.mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
        optimizer.step()
    return columns[-1].mean().item()


def _parts(n: int, n_epochs: int, n_parts: int, generator: Generator | None) -> Iterator[Tensor]:
    for _ in range(n_epochs):
        yield from torch.randperm(n, generator=generator).chunk(n_parts)
