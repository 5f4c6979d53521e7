"""The third part of GAIA-1: a diffusion model that paints the frame that tokens stand for.

    x_φ = cos φ·x_0 + sin φ·noise,   v = cos φ·noise - sin φ·x_0          φ from 0 (the frame) to π/2 (noise)
    x_0 = cos φ·x_φ - sin φ·v        noise = sin φ·x_φ + cos φ·v          what the network's v says of both

A tokenizer's own decoder answers with the mean of all frames that have these tokens. This one draws one of them.
Sources: GAIA-1, arXiv 2309.17080 (v and DDIM, as here; a video, of which ours paints one frame); Salimans and Ho 2022, arXiv
2202.00512.
"""

import math

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional
from torch.optim import Adam

__all__ = ["Decoder", "decoder_loss", "paint", "train_decoder"]


class Decoder(nn.Module):
    """v for a noisy frame (B, 12, 12), its φ (B,), and the codes of its 3 × 3 tokens, (B, 9, d_code): (B, 12, 12)."""

    def __init__(self, *, d_code: int = 8, width: int = 48) -> None:
        super().__init__()
        self.angle = nn.Sequential(nn.Linear(2, width), nn.SiLU(), nn.Linear(width, width))
        self.first = nn.Conv2d(1 + d_code, width, 3, padding=1)
        self.middle = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(3))
        self.last = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, noisy: Tensor, phi: Tensor, codes: Tensor) -> Tensor:
        """See the class."""
        grid = codes.mT.unflatten(2, (3, 3)).repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
        level = self.angle(torch.stack([phi.cos(), phi.sin()], dim=1))[:, :, None, None]
        x = self.first(torch.cat([noisy[:, None], grid], dim=1))
        for layer in self.middle:
            x = x + layer(functional.silu(x + level))
        return self.last(functional.silu(x))[:, 0]


def decoder_loss(
    decoder: Decoder, frames: Tensor, codes: Tensor, *, generator: Generator | None = None
) -> Tensor:
    """Return the mean squared error of v, a scalar, for frames (B, 12, 12); one φ per frame, uniform in [0, π/2]."""
    phi = (torch.rand(len(frames), generator=generator) * math.pi / 2).to(frames)
    noise = torch.randn(frames.shape, generator=generator).to(frames)
    cos, sin = phi.cos()[:, None, None], phi.sin()[:, None, None]
    return functional.mse_loss(decoder(cos * frames + sin * noise, phi, codes), cos * noise - sin * frames)


@torch.no_grad()
def paint(
    decoder: Decoder, codes: Tensor, *, n_steps: int = 10, generator: Generator | None = None
) -> Tensor:
    """Draw frames (B, 12, 12) in [-1, 1] for codes (B, 9, d_code), by DDIM in `n_steps` equal steps of φ from π/2 to 0."""
    x = torch.randn(len(codes), 12, 12, generator=generator).to(codes)
    angles = torch.linspace(math.pi / 2, 0, n_steps + 1)
    for now, following in zip(angles[:-1], angles[1:], strict=True):
        v = decoder(x, now.expand(len(x)).to(codes), codes)
        frame = (now.cos() * x - now.sin() * v).clamp(-1, 1)
        noise = now.sin() * x + now.cos() * v
        x = following.cos() * frame + following.sin() * noise
    return x


def train_decoder(
    decoder: Decoder, frames: Tensor, codes: Tensor, n_updates: int, *, batch_size: int = 64, learning_rate: float = 2e-3,
    generator: Generator | None = None,
) -> None:  # fmt: skip
    """Train with Adam on frames (n, 12, 12) and the codes (n, 9, d_code) of their tokens."""
    optimizer = Adam(decoder.parameters(), learning_rate)
    for i in range(n_updates):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * (1 - i / n_updates)
        rows = torch.randint(len(frames), (batch_size,), generator=generator)
        loss = decoder_loss(decoder, frames[rows], codes[rows], generator=generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
