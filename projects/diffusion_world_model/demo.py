"""What a diffusion model dreams of a game, and where the dream is wrong. Everything from the committed weights.

1. The agent that learned in the dream, beside its controls.
2. One game, real and dreamed, under the same actions.
3. One past, three actions.
4. Wind: how many steps of sampling a game of chance needs, and what too little noise does.
5. One frame while it is drawn, and why a single step is blurred.
6. A dream without ends: the agent that exploits it.
7. The constants, and the sizes.
"""

from __future__ import annotations

import statistics
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from torch import Generator, Tensor

import evaluate
import export
from diffusion_world_model import denoise, imagine, karras_sigmas, next_frame, preconditioning
from dream import World
from evaluate import dream_beside
from game import BALL, EMPTY, N_ACTIONS, N_STEPS
from players import AGENT, load_result, picture
from train import LENGTH, collect, load_weights
from truth import RIGHT, alike, crisp, next_column, play_on, read
from unet import n_parameters

sys.path.append(str(Path(__file__).resolve().parents[2]))  # the repository root, for shared/
from shared.measuring.demo import Demo

HERE = Path(__file__).resolve().parent
BLUE, RED, GREY = "#0072b2", "#d55e00", "#7f7f7f"  # Okabe and Ito
GUST, N, STEPS = 0.4, 256, (1, 2, 3, 5, 10)


def seeded(seed: int = 0) -> Generator:
    """Return a generator."""
    return Generator().manual_seed(seed)


def numbers(demo: Demo, *rows: tuple[str, Tensor | float, str, str]) -> None:
    """Keep numbers: key, value or a tensor whose mean it is, format, label."""
    for key, value, fmt, label in rows:
        demo.number(key, torch.as_tensor(value, dtype=torch.float64).mean().item(), fmt, label)


def show(axis: Any, picture: Tensor, title: str = "", *, colour: str | None = None, most: float = 1) -> None:
    """Draw a frame or, with `most` = 2, a difference of two: red is more, blue less; `colour` is a border."""
    colours = "gray" if most == 1 else "RdBu_r"
    axis.axis("on")
    axis.imshow(picture.numpy(), cmap=colours, vmin=-most, vmax=most, interpolation="nearest")
    axis.set_title(title, fontsize=10, pad=3)
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set(visible=True, color=colour or "#bbbbbb", linewidth=2.5 if colour else 0.5)


def beside(axis: Any, text: str, x: float = -0.15) -> None:
    """Write the name of a row of pictures to the left of its first."""
    axis.text(x, 0.5, text, transform=axis.transAxes, ha="right", va="center", fontsize=11)


def players(demo: Demo) -> None:
    """Show the committed result of evaluate.py, with the rules played anew."""
    result, known = load_result(evaluate.RESULT), evaluate.rules()
    returns = {name: [run["return"] for run in runs] for name, runs in result.items()}
    seconds = {name: statistics.median(run["cpu_seconds"] for run in runs) for name, runs in result.items()}
    ours, best = returns[AGENT], {name: max(values) for name, values in returns.items() if name != AGENT}
    first = max(best, key=best.__getitem__)
    for seed, value in enumerate(ours):
        demo.number(f"agent_{seed}", value, ".2f", f"return in the real game of the agent, seed {seed}")
    for name, value in best.items():
        key = name.removesuffix(" actions").removesuffix(" world").replace(" ", "_").replace("-", "_")
        demo.number(f"control_{key}", value, ".2f", f"best seed of the control: {name}")
    numbers(demo,
        ("agent_least", min(ours), ".2f", f"the least seed of the agent (wanted: {evaluate.TARGET})"),
        ("control_best", best[first], ".2f", f"the best seed of all controls: {first}"),
        ("gap", min(ours) - best[first], ".2f", f"between these two (wanted: {evaluate.MARGIN})"),
        ("random", known["random"], ".2f", "return of random actions"),
        ("tracker", known["follow the ball"], ".2f", "return of following the ball"),
        ("optimum", known["optimum"], ".2f", "return of the optimum"),
        ("real_steps", result[AGENT][0]["real_steps"], ",.0f", "real steps of each run"),
        ("cpu_seconds", seconds[AGENT], ".0f", "CPU seconds of a run of the agent, median"),
    )  # fmt: skip
    rows = [[name, "0", "0", *[f"{value:.2f}"] * len(ours)] for name, value in known.items()]
    for name, runs in result.items():
        cells = [f"{value:.2f}" for value in returns[name]]
        rows.append([name, f"{runs[0]['real_steps']:,.0f}", f"{seconds[name]:.0f}", *cells])
    columns = ["player", "real steps", "CPU seconds", *(f"seed {seed}" for seed in range(len(ours)))]
    caption = "Mean return of 1,000 real games. The first three learn nothing; a control lacks one thing."
    demo.table("players", columns, rows, caption=caption)
    demo.figure("players", picture(result, known, evaluate.TARGET),
        alt=f"A dot per seed. The agent trained in the dream: at least {min(ours):.2f}; the best control, {first}: {best[first]:.2f}.",
        caption="The agent, and what is left of it when one thing is taken away, with as many real steps. Dashed: players that learn nothing; "
        f"green: the {evaluate.TARGET} that was wanted.",
    )  # fmt: skip


def dream(demo: Demo, world: World) -> None:
    """Dream on 256 games from their third and from their first frame, and count the frames that are right."""
    real = collect(N, None, seed=1, generator=seeded())
    games, taken = real.frames[:, LENGTH - 1 :], real.actions[:, LENGTH - 1 :]
    known = dream_beside(world, real, first=2, n_steps=N_STEPS - 2, generator=seeded(1))
    for i, right in enumerate(alike(known, games[:, 3:])[:, :6].T, start=1):
        numbers(demo, (f"right_{i}", right, ".1%", f"frames right after {i} dreamed steps, direction known"))
    open_ = dream_beside(world, real, first=0, n_steps=N_STEPS, generator=seeded(1))
    ten = dream_beside(world, real, first=0, n_steps=1, n_sampling_steps=10, generator=seeded(1))
    column = read(games[:, 0])[1]
    real_step, step, step_10 = (read(after)[1] - column for after in (games[:, 1], open_[:, 0], ten[:, 0]))
    two = (column > 0) & (column < 9)  # at a wall there is one way only
    ways = (play_on(games[:, 0], way, taken) for way in (real_step, -real_step))
    same, other = (alike(open_, way).all(dim=1) for way in ways)
    numbers(demo,
        ("open_games", two.sum(), ".0f", "games whose first frame leaves two directions"),
        ("open_real_left", (real_step == -1)[two].sum(), ".0f", "of these the real game goes left"),
        ("open_left", (step == -1)[two].sum(), ".0f", "the dream goes left"),
        ("open_right", (step == 1)[two].sum(), ".0f", "and right"),
        ("open_crisp", crisp(open_[two, 0]), ".0%", "its first frame is crisp"),
        ("open_whole", same[two], ".0%", "all its nine frames are the real ones"),
        ("open_other", other[two], ".0%", "all nine are those of the other direction"),
        ("open_left_10", (step_10 == -1)[two].sum(), ".0f", "with ten sampling steps, the dream goes left"),
        ("open_crisp_10", crisp(ten[two, 0]), ".0%", "its first frame is crisp"),
    )  # fmt: skip
    game = int((other & two).nonzero()[0])
    draw_dream(demo, games[game], known[game], open_[game])


def draw_dream(demo: Demo, real: Tensor, known: Tensor, open_: Tensor) -> None:
    """Draw one game twice: dreamed from its third and from its first frame."""
    fig, axes = plt.subplots(7, N_STEPS + 1, figsize=(10, 6.5), height_ratios=[1, 1, 1, 0.3, 1, 1, 1])
    fig.subplots_adjust(wspace=0.08, hspace=0.08)
    for axis in axes.flat:
        axis.axis("off")
    for block, dreamt, seen in ((axes[:3], known, "three frames"), (axes[4:], open_, "one frame")):
        first = len(real) - len(dreamt)
        wrong = (~alike(dreamt, real[first:])).nonzero().flatten().tolist()
        for t, (top, middle, bottom) in enumerate(block.T):
            show(top, real[t], f"t = {t}")
            if t >= first:
                colour = RED if t - first in wrong[:1] else None
                show(middle, dreamt[t - first], colour=colour)
                show(bottom, dreamt[t - first] - real[t], colour=colour, most=2)
        for axis, name in zip(block[:, 0], ("real", "dreamed", "difference"), strict=True):
            beside(axis, name)
        middle = block[1, first // 2]
        middle.text(
            0.5, 0, f"{seen}\nseen", transform=middle.transAxes, ha="center", va="center", size=9, color=GREY
        )
    demo.figure("dream", fig,
        alt="A real game, the dreamed one, their difference, twice. From three frames on, the difference is empty. From one frame on, the "
        "dreamed ball goes the other way.",
        caption="A dream that was not told the ball's direction picks one and keeps to it. One game, twice under real actions: three frames tell the direction, one does not (red: where they part).",
    )  # fmt: skip


def actions(demo: Demo, world: World) -> None:
    """Dream one step on from the same past under each action, with the same noise."""
    real = collect(N, None, seed=2, generator=seeded())
    history, past = real.frames[:, 3 : 3 + LENGTH], real.actions[:, 3 : 2 + LENGTH]
    last, direction = history[:, -1], read(real.frames[:, 3 + LENGTH])[1] - read(history[:, -1])[1]
    dreamt, right = [], []
    for action in range(N_ACTIONS):
        taken = torch.full((N, 1), action)
        with_past = torch.cat([past, taken], dim=1)
        dreamt.append(next_frame(world.denoiser, history, with_past, karras_sigmas(3), generator=seeded(1)))
        right.append(alike(dreamt[-1], play_on(last, direction, taken)[:, 0]))
    changes = torch.stack([dreamt[0] - dreamt[1], dreamt[2] - dreamt[1]]).abs()
    elsewhere = changes[:, :, :10].amax(dim=(2, 3))  # above the paddle's row
    numbers(demo,
        ("actions_right", torch.stack(right), ".1%", "frames right, each past under three actions"),
        ("actions_elsewhere", elsewhere >= RIGHT, ".1%", "frames changed above the paddle's row"),
    )  # fmt: skip
    game = int(((read(last)[2] - 4).abs() < 2).nonzero()[0])  # a paddle with room on both sides
    fig, axes = plt.subplots(2, 4, figsize=(7, 3.9), layout="constrained")
    show(axes[0, 0], last[game], "the last frame seen")
    axes[1, 0].axis("off")
    beside(axes[1, 0], "minus the frame\nunder “stay”", x=1)
    for column, name, frame in zip(axes.T[1:], ("left", "stay", "right"), dreamt, strict=True):
        show(column[0], frame[game], name)
        show(column[1], (frame - dreamt[1])[game], most=2)
    demo.figure("actions", fig,
        alt="The last frame seen, and the next one dreamed under left, stay and right. The ball falls alike in all three; the "
        "paddle goes one column left, stays, or goes one column right. The differences show two cells of the paddle.",
        caption="The world has learned what an action is for: it moves the paddle and nothing else. One past, the same noise, three actions.",
    )  # fmt: skip


@torch.no_grad()
def trace(network: Any, x: Tensor, history: Tensor, taken: Tensor, sigmas: Tensor) -> list[tuple[Tensor, Tensor]]:  # fmt: skip
    """Sample as `next_frame` does, from any x; return x and the answer D of each step. The last D is the frame."""
    steps = []
    for sigma, following in pairwise(sigmas):
        steps.append((x, denoise(network, x, sigma, history, taken)))
        x = x + (following - sigma) * (x - steps[-1][1]) / sigma
    return steps


def too_little_noise(network: Any, *past: Tensor, generator: Generator) -> Tensor:
    """Draw as `next_frame` does, but from noise of deviation 1 instead of σ_0: a mistake, on purpose."""
    return trace(network, torch.randn(past[0][:, 0].shape, generator=generator), *past)[-1][1]


def the_game(network: Any, *past: Tensor, generator: Generator) -> Tensor:
    """Draw the ball of a next frame as the windy game does: what a perfect dream would show."""
    column = torch.multinomial(next_column(past[0], GUST), 1, generator=generator)
    frames = past[0][:, -1].clone()
    frames[:, 5, 1:-1] = torch.full((len(frames), 10), EMPTY).scatter(1, column, BALL)
    return frames


def gust(demo: Demo, world: World) -> None:
    """Draw next frames of the windy game in 1 to 10 steps, from the right and from too little noise."""
    options: dict[str, Any] = {"gust": GUST, "n_histories": 16, "n_draws": 50}
    floor = evaluate.windy_dreams(world, **options, n_sampling_steps=1, draw=the_game)[1]
    rows = []
    for n in STEPS:
        right = evaluate.windy_dreams(world, **options, n_sampling_steps=n)
        wrong = evaluate.windy_dreams(world, **options, n_sampling_steps=n, draw=too_little_noise)
        rows.append([n, *(f"{sharp:.0%}, {tv:.2f}" for sharp, tv in (right, wrong))])
        numbers(demo,
            (f"crisp_{n}", right[0], ".0%", f"crisp frames of the windy game, sampling steps: {n}"),
            (f"tv_{n}", right[1], ".2f", "total variation of the ball's column from the truth"),
            (f"crisp_{n}_wrong", wrong[0], ".0%", "crisp frames, from noise of deviation 1"),
            (f"tv_{n}_wrong", wrong[1], ".2f", "total variation, from noise of deviation 1"),
        )  # fmt: skip
    numbers(demo, ("tv_floor", floor, ".2f", "total variation of as many true draws"))
    columns = ["sampling steps", "crisp frames, total variation", "the same, from noise of deviation 1"]
    caption = (
        "The windy game: 50 next frames of each of 16 pasts. Total variation: of the ball's column, from its true distribution; "
        f"that of as many true draws is {floor:.2f}. On the right the mistake: initial noise of deviation 1, not 5."
    )
    demo.table("gust", columns, rows, caption=caption)
    draw_gust(demo, world)


def windy_past(n: int) -> tuple[Tensor, Tensor]:
    """Return one past of the windy game n times: histories and actions."""
    real = collect(1, None, gust=GUST, seed=3, generator=seeded())
    return real.frames[:, 3 : 3 + LENGTH].expand(n, -1, -1, -1), real.actions[:, 3 : 3 + LENGTH].expand(n, -1)


def draw_gust(demo: Demo, world: World) -> None:
    """Draw a sample for each number of steps, and the ball's row of 16 of them, from the right and too little noise."""
    past, n = windy_past(16), len(STEPS)
    draws: list[Any] = [next_frame, too_little_noise]
    fig, axes = plt.subplots(3, n + 1, figsize=(8, 5.6), layout="constrained", height_ratios=[1, 1.6, 1.6])
    for row, draw in enumerate(draws, start=1):
        for i, n_steps in enumerate(STEPS):
            frames = draw(world.denoiser, *past, karras_sigmas(n_steps), generator=seeded(4))
            show(axes[row, i], frames[:, 5, 1:-1])
            if row == 1:
                show(axes[0, i], frames[0], f"{n_steps} step{'s' * (n_steps > 1)}")
    show(axes[0, n], past[0][0, -1], "the last frame")
    show(axes[1, n], the_game(None, *past, karras_sigmas(1), generator=seeded())[:, 5, 1:-1], "the game")
    axes[2, n].axis("off")
    names = ("one sample", "the ball's row\nof 16 samples", "the same from\ntoo little noise")
    for axis, name in zip(axes[:, 0], names, strict=True):
        beside(axis, name)
    demo.figure("gust", fig,
        alt="Sampled frames, and the ball's row of 16 samples, for 1 to 10 steps. One step: three faint balls. More: one ball in one of "
        "three columns, as in the game. From too little noise: always the middle column.",
        caption="One step draws the mean of the possible frames; more steps choose, as the game does. The wind leaves three next frames. From too little noise the frames are as crisp, but the chance is gone.",
    )  # fmt: skip


def steps(demo: Demo, world: World) -> None:
    """Show x and D of two samples of one frame, and compare D at σ_0 with the mean of the frames that are possible."""
    sigmas = karras_sigmas(3)
    real = collect(N, None, gust=GUST, seed=5, generator=seeded())
    history, taken = real.frames[:, 3 : 3 + LENGTH], real.actions[:, 3 : 3 + LENGTH]
    noise, mean = sigmas[0] * torch.randn(N, 12, 12, generator=seeded()), 2 * next_column(history, GUST) - 1
    run = trace(world.denoiser, noise, history, taken, sigmas)
    one, three = (run[i][1][:, 5, 1:-1] for i in (0, -1))
    numbers(demo,
        ("mean_1", (one - mean).abs(), ".2f", "pixel of the ball's row, first D to the mean of all frames"),
        ("mean_3", (three - mean).abs(), ".2f", "the same, last D"),
        ("brightest_1", one.amax(dim=1), ".2f", "brightest of that row, first D (a ball: 1, empty: -1)"),
        ("brightest_3", three.amax(dim=1), ".2f", "the same, last D"),
    )  # fmt: skip
    past = windy_past(32)
    run = trace(world.denoiser, noise[:32], *past, sigmas)
    column, sharp = read(run[-1][1])[1], crisp(run[-1][1])
    two = [int((sharp & (column == place)).nonzero()[0]) for place in column[sharp].unique()[:2]]
    draw_steps(demo, run, two, past[0][:1])


def draw_steps(demo: Demo, run: list[tuple[Tensor, Tensor]], pair: list[int], past: Tensor) -> None:
    """Draw x and D of two samples at each step, the last frame seen and the mean of those that are possible."""
    fig, axes = plt.subplots(2, 7, figsize=(10, 3.3))
    fig.subplots_adjust(wspace=0.1, hspace=0.2)
    mean = past[0, -1].clone()
    mean[4, 1:-1], mean[5, 1:-1] = EMPTY, 2 * next_column(past, GUST)[0] - 1
    show(axes[0, 0], past[0, -1], "last seen")
    show(axes[1, 0], mean, "mean of all")
    for line, sample in zip(axes, pair, strict=True):
        for i, (sigma, (x, answer)) in enumerate(zip(karras_sigmas(3).tolist(), run, strict=False)):
            show(line[1 + 2 * i], x[sample] / max(1, sigma / 2), f"x, σ = {sigma:.2g}")
            show(line[2 + 2 * i], answer[sample], f"D, σ = {sigma:.2g}", colour=BLUE)
    demo.figure("steps", fig,
        alt="Two rows, two noises. In both, D at the first step shows the same faint balls as the mean of all possible frames. At "
        "the second step D has one bright ball, in another column in each row, and the last step keeps it.",
        caption="The first step draws about the mean of all frames that are possible; what is left of the noise decides which it becomes. Three steps of the windy game, from two noises. A single step would stop at the first D (blue).",
    )  # fmt: skip


def exploit(demo: Demo) -> None:
    """Show the committed result of evaluate.exploit: what two agents get in the dream, and in the real game."""
    result = load_result(evaluate.EXPLOIT)
    fig, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    for (name, rows), colour in zip(result.items(), (BLUE, RED), strict=True):
        for axis, key in zip(axes, ("dream_sum", "real"), strict=True):
            updates = [row["update"] for row in rows]
            axis.plot(updates, [row[key] for row in rows], color=colour, linewidth=2, label=f"dream {name}")
    axes[0].set(title="in the dream: sum of rewards", xlabel="updates of the agent")
    axes[1].set(title="in the real game: return", xlabel="updates of the agent", ylim=(-1.05, 1.05))
    axes[0].legend(frameon=False, fontsize=10)
    honest_last, (first, *_, last) = result["with ends"][-1], result["without ends"]
    numbers(demo,
        ("exploit_dream_first", first["dream_sum"], ".2f", "rewards of a dream without ends, at first"),
        ("exploit_dream_last", last["dream_sum"], ".2f", "at last"),
        ("exploit_real_first", first["real"], ".2f", "return of its agent in the real game, at first"),
        ("exploit_real_last", last["real"], ".2f", "at last"),
        ("honest_dream_last", honest_last["dream_sum"], ".2f", "rewards of a dream with ends, at last"),
        ("honest_real_last", honest_last["real"], ".2f", "return of its agent in the real game, at last"),
    )  # fmt: skip
    demo.figure("exploit", fig,
        alt=f"In a dream without ends rewards rise from {first['dream_sum']:.1f} to {last['dream_sum']:.1f}; in the real game its agent ends at "
        f"{last['real']:.2f}, the other at {honest_last['real']:.2f}.",
        caption="Where no dreamed game ends, the agent learns the dream and not the game. In such a dream the last frame stands still and pays for ever.",
    )  # fmt: skip


def ends(demo: Demo, world: World, agent: Any) -> None:
    """Take the end head away from the finished world, and count what it dreams after the end."""
    endless = evaluate.NeverEnds()
    endless.load_state_dict(world.outcome.state_dict())  # type: ignore[attr-defined]
    real = collect(64, None, seed=6, generator=seeded())
    begin = lambda n: (real.frames[:n, :LENGTH], real.actions[:n, : LENGTH - 1])  # noqa: E731
    options: dict[str, Any] = {"n_dreams": 64, "horizon": N_STEPS + 6, "sigmas": karras_sigmas(3)}
    dreamt = imagine(World(world.denoiser, endless), agent, begin, **options, generator=seeded())
    empty = dreamt.histories[N_STEPS + 1 :, :, -1, 1:-1, 1:-1].amax(dim=(2, 3)) < 0.75
    numbers(demo,
        ("after_empty", empty, ".1%", "frames without a ball, dreamed after the end"),
        ("after_rewards", dreamt.rewards[N_STEPS:] != 0, ".2%", "steps after the end that have a reward"),
    )  # fmt: skip


def constants(demo: Demo, world: World, agent: Any) -> None:
    """Print what the offset changes at the lowest noise level, and how large the networks are."""
    low = torch.tensor(0.002, dtype=torch.float64)
    _, c_skip, c_out, _ = preconditioning(low)
    plain = 0.25 / (low**2 + 0.25)
    networks: dict[str, Any] = {"denoiser": world.denoiser, "outcome": world.outcome, "agent": agent}
    numbers(demo,
        ("c_skip_offset", c_skip, ".4f", "c_skip at σ = 0.002, with the offset noise"),
        ("c_out_offset", c_out, ".4f", "c_out there"),
        ("c_skip_plain", plain, ".5f", "c_skip at σ = 0.002, without it"),
        ("c_out_plain", low * plain.sqrt(), ".4f", "c_out there"),
        *((f"parameters_{k}", n_parameters(v), ",.0f", f"parameters: {k}") for k, v in networks.items()),
    )  # fmt: skip


def main() -> None:
    """Run all parts."""
    plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "font.size": 11})
    torch.set_num_threads(1)
    demo = Demo(__file__)
    catch, agent = load_weights(HERE / "weights" / "catch.safetensors")
    windy, _ = load_weights(HERE / "weights" / "gust.safetensors")
    for world in (catch, windy):
        world.denoiser.to(memory_format=torch.channels_last)  # type: ignore[attr-defined]
    players(demo)
    dream(demo, catch)
    actions(demo, catch)
    gust(demo, windy)
    steps(demo, windy)
    exploit(demo)
    ends(demo, catch, agent)
    constants(demo, catch, agent)
    export.write()  # build/dream.json: the weights, for the tour's page
    demo.finish()


if __name__ == "__main__":
    main()
