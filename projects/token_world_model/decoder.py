"""The third part of GAIA-1: a diffusion model that paints the frame that tokens stand for.

    x_φ = cos φ·x_0 + sin φ·noise,   v = cos φ·noise - sin φ·x_0          φ from 0 (the frame) to π/2 (noise)
    x_0 = cos φ·x_φ - sin φ·v        noise = sin φ·x_φ + cos φ·v          what the network's v says of both

A tokenizer's own decoder answers with the mean of all frames that have these tokens. This one sees that mean, and draws one of them.
Sources: GAIA-1, arXiv 2309.17080 (v and DDIM, as here; a video, where ours paints one frame); Salimans and Ho 2022, arXiv 2202.00512.
"""

import math
from itertools import pairwise

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional
from torch.optim import Adam

__all__ = ["Decoder", "decoder_loss", "paint", "train_decoder"]


class Decoder(nn.Module):
    """v, (B, 12, 12), for a noisy frame (B, 12, 12), its φ (B,), and `means` (B, 12, 12), what the tokenizer decodes."""

    def __init__(self, *, width: int = 48) -> None:
        super().__init__()
        self.angle = nn.Sequential(nn.Linear(2, width), nn.SiLU(), nn.Linear(width, 2 * width))
        self.first, self.last = nn.Conv2d(2, width, 3, padding=1), nn.Conv2d(width, 1, 3, padding=1)
        self.middle = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(3))

    def forward(self, noisy: Tensor, phi: Tensor, means: Tensor) -> Tensor:
        """See the class."""
        level = self.angle(torch.stack([phi.cos(), phi.sin()], dim=1))[:, :, None, None]
        scale, shift = level.chunk(2, dim=1)
        x = self.first(torch.stack([noisy, means], dim=1))
        for layer in self.middle:
            x = x + layer(functional.silu(x * (1 + scale) + shift))
        return self.last(functional.silu(x))[:, 0]


def decoder_loss(
    decoder: Decoder, frames: Tensor, means: Tensor, *, generator: Generator | None = None
) -> Tensor:
    """Return the mean squared error of v, a scalar, for frames (B, 12, 12); one φ per frame, uniform in [0, π/2]."""
    phi = (torch.rand(len(frames), generator=generator) * math.pi / 2).to(frames)
    noise = torch.randn(frames.shape, generator=generator).to(frames)
    cos, sin = phi.cos()[:, None, None], phi.sin()[:, None, None]
    return functional.mse_loss(decoder(cos * frames + sin * noise, phi, means), cos * noise - sin * frames)


@torch.no_grad()
def paint(
    decoder: Decoder, means: Tensor, *, n_steps: int = 10, generator: Generator | None = None
) -> Tensor:
    """Draw frames (B, 12, 12) in [-1, 1] for decoded ones, by DDIM in `n_steps` equal steps of φ from π/2 to 0."""
    x = torch.randn(means.shape, generator=generator).to(means)
    for now, following in pairwise(torch.linspace(math.pi / 2, 0, n_steps + 1)):
        v = decoder(x, now.expand(len(x)).to(means), means)
        frame = (now.cos() * x - now.sin() * v).clamp(-1, 1)
        x = following.cos() * frame + following.sin() * (now.sin() * x + now.cos() * v)
    return x


def train_decoder(
    decoder: Decoder, frames: Tensor, means: Tensor, n_updates: int, *, batch_size: int = 64, learning_rate: float = 2e-3,
    generator: Generator | None = None,
) -> None:  # fmt: skip
    """Train with Adam on frames (n, 12, 12) and what the tokenizer decodes from their tokens; the rate falls to 0."""
    optimizer = Adam(decoder.parameters(), learning_rate)
    for i in range(n_updates):
        optimizer.param_groups[0]["lr"] = learning_rate * (1 - i / n_updates)
        rows = torch.randint(len(frames), (batch_size,), generator=generator)
        loss = decoder_loss(decoder, frames[rows], means[rows], generator=generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
