"""Collect, learn the tokens, learn the world, learn in its dream, repeat.

    python train.py                 a quarter of an hour on one core; writes weights/catch.safetensors
    python train.py --coarse        a tokenizer of 8 codes and the diffusion decoder; writes weights/coarse.safetensors
    python train.py --gpu           either on a CUDA device

Half of the games are windy, and their text says so; the agent learns in calm dreams. A run is saved in build/ after each round, and
goes on from there if it is started again. No real transition enters the loss of the policy: real frames are what a dream begins
with, and nothing more.
"""

from __future__ import annotations

import argparse
import math
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

from agent import ActorCritic, improve, recent, watching
from decoder import Decoder, train_decoder
from game import N_ACTIONS, N_STEPS, Catch
from token_world_model import TokenWorld, imagine, world_loss
from tokenizer import Tokenizer, train_tokenizer
from world import Dream, Episodes, Vocabulary

__all__ = ["CALM", "GUST", "WINDY", "Parts", "Replay", "Run", "Settings", "collect", "encode", "load_coarse", "load_weights", "save_weights", "score", "train", "train_coarse"]  # fmt: skip

CALM, WINDY = 1, 2  # texts; 0 is no text
GUST = 0.4  # of a windy game
# Rounds of the world in weights/, which is to know the wind as well. With fewer games it learns the rewards by heart.
LONG = ((2400, 1500, 80), (600, 700, 80))
COARSE = 8  # codes of a tokenizer that has too few


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a run. A round is (real episodes, updates of the world, updates of the agent); the first plays at random."""

    rounds: tuple[tuple[int, int, int], ...] = ((900, 600, 60), (300, 400, 60))
    n_tokenizer: int = 3000  # updates of the tokenizer, all in the first round
    epsilon: float = 0.2  # from the second round on: how often an action is random where the agent plays
    batch_size: int = 32  # episodes, for the world
    world_rate: float = 3e-3  # the learning rate: it rises for 50 updates, and falls to 0 in each round
    agent_rate: float = 1e-3
    n_dreams: int = 128
    horizon: int = 9


class Replay(NamedTuple):
    """Whole episodes of 9 steps."""

    text: Tensor  # (n,) int64
    frames: Tensor  # (n, 10, 12, 12) float32
    actions: Tensor  # (n, 9) int64
    rewards: Tensor  # (n, 9) float32
    ends: Tensor  # (n, 9) bool


@dataclass(frozen=True)
class Parts:
    """What a run is made of, so that a control of evaluate.py can replace a part."""

    world: Callable[[Vocabulary], TokenWorld] = TokenWorld
    change: Callable[[Episodes], Episodes] = lambda episodes: episodes  # that the world learns from


class Run:
    """What a run learns, and the record of it: see `train`."""

    def __init__(self, settings: Settings, *, seed: int, parts: Parts, device: str = "cpu") -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.tokenizer = Tokenizer().to(device)
            self.world = parts.world(Vocabulary()).to(device)
            self.agent = ActorCritic().to(device)
        self.world_optimizer: Optimizer = AdamW(
            self.world.parameters(), settings.world_rate, weight_decay=1e-2
        )
        self.agent_optimizer: Optimizer = Adam(self.agent.parameters(), settings.agent_rate, eps=1e-5)
        self.generator = Generator().manual_seed(seed)
        self.settings, self.seed, self.parts, self.device = settings, seed, parts, device
        self.replay: Replay | None = None
        self.images: Tensor | None = None  # the replay's frames as tokens, (n, 10, 9)
        self.records: list[dict[str, float]] = []
        self.n_rounds = 0  # that are complete

    @property
    def networks(self) -> dict[str, nn.Module]:
        """All three, by name."""
        return {"tokenizer": self.tokenizer, "world": self.world, "agent": self.agent}


# --- the real game -------------------------------------------------------------------------------------------


@torch.no_grad()
def collect(
    n: int, agent: nn.Module | None, tokenizer: Tokenizer | None = None, *, text: int = CALM, epsilon: float = 0.0, greedy: bool = False,
    seed: int = 0, generator: Generator | None = None,
) -> Replay:  # fmt: skip
    """Play n episodes side by side; an action is the agent's or, with probability `epsilon` or without an agent, random.

    The agent sees what the tokenizer makes of the frames; without a tokenizer the frames.
    """
    game = Catch(n, gust=GUST if text == WINDY else 0.0)
    frames, actions, steps, seen = [torch.tensor(game.reset(seed=seed)[0])], [], [], []
    for _ in range(N_STEPS):
        action = torch.randint(N_ACTIONS, (n,), generator=generator)
        if agent is not None:
            device = next(agent.parameters()).device
            last = frames[-1].to(device)
            seen.append(last if tokenizer is None else tokenizer.decode(tokenizer.encode(last)))
            logits = agent(recent(torch.stack(seen, dim=1))[:, -1])[0].cpu()
            own = (
                logits.argmax(1)
                if greedy
                else torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
            )
            action = torch.where(torch.rand(n, generator=generator) < epsilon, action, own)
        frame, reward, ended, _, infos = game.step(action.numpy())
        frames.append(torch.tensor(infos.get("final_obs", frame)))  # not the first frame of the next game
        actions.append(action)
        steps.append((torch.tensor(reward).float(), torch.tensor(ended)))
    rewards, ends = (torch.stack(column, dim=1) for column in zip(*steps, strict=True))
    return Replay(
        torch.full((n,), text), torch.stack(frames, dim=1), torch.stack(actions, dim=1), rewards, ends
    )


def score(
    agent: nn.Module,
    tokenizer: Tokenizer | None = None,
    *,
    n: int = 1000,
    text: int = CALM,
    seed: int = 10_000,
) -> float:
    """Return the mean return of n real games, played greedily."""
    return collect(n, agent, tokenizer, text=text, greedy=True, seed=seed).rewards.sum(dim=1).mean().item()


# --- learning ------------------------------------------------------------------------------------------------


def train(
    settings: Settings, *, seed: int = 0, parts: Parts | None = None, checkpoint: Path | None = None, device: str = "cpu", progress: bool = False
) -> Run:  # fmt: skip
    """Do all rounds and return what was learned.

    There is a record of every 10th and the last update of the agent in a round: "round", "update", "real_steps" so far; "dream": the mean
    return of games that ended in the dream; "real": `score`, from which nothing learns; "seconds" without the scoring. With
    `checkpoint`, a file, a run goes on from there.
    """
    run = Run(settings, seed=seed, parts=parts or Parts(), device=device)
    if checkpoint is not None and checkpoint.exists():
        load_checkpoint(run, checkpoint)
    clock = time.perf_counter() - (run.records[-1]["seconds"] if run.records else 0)
    rounds = settings.rounds[run.n_rounds :]
    with tqdm(total=sum(n_world + n_agent for _, n_world, n_agent in rounds), disable=not progress) as bar:
        for n_episodes, n_world, n_agent in rounds:
            _collect_more(run, n_episodes)
            for i in range(n_world):
                _learn_world(run, min(1, (i + 1) / 50) * (1 + math.cos(math.pi * i / n_world)) / 2)
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


@torch.no_grad()
def encode(tokenizer: Tokenizer, frames: Tensor) -> Tensor:
    """Return the tokens (n, T, 9) of frames (n, T, 12, 12), in parts that fit into memory."""
    return torch.cat([tokenizer.encode(part) for part in frames.split(100)])


def _collect_more(run: Run, n: int) -> None:
    """Play n games, half of them windy; the first time learn the tokens."""
    s, g, seed = run.settings, run.generator, 1000 * run.seed + 2 * run.n_rounds
    agent, tokenizer = (run.agent, run.tokenizer) if run.n_rounds else (None, None)
    both = [
        collect(n // 2, agent, tokenizer, text=text, epsilon=s.epsilon, seed=seed + text - 1, generator=g)
        for text in (CALM, WINDY)
    ]
    parts = [
        *([] if run.replay is None else [run.replay]),
        *(Replay(*(c.to(run.device) for c in new)) for new in both),
    ]
    run.replay = Replay(*map(torch.cat, zip(*parts, strict=True)))
    if run.n_rounds == 0:
        train_tokenizer(run.tokenizer, run.replay.frames.flatten(0, 1), s.n_tokenizer, generator=g)
    run.images = encode(run.tokenizer, run.replay.frames)


def _learn_world(run: Run, share: float) -> None:
    """Update the world once, with this share of the learning rate."""
    assert run.replay is not None
    assert run.images is not None
    r, rows = run.replay, torch.randint(len(run.images), (run.settings.batch_size,), generator=run.generator)
    episodes = Episodes(*(column[rows] for column in (r.text, run.images, r.actions, r.rewards, r.ends)))
    loss = world_loss(run.world, run.parts.change(episodes), generator=run.generator)
    for group in run.world_optimizer.param_groups:
        group["lr"] = share * run.settings.world_rate
    run.world_optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(run.world.parameters(), 1.0)
    run.world_optimizer.step()


def _learn_in_dream(run: Run) -> Dream:
    """Dream once, calmly, from first frames of real games, and improve the agent by it."""
    assert run.images is not None
    s, g = run.settings, run.generator
    first = run.images[torch.randint(len(run.images), (s.n_dreams,), generator=g), :1]
    text, policy = torch.full((s.n_dreams,), CALM, device=run.device), watching(run.agent, run.tokenizer)
    dream = imagine(run.world, policy, text, first, first[:, :0, 0], horizon=s.horizon, generator=g)
    with torch.no_grad():
        frames = run.tokenizer.decode(dream.images)
    improve(run.agent, run.agent_optimizer, dream, frames, generator=g)
    return dream


def _record(run: Run, update: int, dream: Dream, seconds: float) -> None:
    assert run.replay is not None
    record = {
        "round": run.n_rounds,
        "update": update,
        "real_steps": run.replay.rewards.numel(),
        "dream": dream.rewards[dream.ends & dream.alive].mean().item(),
        "real": score(run.agent, run.tokenizer),
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
    run.tokenizer.eval()
    run.world_optimizer.load_state_dict(state["world_optimizer"])
    run.agent_optimizer.load_state_dict(state["agent_optimizer"])
    run.generator.set_state(state["generator"].cpu())
    run.replay, run.records, run.n_rounds = Replay(*state["replay"]), state["records"], state["n_rounds"]
    run.images = encode(run.tokenizer, run.replay.frames)


def save_weights(networks: dict[str, nn.Module], path: Path, *, note: dict[str, Any]) -> None:
    """Write the weights of all networks into one safetensors file, in half precision; `note` says what they are."""
    tensors = {
        f"{name}.{key}": v.half().contiguous()
        for name, n in networks.items()
        for key, v in n.state_dict().items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={key: str(value) for key, value in note.items()})


def load_weights(path: Path) -> tuple[Tokenizer, TokenWorld, ActorCritic]:
    """Return tokenizer, world and agent of a file of `save_weights`. ValueError if it holds other weights than theirs."""
    tokenizer, world, agent = Tokenizer().eval(), TokenWorld(Vocabulary()).eval(), ActorCritic().eval()
    _load({"tokenizer": tokenizer, "world": world, "agent": agent}, path)
    return tokenizer, world, agent


def load_coarse(path: Path) -> tuple[Tokenizer, Decoder]:
    """Return the tokenizer of 8 codes and its decoder. ValueError if the file holds other weights than theirs."""
    tokenizer, decoder = Tokenizer(COARSE).eval(), Decoder().eval()
    _load({"tokenizer": tokenizer, "decoder": decoder}, path)
    return tokenizer, decoder


def _load(networks: dict[str, nn.Module], path: Path) -> None:
    tensors = load_file(path)
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


def train_coarse(
    *, n_games: int = 600, n_updates: int = 6000, seed: int = 0, device: str = "cpu"
) -> dict[str, nn.Module]:
    """Train a tokenizer of too few codes, and the diffusion decoder that paints what its tokens may stand for."""
    generator = Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer, decoder = Tokenizer(COARSE).to(device), Decoder().to(device)
    frames = collect(n_games, None, seed=seed, generator=generator).frames.flatten(0, 1).to(device)
    train_tokenizer(tokenizer, frames, n_updates, generator=generator)
    with torch.no_grad():
        means = tokenizer.decode(tokenizer.encode(frames))
    train_decoder(decoder, frames, means, n_updates, generator=generator)
    return {"tokenizer": tokenizer, "decoder": decoder}


def main() -> None:
    """Train one world and one agent."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--coarse", action="store_true", help="train the coarse tokenizer and the diffusion decoder"
    )
    parser.add_argument("--gpu", action="store_true", help="train on the CUDA device")
    options = parser.parse_args()
    here, seed, device = Path(__file__).parent, options.seed, "cuda" if options.gpu else "cpu"
    if options.coarse:
        networks = train_coarse(seed=seed, device=device)
        save_weights(networks, here / "weights" / "coarse.safetensors", note={"seed": seed})
        return
    settings, checkpoint = Settings(rounds=LONG), here / "build" / f"catch_{seed}.pt"
    run = train(settings, seed=seed, checkpoint=checkpoint, device=device, progress=True)
    last = run.records[-1]
    print(
        f"{last['real_steps']} real steps, {last['seconds']:.0f} s: return {last['real']:.2f} in the real game"
    )
    save_weights(run.networks, here / "weights" / "catch.safetensors", note=asdict(settings))


if __name__ == "__main__":
    main()
