"""Activations at work: what they look like, why a network needs one, why ReLU, and what softmax does to real logits.

1. The curves and their derivatives.
2. Two rings of points: a stack of linear layers cannot separate them, one activation between the layers can. Also XOR.
3. The gradient that is left after 30 layers, for each activation.
4. Softmax of the logits for a handwritten digit, at several temperatures.
5. Dead ReLUs: units that no input makes fire get no gradient and stay so; what a leak changes.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

import fast as act

sys.path.append(str(Path(__file__).resolve().parents[2]))  # the repository root, for shared/
from shared.measuring.demo import Demo

BLUE, ORANGE, GREEN, RED, GREY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#7f7f7f"  # Okabe and Ito
Array = Any


class Activation(NamedTuple):
    """A function, its derivative, and the variance of weights (times fan-in) that suits it."""

    name: str
    function: Callable[[Array], Array]
    derivative: Callable[[Array], Array]
    variance: float = 1.0
    colour: str = GREY


LINEAR = Activation("none", lambda x: x, np.ones_like)
SIGMOID = Activation("sigmoid", act.sigmoid, act.sigmoid_grad, colour=ORANGE)
TANH = Activation("tanh", act.tanh, act.tanh_grad, colour=GREEN)
RELU = Activation("ReLU", act.relu, act.relu_grad, 2.0, BLUE)
LEAKY = Activation("leaky ReLU", act.leaky_relu, act.leaky_relu_grad, 2.0, RED)
GELU = Activation("GELU", act.gelu, act.gelu_grad, 2.0, RED)
SILU = Activation("SiLU", act.silu, act.silu_grad, 2.0, "#cc79a7")


def draw_curves(demo: Demo) -> None:
    """Draw every activation beside its derivative."""
    x = np.linspace(-5, 5, 501)
    fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for kind in (SIGMOID, TANH, RELU, GELU, SILU):
        left.plot(x, kind.function(x), color=kind.colour, label=kind.name)
        right.plot(x, kind.derivative(x), color=kind.colour, label=kind.name)
    left.set(title="activation", xlabel="x", ylim=(-1.2, 3))
    right.set(title="derivative", xlabel="x")
    right.axhline(0.25, color=GREY, linestyle=":", linewidth=1)
    right.annotate("sigmoid: ≤ 1/4", (-4.9, 0.28), color=GREY, fontsize=9)
    left.legend(frameon=False)
    demo.figure(
        "curves",
        fig,
        alt="Left: sigmoid, tanh, ReLU, GELU and SiLU from -5 to 5. Right: their derivatives; that of sigmoid stays "
        "below a quarter, those of ReLU, GELU and SiLU reach 1 and stay there.",
        caption="On its way back a gradient is multiplied by the derivative, and that of a sigmoid "
        "is at most 1/4.",
    )


def train(
    kind: Activation,
    X: Array,
    y: Array,
    *,
    width: int = 16,
    steps: int = 2000,
    rate: float = 1.0,
    seed: int = 0,
) -> Callable[[Array], Array]:
    """Train 2-`width`-`width`-1 by plain gradient descent on the logistic loss; return the function it has learned."""
    rng = np.random.default_rng(seed)
    sizes = [X.shape[1], width, width, 1]
    weights = [rng.normal(0, np.sqrt(kind.variance / m), (m, n)) for m, n in itertools.pairwise(sizes)]
    biases = [np.zeros(n) for n in sizes[1:]]

    def logits(X: Array) -> Array:
        h = X
        for W, b in zip(weights[:-1], biases[:-1], strict=True):
            h = kind.function(h @ W + b)
        return (h @ weights[-1] + biases[-1])[:, 0]

    for _ in range(steps):
        inputs, sums, h = [], [], X
        for W, b in zip(weights, biases, strict=True):
            inputs.append(h)
            sums.append(h @ W + b)
            h = kind.function(sums[-1])
        gradient = (act.sigmoid(sums[-1]) - y[:, None]) / len(y)
        for layer in reversed(range(3)):
            before = gradient @ weights[layer].T
            weights[layer] -= rate * inputs[layer].T @ gradient
            biases[layer] -= rate * gradient.sum(axis=0)
            if layer:
                gradient = before * kind.derivative(sums[layer - 1])
    return logits


def rings(rng: np.random.Generator, n: int = 200) -> tuple[Array, Array]:
    """Return points on an inner disc (class 0) and a ring around it (class 1)."""
    y = np.arange(n) % 2
    radius = np.where(y == 0, rng.uniform(0, 0.8, n), rng.uniform(1.2, 2, n))
    angle = rng.uniform(0, 2 * np.pi, n)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1), y


def need_for_non_linearity(demo: Demo) -> None:
    """Train the same three layers with and without activations, on XOR and on two rings."""
    xor = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]), np.array([0, 1, 1, 0])
    ring = rings(np.random.default_rng(1))
    fig, axes = plt.subplots(1, 4, figsize=(9, 2.7), layout="constrained", sharey=True)
    extent = (-2.3, 2.3, -2.3, 2.3)
    grid = np.stack(np.meshgrid(np.linspace(-2.3, 2.3, 121), np.linspace(-2.3, 2.3, 121)), axis=-1)
    rows = []
    for axis, kind in zip(axes, (LINEAR, SIGMOID, TANH, RELU), strict=True):
        fitted, fitted_xor = train(kind, *ring), train(kind, *xor)
        right = np.mean((fitted(ring[0]) > 0) == ring[1])
        sure = act.sigmoid(fitted_xor(xor[0]) * (2 * xor[1] - 1)).min()
        rows.append([kind.name, f"{sure:.1%}", f"{right:.0%}"])
        if kind in (LINEAR, RELU):
            key = "linear" if kind is LINEAR else "relu"
            shown = f"three layers, activation {kind.name}"
            demo.number(f"xor_{key}", sure, ".0%", f"probability of the right answer to XOR, {shown}")
            demo.number(f"rings_{key}", right, ".0%", f"points of the rings right, {shown}")
        probability = act.sigmoid(fitted(grid.reshape(-1, 2))).reshape(grid.shape[:2])
        axis.imshow(probability, origin="lower", extent=extent, cmap="PuOr", vmin=0, vmax=1, alpha=0.45)
        axis.contour(grid[..., 0], grid[..., 1], probability, levels=[0.5], colors="black", linewidths=1)
        for label, colour, marker in ((0, RED, "o"), (1, "#542788", "^")):
            chosen = ring[1] == label
            axis.scatter(*ring[0][chosen].T, s=9, color=colour, marker=marker, linewidth=0)
        axis.set(title=f"{kind.name}: {right:.0%}", xticks=[], yticks=[], aspect="equal")
    demo.table(
        "non_linearity",
        ["activation", "XOR: probability of the right answer", "rings: points right"],
        rows,
        caption="Three layers, trained alike: the same seed, learning rate and steps. XOR: the least sure of its four points.",
    )
    demo.figure(
        "non_linearity",
        fig,
        alt="Four panels with an inner disc and an outer ring of points. Without an activation the boundary is a straight "
        "line; with sigmoid, tanh or ReLU it closes around the disc.",
        caption="Without an activation three matrices are one matrix, and the boundary is straight. "
        "Three layers on two rings, with the boundary as a line and the share of points on "
        "the right side of it.",
    )


def vanishing_gradients(demo: Demo, depth: int = 30, width: int = 256) -> None:
    """Send a random gradient back through `depth` layers at initialisation, and measure what is left."""
    fig, axis = plt.subplots(figsize=(8, 3.8), layout="constrained")
    rows = []
    for kind in (RELU, GELU, TANH, SIGMOID):
        norms = []
        for seed in range(5):
            rng = np.random.default_rng(seed)
            weights = [rng.normal(0, np.sqrt(kind.variance / width), (width, width)) for _ in range(depth)]
            h, sums = rng.normal(size=(64, width)), []
            for W in weights:
                sums.append(h @ W)
                h = kind.function(sums[-1])
            gradient, left = rng.normal(size=h.shape), []
            start = np.linalg.norm(gradient)
            for W, z in zip(reversed(weights), reversed(sums), strict=True):
                gradient = (gradient * kind.derivative(z)) @ W.T
                left.append(np.linalg.norm(gradient) / start)
            norms.append(left)
        median = np.median(norms, axis=0)
        axis.semilogy(np.arange(1, depth + 1), median, color=kind.colour, label=kind.name)
        rows.append([kind.name, *(f"{median[k - 1]:.1e}" for k in (1, 10, 20, 30))])
        key = kind.name.lower()
        fmt = ".0%" if median[-1] > 0.01 else ".1e"
        demo.number(f"gradient_{key}", median[-1], fmt, f"gradient left after {depth} layers, {kind.name}")
    axis.set(xlabel="layers that the gradient has come back through", ylabel="gradient norm, relative")
    axis.legend(frameon=False)
    demo.table(
        "gradient",
        ["activation", "1 layer", "10", "20", "30"],
        rows,
        caption="Gradient norm left, median of 5 seeds.",
    )
    demo.figure(
        "gradient",
        fig,
        alt="Gradient norm over depth on a logarithmic axis: ReLU stays near one, tanh falls slowly, sigmoid falls in a "
        "straight line by many powers of ten.",
        caption="Each sigmoid multiplies a gradient by a quarter at most. Here on its way back "
        f"through {depth} layers of {width} units at initialisation, weight variance 2 or 1 "
        "over fan-in.",
    )


def temperature(demo: Demo) -> None:
    """Divide real logits by a temperature before softmax; watch the entropy."""
    X, y = load_digits(return_X_y=True)
    X_train, X_test, y_train, y_test = train_test_split(X / 16, y, test_size=360, random_state=0, stratify=y)
    model = LogisticRegression(max_iter=200).fit(X_train, y_train)
    logits = model.decision_function(X_test)
    demo.number(
        "digits_accuracy", np.mean(logits.argmax(1) == y_test), ".1%", "digits right, logistic regression"
    )
    unsure = int(np.argmin(np.abs(act.softmax(logits).max(axis=1) - 0.6)))  # neither clear nor a tie
    fig, axes = plt.subplots(1, 5, figsize=(9, 2.6), layout="constrained", width_ratios=[0.7, 1, 1, 1, 1])
    axes[0].imshow(X_test[unsure].reshape(8, 8), cmap="gray_r")
    axes[0].set(title=f"a {y_test[unsure]}", xticks=[], yticks=[])
    rows = []
    for axis, T in zip(axes[1:], (0.2, 1.0, 3.0, 20.0), strict=True):
        p = act.softmax(logits[unsure] / T)
        entropy = -np.sum(p * act.log_softmax(logits[unsure] / T)) / np.log(2)
        axis.bar(range(10), p, color=BLUE)
        axis.set(title=f"T = {T:g}, {entropy:.2f} bit", xlabel="class", xticks=range(0, 10, 2), ylim=(0, 1))
        rows.append([f"{T:g}", f"{p.max():.3f}", f"{p.min():.1e}", f"{entropy:.2f}"])
        key = f"{T:g}".replace(".", "_")
        demo.number(f"temperature_{key}", p.max(), ".2f", f"largest probability at temperature {T:g}")
    demo.table(
        "temperature",
        ["temperature", "largest probability", "smallest", "entropy, bit"],
        rows,
        caption="Softmax of one digit's ten logits divided by a temperature. Uniform would be 3.32 bit.",
    )
    demo.figure(
        "temperature",
        fig,
        alt="A handwritten digit that is hard to read and its ten class probabilities at temperatures 0.2, 1, 3 and 20: "
        "from nearly all on one class to nearly uniform.",
        caption="A temperature sharpens or levels a softmax and never changes the order of the "
        "classes. The same logits at four temperatures.",
    )


def dead_relus(demo: Demo) -> None:
    """Start every hidden unit so far below zero that no digit makes it fire, then train and see who comes back."""
    X, y = load_digits(return_X_y=True)
    X, y = X[::2].astype(np.float32) / 16, y[::2]
    target = np.eye(10, dtype=np.float32)[y]
    steeper = Activation(
        "leaky ReLU, slope 0.1",
        lambda x: act.leaky_relu(x, negative_slope=0.1),
        lambda x: act.leaky_relu_grad(x, negative_slope=0.1),
    )
    rows = []
    for kind in (RELU, LEAKY, steeper, SILU):
        rng = np.random.default_rng(0)
        W1 = rng.normal(0, np.sqrt(2 / 64), (64, 128)).astype(np.float32)
        W2 = rng.normal(0, np.sqrt(1 / 128), (128, 10)).astype(np.float32)
        b1, b2 = np.full(128, -3, np.float32), np.zeros(10, np.float32)
        silent = []
        for step in range(401):
            z = X @ W1 + b1
            h = kind.function(z)
            silent.append(np.mean(np.all(z <= 0, axis=0)))
            grad = (act.softmax(h @ W2 + b2) - target) / len(X)
            grad_z = (grad @ W2.T) * kind.derivative(z)
            if step == 0:
                at_start = np.linalg.norm(X.T @ grad_z)
            W2 -= 0.5 * h.T @ grad
            b2 -= 0.5 * grad.sum(axis=0)
            W1 -= 0.5 * X.T @ grad_z
            b1 -= 0.5 * grad_z.sum(axis=0)
        right = np.mean((h @ W2 + b2).argmax(1) == y)
        rows.append([kind.name, f"{silent[0]:.0%}", f"{at_start:.1g}", f"{silent[-1]:.0%}", f"{right:.0%}"])
        if kind in (RELU, steeper):
            key = "relu" if kind is RELU else "leaky"
            demo.number(
                f"dead_{key}", right, ".0%", f"digits right after starting with silent units, {kind.name}"
            )
    demo.table(
        "dead",
        ["activation", "silent at the start", "gradient norm then", "silent after 400 steps", "digits right"],
        rows,
        caption="128 hidden units with biases of -3; silent: no digit makes the unit's sum positive.",
    )


def main() -> None:
    """Run the experiments in the order of the README."""
    demo = Demo(__file__)
    for part in (draw_curves, need_for_non_linearity, vanishing_gradients, temperature, dead_relus):
        part(demo)
    demo.finish()


if __name__ == "__main__":
    main()
