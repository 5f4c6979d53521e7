"""What a transformer says of a game, token by token: how good it is, how to draw from it, how to steer it.

The agent and its controls; two steps as tokens; accuracy beside a copy; one past under three actions, and its many futures; guidance;
the diffusion decoder; tokens beside diffusion. Nothing is trained: all comes from the committed weights and results.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from torch import Generator, Tensor, nn

import evaluate
from decoder import Decoder, paint
from game import Catch
from players import AGENT, load_result, picture
from token_world_model import TokenWorld, interleave
from tokenizer import Tokenizer
from train import CALM, GUST, WINDY, Replay, collect, encode, load_coarse, load_weights
from truth import alike, crisp, next_column, play_on, read
from world import PLAIN, Sampling

sys.path.append(str(Path(__file__).resolve().parents[2]))  # the repository root, for shared/
from shared.measuring.demo import Demo

HERE = Path(__file__).resolve().parent
WEIGHTS, SIBLING = HERE / "weights", HERE.parent / "diffusion_world_model" / "results"
BLUE, RED, GREY = "#0072b2", "#d55e00", "#7f7f7f"  # Okabe and Ito
TEXTS, ACTIONS = {"calm": CALM, "windy": WINDY}, ("left", "stay", "right")
N, BEST = 256, Sampling(temperature=0)
PERCENT = {"yticks": [0, 0.5, 1], "yticklabels": ["0", "50 %", "100 %"]}


def seeded(seed: int = 0) -> Generator:
    """Return a generator."""
    return Generator().manual_seed(seed)


def numbers(demo: Demo, *rows: tuple[str, Tensor | float, str, str]) -> None:
    """Keep numbers: key, value or a tensor whose mean it is, format, label."""
    for key, value, fmt, label in rows:
        demo.number(key, torch.as_tensor(value, dtype=torch.float64).mean().item(), fmt, label)


def show(axis: Any, picture: Tensor, title: str = "", *, most: float = 1) -> None:
    """Draw a frame or, with `most` = 2, a difference of two: red is more, blue less."""
    colours = "gray" if most == 1 else "RdBu_r"
    axis.imshow(picture.numpy(), cmap=colours, vmin=-most, vmax=most, interpolation="nearest")
    axis.set(xticks=[], yticks=[], title=title)
    axis.spines[:].set(visible=True, color="#bbbbbb", linewidth=0.5)


def players(demo: Demo) -> None:
    """Show the committed result of evaluate.py, with the rules played anew."""
    result, known = load_result(evaluate.RESULT), evaluate.rules()
    returns = {name: [run["return"] for run in runs] for name, runs in result.items()}
    seconds = {name: statistics.median(run["cpu_seconds"] for run in runs) for name, runs in result.items()}
    ours, free = returns[AGENT], max(returns["model-free"])
    dreams = max(max(values) for name, values in returns.items() if name not in (AGENT, "model-free"))
    numbers(demo,
        *((f"agent_{i}", x, ".2f", f"return in the real game of the agent, seed {i}") for i, x in enumerate(ours)),
        ("agent_least", min(ours), ".2f", f"the least seed of the agent (wanted: {evaluate.TARGET})"),
        ("control_dreams", dreams, ".2f", "the best seed of all controls that dream"),
        ("control_free", free, ".2f", "the best seed without a dream"),
        ("real_steps", result[AGENT][0]["real_steps"], ",.0f", "real steps of each run"),
        ("cpu_seconds", seconds[AGENT], ".0f", "CPU seconds of a run of the agent, median"),
    )  # fmt: skip
    rows = [[name, "0", "0", *[f"{value:.2f}"] * 3] for name, value in known.items()]
    for name, (run, *_) in result.items():
        cells = [f"{value:.2f}" for value in returns[name]]
        rows.append([name, f"{run['real_steps']:,.0f}", f"{seconds[name]:.0f}", *cells])
    demo.table("players", ["player", "real steps", "CPU seconds", *(f"seed {i}" for i in range(3))], rows,
        caption="Mean return of 1,000 real games. The first three learn nothing; a control lacks one thing.",
    )  # fmt: skip
    demo.figure("players", picture(result, known, evaluate.TARGET),
        alt="A dot per seed. The agent is near the optimum, controls that dream near random play, those without a dream between.",
        caption=f"The agent gets {min(ours):.2f} to {max(ours):.2f}, controls that dream {dreams:.2f} at most; without a dream, as many real steps "
        f"give up to {free:.2f}. Dashed: players that learn nothing; green: the {evaluate.TARGET} that was wanted.",
    )  # fmt: skip


def sequence(demo: Demo, tokenizer: Tokenizer, world: TokenWorld) -> None:
    """Show the last two steps of a game: frames, their tokens, and the sequence; what the world says at each action."""
    real = collect(N, None, seed=3, generator=seeded())
    images = encode(tokenizer, real.frames)
    output, _ = world(interleave(real.text, images, real.actions, world.vocabulary))
    reward, end = (head[:, 10::11].softmax(dim=2) for head in (output.reward, output.end))  # at the actions
    said, true = reward[:, -1].argmax(dim=1) - 1 == real.rewards[:, -1], real.rewards.int()
    changed = images[:, 1:] != images[:, :-1]
    numbers(demo,
        ("n_changed", changed.double().sum(dim=2), ".1f", "tokens of nine that change in a step, mean"),
        ("reward_right", said, ".0%", "last rewards right, read at the action, calm games"),
        ("end_right", end.argmax(dim=2) == real.ends, ".1%", "ends right, all steps"),
    )  # fmt: skip
    fits = said & (true[:, -1] == 1) & (real.actions[:, 7] != 1) & (changed[:, 7].sum(dim=1) >= 2)
    game = int(fits.nonzero()[0])
    fig = plt.figure(figsize=(7.6, 5.4))
    grid = fig.add_gridspec(3, 4, height_ratios=[2.1, 1, 1], hspace=0.28, wspace=0.12)
    for i, t in enumerate((7, 8)):
        tokens, marked = images[game, t], (changed[game, 7] & (t == 8)).tolist()
        show(axis := fig.add_subplot(grid[0, 2 * i]), real.frames[game, t], f"frame {t + 1}")
        square(axis, fig.add_subplot(grid[0, 2 * i + 1]), tokens, marked)
        r, words = int(true[game, t]), ["calm", *map(str, tokens.tolist()), ACTIONS[real.actions[game, t]]]
        odds = f"reward {r}: {reward[game, t, r + 1]:.0%}\n{('goes on', 'ends')[i]}: {end[game, t, i]:.0%}"
        strip(fig.add_subplot(grid[1 + i, :]), words, [False, *marked, False], odds)
    demo.figure("sequence", fig,
        alt="Two frames, nine integers each. Below, a row per step: text, nine integers, action.",
        caption=f"Frames come token by token. Of nine, {changed.double().sum(dim=2).mean():.1f} change (red). At the text and the first eight tokens the world "
        "says the next one; at the action reward and end, here with the probability of the true ones. "
        f"The last reward is right in {said.double().mean():.0%} of calm games.",
    )  # fmt: skip


def square(frame: Any, axis: Any, tokens: Tensor, marked: list[bool]) -> None:
    """Draw the lines between the places of a frame, and its tokens beside it."""
    for draw in (frame.axhline, frame.axvline):
        for edge in (3.5, 7.5):
            draw(edge, color=BLUE, linewidth=1.2)
    axis.set(xlim=(0, 3), ylim=(3, 0), aspect="equal", title="its tokens")
    axis.axis("off")
    for i, (token, mark) in enumerate(zip(tokens.tolist(), marked, strict=True)):
        cell(axis, i % 3, i // 3, str(token), "#dbe9f4", mark)


def cell(axis: Any, x: float, y: float, word: str, colour: str, mark: bool) -> None:
    """Draw a word in a box of size 1."""
    box = [x + 0.05, x + 0.95, x + 0.95, x + 0.05], [y + 0.05, y + 0.05, y + 0.95, y + 0.95]
    axis.fill(*box, fc=colour, ec=RED if mark else "white", linewidth=2.5)
    axis.text(x + 0.5, y + 0.52, word, ha="center", va="center", fontsize=12, color=RED if mark else "black")


def strip(axis: Any, words: list[str], marked: list[bool], said: str) -> None:
    """Draw the tokens of a step in their order, and below where what is read."""
    colours = ["#cfe8df", *["#dbe9f4"] * 9, "#f6dcc8"]
    axis.set(xlim=(0, 11.9), ylim=(2.2, -0.1))
    axis.axis("off")
    for x, (word, colour, mark) in enumerate(zip(words, colours, marked, strict=True)):
        cell(axis, 1.08 * x, 0, word, colour, mark)
    axis.plot([0.1, 0.1, 9.65, 9.65], [1.08, 1.2, 1.2, 1.08], color=GREY, linewidth=1)
    axis.text(4.9, 1.3, "here the next image token is read", ha="center", va="top", color=GREY)
    axis.text(11.8, 1.3, said, ha="right", va="top", color=GREY)


def accuracy(demo: Demo, tokenizer: Tokenizer, world: TokenWorld) -> None:
    """Measure tokens, changed tokens and frames beside the copy, and dreams of several steps beside the game."""
    measured, bars = {}, {}
    for name, text in TEXTS.items():
        real = collect(N, None, text=text, seed=1, generator=seeded())
        images = encode(tokenizer, real.frames)
        now = measured[name] = evaluate.accuracy(world, real.text, images, real.actions)
        still = (images[:, 1:] == images[:, :-1]).all(dim=-1)
        pasts = [real.frames[:, : t + 1] for t in range(9)]
        best = torch.stack([next_column(past, GUST * (text == WINDY)).amax(dim=1) for past in pasts])
        bars[f"copy, {name}"], bars[name] = (now.copied, 0.0, still.float().mean().item()), now[:3]
        start, said = ("", "calm games") if text == CALM else ("windy_", "windy games")
        numbers(demo,
            (f"{start}tokens_right", now.tokens, ".1%", f"{said}: tokens right, the true past known"),
            (f"{start}tokens_copied", now.copied, ".1%", "the same of the last image, copied"),
            (f"{start}tokens_changed", now.changed, ".1%", "tokens right of those that changed (a copy: none)"),
            (f"{start}frames_right", now.frames, ".1%", "frames right, all nine tokens"),
            (f"{start}frames_best", best, ".1%", "the most that can be known: the likeliest column of the ball"),
            (f"{start}perplexity_most", max(now.perplexity), ".2f", "perplexity of the least certain place"),
        )  # fmt: skip
    draw_accuracy(demo, measured, bars, compounding(demo, tokenizer, world))


def compounding(demo: Demo, tokenizer: Tokenizer, world: TokenWorld) -> list[float]:
    """Dream six steps from three real frames of calm games; return the shares of frames right."""
    real = collect(N, None, seed=1, generator=seeded())
    own = alike(tokenizer.decode(encode(tokenizer, real.frames)), real.frames)
    tokens = evaluate.dream_beside(world, tokenizer, real, first=3, n_steps=6, generator=seeded(1))
    shares = alike(tokenizer.decode(tokens), real.frames[:, 3:9]).double().mean(dim=0).tolist()
    for i, share in enumerate(shares, start=1):
        demo.number(f"right_{i}", share, ".1%", f"frames right after {i} dreamed steps, direction known")
    numbers(demo, ("tokenizer_right", own, ".1%", "frames right that the tokenizer wrote and read"))
    return shares


def draw_accuracy(demo: Demo, measured: dict[str, Any], bars: dict[str, Any], dreamt: list[float]) -> None:
    """Draw bars, two maps of perplexity, and the curve of the dreams."""
    fig = plt.figure(figsize=(7.6, 6.2), layout="constrained")
    grid = fig.add_gridspec(2, 3, width_ratios=[1, 1, 1.35])
    axis = fig.add_subplot(grid[0, :])
    for i, (name, values) in enumerate(bars.items()):
        colour = ("#a9c9e0", BLUE, "#f0bd9a", RED)[i]
        boxes = axis.bar([x + 0.2 * (i - 1.5) for x in range(3)], values, 0.18, color=colour, label=name)
        axis.bar_label(boxes, [f"{value:.0%}" for value in values], fontsize=10, padding=1)
    axis.set_xticks(range(3), ["all tokens", "tokens that changed", "whole frames"])
    axis.set(ylim=(0, 1.12), title="right, the true past known", **PERCENT)
    axis.legend(frameon=False, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.12), columnspacing=1)
    for i, (name, now) in enumerate(measured.items()):
        axis = fig.add_subplot(grid[1, i], title=f"perplexity, {name}")
        axis.imshow([now.perplexity[row : row + 3] for row in (0, 3, 6)], cmap="Oranges", vmin=1, vmax=1.8)
        axis.axis("off")
        for place, value in enumerate(now.perplexity):
            axis.text(place % 3, place // 3, f"{value:.2f}", ha="center", va="center", fontsize=12)
    axis = fig.add_subplot(grid[1, 2], title="frames right in a dream", xlabel="dreamed steps")
    axis.plot(range(1, 7), dreamt, "o-", color=BLUE)
    axis.set(ylim=(0, 1.12), xticks=range(1, 7), **PERCENT)
    calm, windy = measured["calm"], measured["windy"]
    demo.figure("accuracy", fig,
        alt="Bars: a copy gets no changed token and no frame. Perplexity is near 1, higher in the wind. The dream's curve falls slowly.",
        caption=f"A copy has {calm.copied:.0%} of all tokens, but none that changed; the world {calm.changed:.0%} of these. The wind cannot be "
        f"foreseen: perplexity up to {max(windy.perplexity):.2f} in a place. Errors add up: {dreamt[0]:.0%} of dreamed frames are right after one "
        f"step, {dreamt[-1]:.0%} after six.",
    )  # fmt: skip


def actions(demo: Demo, tokenizer: Tokenizer, world: TokenWorld) -> None:
    """Dream one step on from the same past under each action, with the most probable tokens."""
    real = collect(N, None, seed=2, generator=seeded())
    last, direction = real.frames[:, 3], read(real.frames[:, 4])[1] - read(real.frames[:, 3])[1]
    dreamt = []
    for action, name in enumerate(ACTIONS):
        under = real._replace(actions=torch.cat([real.actions[:, :3], torch.full((N, 1), action)], dim=1))
        tokens = evaluate.dream_beside(world, tokenizer, under, first=4, n_steps=1, sampling=BEST)
        dreamt.append(tokenizer.decode(tokens[:, 0]))
        right = alike(dreamt[-1], play_on(last, direction, under.actions[:, 3:])[:, 0])
        numbers(demo, (f"actions_right_{name}", right, ".1%", f"next frames right under “{name}”"))
    elsewhere = ~torch.stack([alike(frame[:, :10], dreamt[1][:, :10]) for frame in dreamt[::2]])
    numbers(demo, ("actions_elsewhere", elsewhere, ".1%", "of these not as “stay” above the paddle's row"))
    game = int(((read(last)[2] - 4).abs() < 2).nonzero()[0])  # a paddle with room on both sides
    fig, axes = plt.subplots(2, 4, figsize=(7, 3.9), layout="constrained")
    show(axes[0, 0], last[game], "the last frame")
    axes[1, 0].axis("off")
    axes[1, 0].text(1, 0.5, "minus the frame\nunder “stay”", ha="right", va="center")
    for column, name, frame in zip(axes.T[1:], ACTIONS, dreamt, strict=True):
        show(column[0], frame[game], name)
        show(column[1], (frame - dreamt[1])[game], most=2)
    demo.figure("actions", fig,
        alt="A frame, and the next one under left, stay and right. The ball falls alike; the paddle goes left, stays, goes right.",
        caption=f"One past, three actions: the paddle obeys, and above its row {1 - elsewhere.double().mean():.1%} of frames are alike. A copy would not move.",
    )  # fmt: skip


def true_paths(history: Tensor, n_steps: int, *, seed: int = 0) -> Tensor:
    """Draw the ball's columns (B, n_steps) after windy pasts (B, L, 12, 12) as the game does, as far as they can be known."""
    generator, paths = seeded(seed), []
    for _ in range(n_steps):
        row, _, paddle = read(history[:, -1])
        paths.append(torch.multinomial(next_column(history, GUST), 1, generator=generator)[:, 0])
        game = Catch(len(history))
        game.row, game.column, game.paddle = (row + 1).numpy(), paths[-1].numpy(), paddle.numpy()
        history = torch.cat([history, torch.tensor(game.frames())[:, None]], dim=1)
    return torch.stack(paths, dim=1)


def futures(demo: Demo, tokenizer: Tokenizer, world: TokenWorld) -> None:
    """Count the paths of the ball in 100 dreams of one windy past, for several ways to draw a token."""
    ways = {"argmax": BEST, "2": Sampling(k=2), "3": Sampling(k=3), "10": Sampling(k=10), "all": PLAIN}
    real = collect(4, None, text=WINDY, seed=0, generator=seeded())  # the pasts of evaluate.futures
    many, first = (Replay(*(x[:n].repeat_interleave(100, dim=0) for x in real)) for n in (4, 1))
    game = true_paths(many.frames[:, :4], 5)
    seen = nn.functional.one_hot(game[:, 0], 10).float().unflatten(0, (4, 100)).mean(dim=1)
    far = (seen - next_column(real.frames[:, :4], GUST)).abs().sum(dim=1).mean().item() / 2
    counts = {"game": (statistics.mean(len(paths.unique(dim=0)) for paths in game.split(100)), far)}
    paths = {}
    for name, way in ways.items():
        counts[name] = evaluate.futures(world, tokenizer, sampling=way, n_histories=4)
        tokens = evaluate.dream_beside(world, tokenizer, first, first=4, n_steps=5, sampling=way, generator=seeded(1))  # fmt: skip
        paths[name] = torch.stack([read(frame)[1] for frame in tokenizer.decode(tokens).unbind(1)], dim=1)
    for name, (n, far) in counts.items():
        numbers(demo,
            (f"paths_{name}", n, ".0f", f"paths of the ball in 100 futures of a windy past: {name}"),
            (f"far_{name}", far, ".2f", "total variation of its next column from the truth"),
        )  # fmt: skip
    means = {name: f"{n:.0f}" for name, (n, _) in counts.items()}
    draw_futures(demo, read(real.frames[0, :4])[1], paths | {"game": game[:100]}, means)


def draw_futures(demo: Demo, before: Tensor, paths: dict[str, Tensor], means: dict[str, str]) -> None:
    """Draw 100 paths of the ball from one past, for each way."""
    fig, axes = plt.subplots(2, 3, figsize=(7, 5.2), layout="constrained", sharex=True, sharey=True)
    jitter = 0.25 * (torch.rand(100, 1, generator=seeded()) - 0.5)
    titles = ("most probable", "top-2", "top-3", "top-10", "all codes", "the game")
    for axis, title, columns in zip(axes.flat, titles, paths.values(), strict=True):
        full = torch.cat([before[-1:].expand(100, 1), columns], dim=1) + jitter
        axis.plot(full.T.numpy(), range(3, 9), color=RED, alpha=0.2, linewidth=1)
        axis.plot(before.numpy(), range(4), "o-", color=BLUE, markersize=4)
        axis.set(title=title, xlim=(-0.5, 9.5), ylim=(8.4, -0.4), xticks=[0, 9], yticks=[0, 3, 8])
        n = len(columns.unique(dim=0))
        axis.text(9.4, 8.2, f"{n} path{'s' * (n > 1)}", ha="right", va="bottom", color=GREY)
    fig.supxlabel("the ball's column", fontsize=11)
    fig.supylabel("step", fontsize=11)
    demo.figure("futures", fig,
        alt="Paths of the ball. Most probable token: a single line; more codes: bundles, as in the game.",
        caption=f"A windy past (blue), dreamed on 100 times. Paths of the ball: {means['argmax']} with the most probable token, {means['2']} with "
        f"top-2, {means['3']} with top-3, {means['all']} with all codes, {means['game']} in the game (means of four pasts).",
    )  # fmt: skip


def guidance(demo: Demo, tokenizer: Tokenizer, world: TokenWorld) -> None:
    """Count gusts under both texts, for several strengths of guidance, beside a perfect world."""
    strengths, shares = (0, 0.5, 1, 2, 4), {}
    for name, text in TEXTS.items():
        ways = [Sampling(guidance=g) for g in strengths]
        shares[name] = [evaluate.gusts(world, tokenizer, text=text, sampling=way, n=300) for way in ways]
    calm, windy = shares.values()
    for key, g, *found in zip(("0", "0_5", "1", "2", "4"), strengths, windy, calm, strict=True):
        numbers(demo,
            (f"gusts_{key}", found[0], ".0%", f"share of gusts, told “windy”, guidance {g}"),
            (f"gusts_{key}_perfect", evaluate.guided_gusts(g), ".0%", "the same of a perfect world"),
            (f"gusts_{key}_calm", found[1], ".0%", "told “calm”"),
        )  # fmt: skip
    fig, axis = plt.subplots(figsize=(7, 3.6), layout="constrained")
    axis.axhline(GUST, color=GREY, linewidth=1, linestyle=":")
    axis.text(2.9, GUST - 0.02, "the windy game", color=GREY, ha="right", va="top")
    fine = torch.linspace(0, 4, 101).tolist()
    axis.plot(fine, [*map(evaluate.guided_gusts, fine)], "--", color=GREY, label="“windy”, a perfect world")
    for (name, values), colour in zip(shares.items(), (BLUE, RED), strict=True):
        axis.plot(strengths, values, "o-", color=colour, label=f"“{name}”, ours")
    axis.set(xlabel="guidance", xticks=strengths, title="share of gusts in the next frame", ylim=(-0.03, 1.05), **PERCENT)  # fmt: skip
    axis.legend(frameon=False, loc="upper left")
    demo.figure("guidance", fig,
        alt="Told windy, the share of gusts rises with guidance; a perfect world's rises faster.",
        caption=f"Gusts after three calm steps: {windy[0]:.0%} without the text, {windy[2]:.0%} with “windy” (the game: "
        f"{GUST:.0%}), {windy[4]:.0%} at guidance 4. “Calm”: {calm[2]:.0%} at 1, {calm[4]:.0%} at 4. Dashed: the formula in a perfect world.",
    )  # fmt: skip


def decoder(demo: Demo, tokenizer: Tokenizer, painter: Decoder) -> None:
    """Write and read frames by 8 codes; paint them by diffusion in 1, 5 and 10 steps."""
    real = collect(60, None, seed=4, generator=seeded()).frames.flatten(0, 1)
    means, shares = tokenizer.decode(tokenizer.encode(real)), {}
    for n in (0, 1, 5, 10):
        frames = paint(painter, means, n_steps=n, generator=seeded()) if n else means
        shares[n] = [x.double().mean().item() for x in (alike(frames, real), crisp(frames))]
        key, said = (f"painted_{n}", f"diffusion, steps: {n}") if n else ("coarse", "the tokenizer's decoder")
        numbers(demo,
            (f"{key}_right", shares[n][0], ".0%", f"frames right from 8 codes, {said}"),
            (f"{key}_crisp", shares[n][1], ".0%", "frames crisp: the game could show them"),
        )  # fmt: skip
    blurred = (~crisp(means)).nonzero()[[0, 25, 50, 75], 0]
    draws = [paint(painter, means[blurred], generator=seeded(i)) for i in range(3)]
    fig, axes = plt.subplots(4, 5, figsize=(6.6, 5.6), layout="constrained")
    for column, frames in zip(axes.T, (real[blurred], means[blurred], *draws), strict=True):
        for axis, frame in zip(column, frames, strict=True):
            show(axis, frame)
    for axis, title in zip(axes[0], ("real", "tokenizer", "painted", "again", "again"), strict=True):
        axis.set_title(title)
    demo.figure("decoder", fig,
        alt="Four frames: real, decoded and blurred, painted three times: sharp, not alike.",
        caption=f"From 8 codes the tokenizer's decoder paints means: {shares[0][1]:.0%} of its frames are crisp. The diffusion decoder draws "
        f"one of the possible frames: {shares[10][1]:.0%} are crisp, {shares[10][0]:.0%} the right one ({shares[0][0]:.0%} before).",
    )  # fmt: skip


def worlds(demo: Demo, tokenizer: Tokenizer, world: TokenWorld) -> None:
    """Put both kinds of world model into one table; frames a second are what benchmark.py measured."""
    sizes = [sum(x.numel() for x in network.state_dict().values()) for network in (tokenizer, world)]
    numbers(demo,
        ("parameters", sum(sizes), ",.0f", "numbers learned: tokenizer and transformer"),
        ("calls_tokens", world.vocabulary.n_image + 2, ".0f", "calls of networks per frame, token world"),
        ("calls_diffusion", 3 + 1, ".0f", "the same, diffusion world"),
    )  # fmt: skip
    theirs = json.loads((SIBLING / "demo.json").read_bytes())["numbers"]
    size = theirs["parameters_denoiser"]["value"] + theirs["parameters_outcome"]["value"]
    runs = [load_result(path)[AGENT] for path in (evaluate.RESULT, SIBLING / "evaluation.csv")]
    files = [json.loads(path.read_bytes()) for path in sorted((HERE / "results").glob("*.json"))]
    measured = [row for file in files for row in file.get("rows", [])]
    speeds = [(row["case"], row["columns"]) for row in measured if row["group"] == "frames a second"]
    rows = [
        ["parameters of the world", f"{sum(sizes):,}", f"{size:,.0f}"],
        ["real steps", *(f"{rows[0]['real_steps']:,.0f}" for rows in runs)],
        ["CPU seconds of a run, median", *(f"{statistics.median(r['cpu_seconds'] for r in rows):.0f}" for rows in runs)],
        ["return of each seed", *(", ".join(f"{r['return']:.2f}" for r in rows) for rows in runs)],
        ["calls of networks per frame", "text and action, 9 tokens, decoder: 11", "3 steps, reward and end: 4"],
        *([f"frames a second, {case}", speed["tokens"], speed["diffusion"]] for case, speed in speeds),
    ]  # fmt: skip
    demo.table("worlds", ["", "tokens", "diffusion"], rows, caption="Two worlds of one game; the first has seen windy games as well.")  # fmt: skip


def main() -> None:
    """Run all parts."""
    plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "font.size": 11, "axes.titlesize": 11})  # fmt: skip
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    demo = Demo(__file__)
    tokenizer, world, _ = load_weights(WEIGHTS / "catch.safetensors")
    players(demo)
    for part in (sequence, accuracy, actions, futures, guidance):
        part(demo, tokenizer, world)
    decoder(demo, *load_coarse(WEIGHTS / "coarse.safetensors"))
    worlds(demo, tokenizer, world)
    demo.finish()


if __name__ == "__main__":
    main()
