"""Did the agent learn in the dream? The same run with the dream taken away in five ways, and what the world's frames are worth.

    python evaluate.py              the committed result as a table and a figure, the rules played anew      (seconds)
    python evaluate.py --train      train everything again, three seeds: results/*.csv                (an hour of one core)

Each control differs from the agent by one thing, and has as many real steps:

    untrained world    both networks of the world stay as they were drawn
    shuffled actions   the denoiser learns from actions of other segments of its batch
    no action          the denoiser is told "stay" whatever was done
    last frame         the dream stands still: the next frame is the last one
    model-free         no dream: the same updates on real steps, each batch used once
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch
from rich.console import Console
from torch import Generator, Tensor, nn
from torch.optim import Adam
from tqdm import tqdm

from agent import ActorCritic, improve
from diffusion_world_model import karras_sigmas, next_frame, preconditioning
from dream import Dream, World
from game import N_STEPS
from players import AGENT, load_result, picture, save_result, table
from train import LENGTH, STAY, Parts, Replay, Settings, collect, score, train
from truth import Rule, crisp, next_column, optimum, tracker
from unet import Outcome, UNet

__all__ = [
    "CopyLast",
    "NeverEnds",
    "NoAction",
    "as_dream",
    "dream_beside",
    "load_result",
    "model_free",
    "windy_dreams",
]

HERE = Path(__file__).resolve().parent
RESULT, EXPLOIT = HERE / "results" / "evaluation.csv", HERE / "results" / "exploit.csv"
SEEDS, TARGET, MARGIN = (0, 1, 2), 0.6, 0.3


# --- controls: the dream taken away ---------------------------------------------------------------------------


class NoAction(UNet):
    """A U-Net that is told "stay" whatever was done."""

    def forward(self, noisy: Tensor, c_noise: Tensor, history: Tensor, actions: Tensor) -> Tensor:
        """See UNet."""
        return super().forward(noisy, c_noise, history, torch.full_like(actions, STAY))


class CopyLast(nn.Module):
    """The network whose denoised frame is the last one of the history, at every noise level."""

    def forward(self, noisy: Tensor, c_noise: Tensor, history: Tensor, actions: Tensor) -> Tensor:
        """See UNet; the input is c_in·x, and c_noise tells σ_e."""
        sigma = ((4 * c_noise).exp() ** 2 - 0.3**2).clamp(min=0).sqrt()
        c_in, c_skip, c_out, _ = (c[:, None, None] for c in preconditioning(sigma))
        return (history[:, -1] - c_skip * noisy / c_in) / c_out


class NeverEnds(Outcome):
    """An outcome without its second head: no game ends in the dream."""

    def forward(self, frame: Tensor, action: Tensor, following: Tensor) -> tuple[Tensor, Tensor]:
        """See Outcome."""
        reward_logits, end_logits = super().forward(frame, action, following)
        return reward_logits, end_logits.new_tensor([0.0, -1e9]).expand_as(end_logits)


def shuffle(frames: Tensor, actions: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Give every segment the actions of another one."""
    return frames, actions.roll(1, dims=0), valid


def forget_ends(frames: Tensor, actions: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Let the denoiser learn that after a game's end its last frame stands still."""
    return frames, actions, torch.ones_like(valid)


def model_free(settings: Settings, *, seed: int, n_games: int = 70, n_epochs: int = 20) -> nn.Module:
    """Learn from the real game alone, `n_games` at a time, with as many real steps as `settings` has.

    70 games and 20 passes over them were the best on average of ten combinations (10 to 70 games, 4 to 20 passes), three seeds each.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        agent = ActorCritic()
    optimizer = Adam(agent.parameters(), settings.learning_rate, eps=1e-5)
    generator = Generator().manual_seed(seed)
    for i in range(sum(n for n, _, _ in settings.rounds) // n_games):
        played = collect(n_games, agent, gust=settings.gust, seed=1000 * seed + i, generator=generator)
        improve(agent, optimizer, as_dream(played, agent), n_epochs=n_epochs, generator=generator)
    return agent


@torch.no_grad()
def as_dream(played: Replay, agent: nn.Module) -> Dream:
    """Return real episodes in the form of dreams, (9, n, ...), with what the agent that played them thinks of them."""
    histories = played.frames.unfold(1, LENGTH, 1).movedim((1, -1), (0, 2))
    logits, values = (torch.stack(column) for column in zip(*map(agent, histories), strict=True))
    actions = played.actions[:, LENGTH - 1 :].T
    log_probs = logits[:-1].log_softmax(dim=-1).gather(2, actions[..., None])[..., 0]
    return Dream(histories[:-1], actions, log_probs, values[:-1], values[1:], played.rewards.T, played.ends.T)


def trained(settings: Settings, seed: int, parts: Parts | None = None) -> nn.Module:
    """Return the agent of a run."""
    return train(settings, seed=seed, parts=parts).agent


def untrained(settings: Settings, seed: int) -> nn.Module:
    """Return the agent of a run whose world learns nothing."""
    rounds = tuple((n_episodes, 0, n_agent) for n_episodes, _, n_agent in settings.rounds)
    return train(dataclasses.replace(settings, rounds=rounds), seed=seed).agent


CONTROLS: dict[str, Callable[[Settings, int], nn.Module]] = {
    AGENT: trained,
    "untrained world": untrained,
    "shuffled actions": partial(trained, parts=Parts(change=shuffle)),
    "no action": partial(trained, parts=Parts(denoiser=NoAction)),
    "last frame": partial(trained, parts=Parts(denoiser=CopyLast)),
    "model-free": lambda settings, seed: model_free(settings, seed=seed),
}


def measure(task: tuple[str, int, Settings]) -> dict[str, object]:
    """Train one player and play 1,000 real games with it; return its row of the result."""
    name, seed, settings = task
    torch.set_num_threads(1)
    begin = time.process_time()
    agent = CONTROLS[name](settings, seed)
    seconds = time.process_time() - begin
    steps = N_STEPS * sum(n for n, _, _ in settings.rounds)
    return {
        "player": name,
        "seed": seed,
        "real_steps": steps,
        "cpu_seconds": round(seconds),
        "return": round(score(agent), 3),
    }


def exploit(seed: int, settings: Settings | None = None) -> list[dict[str, object]]:
    """Train an agent in dreams of 15 steps (a game has 9) that know of ends, one where nothing ever ends; return both records."""
    torch.set_num_threads(1)
    settings = settings or Settings(rounds=((600, 600, 90),), horizon=15)
    worlds = {"with ends": Parts(), "without ends": Parts(outcome=NeverEnds, change=forget_ends)}
    return [
        {"world": name} | {key: round(record[key], 3) for key in ("update", "dream_sum", "real")}
        for name, parts in worlds.items()
        for record in train(settings, seed=seed, parts=parts).records
    ]


# --- what the frames are worth ------------------------------------------------------------------------------


def dream_beside(
    world: World, real: Replay, *, first: int = 2, n_steps: int = 6, n_sampling_steps: int = 3, generator: Generator | None = None
) -> Tensor:  # fmt: skip
    """Dream `n_steps` on from what was seen after `first` real steps, under the real actions: frames (n, n_steps, 12, 12)."""
    sigmas = karras_sigmas(n_sampling_steps)
    history, dreamt = real.frames[:, first : first + LENGTH], []
    for t in range(first, first + n_steps):
        actions = real.actions[:, t : t + LENGTH]
        dreamt.append(next_frame(world.denoiser, history, actions, sigmas, generator=generator))
        history = torch.cat([history[:, 1:], dreamt[-1][:, None]], dim=1)
    return torch.stack(dreamt, dim=1)


# --- wind: is the dream as uncertain as the game? -------------------------------------------------------------


def windy_dreams(
    world: World, *, gust: float, n_sampling_steps: int, n_histories: int = 40, n_draws: int = 50, seed: int = 0,
    draw: Callable[..., Tensor] = next_frame,
) -> tuple[float, float]:  # fmt: skip
    """Return the share of crisp next frames, and the total variation of the ball's next column from the truth, a mean.

    Each of `n_histories` beginnings of three real steps is dreamt on `n_draws` times, by `draw`. The ball is taken to be where the
    row that it must be in is brightest, so that a faint one counts as well.
    """
    generator = Generator().manual_seed(seed)
    real = collect(n_histories, None, gust=gust, seed=seed, generator=generator)
    history = real.frames[:, 3 : 3 + LENGTH].repeat_interleave(n_draws, dim=0)
    actions = real.actions[:, 3 : 3 + LENGTH].repeat_interleave(n_draws, dim=0)
    parts, sigmas = zip(history.split(200), actions.split(200), strict=True), karras_sigmas(n_sampling_steps)
    frames = torch.cat([draw(world.denoiser, *part, sigmas, generator=generator) for part in parts])
    column = frames[:, 1 + 4, 1:-1].argmax(dim=1)  # three steps, and one more
    seen = nn.functional.one_hot(column, 10).float().reshape(n_histories, n_draws, 10).mean(dim=1)
    truth = next_column(real.frames[:, 3 : 3 + LENGTH], gust)
    return crisp(frames).float().mean().item(), (seen - truth).abs().sum(dim=1).mean().item() / 2


# --- the result -----------------------------------------------------------------------------------------------


def rules() -> dict[str, float]:
    """Return the mean returns, in 1,000 real games, of the players that learn nothing."""
    random = collect(1000, None, seed=10_000, generator=Generator().manual_seed(0))
    return {
        "random": random.rewards.sum(dim=1).mean().item(),
        "follow the ball": score(Rule(tracker)),
        "optimum": score(Rule(optimum)),
    }


def main() -> None:
    """Show the committed result, or make it anew."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", action="store_true", help="train everything again")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at a time, one thread each")
    options = parser.parse_args()
    if options.train:
        tasks = [(name, seed, Settings()) for name in CONTROLS for seed in SEEDS]
        with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
            exploited = pool.submit(exploit, 0)
            save_result(list(tqdm(pool.map(measure, tasks), total=len(tasks))), RESULT)
            save_result(exploited.result(), EXPLOIT)
    players, known = load_result(RESULT), rules()
    least = min(row["return"] for row in players[AGENT])
    best = max(row["return"] for name, rows in players.items() if name != AGENT for row in rows)
    Console().print(table(players, known))
    wanted = f"(target at most {least - MARGIN:.2f})"
    print(f"least agent {least:.2f} (target {TARGET}), best control {best:.2f} {wanted}")
    path = HERE / "build" / "evaluation.svg"
    path.parent.mkdir(exist_ok=True)
    picture(players, known, TARGET).savefig(path)
    print(f"figure: {path}")


if __name__ == "__main__":
    main()
