"""Did the agent learn in the dream? The same run with the dream taken away in five ways, and what the world's tokens are worth.

    python evaluate.py              the committed result as a table and a figure, the rules played anew      (seconds)
    python evaluate.py --train      train everything again, three seeds: results/evaluation.csv      (an hour of one core)

Each control differs from the agent by one thing, and has as many real steps:

    untrained world    the world stays as it was drawn
    shuffled actions   the world learns from actions of other episodes of its batch
    no action          the world is told "stay" whatever was done
    last frame         the dream stands still: the next image is the last one
    model-free         no dream: the same updates on real steps, each batch used once; frames as they are, all games calm
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from torch import Generator, Tensor, nn
from torch.optim import Adam
from tqdm import tqdm

from agent import ActorCritic, improve, recent
from game import N_STEPS
from players import AGENT, load_result, picture, save_result, table
from token_world_model import TokenWorld, interleave, next_frame
from tokenizer import Tokenizer
from train import CALM, GUST, WINDY, Parts, Replay, Settings, collect, encode, score, train
from truth import Rule, next_column, optimum, read, tracker
from world import PLAIN, Cache, Dream, Episodes, Output, Sampling

__all__ = ["CopyLast", "NoAction", "accuracy", "as_dream", "dream_beside", "futures", "gusts", "guided_gusts", "model_free"]  # fmt: skip

HERE = Path(__file__).resolve().parent
RESULT = HERE / "results" / "evaluation.csv"
SEEDS, TARGET, STAY = (0, 1, 2), 0.5, 1


# --- controls: the dream taken away ---------------------------------------------------------------------------


class NoAction(TokenWorld):
    """A world that is told "stay" whatever was done."""

    def forward(self, tokens: Tensor, cache: Cache | None = None) -> tuple[Output, Cache]:
        """See TokenWorld."""
        first = self.vocabulary.n_codes + self.vocabulary.n_texts
        return super().forward(torch.where(tokens < first, tokens, first + STAY), cache)


class CopyLast(TokenWorld):
    """A world whose next image is the last one; reward and end it says as any other. Its cache ends with the tokens of a step."""

    def forward(self, tokens: Tensor, cache: Cache | None = None) -> tuple[Output, Cache]:
        """See TokenWorld. The token that comes next stood there one step ago; before the first step stands code 0."""
        step = self.vocabulary.step
        if cache is None:
            before, inner = tokens.new_zeros(len(tokens), step - 1), None
        else:
            before, inner = cache.layers[-1][0][:, 0, :, 0].long(), Cache(cache.layers[:-1], cache.position)
        output, kept = super().forward(tokens, inner)
        known = torch.cat([before, tokens], dim=1)
        copied = known[:, : tokens.shape[1]].clamp(max=self.vocabulary.n_codes - 1)
        image = 50.0 * nn.functional.one_hot(copied, self.vocabulary.n_codes).to(output.image)
        last = known[:, -(step - 1) :, None][:, None].to(image)
        return output._replace(image=image), Cache((*kept.layers, (last, last)), kept.position)


def shuffle(episodes: Episodes) -> Episodes:
    """Give every episode the actions of another one."""
    return episodes._replace(actions=episodes.actions.roll(1, dims=0))


def model_free(settings: Settings, *, seed: int, n_games: int = 70, n_epochs: int = 20) -> nn.Module:
    """Learn from the real game alone, `n_games` at a time, with as many real steps as `settings` has.

    70 games and 20 passes over them are what the project of the diffusion world model found to be best.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        agent = ActorCritic()
    optimizer = Adam(agent.parameters(), settings.agent_rate, eps=1e-5)
    generator = Generator().manual_seed(seed)
    for i in range(sum(n for n, _, _ in settings.rounds) // n_games):
        played = collect(n_games, agent, seed=1000 * seed + i, generator=generator)
        improve(
            agent, optimizer, as_dream(played, agent), played.frames, n_epochs=n_epochs, generator=generator
        )
    return agent


@torch.no_grad()
def as_dream(played: Replay, agent: nn.Module) -> Dream:
    """Return real episodes as dreams that began with one frame, without tokens: with what the agent that played them thinks."""
    logits, values = (
        torch.stack(column) for column in zip(*map(agent, recent(played.frames).unbind(1)), strict=True)
    )
    log_probs = logits[:-1].log_softmax(dim=-1).gather(2, played.actions.T[..., None])[..., 0]
    steps = played.actions.T, log_probs, values[:-1], values[1:], played.rewards.T, played.ends.T
    return Dream(torch.zeros(0), *steps, torch.ones_like(played.ends.T))


def trained(settings: Settings, seed: int, parts: Parts | None = None) -> float:
    """Return what the agent of a run gets in 1,000 real games."""
    run = train(settings, seed=seed, parts=parts)
    return score(run.agent, run.tokenizer)


def untrained(settings: Settings, seed: int) -> float:
    """Return what the agent of a run gets whose world learns nothing."""
    rounds = tuple((n_episodes, 0, n_agent) for n_episodes, _, n_agent in settings.rounds)
    return trained(dataclasses.replace(settings, rounds=rounds), seed)


CONTROLS: dict[str, Callable[[Settings, int], float]] = {
    AGENT: trained,
    "untrained world": untrained,
    "shuffled actions": partial(trained, parts=Parts(change=shuffle)),
    "no action": partial(trained, parts=Parts(world=NoAction)),
    "last frame": partial(trained, parts=Parts(world=CopyLast)),
    "model-free": lambda settings, seed: score(model_free(settings, seed=seed)),
}


def measure(task: tuple[str, int, Settings]) -> dict[str, object]:
    """Train one player and play 1,000 real games with it; return its row of the result."""
    name, seed, settings = task
    torch.set_num_threads(1)
    begin = time.process_time()
    mean = CONTROLS[name](settings, seed)
    seconds = time.process_time() - begin
    steps = N_STEPS * sum(n for n, _, _ in settings.rounds)
    return {
        "player": name,
        "seed": seed,
        "real_steps": steps,
        "cpu_seconds": round(seconds),
        "return": round(mean, 3),
    }


# --- what the tokens are worth --------------------------------------------------------------------------------


class Accuracy(NamedTuple):
    """How well images are said whose true past is known; over all but the first image of each episode."""

    tokens: float  # share of tokens whose most probable value is the true one
    changed: float  # the same among those that are not what they were a step ago
    frames: float  # share of images all of whose tokens are right
    copied: (
        float  # share of tokens that are what they were a step ago: the baseline, which has 0 of `changed`
    )
    perplexity: list[float]  # of each of the N tokens of an image, exp of the mean cross-entropy


@torch.no_grad()
def accuracy(world: TokenWorld, text: Tensor, images: Tensor, actions: Tensor) -> Accuracy:
    """Compare what the world says with what came, for episodes as `interleave` takes them."""
    vocabulary = world.vocabulary
    output, _ = world(interleave(text, images, actions, vocabulary))
    place = torch.arange(output.image.shape[1]) % vocabulary.step
    logits = output.image[:, place < vocabulary.n_image].unflatten(1, images.shape[1:])[:, 1:]
    right, same = logits.argmax(dim=-1) == images[:, 1:], images[:, 1:] == images[:, :-1]
    loss = nn.functional.cross_entropy(logits.movedim(-1, 1), images[:, 1:], reduction="none")
    tokens, changed, frames, copied = (
        x.float().mean().item() for x in (right, right[~same], right.all(dim=-1), same)
    )
    return Accuracy(tokens, changed, frames, copied, loss.mean(dim=(0, 1)).exp().tolist())


@torch.no_grad()
def dream_beside(
    world: TokenWorld, tokenizer: Tokenizer, real: Replay, *, first: int, n_steps: int, text: Tensor | None = None,
    sampling: Sampling = PLAIN, generator: Generator | None = None,
) -> Tensor:  # fmt: skip
    """Dream on from the first `first` frames of real games, under the real actions: tokens (n, n_steps, 9).

    The text is that of the games if none is given.
    """
    text, images = real.text if text is None else text, encode(tokenizer, real.frames[:, :first])
    texts = [text] if sampling.guidance == 1 else [text, 0 * text]
    past = real.actions[:, : first - 1]
    _, cache = world(torch.cat([interleave(t, images, past, world.vocabulary) for t in texts]))
    dreamt = []
    for t in range(first - 1, first - 1 + n_steps):
        image, _, _, cache = next_frame(world, text, real.actions[:, t], cache, sampling, generator=generator)
        dreamt.append(image)
    return torch.stack(dreamt, dim=1)


def futures(
    world: TokenWorld, tokenizer: Tokenizer, *, sampling: Sampling, n_histories: int = 10, n_draws: int = 100, n_steps: int = 5,
    seed: int = 0,
) -> tuple[float, float]:  # fmt: skip
    """Return how many different paths the ball takes in `n_draws` windy dreams of one history, and how far from the truth it starts.

    The first is a mean over the histories, of three real steps each; the second the total variation of the ball's next column from
    what can be known of it.
    """
    generator = Generator().manual_seed(seed)
    real = collect(n_histories, None, text=WINDY, seed=seed, generator=generator)
    many = Replay(*(column.repeat_interleave(n_draws, dim=0) for column in real))
    tokens = dream_beside(
        world, tokenizer, many, first=4, n_steps=n_steps, sampling=sampling, generator=generator
    )
    columns = torch.stack([read(frame)[1] for frame in tokenizer.decode(tokens).unbind(1)], dim=1)
    columns = columns.unflatten(0, (n_histories, n_draws))
    different = statistics.mean(len(set(map(tuple, paths.tolist()))) for paths in columns)
    seen = nn.functional.one_hot(columns[:, :, 0], 10).float().mean(dim=1)
    return different, (seen - next_column(real.frames[:, :4], GUST)).abs().sum(dim=1).mean().item() / 2


def gusts(
    world: TokenWorld,
    tokenizer: Tokenizer,
    *,
    text: int,
    sampling: Sampling = PLAIN,
    n: int = 2000,
    seed: int = 0,
) -> float:
    """Return the share of gusts in the next frame of dreams that go on, under this text, from three real steps of a calm game.

    Only balls that no wall is near to count: there each gust shows.
    """
    generator = Generator().manual_seed(seed)
    real = collect(n, None, text=CALM, seed=seed, generator=generator)
    texts = torch.full((n,), text)
    tokens = dream_beside(
        world, tokenizer, real, first=4, n_steps=1, text=texts, sampling=sampling, generator=generator
    )
    column, calm = read(tokenizer.decode(tokens[:, 0]))[1], read(real.frames[:, 4])[1]
    free = (calm > 0) & (calm < 9)
    return (column != calm)[free].float().mean().item()


def guided_gusts(guidance: float) -> float:
    """Return the share of gusts that guidance towards "windy" would give a perfect world there: Bayes' rule and the formula.

    With the text a gust has the probability 0.4. Without it, after three steps without one, a game is windy with the probability
    0.6³/(1 + 0.6³), as half of all games are.
    """
    windy = (1 - GUST) ** 3 / (1 + (1 - GUST) ** 3)
    blown, calm = (
        c**guidance * u ** (1 - guidance) for c, u in ((GUST, windy * GUST), (1 - GUST, 1 - windy * GUST))
    )
    return blown / (blown + calm)


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
            save_result(list(tqdm(pool.map(measure, tasks), total=len(tasks))), RESULT)
    players, known = load_result(RESULT), rules()
    least = min(row["return"] for row in players[AGENT])
    best = max(row["return"] for name, rows in players.items() if name != AGENT for row in rows)
    Console().print(table(players, known))
    print(f"least agent {least:.2f} (target {TARGET}), best control {best:.2f}")
    path = HERE / "build" / "evaluation.svg"
    path.parent.mkdir(exist_ok=True)
    picture(players, known, TARGET).savefig(path)
    print(f"figure: {path}")


if __name__ == "__main__":
    main()
