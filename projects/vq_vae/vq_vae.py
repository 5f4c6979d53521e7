"""The vector-quantised autoencoder: an image becomes a grid of integers, each the number of a learned vector, and comes back.

    k = argmin_j ‖z - e_j‖²                    the code nearest to what the encoder says, at each place of the grid
    z_q = e_k,   ∂L/∂z := ∂L/∂z_q              the decoder gets the code; its gradient goes straight through to the encoder
    L = ‖x - x̂‖² + ‖sg(z) - e_k‖² + β·‖z - sg(e_k)‖²           sg: a constant for the gradient

The contract: images are (B, 1, 8, 8) float32 in [0, 1], feature maps (B, d, H, W), vectors (..., d), the codebook (K, d),
indices int64 from 0 to K - 1. ‖·‖² of L are means over all elements. Random numbers come from the generator that is passed.
Source: van den Oord, Vinyals and Kavukcuoglu 2017, arXiv 1711.00937; the moving average is their appendix A.1.
"""

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

__all__ = ["nearest_codes", "straight_through", "vq_losses", "ema_update", "restart_dead_codes", "perplexity", "VectorQuantizer", "VQVAE", "train"]  # fmt: skip


def nearest_codes(z: Tensor, codebook: Tensor) -> Tensor:
    """Return the index of the code nearest to each vector of z, (..., d) and (K, d) to (...); of equally near ones any.

    Further: right far from the origin too, where ‖z‖² - 2z·e + ‖e‖² rounds the difference away.
    """
    distances = torch.cdist(z.reshape(-1, z.shape[-1]), codebook, compute_mode="donot_use_mm_for_euclid_dist")
    return distances.argmin(dim=-1).view(z.shape[:-1])


def straight_through(z: Tensor, z_q: Tensor) -> Tensor:
    """Return z_q, with all of its gradient going to z and none to z_q. Both have one shape, else ValueError."""
    if z.shape != z_q.shape:
        raise ValueError(f"shapes differ: {tuple(z.shape)}, {tuple(z_q.shape)}")
    return z + (z_q - z).detach()


def vq_losses(x: Tensor, reconstruction: Tensor, z: Tensor, z_q: Tensor, *, beta: float = 0.25) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Return the three terms of L, scalars: reconstruction, codebook (moves only z_q), and β times commitment (moves only z).

    z_q are the codes themselves, not what `straight_through` made of them. ValueError where two shapes differ.
    """
    if x.shape != reconstruction.shape or z.shape != z_q.shape:
        raise ValueError(f"shapes differ: {x.shape}, {reconstruction.shape}; {z.shape}, {z_q.shape}")
    return F.mse_loss(reconstruction, x), F.mse_loss(z_q, z.detach()), beta * F.mse_loss(z, z_q.detach())


@torch.no_grad()
def ema_update(
    codebook: Tensor, counts: Tensor, sums: Tensor, z: Tensor, indices: Tensor, *, decay: float
) -> None:
    """Move each code to the mean of its recent vectors, in place: a moving average instead of the codebook loss.

    counts_k ← decay·counts_k + (1 - decay)·n_k          n_k of the vectors z (n, d) have the index k (indices: (n,))
    sums_k   ← decay·sums_k + (1 - decay)·Σ z            counts (K,), sums (K, d)
    e_k      ← sums_k/counts_k     where n_k > 0; the others stay as they are, to the last bit
    """
    chosen = F.one_hot(indices, len(codebook)).to(z.dtype)
    n = chosen.sum(dim=0)
    counts.mul_(decay).add_(n, alpha=1 - decay)
    sums.mul_(decay).add_(chosen.T @ z, alpha=1 - decay)
    codebook[n > 0] = sums[n > 0] / counts[n > 0, None]


@torch.no_grad()
def restart_dead_codes(
    codebook: Tensor,
    counts: Tensor,
    sums: Tensor,
    usage: Tensor,
    z: Tensor,
    *,
    generator: Generator | None = None,
) -> int:
    """Give codes that nothing chose, ``usage == 0``, a new life as vectors of z (n, d), in place; return how many.

    They become different random rows of z, one each (only as many as there are rows), with a count of 1 and themselves as sum.
    """
    dead = (usage == 0).nonzero()[: len(z), 0]
    codebook[dead] = sums[dead] = z[torch.randperm(len(z), generator=generator)[: len(dead)]]
    counts[dead] = 1
    return len(dead)


def perplexity(usage: Tensor) -> Tensor:
    """Return how many codes are in use, exp(-Σ p·log p) with p = usage/Σ usage, a scalar; 1 for one code, K for equal use.

    usage : (K,), how often each code was chosen, over the whole data set; all 0 raises ValueError.
    """
    if not usage.any():
        raise ValueError("no code was used")
    p = usage / usage.sum()
    return torch.special.entr(p).sum().exp()


class VectorQuantizer(nn.Module):
    """Replace each vector of a feature map by the nearest of K codes.

    codebook : (K, d), starting standard normal, drawn with `generator`. Without `decay` it is a Parameter. With `decay` it is a
    buffer, which `ema_update` moves in training. Beside it, either way, are the buffers counts (K,), starting at 1, and sums
    (K, d), starting as the codes. The attribute `decay` keeps the argument.
    """

    codebook: Tensor
    counts: Tensor
    sums: Tensor

    def __init__(self, n_codes: int, d: int, *, decay: float | None = None, generator: Generator | None = None) -> None:  # fmt: skip
        super().__init__()
        self.decay = decay
        codebook = torch.randn(n_codes, d, generator=generator)
        if decay is None:
            self.codebook = nn.Parameter(codebook)
        else:
            self.register_buffer("codebook", codebook)
        self.register_buffer("counts", torch.ones(n_codes))
        self.register_buffer("sums", codebook.clone())

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the nearest codes of z (B, d, H, W), in its shape, from before this batch moves them, and indices (B, H, W).

        The gradient of the codes goes to the codebook, if that is a Parameter, and never to z.
        """
        vectors = z.movedim(1, -1)
        indices = nearest_codes(vectors, self.codebook)
        codes = self.codebook[indices].movedim(-1, 1)
        if self.training and self.decay is not None:
            batch = vectors.detach().flatten(0, -2), indices.flatten()
            ema_update(self.codebook, self.counts, self.sums, *batch, decay=self.decay)
        return codes, indices


class VQVAE(nn.Module):
    """An image of 8 × 8 pixels as 4 × 4 tokens.

    encoder : nn.Sequential, images (B, 1, 8, 8) to (B, d, 4, 4): Conv 3 × 3, ReLU, Conv 4 × 4 of stride 2, ReLU, Conv 1 × 1
    decoder : the way back: Conv 3 × 3, ReLU, ConvTranspose 4 × 4 of stride 2, ReLU, Conv 3 × 3; `hidden` channels in between
    quantizer : VectorQuantizer

    The weights of the convolutions start as nn.init.kaiming_uniform_ draws them with `generator`, biases at 0.
    """

    def __init__(
        self, n_codes: int = 64, d: int = 8, *, hidden: int = 32, decay: float | None = 0.99, generator: Generator | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        down = nn.Conv2d(hidden, hidden, 4, stride=2, padding=1)
        up = nn.ConvTranspose2d(hidden, hidden, 4, stride=2, padding=1)
        first, last = nn.Conv2d(1, hidden, 3, padding=1), nn.Conv2d(hidden, 1, 3, padding=1)
        self.encoder = nn.Sequential(first, nn.ReLU(), down, nn.ReLU(), nn.Conv2d(hidden, d, 1))
        self.decoder = nn.Sequential(nn.Conv2d(d, hidden, 3, padding=1), nn.ReLU(), up, nn.ReLU(), last)
        for p in self.parameters():
            nn.init.kaiming_uniform_(p, generator=generator) if p.ndim > 1 else nn.init.zeros_(p)
        self.quantizer = VectorQuantizer(n_codes, d, decay=decay, generator=generator)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the reconstruction (of the shape of x), z and its codes z_q (B, d, 4, 4), and the indices (B, 4, 4)."""
        z = self.encoder(x)
        z_q, indices = self.quantizer(z)
        return self.decoder(straight_through(z, z_q)), z, z_q, indices

    def encode(self, x: Tensor) -> Tensor:
        """Return the tokens of images, (B, 1, 8, 8) to (B, 4, 4); no code moves, and no part changes its mode."""
        return nearest_codes(self.encoder(x).movedim(1, -1), self.quantizer.codebook)

    def decode(self, indices: Tensor) -> Tensor:
        """Return the images of tokens, (B, 4, 4) to (B, 1, 8, 8)."""
        return self.decoder(self.quantizer.codebook[indices].movedim(-1, 1))


def train(
    model: VQVAE, images: Tensor, n_epochs: int, *, batch_size: int = 64, learning_rate: float = 3e-3, beta: float = 0.25,
    restart: bool = True, seed: int = 0,
) -> list[dict[str, float]]:  # fmt: skip
    """Train with Adam on images (n, 1, 8, 8), in training mode, all of them in each epoch, in a new order; return its records.

    The loss is the sum of `vq_losses`; where a moving average moves the codes, without the codebook's. With `restart` an epoch
    begins with `restart_dead_codes`: codes that the epoch before never used (in the first: all) restart from the vectors of all
    images. A record, one per epoch: "n_restarted", and of the whole epoch "reconstruction" (that loss, a mean over the images),
    "n_used" (codes) and "perplexity". `seed` is that of a generator of its own.
    """
    generator, quantizer = Generator().manual_seed(seed), model.quantizer
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    records, usage = [], torch.zeros(len(quantizer.codebook))
    model.train()
    for _ in range(n_epochs):
        record = {"n_restarted": 0.0, "reconstruction": 0.0}
        if restart:
            with torch.no_grad():
                vectors = model.encoder(images).movedim(1, -1).flatten(0, -2)
            state = quantizer.codebook, quantizer.counts, quantizer.sums
            record["n_restarted"] = float(restart_dead_codes(*state, usage, vectors, generator=generator))
        usage = torch.zeros_like(usage)
        for rows in torch.randperm(len(images), generator=generator).split(batch_size):
            reconstruction, z, z_q, indices = model(images[rows])
            losses = vq_losses(images[rows], reconstruction, z, z_q, beta=beta)
            optimizer.zero_grad()
            (losses[0] + losses[2] + (losses[1] if quantizer.decay is None else 0)).backward()
            optimizer.step()
            usage += indices.flatten().bincount(minlength=len(usage))
            record["reconstruction"] += losses[0].item() * len(rows) / len(images)
        records.append(record | {"n_used": float((usage > 0).sum()), "perplexity": perplexity(usage).item()})
    return records
