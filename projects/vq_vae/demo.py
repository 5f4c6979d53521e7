"""Digits as tokens: what they look like, what the bits buy, what keeps the codes alive, and what tokens are good for.

1. Straight-through in the plane: what each of the three losses moves.
2. Rate and distortion beside K-means on patches and PCA.
3. Held-out digits, their tokens, what comes back, and the codebook.
4. Codes in use, with and without restart; what one batch says about it.
5. Faults that a loss curve does not show.
6. A linear classifier on tokens, and digits that a prior writes.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

import evaluate
import vq_vae
from evaluate import Split
from prior import Prior, sample, train_prior
from rate_distortion import bits_per_image, kmeans_on_patches, pca_at_bits
from vq_vae import VQVAE, nearest_codes, perplexity, straight_through, train, vq_losses

sys.path.append(str(Path(__file__).resolve().parents[2]))  # the repository root, for shared/
from shared.measuring.demo import Demo

BLUE, ORANGE, GREEN, RED, GREY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#7f7f7f"  # Okabe and Ito
N_CODES, N_EPOCHS = 128, 40
RATES = (2, 8, 32, 128, 256)  # numbers of codes


def seeded(seed: int = 0) -> Generator:
    """Return a generator."""
    return Generator().manual_seed(seed)


class Run(NamedTuple):
    """A trained model and what was seen of it."""

    model: VQVAE
    loss: float  # the reconstruction's, in the last epoch
    error: float  # mean squared error of the held-out digits
    usage: Tensor  # how often the training digits use each code, (K,)


def trained(data: Split, n_codes: int, n_epochs: int, *, decay: float | None = 0.99, **options: Any) -> Run:
    """Train on the digits with options of `train`, and look at the ones that were held out."""
    model = VQVAE(n_codes, decay=decay, generator=seeded())
    records = train(model, data.train_images, n_epochs, **options)
    model.eval()
    with torch.no_grad():
        error = F.mse_loss(model(data.test_images)[0], data.test_images).item()
        usage = model.encode(data.train_images).flatten().bincount(minlength=n_codes)
    return Run(model, records[-1]["reconstruction"], error, usage)


# --- the plane --------------------------------------------------------------------------------------------------


def draw_cells(axis: Any, codebook: Tensor, z: Tensor, z_q: Tensor) -> None:
    """Draw the codes with the borders of their cells, as `nearest_codes` sees them, and each vector tied to its code."""
    x, y = torch.meshgrid(torch.linspace(-2.2, 2.2, 300), torch.linspace(-1.9, 1.9, 260), indexing="xy")
    owner = nearest_codes(torch.stack([x, y], dim=-1), codebook)
    for k in range(len(codebook)):
        axis.contour(x, y, owner == k, levels=[0.5], colors="#bbbbbb", linewidths=1)
    axis.plot(*torch.stack([z, z_q]).permute(2, 0, 1), ":", color=GREY, linewidth=1.2, zorder=1)
    axis.plot(*codebook.T, "s", color="black", markersize=7, label="codes e")
    axis.plot(*z.T, "o", color="white", markeredgecolor="black", markersize=7, label="vectors z")
    axis.set(xlim=(-2.2, 2.2), ylim=(-1.9, 1.9), aspect="equal", xticks=[], yticks=[])
    axis.spines[:].set_visible(True)


def draw_arrows(axis: Any, tails: Tensor, steps: Tensor, colour: str, label: str) -> None:
    """Draw those of the steps (n, 2) that are not zero as arrows."""
    moves = steps.norm(dim=1) > 1e-6
    options: dict[str, Any] = {"angles": "xy", "scale_units": "xy", "scale": 1, "width": 0.011, "zorder": 3}
    axis.quiver(*tails[moves].T, *steps[moves].T, color=colour, label=label, **options)


def straight_through_figure(demo: Demo) -> None:
    """Draw the descent steps that the three losses ask for, all by autograd."""
    e = torch.tensor([[-1.4, 0.9], [0.1, 1.2], [1.5, 0.8], [-1.3, -0.8], [0.2, -0.2], [1.3, -1.1]])
    z = torch.tensor(
        [[-0.8, 1.5], [-1.7, 0.0], [0.55, -0.8], [0.75, 0.4], [1.9, -0.5], [-0.5, -1.3], [1.1, 1.5]]
    )
    codebook, z = e.clone().requires_grad_(), z.requires_grad_()
    z_q = codebook[nearest_codes(z, codebook)]
    decoded, goal = straight_through(z, z_q), torch.tensor([0.3, 0.5])
    at_code = torch.autograd.grad(0.2 * (z_q - goal).square().sum(), z_q, retain_graph=True)[0]
    loss = 0.2 * (decoded - goal).square().sum()
    at_z, at_codebook = torch.autograd.grad(loss, (z, codebook), allow_unused=True, retain_graph=True)
    reached = 0.0 if at_codebook is None else at_codebook.abs().max().item()
    demo.number(
        "copied", (at_z - at_code).abs().max().item(), ".1g", "largest difference of ∂L/∂z and ∂L/∂z_q"
    )
    demo.number("reached", reached, ".1g", "largest gradient of the reconstruction by a code")
    _, codebook_loss, commitment = vq_losses(z, z, z, z_q)
    to_vectors = torch.autograd.grad(codebook_loss, codebook)[0]
    to_codes = torch.autograd.grad(commitment, z)[0]

    z, z_q = z.detach(), z_q.detach()
    fig, (left, right) = plt.subplots(1, 2, figsize=(8, 4.4), layout="constrained")
    draw_cells(left, e, z, z_q)
    draw_cells(right, e, z, z_q)
    draw_arrows(left, z_q, -at_code, ORANGE, "-∂L/∂z_q, at the code")
    draw_arrows(left, z, -at_z, BLUE, "the same, passed to z")
    draw_arrows(right, e, -3 * to_vectors, GREEN, "codebook loss moves codes")
    draw_arrows(right, z, -12 * to_codes, RED, "commitment moves vectors")
    left.set_title("reconstruction, straight through", fontsize=11)
    right.set_title("codebook loss and commitment", fontsize=11)
    for axis in (left, right):
        axis.legend(frameon=False, fontsize=9.5, ncols=2, loc="upper center", bbox_to_anchor=(0.5, 0))
    demo.figure(
        "straight_through",
        fig,
        alt="A plane cut into the cells of six codes, with seven vectors. Left: an arrow at each code, and a parallel one of "
        "the same length at each vector of its cell. Right: arrows from codes to vectors, and from vectors to their codes.",
        caption="The reconstruction's gradient goes past the code to the vectors; the two other losses draw codes and vectors together. Descent steps, by autograd. Each vector of a cell gets the step that the decoder wants of its code, and the code none; commitment is drawn four times as long as it is. Nothing moves the code that no vector chose.",
    )


# --- bits, digits and tokens ------------------------------------------------------------------------------------


def rate_distortion(demo: Demo, data: Split) -> Run:
    """Train at five rates; K-means and PCA get as many bits. Return the run with N_CODES codes."""
    runs, errors, images = {}, [], (data.train_images, data.test_images)
    bits = [round(bits_per_image(n_codes)) for n_codes in RATES]
    with demo.progress("training at five rates", total=len(RATES)) as advance:
        for n_codes, n_bits in zip(RATES, bits, strict=True):
            run = runs[n_codes] = trained(data, n_codes, N_EPOCHS)
            errors.append((run.error, kmeans_on_patches(*images, n_codes), pca_at_bits(*images, n_bits)))
            advance()
    methods = {"vq": "VQ-VAE", "kmeans": "K-means on patches", "pca": "PCA, coefficients rounded"}
    fig, axis = plt.subplots(figsize=(8, 3.8), layout="constrained")
    styles = ((BLUE, "o-"), (ORANGE, "s--"), (GREEN, "^:"))
    for (key, name), (colour, style), curve in zip(
        methods.items(), styles, zip(*errors, strict=True), strict=True
    ):
        axis.semilogy(bits, curve, style, color=colour, linewidth=2, label=name)
        for n_codes, error in zip(RATES, curve, strict=True):
            demo.number(f"{key}_{n_codes}", error, ".4f", f"held-out error, {name}, K = {n_codes}")
    axis.set_xticks(bits, [f"{n}\nK = {n_codes}" for n, n_codes in zip(bits, RATES, strict=True)])
    ticks = (0.002, 0.005, 0.01, 0.02, 0.05)
    axis.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()
    axis.set(xlabel="bits per digit", ylabel="mean squared error")
    axis.legend(frameon=False)
    rows = [
        [f"{k}", f"{n}", *(f"{error:.4f}" for error in row), f"{(runs[k].usage > 0).sum()}"]
        for k, n, row in zip(RATES, bits, errors, strict=True)
    ]
    caption = f"Error of held-out digits after {N_EPOCHS} epochs. Codebooks, networks and axes are not counted as bits."
    columns = ["K", "bits per digit", *methods.values(), "codes in use"]
    demo.table("rate_distortion", columns, rows, caption=caption)
    demo.figure(
        "rate_distortion",
        fig,
        alt="Error over bits per digit, three falling curves. The VQ-VAE's begins far below that of K-means on patches, and "
        "crosses it on the way to many bits.",
        caption="With few codes the VQ-VAE is far ahead; with many, K-means on patches of four "
        f"pixels is. Bits against error of held-out digits, after {N_EPOCHS} epochs.",
    )
    return runs[N_CODES]


def show(axis: Any, image: Tensor) -> None:
    """Draw an image in a thin frame."""
    axis.imshow(image.squeeze().numpy(), cmap="gray_r", vmin=0, vmax=1)
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set(visible=True, color="#cccccc")


@torch.no_grad()
def code_patches(model: VQVAE, images: Tensor) -> Tensor:
    """Return (K, 4, 4), what each code looks like: the mean of what comes back at its 2 × 2 pixels and one around."""
    tokens = model.encode(images)
    windows = F.unfold(model.decode(tokens), 4, padding=1, stride=2)  # (n, 16 pixels, 16 places)
    chosen = F.one_hot(tokens.flatten(), len(model.quantizer.codebook)).float()
    return (chosen.T @ windows.mT.flatten(0, 1) / chosen.sum(dim=0)[:, None]).view(-1, 4, 4)


def draw_codebook(axis: Any, patches: Tensor, *, per_row: int = 32) -> None:
    """Draw all patches as one strip of rows, with the number of the first of each row."""
    tiles = F.pad(patches, (0, 1, 0, 1), value=torch.nan).unflatten(0, (-1, per_row))  # a pixel between them
    axis.imshow(tiles.transpose(1, 2).flatten(2).flatten(0, 1), cmap="gray_r", vmin=0, vmax=1)
    axis.set_yticks(
        [5 * row + 1.5 for row in range(len(tiles))], [f"{per_row * row}" for row in range(len(tiles))]
    )
    axis.set(xticks=[], facecolor="#9ecae1")
    axis.tick_params(length=0, labelsize=9)
    axis.spines[:].set_visible(False)
    axis.set_title("the codebook: what comes back around each code, on average", fontsize=11)


def reconstructions_figure(demo: Demo, data: Split, run: Run) -> None:
    """Draw eight held-out digits, their tokens, their reconstructions; below them the codebook, most frequent first."""
    chosen = torch.stack([data.test_images[data.test_labels == k][2] for k in (0, 1, 2, 3, 4, 6, 8, 9)])
    with torch.no_grad():
        tokens = run.model.encode(chosen)
        back = run.model.decode(tokens)
    order = run.usage.argsort(descending=True, stable=True)
    ranks = order.argsort()[tokens]
    fig: Any = plt.figure(figsize=(8, 4.6), layout="constrained")
    above, below = fig.subfigures(2, 1, height_ratios=[3, 1.6])
    axes = above.subplots(3, len(chosen))
    for i, ((top, middle, bottom), rank) in enumerate(zip(axes.T, ranks, strict=True)):
        show(top, chosen[i])
        show(bottom, back[i])
        middle.imshow(rank.float().log1p(), cmap="YlGnBu", vmin=0, vmax=1.6 * math.log(N_CODES))
        middle.set(xticks=[], yticks=[])
        middle.spines[:].set_visible(False)
        for place, number in enumerate(rank.flatten().tolist()):
            middle.text(place % 4, place // 4, f"{number}", ha="center", va="center", fontsize=7.5)
    for axis, name in zip(axes[:, 0], ("digit", "tokens", "decoded"), strict=True):
        axis.set_ylabel(name)
    draw_codebook(below.subplots(), code_patches(run.model, data.train_images)[order])
    demo.figure(
        "reconstructions",
        fig,
        alt="Eight handwritten digits of 8 × 8 pixels, under each a grid of 4 × 4 numbers, and under that the digit that the "
        f"decoder makes of them, nearly the same. Below, {N_CODES} small patches: blanks, strokes, ends, corners.",
        caption="A code stands for a piece of stroke: 2 × 2 pixels, shown with one pixel around. Held-out digits, their 16 tokens, and what the decoder makes of the tokens alone. Codes are numbered by how often they occur.",
    )
    demo.number("bits", bits_per_image(N_CODES), ".0f", f"bits per digit, K = {N_CODES}")
    variance = data.test_images.var(dim=0).mean().item()
    demo.number("variance", variance, ".3f", "variance of a pixel: the error of the mean digit")


# --- codes in use -----------------------------------------------------------------------------------------------


def perplexity_of_batches(run: Run, images: Tensor, size: int) -> float:
    """Return the mean perplexity that whole batches of `size` digits show, each alone."""
    with torch.no_grad():
        batches = run.model.encode(images).flatten(1)[: len(images) // size * size].view(-1, 16 * size)
    shown = [perplexity(tokens.bincount(minlength=len(run.usage))) for tokens in batches]
    return torch.stack(shown).mean().item()


def usage_figure(demo: Demo, data: Split, alive: Run) -> None:
    """Draw how often each code is used, with and without restart, and what perplexity a batch shows."""
    images, n_codes = data.train_images, len(alive.usage)
    dying = trained(data, n_codes, N_EPOCHS, restart=False)
    fig, (left, right) = plt.subplots(1, 2, figsize=(8, 3.6), layout="constrained")
    sizes = [1, 4, 16, 64, 256, len(images)]
    for key, run, colour in (("with", alive, BLUE), ("without", dying, RED)):
        share = 100 * run.usage.sort(descending=True).values / run.usage.sum()
        name, used = f"{key} restart", int((run.usage > 0).sum())
        left.stairs(share, baseline=0.05, color=colour, linewidth=2, fill=key == "with", label=name)
        seen = [perplexity_of_batches(run, images, size) for size in sizes]
        right.plot(sizes, seen, "o-", color=colour, linewidth=2, label=name)
        demo.number(f"used_{key}", used, "d", f"codes in use {name}")
        demo.number(f"perplexity_{key}", seen[-1], ".0f", f"perplexity over the training digits, {name}")
        demo.number(f"batch_{key}", seen[1], ".0f", f"mean perplexity of {sizes[1]} digits alone, {name}")
        demo.number(f"error_{key}", run.error, ".4f", f"held-out error {name}")
    demo.number("n_codes", n_codes, "d", "of so many codes")
    left.set(xlabel="codes, most frequent first", ylabel="% of tokens", yscale="log", ylim=(0.05, None))
    left.set_yticks([0.1, 1, 10], ["0.1", "1", "10"])
    right.set(xlabel="digits counted", ylabel="perplexity", xscale="log", ylim=(0, None))
    right.set_xticks(sizes, [f"{size}" for size in sizes])
    right.minorticks_off()
    left.legend(frameon=False)
    right.legend(frameon=False)
    demo.figure(
        "usage",
        fig,
        alt="Left: share of tokens per code, most frequent first: with restart all codes are in use, without it only the "
        "first few. Right: perplexity over digits counted: with restart it grows until hundreds are counted.",
        caption=f"Without restart most of {n_codes} codes are dead. A few "
        "digits cannot show how many are in use, so count over the data set.",
    )


# --- what a loss curve does not show ----------------------------------------------------------------------------

Terms = tuple[Tensor, Tensor, Tensor]


def exchanged(x: Tensor, back: Tensor, z: Tensor, z_q: Tensor, *, beta: float) -> Terms:
    """`vq_losses` with the sides of both detachments exchanged."""
    return F.mse_loss(back, x), F.mse_loss(z, z_q.detach()), beta * F.mse_loss(z_q, z.detach())


def undetached(x: Tensor, back: Tensor, z: Tensor, z_q: Tensor, *, beta: float) -> Terms:
    """`vq_losses` without its detachments."""
    return F.mse_loss(back, x), F.mse_loss(z_q, z), beta * F.mse_loss(z, z_q)


def compare_faults(demo: Demo, data: Split, *, n_codes: int = 64, n_epochs: int = 20) -> None:
    """Train with one fault at a time, the codebook by its loss; look at errors, sizes, and what the second term moves."""
    variants: dict[str, tuple[str, Callable[..., Terms], dict[str, Any]]] = {
        "right": ("as it is", vq_losses, {}),
        "exchanged": ("sides of detachment exchanged", exchanged, {}),
        "undetached": ("nothing detached", undetached, {}),
        "beta_0": ("no commitment, β = 0", vq_losses, {"beta": 0.0}),
        "no_restart": ("no restart", vq_losses, {"restart": False}),
    }
    rows = []
    for key, (name, losses, options) in variants.items():
        with patch.object(vq_vae, "vq_losses", losses):
            model, loss, error, usage = trained(data, n_codes, n_epochs, decay=None, **options)
        back, z, z_q, _ = model(data.test_images)
        second = losses(data.test_images, back, z, z_q, beta=0.25)[1]
        gradients = torch.autograd.grad(second, (z, z_q), allow_unused=True)
        moved = [part for part, g in zip(("vectors", "codes"), gradients, strict=True) if g is not None]
        size = z.square().mean().sqrt().item()
        demo.number(f"loss_{key}", loss, ".4f", f"reconstruction loss, last epoch, {name}")
        demo.number(f"size_{key}", size, ".2f", f"size of z (root mean square), {name}")
        used = f"{(usage > 0).sum()}, {perplexity(usage):.0f}"
        rows.append([name, f"{loss:.4f}", f"{error:.4f}", used, f"{size:.2f}", " and ".join(moved)])
    columns = ["", "loss", "held-out error", "codes in use, perplexity", "size of z", "codebook loss moves"]
    caption = (
        f"{n_codes} codes, {n_epochs} epochs, one fault at a time. Loss: the reconstruction's in the last epoch. Size: root "
        "mean square. The second and third row train as well as the first; what the single term moves tells them apart."
    )
    demo.table("faults", columns, rows, caption=caption)


# --- what the tokens are good for -------------------------------------------------------------------------------


KINDS = {"pixels": "from pixels", "tokens": "from tokens", "untrained": "from an untrained encoder's tokens"}
KINDS |= {"real": "held out", "reconstructed": "held out, decoded from tokens", "uniform": "all codes alike"}
KINDS |= {"prior": "by the prior", "class_places": "each place alone, by class", "places": "each place alone"}


def samples_figure(demo: Demo, data: Split, model: VQVAE, *, n_epochs: int = 30) -> None:
    """Read digits from tokens; train a prior on them, and draw with it, and each place on its own."""
    for key, share in evaluate.probe_tokens(model, data).items():
        demo.number(
            f"probe_{key}", share, ".1%", f"held-out digits that a linear classifier reads {KINDS[key]}"
        )
    with torch.no_grad():
        tokens = model.encode(data.train_images)
    prior = Prior(N_CODES)
    train_prior(prior, tokens.flatten(1), data.train_labels, n_epochs)
    prior.eval()
    judge = evaluate.fit_judge(data.train_images, data.train_labels)
    for key, share in evaluate.judge_samples(model, prior, judge, data, n_per_digit=50).items():
        demo.number(f"judged_{key}", share, ".1%", f"read as asked for by the judge: {KINDS[key]}")
    for key, bits in evaluate.held_out_bits(model, prior, data).items():
        demo.number(f"bits_{key}", bits, ".0f", f"bits of a held-out digit's tokens: {KINDS[key]}")

    frequencies = evaluate.class_frequencies(tokens, data.train_labels, N_CODES)
    with torch.no_grad():
        drawn = sample(prior, torch.arange(10).repeat(4), generator=seeded()).view(4, 10, 4, 4)
        alone = torch.stack(
            [evaluate.draw_each_place(f, 2, generator=seeded(k)) for k, f in enumerate(frequencies)], dim=1
        )
        images = model.decode(torch.cat([drawn, alone]).flatten(0, 1))
    fig, axes = plt.subplots(6, 10, figsize=(8, 4.9), layout="constrained")
    for axis, image in zip(axes.flat, images, strict=True):
        show(axis, image)
    for k, axis in enumerate(axes[0]):
        axis.set_title(f"{k}", fontsize=11)
    axes[1, 0].set_ylabel("by the prior", y=0)
    axes[4, 0].set_ylabel("each place\nalone", y=0)
    demo.figure(
        "samples",
        fig,
        alt="Sixty generated digits in ten columns, one per class. The upper four rows, by the prior, look like handwriting; "
        "the lower two, each token drawn alone, nearly as much, with a broken stroke here and there.",
        caption="Digits that a small transformer writes token by token, one column per class. Lower rows, the control: each "
        "token drawn on its own, by how often that digit has it there.",
    )


def main() -> None:
    """Run all parts."""
    plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "font.size": 11})
    torch.set_num_threads(1)
    demo = Demo(__file__)
    data = evaluate.load_split()
    straight_through_figure(demo)
    run = rate_distortion(demo, data)
    reconstructions_figure(demo, data, run)
    usage_figure(demo, data, run)
    compare_faults(demo, data)
    samples_figure(demo, data, run.model)
    demo.finish()


if __name__ == "__main__":
    main()
