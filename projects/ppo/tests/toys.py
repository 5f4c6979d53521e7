"""Toy environments whose every step is known, and toy networks that remember what they were asked."""

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from gymnasium.vector import AutoresetMode, VectorEnv
from oracles import entropy, normal, random_rollout
from torch import nn

# --- environments -----------------------------------------------------------------------------------------------------


def _spaces(environments, low, high, d, n_actions, dtype):
    n = environments.num_envs
    environments.single_observation_space = Box(low, high, (d,), dtype)
    environments.observation_space = Box(low, high, (n, d), dtype)
    environments.single_action_space = Discrete(n_actions)
    environments.action_space = MultiDiscrete([n_actions] * n)


class Scripted(VectorEnv):
    """Environments whose episodes end where `ends` says, and whose observations say where they are from.

    `ends` has a word per environment and a letter per step: "." goes on, "T" terminates, "L" hits the time limit, "B" does
    both. An observation is (environment, episode, step in it, clock). `log` has what happened in each step.
    """

    n_actions = 3

    def __init__(self, *ends, mode=AutoresetMode.SAME_STEP, dtype=np.float64, reward_dtype=np.float64):
        self.ends, self.dtype, self.reward_dtype, self.num_envs = ends, dtype, reward_dtype, len(ends)
        self.metadata, self.autoreset_mode = {"autoreset_mode": mode}, mode
        _spaces(self, 0, 100, 4, self.n_actions, dtype)
        self.resets, self.log = [], []
        self._begin()

    def _begin(self):
        self.clock, self.where = 0, np.array([[i, 0, 0] for i in range(self.num_envs)])

    def observe(self):
        clock = np.full((self.num_envs, 1), self.clock)
        return np.concatenate((self.where, clock), axis=1).astype(self.dtype)

    def reset(self, *, seed=None, options=None):
        self.resets.append(seed)
        self._begin()
        return self.observe(), {}

    def step(self, actions):
        before, letters = self.observe(), [word[self.clock] for word in self.ends]
        terminated, truncated = (np.isin(letters, list(kind)) for kind in ("TB", "LB"))
        self.clock += 1
        self.where[:, 2] += 1
        led_to, infos = self.observe(), {}
        for i in np.flatnonzero(terminated | truncated):
            infos = self._add_info(infos, {"final_obs": led_to[i].copy(), "final_info": {}}, i)
            self.where[i, 1:] = self.where[i, 1] + 1, 0
        rewards = (10 * np.arange(self.num_envs) + self.clock).astype(self.reward_dtype)
        entry = {"before": before, "led_to": led_to, "after": self.observe(), "rewards": rewards}
        entry |= {"terminated": terminated, "truncated": truncated, "actions": np.array(actions).copy()}
        self.log.append({name: torch.as_tensor(value) for name, value in entry.items()})
        return self.observe(), rewards.copy(), terminated.copy(), truncated.copy(), infos

    def column(self, name, start=0):
        """What the log says from step `start` on, time first."""
        return torch.stack([entry[name] for entry in self.log[start:]])


class Bandit(VectorEnv):
    """Shows which action has a reward of 1, another one in each step; a time limit cuts an episode off after 4 steps."""

    def __init__(self, num_envs, n_actions):
        self.num_envs, self.n_actions = num_envs, n_actions
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.autoreset_mode = AutoresetMode.SAME_STEP
        _spaces(self, 0, 1, n_actions, n_actions, np.float32)

    def _observe(self):
        self.shown = self.random.integers(self.n_actions, size=self.num_envs)
        return np.eye(self.n_actions, dtype=np.float32)[self.shown]

    def reset(self, *, seed=None, options=None):
        self.random, self.clock = np.random.default_rng(seed), 0  # a seed may be a list of seeds
        return self._observe(), {}

    def step(self, actions):
        rewards = (np.asarray(actions) == self.shown).astype(np.float64)
        self.clock += 1
        ended, infos = np.full(self.num_envs, self.clock % 4 == 0), {}
        observations = self._observe()
        for i in np.flatnonzero(ended):
            infos = self._add_info(infos, {"final_obs": observations[i].copy(), "final_info": {}}, i)
        return (
            self._observe() if ended.any() else observations,
            rewards,
            np.zeros_like(ended),
            ended,
            infos,
        )


class Corridor(gymnasium.Env):
    """An episode of as many steps as its seed says; it terminates where the seed is even, else a time limit cuts it off.

    The action that the observation's largest entry names has the reward 2^step, any other one -1000.
    """

    def __init__(self):
        self.observation_space, self.action_space = Box(-9, 9, (4,), np.float64), Discrete(4)
        self.seeds, self.running = [], False

    def reset(self, *, seed=None, options=None):
        self.seeds.append(seed)
        self.length, self.clock, self.running = (3 if seed is None else seed % 7 + 1), 0, True
        return self._observe(), {}

    def _observe(self):
        self.best = (self.clock * 3 + self.length) % 4
        observation = np.full(4, -1.5)
        observation[self.best] = 0.5
        return observation

    def step(self, action):
        assert self.running, (
            "plays on after an episode's end: an episode ends where it is terminated or truncated, and no other one is counted"
        )
        reward = 2.0**self.clock if int(action) == self.best else -1000.0
        self.clock += 1
        self.running = self.clock < self.length
        ended, kind = not self.running, self.seeds[-1] is not None and self.seeds[-1] % 2 == 0
        return self._observe(), reward, ended and kind, ended and not kind, {}


# --- networks ---------------------------------------------------------------------------------------------------------


class _Value(nn.Module):
    """A value that is another one for every observation, without rounding."""

    def __init__(self, d):
        super().__init__()
        self.weight = nn.Parameter(0.125 ** torch.arange(d))

    def forward(self, observations):
        dtype = observations.dtype
        assert dtype == torch.float32, f"the network gets observations of {dtype}: they become float32"
        return (observations * self.weight).sum(-1, keepdim=True)


class Teller(nn.Module):
    """A network for collect: it draws any action alike, and remembers what it was asked."""

    def __init__(self, d=4, n_actions=Scripted.n_actions):
        super().__init__()
        self.value, self.n_actions, self.seen, self.generators = _Value(d), n_actions, [], []

    def act(self, observations, *, generator=None):
        self.seen.append(observations.detach().clone())
        self.generators.append(generator)
        actions = torch.randint(self.n_actions, observations.shape[:1], generator=generator)
        return actions, self.log_prob(observations, actions)

    def log_prob(self, observations, actions):
        """A number that is another one for every observation and action."""
        return -(self.value(observations)[..., 0] + actions / 1024)


class Greedy(nn.Module):
    """A network for evaluate: the largest entry of the observation is the action; drawn ones are another."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))
        self.drawn = False

    def greedy(self, observations):
        dtype = observations.dtype
        assert dtype == torch.float32, f"the network gets observations of {dtype}: they become float32"
        return (observations * self.weight).argmax(dim=-1)

    def act(self, observations, *, generator=None):
        self.drawn = True
        actions = (self.greedy(observations) + 1) % 4
        return actions, torch.zeros(actions.shape)

    def policy(self, observations):
        return observations * self.weight


class Linear(nn.Module):
    """A network for update: logits and values are linear, and judge remembers which steps it was asked for.

    The first feature of an observation is its number, divided by the number of all.
    """

    def __init__(self, d, n_actions, n, generator):
        super().__init__()
        self.n, self.asked = n, []
        self.of_policy = nn.Parameter(normal(d, n_actions, generator=generator, scale=0.5))
        self.of_value = nn.Parameter(normal(d, generator=generator, scale=0.5))

    def judge(self, observations, actions):
        shapes = tuple(observations.shape), tuple(actions.shape)
        right = observations.ndim == 2 and shapes[1] == shapes[0][:1]
        assert right, f"judge gets shapes {shapes}, expected (batch, d) and (batch,)"
        self.asked.append((observations[:, 0] * self.n).round().long())
        logits = observations @ self.of_policy
        log_probs = logits.log_softmax(-1).gather(-1, actions[:, None])[:, 0]
        return log_probs, entropy(logits), observations @ self.of_value


def judged_rollout(T, N, network, generator, *, drift):
    """Draw a rollout for a Linear network; its log-probabilities are off by up to `drift`."""
    d, n_actions = network.of_policy.shape
    observations = normal(T, N, d, generator=generator)
    observations[..., 0] = torch.arange(T * N).view(T, N) / (T * N)
    actions = torch.randint(n_actions, (T, N), generator=generator)
    with torch.no_grad():
        log_probs = (observations @ network.of_policy).log_softmax(-1).gather(-1, actions[..., None])[..., 0]
    log_probs = log_probs + drift * (2 * torch.rand(T, N, generator=generator) - 1)
    return random_rollout(T, N, generator, observations=observations, actions=actions, log_probs=log_probs)
