"""A careful person's answer: everything is checked, the quadrants are named, the noise is Gumbel's, a scheduler sets the rate."""

import math
from collections import defaultdict

import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from torch import nn

from rollout import Rollout


def gae(rollout, *, gamma=0.99, lam=0.95):
    has_future = torch.logical_not(rollout.terminated)
    same_episode = torch.logical_not(torch.logical_or(rollout.terminated, rollout.truncated))
    targets = torch.where(has_future, rollout.rewards + gamma * rollout.next_values, rollout.rewards)
    deltas = targets - rollout.values
    reversed_advantages = []
    following = torch.zeros_like(deltas[0])
    for delta, connected in zip(deltas.flip(0), same_episode.flip(0), strict=True):
        following = delta + torch.where(connected, gamma * lam * following, torch.zeros_like(following))
        reversed_advantages.append(following)
    return torch.stack(reversed_advantages).flip(0)


def _one_batch_axis(**tensors):
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) != 1 or any(len(shape) != 1 for shape in shapes.values()):
        raise ValueError(f"expected one shape (batch,), got {shapes}")


def clipped_loss(log_probs, old_log_probs, advantages, *, clip=0.2):
    _one_batch_axis(log_probs=log_probs, old_log_probs=old_log_probs, advantages=advantages)
    with torch.no_grad():
        old, gain = old_log_probs.clone(), advantages.clone()
    ratio = (log_probs - old).exp()
    too_probable = (gain > 0) & (ratio > 1 + clip)
    too_improbable = (gain < 0) & (ratio < 1 - clip)
    held = torch.where(too_probable, torch.full_like(ratio, 1 + clip), torch.full_like(ratio, 1 - clip))
    effective = torch.where(too_probable | too_improbable, held, ratio)
    return (effective * gain).mean().neg()


def value_loss(values, returns):
    _one_batch_axis(values=values, returns=returns)
    error = returns.detach() - values
    return 0.5 * torch.mean(error * error)


def entropy(logits):
    shifted = logits - logits.amax(dim=-1, keepdim=True).detach()
    log_z = shifted.exp().sum(dim=-1, keepdim=True).log()
    log_p = shifted - log_z
    return torch.einsum("...a,...a->...", log_p.exp(), log_p).neg()


class ActorCritic(nn.Module):
    def __init__(self, d, n_actions, *, hidden=64, generator=None):
        super().__init__()
        self.policy = nn.Sequential(
            nn.Linear(d, hidden),
            nn.Tanh(),
            nn.Linear(hidden, hidden),
            nn.Tanh(),
            nn.Linear(hidden, n_actions),
        )
        self.value = nn.Sequential(
            nn.Linear(d, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, 1)
        )
        for part, last_gain in ((self.policy, 0.01), (self.value, 1.0)):
            for index, gain in ((0, math.sqrt(2)), (2, math.sqrt(2)), (4, last_gain)):
                nn.init.orthogonal_(part[index].weight, gain=gain, generator=generator)
                part[index].bias.data.zero_()

    def act(self, observations, *, generator=None):
        with torch.no_grad():
            log_p = torch.log_softmax(self.policy(observations), dim=1)
            uniform = torch.rand(log_p.shape, generator=generator).clamp(min=1e-20)
            actions = (log_p - torch.log(-torch.log(uniform).clamp(max=-1e-20))).argmax(dim=1)
        rows = torch.arange(len(actions))
        return actions, log_p[rows, actions]

    def greedy(self, observations):
        with torch.no_grad():
            return self.policy(observations).max(dim=-1).indices

    def judge(self, observations, actions):
        logits = self.policy(observations)
        chosen = nn.functional.one_hot(actions, logits.shape[-1]).to(logits.dtype)
        log_probs = torch.einsum("na,na->n", torch.log_softmax(logits, dim=-1), chosen)
        return log_probs, entropy(logits), self.value(observations).squeeze(-1)


def _float32(array):
    return torch.from_numpy(np.asarray(array, dtype=np.float32).copy())


def collect(network, environments, observations, n_steps, *, generator=None):
    mode = environments.metadata.get("autoreset_mode")
    if mode != AutoresetMode.SAME_STEP:
        raise ValueError(f"the environments must reset in the same step, not as {mode}")
    columns = defaultdict(list)
    with torch.no_grad():
        for _ in range(n_steps):
            actions, log_probs = network.act(observations, generator=generator)
            shown, rewards, terminated, truncated, infos = environments.step(actions.cpu().numpy())
            ended = np.logical_or(terminated, truncated)
            led_to = _float32(shown)
            if ended.any():
                finals = [_float32(final) for final in infos["final_obs"][ended]]
                led_to[torch.from_numpy(ended)] = torch.stack(finals)
            columns["observations"].append(observations)
            columns["actions"].append(actions)
            columns["log_probs"].append(log_probs)
            columns["rewards"].append(_float32(rewards))
            columns["terminated"].append(torch.from_numpy(terminated.copy()))
            columns["truncated"].append(torch.from_numpy(truncated.copy()))
            columns["led_to"].append(led_to)
            observations = _float32(shown)
        table = {name: torch.stack(rows) for name, rows in columns.items()}
        led_to = table.pop("led_to")
        table["values"] = network.value(table["observations"]).squeeze(-1)
        table["next_values"] = network.value(led_to).squeeze(-1)
    return Rollout(**table), observations


def update(network, optimizer, rollout, settings, *, generator=None):
    T, N = rollout.rewards.shape
    size, left = divmod(T * N, settings.n_minibatches)
    if left or size < 2:
        raise ValueError(f"{T}·{N} steps are not {settings.n_minibatches} equal parts of two or more")
    advantages = gae(rollout, gamma=settings.gamma, lam=settings.lam).reshape(T * N)
    targets = advantages + rollout.values.reshape(T * N)
    observations = rollout.observations.reshape(T * N, -1)
    actions, old = rollout.actions.reshape(T * N), rollout.log_probs.reshape(T * N)
    totals, parts = {"entropy": 0.0, "kl": 0.0, "clip_fraction": 0.0}, 0
    for _ in range(settings.n_epochs):
        order = torch.randperm(T * N, generator=generator).view(settings.n_minibatches, size)
        for rows in order:
            log_probs, entropies, values = network.judge(observations[rows], actions[rows])
            std, mean = torch.std_mean(advantages[rows])
            normalised = (advantages[rows] - mean) / (std + 1e-8)
            loss = (
                clipped_loss(log_probs, old[rows], normalised, clip=settings.clip)
                + settings.value_weight * value_loss(values, targets[rows])
                - settings.entropy_weight * entropies.mean()
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(list(network.parameters()), max_norm=settings.max_norm)
            optimizer.step()
            ratio = (log_probs.detach() - old[rows]).exp()
            outside = (ratio < 1 - settings.clip) | (ratio > 1 + settings.clip)
            totals["entropy"] += float(entropies.detach().mean())
            totals["kl"] += float((ratio - 1 - ratio.log()).mean())
            totals["clip_fraction"] += float(outside.float().mean())
            parts += 1
    return {name: total / parts for name, total in totals.items()}


def train(network, environments, n_updates, settings, *, seed=0, improve=None):
    improve = update if improve is None else improve
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.learning_rate, eps=1e-5)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: 1 - i / n_updates)
    first, _ = environments.reset(seed=seed)
    observations, steps = _float32(first), 0
    unfinished = torch.zeros(environments.num_envs, dtype=torch.float64)
    records = []
    for _ in range(n_updates):
        rollout, observations = collect(
            network, environments, observations, settings.n_steps, generator=generator
        )
        steps += rollout.rewards.numel()
        ended = []
        for rewards, terminated, truncated in zip(
            rollout.rewards, rollout.terminated, rollout.truncated, strict=True
        ):
            unfinished = unfinished + rewards
            done = terminated | truncated
            ended.extend(unfinished[done].tolist())
            unfinished = torch.where(done, 0.0, unfinished)
        metrics = improve(network, optimizer, rollout, settings, generator=generator)
        scheduler.step()
        record = {**metrics, "step": float(steps)}
        if ended:
            record["return"] = math.fsum(ended) / len(ended)
        records.append(record)
    return records


def evaluate(network, environment, *, n_episodes=20, seed=0):
    returns = torch.zeros(n_episodes, dtype=torch.float32)
    for i in range(n_episodes):
        observation, _ = environment.reset(seed=seed + i)
        terminated = truncated = False
        while not (terminated or truncated):
            action = int(network.greedy(_float32(observation).view(1, -1)))
            observation, reward, terminated, truncated, _ = environment.step(action)
            returns[i] += float(reward)
    return returns
