"""What a dreamed frame costs beside diffusers' sampler and beside the real game; what training costs; what real steps buy.

All on one thread. The peer of the sampler is diffusers' EDMEulerScheduler around the same U-Net, with the same three steps.
"""

from __future__ import annotations

import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from diffusers import EDMEulerScheduler

import evaluate
import train
from agent import improve
from diffusion_world_model import OFFSET, imagine, karras_sigmas, next_frame, preconditioning, to_bytes
from dream import World
from game import N_STEPS, SIZE, Catch
from players import AGENT, load_result

sys.path.append(str(Path(__file__).resolve().parents[2]))  # the repository root, for shared/
from shared.measuring.benchmark import Benchmark

PEER, LEVEL = "diffusers", 1 / 127.5
WEIGHTS = Path(__file__).resolve().parent / "weights"
Agents = Callable[..., nn.Module]  # by seed
QUICK = "--quick" in sys.argv or "--practice" in sys.argv


def seeded(seed: int = 0) -> Generator:
    """Return a generator."""
    return Generator().manual_seed(seed)


# --- a frame --------------------------------------------------------------------------------------------------


class OffsetScheduler(EDMEulerScheduler):  # type: ignore[misc]
    """diffusers' scheduler with what DIAMOND adds: an offset in the noise that the network is told of, and bytes."""

    def precondition_inputs(self, sample: Tensor, sigma: Tensor) -> Tensor:
        """Return c_in·x."""
        return super().precondition_inputs(sample, (sigma**2 + OFFSET**2).sqrt())

    def precondition_noise(self, sigma: Tensor) -> Tensor:
        """Return c_noise."""
        return super().precondition_noise((sigma**2 + OFFSET**2).sqrt())

    def precondition_outputs(self, sample: Tensor, model_output: Tensor, sigma: Tensor) -> Tensor:
        """Return D."""
        effective = (sigma**2 + OFFSET**2).sqrt()
        return to_bytes(super().precondition_outputs(sample, model_output, effective))


@torch.no_grad()
def their_frame(network: Any, history: Tensor, actions: Tensor, generator: Generator) -> Tensor:
    """Draw the next frame with diffusers' loop."""
    scheduler: Any = OffsetScheduler(sigma_max=5.0)
    scheduler.set_timesteps(3)
    x = scheduler.sigmas[0] * torch.randn(history[:, 0].shape, generator=generator)
    for t in scheduler.timesteps:
        output = network(scheduler.scale_model_input(x, t), t.expand(len(x)), history, actions)
        x = scheduler.step(output, t, x, return_dict=False)[0]
    return x


def beginnings(n: int, gust: float = 0.0) -> tuple[Tensor, Tensor]:
    """Return histories after three real steps, and their actions."""
    real = train.collect(n, None, gust=gust, seed=1, generator=seeded())
    return real.frames[:, 3:7], real.actions[:, 3:7]


def compare_frames(bench: Benchmark, world: World) -> None:
    """Check that both draw the same frame; then time them."""
    for n in (1, 128):
        past = beginnings(n)

        def ours(past: tuple[Tensor, Tensor] = past) -> Tensor:
            return next_frame(world.denoiser, *past, karras_sigmas(3), generator=seeded())

        def theirs(past: tuple[Tensor, Tensor] = past) -> Tensor:
            return their_frame(world.denoiser, *past, seeded())

        torch.testing.assert_close(ours(), theirs(), rtol=0, atol=1.01 * LEVEL)
        bench.compare(
            "the next frame, three steps", f"{n} game{'s' * (n > 1)}", ours=ours, peers={PEER: theirs}
        )


def compare_with_the_game(bench: Benchmark, world: World) -> None:
    """Time one step of the game itself beside one of a dream, with reward and end."""
    for n in (1, 128):
        history, actions = beginnings(n)
        game, action, case = Catch(n), actions[:, -1].numpy(), f"{n} game{'s' * (n > 1)}"
        game.reset(seed=0)

        def real(game: Catch = game, action: Any = action) -> None:
            game.step(action)

        @torch.no_grad()
        def dream(history: Tensor = history, actions: Tensor = actions) -> None:
            frame = next_frame(world.denoiser, history, actions, karras_sigmas(3), generator=seeded())
            world.outcome(history[:, -1], actions[:, -1], frame)

        bench.compare("one step of all games", case, ours=real, peers={"the dream": dream}, name="the game")
        times = bench.time({"the game": real, "the dream": dream}, 6)
        columns = {name: f"{n / statistics.median(seconds):,.0f}" for name, seconds in times.items()}
        bench.record("frames a second", case, columns)


# --- training -------------------------------------------------------------------------------------------------


def a_run(layout: torch.memory_format) -> train.Run:
    """Return a run that has played 100 games, its networks in one memory format."""
    run = train.Run(train.Settings(rounds=((100, 0, 0),)), seed=0, parts=train.Parts())
    run.replay = train.collect(100, None, seed=0, generator=run.generator)
    for network in run.networks.values():
        network.to(memory_format=layout)  # type: ignore[call-overload]
    return run


def parts_of_training(run: train.Run) -> dict[str, Callable[[], Any]]:
    """Return the three parts of a round: an update of the world, a batch of dreams, an improvement of the agent."""
    assert run.replay is not None
    start = train.beginnings(run.replay, generator=run.generator)
    s = run.settings
    options: dict[str, Any] = {"n_dreams": s.n_dreams, "horizon": s.horizon, "sigmas": karras_sigmas(3)}
    dream = imagine(run.world, run.agent, start, **options, generator=run.generator)
    return {
        f"one update of the world, {s.batch_size} segments": lambda: train._learn_world(run),
        f"{s.n_dreams} dreams of {s.horizon} steps": lambda: imagine(
            run.world, run.agent, start, **options, generator=run.generator
        ),
        "one improvement of the agent, 16 gradient steps": lambda: improve(
            run.agent, run.agent_optimizer, dream, generator=run.generator
        ),
    }


def compare_training(bench: Benchmark) -> None:
    """Time the parts of a round in two memory formats."""
    ours, theirs = (
        parts_of_training(a_run(layout)) for layout in (torch.channels_last, torch.contiguous_format)
    )
    for case, call in ours.items():
        bench.compare("training", case, ours=call, peers={"contiguous": theirs[case]}, name="channels last", rounds=10)  # fmt: skip


# --- what real steps buy --------------------------------------------------------------------------------------


def real_agents() -> Iterator[tuple[int, Agents]]:
    """Yield 1, 3, 10 and 30 times the real steps of evaluate.py, and how an agent learns from them alone.

    Where there are many, 105 games at a time and 6 passes over them are the steadier choice.
    """
    budget = 70 if QUICK else sum(n for n, _, _ in train.Settings().rounds)
    for times, n_games, n_epochs in ((1, 70, 20), (3, 70, 20), (10, 105, 6), (30, 105, 6)):
        settings = train.Settings(rounds=((times * budget, 0, 0),))
        how = partial(evaluate.model_free, settings, n_games=n_games, n_epochs=n_epochs)
        yield times * budget * N_STEPS, how


def compare_steps(bench: Benchmark) -> None:
    """Say how many real steps a return needs: the dream's agents are those of evaluate.py, the others learn here."""
    rows = load_result(evaluate.RESULT)[AGENT]
    dreamt = {int(rows[0]["real_steps"]): [(row["return"], row["cpu_seconds"]) for row in rows]}
    for name, found in {"in the dream": dreamt, "in the real game": learned_for_real()}.items():
        means = {steps: statistics.mean(value for value, _ in runs) for steps, runs in found.items()}
        for steps, runs in found.items():
            columns = {
                "mean return": f"{means[steps]:.2f}",
                "of each seed": ", ".join(f"{value:.2f}" for value, _ in runs),
                "CPU seconds": f"{statistics.median(seconds for _, seconds in runs):.0f}",
            }
            bench.record("return in the real game", f"{steps:,} real steps, learned {name}", columns)
        columns = {}
        for wanted in (0.6, 0.95):
            enough = [steps for steps, mean in means.items() if mean >= wanted]
            columns[f"mean return {wanted}"] = f"{min(enough):,}" if enough else f"more than {max(means):,}"
        bench.record("real steps that are enough, of those tried", f"learned {name}", columns)


def learned_for_real() -> dict[int, list[tuple[float, float]]]:
    """Return, for each number of real steps, return and CPU seconds of each seed."""
    found: dict[int, list[tuple[float, float]]] = {}
    for steps, agent_of in real_agents():
        for seed in range(1 if QUICK else 3):
            begin = time.process_time()
            agent = agent_of(seed=seed)
            found.setdefault(steps, []).append((train.score(agent), time.process_time() - begin))
    return found


# --- where the loss sits --------------------------------------------------------------------------------------


def share_the_loss(bench: Benchmark, worlds: Mapping[str, tuple[World, float]]) -> None:
    """Split the loss of one predicted frame, on new games, by the noise level."""
    sigma = (1.2 * torch.randn(1024, 1, 1, generator=seeded()) - 0.4).exp()
    c_in, c_skip, c_out, c_noise = preconditioning(sigma)
    losses = {}
    for name, (world, gust) in worlds.items():
        real = train.collect(1024, None, gust=gust, seed=7, generator=seeded())
        history, clean = real.frames[:, 3:7], real.frames[:, 7]
        offset, noise = torch.randn(2, 1024, SIZE, SIZE, generator=seeded())
        noisy = clean + OFFSET * offset[:, :1, :1] + sigma * noise
        with torch.no_grad():
            output = world.denoiser(c_in * noisy, c_noise.flatten(), history, real.actions[:, 3:7])
        losses[name] = (output - (clean - c_skip * noisy) / c_out).square().mean(dim=(1, 2))
    for low, high in pairwise((0.0, 0.2, 0.5, 1.0, 2.0, float("inf"))):
        inside = ((sigma >= low) & (sigma < high)).flatten()
        columns = {"of the draws": f"{inside.float().mean():.0%}"}
        for name, loss in losses.items():
            columns[f"loss, {name} game"] = f"{loss[inside].mean():.4f}"
            columns[f"share of it, {name} game"] = f"{loss[inside].sum() / loss.sum():.0%}"
        bench.record("the loss of one predicted frame, by noise level", f"σ {low:g} to {high:g}", columns)


def main() -> None:
    """Measure, and write results/ and the tables of the README."""
    bench = Benchmark(__file__, threads=1)
    catch, _ = train.load_weights(WEIGHTS / "catch.safetensors")
    windy, _ = train.load_weights(WEIGHTS / "gust.safetensors")
    for network in (catch.denoiser, windy.denoiser):
        network.to(memory_format=torch.channels_last)  # type: ignore[attr-defined]
    compare_frames(bench, catch)
    compare_with_the_game(bench, catch)
    compare_training(bench)
    share_the_loss(bench, {"plain": (catch, 0.0), "windy": (windy, 0.4)})
    compare_steps(bench)
    bench.save()


if __name__ == "__main__":
    main()
