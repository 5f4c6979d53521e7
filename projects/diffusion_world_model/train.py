"""Collect, learn the world, learn in its dream, repeat: from a few thousand real steps to an agent that plays.

    python train.py                 minutes on one core; writes weights/catch.safetensors
    python train.py --gust 0.4      the windy game, weights/gust.safetensors
    python train.py --gpu           the same on a CUDA device

A run is saved after each round and goes on from there when it is started again. No real transition enters the loss of the policy:
real frames are what a dream begins with, and nothing more.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from agent import ActorCritic, act, improve
from diffusion_world_model import denoiser_loss, imagine, karras_sigmas, outcome_loss
from dream import World
from game import N_ACTIONS, Catch
from unet import Outcome, UNet

STAY, LENGTH = 1, 4  # the action that pads; frames of a history


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a run. The rounds are tuples: real episodes, updates of the world, updates of the agent."""

    rounds: tuple[tuple[int, int, int], ...] = ((600, 1000, 100), (100, 400, 80))
    gust: float = 0.0
    batch_size: int = 64
    world_rate: float = 1e-3
    outcome_batch: int = 256
    agent_rate: float = 1e-3
    n_dreams: int = 128
    horizon: int = 9
    n_sampling_steps: int = 3
    entropy_weight: float = 0.01
    epsilon: float = 0.1


class Replay(NamedTuple):
    """Whole episodes of 9 steps: what was really seen and done. Frames and actions are padded in front for the first histories."""

    frames: Tensor  # (n, 3 + 10, 12, 12): the first frame three times more
    actions: Tensor  # (n, 3 + 9): "stay" three times in front
    rewards: Tensor  # (n, 9)
    ends: Tensor  # (n, 9) bool

    def join(self, other: Replay) -> Replay:
        return Replay(*(torch.cat(pair) for pair in zip(self, other, strict=True)))


def collect(n: int, agent=None, *, gust=0.0, epsilon=1.0, seed: int, generator) -> Replay:
    """Play n episodes; with probability epsilon an action is random."""
    env = Catch(n, gust=gust)
    frame = torch.tensor(env.reset(seed=seed)[0])
    frames, actions, rewards, ends = [frame] * LENGTH, [torch.full((n,), STAY)] * (LENGTH - 1), [], []
    ended = torch.zeros(n, dtype=torch.bool)
    while not ended.any():
        action = torch.randint(N_ACTIONS, (n,), generator=generator)
        if agent is not None:
            own = act(agent, torch.stack(frames[-LENGTH:], dim=1), greedy=False, generator=generator)
            action = torch.where(torch.rand(n, generator=generator) < epsilon, action, own)
        following, reward, ended, _, infos = env.step(action.numpy())
        following = infos.get("final_obs", following)
        ended = torch.tensor(ended)
        frames.append(torch.tensor(following))
        actions.append(action)
        rewards.append(torch.tensor(reward).float())
        ends.append(ended)
    return Replay(*(torch.stack(x, dim=1) for x in (frames, actions, rewards, ends)))


def train_world(world, optimizers, replay, n_updates, s: Settings, generator, control=None, log=None):
    n, T = replay.rewards.shape
    for u in range(n_updates):
        i, t = (
            torch.randint(n, (s.batch_size,), generator=generator),
            torch.randint(T, (s.batch_size,), generator=generator),
        )
        steps = t[:, None] + torch.arange(LENGTH + 2)
        valid = (steps < T + LENGTH)[:, LENGTH:]
        frames = replay.frames[i[:, None], steps.clamp(max=T + LENGTH - 1)]
        actions = replay.actions[i[:, None], steps[:, :-1].clamp(max=T + LENGTH - 2)]
        if control == "shuffled":
            actions = actions[torch.randperm(len(actions), generator=generator)]
        if control == "none":
            actions = torch.full_like(actions, STAY)
        loss = denoiser_loss(world.denoiser, frames, actions, valid, generator=generator)
        step(optimizers[0], world.denoiser, loss)
        i, t = (
            torch.randint(n, (s.outcome_batch,), generator=generator),
            torch.randint(T, (s.outcome_batch,), generator=generator),
        )
        a = replay.actions[i, t + LENGTH - 1]
        l2 = outcome_loss(
            *world.outcome(replay.frames[i, t + LENGTH - 1], a, replay.frames[i, t + LENGTH]),
            replay.rewards[i, t],
            replay.ends[i, t],
        )
        step(optimizers[1], world.outcome, l2)
        if log is not None and (u + 1) % 200 == 0:
            log(u + 1, loss.item(), l2.item())


def step(optimizer, network, loss):
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()


def starts(replay: Replay, generator, first=False):
    def start(n):
        T = replay.rewards.shape[1]
        i, t = (
            torch.randint(len(replay.rewards), (n,), generator=generator),
            torch.randint(T, (n,), generator=generator),
        )
        if first:
            t = torch.where(torch.rand(n, generator=generator) < first, 0, t)
        w = t[:, None] + torch.arange(LENGTH)
        return replay.frames[i[:, None], w], replay.actions[i[:, None], w[:, :-1]]

    return start


def evaluate(agent, n=1000, gust=0.0, seed=10_000, greedy=True):
    r = collect(n, agent, gust=gust, epsilon=0, seed=seed, generator=Generator().manual_seed(0))
    return r.rewards.sum(1).mean().item()
