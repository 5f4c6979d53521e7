"""Another way each: one matrix of discounts for all advantages, weights by QR, the norm by hand, sorted random numbers."""

import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from torch import nn

from rollout import Rollout


def gae(rollout, *, gamma=0.99, lam=0.95):
    """A = M·δ, where M[t, k] is (γλ)^(k - t) if no episode ends in t … k - 1, else 0."""
    terminated, done = rollout.terminated, rollout.terminated | rollout.truncated
    delta = rollout.rewards - rollout.values + gamma * rollout.next_values.masked_fill(terminated, 0.0)
    T = len(delta)
    ended_before = torch.cat((torch.zeros_like(done[:1]), done[:-1])).long().cumsum(0)  # ends in 0 … t - 1
    same = ended_before[:, None] == ended_before[None]
    ahead = torch.arange(T)[None] - torch.arange(T)[:, None]
    powers = torch.tensor([[(gamma * lam) ** k if k >= 0 else 0.0 for k in row] for row in ahead.tolist()])
    return torch.einsum("tkn,kn->tn", powers[..., None] * same, delta)


def clipped_loss(log_probs, old_log_probs, advantages, *, clip=0.2):
    if not (log_probs.shape == old_log_probs.shape == advantages.shape) or log_probs.dim() != 1:
        raise ValueError("three vectors of one length are needed")
    a, r = advantages.detach(), torch.exp(log_probs - old_log_probs.detach())
    both = torch.stack((r * a, r.clip(1 - clip, 1 + clip) * a))
    return -both.amin(dim=0).sum() / len(r)


def value_loss(values, returns):
    if values.shape != returns.shape or values.dim() != 1:
        raise ValueError("two vectors of one length are needed")
    error = values - returns.detach()
    return (error @ error) / (2 * len(error))


def entropy(logits):
    return torch.logsumexp(logits, -1) - (logits.softmax(-1) * logits).sum(-1)


def orthogonal(rows, columns, gain, generator):
    wide = torch.randn(max(rows, columns), min(rows, columns), generator=generator)
    q, r = torch.linalg.qr(wide)
    q = gain * q * r.diagonal().sign()
    return q if rows >= columns else q.T


class ActorCritic(nn.Module):
    def __init__(self, d, n_actions, *, hidden=64, generator=None):
        super().__init__()
        for name, n, last in (("policy", n_actions, 0.01), ("value", 1, 1.0)):
            sizes, layers = (d, hidden, hidden, n), []
            for i, gain in enumerate((2**0.5, 2**0.5, last)):
                layer = nn.Linear(sizes[i], sizes[i + 1])
                with torch.no_grad():
                    layer.weight.copy_(orthogonal(sizes[i + 1], sizes[i], gain, generator))
                    layer.bias.fill_(0)
                layers += [layer, nn.Tanh()]
            setattr(self, name, nn.Sequential(*layers[:-1]))

    def act(self, observations, *, generator=None):
        p = self.policy(observations).softmax(-1)
        noise = torch.empty(p.shape).exponential_(generator=generator)
        actions = (p / noise).argmax(-1)  # the race of exponential clocks
        return actions, p[torch.arange(len(p)), actions].log()

    def greedy(self, observations):
        return self.policy(observations).softmax(-1).argmax(-1)

    def judge(self, observations, actions):
        logits = self.policy(observations)
        log_probs = -nn.functional.cross_entropy(logits, actions, reduction="none")
        return log_probs, entropy(logits), self.value(observations).view(-1)


@torch.no_grad()
def collect(network, environments, observations, n_steps, *, generator=None):
    if environments.metadata.get("autoreset_mode") not in (AutoresetMode.SAME_STEP,):
        raise ValueError("the environments do not reset in the same step")
    rows = []
    for _ in range(n_steps):
        actions, log_probs = network.act(observations, generator=generator)
        after, rewards, terminated, truncated, infos = environments.step(np.array(actions))
        now = torch.tensor(after, dtype=torch.float32)
        final = infos.get("final_obs", [None] * len(after))
        led_to = torch.stack(
            [
                here if there is None else torch.tensor(there, dtype=torch.float32)
                for here, there in zip(now, final, strict=True)
            ]
        )
        v, v_next = network.value(torch.cat((observations, led_to))).view(2, -1)
        ends = torch.tensor(np.stack((terminated, truncated)))
        rows.append(
            (observations, actions, log_probs, v, v_next, torch.tensor(rewards, dtype=torch.float32), *ends)
        )
        observations = now
    return Rollout._make(torch.stack(column) for column in zip(*rows, strict=True)), observations


def update(network, optimizer, rollout, settings, *, generator=None):
    advantages = gae(rollout, gamma=settings.gamma, lam=settings.lam)
    returns = advantages + rollout.values
    n = advantages.numel()
    if n % settings.n_minibatches or n // settings.n_minibatches < 2:
        raise ValueError(f"{n} steps, {settings.n_minibatches} parts")
    N, size, seen = advantages.shape[1], n // settings.n_minibatches, []
    parameters = list(network.parameters())
    for _ in range(settings.n_epochs):
        order = torch.rand(n, generator=generator).argsort()
        for part in order.split(size):
            at = (torch.div(part, N, rounding_mode="floor"), part % N)
            log_probs, entropies, values = network.judge(rollout.observations[at], rollout.actions[at])
            a = advantages[at]
            a = (a - a.mean()) / (a.var().sqrt() + 1e-8)
            policy = clipped_loss(log_probs, rollout.log_probs[at], a, clip=settings.clip)
            critic = settings.value_weight * value_loss(values, returns[at])
            network.zero_grad()
            (policy + critic - settings.entropy_weight * entropies.mean()).backward()
            norm = sum(p.grad.square().sum() for p in parameters if p.grad is not None).sqrt()
            if norm > settings.max_norm:
                for p in parameters:
                    if p.grad is not None:
                        p.grad *= settings.max_norm / norm
            optimizer.step()
            with torch.no_grad():
                r = (log_probs - rollout.log_probs[at]).exp()
                clipped = (r.clamp(1 - settings.clip, 1 + settings.clip) != r).double()
                seen.append(torch.stack((entropies.mean(), (r - 1 - r.log()).mean(), clipped.mean())))
    means = torch.stack(seen).mean(0)
    return {name: means[i].item() for i, name in enumerate(("entropy", "kl", "clip_fraction"))}


def train(network, environments, n_updates, settings, *, seed=0, improve=None):
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), eps=1e-5)
    observations = torch.tensor(environments.reset(seed=seed)[0], dtype=torch.float32)
    records, episodes, step = [], [[] for _ in range(environments.num_envs)], 0
    for i in range(n_updates):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * (n_updates - i) / n_updates
        rollout, observations = collect(
            network, environments, observations, settings.n_steps, generator=generator
        )
        whole = []
        done = (rollout.terminated | rollout.truncated).T.tolist()
        for episode, rewards, ends in zip(episodes, rollout.rewards.T.tolist(), done, strict=True):
            for reward, end in zip(rewards, ends, strict=True):
                episode.append(reward)
                if end:
                    whole.append(sum(episode))
                    episode.clear()
        step += settings.n_steps * environments.num_envs
        record = dict(
            (improve or update)(network, optimizer, rollout, settings, generator=generator), step=step
        )
        records.append(record | ({"return": sum(whole) / len(whole)} if whole else {}))
    return records


@torch.no_grad()
def evaluate(network, environment, *, n_episodes=20, seed=0):
    def episode(number):
        observation, _ = environment.reset(seed=seed + number)
        while True:
            (action,) = network.greedy(torch.tensor(observation, dtype=torch.float32).unsqueeze(0)).tolist()
            observation, reward, terminated, truncated, _ = environment.step(action)
            yield reward
            if terminated or truncated:
                return

    return torch.tensor([float(sum(episode(number))) for number in range(n_episodes)])
