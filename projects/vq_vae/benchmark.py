"""The quantiser beside vector-quantize-pytorch's, and what other quantisers make of as many bits.

Both quantisers start from one codebook. Without rotation, restart and K-means, theirs gives the same indices, codes and
gradients to the last bit. Its moving average differs by a smoothing of the counts, and a table says what that does.
The nearest code by differences stands beside its shortcuts by a matrix product: how fast, and how often wrong.
One process, one thread, random data for the times, digits for the errors.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from vector_quantize_pytorch import FSQ, ResidualVQ, VectorQuantize

from evaluate import Split, load_split
from finite_scalar import FiniteScalarQuantizer
from product import ProductQuantizer
from rate_distortion import bits_per_image, kmeans_on_patches, pca_at_bits, vq_vae_distortion
from residual import ResidualQuantizer
from vq_vae import VQVAE, VectorQuantizer, nearest_codes, straight_through

sys.path.append(str(Path(__file__).resolve().parents[2]))  # the repository root, for shared/
from shared.measuring.benchmark import Benchmark

PEER = "vector-quantize-pytorch"
DECAY, BETA = 0.99, 0.25
CASES = {  # n_codes, shape of the feature map
    "forward and backward": (128, (64, 8, 4, 4)),
    "forward and backward, larger": (1024, (4, 64, 16, 16)),
}
N_EPOCHS = 60


def seeded(seed: int = 0) -> Generator:
    """Return a generator."""
    return Generator().manual_seed(seed)


def the_same_quantizers(n_codes: int, d: int) -> tuple[VectorQuantizer, VectorQuantize]:
    """Return ours and theirs with one codebook."""
    ours = VectorQuantizer(n_codes, d, decay=DECAY, generator=seeded())
    theirs = VectorQuantize(
        dim=d,
        codebook_size=n_codes,
        decay=DECAY,
        commitment_weight=BETA,
        kmeans_init=False,
        rotation_trick=False,
        threshold_ema_dead_code=0,
        accept_image_fmap=True,
    )
    state = theirs._codebook
    state.embed.copy_(ours.codebook)
    state.embed_avg.copy_(ours.codebook)
    return ours, theirs


def quantize(quantizer: VectorQuantizer, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return what theirs returns: codes with the gradient passed, indices, β·commitment."""
    z_q, indices = quantizer(z)
    return straight_through(z, z_q), indices, BETA * F.mse_loss(z, z_q.detach())


def gradient(call: Callable[[Tensor], Any], z: Tensor, direction: Tensor) -> Tensor:
    """Return the gradient of the codes in a direction and of the commitment, by z."""
    z = z.detach().clone().requires_grad_()
    codes, _, commitment = call(z)
    return torch.autograd.grad((codes, commitment), z, (direction, torch.ones_like(commitment)))[0]


def check_the_same(bench: Benchmark) -> None:
    """Record how far both are apart in one batch, and what became of the codes that nothing chose later on."""
    for n_codes, shape in CASES.values():
        ours, theirs = the_same_quantizers(n_codes, shape[1])
        z, direction = (torch.randn(shape, generator=seeded(seed)) for seed in (1, 2))
        before, books = ours.codebook.clone(), (ours.codebook, theirs._codebook.embed[0])
        z.requires_grad_()  # or theirs does not pass the gradient
        (codes, indices, loss), (their_codes, their_indices, their_loss) = quantize(ours, z), theirs(z)
        after = (books[0] - books[1]).abs().max().item()
        for book in (ours.codebook, theirs._codebook.embed):
            book.copy_(before)
        slopes = gradient(partial(quantize, ours), z, direction), gradient(theirs, z, direction)
        columns = {
            "indices that differ": f"{(indices != their_indices).sum()} of {indices.numel():,}",
            "codes": f"{(codes - their_codes).abs().max():.1g}",
            "commitment": f"{(loss - their_loss).abs():.1g}",
            "gradient": f"{(slopes[0] - slopes[1]).abs().max():.1g}",
            "codebook after the batch": f"{after:.1g}",
        }
        group = f"largest difference to {PEER}, one batch in training"
        bench.record(group, f"K = {n_codes}, d = {shape[1]}", columns)


def follow_dead_codes(bench: Benchmark) -> None:
    """Record the length of codes that nothing chose: ours stay, theirs are smoothed towards 0."""
    ours, theirs = the_same_quantizers(64, 8)
    start, usage, generator = ours.codebook.clone(), torch.zeros(64), seeded(1)
    for step in range(1, 1001):
        z = 0.3 * torch.randn(64, 8, 4, 4, generator=generator)
        usage += ours(z)[1].flatten().bincount(minlength=64)
        theirs(z)
        if step not in (100, 500, 800, 1000):
            continue
        dead = usage == 0
        lengths = [
            (book[dead].norm(dim=1) / start[dead].norm(dim=1)).median()
            for book in (ours.codebook, theirs._codebook.embed[0])
        ]
        columns = {
            "codes unused": f"{dead.sum()} of 64",
            "ours": f"{lengths[0]:.4f}",
            PEER: f"{lengths[1]:.4f}",
        }
        bench.record("length of an unused code over what it was, median", f"after {step:,} batches", columns)


def compare_quantizers(bench: Benchmark) -> None:
    """Time the quantiser alone, in training and in evaluation, and the further ones beside theirs."""
    for case, (n_codes, shape) in CASES.items():
        ours, theirs = the_same_quantizers(n_codes, shape[1])
        z, direction = (torch.randn(shape, generator=seeded(seed)) for seed in (1, 2))
        note = f"K = {n_codes}, d = {shape[1]}, {shape[0] * shape[2] * shape[3]:,} vectors"
        bench.compare(
            "quantiser",
            case,
            ours=partial(gradient, partial(quantize, ours), z, direction),
            peers={PEER: partial(gradient, theirs, z, direction)},
            note=note,
        )
    compare_further(bench, torch.randn(64, 8, 4, 4, generator=seeded(1)))


@torch.no_grad()
def compare_further(bench: Benchmark, z: Tensor) -> None:
    """Time the further quantisers beside theirs, forward in training, moving averages included."""
    same: dict[str, Any] = {"decay": DECAY, "rotation_trick": False, "threshold_ema_dead_code": 0}
    groups: dict[str, Any] = {"heads": 4, "codebook_dim": 2, "separate_codebook_per_head": True}
    vectors = z.flatten(2).mT.contiguous()  # theirs takes no image here
    cases: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "residual, 4 levels of 64 codes": (
            partial(ResidualQuantizer(4, 64, 8, decay=DECAY, generator=seeded()), z),
            partial(ResidualVQ(dim=8, num_quantizers=4, codebook_size=64, **same), vectors),
        ),
        "product, 4 groups of 64 codes": (
            partial(ProductQuantizer(4, 64, 8, decay=DECAY, generator=seeded()), z),
            partial(VectorQuantize(dim=8, codebook_size=64, **same, **groups), vectors),
        ),
        "finite scalar, 8·5·5·5 codes": (
            partial(FiniteScalarQuantizer((8, 5, 5, 5)), z[:, :4]),
            partial(FSQ([8, 5, 5, 5]), z[:, :4]),
        ),
    }
    for case, (ours, theirs) in cases.items():
        bench.compare("further quantisers, forward in training", case, ours=ours, peers={PEER: theirs})


def compare_searches(bench: Benchmark) -> None:
    """Time the nearest code by differences beside the ways by a matrix product, and count what those get wrong."""

    def by_products(z: Tensor, codebook: Tensor) -> Tensor:
        return torch.cdist(z, codebook, compute_mode="use_mm_for_euclid_dist").argmin(dim=-1)

    def expanded(z: Tensor, codebook: Tensor) -> Tensor:
        return (codebook.square().sum(dim=-1) - 2 * (z @ codebook.T)).argmin(dim=-1)

    searches = {"ours": nearest_codes, "torch.cdist by products": by_products, "‖e‖² - 2z·e": expanded}
    for n, n_codes, d in ((1024, 128, 8), (1024, 1024, 64), (16384, 1024, 8)):
        z, codebook = torch.randn(n, d, generator=seeded(1)), torch.randn(n_codes, d, generator=seeded(2))
        calls = {name: partial(f, z, codebook) for name, f in searches.items()}
        ours = calls.pop("ours")
        bench.compare("nearest codes", f"{n:,} vectors, {n_codes:,} codes, d = {d}", ours=ours, peers=calls)
    z, codebook = torch.randn(4096, 8, generator=seeded(1)), torch.randn(256, 8, generator=seeded(2))
    for offset in (0, 10, 100, 1000):
        moved = z + offset, codebook + offset
        exact = torch.cdist(moved[0].double(), moved[1].double()).argmin(dim=-1)
        columns = {
            name: f"{(search(*moved) != exact).double().mean():.2%}" for name, search in searches.items()
        }
        bench.record(
            "indices that differ from float64's, 4096 vectors, 256 codes, d = 8",
            f"origin moved by {offset}",
            columns,
        )


def training_step(model: VQVAE, call: Callable[[Tensor], Any], x: Tensor) -> Callable[[], None]:
    """Return one step of Adam, where `call` quantises as `quantize` does."""
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    def step() -> None:
        codes, _, commitment = call(model.encoder(x))
        loss = F.mse_loss(model.decoder(codes), x) + commitment
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def compare_training(bench: Benchmark, data: Split) -> None:
    """Time whole training steps, which are the same but for the quantiser."""
    x = data.train_images[:64]
    for n_codes in (128, 1024):
        models = [VQVAE(n_codes, decay=DECAY, generator=seeded()) for _ in range(2)]
        theirs = the_same_quantizers(n_codes, 8)[1]
        ours = training_step(models[0], partial(quantize, models[0].quantizer), x)
        peers = {PEER: training_step(models[1], theirs, x)}
        bench.compare("training step of the autoencoder, 64 digits", f"K = {n_codes}", ours=ours, peers=peers)


def fit(
    data: Split, n_epochs: int, quantizer: Any, *, d: int = 8, restart: tuple[int, int] | None = None
) -> float:
    """Train the autoencoder around another quantiser, otherwise as `train` does; return its error of the held-out digits.

    restart : parts and codes of each, whose dead ones restart; without it the codes have a gradient of their own.
    """
    model, generator, images = VQVAE(2, d, decay=DECAY, generator=seeded()), seeded(), data.train_images
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    usage = torch.zeros(restart or 0)
    for _ in range(n_epochs):
        if restart:
            with torch.no_grad():
                vectors = model.encoder(images).movedim(1, -1).flatten(0, -2)
            quantizer.restart(usage, vectors, generator=generator)
            usage = torch.zeros(restart)
        for rows in torch.randperm(len(images), generator=generator).split(64):
            z = model.encoder(images[rows])
            codes, indices = quantizer(z)
            passed, commitment = codes, torch.tensor(0.0)
            if restart:
                passed, commitment = straight_through(z, codes), BETA * F.mse_loss(z, codes.detach())
                usage += F.one_hot(indices.flatten(0, 2), restart[1]).sum(dim=0)
            loss = F.mse_loss(model.decoder(passed), images[rows]) + commitment
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    quantizer.eval()
    with torch.no_grad():
        return F.mse_loss(
            model.decoder(quantizer(model.encoder(data.test_images))[0]), data.test_images
        ).item()


def compare_errors(bench: Benchmark, data: Split) -> None:
    """Record the errors of held-out digits at about eight bits per token."""
    n_epochs = 2 if {"--quick", "--practice"} & set(sys.argv) else N_EPOCHS
    images = data.train_images, data.test_images

    def record(name: str, n_codes: int, error: float, epochs: str = "") -> None:
        columns = {
            "bits per digit": f"{bits_per_image(n_codes):.1f}",
            "epochs": epochs,
            "error": f"{error:.4f}",
        }
        bench.record("mean squared error of held-out digits", name, columns)

    for factor in (1, 4):
        error = vq_vae_distortion(*images, 256, n_epochs=factor * n_epochs)
        record("one codebook of 256", 256, error, f"{factor * n_epochs}")
    for name, kind in (
        ("residual, 2 levels of 16", ResidualQuantizer),
        ("product, 2 groups of 16", ProductQuantizer),
    ):
        quantizer = kind(2, 16, 8, decay=DECAY, generator=seeded())
        record(name, 256, fit(data, n_epochs, quantizer, restart=(2, 16)), f"{n_epochs}")
    record(
        "finite scalar, 8·6·5", 240, fit(data, n_epochs, FiniteScalarQuantizer((8, 6, 5)), d=3), f"{n_epochs}"
    )
    record("K-means on patches", 256, kmeans_on_patches(*images, 256))
    record("PCA, coefficients rounded", 256, pca_at_bits(*images, 128))


def main() -> None:
    """Measure, and write results/ and the tables of the README."""
    bench = Benchmark(__file__, threads=1)
    data = load_split()
    check_the_same(bench)
    follow_dead_codes(bench)
    compare_quantizers(bench)
    compare_training(bench, data)
    compare_searches(bench)
    compare_errors(bench, data)
    bench.save()


if __name__ == "__main__":
    main()
