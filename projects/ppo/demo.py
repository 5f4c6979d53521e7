"""What proximal policy optimization does, and what a learning curve does not tell about it.

1. CartPole-v1: the learning curves of three seeds.
2. The same with four single faults of the catalogue: which of them would you have noticed?
3. The four quadrants of the clipped objective, and its gradient.
4. A time limit that is treated as an end: what it does to a value.
5. GAE's λ: bias against variance, on a chain whose true value is known.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
import torch
from torch import Generator, Tensor

import ppo
from curves import learning_curve, make_environment, make_environments, on_grid
from rollout import Rollout, Settings

sys.path.append(str(Path(__file__).resolve().parents[2]))  # the repository root, for shared/
from shared.measuring.demo import Demo
from shared.projects import load_project
from shared.testing.mistakes import load_mistakes

HERE = Path(__file__).resolve().parent
BLUE, ORANGE, GREEN, RED, GREY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#7f7f7f"  # Okabe and Ito
SEEDS, TARGET, GAMMA = (0, 1, 2), 475, 0.99
STEPS_OF_AN_UPDATE, FAULT_UPDATES = 8 * Settings().n_steps, 25
Records = list[dict[str, float]]
Numbers = npt.NDArray[np.float64]

FAULTS = {  # of tests/mistakes.toml: what each of them is called here
    "collect_action_one_step_late": "actions stored one step late",
    "loss_max_for_min": "max for min",
    "gae_done_shifted_by_one": "done shifted by one",
    "gae_truncation_is_termination": "a time limit is an end",
}


def smooth(records: Records, width: int = 3) -> tuple[Numbers, Numbers]:
    """Return the steps, and the mean return of the last `width` rollouts."""
    steps = np.array([record["step"] for record in records])
    returns = on_grid(records, steps)
    return steps, np.array([np.nanmean(returns[max(0, i - width + 1) : i + 1]) for i in range(len(returns))])


# --- 1: three seeds -----------------------------------------------------------------------------------------------


def learn(demo: Demo) -> None:
    """Train for 150,000 steps with three seeds; draw the curves, and what the greedy policy reaches at their ends."""
    n_updates = 150_000 // STEPS_OF_AN_UPDATE
    fig, axis = plt.subplots(figsize=(8, 3.6), layout="constrained")
    greedy, seconds, upright = [], [], []
    for seed, colour in zip(SEEDS, (BLUE, ORANGE, GREEN), strict=True):
        start = time.perf_counter()
        network, records = learning_curve("CartPole-v1", seed, n_updates)
        seconds.append(time.perf_counter() - start)
        greedy.append(greedy_return(network, 20))
        upright.append(network.value(torch.zeros(1, 4)).item())
        demo.number(f"greedy_{seed}", greedy[-1], ".1f", f"greedy return of 20 episodes, seed {seed}")
        steps = [record["step"] for record in records]
        axis.plot(steps, on_grid(records, steps), color=colour, linewidth=0.7, alpha=0.45)
        axis.plot(*smooth(records), color=colour, linewidth=2, label=f"seed {seed}")
        axis.plot(steps[-1] + 2000 * (seed + 1), greedy[-1], "*", color=colour, markersize=12, clip_on=False)
    axis.axhline(TARGET, color=GREY, linestyle="--", linewidth=1)
    axis.text(1000, TARGET + 6, f"{TARGET}: solved", color=GREY, fontsize=9)
    axis.set(xlabel="steps of all eight environments", ylabel="return of an episode")
    axis.set(xlim=(0, 160_000), ylim=(0, 520))
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.legend(frameon=False, loc="lower right")
    demo.number("greedy_least", min(greedy), ".1f", "the least of the three; 500 is the most there is")
    demo.number("steps", n_updates * STEPS_OF_AN_UPDATE, ",.0f", "steps of each run")
    demo.number("seconds", float(np.median(seconds)), ".1f", "seconds of a run on one core")
    demo.number("value_upright", float(np.median(upright)), ".0f", "V of the upright pole after a run")
    demo.number("value_most", 1 / (1 - GAMMA), ".0f", "the most that V can be: 1/(1 - γ)")
    demo.figure(
        "learning_curves",
        fig,
        alt="Return of an episode over the number of steps, three seeds: all rise to 500 within 60,000 steps, each by another way, "
        "and stay there. A star at the end of each is the return of its greedy policy.",
        caption="One code and three seeds: what differs here is luck alone. CartPole-v1. Thin: the "
        "mean of one rollout's episodes; thick: of three rollouts; stars: the greedy policy "
        "at the end.",
    )


# --- 2: four faults -----------------------------------------------------------------------------------------------


def planted(fault: str) -> ModuleType:
    """Return ppo.py with one mistake of the catalogue in it."""
    mistake = load_mistakes(load_project(HERE))[fault]
    module = ModuleType(fault)
    exec(mistake.apply((HERE / "ppo.py").read_text(encoding="utf-8")), module.__dict__)
    return module


def run(core: Any, seed: int, n_updates: int) -> tuple[Any, Records]:
    """Train CartPole with ppo.py or a wrong version of it; return the network and the records."""

    def watched(network: Any, optimizer: Any, rollout: Rollout, *rest: Any, **options: Any) -> Any:
        # How much V knows of what came: 1 is all, 0 no more than a constant would.
        advantages = core.gae(rollout)
        explained = 1 - advantages.var() / (advantages + rollout.values).var()
        record = core.update(network, optimizer, rollout, *rest, **options)
        return record | {"explained": explained.item()}

    network = core.ActorCritic(4, 2, generator=Generator().manual_seed(seed))
    environments = make_environments("CartPole-v1")
    records = core.train(network, environments, n_updates, Settings(), seed=seed, improve=watched)
    return network, records


def greedy_return(network: Any, n_episodes: int) -> float:
    """Return the mean return of that many episodes of CartPole, always the same ones."""
    environment = make_environment("CartPole-v1")
    return ppo.evaluate(network, environment, n_episodes=n_episodes, seed=1000).mean().item()


def span(values: Sequence[float], fmt: str) -> str:
    """Return the mean of the seeds, with the least and the most of them."""
    return f"{np.mean(values):{fmt}} ({min(values):{fmt}}–{max(values):{fmt}})"


def apart(ours: Mapping[str, list[float]], right: Mapping[str, list[float]]) -> str:
    """Name the measures in which all seeds lie on one side of all seeds of the right code."""
    found = []
    for name in ("return", "KL"):
        if min(ours[name]) > max(right[name]):
            found.append(f"{name} (higher)")
        elif max(ours[name]) < min(right[name]):
            found.append(f"{name} (lower)")
    return ", ".join(found) or "nothing"


def plant_faults(demo: Demo) -> None:
    """Train with one fault at a time, three seeds each, and draw each beside the right code."""
    versions: dict[str, Any] = {"right": ppo, **{fault: planted(fault) for fault in FAULTS}}
    runs: dict[str, list[Records]] = {name: [] for name in versions}
    found: dict[str, dict[str, list[float]]] = {}
    with demo.progress("training with faults", total=len(versions) * len(SEEDS)) as advance:
        for name, core in versions.items():
            measures = found.setdefault(name, {"return": [], "greedy": [], "KL": [], "explained": []})
            for seed in SEEDS:
                network, records = run(core, seed, FAULT_UPDATES)
                runs[name].append(records)
                returns = on_grid(records, [record["step"] for record in records])
                measures["return"].append(float(np.nanmean(returns)))
                measures["greedy"].append(greedy_return(network, 10))
                measures["KL"].append(float(np.mean([record["kl"] for record in records])))
                measures["explained"].append(float(np.mean([r["explained"] for r in records[-5:]])))
                advance()
    report_faults(demo, found)
    draw_faults(demo, runs)


def report_faults(demo: Demo, found: Mapping[str, Mapping[str, list[float]]]) -> None:
    """Print what the seeds of each version reached."""
    steps, rows = f"{FAULT_UPDATES * STEPS_OF_AN_UPDATE:,}", []
    formats = {"return": ".0f", "greedy": ".0f", "KL": ".4f", "explained": "z.0%"}
    words = {"return": "mean return in training", "greedy": "greedy return after it", "KL": "KL of an update"}
    for name, label in {"right": "the right code", **FAULTS}.items():
        verdict = "" if name == "right" else apart(found[name], found["right"])
        rows.append([label, *(span(found[name][key], fmt) for key, fmt in formats.items()), verdict])
        for key, text in words.items():
            mean = float(np.mean(found[name][key]))
            demo.number(f"{name}_{key.lower()}", mean, formats[key], f"{text}, {label}")
    explained = float(np.mean(found["right"]["explained"]))
    demo.number("explained", explained, ".0%", "variance of the returns that the right code's V explains")
    columns = ["", "return in training", "greedy return", "KL of an update", "V explains", "sets it apart"]
    caption = (
        f"{steps} steps of CartPole-v1: mean of three seeds (least–most). V explains: of the variance of the returns, in the "
        "last five rollouts. The last column names what lies outside the range of the right code with all three seeds."
    )
    demo.table("faults", columns, rows, caption=caption)


def draw_faults(demo: Demo, runs: Mapping[str, list[Records]]) -> None:
    """Draw the curves of each fault over those of the right code."""
    fig, axes = plt.subplots(2, 2, figsize=(8, 5), layout="constrained", sharex=True, sharey=True)
    for axis, (name, label) in zip(axes.flat, FAULTS.items(), strict=True):
        for number, (right, wrong) in enumerate(zip(runs["right"], runs[name], strict=True)):
            axis.plot(*smooth(right), color=GREY, linewidth=1.2, label="" if number else "right code")
            axis.plot(*smooth(wrong), color=RED, linewidth=2, label="" if number else "with the fault")
        axis.set_title(label, fontsize=11)
        axis.xaxis.set_major_formatter("{x:,.0f}")
    axes[0, 0].set(ylim=(0, 520), xticks=[0, 20_000, 40_000])
    axes[0, 0].legend(frameon=False, fontsize=10, loc="upper left")
    fig.supxlabel("steps of all eight environments", fontsize=11)
    fig.supylabel("return of an episode", fontsize=11)
    demo.figure(
        "faults",
        fig,
        alt="Four panels, each with three grey curves of the right code and three red ones of a faulty version. With actions "
        "stored one step late, and with max for min, the red curves stay low. In the other two panels red and grey rise alike.",
        caption="A rising curve proves little: two of four faults learn CartPole as well as the right code "
        "does. Three seeds each (red), beside the right code (grey). The upper two faults show at "
        "once.",
    )


# --- 3: the clip --------------------------------------------------------------------------------------------------


def objective(ratio: Tensor, advantage: float, clip: float = 0.2) -> tuple[Tensor, Tensor]:
    """Return -clipped_loss of each ratio alone, and its derivative to the log-probability."""
    log_probs = ratio.log().requires_grad_()
    old, a = torch.zeros_like(ratio[:1]), torch.full_like(ratio[:1], advantage)
    each = torch.stack([-ppo.clipped_loss(log_prob[None], old, a, clip=clip) for log_prob in log_probs])
    (gradient,) = torch.autograd.grad(each.sum(), log_probs)
    return each.detach(), gradient


def draw_clip(demo: Demo) -> None:
    """Draw the objective of one sample and its gradient over the ratio, for a good and for a bad action."""
    ratio = torch.linspace(0.405, 1.595, 239, dtype=torch.float64)  # no point on an edge of the clip
    fig, axes = plt.subplots(2, 2, figsize=(8, 4.6), layout="constrained", sharex=True, sharey="row")
    for column, (advantage, title) in enumerate(((1.0, "A = +1: do it more"), (-1.0, "A = −1: do it less"))):
        values, gradient = objective(ratio, advantage)
        flat = gradient == 0
        gradient = gradient.masked_fill(flat.diff(prepend=flat[:1]), float("nan"))  # a jump is no slope
        for axis, curve in zip(axes[:, column], (values, gradient), strict=True):
            axis.plot(ratio, ratio * advantage, ":", color=GREY, linewidth=1.5, label="without the clip: ρA")
            axis.plot(ratio, curve, color=BLUE, linewidth=2.5, label="clipped")
            axis.axhline(0, color="black", linewidth=0.6)
            axis.axvline(1, color="black", linewidth=0.6)
            axis.axvspan(*((1.2, 1.6) if advantage > 0 else (0.4, 0.8)), color=ORANGE, alpha=0.2, linewidth=0)
        axes[0, column].set_title(title, fontsize=11)
        axes[1, column].set(xlabel="ρ = π_new(a|s)/π_old(a|s)", xlim=(0.4, 1.6))
        axes[1, column].set_xticks([0.5, 0.8, 1, 1.2, 1.5])
    axes[1, 0].text(1.4, 0.25, "far enough:\nno gradient", ha="center", fontsize=9)
    axes[1, 1].text(0.6, 0.25, "far enough:\nno gradient", ha="center", fontsize=9)
    axes[0, 0].set_ylabel("objective")
    axes[1, 0].set_ylabel("∂/∂ log π_new")
    axes[0, 0].legend(frameon=False, fontsize=9, loc="lower right")
    rows = []
    for advantage, place in itertools.product((1.0, -1.0), (0.5, 1.5)):
        values, gradient = objective(torch.tensor([place], dtype=torch.float64), advantage)
        rows.append([f"{advantage:+g}", f"{place:g}", f"{values.item():+.1f}", f"{gradient.item():+.1f}"])
    caption = "The four quadrants, ε = 0.2: the objective of one sample, and its gradient by autograd."
    demo.table("clip", ["A", "ρ", "objective", "∂ objective/∂ log π_new"], rows, caption=caption)
    demo.figure(
        "clip",
        fig,
        alt="Left, A = +1: the objective rises with ρ up to 1.2 and is flat beyond, where the gradient is zero. Right, A = -1: "
        "it is flat below 0.8, where the gradient is zero, and falls with ρ above. Dotted: without the clip.",
        caption="The objective is flat only where the policy has already gone far enough its way; "
        "from the wrong side the whole gradient leads back. One sample's objective (above) "
        "and gradient (below).",
    )


# --- 4: the time limit --------------------------------------------------------------------------------------------


def loop(value: float, limit: int, *, is_an_end: bool) -> Rollout:
    """Return an episode in a world of one state that pays 1 for each step, cut off after `limit` steps."""
    one, last = torch.ones(limit, 1, dtype=torch.float64), torch.arange(limit)[:, None] == limit - 1
    none = torch.zeros_like(last)
    ends = (last, none) if is_an_end else (none, last)
    return Rollout(one[..., None], none.long(), 0 * one, value * one, value * one, one, *ends)


def learned_value(limit: int, lam: float, *, is_an_end: bool) -> float:
    """Return the V that value_loss leaves where it is: gae's mean advantage is a line over V, and there it is 0."""
    at_0, at_1 = (
        ppo.gae(loop(value, limit, is_an_end=is_an_end), gamma=GAMMA, lam=lam).mean().item()
        for value in (0.0, 1.0)
    )
    return at_0 / (at_0 - at_1)


def fixed_point(limit: float | Numbers, lam: float) -> Any:
    """Return the V at which the mean advantage is 0, if the limit is taken for an end: a closed form."""
    g = GAMMA * lam
    last = (1 - g**limit) / (1 - g)  # how often the last δ = 1 - V is counted in the sum of all A
    others = (limit - last) / (1 - g)  # and each δ = 1 - (1 - γ)·V before it
    return (others + last) / (others * (1 - GAMMA) + last)


def limit_time(demo: Demo) -> None:
    """Compare what V learns with the time limit as a limit and as an end, over the steps left and over the limit."""
    true, limit, lam = 1 / (1 - GAMMA), 100, 0.95
    fig, (left, right) = plt.subplots(1, 2, figsize=(8, 3.5), layout="constrained", sharey=True)
    for is_an_end, colour, name in ((False, BLUE, "bootstrapped"), (True, RED, "treated as an end")):
        value = learned_value(limit, lam, is_an_end=is_an_end)
        targets = value + ppo.gae(loop(value, limit, is_an_end=is_an_end), gamma=GAMMA, lam=lam)[:, 0]
        left.plot(range(limit, 0, -1), targets, color=colour, linewidth=2, label=name)
        left.axhline(value, color=colour, linestyle="--", linewidth=1)
    left.text(limit - 2, value + 2, "V: their mean", color=RED, fontsize=9)
    left.set(xlabel="steps left", ylabel="value", xlim=(limit, 0), ylim=(0, 108))
    left.set_title(f"what V is told, limit {limit}")
    left.legend(frameon=False, fontsize=9, loc="lower left")
    limits = np.geomspace(10, 10_000, 100)
    points = [10, 30, 100, 300, 500, 1000, 3000]
    for lam_of, colour, style in ((0.0, GREEN, ":"), (lam, RED, "-")):
        exact, label = fixed_point(limits, lam_of), f"λ = {lam_of:g}"
        right.plot(limits, exact, style, color=colour, linewidth=2, label=label)
        learned = [learned_value(n, lam_of, is_an_end=True) for n in points]
        right.plot(points, learned, "o", color=colour, markersize=5)
    right.axhline(true, color=BLUE, linewidth=2)
    right.text(11, true - 7, "true value", color=BLUE, fontsize=9)
    right.set(xscale="log", xlabel="time limit", title="what V becomes")
    right.set_xticks([10, 100, 1000, 10_000], ["10", "100", "1,000", "10,000"])
    right.legend(frameon=False, fontsize=9, loc="lower right")
    demo.number("value_true", true, ".0f", "1 for ever at γ = 0.99: the true value")
    bootstrapped = learned_value(limit, lam, is_an_end=False)
    demo.number("value_bootstrapped", bootstrapped, ".1f", "V with a limit of 100 steps, bootstrapped")
    for n, key in ((limit, "value_wrong"), (500, "value_wrong_500")):
        label = f"V with a limit of {n} steps that is treated as an end, λ = 0.95"
        demo.number(key, learned_value(n, lam, is_an_end=True), ".1f", label)
        demo.number(f"{key}_exact", fixed_point(n, lam), ".1f", "the same in closed form")
    demo.figure(
        "time_limit",
        fig,
        alt="Left: over the steps left, the bootstrapped targets are 100 throughout; those with the limit as an end fall towards "
        "1 at the last step, and V is their mean. Right: this V over the time limit, far below 100 for short limits.",
        caption="A limit that is treated as an end pulls the value of every step down. A world of "
        "one state that pays 1 for ever, cut off by a limit; V cannot see the clock. Points "
        "are computed with gae, lines are the closed form.",
    )


# --- 5: λ ---------------------------------------------------------------------------------------------------------


def trade(demo: Demo) -> None:
    """Estimate values of a chain with noisy rewards from a V that is wrong, by λ: bias, deviation, both."""
    T, N, sd, wrong = 600, 500, 1.0, 5.0
    generator = Generator().manual_seed(0)
    left = torch.arange(T, -1, -1, dtype=torch.float64)[:, None].expand(T + 1, N)
    true, ends, no = (1 - GAMMA**left) / (1 - GAMMA), left[:-1] == 1, torch.zeros(T, N, dtype=torch.bool)
    expected = torch.ones(T, N, dtype=torch.float64)  # each step pays 1 on average
    rewards = expected + sd * torch.randn(T, N, dtype=torch.float64, generator=generator)
    signs = torch.randint(2, (T + 1, N), generator=generator).double() * 2 - 1
    rows, errors = [], {}
    for lam in (0.0, 0.5, 0.8, 0.9, 0.95, 0.99, 1.0):
        cells = []
        for values in (true + wrong * signs, true + wrong):
            biased, noisy = (
                ppo.gae(Rollout(no, no, no, values[:-1], values[1:], r, ends, no), gamma=GAMMA, lam=lam)
                + (values - true)[:-1]
                for r in (expected, rewards)
            )
            for off in (biased, noisy - biased, noisy):  # of the first third, far from the end
                cells.append(off[: T // 3].square().mean().sqrt().item())
        errors[lam] = cells[2]
        if lam in (0, 1):
            demo.number(f"gae_bias_{lam:g}", cells[0], ".2f", f"bias of A + V at λ = {lam:g}")
            demo.number(f"gae_std_{lam:g}", cells[1], ".2f", f"standard deviation of A + V at λ = {lam:g}")
        rows.append([f"{lam:g}", *(f"{cell:.2f}" for cell in (*cells[:4], cells[5]))])
    best = min(errors, key=errors.__getitem__)
    demo.number("gae_best_lambda", best, "g", "the best λ of the table, where V's errors are independent")
    for lam, key in ((0.0, "0"), (best, "least"), (0.95, "95"), (1.0, "1")):
        demo.number(f"gae_error_{key}", errors[lam], ".2f", f"RMS error of A + V at λ = {lam:g}")
    columns = [
        "λ",
        "bias",
        "standard deviation",
        "RMS error",
        "bias, V too high by 5",
        "RMS error, V too high by 5",
    ]
    caption = (
        f"A + V as an estimate of the true value: rewards 1 ± {sd:g}, γ = {GAMMA}, V wrong by ±{wrong:g} with a sign of its "
        f"own in each state, and in the last two columns by +{wrong:g} everywhere; {N:,} episodes. λ = 0 believes V, λ = 1 the "
        "rewards. In between, errors of V that differ from state to state cancel; one that is the same everywhere hardly does."
    )
    demo.table("lambda", columns, rows, caption=caption)


def main() -> None:
    """Run all five parts."""
    plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "font.size": 11})
    torch.set_num_threads(1)
    demo = Demo(__file__)
    learn(demo)
    plant_faults(demo)
    draw_clip(demo)
    limit_time(demo)
    trade(demo)
    demo.finish()


if __name__ == "__main__":
    main()
