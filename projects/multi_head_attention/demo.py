"""What heads are for, and what a cache saves, on real text: the source of Python's own argparse module.

1. Which numbers of a token belong to which head: the right reshape and two wrong ones.
2. A task of two lookups, trained with one head and with two of half the width: one is not enough.
3. The next character: bits per character for 1 to 8 heads and for shared key heads, same width.
4. Decoding: time per token with a cache and without, over the length of the text.
5. What it costs: FLOPs, checked with torch's counter, and bytes of cache for MHA, GQA and MQA.
"""

from __future__ import annotations

import argparse
import inspect
import math
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from matplotlib.colors import ListedColormap
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from grouped_query_attention import MultiHeadAttention
from key_value_cache import KeyValueCache

sys.path.append(str(Path(__file__).resolve().parents[2]))  # the repository root, for shared/
from shared.measuring.demo import Demo

BLUE, ORANGE, GREEN, RED, GREY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#7f7f7f"  # Okabe and Ito
TRAIN_TEXT, TEST_TEXT = inspect.getsource(argparse), inspect.getsource(textwrap)
ALPHABET = sorted(set(TRAIN_TEXT + TEST_TEXT))
D_MODEL, T, BATCH = 64, 32, 32
LOOKUPS = (2, 5)  # how many characters back


def encoded(text: str) -> Tensor:
    """Return a text as numbers."""
    return torch.tensor([ALPHABET.index(character) for character in text])


def windows(text: Tensor, generator: torch.Generator, n: int = BATCH, length: int = T) -> Tensor:
    """Return `n` random windows of a text, (n, length)."""
    starts = torch.randint(0, len(text) - length, (n, 1), generator=generator)
    return text[starts + torch.arange(length)]


class OneLayer(nn.Module):
    """Characters and sinusoidal positions, one causal attention, one linear layer to the logits.

    There is nothing else between the tokens, so all that a token knows of others came through its heads.
    """

    def __init__(
        self, n_heads: int, n_kv_heads: int | None = None, *, n_answers: int, residual: bool
    ) -> None:
        super().__init__()
        self.residual, self.n_answers = residual, n_answers
        self.embedding = nn.Embedding(len(ALPHABET), D_MODEL)
        angles = torch.arange(T)[:, None] * 10_000.0 ** (-torch.arange(0, D_MODEL, 2) / D_MODEL)
        self.register_buffer("positions", torch.cat([angles.sin(), angles.cos()], 1))
        self.attention = MultiHeadAttention(D_MODEL, n_heads, n_kv_heads=n_kv_heads, causal=True)
        self.logits = nn.Linear(D_MODEL, n_answers * len(ALPHABET))

    def embedded(self, tokens: Tensor) -> Tensor:
        """Return what the attention sees, (B, T, D_MODEL)."""
        return self.embedding(tokens) + self.positions

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits, (B, T, n_answers, characters)."""
        x = self.embedded(tokens)
        x = self.attention(x) + (x if self.residual else 0)
        logits: Tensor = self.logits(x)
        return logits.view(*tokens.shape, self.n_answers, -1)


def train(
    model: OneLayer, loss_of: Callable[[Tensor, Tensor], Tensor], n_steps: int, advance: Callable[[], None]
) -> list[float]:
    """Train with Adam on random windows of argparse, the same for every model; return the losses."""
    generator, text = torch.Generator().manual_seed(0), encoded(TRAIN_TEXT)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(n_steps):
        tokens = windows(text, generator)
        loss = loss_of(model(tokens), tokens)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        advance()
    return losses


def looked_up(tokens: Tensor) -> Tensor:
    """Return the characters two and five back, for the tokens that have both, (B, T - 5, 2)."""
    return torch.stack([tokens[:, max(LOOKUPS) - k : T - k] for k in LOOKUPS], -1)


def lookup_loss(logits: Tensor, tokens: Tensor) -> Tensor:
    """Return the cross-entropy of both answers."""
    return F.cross_entropy(logits[:, max(LOOKUPS) :].flatten(0, 2), looked_up(tokens).flatten())


def draw_split(demo: Demo) -> None:
    """Colour the numbers of 6 tokens, d_model 12, by the head that gets them: three heads, three reshapes."""
    n_tokens, d_model, n_heads = 6, 12, 3
    numbers = torch.arange(n_tokens * d_model).reshape(n_tokens, d_model)
    splits = {
        "right: split the last axis, then transpose": numbers.unflatten(1, (n_heads, -1)).transpose(0, 1),
        "view(n_heads, T, d_head):\nheads get tokens": numbers.view(n_heads, n_tokens, -1),
        "unflatten(1, (d_head, n_heads)):\nevery third number": numbers.unflatten(1, (-1, n_heads)).permute(
            2, 0, 1
        ),
    }
    fig, axes = plt.subplots(1, 3, figsize=(9, 2.3), layout="constrained")
    for axis, (title, heads) in zip(axes, splits.items(), strict=True):
        owner = torch.empty(n_tokens * d_model)
        for head, own in enumerate(heads):
            owner[own.flatten()] = head
        axis.imshow(
            owner.reshape(n_tokens, d_model), cmap=ListedColormap([BLUE, ORANGE, GREEN]), aspect="auto"
        )
        axis.set_title(title, fontsize=9)
        axis.set(xlabel="d_model", xticks=[], yticks=[])
        for line in range(d_model):
            axis.axvline(line - 0.5, color="white", linewidth=0.6)
        for line in range(n_tokens):
            axis.axhline(line - 0.5, color="white", linewidth=0.6)
    axes[0].set_ylabel("token")
    demo.figure(
        "split",
        fig,
        alt="Tokens by d_model, coloured by head: three bands of columns; bands of rows; stripes.",
        caption="Only the first split gives each head its slice of every token; all three run without an "
        "error.",
    )


def two_lookups(demo: Demo) -> None:
    """Name the character two back and the one five back: each head can look at one place."""
    n_steps = 260
    held_out = windows(encoded(TEST_TEXT), torch.Generator().manual_seed(1), 500)
    models, losses = {}, {}
    with demo.progress("two lookups", total=2 * n_steps) as advance:
        for n_heads in (1, 2):
            torch.manual_seed(0)
            models[n_heads] = OneLayer(n_heads, n_answers=2, residual=False)
            losses[n_heads] = train(models[n_heads], lookup_loss, n_steps, advance)
    for n_heads, model in models.items():
        with torch.no_grad():
            answers = model(held_out)[:, max(LOOKUPS) :].argmax(-1)
        right = (answers == looked_up(held_out)).double()
        name = f"{n_heads} head{'s' if n_heads > 1 else ''}"
        demo.number(f"lookup_{n_heads}", right.mean(), ".1%", f"two lookups, {name}: right in unseen text")
        demo.number(f"both_{n_heads}", right.prod(-1).mean(), ".1%", f"two lookups, {name}: both right")
    n_parameters = sum(p.numel() for p in models[1].attention.parameters())
    assert n_parameters == sum(p.numel() for p in models[2].attention.parameters())
    demo.number("parameters", n_parameters, ",.0f", "parameters of the attention, with one head and with two")
    draw_lookups(demo, models, losses)


def draw_lookups(demo: Demo, models: dict[int, OneLayer], losses: dict[int, list[float]]) -> None:
    """Draw the maps of all heads on one line of code, and the losses."""
    line = "parser = argparse.ArgumentParser(prog=None, usage=None)"[:T]
    fig, grid = plt.subplots(2, 2, figsize=(9, 8), layout="constrained")
    axes = list(grid.flat)
    panels = [(1, 0, "the only head"), (2, 0, "two heads: the first"), (2, 1, "two heads: the second")]
    for axis, (n_heads, head, title) in zip(axes, panels, strict=False):
        model = models[n_heads]
        tokens = encoded(line)[None]
        maps = model.attention.attention_maps(model.embedded(tokens))[0, head]
        image = axis.imshow(maps, cmap="Blues", vmin=0, vmax=1)
        axis.set(title=title, xlabel="looks at", xticks=range(T), yticks=range(T))
        axis.set_xticklabels(line, fontsize=6, family="monospace")
        axis.set_yticklabels(line, fontsize=6, family="monospace")
        axis.tick_params(length=0)
    axes[0].set_ylabel("token")
    fig.colorbar(image, ax=axes[2], shrink=0.75, label="attention weight")
    for n_heads, colour in ((1, ORANGE), (2, BLUE)):
        axes[3].semilogy(losses[n_heads], color=colour, label=f"{n_heads} head{'s' if n_heads > 1 else ''}")
    axes[3].set(title="training loss", xlabel="step", ylabel="nats per answer")
    axes[3].legend(frameon=False)
    demo.figure(
        "heads",
        fig,
        alt="Attention maps of a line of code. The only head is blurred; two heads have one diagonal each. "
        "The loss of one head stays high.",
        caption="One head blurs; two heads look at one place each. The task: name the characters "
        "two and five back.",
    )


def next_character(demo: Demo) -> None:
    """Bits per character of a one-layer language model, by heads; d_model and training are the same."""
    n_steps = 150

    def loss_of(logits: Tensor, tokens: Tensor) -> Tensor:
        return F.cross_entropy(logits[:, :-1, 0].flatten(0, 1), tokens[:, 1:].flatten())

    held_out = windows(encoded(TEST_TEXT), torch.Generator().manual_seed(1), 500)
    forms = [(1, 1), (2, 2), (8, 8), (8, 1)]
    bits, rows = {}, []
    with demo.progress("next character", total=len(forms) * n_steps) as advance:
        for n_heads, n_kv_heads in forms:
            torch.manual_seed(0)
            model = OneLayer(n_heads, n_kv_heads, n_answers=1, residual=True)
            train(model, loss_of, n_steps, advance)
            with torch.no_grad():
                bits[n_heads, n_kv_heads] = loss_of(model(held_out), held_out).item() / math.log(2)
            n_parameters = sum(p.numel() for p in model.attention.parameters())
            rows.append(
                [
                    n_heads,
                    n_kv_heads,
                    D_MODEL // n_heads,
                    f"{n_parameters:,}",
                    2 * n_kv_heads * (D_MODEL // n_heads),
                    f"{bits[n_heads, n_kv_heads]:.2f}",
                ]
            )
    columns = ["heads", "kv heads", "d_head", "parameters", "cached numbers per token", "bits per character"]
    demo.table(
        "next_character",
        columns,
        rows,
        caption=f"One attention layer predicts the next character of unseen text after {n_steps} steps on argparse.",
    )
    demo.number("bits_1", bits[1, 1], ".2f", "bits per character, one head")
    demo.number("bits_8", bits[8, 8], ".2f", "bits per character, eight heads")
    demo.number("bits_mqa", bits[8, 1], ".2f", "bits per character, eight heads that share one key head")


def seconds_of(call: Callable[[], object], n: int) -> float:
    """Return the shortest of `n` calls: the one that other programs disturbed least."""
    times = []
    for _ in range(n):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


@torch.no_grad()
def decoding(demo: Demo) -> None:
    """Time one new token, with and without a cache, after 16 to 1024 tokens."""
    torch.manual_seed(0)
    attention = MultiHeadAttention(512, 8, causal=True).eval()
    lengths = [16, 32, 64, 128, 256, 512, 1024]
    x = torch.randn(1, max(lengths), 512)
    cached, recomputed = [], []
    for length in lengths:
        cache = KeyValueCache(length + 20)
        attention(x[:, : length - 1], cache=cache)
        cached.append(seconds_of(lambda c=cache: attention(x[:, :1], cache=c), 20) * 1e3)  # type: ignore[misc]
        recomputed.append(seconds_of(lambda n=length: attention(x[:, :n]), 4) * 1e3)  # type: ignore[misc]
    demo.number("cached_ms", cached[-1], ".2f", "ms for token 1024 with a cache (d 512, 8 heads, one core)")
    demo.number("recomputed_ms", recomputed[-1], ".0f", "ms for token 1024 without")
    demo.number("decode_speedup", recomputed[-1] / cached[-1], ".0f", "times faster with a cache")

    fig, axis = plt.subplots(figsize=(7, 3.6), layout="constrained")
    axis.loglog(lengths, recomputed, "o-", color=ORANGE, label="the whole sequence again")
    axis.loglog(lengths, cached, "o-", color=BLUE, label="with a cache")
    axis.set(xlabel="tokens so far", ylabel="ms for the next token")
    axis.set_xticks(lengths, [str(n) for n in lengths])
    axis.minorticks_off()
    axis.legend(frameon=False)
    demo.figure(
        "decoding",
        fig,
        alt="Time for one token over the tokens so far, both axes logarithmic: with a cache it is nearly flat, "
        "without it grows in proportion and faster.",
        caption="With a cache the next token costs about the same at any length. 8 heads, d_model 512.",
    )


def count_flops(demo: Demo) -> None:
    """Check 2·Tq·(2d² + 2·d·n_kv·d_head) + 4·Tq·Tk·d, times B, with torch's counter."""
    rows = []
    for B, n, d_model, n_heads, n_kv_heads in [
        (2, 256, 512, 8, 8),
        (2, 256, 512, 8, 1),
        (2, 2048, 512, 8, 8),
    ]:
        attention = MultiHeadAttention(d_model, n_heads, n_kv_heads=n_kv_heads)
        d_kv = n_kv_heads * attention.d_head
        projections, scores = 2 * B * n * (2 * d_model**2 + 2 * d_model * d_kv), 4 * B * n**2 * d_model
        with FlopCounterMode(display=False) as counter, torch.device("meta"):
            attention.to("meta")(torch.empty(B, n, d_model))
        assert counter.get_total_flops() == projections + scores, (
            counter.get_total_flops(),
            projections,
            scores,
        )
        rows.append(
            [B, n, d_model, n_heads, n_kv_heads]
            + [f"{flops / 1e9:.2f}" for flops in (projections, scores, projections + scores)]
        )
    columns = ["B", "T", "d", "heads", "kv heads", "projections", "scores and sums", "GFLOP"]
    demo.table(
        "flops", columns, rows, caption="Forward pass; torch's own FLOP counter agrees to the last one."
    )


def count_cache_bytes(demo: Demo) -> None:
    """Bytes of cache per token and per sequence, for the shape of Llama 2 70B and its neighbours."""
    n_layers, n_heads, d_head, n_tokens = 80, 64, 128, 4096
    rows: list[list[Any]] = []
    sizes = {}
    for name, n_kv_heads in (("MHA", n_heads), ("GQA", 8), ("MQA", 1)):
        cache = KeyValueCache(n_tokens)
        one = torch.empty(1, n_kv_heads, 1, d_head, dtype=torch.bfloat16)
        n_bytes = sum(x.untyped_storage().nbytes() for x in cache.append(one, one))
        assert n_bytes == 2 * n_kv_heads * d_head * n_tokens * 2
        sizes[name] = n_layers * n_bytes / 1e9
        rows.append([name, n_kv_heads, f"{n_layers * n_bytes / n_tokens / 1e3:.0f}", f"{sizes[name]:.2f}"])
    demo.table(
        "cache_bytes",
        ["", "kv heads", "kB per token", "GB per sequence"],
        rows,
        caption=f"bfloat16 cache of one sequence of {n_tokens} tokens: {n_layers} layers, {n_heads} heads of {d_head}.",
    )
    for name, gigabytes in sizes.items():
        demo.number(f"cache_{name.lower()}", gigabytes, ".2f", f"GB of cache, {name}, 4096 tokens")


def main() -> None:
    """Run all parts on one thread."""
    plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "font.size": 10})
    torch.set_num_threads(1)
    demo = Demo(__file__)
    draw_split(demo)
    two_lookups(demo)
    next_character(demo)
    decoding(demo)
    count_flops(demo)
    count_cache_bytes(demo)
    demo.finish()


if __name__ == "__main__":
    main()
