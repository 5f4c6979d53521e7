"""Collect, learn the world, learn in its dream, repeat: from a few thousand real steps to an agent that plays.

    python train.py                 minutes on one core (measured in MEASURED.md); writes weights/catch.safetensors
    python train.py --gust 0.4      the windy game; writes weights/gust.safetensors
    python train.py --gpu           the same on a CUDA device

A run is saved in build/ after each round, and goes on from there if it is started again. No real transition enters the loss of the
policy: real frames are what a dream begins with, and nothing more. Source of the loop: DIAMOND, arXiv 2405.12399, appendix G.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor, nn
from torch.optim import Adam, AdamW, Optimizer
from tqdm import tqdm

from agent import ActorCritic, act, improve
from diffusion_world_model import denoiser_loss, imagine, karras_sigmas, outcome_loss
from dream import Dream, World
from game import N_ACTIONS, N_STEPS, Catch
from unet import Outcome, UNet

__all__ = ["Replay", "Run", "Settings", "beginnings", "collect", "load_weights", "save_weights", "score", "segments", "train"]  # fmt: skip

LENGTH, N_OWN = 4, 2  # frames of a history; frames that the loss predicts in a row
STAY = 1  # the action that fills gaps
WINDY = ((1000, 1500, 100), (150, 500, 60))  # rounds of the game with gust, of which more has to be seen
Start = Callable[[int], tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a run. A round is (real episodes, updates of the world, updates of the agent); the first plays at random."""

    rounds: tuple[tuple[int, int, int], ...] = ((600, 600, 80), (100, 300, 60))
    gust: float = 0.0  # of the game
    epsilon: float = 0.2  # from the second round on: how often an action is random where the agent plays
    batch_size: int = 64  # segments, for the denoiser
    n_outcomes: int = 256  # steps, for reward and end
    learning_rate: float = 1e-3  # of all three networks
    n_dreams: int = 128
    horizon: int = 9
    n_sampling_steps: int = 3


class Replay(NamedTuple):
    """Whole episodes of 9 steps. Before the first frame stand three copies of it, and three times the action "stay"."""

    frames: Tensor  # (n, 3 + 10, 12, 12) float32
    actions: Tensor  # (n, 3 + 9) int64: actions[:, t] leads from frames[:, t] to frames[:, t + 1]
    rewards: Tensor  # (n, 9) float32
    ends: Tensor  # (n, 9) bool


@dataclass(frozen=True)
class Parts:
    """What a run is made of, so that a control of evaluate.py can replace a part."""

    denoiser: Callable[[], nn.Module] = UNet
    outcome: Callable[[], nn.Module] = Outcome
    change: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]] = lambda *segments: (
        segments
    )  # that it learns from


class Run:
    """What a run learns, and the record of it: see `train`."""

    def __init__(self, settings: Settings, *, seed: int, parts: Parts, device: str = "cpu") -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.denoiser, self.outcome = parts.denoiser().to(device), parts.outcome().to(device)
            self.agent = ActorCritic().to(device)
        # memory in this order makes small convolutions on a CPU a fifth faster
        self.denoiser = self.denoiser.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        rate, of_the_world = settings.learning_rate, [*self.denoiser.parameters(), *self.outcome.parameters()]
        self.world_optimizer: Optimizer = AdamW(of_the_world, rate, weight_decay=1e-2)
        self.agent_optimizer: Optimizer = Adam(self.agent.parameters(), rate, eps=1e-5)
        self.generator = Generator().manual_seed(seed)
        self.settings, self.seed, self.parts, self.device = settings, seed, parts, device
        self.replay: Replay | None = None
        self.records: list[dict[str, float]] = []
        self.n_rounds = 0  # that are complete

    @property
    def world(self) -> World:
        """The two networks that dream."""
        return World(self.denoiser, self.outcome)

    @property
    def networks(self) -> dict[str, nn.Module]:
        """All three, by name."""
        return {"denoiser": self.denoiser, "outcome": self.outcome, "agent": self.agent}


# --- the real game -------------------------------------------------------------------------------------------


def collect(
    n: int, agent: nn.Module | None, *, gust: float = 0.0, epsilon: float = 0.0, greedy: bool = False, seed: int = 0,
    generator: Generator | None = None,
) -> Replay:  # fmt: skip
    """Play n episodes side by side; an action is the agent's or, with probability `epsilon` or without an agent, random."""
    game = Catch(n, gust=gust)
    frames = [torch.tensor(game.reset(seed=seed)[0])] * LENGTH
    actions, steps = [torch.full((n,), STAY)] * (LENGTH - 1), []
    for _ in range(N_STEPS):
        action = torch.randint(N_ACTIONS, (n,), generator=generator)
        if agent is not None:
            own = act(agent, torch.stack(frames[-LENGTH:], dim=1), greedy=greedy, generator=generator)
            action = torch.where(torch.rand(n, generator=generator) < epsilon, action, own)
        frame, reward, ended, _, infos = game.step(action.numpy())
        frames.append(torch.tensor(infos.get("final_obs", frame)))  # not the first frame of the next game
        actions.append(action)
        steps.append((torch.tensor(reward).float(), torch.tensor(ended)))
    rewards, ends = (torch.stack(column, dim=1) for column in zip(*steps, strict=True))
    return Replay(torch.stack(frames, dim=1), torch.stack(actions, dim=1), rewards, ends)


def score(agent: nn.Module, *, n: int = 1000, gust: float = 0.0, seed: int = 10_000) -> float:
    """Return the mean return of n real games, played greedily."""
    return collect(n, agent, gust=gust, greedy=True, seed=seed).rewards.sum(dim=1).mean().item()


# --- from episodes to batches --------------------------------------------------------------------------------


def segments(replay: Replay, n: int, *, generator: Generator | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Draw n pieces of episodes: frames (n, 4 + 2, 12, 12), actions (n, 5) and valid (n, 2), as `denoiser_loss` wants them."""
    episode, t = _places(replay, n, generator)
    place, n_frames = t[:, None] + torch.arange(LENGTH + N_OWN), replay.frames.shape[1]
    frames = replay.frames[episode[:, None], place.clamp(max=n_frames - 1)]
    actions = replay.actions[episode[:, None], place[:, :-1].clamp(max=n_frames - 2)]
    return frames, actions, (place < n_frames)[:, LENGTH:].to(frames.device)


def outcomes(replay: Replay, n: int, *, generator: Generator | None = None) -> tuple[Tensor, ...]:
    """Draw n steps: frame, action, next frame, reward and end."""
    episode, t = _places(replay, n, generator)
    now = t + LENGTH - 1
    frame, following = replay.frames[episode, now], replay.frames[episode, now + 1]
    return frame, replay.actions[episode, now], following, replay.rewards[episode, t], replay.ends[episode, t]


def beginnings(replay: Replay, *, generator: Generator | None = None) -> Start:
    """Return `start` of `imagine`: histories of the real game, half of them an episode's first, and the actions between."""

    def start(n: int) -> tuple[Tensor, Tensor]:
        episode, t = _places(replay, n, generator)
        t = torch.where(torch.rand(n, generator=generator) < 0.5, 0, t)
        place = t[:, None] + torch.arange(LENGTH)
        return replay.frames[episode[:, None], place], replay.actions[episode[:, None], place[:, :-1]]

    return start


def _places(replay: Replay, n: int, generator: Generator | None) -> tuple[Tensor, Tensor]:
    n_episodes, n_steps = replay.rewards.shape
    episode = torch.randint(n_episodes, (n,), generator=generator)
    return episode, torch.randint(n_steps, (n,), generator=generator)


# --- learning ------------------------------------------------------------------------------------------------


def train(
    settings: Settings, *, seed: int = 0, parts: Parts | None = None, checkpoint: Path | None = None, device: str = "cpu", progress: bool = False
) -> Run:  # fmt: skip
    """Do all rounds and return what was learned.

    There is a record of every 10th and the last update of the agent in a round: "round", "update", "real_steps" so far; "dream": the mean
    return of games that ended in the dream; "dream_sum": the mean sum of rewards of a dream, over all games in it; "real": `score`, from
    which nothing learns; "seconds" without the scoring. With `checkpoint`, a file, a run goes on from there.
    """
    run = Run(settings, seed=seed, parts=parts or Parts(), device=device)
    if checkpoint is not None and checkpoint.exists():
        load_checkpoint(run, checkpoint)
    clock = time.perf_counter() - (run.records[-1]["seconds"] if run.records else 0)
    rounds = settings.rounds[run.n_rounds :]
    with tqdm(total=sum(n_world + n_agent for _, n_world, n_agent in rounds), disable=not progress) as bar:
        for n_episodes, n_world, n_agent in rounds:
            _collect_more(run, n_episodes)
            for _ in range(n_world):
                _learn_world(run)
                bar.update()
            for i in range(1, n_agent + 1):
                dream = _learn_in_dream(run)
                bar.update()
                if i % 10 == 0 or i == n_agent:
                    seconds = time.perf_counter() - clock
                    _record(run, i, dream, seconds)
                    clock = time.perf_counter() - seconds  # it stood still while the score was taken
            run.n_rounds += 1
            if checkpoint is not None:
                save_checkpoint(run, checkpoint)
    return run


def _collect_more(run: Run, n: int) -> None:
    s, seed = run.settings, 1000 * run.seed + run.n_rounds
    agent = run.agent if run.n_rounds else None
    new = collect(n, agent, gust=s.gust, epsilon=s.epsilon, seed=seed, generator=run.generator)
    new = Replay(*(column.to(run.device) for column in new))
    parts = [new] if run.replay is None else [run.replay, new]
    run.replay = Replay(*map(torch.cat, zip(*parts, strict=True)))


def _learn_world(run: Run) -> None:
    assert run.replay is not None
    s, g = run.settings, run.generator
    frames, actions, valid = run.parts.change(*segments(run.replay, s.batch_size, generator=g))
    loss = denoiser_loss(run.denoiser, frames, actions, valid, generator=g)
    frame, action, following, reward, end = outcomes(run.replay, s.n_outcomes, generator=g)
    reward_logits, end_logits = run.outcome(frame, action, following)
    loss = loss + outcome_loss(reward_logits, end_logits, reward, end)
    run.world_optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_([*run.denoiser.parameters(), *run.outcome.parameters()], 1.0)
    run.world_optimizer.step()


def _learn_in_dream(run: Run) -> Dream:
    """Dream once and improve the agent by it."""
    assert run.replay is not None
    s, g = run.settings, run.generator
    start, sigmas = beginnings(run.replay, generator=g), karras_sigmas(s.n_sampling_steps).to(run.device)
    options = {"n_dreams": s.n_dreams, "horizon": s.horizon}
    dream = imagine(run.world, run.agent, start, **options, sigmas=sigmas, generator=g)
    improve(run.agent, run.agent_optimizer, dream, generator=g)
    return dream


def _record(run: Run, update: int, dream: Dream, seconds: float) -> None:
    assert run.replay is not None
    record = {
        "round": run.n_rounds,
        "update": update,
        "real_steps": run.replay.rewards.numel(),
        "dream": dream.rewards[dream.ends].mean().item(),
        "dream_sum": dream.rewards.sum(dim=0).mean().item(),
        "real": score(run.agent, gust=run.settings.gust),
        "seconds": seconds,
    }
    run.records.append(record)


# --- files ---------------------------------------------------------------------------------------------------


def save_checkpoint(run: Run, path: Path) -> None:
    """Write all that a run needs to go on, whole or not at all."""
    assert run.replay is not None
    state = {
        **{name: network.state_dict() for name, network in run.networks.items()},
        "world_optimizer": run.world_optimizer.state_dict(),
        "agent_optimizer": run.agent_optimizer.state_dict(),
        "generator": run.generator.get_state(),
        "replay": tuple(run.replay),
        "records": run.records,
        "n_rounds": run.n_rounds,
        "made_by": {"seed": run.seed, **asdict(run.settings)},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path.with_suffix(".new"))
    os.replace(path.with_suffix(".new"), path)


def load_checkpoint(run: Run, path: Path) -> None:
    """Go on from a file of `save_checkpoint`. ValueError if it belongs to another seed or other settings."""
    state = torch.load(path, map_location=run.device, weights_only=True)
    if state["made_by"] != (mine := {"seed": run.seed, **asdict(run.settings)}):
        raise ValueError(f"{path} was made by {state['made_by']}, not by {mine}")
    for name, network in run.networks.items():
        network.load_state_dict(state[name])
    run.world_optimizer.load_state_dict(state["world_optimizer"])
    run.agent_optimizer.load_state_dict(state["agent_optimizer"])
    run.generator.set_state(state["generator"].cpu())
    run.replay, run.records, run.n_rounds = Replay(*state["replay"]), state["records"], state["n_rounds"]


def save_weights(networks: dict[str, nn.Module], path: Path, *, note: dict[str, Any]) -> None:
    """Write the weights of all networks into one safetensors file, in half precision; `note` says what they are."""
    tensors = {
        f"{name}.{key}": v.half().contiguous()
        for name, n in networks.items()
        for key, v in n.state_dict().items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={key: str(value) for key, value in note.items()})


def load_weights(path: Path) -> tuple[World, ActorCritic]:
    """Return the world and the agent of a file of `save_weights`. ValueError if it holds other weights than theirs."""
    denoiser, outcome, agent = UNet().eval(), Outcome().eval(), ActorCritic().eval()
    networks, tensors = {"denoiser": denoiser, "outcome": outcome, "agent": agent}, load_file(path)
    if unknown := sorted(key for key in tensors if key.split(".")[0] not in networks):
        raise ValueError(f"{path} holds weights of other networks: {unknown}")
    for name, network in networks.items():
        own = {
            key.removeprefix(f"{name}."): v.float()
            for key, v in tensors.items()
            if key.startswith(f"{name}.")
        }
        try:
            network.load_state_dict(own)
        except RuntimeError as error:
            raise ValueError(f"{path} holds other weights than those of {name}: {error}") from error
    return World(denoiser, outcome), agent


def main() -> None:
    """Train one world and one agent."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--gust", type=float, default=0.0, metavar="P", help="probability of wind (default: none)"
    )
    parser.add_argument("--gpu", action="store_true", help="train on the CUDA device")
    options = parser.parse_args()
    name = "gust" if options.gust else "catch"
    checkpoint = Path(__file__).parent / "build" / f"{name}_{options.seed}.pt"
    settings = Settings(gust=options.gust, rounds=WINDY) if options.gust else Settings()
    run = train(
        settings,
        seed=options.seed,
        checkpoint=checkpoint,
        device="cuda" if options.gpu else "cpu",
        progress=True,
    )
    last = run.records[-1]
    print(
        f"{last['real_steps']} real steps, {last['seconds']:.0f} s: return {last['real']:.2f} in the real game"
    )
    save_weights(
        run.networks, Path(__file__).parent / "weights" / f"{name}.safetensors", note=asdict(settings)
    )


if __name__ == "__main__":
    main()
