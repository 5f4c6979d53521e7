"""The answer of the well-known scripts: buffers that are filled step by step, index arithmetic, a running last advantage."""

import gymnasium
import numpy as np
import torch
import torch.nn.functional as F
from gymnasium.vector import AutoresetMode
from torch import nn
from torch.distributions import Categorical

from rollout import Rollout


def gae(rollout, *, gamma=0.99, lam=0.95):
    advantages = torch.zeros_like(rollout.rewards)
    last = 0.0
    for t in range(len(rollout.rewards) - 1, -1, -1):
        nonterminal = 1.0 - rollout.terminated[t].float()
        unbroken = nonterminal * (1.0 - rollout.truncated[t].float())
        delta = rollout.rewards[t] + gamma * rollout.next_values[t] * nonterminal - rollout.values[t]
        last = delta + gamma * lam * unbroken * last
        advantages[t] = last
    return advantages


def clipped_loss(log_probs, old_log_probs, advantages, *, clip=0.2):
    if log_probs.shape != old_log_probs.shape or log_probs.shape != advantages.shape:
        raise ValueError("the three must have one shape")
    advantages = advantages.detach()
    ratio = torch.exp(log_probs - old_log_probs.detach())
    loss1 = -advantages * ratio
    loss2 = -advantages * torch.clamp(ratio, 1 - clip, 1 + clip)
    return torch.max(loss1, loss2).mean()


def value_loss(values, returns):
    if values.shape != returns.shape:
        raise ValueError("values and returns must have one shape")
    return F.mse_loss(values, returns.detach()) / 2


def entropy(logits):
    return Categorical(logits=logits).entropy()


def layer_init(layer, std, generator):
    nn.init.orthogonal_(layer.weight, std, generator=generator)
    nn.init.constant_(layer.bias, 0.0)
    return layer


class ActorCritic(nn.Module):
    def __init__(self, d, n_actions, *, hidden=64, generator=None):
        super().__init__()

        def network(n, std):
            return nn.Sequential(
                layer_init(nn.Linear(d, hidden), np.sqrt(2), generator),
                nn.Tanh(),
                layer_init(nn.Linear(hidden, hidden), np.sqrt(2), generator),
                nn.Tanh(),
                layer_init(nn.Linear(hidden, n), std, generator),
            )

        self.value = network(1, 1.0)
        self.policy = network(n_actions, 0.01)

    def act(self, observations, *, generator=None):
        policy = Categorical(logits=self.policy(observations))
        edges = policy.probs.cumsum(-1)  # the inverse of the distribution function
        u = torch.rand(len(observations), 1, generator=generator)
        actions = torch.searchsorted(edges, u, right=True)[:, 0].clamp(max=edges.shape[1] - 1)
        return actions, policy.log_prob(actions)

    def greedy(self, observations):
        return torch.argmax(self.policy(observations), 1)

    def judge(self, observations, actions):
        logits = self.policy(observations)
        return (
            Categorical(logits=logits).log_prob(actions),
            entropy(logits),
            self.value(observations).flatten(),
        )


def collect(network, environments, observations, n_steps, *, generator=None):
    if environments.metadata["autoreset_mode"] is not AutoresetMode.SAME_STEP:
        raise ValueError("make the environments with autoreset_mode=SAME_STEP")
    n = environments.num_envs
    obs = torch.zeros(n_steps, *observations.shape)
    actions = torch.zeros(n_steps, n, dtype=torch.int64)
    log_probs, values, next_values, rewards = (torch.zeros(n_steps, n) for _ in range(4))
    terminated, truncated = (torch.zeros(n_steps, n, dtype=torch.bool) for _ in range(2))
    with torch.no_grad():
        for t in range(n_steps):
            obs[t] = observations
            values[t] = network.value(observations).flatten()
            actions[t], log_probs[t] = network.act(observations, generator=generator)
            next_obs, reward, term, trunc, info = environments.step(actions[t].numpy())
            rewards[t] = torch.tensor(reward)
            terminated[t], truncated[t] = torch.tensor(term), torch.tensor(trunc)
            observations = torch.Tensor(next_obs)
            next_values[t] = network.value(observations).flatten()
            if "final_obs" in info:
                for i in range(n):
                    if info["_final_obs"][i]:
                        final = torch.Tensor(np.asarray(info["final_obs"][i]))
                        next_values[t, i] = network.value(final).item()
    return Rollout(obs, actions, log_probs, values, next_values, rewards, terminated, truncated), observations


def update(network, optimizer, rollout, settings, *, generator=None):
    advantages = gae(rollout, gamma=settings.gamma, lam=settings.lam)
    returns = advantages + rollout.values
    b_obs = rollout.observations.reshape(-1, rollout.observations.shape[-1])
    b_actions, b_log_probs = rollout.actions.reshape(-1), rollout.log_probs.reshape(-1)
    b_advantages, b_returns = advantages.reshape(-1), returns.reshape(-1)
    batch_size = len(b_obs)
    minibatch_size = batch_size // settings.n_minibatches
    if minibatch_size < 2 or minibatch_size * settings.n_minibatches != batch_size:
        raise ValueError(f"{batch_size} steps do not make {settings.n_minibatches} equal minibatches")
    entropies, kls, fractions = [], [], []
    for _ in range(settings.n_epochs):
        b_inds = torch.randperm(batch_size, generator=generator)
        for start in range(0, batch_size, minibatch_size):
            inds = b_inds[start : start + minibatch_size]
            log_probs, ent, values = network.judge(b_obs[inds], b_actions[inds])
            with torch.no_grad():
                logratio = log_probs - b_log_probs[inds]
                ratio = logratio.exp()
                kls.append(((ratio - 1) - logratio).mean().item())
                fractions.append(((ratio - 1.0).abs() > settings.clip).float().mean().item())
            mb = b_advantages[inds]
            mb = (mb - mb.mean()) / (mb.std() + 1e-8)
            pg_loss = clipped_loss(log_probs, b_log_probs[inds], mb, clip=settings.clip)
            v_loss = value_loss(values, b_returns[inds])
            entropy_loss = ent.mean()
            entropies.append(entropy_loss.item())
            loss = pg_loss - settings.entropy_weight * entropy_loss + v_loss * settings.value_weight
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), settings.max_norm)
            optimizer.step()
    columns = {"entropy": entropies, "kl": kls, "clip_fraction": fractions}
    return {name: float(np.mean(column)) for name, column in columns.items()}


def train(network, environments, n_updates, settings, *, seed=0, improve=None):
    if improve is None:
        improve = update
    generator = torch.Generator()
    generator.manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.learning_rate, eps=1e-5)
    observations, _ = environments.reset(seed=seed)
    observations = torch.Tensor(observations)
    global_step, records = 0, []
    running = np.zeros(environments.num_envs)
    for iteration in range(1, n_updates + 1):
        frac = 1.0 - (iteration - 1.0) / n_updates
        optimizer.param_groups[0]["lr"] = frac * settings.learning_rate
        rollout, observations = collect(
            network, environments, observations, settings.n_steps, generator=generator
        )
        finished = []
        for t in range(len(rollout.rewards)):
            global_step += environments.num_envs
            running += rollout.rewards[t].numpy()
            for i in range(environments.num_envs):
                if rollout.terminated[t, i] or rollout.truncated[t, i]:
                    finished.append(running[i])
                    running[i] = 0.0
        record = improve(network, optimizer, rollout, settings, generator=generator)
        record["step"] = global_step
        if finished:
            record["return"] = float(np.mean(finished))
        records.append(record)
    return records


def evaluate(network, environment: gymnasium.Env, *, n_episodes=20, seed=0):
    episodic_returns = []
    for i in range(n_episodes):
        obs, _ = environment.reset(seed=seed + i)
        total, over = 0.0, False
        while not over:
            with torch.no_grad():
                action = network.greedy(torch.Tensor(obs).unsqueeze(0))
            obs, reward, terminated, truncated, _ = environment.step(action.item())
            total += reward
            over = terminated or truncated
        episodic_returns.append(total)
    return torch.tensor(episodic_returns)
