"""What a forward pass is, on real input: handwritten digits, then the three questions the README answers.

1. The committed network reads digits it has never seen; one of them is followed through the layers.
2. Universal approximation: one hidden layer whose weights are written down, not learned.
3. Initialisation: what is left of a signal after 50 layers.
4. FLOPs and bytes: from which batch size on the forward pass is no longer memory-bound on this machine.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from threadpoolctl import threadpool_limits

import fast
from mlp_forward import MLP
from weights_file import read_network

sys.path.append(str(Path(__file__).resolve().parents[2]))  # the repository root, for shared/
from shared.measuring.demo import Demo

WEIGHTS = Path(__file__).parent / "weights" / "digits.safetensors"
BLUE, ORANGE, GREEN, RED, GREY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#7f7f7f"  # Okabe and Ito


def held_out_digits() -> tuple[Any, Any]:
    """Return the 360 digits that the committed weights were not trained on, pixels in 0..1, and their classes."""
    X, y = load_digits(return_X_y=True)
    X = (X / 16).astype(np.float32)
    _, X_test, _, y_test = train_test_split(X, y, test_size=360, random_state=0, stratify=y)
    return X_test, y_test


def classify_digits(demo: Demo) -> None:
    """Accuracy on the held-out digits, agreement with torch, and three digits followed through the network."""
    X, y = held_out_digits()
    mlp = read_network(WEIGHTS)
    right = mlp.predict(X) == y
    twin = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
    twin.load_state_dict(load_file(WEIGHTS))
    with torch.inference_mode():
        difference = np.abs(mlp.forward(X) - twin(torch.from_numpy(X)).numpy()).max()
    demo.number("digits_accuracy", right.mean(), ".1%", "held-out digits classified correctly")
    demo.number("digits_mistakes", np.sum(~right), ".0f", "mistakes among 360 held-out digits")
    demo.number("digits_parameters", mlp.n_parameters, ",.0f", "parameters of the 64-128-10 network")
    demo.number("torch_difference", difference, ".1e", "largest difference to torch's logits, same weights")

    confidence = mlp.predict_proba(X).max(axis=-1)
    clear = int(np.argmax(np.where(right, confidence, -1)))
    hard = int(np.argmin(np.where(right, confidence, 2)))
    wrong = int(np.argmax(np.where(right, -1, confidence)))
    fig, axes = plt.subplots(
        3, 4, figsize=(9, 5.4), layout="constrained", gridspec_kw={"width_ratios": [1, 2, 1.6, 1.6]}
    )
    for row, (i, kind) in zip(
        axes, [(clear, "clear"), (hard, "barely right"), (wrong, "wrong")], strict=True
    ):
        hidden, logits = mlp.activations(X[i])
        row[0].imshow(X[i].reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
        row[0].set_ylabel(f"{kind}: a {y[i]}")
        row[1].imshow(hidden.reshape(8, 16), cmap="viridis", vmin=0, vmax=4)
        for axis in row[:2]:
            axis.set_xticks([])
            axis.set_yticks([])
        colours = [GREEN if c == y[i] else RED if c == logits.argmax() else GREY for c in range(10)]
        row[2].bar(range(10), logits, color=colours)
        row[2].axhline(0, color="black", linewidth=0.8)
        row[3].bar(range(10), mlp.predict_proba(X[i]), color=colours)
        row[3].set_ylim(0, 1)
        for axis in row[2:]:
            axis.set_xticks(range(10))
    for axis, title in zip(
        axes[0], ["64 inputs", "128 hidden neurons", "10 logits", "probabilities"], strict=True
    ):
        axis.set_title(title)
    for axis in axes[2, 2:]:
        axis.set_xlabel("class")
    demo.figure(
        "digits",
        fig,
        alt="Three handwritten digits, each with its 128 hidden activations, its 10 logits and its 10 probabilities.",
        caption="A forward pass: pixels, hidden neurons, logits, probabilities. One per row. Hidden "
        "neurons: dark is 0, bright is large. Green: the true class, red: the network's "
        "answer where it is wrong.",
    )


def target(x: Any) -> Any:
    """Return the curve to approximate, on 0..1."""
    return np.sin(2 * np.pi * x) + 0.4 * np.sin(10 * np.pi * x) * x


def hinge_network(width: int) -> MLP:
    """Write down a 1-`width`-1 ReLU network that is equal to `target` at `width` + 1 evenly spaced points.

    Neuron k switches on at point k and changes the slope there: f(0) + sum_k (slope_k - slope_{k-1}) relu(x - x_k).
    """
    points = np.linspace(0, 1, width + 1)
    slopes = np.diff(target(points)) * width
    mlp = MLP([1, width, 1], init="zeros", rng=np.random.default_rng(0), dtype=np.float64)
    (hidden_weight, hidden_bias), (out_weight, out_bias) = mlp.layers
    hidden_weight[...] = 1
    hidden_bias[...] = -points[:-1]
    out_weight[0] = np.diff(slopes, prepend=0)
    out_bias[0] = target(0.0)
    return mlp


def approximate(demo: Demo) -> None:
    """One hidden layer comes as near to a curve as one likes: twice the neurons, a quarter of the error."""
    x = np.linspace(0, 1, 20_001)
    widths = 2 ** np.arange(1, 11)
    errors = [np.abs(hinge_network(int(n)).forward(x[:, None])[:, 0] - target(x)).max() for n in widths]
    order = -np.polyfit(np.log(widths[4:]), np.log(errors[4:]), 1)[0]
    demo.number("error_16", errors[3], ".2g", "largest error of one hidden layer with 16 neurons")
    demo.number("error_1024", errors[9], ".2g", "largest error of one hidden layer with 1024 neurons")
    demo.number("error_order", order, ".2f", "the error falls as width to the power of minus")

    fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained", width_ratios=[1.6, 1])
    left.plot(x, target(x), color="black", linewidth=3, alpha=0.25, label="the curve")
    for width, colour in ((4, ORANGE), (8, BLUE), (32, GREEN)):
        y = hinge_network(width).forward(x[:, None])[:, 0]
        left.plot(x, y, color=colour, linewidth=1.6, label=f"{width} neurons")
    left.set(xlabel="x", ylabel="output of the network")
    left.legend(frameon=False)
    right.loglog(widths, errors, "o-", color=BLUE, label="measured")
    right.loglog(
        widths[3:], errors[9] * (widths[3:] / 1024.0) ** -2.0, "--", color=GREY, label="width$^{-2}$"
    )
    right.set(xlabel="neurons in the hidden layer", ylabel="largest error")
    right.legend(frameon=False)
    demo.figure(
        "approximation",
        fig,
        alt="Left: a wavy curve and networks with 4, 8 and 32 hidden neurons approaching it. "
        "Right: the largest error falls as the inverse square of the width.",
        caption="Universal approximation with one hidden layer: each ReLU neuron adds one bend.",
    )


def propagate(demo: Demo) -> None:
    """Follow the size of a signal (digits) through 50 layers of 256 neurons, for each initialisation."""
    X, _ = held_out_digits()
    depth = 50
    scales: dict[tuple[str, str], Any] = {}
    for activation in ("relu", "tanh"):
        for init in ("he", "xavier", "lecun", "zeros"):
            per_seed = []
            for seed in range(5):
                sizes = [64] + [256] * (depth + 1)
                mlp = MLP(sizes, activation=activation, init=init, rng=np.random.default_rng(seed))
                hidden = mlp.activations(X)[:depth]
                per_seed.append([float(np.sqrt(np.mean(np.square(h, dtype=np.float64)))) for h in hidden])
            scales[activation, init] = np.median(per_seed, axis=0)
    rows = [
        [activation, init, *(f"{scales[activation, init][k - 1]:.2g}" for k in (1, 10, 25, 50))]
        for activation, init in scales
    ]
    columns = ["activation", "init", "layer 1", "layer 10", "layer 25", "layer 50"]
    caption = (
        "Root mean square of a layer's output: digits through 50 layers of 256 neurons, median of 5 seeds."
    )
    demo.table("init", columns, rows, caption=caption)
    demo.number("he_rms", scales["relu", "he"][-1], ".2g", "RMS after 50 ReLU layers, He")
    demo.number("lecun_rms", scales["relu", "lecun"][-1], ".1e", "RMS after 50 ReLU layers, LeCun")
    demo.number("tanh_lecun_rms", scales["tanh", "lecun"][-1], ".2g", "RMS after 50 tanh layers, LeCun")

    fig, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained", sharey=True)
    styles = {"he": (BLUE, "-"), "xavier": (ORANGE, "-"), "lecun": (GREEN, "--")}
    for axis, activation in zip(axes, ("relu", "tanh"), strict=True):
        for init, (colour, dashes) in styles.items():
            axis.semilogy(
                range(1, depth + 1), scales[activation, init], dashes, color=colour, linewidth=2, label=init
            )
        axis.set(title={"relu": "ReLU", "tanh": "tanh"}[activation], xlabel="layer")
        axis.legend(frameon=False, loc="lower left")
    axes[0].set_ylabel("RMS of the layer's output")
    demo.figure(
        "init",
        fig,
        alt="Signal size through 50 layers. With ReLU, He keeps it, Xavier and LeCun fall in a straight line on the "
        "logarithmic axis. With tanh, Xavier and LeCun fall slowly and He stays.",
        caption="ReLU zeroes half of the power in each layer; He's factor 2 restores it. Xavier and LeCun are the same "
        "rule for square layers. Zeros give exactly 0 from the first layer on and are not drawn.",
    )


SIZES = [784, 512, 512, 10]
N_BYTES_COLD = 128 << 20  # of weights, visited in turn: more than any cache here keeps


def seconds_of(call: Callable[[], object], seconds: float = 0.12) -> float:
    """Return the shortest of at least seven calls: the one that other programs disturbed least."""
    call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 7 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def machine_limits(rng: np.random.Generator) -> tuple[float, float]:
    """Return what one core reaches here: FLOP/s of a large matrix product, bytes/s of reading a large array."""
    a = rng.standard_normal((1024, 1024), dtype=np.float32)
    matrix = rng.standard_normal((N_BYTES_COLD // 4096 // 4, 4096), dtype=np.float32)
    vector = rng.standard_normal(4096, dtype=np.float32)
    return 2 * 1024**3 / seconds_of(lambda: a @ a), matrix.nbytes / seconds_of(lambda: matrix @ vector)


def measure_roofline(demo: Demo) -> None:
    """Time 784-512-512-10 from one row to 4096, with weights that come from memory and with weights in the cache."""
    rng = np.random.default_rng(0)
    flops_per_second, bytes_per_second = machine_limits(rng)
    first = fast.MLP(SIZES, rng=rng)
    n_weights = sum(weight.size for weight, _ in first.layers)
    n_bytes_weights = 4 * first.n_parameters
    networks = [first, *(fast.MLP(SIZES, rng=rng) for _ in range(N_BYTES_COLD // n_bytes_weights))]

    batches = np.array([1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 128, 256, 1024, 4096])
    flops = 2.0 * n_weights * batches  # a multiplication and an addition for each weight and row
    n_bytes = n_bytes_weights + 4.0 * batches * (SIZES[0] + SIZES[-1])  # weights, input, output: each once
    cold, hot = [], []
    with demo.progress("timing the forward pass", total=len(batches)) as advance:
        for batch in batches:
            x = rng.standard_normal((batch, SIZES[0]), dtype=np.float32)
            turn = cycle(networks)
            cold.append(seconds_of(lambda x=x, turn=turn: next(turn).forward(x)))  # type: ignore[misc]
            hot.append(seconds_of(lambda x=x: first.forward(x)))  # type: ignore[misc]
            advance()
    reached = flops / cold
    half = reached.max() / 2
    at = int(np.argmax(reached >= half))
    low, high = np.log(reached[at - 1]), np.log(reached[at])
    share = (np.log(half) - low) / (high - low)
    crossing = float(np.exp(np.log(batches[at - 1]) * (1 - share) + np.log(batches[at]) * share))
    ridge = flops_per_second / bytes_per_second
    predicted = ridge * n_bytes_weights / (2 * n_weights - 4 * ridge * (SIZES[0] + SIZES[-1]))

    rows = [
        [
            f"{batch}",
            f"{flops[i] / 1e6:,.1f}",
            f"{n_bytes[i] / 1e6:.2f}",
            f"{flops[i] / n_bytes[i]:.1f}",
            f"{cold[i] * 1e6:,.0f}",
            f"{hot[i] * 1e6:,.0f}",
            f"{flops[i] / cold[i] / 1e9:.1f}",
            f"{cold[i] / batch * 1e6:.1f}",
        ]
        for i, batch in enumerate(batches)
    ]
    columns = [
        "batch",
        "MFLOP",
        "MB",
        "FLOP/byte",
        "µs, cold",
        "µs, in cache",
        "GFLOP/s, cold",
        "µs per row, cold",
    ]
    caption = "One forward pass of 784-512-512-10 in float32 on one core; cold: the weights come from memory."
    demo.table("roofline", columns, rows, caption=caption)
    demo.number("forward_mflop", flops[0] / 1e6, ".2f", "MFLOP per row of 784-512-512-10")
    demo.number("forward_mb", n_bytes_weights / 1e6, ".2f", "MB of float32 parameters, read once per batch")
    demo.number(
        "peak_gflops", flops_per_second / 1e9, ".0f", "GFLOP/s of a 1024 x 1024 matrix product, one core"
    )
    demo.number("memory_gb_s", bytes_per_second / 1e9, ".0f", "GB/s of reading memory, one core")
    demo.number("ridge", ridge, ".1f", "FLOP per byte from which on arithmetic is the limit")
    demo.number("predicted_batch", predicted, ".0f", "batch size at that point, computed")
    demo.number(
        "measured_batch", crossing, ".0f", "batch size that reaches half of the best FLOP/s, measured"
    )
    demo.number(
        "row_speedup", cold[0] / (cold[-1] / batches[-1]), ".0f", "times less time per row in a batch of 4096"
    )

    fig, axis = plt.subplots(figsize=(9, 4), layout="constrained")
    axis.loglog(batches, n_bytes / bytes_per_second * 1e6, "--", color=GREY, label="bytes ÷ memory bandwidth")
    axis.loglog(batches, flops / flops_per_second * 1e6, ":", color="black", label="FLOPs ÷ peak FLOP/s")
    axis.loglog(batches, np.array(cold) * 1e6, "o-", color=BLUE, label="measured, weights from memory")
    axis.loglog(batches, np.array(hot) * 1e6, "s-", color=ORANGE, label="measured, weights in cache")
    axis.axvline(crossing, ymax=0.65, color=RED, linewidth=1)
    axis.annotate(
        f"half of the best FLOP/s: batch {crossing:.0f}",
        (crossing, axis.get_ylim()[0]),
        xytext=(6, 8),
        textcoords="offset points",
        color=RED,
    )
    axis.set(xlabel="rows in the batch", ylabel="time of one forward pass, µs")
    axis.legend(frameon=False)
    demo.figure(
        "roofline",
        fig,
        alt="Time of a forward pass over the batch size: nearly flat for small batches, where reading the weights "
        "dominates, then proportional to the batch, along the line of the arithmetic.",
        caption="Left of the red line, reading the weights sets the time and more rows are nearly free. Right of it, "
        "the arithmetic sets it and each row costs the same.",
    )


def main() -> None:
    """Run all four parts on one thread."""
    plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "font.size": 11})
    torch.set_num_threads(1)
    with threadpool_limits(1):
        demo = Demo(__file__)
        classify_digits(demo)
        approximate(demo)
        propagate(demo)
        measure_roofline(demo)
        demo.finish()


if __name__ == "__main__":
    main()
