"""The same algorithm twice: ours and stable-baselines3's PPO, the same networks, settings and environments, on one thread.

Time of training, of an update and of GAE, in turns; then what both have learned after 150,000 steps of CartPole-v1. Then what
the further modules do on Pendulum-v1. Last, how many of the known wrong answers to the core learn CartPole as well.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Generator, Tensor, nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from stable_baselines3 import PPO
    from stable_baselines3.common.buffers import RolloutBuffer
    from stable_baselines3.common.env_util import make_vec_env

import early_stop
import ppo
from curves import learning_curve, make_environment, make_environments
from demo import HERE, greedy_return, planted, run
from gaussian import PENDULUM
from rollout import Rollout, Settings

sys.path.append(str(Path(__file__).resolve().parents[2]))  # the repository root, for shared/
from shared.measuring.benchmark import Benchmark
from shared.projects import load_project
from shared.testing.mistakes import load_mistakes

PEER, CARTPOLE, N, TARGET = "stable-baselines3", "CartPole-v1", 8, 475
SETTINGS = Settings()
STEPS = N * SETTINGS.n_steps  # of an update
QUICK = "--quick" in sys.argv or "--practice" in sys.argv


class Greedy:
    """What ``ppo.evaluate`` asks of a network, by a model of stable-baselines3."""

    def __init__(self, model: Any) -> None:
        self.policy = model.policy

    def greedy(self, observations: Tensor) -> Tensor:
        """Return the most probable actions."""
        actions: Tensor = self.policy.get_distribution(observations).mode()
        return actions


def their_model(n_updates: int, seed: int) -> Any:
    """Return stable-baselines3's PPO with our settings."""
    s = SETTINGS
    return PPO(
        "MlpPolicy",
        make_vec_env(
            CARTPOLE, n_envs=N
        ),  # in one process; its Monitor sums an episode's rewards, as our train does
        # What is left is counted after the collection there, before it here.
        learning_rate=lambda left: s.learning_rate * (left + 1 / n_updates),
        n_steps=s.n_steps,
        batch_size=STEPS // s.n_minibatches,
        n_epochs=s.n_epochs,
        gamma=s.gamma,
        gae_lambda=s.lam,
        clip_range=s.clip,
        ent_coef=s.entropy_weight,
        vf_coef=s.value_weight / 2,  # its squared error is not halved
        max_grad_norm=s.max_norm,
        policy_kwargs={
            "net_arch": {"pi": [64, 64], "vf": [64, 64]},
            "activation_fn": nn.Tanh,
            "ortho_init": True,
            "optimizer_kwargs": {"eps": 1e-5},
        },
        seed=seed,
        device="cpu",
    )


def their_run(n_updates: int, seed: int) -> Any:
    """Train a new model of stable-baselines3's and return it."""
    model = their_model(n_updates, seed)
    model.learn(n_updates * STEPS, log_interval=None)
    return model


def random_rollout(n_steps: int, n_environments: int) -> Rollout:
    """Return a rollout of random numbers with random ends, whose next values are those of the next step where there is one."""
    generator = Generator().manual_seed(0)
    draw = functools.partial(torch.randn, n_steps, n_environments, generator=generator)
    rewards, values, next_values, dice = (
        draw(),
        draw(),
        draw(),
        torch.rand(n_steps, n_environments, generator=generator),
    )
    terminated, truncated = dice < 0.02, dice > 0.98
    next_values[:-1] = torch.where((terminated | truncated)[:-1], next_values[:-1], values[1:])
    return Rollout(draw(), draw(), draw(), values, next_values, rewards, terminated, truncated)


def their_gae(rollout: Rollout) -> tuple[Any, Callable[[], None]]:
    """Return stable-baselines3's buffer with the same rollout in it, and the call that computes its advantages."""
    n_steps, n_environments = rollout.rewards.shape
    box, actions = gymnasium.spaces.Box(-1, 1, (4,)), gymnasium.spaces.Discrete(2)
    options = {"gamma": SETTINGS.gamma, "gae_lambda": SETTINGS.lam}
    buffer = RolloutBuffer(n_steps, box, actions, device="cpu", n_envs=n_environments, **options)
    done = rollout.terminated | rollout.truncated
    # Its collection adds the value of a truncated episode's future to the reward.
    buffer.rewards[:] = rollout.rewards + SETTINGS.gamma * rollout.next_values * rollout.truncated
    buffer.values[:] = rollout.values
    buffer.episode_starts[1:] = done[:-1]
    call = functools.partial(buffer.compute_returns_and_advantage, rollout.next_values[-1], done[-1].numpy())
    return buffer, call


def compare_gae(bench: Benchmark) -> None:
    """Check that both compute the same advantages; then time them."""
    for n_steps, n_environments in ((128, 8), (128, 256), (2048, 8)):
        rollout = random_rollout(n_steps, n_environments)
        buffer, theirs = their_gae(rollout)
        theirs()
        torch.testing.assert_close(ppo.gae(rollout), torch.tensor(buffer.advantages), rtol=1e-4, atol=1e-4)
        bench.compare(
            "GAE and returns",
            f"{n_steps} steps of {n_environments} environments",
            ours=functools.partial(gae_and_returns, rollout),
            peers={PEER: theirs},
        )


def gae_and_returns(rollout: Rollout) -> tuple[Tensor, Tensor]:
    """Return advantages and returns: the peer's call computes both."""
    advantages = ppo.gae(rollout)
    return advantages, advantages + rollout.values


def compare_update(bench: Benchmark) -> None:
    """Time the update on one rollout of CartPole."""
    generator = Generator().manual_seed(0)
    network = ppo.ActorCritic(4, 2, generator=generator)
    optimizer = torch.optim.Adam(network.parameters(), lr=SETTINGS.learning_rate, eps=1e-5)
    environments = make_environments(CARTPOLE, num_envs=N)
    states = torch.as_tensor(environments.reset(seed=0)[0]).float()
    rollout, _ = ppo.collect(network, environments, states, SETTINGS.n_steps, generator=generator)
    model = their_run(1, 0)
    parts = SETTINGS.n_epochs * SETTINGS.n_minibatches
    bench.compare(
        "one update",
        f"{parts} gradient steps on {STEPS // SETTINGS.n_minibatches} samples each",
        ours=lambda: ppo.update(network, optimizer, rollout, SETTINGS, generator=generator),
        peers={PEER: model.train},
        note="ours with GAE, theirs without",
    )


def compare_training(bench: Benchmark) -> None:
    """Time whole training, from a new network on."""
    n_updates = 1 if QUICK else 5
    bench.compare(
        "training, CartPole-v1",
        f"{n_updates * STEPS:,} steps of {N} environments",
        ours=lambda: learning_curve(CARTPOLE, 0, n_updates, SETTINGS, num_envs=N),
        peers={PEER: lambda: their_run(n_updates, 0)},
        targets={PEER: 1.5},
        rounds=12,
    )


def compare_returns(bench: Benchmark) -> None:
    """Train with three seeds to the same number of steps, and evaluate both greedily on the same 20 episodes."""
    n_updates = 2 if QUICK else 150_000 // STEPS
    runs: dict[str, Callable[[int], Any]] = {
        "ours": lambda seed: learning_curve(CARTPOLE, seed, n_updates, SETTINGS, num_envs=N)[0],
        PEER: lambda seed: Greedy(their_run(n_updates, seed)),
    }
    for seed in range(3):
        columns: dict[str, str] = {}
        for name, train in runs.items():
            start = time.perf_counter()
            network = train(seed)
            seconds = time.perf_counter() - start
            returns = ppo.evaluate(network, make_environment(CARTPOLE), seed=1000)
            mean = returns.mean().item()
            verdict = f", {'≥' if mean >= TARGET else '**below**'} {TARGET}" if name == "ours" else ""
            columns |= {
                f"greedy return, {name}": f"{mean:.1f}{verdict}",
                f"worst of 20 episodes, {name}": f"{returns.min():.0f}",
                f"steps per second, {name}": f"{n_updates * STEPS / seconds:,.0f}",
            }
            if name == "ours":
                columns["seconds, ours"] = f"{seconds:.1f}, {'≤' if seconds <= 60 else '**above**'} 60"
        bench.record(f"CartPole-v1 after {n_updates * STEPS:,} steps", f"seed {seed}", columns)


def compare_on_pendulum(bench: Benchmark) -> None:
    """Train Pendulum-v1 with PENDULUM and with one thing changed at a time; evaluate greedily, three seeds."""
    n_updates, seeds = (2, (0,)) if QUICK else (73, (0, 1, 2))
    stop = functools.partial(early_stop.update, target_kl=0.02)
    clip = functools.partial(early_stop.update, target_kl=math.inf)
    change: dict[str, tuple[Any, Any]] = {
        "PENDULUM": (PENDULUM, None),
        "γ = 0.99": (dataclasses.replace(PENDULUM, gamma=0.99), None),
        "a time limit is an end": (PENDULUM, planted("gae_truncation_is_termination").update),
        "stopped at a KL of 0.02": (PENDULUM, stop),
        "40 epochs": (dataclasses.replace(PENDULUM, n_epochs=40), None),
        "40 epochs, stopped at a KL of 0.02": (dataclasses.replace(PENDULUM, n_epochs=40), stop),
        "V clipped, ε = 0.2": (PENDULUM, functools.partial(clip, value_clip=0.2)),
        "V clipped, ε = 10": (PENDULUM, functools.partial(clip, value_clip=10.0)),
    }
    for name, (settings, improve) in change.items():
        greedy, seconds = [], []
        for seed in seeds:
            start = time.perf_counter()
            network, _ = learning_curve("Pendulum-v1", seed, n_updates, settings, improve=improve)
            seconds.append(time.perf_counter() - start)
            greedy.append(ppo.evaluate(network, make_environment("Pendulum-v1"), seed=1000).mean().item())
        columns = {
            "greedy return of each seed": ", ".join(f"{mean:.0f}" for mean in greedy),
            "seconds of a run": f"{np.median(seconds):.1f}",
        }
        bench.record(f"Pendulum-v1 after {n_updates * N * PENDULUM.n_steps:,} steps", name, columns)


def try_the_catalogue(bench: Benchmark) -> None:
    """Train each known wrong answer to the core with one seed, and sort them by their greedy return."""
    n_updates, every = (2, 20) if QUICK else (25, 1)
    names = [name for name, mistake in load_mistakes(load_project(HERE)).items() if mistake.file == "ppo.py"]
    right = flat(run(ppo, 0, n_updates)[0])
    outcomes: dict[str, list[str]] = {
        "the same network as the right code": [],
        "400 to 500": [],
        "100 to 400": [],
        "below 100": [],
        "stops with an error": [],
    }
    for name in names[::every]:
        torch.manual_seed(0)  # some of them draw without the generator
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                network, _ = run(planted(name), 0, n_updates)
        except (ValueError, RuntimeError, TypeError, IndexError):
            outcomes["stops with an error"].append(name)
            continue
        mean = greedy_return(network, 10)
        outcome = "400 to 500" if mean >= 400 else "100 to 400" if mean >= 100 else "below 100"
        same = torch.equal(flat(network), right)
        outcomes["the same network as the right code" if same else outcome].append(name)
    for outcome, found in outcomes.items():
        columns = {"wrong answers": f"{len(found)}", "which": ", ".join(f"`{name}`" for name in found)}
        bench.record(f"greedy return of wrong answers after {n_updates * STEPS:,} steps", outcome, columns)


def flat(network: nn.Module) -> Tensor:
    """Return all parameters in one row."""
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


def main() -> None:
    """Measure, and write results/ and the tables of the README."""
    bench = Benchmark(__file__, threads=1)
    compare_training(bench)
    compare_update(bench)
    compare_gae(bench)
    compare_returns(bench)
    if "--practice" not in sys.argv:  # the core need not know continuous actions, and the mistakes are ours
        compare_on_pendulum(bench)
        try_the_catalogue(bench)
    bench.save()


if __name__ == "__main__":
    main()
