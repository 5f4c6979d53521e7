"""What the loss does, on real input: handwritten digits, and the questions that the README answers.

1. Numerics: the loss of a wrong answer, written down naively and computed here.
2. Cross-entropy versus squared error: the gradient at a confidently wrong answer, and what becomes of learning.
3. Entropy, KL divergence and perplexity of models that know more and more about the digits.
4. Label smoothing: how far apart the logits go, and how sure the model is when it is wrong.
5. The same loss in reinforcement learning: a policy gradient is cross-entropy weighted by the advantage, and PPO clips it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from cross_entropy import cross_entropy, cross_entropy_grad, mse_loss
from kl_divergence import kl_divergence

sys.path.append(str(Path(__file__).resolve().parents[2]))  # the repository root, for shared/
from shared.measuring.demo import Demo

WRONG = "from a confidently wrong model"
CLIP = 0.2  # PPO's epsilon
BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#7f7f7f"  # Okabe and Ito


class Digits(NamedTuple):
    """Pixels in 0..1 with a constant 1 for the bias, and classes."""

    X: Any  # (1437, 65)
    y: Any
    X_test: Any  # (360, 65)
    y_test: Any


def load() -> Digits:
    """Split the 1797 digits as the other projects do."""
    X, y = load_digits(return_X_y=True)
    X = np.hstack([X / 16, np.ones((len(X), 1))])
    X, X_test, y, y_test = train_test_split(X, y, test_size=360, random_state=0, stratify=y)
    return Digits(X, y, X_test, y_test)


def softmax(logits: Any) -> Any:
    """Return the probabilities; repeated from the activations project, since no project imports another."""
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def squared_error_grad(logits: Any, targets: Any) -> Any:
    """Return the gradient of mse_loss(softmax(logits), one-hot) with respect to the logits."""
    p = softmax(logits)
    grad_p = 2 * (p - np.eye(p.shape[1])[targets]) / p.size
    return p * (grad_p - (p * grad_p).sum(axis=1, keepdims=True))


def accuracy(W: Any, X: Any, y: Any) -> float:
    """Return the share of right answers of the linear model."""
    return float(((X @ W).argmax(axis=1) == y).mean())


def numerics(demo: Demo) -> None:
    """Show the loss of a wrong answer whose logit is behind by more and more."""
    rows = []
    for margin in (10.0, 40.0, 100.0, 800.0, 1e4):
        logits, target = np.array([[margin, 0.0]]), np.array([1])
        with np.errstate(all="ignore"):
            naive = -np.log(np.exp(0.0) / np.exp(logits).sum())
        clipped = -np.log(softmax(logits)[0, 1] + 1e-12)
        loss = cross_entropy(logits, target)
        rows.append([f"{margin:g}", f"{naive:.6g}", f"{clipped:.6g}", f"{loss:.6g}"])
    demo.table(
        "numerics",
        ["the wrong logit leads by", "-log(softmax)", "-log(softmax + 1e-12)", "cross_entropy"],
        rows,
        caption="The loss of a wrong answer. The true value is the lead, plus exp(-lead).",
    )


def gradients(demo: Demo) -> None:
    """Draw both losses and their gradients over the lead of the right class, two classes."""
    lead = np.linspace(-10, 6, 321)
    logits, targets = np.stack([lead, 0 * lead], axis=1), np.zeros(len(lead), int)
    one_hot = np.broadcast_to([1.0, 0.0], logits.shape)
    losses = cross_entropy(logits, targets, reduction="none")
    errors = mse_loss(softmax(logits), one_hot, reduction="none").mean(axis=1)
    pull = -cross_entropy_grad(logits, targets, reduction="sum")[:, 0]
    pull_squared = -len(lead) * squared_error_grad(logits, targets)[:, 0]

    fig, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for axis, ours, squared in ((axes[0], losses, errors), (axes[1], pull, pull_squared)):
        axis.plot(lead, ours, color=BLUE, linewidth=2, label="cross-entropy")
        axis.plot(lead, squared, color=ORANGE, linewidth=2, linestyle="--", label="squared error of softmax")
        axis.set_xlabel("logit of the right class less the other (nats)")
        axis.axvspan(-10, -4, color=GREY, alpha=0.12, linewidth=0)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("loss (nats; squared error: no unit)")
    axes[1].set_ylabel("pull on the right logit, -∂loss/∂logit")
    axes[1].text(-7, 0.5, "confidently\nwrong", ha="center", color="#444444")
    axes[0].legend()
    demo.figure(
        "gradients",
        fig,
        alt="Left: cross-entropy grows linearly with a wrong lead, the squared error flattens at 1. Right: the "
        "pull of cross-entropy goes to 1, that of the squared error has a hump near 0 and vanishes where the "
        "answer is confidently wrong.",
        caption="The more wrong the answer, the less the squared error pulls: softmax is flat there.",
    )
    for wrong in (5, 10):
        i = int(np.argmin(np.abs(lead + wrong)))
        demo.number(f"ce_pull_{wrong}", pull[i], ".3f", f"pull of cross-entropy at a wrong lead of {wrong}")
        demo.number(
            f"mse_pull_{wrong}", pull_squared[i], ".2g", f"pull of the squared error, lead of {wrong}"
        )


def descend(digits: Digits, W: Any, gradient: Any, rate: float, steps: int) -> tuple[Any, list[float]]:
    """Run gradient descent on the linear model and keep the held-out accuracy after each step."""
    W, curve = W.copy(), []
    for _ in range(steps):
        curve.append(accuracy(W, digits.X_test, digits.y_test))
        W -= rate * digits.X.T @ gradient(digits.X @ W, digits.y)
    return W, curve


def learning(demo: Demo, digits: Digits) -> Any:
    """Train with both losses, from zero and from a model that is confidently wrong."""
    losses = {"cross-entropy": cross_entropy_grad, "squared error": squared_error_grad}
    models = {}
    steps, zero = 400, np.zeros((65, 10))
    rates = {"cross-entropy": [1.0, 2.0, 4.0], "squared error": [4.0, 16.0, 64.0]}
    curves: dict[tuple[str, str], list[float]] = {}
    with demo.progress("training", total=11) as advance:
        wrong_labels = digits._replace(y=(digits.y + 1) % 10)  # every digit is taken for the next one
        wrong = 3 * descend(wrong_labels, zero, cross_entropy_grad, 3.0, 1000)[0]
        advance()
        for name, gradient in losses.items():
            best = chosen = 0.0
            for rate in rates[name]:  # the rate that works best from zero serves for both starts
                W, curve = descend(digits, zero, gradient, rate, steps)
                advance()
                if np.mean(curve) > best:
                    best, curves["from zero", name] = float(np.mean(curve)), curve
                    models[name], chosen = W, rate
            curves[WRONG, name] = descend(digits, wrong, gradient, chosen, steps)[1]
            advance()
        hasty = {}
        for key, start in (("wrong", wrong), ("zero", zero)):
            hasty[key] = descend(digits, start, squared_error_grad, 256 * chosen, steps)[1][-1]
            advance()
    fig, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    for axis, start in zip(axes, ("from zero", WRONG), strict=True):
        axis.plot(curves[start, "cross-entropy"], color=BLUE, linewidth=2, label="cross-entropy")
        axis.plot(
            curves[start, "squared error"], color=ORANGE, linewidth=2, linestyle="--", label="squared error"
        )
        axis.set_title(start)
        axis.set_xlabel("step of gradient descent")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("held-out accuracy")
    axes[0].set_ylim(0, 1.02)
    axes[1].legend(loc="center right")
    demo.figure(
        "learning",
        fig,
        alt="Held-out accuracy over 400 steps. From zero both losses learn the digits. From a confidently wrong "
        "model cross-entropy recovers within a hundred steps, the squared error stays near zero.",
        caption="Only cross-entropy recovers from confident mistakes. A linear model, each loss at its best "
        "rate.",
    )
    for key, start in (("zero", "from zero"), ("wrong", WRONG)):
        for short, name in (("ce", "cross-entropy"), ("mse", "squared error")):
            label = f"accuracy after {steps} steps {start}, {name}"
            demo.number(f"{short}_accuracy_{key}", curves[start, name][-1], ".1%", label)
    label = "squared error with 256 times the learning rate"
    demo.number("mse_accuracy_wrong_hasty", hasty["wrong"], ".1%", f"the same, {label}")
    demo.number("mse_accuracy_zero_hasty", hasty["zero"], ".1%", f"from zero, {label}")
    return models["cross-entropy"]


def perplexity(demo: Demo, digits: Digits, W: Any) -> None:
    """Measure the perplexity of three guesses at the held-out digits, and cross-entropy as entropy plus KL."""
    early, _ = descend(digits, np.zeros((65, 10)), cross_entropy_grad, 1.0, 5)
    guesses = {
        "nothing: every digit alike": np.zeros((360, 10)),
        "linear model, 5 steps": digits.X_test @ early,
        "linear model, 400 steps": digits.X_test @ W,
    }
    rows, losses = [], []
    for name, logits in guesses.items():
        losses.append(float(cross_entropy(logits, digits.y_test)))
        in_bits = losses[-1] / np.log(2)
        rows.append([name, f"{losses[-1]:.3f}", f"{in_bits:.3f}", f"{np.exp(losses[-1]):.2f}"])
    demo.table(
        "perplexity",
        ["what the model knows", "cross-entropy, nats", "bits", "perplexity"],
        rows,
        caption="Held-out digits. Perplexity: as hard as guessing among that many equally likely classes.",
    )
    demo.number("perplexity_uniform", np.exp(losses[0]), ".1f", "perplexity when every digit is alike")
    demo.number(
        "perplexity_model", np.exp(losses[-1]), ".2f", "perplexity of the linear model on held-out digits"
    )

    smoothed = 0.9 * np.eye(10)[digits.y] + 0.01
    entropy = float(-(smoothed * np.log(smoothed)).sum(axis=1).mean())
    divergence = float(kl_divergence(np.log(smoothed), digits.X @ W, axis=1).mean())
    loss = float(cross_entropy(digits.X @ W, digits.y, label_smoothing=0.1))
    demo.number("smoothed_entropy", entropy, ".3f", "entropy of the smoothed targets (0.1)")
    demo.number(
        "smoothed_divergence", divergence, ".3f", "KL(smoothed targets ‖ linear model), training digits"
    )
    demo.number(
        "smoothed_loss", loss, ".3f", "their sum, which is the cross-entropy with label_smoothing=0.1"
    )


def smoothing(demo: Demo, digits: Digits) -> None:
    """Train 300 random ReLU features until they fit, with and without label smoothing."""
    shares = {0.0: (BLUE, "-"), 0.05: (GREEN, "-."), 0.2: (ORANGE, "--")}
    rng = np.random.default_rng(0)
    R = rng.standard_normal((65, 300)) / 4
    H, H_test = np.maximum(digits.X @ R, 0), np.maximum(digits.X_test @ R, 0)
    onehot, steps = np.eye(10, dtype=bool)[digits.y], 1000
    fig, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    rows = []
    with demo.progress("label smoothing", total=steps * len(shares)) as advance:
        for share, (colour, style) in shares.items():
            W, velocity, gaps = np.zeros((300, 10)), np.zeros((300, 10)), []
            for _ in range(steps):
                logits = H @ W
                gaps.append(float(logits[onehot].mean() - logits[~onehot].mean()))
                velocity = 0.95 * velocity - 0.1 * H.T @ cross_entropy_grad(
                    logits, digits.y, label_smoothing=share
                )
                W += velocity
                advance()
            logits = H_test @ W
            p, right = softmax(logits), logits.argmax(axis=1) == digits.y_test
            label = f"label_smoothing={share:g}"
            axes[0].plot(
                np.arange(1, steps + 1), gaps, color=colour, linestyle=style, linewidth=2, label=label
            )
            if share:
                best = np.log((1 - share + share / 10) / (share / 10))
                axes[0].axhline(best, color=colour, linewidth=0.8)
            sure = np.sort(p.max(axis=1))
            axes[1].plot(
                sure, np.arange(1, 361) / 360, color=colour, linestyle=style, linewidth=2, label=label
            )
            rows.append(
                [
                    f"{share:g}",
                    f"{right.mean():.1%}",
                    f"{np.sum(~right)}",
                    f"{float(cross_entropy(logits, digits.y_test)):.3f}",
                    f"{p.max(axis=1).mean():.3f}",
                    f"{p[~right].max(axis=1).mean():.3f}",
                    f"{gaps[-1]:.2f}",
                    f"{best:.2f}" if share else "∞",
                ]
            )
            key = f"{share:g}".replace(".", "_")
            demo.number(f"gap_{key}", gaps[-1], ".1f", f"gap of the logits, {label}")
            demo.number(f"sure_{key}", p[~right].max(axis=1).mean(), ".0%", f"confidence when wrong, {label}")
    axes[0].set_xlabel("step of gradient descent")
    axes[0].set_ylabel("logit of the target less the others,\nmean over training digits (nats)")
    axes[0].set_xscale("log")
    axes[0].set_ylim(0, 27)
    axes[0].legend(loc="upper left")
    axes[1].set_xlabel("largest probability of a held-out digit")
    axes[1].set_ylabel("share of digits below")
    for axis in axes:
        axis.grid(alpha=0.3)
    demo.figure(
        "smoothing",
        fig,
        alt="Left: without smoothing the gap between target and other logits keeps growing; with smoothing it settles "
        "on a horizontal line. Right: without smoothing nearly all held-out digits get a probability near 1.",
        caption="Smoothed labels keep logits from growing. Thin: the gap log((1 - s + s/C) / (s/C)) of least "
        "loss.",
    )
    demo.table(
        "smoothing",
        [
            "label_smoothing",
            "held-out accuracy",
            "mistakes",
            "held-out cross-entropy",
            "mean confidence",
            "confidence when wrong",
            "gap of the logits",
            "best gap",
        ],
        rows,
        caption="300 random ReLU features, trained by gradient descent with momentum; 360 held-out digits.",
    )


def policy_gradient(demo: Demo) -> None:
    """Improve a policy on one batch of its own actions for many steps, with and without PPO's clipping; 100 times.

    The probability ratio is exp(loss before - loss now). PPO drops an action from the loss once its ratio has left
    1 ± CLIP in the direction that its advantage wants (Schulman et al., arXiv 1707.06347, equation 7).
    """
    rng = np.random.default_rng(0)
    runs, batch, n_actions, steps, rate = 100, 32, 10, 300, 1.0
    rewards = rng.standard_normal((runs, n_actions))  # an action's mean reward; each draw adds noise
    old = 0.5 * rng.standard_normal((runs, n_actions))
    actions = np.stack([rng.choice(n_actions, size=batch, p=p) for p in softmax(old)])
    advantage = np.take_along_axis(rewards, actions, axis=1) + 5 * rng.standard_normal((runs, batch))
    advantage -= advantage.mean(axis=1, keepdims=True)
    targets = actions.ravel()

    def losses(logits: Any) -> Any:
        """Return -log p of each action, (runs, batch)."""
        return cross_entropy(logits.repeat(batch, axis=0), targets, reduction="none").reshape(runs, batch)

    before = losses(old)
    distances: dict[str, list[Any]] = {}
    gains: dict[str, Any] = {}
    for name, clip in (("unclipped", np.inf), ("clipped", CLIP)):
        logits, distances[name] = old.copy(), []
        for _ in range(steps):
            ratio = np.exp(before - losses(logits))
            counts = np.where(advantage > 0, ratio < 1 + clip, ratio > 1 - clip)
            weight = counts * ratio * advantage / batch
            gradients = cross_entropy_grad(logits.repeat(batch, axis=0), targets, reduction="sum")
            logits -= rate * (weight[..., None] * gradients.reshape(runs, batch, -1)).sum(axis=1)
            distances[name].append(np.median(kl_divergence(old, logits)))
        gains[name] = ((softmax(logits) - softmax(old)) * rewards).sum(axis=1)
    fig, axis = plt.subplots(figsize=(6, 3.4), layout="constrained")
    styles = {"unclipped": (ORANGE, "--"), "clipped": (BLUE, "-")}
    for name, (colour, style) in styles.items():
        axis.plot(np.arange(1, steps + 1), distances[name], style, color=colour, linewidth=2, label=name)
    axis.set(xscale="log", yscale="log", xlabel="step on the same batch", ylabel="KL(old policy ‖ new), nats")
    axis.legend(frameon=False)
    axis.grid(alpha=0.3)
    demo.figure(
        "policy",
        fig,
        alt="The distance from the policy that acted, over 300 steps on one batch. Unclipped it keeps growing; with PPO's "
        "clipping it levels off early.",
        caption="The clip keeps a policy near the old one. 32 noisy actions, median of 100 batches.",
    )
    demo.number("ppo_steps", steps, "d", "gradient steps on one batch of a policy's own actions")
    for name in styles:
        demo.number(
            f"kl_{name}", distances[name][-1], ".2g", f"KL from the policy that acted, {name}, median"
        )
    for name in styles:
        label = f"change of the true expected reward in the unluckiest 5% of batches, {name}"
        demo.number(f"unlucky_{name}", np.quantile(gains[name], 0.05), "+.2f", label)
    for name in styles:
        demo.number(f"gain_{name}", gains[name].mean(), "+.2f", f"the same, mean over the batches, {name}")


def main() -> None:
    """Run the five experiments."""
    demo = Demo(__file__)
    digits = load()
    numerics(demo)
    gradients(demo)
    perplexity(demo, digits, learning(demo, digits))
    smoothing(demo, digits)
    policy_gradient(demo)
    demo.finish()


if __name__ == "__main__":
    main()
