"""What attention does, on real input and in numbers: the questions that the README answers.

1. Query, key, value: attention as a soft look-up reads handwritten digits, without any training.
2. Why 1/sqrt(d): the entropy of the softmax with and without it.
3. What causal means where there are more keys than queries, and where torch's is_causal differs.
4. O(n²): time and memory over the length, and what tiles change.
5. Why attention over an RNN: how far a gradient reaches, and how time grows with the length.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier
from threadpoolctl import threadpool_limits
from torch import nn
from torch.nn.functional import one_hot, scaled_dot_product_attention

from attention import SingleHeadAttention, attention, attention_weights
from benchmark import peak_megabytes
from chunked_attention import chunked_attention

sys.path.append(str(Path(__file__).resolve().parents[2]))  # the repository root, for shared/
from shared.measuring.demo import Demo

BLUE, ORANGE, GREEN, RED, GREY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#7f7f7f"  # Okabe and Ito
SHOWN = 8  # keys shown per digit


def look_up_digits(demo: Demo) -> None:
    """Classify unseen digits by attention to known ones: query and key are pixels, the value is the label."""
    pixels, labels = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(
        pixels, labels, test_size=360, random_state=0, stratify=labels
    )
    key, query = (nn.functional.normalize(torch.from_numpy(x), dim=-1) for x in (train_x, test_x))
    value = one_hot(torch.from_numpy(train_y)).double()
    truth = torch.from_numpy(test_y)
    scales = 2.0 ** np.arange(-1, 11)
    right = [
        float((attention(query, key, value, scale=s).argmax(dim=-1) == truth).double().mean()) for s in scales
    ]
    neighbour = KNeighborsClassifier(1).fit(key.numpy(), train_y).score(query.numpy(), test_y)
    scale = 64.0
    weights = attention_weights(query, key, scale=scale)
    output = weights @ value
    demo.number(
        "digits_right",
        right[int(np.argmax(scales == scale))],
        ".1%",
        f"unseen digits read by attention to 1437 known ones, scale {scale:.0f}, no training",
    )
    demo.number("neighbour_right", neighbour, ".1%", "the same by the nearest neighbour (scikit-learn)")

    fig, axes = plt.subplots(
        3, SHOWN + 2, figsize=(10, 3.7), layout="constrained", width_ratios=[1.2] + [1] * SHOWN + [2.6]
    )
    clear = int(output.max(dim=-1).values.argmax())
    unsure = [int(i) for i in output.max(dim=-1).values.argsort()[:2]]
    for row, i in zip(axes, (clear, *unsure), strict=True):
        row[0].imshow(test_x[i].reshape(8, 8), cmap="Blues")
        for axis, j in zip(row[1:-1], weights[i].argsort(descending=True)[:SHOWN], strict=True):
            axis.imshow(train_x[j].reshape(8, 8), cmap="gray_r")
            axis.set_title(f"{weights[i, j]:.1%}", fontsize=9)
        row[-1].bar(range(10), output[i], color=[GREEN if c == test_y[i] else GREY for c in range(10)])
        row[-1].set(ylim=(0, 1), xticks=range(10))
        for axis in row[:-1]:
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_visible(False)
    axes[0, 0].set_title("query", fontsize=10)
    axes[0, -1].set_title("output", fontsize=10)
    demo.figure(
        "lookup",
        fig,
        alt="Three unseen digits, the eight known digits that each attends to most, with their weights, and the "
        "weighted mean of their labels.",
        caption="Attention is a soft look-up: the keys with the largest weights, and the weighted "
        "mean of their values. The first picture of a row is the query; the values are the "
        "labels here (green: the true one).",
    )

    fig, axis = plt.subplots(figsize=(6.5, 3), layout="constrained")
    axis.semilogx(scales, right, "o-", color=BLUE, base=2, label="attention")
    axis.axhline(neighbour, color=GREY, linestyle="--", label="nearest neighbour")
    axis.set(xlabel="scale", ylabel="digits read right")
    axis.legend(frameon=False)
    demo.figure(
        "scale",
        fig,
        alt="Share of digits read right over the scale: lower for small scales, then as high as the nearest neighbour.",
        caption="The scale is an inverse temperature: a small one averages over everything, a large one picks the nearest "
        "key.",
    )


def entropy_bits(weights: torch.Tensor) -> float:
    """Return the mean entropy of the rows, in bits."""
    return float(torch.special.entr(weights).sum(dim=-1).mean() / math.log(2))


def measure_scale(demo: Demo) -> None:
    """Entropy, largest weight and gradient of a softmax over 256 random keys, for three scales."""
    generator = torch.Generator().manual_seed(0)
    n_keys, widths = 256, [2**k for k in range(2, 11)]
    scales: dict[str, Callable[[int], float]] = {
        "1/sqrt(d)": lambda d: d**-0.5,
        "none": lambda d: 1.0,
        "1/d": lambda d: 1 / d,
    }
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in scales}
    for d in widths:
        query, key = (torch.randn(n, d, generator=generator, dtype=torch.float64) for n in (400, n_keys))
        for name, scale in scales.items():
            weights = attention_weights(query, key, scale=scale(d))
            slope = (weights * (1 - weights)).sum(dim=-1).mean()  # trace of the softmax's Jacobian
            found[name].append((entropy_bits(weights), float(weights.amax(-1).mean()), float(slope)))
    rows = [
        [
            str(d),
            *(f"{found[name][k][0]:.2f}" for name in scales),
            *(f"{found[name][k][1]:.3f}" for name in scales),
            *(f"{found[name][k][2]:.3f}" for name in ("1/sqrt(d)", "none")),
        ]
        for k, d in enumerate(widths)
    ]
    columns = ["d", *(f"entropy, {name}" for name in scales), *(f"largest, {name}" for name in scales)]
    columns += ["slope, 1/sqrt(d)", "slope, none"]
    caption = (
        f"Softmax over {n_keys} random keys (8 bits if all are alike), by the scale. Slope: Σ p (1 - p), the trace of the "
        "softmax's Jacobian, to which gradients of the scores are proportional."
    )
    demo.table("scale", columns, rows, caption=caption)
    demo.number(
        "entropy_scaled", found["1/sqrt(d)"][-1][0], ".1f", "entropy in bits at d = 1024, scaled by 1/sqrt(d)"
    )
    demo.number("entropy_unscaled", found["none"][-1][0], ".2f", "entropy in bits at d = 1024, not scaled")
    demo.number(
        "largest_unscaled", found["none"][-1][1], ".0%", "largest weight at d = 1024, not scaled (mean)"
    )

    fig, axis = plt.subplots(figsize=(6.5, 3.2), layout="constrained")
    for (name, values), colour in zip(found.items(), (BLUE, RED, ORANGE), strict=True):
        axis.semilogx(
            widths,
            [v[0] for v in values],
            "o-",
            color=colour,
            base=2,
            label="not scaled" if name == "none" else f"scale {name}",
        )
    axis.axhline(8, color=GREY, linestyle=":", linewidth=1)
    axis.set(xlabel="width d of query and key", ylabel="entropy, bits", ylim=(0, 8.4))
    axis.legend(frameon=False, ncols=3, loc="lower right", bbox_to_anchor=(1, 1))
    demo.figure(
        "entropy",
        fig,
        alt="Entropy of the attention weights over the width d: constant with 1/sqrt(d), falling to nearly 0 without a "
        "scale, rising to 8 bits with 1/d.",
        caption="With 1/sqrt(d) the softmax is as soft for every width. Without it, one key takes all; with 1/d, all keys "
        "are alike.",
    )


def show_causal(demo: Demo) -> None:
    """Draw the weights of three queries over six keys, causal, as here and as torch's is_causal has it."""
    query, key, value = torch.zeros(3, 2), torch.zeros(6, 2), torch.eye(6)
    ours = attention(query, key, value, causal=True)
    theirs = scaled_dot_product_attention(query, key, value, is_causal=True)
    fig, axes = plt.subplots(1, 2, figsize=(8, 2.5), layout="constrained", sharey=True)
    for axis, weights, title in zip(
        axes,
        (ours, theirs),
        ("causal=True: the last sees all", "SDPA, is_causal=True: the first sees one"),
        strict=True,
    ):
        axis.imshow(weights, cmap="Blues", vmin=0, vmax=1)
        for i, j in np.ndindex(3, 6):
            share = float(weights[i, j])
            axis.text(
                j,
                i,
                f"{share:.2f}" if share else "0",
                ha="center",
                va="center",
                color="white" if share > 0.6 else "black",
            )
        axis.set(title=title, xlabel="key", xticks=range(6), yticks=range(3))
    axes[0].set_ylabel("query")
    demo.figure(
        "causal",
        fig,
        alt="Weights of three queries over six keys. Left, the rows see four, five and six keys. Right, one, two and three.",
        caption="For decoding the last query must see all, since the new queries are the last "
        "tokens. Three queries, six keys, equal scores. For as many queries as keys the two "
        "masks are the same.",
    )


def fastest(call: Callable[[], object], n: int = 3) -> float:
    """Return the shortest of `n` calls in seconds, after one to warm up."""
    call()
    times = []
    for _ in range(n):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def exponent(sizes: Any, values: Any) -> float:
    """Return the power of the size that the values follow: the slope of a line through the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def measure_growth(demo: Demo) -> None:
    """Time and memory of one forward pass of one head, over the length."""
    timed = np.array([1024, 2048, 4096, 8192])
    weighed = {
        "written out": np.array([1024, 2048, 4096, 8192]),
        "in tiles": np.array([2048, 4096, 8192, 16384]),
    }
    functions: dict[str, Callable[..., Any]] = {"written out": attention, "in tiles": chunked_attention}
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    generator = torch.Generator().manual_seed(0)
    for n in timed:
        inputs = [torch.randn(1, n, 64, generator=generator) for _ in range(3)]
        for name, function in functions.items():
            seconds[name].append(fastest(lambda f=function, x=inputs: f(*x), 2))  # type: ignore[misc]
    megabytes = {name: peak_megabytes(name, map(int, sizes), n_heads=1) for name, sizes in weighed.items()}

    fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for (name, values), colour, key in zip(seconds.items(), (RED, BLUE), ("written", "tiles"), strict=True):
        left.loglog(timed, values, "o-", color=colour, label=name)
        demo.number(
            f"time_exponent_{key}", exponent(timed, values), ".2f", f"{name}: time grows as T to the power of"
        )
        peaks = megabytes[name]
        if peaks is not None:
            sizes = weighed[name]
            right.loglog(sizes, peaks, "o-", color=colour, label=name)
            demo.number(
                f"memory_exponent_{key}",
                exponent(sizes, peaks),
                ".2f",
                f"{name}: memory grows as T to the power of",
            )
            demo.number(f"memory_{key}", peaks[-1], ",.0f", f"{name}: MB at T = {sizes[-1]}, one head")
    for axis, label, at in ((left, "seconds", timed), (right, "peak memory, MB", [1024, 4096, 16384])):
        axis.set(xlabel="tokens T", ylabel=label, xticks=at, xticklabels=at)
        axis.xaxis.set_tick_params(which="minor", bottom=False, labelbottom=False)
        axis.legend(frameon=False)
    demo.figure(
        "growth",
        fig,
        alt="Time and memory over the number of tokens, logarithmic axes. Both times and the memory of the "
        "written-out version rise with slope two, that of the tiles with slope one.",
        caption="Twice the tokens, four times the work, for both. Only the written-out version needs four times "
        "the memory.",
    )


def measure_reach(demo: Demo) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return the gradient of the last output with respect to the input k steps before, for a GRU and for attention."""
    generator = torch.Generator().manual_seed(0)
    n_tokens, d = 256, 64
    norms = []
    with torch.random.fork_rng():
        torch.manual_seed(0)  # the initialisation of nn.GRU and nn.Linear
        models = [nn.GRU(d, d, batch_first=True), SingleHeadAttention(d, causal=True)]
    for model in models:
        x = torch.randn(64, n_tokens, d, generator=generator, requires_grad=True)
        output = model(x)
        last = (output[0] if isinstance(output, tuple) else output)[:, -1]
        (gradient,) = torch.autograd.grad(last, x, torch.randn(last.shape, generator=generator))
        norms.append(gradient.norm(dim=-1).mean(dim=0).flip(0).numpy())
    for name, norm in zip(("gru", "attention"), norms, strict=True):
        label = {"gru": "nn.GRU", "attention": "attention"}[name]
        demo.number(
            f"reach_{name}", norm[21] / norm[1], ".1g", f"{label}: gradient 21 steps back over 1 step back"
        )
    return norms[0], norms[1]


def compare_with_rnn(demo: Demo) -> None:
    """Draw how far a gradient reaches, and the time of a training step over the length."""
    gru_norm, attention_norm = measure_reach(demo)
    sizes = np.array([64, 128, 256, 512, 1024])
    d = 256
    gru, head = nn.GRU(d, d, batch_first=True), SingleHeadAttention(d, causal=True)
    generator = torch.Generator().manual_seed(0)
    seconds: dict[str, list[float]] = {"nn.GRU": [], "attention": []}
    for n in sizes:
        x = torch.randn(1, n, d, generator=generator)
        for name, model in (("nn.GRU", gru), ("attention", head)):

            def step(model: nn.Module = model, x: torch.Tensor = x) -> None:
                output = model(x)
                (output[0] if isinstance(output, tuple) else output).sum().backward()

            seconds[name].append(fastest(step, 2))
    # Multiply-adds of the projections, and for attention of the two products, times 2 FLOPs, times 3 for training.
    flops = {"nn.GRU": 6.0 * sizes * 6 * d * d, "attention": 6.0 * (sizes * 3 * d * d + 2 * sizes**2 * d)}
    rows = [
        [
            str(n),
            *(f"{seconds[name][k] * 1e3:.1f}" for name in seconds),
            *(f"{flops[name][k] / 1e9:.2f}" for name in seconds),
            *(f"{flops[name][k] / seconds[name][k] / 1e9:.0f}" for name in seconds),
        ]
        for k, n in enumerate(sizes)
    ]
    columns = [f"{what}, {name}" for what in ("ms", "GFLOP", "GFLOP/s") for name in seconds]
    caption = "One training step (forward and backward) on one sequence, width 256, one thread."
    demo.table("rnn", ["T", *columns], rows, caption=caption)
    ratio = seconds["nn.GRU"][3] / seconds["attention"][3]
    demo.number("gru_time_512", ratio, ".0f", "times as long takes a step of nn.GRU at T = 512, width 256")

    fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    left.semilogy(gru_norm, color=RED, label="nn.GRU")
    left.semilogy(attention_norm, color=BLUE, label="attention")
    left.set(xlabel="steps back", ylabel="gradient of the last output", ylim=(1e-12, 10))
    for (name, values), colour in zip(seconds.items(), (RED, BLUE), strict=True):
        right.loglog(sizes, np.array(values) * 1e3, "o-", color=colour, label=name)
    right.set(xlabel="tokens T", ylabel="ms per training step", xticks=sizes, xticklabels=sizes)
    right.xaxis.set_tick_params(which="minor", bottom=False, labelbottom=False)
    for axis in (left, right):
        axis.legend(frameon=False)
    demo.figure(
        "rnn",
        fig,
        alt="Left: the gradient of a GRU falls exponentially with the distance, that of attention is flat. "
        "Right: a training step of the GRU takes far longer on short sequences.",
        caption="A GRU passes a signal through every step in between, and does T small products one after the "
        "other. Gradient: width 64, as initialised; time: width 256.",
    )


def main() -> None:
    """Run all parts on one thread."""
    plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "font.size": 11})
    torch.set_num_threads(1)
    with threadpool_limits(1):
        demo = Demo(__file__)
        look_up_digits(demo)
        measure_scale(demo)
        show_causal(demo)
        measure_growth(demo)
        compare_with_rnn(demo)
        demo.finish()


if __name__ == "__main__":
    main()
