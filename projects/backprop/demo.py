"""Trains a digit classifier with the layers of this project, and measures what each ingredient is good for.

Writes build/digits.safetensors: a 64-128-10 ReLU network under the tensor names of torch.nn.Sequential.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from backprop import Linear, ReLU, Sequential, SoftmaxCrossEntropy, Tanh, fit
from optimizers import SGD, Adam, AdamW, RMSprop
from regularization import BatchNorm, Dropout, LayerNorm, Residual
from sigmoid_mse import Sigmoid

sys.path.append(str(Path(__file__).resolve().parents[2]))  # the repository root, for shared/
from shared.measuring.demo import Demo

Array = NDArray[Any]
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#666666"
COLOURS = {"SGD": GREY, "SGD with momentum": ORANGE, "RMSprop": GREEN, "Adam": BLUE}
PERCENT = matplotlib.ticker.PercentFormatter(1.0)
plt.rcParams.update({"font.size": 11, "axes.spines.top": False, "axes.spines.right": False})


def load() -> tuple[Array, Array, Array, Array]:
    """Return training pixels, held-out pixels, training labels, held-out labels."""
    pixels, labels = load_digits(return_X_y=True)
    x = (pixels / 16).astype(np.float32)
    return tuple(train_test_split(x, labels, test_size=360, random_state=0, stratify=labels))


def network(n_hidden: int, rng: np.random.Generator) -> Sequential:
    """Return a classifier of the digits with one hidden layer of ReLU units."""
    return Sequential(Linear(64, n_hidden, rng=rng), ReLU(), Linear(n_hidden, 10, rng=rng))


def accuracy(model: Any, x: Array, y: Array) -> float:
    """Return the share of right answers in evaluation mode."""
    return float((model.forward(x).argmax(axis=1) == y).mean())


def train(model: Any, optimizer: Any, x: Array, y: Array, epochs: int, seed: int) -> list[float]:
    """Fit with cross-entropy; a run that diverges gives NaN quietly."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        rng = np.random.default_rng(seed)
        return fit(model, SoftmaxCrossEntropy(), optimizer, x, y, epochs=epochs, rng=rng)


def gradient_check(demo: Demo) -> None:
    """Compare one directional derivative from backprop with differences and with the complex step."""
    rng = np.random.default_rng(0)
    wide: dict[str, Any] = {"rng": rng, "dtype": np.float64}
    layers = Linear(6, 8, **wide), LayerNorm(8, dtype=np.float64)
    body = Sequential(Tanh(), Linear(8, 8, **wide))
    model = Sequential(*layers, Residual(body), Sigmoid(), Linear(8, 1, **wide))
    x, direction = rng.standard_normal((7, 6)), rng.standard_normal((7, 6))
    y = model.forward(x)
    exact = float((model.backward(np.ones_like(y)) * direction).sum())

    def along(h: complex) -> Any:
        return model.forward(x + h * direction).sum()

    methods: dict[str, Callable[[float], float]] = {
        "forward difference": lambda h: (along(h) - along(0)) / h,
        "central difference": lambda h: (along(h) - along(-h)) / (2 * h),
        "complex step": lambda h: along(1j * h).imag / h,
    }
    (fig, ax), rows, steps = plt.subplots(figsize=(7.2, 4.2)), [], np.logspace(-20, -1, 77)
    for (name, method), colour in zip(methods.items(), (GREY, ORANGE, BLUE), strict=True):
        errors = np.array([abs(method(h) / exact - 1) for h in steps])
        errors = np.maximum(errors, np.finfo(float).eps)  # closer is luck
        best = int(errors.argmin())
        rows.append((name, f"{errors[best]:.0e}", f"{steps[best]:.0e}", f"{errors[0]:.0e}"))
        ax.loglog(steps, errors, color=colour, label=name, lw=2)
    label = "relative error of the complex step at h = 1e-20"
    demo.number("complex_step_error", errors[0], ".0e", label)  # of the last method
    ax.set(xlabel="step h", ylabel="relative difference from backprop", ylim=(3e-17, 30))
    ax.legend(frameon=False, loc="upper center", ncol=3, bbox_to_anchor=(0.5, 1.13), fontsize=10)
    ax.axhline(1e-6, color=PURPLE, ls=":", lw=1.5)
    ax.text(1e-20, 2e-6, "a gradient wrong by one millionth", color=PURPLE, fontsize=10)
    demo.table("gradient_check", ("method", "best relative error", "at h", "error at h = 1e-20"), rows)
    alt = "Relative error against step size. The differences reach their best between 1e-9 and 1e-5 and lose all digits at smaller steps; the complex step stays near 1e-16 down to 1e-20."
    caption = "A difference loses digits as h shrinks. The complex step never subtracts, so h can be 1e-20."
    demo.figure("gradient_check", fig, alt=alt, caption=caption)


def cost_of_gradient(demo: Demo, x: Array, y: Array) -> None:
    """Time all gradients together against one forward pass."""
    model, loss, x, y = network(128, np.random.default_rng(0)), SoftmaxCrossEntropy(), x[:1024], y[:1024]
    ratios = []
    for _ in range(200):
        start = time.perf_counter()
        loss.forward(model.forward(x, training=True), y)
        middle = time.perf_counter()
        model.backward(loss.backward())
        ratios.append((time.perf_counter() - start) / (middle - start))
    n = sum(parameter.size for parameter in model.parameters.values())
    demo.number("n_parameters", n, ",d", "parameters of the 64-128-10 network")
    label = "cost of the loss with all gradients, in forward passes"
    demo.number("gradient_cost", median(ratios), ".1f", label)
    demo.number("difference_cost", 2 * n, ",d", "forward passes for the same by central differences")


def shifted(images: Array, dy: int, dx: int) -> Array:
    """Move 8x8 images by a pixel; what leaves is lost, what enters is blank."""
    padded = np.pad(images.reshape(-1, 8, 8), ((0, 0), (1, 1), (1, 1)))
    return padded[:, 1 - dy : 9 - dy, 1 - dx : 9 - dx].reshape(-1, 64)


def digits(demo: Demo, x: Array, x_held_out: Array, y: Array, y_held_out: Array) -> None:
    """Train on the digits and their shifts from five seeds; keep the first network."""
    moves = [(0, 0), (0, 1), (0, -1), (1, 0), (-1, 0)]
    x, y = np.concatenate([shifted(x, *move) for move in moves]), np.tile(y, len(moves))
    rows, shares, lr, epochs = [], [], 1e-2, 20
    with demo.progress("digits, five seeds", 5 * epochs) as advance:
        for seed in range(5):
            rng = np.random.default_rng(seed)
            model, optimizer = network(128, rng), AdamW(lr, weight_decay=0.1)
            start = time.process_time()
            for epoch in range(epochs):
                optimizer.lr = lr * (1 + np.cos(np.pi * epoch / epochs)) / 2
                fit(model, SoftmaxCrossEntropy(), optimizer, x, y, epochs=1, rng=rng)
                advance()
            shares.append(accuracy(model, x_held_out, y_held_out))
            rows.append((seed, f"{shares[-1]:.1%}", f"{time.process_time() - start:.1f} s"))
            if seed == 0:
                save_file(model.parameters, demo.build / "digits.safetensors")
                (demo.build / "digits.safetensors").chmod(0o644)
    demo.table("digits", ("seed", "held-out accuracy", "training, processor time"), rows)
    demo.number("digits_worst", min(shares), ".1%", "held-out accuracy, worst of five seeds")


OPTIMIZERS: dict[str, Callable[[float], Any]] = {
    "SGD": lambda lr: SGD(lr),
    "SGD with momentum": lambda lr: SGD(lr, momentum=0.9),
    "RMSprop": lambda lr: RMSprop(lr, alpha=0.9),
    "Adam": lambda lr: Adam(lr, betas=(0.9, 0.99)),
}
STEEPNESS = 200  # of the ravine across, relative to along


def ravine(optimizer: Any, hessian: Array, start: Array) -> Array:
    """Return the points visited on ``½ θᵀ H θ`` in 400 steps."""
    parameters, path = {"theta": start.copy()}, [start.copy()]
    for _ in range(400):
        optimizer.step(parameters, {"theta": hessian @ parameters["theta"]})
        path.append(parameters["theta"].copy())
    return np.array(path)


def steps_needed(path: Array, hessian: Array) -> int:
    """Return from which step on the loss stays below a thousandth of its start."""
    losses = np.einsum("ni,ij,nj->n", path, hessian, path)
    above = np.flatnonzero(~(losses < 1e-3 * losses[0]))
    return int(above[-1]) + 1


def ravines(demo: Demo) -> None:
    """Draw each optimizer's path at its best learning rate, and count steps on a straight and a turned ravine."""
    straight, start = np.diag([1.0, STEEPNESS]), np.array([-4.0, 0.8])
    turn = np.array([[1.0, -1.0], [1.0, 1.0]]) / np.sqrt(2)
    places = ((straight, start), (turn @ straight @ turn.T, turn @ start))
    rates, rows, paths = np.geomspace(1e-3, 1, 31), [], {}
    for name, make in OPTIMIZERS.items():
        counts = []
        for hessian, point in places:
            with np.errstate(over="ignore", invalid="ignore"):
                runs = [(steps_needed(ravine(make(lr), hessian, point), hessian), lr) for lr in rates]
            count, lr = min(runs)
            counts.append(count)
            if hessian is straight:
                paths[name] = (ravine(make(lr), hessian, point), lr, count)
        rows.append((name, f"{paths[name][1]:.2g}", str(counts[0]), str(counts[1])))
        key = name.lower().replace(" with ", "_")
        demo.number(f"ravine_{key}", counts[0], "d", f"steps down the ravine, {name}")
    columns = ("optimizer", "best lr", "steps, ravine along an axis", "steps, ravine turned by 45°")
    demo.table("ravine", columns, rows, caption="Steps until the loss stays below a thousandth of its start")
    fig, axes = plt.subplots(2, 2, figsize=(9, 5.2), sharex=True, sharey=True)
    grid_x, grid_y = np.meshgrid(np.linspace(-4.5, 1.5, 200), np.linspace(-1.0, 1.0, 120))
    height = 0.5 * (grid_x**2 + STEEPNESS * grid_y**2)
    for ax, (name, (path, lr, count)) in zip(axes.flat, paths.items(), strict=True):
        ax.contour(grid_x, grid_y, height, np.geomspace(0.05, 100, 11), colors="#cfd4da", linewidths=0.8)
        ax.plot(*path[: count + 1].T, "o-", color=COLOURS[name], ms=3.5, lw=1.3)
        ax.plot(0, 0, "k*", ms=10)
        ax.set_title(f"{name}: {count} steps (lr {lr:.2g})", fontsize=11)
    fig.supxlabel("θ₁  (curvature 1)", fontsize=11)
    fig.supylabel(f"θ₂  (curvature {STEEPNESS})", fontsize=11)
    fig.tight_layout()
    alt = "Four paths from the left end of a narrow valley to its minimum. SGD creeps along the floor, momentum swings across and speeds up, RMSprop and Adam come down the wall and along the floor at the same pace."
    caption = f"Momentum and Adam cross a ravine in far fewer steps than SGD. At their best rates; it is {STEEPNESS} times steeper across than along."
    demo.figure("ravine", fig, alt=alt, caption=caption)


def optimizers_on_digits(demo: Demo, ax: Any, x: Array, y: Array) -> None:
    """Train with each optimizer at its best learning rate, on plain pixels and on badly scaled ones."""
    uneven = (x * 10 ** np.random.default_rng(0).uniform(-2, 0, 64)).astype(np.float32)
    rates, rows = np.geomspace(1e-4, 3, 10), []
    for name, make in OPTIMIZERS.items():
        cells, usable = [], 0
        for pixels in (x, uneven):
            runs = []
            for lr in rates:
                model = network(64, np.random.default_rng(1))
                history = train(model, make(lr), pixels, y, 10, seed=1)
                runs.append((history[-1] if np.isfinite(history[-1]) else np.inf, lr, history))
            final, lr, history = min(runs)
            cells += [f"{final:.3f}", f"{lr:.1g}"]
            if pixels is uneven:
                ax.semilogy(range(1, 11), history, "o-", color=COLOURS[name], label=name, ms=4, lw=1.8)
                key = name.lower().replace(" with ", "_")
                demo.number(f"uneven_{key}", final, ".3f", f"training loss on uneven pixels, {name}")
            else:
                usable = sum(loss < 0.2 for loss, _, _ in runs)
        rows.append((name, *cells, f"{usable} of {len(rates)}"))
    columns = ("optimizer", "loss, plain pixels", "best lr", "loss, uneven pixels", "best lr", "usable lr")
    caption = "Training loss after 10 epochs at the best of ten learning rates"
    demo.table("optimizers", columns, rows, caption=caption)
    ax.set(xlabel="epoch", ylabel="training loss (nats)", title="uneven pixels, best learning rate each")
    ax.legend(frameon=False, fontsize=9)


def dropout(demo: Demo, ax: Any, x: Array, x_held_out: Array, y: Array, y_held_out: Array) -> None:
    """Train a wide network on labels of which a fifth were replaced at random."""
    rows = []
    for p, colour in ((0.0, GREY), (0.5, ORANGE), (0.75, BLUE)):
        results = []
        for seed in range(3):
            rng = np.random.default_rng(seed)
            noisy, replaced = y.copy(), rng.random(len(y)) < 0.2
            noisy[replaced] = rng.integers(0, 10, replaced.sum())
            model = Sequential(Linear(64, 256, rng=rng), ReLU(), Dropout(p), Linear(256, 10, rng=rng))
            optimizer, right = Adam(3e-3), []
            for _ in range(40):
                fit(model, SoftmaxCrossEntropy(), optimizer, x, noisy, epochs=1, rng=rng)
                right.append(accuracy(model, x_held_out, y_held_out))
            if seed == 0:
                ax.plot(range(1, 41), right, color=colour, label=f"dropout {p:g}" if p else "no dropout")
            wrong, loss = noisy != y, SoftmaxCrossEntropy()
            held_out_loss = loss.forward(model.forward(x_held_out), y_held_out)
            results.append((accuracy(model, x[wrong], noisy[wrong]), right[-1], held_out_loss))
        memorised, share, loss = np.mean(results, axis=0)
        rows.append((f"{p:g}", f"{memorised:.0%}", f"{share:.1%}", f"{loss:.2f}"))
        percent = f"{100 * p:.0f}"
        demo.number(f"dropout_{percent}", share, ".1%", f"held-out accuracy after noisy labels, p = {p:g}")
        demo.number(f"memorised_{percent}", memorised, ".0%", f"wrong labels learned by heart, p = {p:g}")
    columns = ("dropout p", "wrong labels learned by heart", "held-out accuracy", "held-out loss")
    caption = "A fifth of the training labels replaced at random; mean of 3 seeds"
    demo.table("dropout", columns, rows, caption=caption)
    ax.set(xlabel="epoch", ylabel="held-out accuracy", title="a fifth of the labels replaced", ylim=(0.85, 1))
    ax.yaxis.set_major_formatter(PERCENT)
    ax.legend(frameon=False, fontsize=9)


def loss_curves(demo: Demo, x: Array, x_held_out: Array, y: Array, y_held_out: Array) -> None:
    """Draw training loss by optimizer, and what memorising wrong labels does to the held-out accuracy."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.9))
    optimizers_on_digits(demo, left, x, y)
    dropout(demo, right, x, x_held_out, y, y_held_out)
    fig.tight_layout()
    alt = "Left: training loss by epoch on a log scale, Adam lowest, then RMSprop, momentum and SGD. Right: held-out accuracy by epoch; without dropout it peaks and falls, with dropout it stays up."
    caption = "Adam copes with badly scaled inputs; without dropout, wrong labels are learned."
    demo.figure("loss_curves", fig, alt=alt, caption=caption)


def weight_decay(demo: Demo, x: Array, x_held_out: Array, y: Array, y_held_out: Array) -> None:
    """Compare L2 in Adam with decoupled decay on the weights of pixels that never and that often have ink."""
    x, y = x[:400], y[:400]
    blank, busy = x.max(axis=0) == 0, x.mean(axis=0) > 0.4
    decays = {"Adam with L2": (Adam, (1e-5, 1e-4, 1e-3, 1e-2)), "AdamW": (AdamW, (1e-2, 1e-1, 0.3, 1.0))}
    (fig, axes), rows = plt.subplots(1, 2, figsize=(9.5, 3.7), sharey=True), []
    for ax, (name, (optimizer, strengths)) in zip(axes, decays.items(), strict=True):
        kept = []
        for strength in (0.0, *strengths):
            results = []
            for seed in range(3):
                model = network(128, np.random.default_rng(seed))
                before = model.parameters["0.weight"].copy()
                train(model, optimizer(3e-3, weight_decay=strength), x, y, 60, seed)
                norm, after = np.linalg.norm, model.parameters["0.weight"]
                shares = [float(norm(after[:, i]) / norm(before[:, i])) for i in (blank, busy)]
                results.append([*shares, accuracy(model, x_held_out, y_held_out)])
            kept.append(np.mean(results, axis=0))
        curve = np.array(kept[1:])
        curve[:, 1] /= kept[0][1]  # without decay
        for strength, (blank_kept, busy_kept, share) in zip(strengths, curve, strict=True):
            rows.append((name, f"{strength:g}", f"{blank_kept:.1%}", f"{busy_kept:.1%}", f"{share:.1%}"))
            if (name, strength) in (("Adam with L2", 1e-4), ("AdamW", 0.3)):
                key = "l2" if name == "Adam with L2" else "adamw"
                label = f"pixels' weights kept, {name} {strength:g}"
                demo.number(f"{key}_blank", blank_kept, ".1%", f"blank {label}")
                demo.number(f"{key}_busy", busy_kept, ".1%", f"inked {label}")
        ax.loglog(strengths, curve[:, 0], "s--", color=ORANGE, lw=2, label="pixels that are always blank")
        ax.loglog(strengths, curve[:, 1], "o-", color=BLUE, lw=2, label="pixels with much ink")
        ax.set(xlabel="weight_decay", title=name, ylim=(1e-3, 1.6))
    axes[0].set_ylabel("weight norm, relative to no decay")
    axes[0].legend(frameon=False, fontsize=9, loc="center left")
    fig.tight_layout()
    kept_of = "blank pixels' weights kept", "inked pixels' weights kept"
    columns = ("optimizer", "weight_decay", *kept_of, "accuracy")
    caption = "Norm of first-layer weights relative to training without decay"
    demo.table("weight_decay", columns, rows, caption=caption)
    alt = "Weights of blank and of inked pixels against weight_decay. With L2 in Adam the blank pixels' weights vanish at the smallest strength; with AdamW both shrink together."
    caption = "L2 in Adam erases whatever gets no gradient, however small the penalty. AdamW shrinks alike."
    demo.figure("weight_decay", fig, alt=alt, caption=caption)


def deep(kind: str, n_hidden: int, rng: np.random.Generator) -> Sequential:
    """Return a network of `n_hidden` hidden layers of width 64 on the digits."""
    layers: list[Any] = []
    for _ in range(n_hidden):
        hidden: list[Any] = [Linear(64, 64, rng=rng), Sigmoid() if "sigmoid" in kind else ReLU()]
        if "batch norm" in kind:
            hidden.insert(1, BatchNorm(64))
        layers += [Residual(Sequential(*hidden))] if "residual" in kind else hidden
    return Sequential(*layers, Linear(64, 10, rng=rng))


def batch_norm(demo: Demo, x: Array, x_held_out: Array, y: Array, y_held_out: Array) -> None:
    """Train a deep ReLU network by SGD at many learning rates, with and without batch norm."""
    rates = np.array([1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0])
    (fig, ax), columns = plt.subplots(figsize=(7.2, 4)), {}
    for kind, colour in (("ReLU", GREY), ("batch norm + ReLU", BLUE)):
        shares = np.empty((len(rates), 3))
        for (i, j), _ in np.ndenumerate(shares):
            model = deep(kind, 10, np.random.default_rng(j))
            train(model, SGD(float(rates[i])), x, y, 5, seed=j)
            with np.errstate(all="ignore"):
                shares[i, j] = accuracy(model, x_held_out, y_held_out)
        columns[kind] = list(shares.mean(axis=1))
        ax.semilogx(rates, shares.mean(axis=1), "o-", color=colour, lw=2, label=kind)
        ax.fill_between(rates, shares.min(axis=1), shares.max(axis=1), color=colour, alpha=0.15, lw=0)
    ax.set(xlabel="learning rate of SGD", ylabel="held-out accuracy after 5 epochs", ylim=(0, 1))
    ax.yaxis.set_major_formatter(PERCENT)
    ax.legend(frameon=False, loc="upper left")
    plain, normed = columns["ReLU"], columns["batch norm + ReLU"]
    rows = [(f"{rate:g}", f"{a:.0%}", f"{b:.0%}") for rate, a, b in zip(rates, plain, normed, strict=True)]
    caption = "Held-out accuracy after 5 epochs, 10 hidden layers"
    demo.table("batch_norm", ("learning rate", "ReLU", "batch norm + ReLU"), rows, caption=caption)
    demo.number("plain_best", max(plain), ".0%", "accuracy with 10 hidden ReLU layers, best learning rate")
    demo.number("bn_best", max(normed), ".0%", "accuracy of the same with batch norm, best learning rate")
    limits = [max(lr for lr, share in zip(rates, row, strict=True) if share > 0.5) for row in (plain, normed)]
    label = "largest learning rate that still reaches 50%, with batch norm over without"
    demo.number("bn_lr_ratio", limits[1] / limits[0], ".0f", label)
    alt = "Held-out accuracy against learning rate: with batch norm a high and broad plateau that reaches to learning rates where the plain network has failed."
    caption = "Batch norm tolerates rates at which ten ReLU layers alone learn nothing. Line: mean of three seeds; band: their range."
    demo.figure("batch_norm", fig, alt=alt, caption=caption)


def gradient_norms(demo: Demo, x: Array, y: Array) -> None:
    """Measure the gradient norm of each hidden layer's weights at the start, 30 hidden layers deep."""
    (fig, ax), rows = plt.subplots(figsize=(7.2, 4.2)), []
    kinds = ("sigmoid", "batch norm + sigmoid", "residual around sigmoid", "ReLU")
    keys, colours = ("sigmoid", "batch_norm", "residual", "relu"), (GREY, GREEN, ORANGE, BLUE)
    for kind, key, colour, marker in zip(kinds, keys, colours, "s^ov", strict=True):
        model, loss = deep(kind, 30, np.random.default_rng(0)), SoftmaxCrossEntropy()
        loss.forward(model.forward(x[:256], training=True), y[:256])
        model.backward(loss.backward())
        norms = [float(np.linalg.norm(g)) for g in model.gradients.values() if g.ndim == 2][:-1]
        ax.semilogy(range(1, len(norms) + 1), norms, marker=marker, color=colour, label=kind, lw=1.6, ms=4)
        rows.append((kind, *(f"{value:.1e}" for value in (norms[0], norms[-1], norms[0] / norms[-1]))))
        label = f"gradient norm, first over last of 30 hidden layers, {kind}"
        demo.number(f"ratio_{key}", norms[0] / norms[-1], ".1g", label)
    ax.set(xlabel="layer (1 is next to the input)", ylabel="gradient norm of its weights")
    ax.legend(frameon=False)
    demo.table("gradient_norms", ("30 hidden layers of", "first layer", "last layer", "ratio"), rows)
    alt = "Gradient norm of each layer's weights on a log scale. For sigmoid it falls by many powers of ten towards the input; with batch norm, with residual connections and with ReLU it stays level."
    caption = "Each sigmoid multiplies the gradient by 1/4 at most. What reaches the first layers."
    demo.figure("gradient_norms", fig, alt=alt, caption=caption)


def main() -> None:
    """Run every experiment."""
    demo = Demo(__file__)
    x, x_held_out, y, y_held_out = load()
    gradient_check(demo)
    cost_of_gradient(demo, x, y)
    ravines(demo)
    for experiment in (digits, loss_curves, weight_decay, batch_norm):
        experiment(demo, x, x_held_out, y, y_held_out)
    gradient_norms(demo, x, y)
    demo.finish()


if __name__ == "__main__":
    main()
