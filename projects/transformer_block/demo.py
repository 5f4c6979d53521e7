"""What the parts of a block are for, on real input: the source of Python's standard library, read byte by byte.

1. The block drawn, pre-norm and post-norm; where its parameters and FLOPs are.
2. Residual connections: the gradient that arrives at the first of 64 blocks, with and without.
3. Pre-norm, post-norm, no residual connections: twelve blocks trained without warm-up.
4. Layer norm and batch norm: ragged lengths, a batch of one.
5. Positions: tiny models trained at one length and read at eight times that.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import math
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import transformer_block
from gpt2_and_llama import Transformer, TransformerBlock
from positions import LearnedEncoding, alibi_bias
from transformer_block import sinusoidal_encoding

sys.path.append(str(Path(__file__).resolve().parents[2]))  # the repository root, for shared/
from shared.measuring.demo import Demo

BLUE, ORANGE, GREEN, RED, GREY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#7f7f7f"
HEAD, BOX = "-|>,head_length=5,head_width=3", "round,pad=0.02,rounding_size=0.12"


def read_source(*modules: Any) -> Tensor:
    """Return the bytes of some modules."""
    text = "".join(inspect.getsource(module) for module in modules)
    return torch.tensor(list(text.encode("ascii", "replace")))


def windows(text: Tensor, n_windows: int, length: int, generator: torch.Generator) -> Tensor:
    """Return random pieces of a text, (n_windows, length + 1): the last character is only a target."""
    starts = torch.randint(len(text) - length - 1, (n_windows, 1), generator=generator)
    return text[starts + torch.arange(length + 1)]


class Reader(nn.Module):
    """A tiny language model over bytes: embedding, positions of one kind, blocks, logits."""

    def __init__(self, position: str, length: int, *, n_layers: int = 2, d_model: int = 64, **options: Any):
        super().__init__()
        self.position, self.n_heads = position, 4
        self.embedding = nn.Embedding(128, d_model)
        nn.init.normal_(self.embedding.weight, std=0.5)
        self.learned = LearnedEncoding(length, d_model) if position == "learned" else None
        rotary = "rotary" if position == "rotary" else None
        self.blocks = Transformer(n_layers, d_model, self.n_heads, position=rotary, causal=True, **options)
        self.logits = nn.Linear(d_model, 128)

    def forward(self, characters: Tensor) -> Tensor:
        """Return logits for the next character, (B, T) to (B, T, 128)."""
        x, T, mask = self.embedding(characters), characters.shape[1], None
        if self.learned is not None:
            x = self.learned(x)
        if self.position == "sinusoidal":
            x = x + sinusoidal_encoding(T, x.shape[-1])
        if self.position == "alibi":
            mask = alibi_bias(self.n_heads, T)
        return self.logits(self.blocks(x, mask=mask))


def losses(model: nn.Module, batch: Tensor) -> Tensor:
    """Return the cross-entropy of every next character in bits, (B, T)."""
    logits = model(batch[:, :-1])
    return F.cross_entropy(logits.transpose(1, 2), batch[:, 1:], reduction="none") / math.log(2)


Draw = Callable[[torch.Generator], tuple[Tensor, Any]]  # a batch, and which of its targets count


def train(model: nn.Module, draw: Draw, steps: int, rate: float = 3e-3) -> list[float]:
    """Train with AdamW at a constant rate, without warm-up; return the loss of every step."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95))
    curve = []
    for _ in range(steps):
        batch, counts = draw(generator)
        loss = losses(model, batch)[counts].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        curve.append(loss.item())
    return curve


def _arrow(axis: Any, points: list[tuple[float, float]], colour: str = "black", width: float = 2) -> None:
    """Draw a line through points, with a head at its end."""
    axis.plot(*zip(*points[:-1], strict=True), color=colour, linewidth=width, solid_capstyle="butt")
    head = FancyArrowPatch(*points[-2:], arrowstyle=HEAD, color=colour, linewidth=width, shrinkA=0, shrinkB=0)
    axis.add_patch(head)


def _draw(axis: Any, title: str, order: str) -> None:
    """Draw one kind of block from the bottom up; `order` says where the norm stands in a branch."""
    axis.text(0, -0.25, "x  (B, T, d)", ha="center", va="top")
    y = 0.0
    for branch, colour in (("attention", BLUE), ("feed-forward", ORANGE)):
        fork = y + 0.35
        axis.plot([0, 0], [y, fork], color="black", linewidth=2)
        y = fork
        for part in order.split():
            half = 0.24 if part == "+" else 0.3
            _arrow(axis, [(0, y), (0, y + 0.05), (0, y + 0.35)])
            y += 0.35 + half
            if part == "+":
                axis.add_patch(Circle((0, y), half, facecolor="white", edgecolor=RED, linewidth=2))
                axis.text(0, y, "+", ha="center", va="center", fontsize=15, color=RED)
                _arrow(axis, [(0, fork), (1.75, fork), (1.75, y), (0.26, y)], RED, 3)
            else:
                text, fill = (branch, colour) if part == "branch" else (part, GREY)
                axis.add_patch(
                    FancyBboxPatch((-1.1, y - 0.3), 2.2, 0.6, boxstyle=BOX, color=fill, linewidth=0)
                )
                axis.text(0, y, text, ha="center", va="center", color="white")
            y += half
    _arrow(axis, [(0, y), (0, y + 0.05), (0, y + 0.45)])
    axis.text(0, y + 0.55, "to the next block", ha="center", va="bottom")
    axis.set(title=title, xlim=(-1.6, 2.3), ylim=(-0.8, 7.2), aspect="equal")
    axis.axis("off")


def draw_block(demo: Demo) -> None:
    """Draw both kinds of block; the residual connections are the thick lines."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.5, 5.6), layout="constrained")
    _draw(left, "pre-norm", "norm branch +")
    _draw(right, "post-norm", "branch + norm")
    demo.figure(
        "block",
        fig,
        alt="Pre-norm: norm, attention, plus, norm, feed-forward, plus. Post-norm: each norm stands after the plus.",
        caption="With pre-norm one way leads through no norm at all; with post-norm every way leads through both. The block from the bottom up; red: the residual connections.",
    )


def count(demo: Demo) -> None:
    """Count parameters and FLOPs of a block of GPT-2's size, by the formula and by torch."""
    B, n, d, h = 2, 256, 768, 12
    block = transformer_block.TransformerBlock(d, h)
    x = torch.zeros(B, n, d)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        block(x)
    matrices, attention = 24 * B * n * d**2, 4 * B * n**2 * d
    parameters = sum(p.numel() for p in block.parameters())
    demo.number("parameters", parameters, ",.0f", "parameters of a block with d = 768")
    demo.number("parameters_formula", 12 * d**2 + 13 * d, ",.0f", "12d² + 13d")
    demo.number("flops", counter.get_total_flops(), ",.0f", "FLOPs forward, counted by torch")
    total = matrices + attention
    demo.number("flops_formula", total, ",.0f", "24Bnd² + 4Bn²d")
    rows = [
        ["queries, keys, values", "3d²", "6Bnd²", f"{6 / 24 * matrices / total:.1%}"],
        ["scores and weighted mean", "0", "4Bn²d", f"{attention / total:.1%}"],
        ["mix of the heads", "d²", "2Bnd²", f"{2 / 24 * matrices / total:.1%}"],
        ["feed-forward, 4d wide", "8d²", "16Bnd²", f"{16 / 24 * matrices / total:.1%}"],
    ]
    caption = "Matrix products of a block; the share is that of n = 256, d = 768. The n² term passes the rest at n = 6d."
    demo.table("flops", ["part", "weights", "FLOPs forward", "share"], rows, caption=caption)


class WithoutResidual(TransformerBlock):
    """The same block with both residual connections cut."""

    def forward(self, x: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Return the second branch of the first branch of x."""
        x = self.attention(self.attention_norm(x), mask=mask)
        return self.feed_forward(self.feed_forward_norm(x))


def without_norms(block: TransformerBlock) -> TransformerBlock:
    """Take both norms out of a block."""
    block.attention_norm = block.feed_forward_norm = nn.Identity()  # type: ignore[assignment]
    return block


def through_depth(kind: Callable[[], nn.Module], n_layers: int, x: Tensor) -> tuple[Any, float]:
    """Return the gradient norm of each block's parameters, and the mean cosine of two tokens' outputs."""
    torch.manual_seed(0)
    blocks = [kind().double() for _ in range(n_layers)]
    y = x
    for block in blocks:
        y = block(y)
    # Scaled to the same size, so that stacks differ in what happens on the way only.
    y = y / y.detach().square().mean().sqrt()
    cotangent = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=y.dtype)
    y.backward(cotangent)
    norms = [
        math.sqrt(sum(p.grad.square().sum().item() for p in block.parameters() if p.grad is not None))
        for block in blocks
    ]
    direction, T = F.normalize(y.detach(), dim=-1), y.shape[1]
    cosines = direction @ direction.transpose(1, 2)
    return np.array(norms), ((cosines.sum() - len(y) * T) / (len(y) * T * (T - 1))).item()


def compare_depth(demo: Demo, text: Tensor) -> None:
    """Gradient norms in 64 blocks as they are initialised: with and without residual connections, norms, both."""
    n_layers, d, shown = 64, 32, (1, 16, 32, 48, 64)
    torch.manual_seed(0)
    characters = windows(text, 2, 32, torch.Generator().manual_seed(0))[:, :-1]
    x = nn.Embedding(128, d)(characters).detach().double() + sinusoidal_encoding(32, d)
    kinds: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
        "pre-norm": (lambda: TransformerBlock(d, 4), BLUE, "-"),
        "post-norm": (lambda: TransformerBlock(d, 4, norm_position="post"), ORANGE, "-"),
        "residual, no norm": (lambda: without_norms(TransformerBlock(d, 4)), BLUE, ":"),
        "norm, no residual": (lambda: WithoutResidual(d, 4), RED, "-"),
        "neither": (lambda: without_norms(WithoutResidual(d, 4)), RED, ":"),
    }
    fig, axis = plt.subplots(figsize=(8, 3.8), layout="constrained")
    rows = []
    for name, (kind, colour, dashes) in kinds.items():
        g, cosine = through_depth(kind, n_layers, x)
        axis.semilogy(range(1, n_layers + 1), g / g[-1], dashes, color=colour, linewidth=2, label=name)
        rows.append([name, *(f"{g[k - 1] / g[-1]:.2g}" for k in shown), f"{cosine:.2f}"])
        key = name.replace("-", "_").replace(", ", "_").replace(" ", "_")
        label = f"gradient norm of block 1 over that of block 64, {name}"
        demo.number(f"{key}_ratio", g[0] / g[-1], ".2g", label)
        demo.number(f"{key}_cosine", cosine, ".2f", f"cosine of two tokens after 64 blocks, {name}")
    axis.set(xlabel="block", ylabel="gradient norm / that of block 64", ylim=(1e-6, 1e5))
    axis.legend(frameon=False, ncols=3, loc="lower left")
    columns = ["", *(f"block {k}" for k in shown), "cosine of two tokens"]
    caption = "Gradient norm of a block's parameters over that of the last of 64. A cosine of 1: all tokens are alike."
    demo.table("depth", columns, rows, caption=caption)
    demo.figure(
        "depth",
        fig,
        alt="Gradient norm over the block's number: with neither residual connections nor norms it falls by many orders "
        "of magnitude, with norms alone by a few, with residual connections alone it grows by several, with both it stays.",
        caption="Without norms and residual connections the gradient soon vanishes. Relative to the last of 64 fresh blocks.",
    )


def compare_training(demo: Demo, text: Tensor) -> None:
    """Train twelve blocks from the first step at full rate: pre-norm, post-norm, without residual connections."""
    steps, length, rates = 40, 32, (1e-3, 1e-2)
    fig, axis = plt.subplots(figsize=(8, 3.8), layout="constrained")
    rows = []
    for name, colour in (("pre-norm", BLUE), ("post-norm", ORANGE), ("norm, no residual", RED)):
        cells = []
        for rate, dashes in zip(rates, ("--", "-"), strict=True):
            torch.manual_seed(0)
            position = "post" if name == "post-norm" else "pre"
            model = Reader("sinusoidal", length, n_layers=12, d_model=32, norm_position=position)
            for block in model.blocks.blocks if name == "norm, no residual" else ():
                block.__class__ = WithoutResidual  # the same weights, another forward
            curve = np.array(train(model, lambda g: (windows(text, 8, length, g), slice(None)), steps, rate))
            smooth = np.convolve(curve, np.ones(8) / 8, mode="valid")
            axis.plot(range(8, steps + 1), smooth, dashes, color=colour, label=f"{name}, rate {rate:g}")
            cells.append(curve[-10:].mean())
        key = name.replace("-", "_").replace(", ", "_").replace(" ", "_")
        label = f"bits per character after {steps} steps, 12 blocks, {name}, rate {rates[-1]:g}"
        demo.number(f"{key}_fast", cells[-1], ".2f", label)
        rows.append([name, *(f"{cell:.2f}" for cell in cells)])
    axis.set(xlabel="step", ylabel="bits per character")
    axis.legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=9)
    columns = ["12 blocks, no warm-up", *(f"rate {rate:g}" for rate in rates)]
    caption = f"Bits per character in training, mean of steps {steps - 9} to {steps}."
    demo.table("training", columns, rows, caption=caption)
    demo.figure(
        "training",
        fig,
        alt="Training loss of stacks with pre-norm, post-norm and no residual connections, at two learning rates.",
        caption="At the high rate pre-norm trains best. Twelve blocks trained with AdamW from the first step at full rate; mean of eight steps.",
    )


class TokenBatchNorm(nn.BatchNorm1d):
    """Batch norm where the block has layer norm: each feature is normalised over all tokens of the batch."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, T, d_model)."""
        return super().forward(x.flatten(0, 1)).view(x.shape)


def ragged_batch(text: Tensor, length: int, generator: torch.Generator, n: int = 16) -> tuple[Tensor, Tensor]:
    """Return n pieces of different lengths, padded with 0, and which targets count."""
    lengths = torch.randint(4, length + 1, (n,), generator=generator)
    position = torch.arange(length + 1)
    batch = windows(text, n, length, generator)
    return torch.where(position <= lengths[:, None], batch, 0), position[:-1] < lengths[:, None]


def alone(model: nn.Module, batch: Tensor, counts: Tensor) -> tuple[list[Tensor], float]:
    """Read each sequence without the others and without padding: its losses, and how far a logit moves at most."""
    together, each, moved = model(batch[:, :-1]), [], 0.0
    for i, n in enumerate(counts.sum(1).tolist()):
        each.append(losses(model, batch[i : i + 1, : n + 1])[0])
        moved = max(moved, (model(batch[i : i + 1, :n])[0] - together[i, :n]).abs().max().item())
    return each, moved


def compare_norms(demo: Demo, text: Tensor, held_out: Tensor) -> None:
    """Train on padded batches of ragged lengths; evaluate the same sentences in three companies."""
    length, rows = 32, []
    for name in ("layer norm", "batch norm"):
        torch.manual_seed(0)
        model = Reader("sinusoidal", length)
        if name == "batch norm":
            for block in model.blocks.blocks:
                block.attention_norm, block.feed_forward_norm = TokenBatchNorm(64), TokenBatchNorm(64)
            model.blocks.final_norm = TokenBatchNorm(64)  # type: ignore[assignment]
        train(model, lambda g: ragged_batch(text, length, g), 150)
        generator = torch.Generator().manual_seed(1)
        batches = [ragged_batch(held_out, length, generator) for _ in range(6)]
        with torch.no_grad():
            full = torch.cat([losses(model, batch)[counts] for batch, counts in batches]).mean()
            singles = [alone(model, batch, counts) for batch, counts in batches]
            model.eval()
            running = torch.cat([losses(model, batch)[counts] for batch, counts in batches]).mean()
        single = torch.cat([loss for each, _ in singles for loss in each]).mean()
        moved = max(largest for _, largest in singles)
        key = name.split()[0]
        label = f"bits per character, padded batch of 16, {name}"
        demo.number(f"{key}_batch", full.item(), ".2f", label)
        demo.number(f"{key}_single", single.item(), ".2f", f"bits per character, one sequence alone, {name}")
        rows.append([name, f"{full:.2f}", f"{running:.2f}", f"{single:.2f}", f"{moved:.2g}"])
    columns = ["", "padded batch of 16", "evaluation mode", "one sequence alone", "largest change of a logit"]
    caption = "Bits per character on held-out text. In evaluation mode batch norm uses running statistics."
    demo.table("norms", columns, rows, caption=caption)


def compare_positions(demo: Demo, text: Tensor, held_out: Tensor) -> None:
    """Train at 64 characters, read 512: bits per character by where in the window a character stands."""
    length, longest = 64, 512
    edges = [0, 64, 128, 256, 512]
    styles = {"none": GREY, "learned": RED, "sinusoidal": ORANGE, "rotary": BLUE, "alibi": GREEN}
    fig, axis = plt.subplots(figsize=(8, 3.8), layout="constrained")
    rows = []
    with demo.progress("training with five kinds of positions", total=len(styles)) as advance:
        for position, colour in styles.items():
            torch.manual_seed(0)
            model = Reader(position, longest)
            train(model, lambda g: (windows(text, 16, length, g), slice(None)), 140)
            generator = torch.Generator().manual_seed(1)
            with torch.no_grad():
                bits = [losses(model, windows(held_out, 8, longest, generator)) for _ in range(4)]
            each = torch.cat(bits).mean(0)
            cells = [each[a:b].mean().item() for a, b in pairwise(edges)]
            rows.append([position, *(f"{cell:.2f}" for cell in cells)])
            for key, cell, where in (
                ("in", cells[0], "up to position 64"),
                ("out", cells[-1], "at 256 to 512"),
            ):
                demo.number(f"{position}_{key}", cell, ".2f", f"bits per character {where}, {position}")
            blocks = each.view(-1, 32).mean(1)
            axis.plot(16 + 32 * np.arange(len(blocks)), blocks, color=colour, linewidth=2, label=position)
            advance()
    axis.axvline(length, color="black", linewidth=1)
    axis.text(length + 5, axis.get_ylim()[1], "trained up to here", va="top")
    axis.set(xlabel="position in the window", ylabel="bits per character")
    axis.legend(frameon=False, ncols=5, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    columns = ["positions", *(f"{a} to {b}" for a, b in pairwise(edges))]
    caption = (
        "Bits per character on held-out source text, by position; all trained at 64 characters, same steps."
    )
    demo.table("positions", columns, rows, caption=caption)
    demo.figure(
        "positions",
        fig,
        alt="Loss over the position in a window of 512 for five kinds of positions, trained at 64.",
        caption="Trained at 64 characters, read at 512: beyond the line every position is new.",
    )


def main() -> None:
    """Run all five parts."""
    plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "font.size": 11})
    torch.set_num_threads(1)
    demo = Demo(__file__)
    text, held_out = read_source(argparse, inspect), read_source(ast)
    draw_block(demo)
    count(demo)
    compare_depth(demo, text)
    compare_training(demo, text)
    compare_norms(demo, text, held_out)
    compare_positions(demo, text, held_out)
    demo.finish()


if __name__ == "__main__":
    main()
