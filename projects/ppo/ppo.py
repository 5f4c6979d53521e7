"""Proximal policy optimization for discrete actions: collect with the policy, improve it a little, throw the data away, repeat.

    δ_t = r_t + γ·(1 - terminated_t)·V(s_{t+1}) - V(s_t)          how much better a step went than expected
    A_t = δ_t + γλ·(1 - done_t)·A_{t+1}                           done = terminated or truncated
    L   = -mean(min(ρA, clip(ρ, 1 - ε, 1 + ε)·A)),                ρ = π_new(a|s)/π_old(a|s)

The contract: T steps of N environments are tensors (T, N, ...), see rollout.py. s_{t+1} is what step t led to: after an
episode's last step its final observation, not the first one of the next episode. An episode that a time limit cut off
(truncated) has a future, which V must guess; one that ended (terminated) has none. Random numbers come from the generator that
is passed, if one is. Sources: Schulman et al. 2017, arXiv 1707.06347; Pardo et al. 2018, arXiv 1712.00378.
"""

from typing import Any

import numpy as np
import torch
from gymnasium import Env
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from rollout import Rollout, Settings

__all__ = ["gae", "clipped_loss", "value_loss", "entropy", "ActorCritic", "collect", "update", "train", "evaluate"]  # fmt: skip

Environments = VectorEnv[Any, Any, Any]


def gae(rollout: Rollout, *, gamma: float = 0.99, lam: float = 0.95) -> Tensor:
    """Return A_t of the module's formula, (T, N); after the last step nothing is added. Source: arXiv 1506.02438, eq. 16."""
    future, goes_on = rollout.next_values * ~rollout.terminated, ~(rollout.terminated | rollout.truncated)
    advantages = rollout.rewards + gamma * future - rollout.values  # δ, so far
    decay = gamma * lam * goes_on
    for t in reversed(range(len(advantages) - 1)):
        advantages[t] += decay[t] * advantages[t + 1]
    return advantages


def clipped_loss(log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, *, clip: float = 0.2) -> Tensor:  # fmt: skip
    """Return the module's L, a scalar: minus the mean of the smaller of ρA and the clipped ρA.

    All three have one shape, else ValueError: (batch, 1) beside (batch,) would be broadcast to a square. Only `log_probs` get a
    gradient, and none where ρ is far enough: where A > 0 and ρ > 1 + ε, or A < 0 and ρ < 1 - ε. Source: eq. 7.
    """
    if not log_probs.shape == old_log_probs.shape == advantages.shape:
        raise ValueError(f"shapes differ: {log_probs.shape}, {old_log_probs.shape}, {advantages.shape}")
    ratio, advantages = (log_probs - old_log_probs.detach()).exp(), advantages.detach()
    return -torch.min(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages).mean()


def value_loss(values: Tensor, returns: Tensor) -> Tensor:
    """Return half the mean squared error, a scalar. Only `values` get a gradient. Both have one shape, else ValueError."""
    if values.shape != returns.shape:
        raise ValueError(f"shapes differ: {values.shape}, {returns.shape}")
    return (values - returns.detach()).square().mean() / 2


def entropy(logits: Tensor) -> Tensor:
    """Return -Σ p·log p of p = softmax(logits), (..., n_actions) to (...), in nats; finite even where p underflows."""
    log_p = logits.log_softmax(dim=-1)
    return -(log_p.exp() * log_p).sum(dim=-1)


class ActorCritic(nn.Module):
    """Two separate networks: `policy` maps observations (..., d) to logits (..., n_actions), `value` maps them to (..., 1).

    Each is an nn.Sequential: Linear, Tanh, Linear, Tanh, Linear, `hidden` wide. Weights start orthogonal, with gain √2, in the
    last layers 0.01 (policy: all actions begin nearly equal) and 1 (value), drawn with `generator`; biases start at zero.
    """

    def __init__(self, d: int, n_actions: int, *, hidden: int = 64, generator: Generator | None = None) -> None:  # fmt: skip
        super().__init__()
        self.policy = _network(d, hidden, n_actions, 0.01, generator)
        self.value = _network(d, hidden, 1, 1.0, generator)

    def act(self, observations: Tensor, *, generator: Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw an action for each observation (N, d); return the actions (N,), int64, and their log-probabilities (N,)."""
        log_p = self.policy(observations).log_softmax(dim=-1)
        actions = torch.multinomial(log_p.exp(), 1, generator=generator)
        return actions[:, 0], log_p.gather(-1, actions)[:, 0]

    def greedy(self, observations: Tensor) -> Tensor:
        """Return the most probable action of each observation, (N, d) to (N,), int64."""
        return self.policy(observations).argmax(dim=-1)

    def judge(self, observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return log π(action|observation) of given actions (N,), the entropies and the values, each (N,)."""
        logits = self.policy(observations)
        log_probs = logits.log_softmax(dim=-1).gather(-1, actions[:, None])[:, 0]
        return log_probs, entropy(logits), self.value(observations)[:, 0]


@torch.no_grad()
def collect(
    network: ActorCritic, environments: Environments, observations: Tensor, n_steps: int, *, generator: Generator | None = None,
) -> tuple[Rollout, Tensor]:  # fmt: skip
    """Play `n_steps` steps from `observations`, (N, d) float32; return the rollout and the observations after it.

    ``network.act`` is asked once a step, V is ``network.value``. ValueError unless environments reset in the step that ends an
    episode (``AutoresetMode.SAME_STEP``); what that step led to is in ``infos["final_obs"]``. What they give becomes float32.
    """
    # The default, NEXT_STEP, puts a step between two episodes that is none: its action is ignored and its reward is 0.
    if (mode := environments.metadata.get("autoreset_mode")) != AutoresetMode.SAME_STEP:
        raise ValueError(f"autoreset_mode must be SAME_STEP, got {mode}")
    steps = []
    for _ in range(n_steps):
        actions, log_probs = network.act(observations, generator=generator)
        following, rewards, terminated, truncated, infos = environments.step(actions.numpy())
        led_to = following.copy()
        for i in np.flatnonzero(terminated | truncated):
            led_to[i] = infos["final_obs"][i]
        seen = map(torch.tensor, (led_to, rewards, terminated, truncated))  # copies: buffers may be reused
        steps.append((observations, actions, log_probs, *seen))
        observations = torch.tensor(following, dtype=torch.float32)
    s, actions, log_probs, s_next, rewards, *ends = map(torch.stack, zip(*steps, strict=True))
    values, next_values = (network.value(states.float())[..., 0] for states in (s, s_next))
    return Rollout(s, actions, log_probs, values, next_values, rewards.float(), *ends), observations


def update(
    network: ActorCritic, optimizer: Optimizer, rollout: Rollout, settings: Settings, *, generator: Generator | None = None,
) -> dict[str, float]:  # fmt: skip
    """Improve the network on one rollout: `n_epochs` passes, each in a new random order and in `n_minibatches` equal parts.

        loss = clipped_loss + value_weight·value_loss - entropy_weight·mean(entropy)
    The target of the values is A + V of the rollout, A as `gae` gives it; `clipped_loss` gets each part's A normalised, ``(A -
    A.mean()) / (A.std() + 1e-8)``. ``network.judge`` is asked once per part; the norm of all gradients is cut to `max_norm`.
    Return means over all parts of all epochs, before their step: "entropy", "kl" (of ρ - 1 - log ρ) and "clip_fraction" (ρ
    outside [1 - ε, 1 + ε]). ValueError unless the T·N steps go into equal parts of 2 or more.
    """
    advantages = gae(rollout, gamma=settings.gamma, lam=settings.lam)
    n, parts, records = advantages.numel(), settings.n_minibatches, []
    if n % parts or n < 2 * parts:
        raise ValueError(f"{n} steps cannot be cut into {parts} equal parts of 2 or more")
    table = [column.flatten(0, 1) for column in (*rollout[:3], advantages, advantages + rollout.values)]
    for _ in range(settings.n_epochs):
        for rows in torch.randperm(n, generator=generator).chunk(parts):
            observations, actions, old_log_probs, a, returns = (column[rows] for column in table)
            log_probs, entropies, values = network.judge(observations, actions)
            a = (a - a.mean()) / (a.std() + 1e-8)
            loss = clipped_loss(log_probs, old_log_probs, a, clip=settings.clip)
            loss = loss + settings.value_weight * value_loss(values, returns)
            loss = loss - settings.entropy_weight * entropies.mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), settings.max_norm)
            optimizer.step()
            log_ratio = (log_probs - old_log_probs).detach()
            outside = (log_ratio.expm1().abs() > settings.clip).float()
            records.append([x.mean().item() for x in (entropies, log_ratio.expm1() - log_ratio, outside)])
    return dict(zip(("entropy", "kl", "clip_fraction"), np.mean(records, axis=0).tolist(), strict=True))


def train(
    network: ActorCritic, environments: Environments, n_updates: int, settings: Settings, *, seed: int = 0, improve: Any = None,
) -> list[dict[str, float]]:  # fmt: skip
    """Collect and update `n_updates` times, i = 0, 1, …, by Adam with ε = 1e-5 at the rate ``learning_rate·(1 - i/n_updates)``.

    `seed` sets the environments and one generator for all draws. `improve` is called in the place of `update`. Return a record
    per update: what `update` returned, "step" (steps of all environments so far) and, if episodes ended in the rollout,
    "return": the mean of their sums of rewards, each from its first step, even where that was in an earlier rollout.
    """
    generator, improve = Generator().manual_seed(seed), improve or update
    optimizer = torch.optim.Adam(network.parameters(), eps=1e-5, fused=True)
    states = torch.tensor(environments.reset(seed=seed)[0], dtype=torch.float32)
    records, sums = [], torch.zeros(environments.num_envs)
    for i in range(n_updates):
        optimizer.param_groups[0]["lr"] = settings.learning_rate * (1 - i / n_updates)
        rollout, states = collect(network, environments, states, settings.n_steps, generator=generator)
        returns = []
        for rewards, done in zip(rollout.rewards, rollout.terminated | rollout.truncated, strict=True):
            sums += rewards
            returns += sums[done].tolist()
            sums[done] = 0
        record = {"step": float((i + 1) * rollout.rewards.numel())}
        record |= {"return": sum(returns) / len(returns)} if returns else {}
        records.append(record | improve(network, optimizer, rollout, settings, generator=generator))
    return records


@torch.no_grad()
def evaluate(network: ActorCritic, environment: Env[Any, Any], *, n_episodes: int = 20, seed: int = 0) -> Tensor:  # fmt: skip
    """Return the sums of rewards, (n_episodes,), of whole episodes by ``network.greedy``; episode i is reset with seed + i."""
    returns = torch.zeros(n_episodes)
    for i in range(n_episodes):
        observation, done = environment.reset(seed=seed + i)[0], False
        while not done:
            action = network.greedy(torch.as_tensor(observation).float()[None])[0]
            observation, reward, terminated, truncated, _ = environment.step(action.numpy())
            returns[i] += float(reward)
            done = terminated or truncated
    return returns


def _network(d: int, hidden: int, n: int, last_gain: float, generator: Generator | None) -> nn.Sequential:
    layers = [nn.Linear(d, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, n)]
    for layer, gain in zip(layers, (2**0.5, 2**0.5, last_gain), strict=True):
        nn.init.orthogonal_(layer.weight, gain, generator)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(layers[0], nn.Tanh(), layers[1], nn.Tanh(), layers[2])
