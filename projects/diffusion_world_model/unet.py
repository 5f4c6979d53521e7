"""The two networks of the world: a U-Net that denoises the next frame, and a small one that reads reward and end off it.

    12×12   conv ── block ─────────── skip ─────────── block ── norm, SiLU, conv
                      │ down                            ↑ up
    6×6             block ────────── block ─────────────┘

The past frames are further channels of the input. Actions and noise level become one vector, which enters each block as a scale and
a shift per channel (adaptive group norm). Last convolutions start at zero, so that F starts as 0 and D as c_skip·x.

Sources: DIAMOND, arXiv 2405.12399, section 3.1 and appendix D, and its code; EDM, arXiv 2206.00364.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Block", "Outcome", "UNet", "n_parameters"]

GROUP = 8  # channels of a group of the norms


class Block(nn.Module):
    """x -> skip(x) + conv_2(silu(norm(conv_1(silu(norm(x))))·(1 + scale) + shift)), scale and shift made of the embedding.

    x (B, c_in, H, W), embedding (B, n_embedding) -> (B, c_out, H, W). `conv_2` starts at zero.
    """

    def __init__(self, c_in: int, c_out: int, n_embedding: int) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.GroupNorm(c_in // GROUP, c_in), nn.GroupNorm(c_out // GROUP, c_out)
        self.conv_1, self.conv_2 = (
            nn.Conv2d(c_in, c_out, 3, padding=1),
            zero(nn.Conv2d(c_out, c_out, 3, padding=1)),
        )
        self.modulation = nn.Linear(n_embedding, 2 * c_out)
        self.skip = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """See the class."""
        h = self.conv_1(functional.silu(self.norm_1(x)))
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        return self.skip(x) + self.conv_2(functional.silu(self.norm_2(h) * (1 + scale) + shift))


class UNet(nn.Module):
    """F of the module diffusion_world_model, for frames of even height and width.

    noisy (B, H, W), c_noise (B,), history (B, L, H, W), actions (B, L) -> (B, H, W).
    `n_frames` is L; `width` a multiple of 8; `n_embedding`, of noise level and actions, a multiple of 2·L.
    """

    def __init__(
        self, *, n_frames: int = 4, n_actions: int = 3, width: int = 24, n_embedding: int = 64
    ) -> None:
        super().__init__()
        wide = 2 * width
        self.frequencies: Tensor
        frequencies = torch.logspace(0, math.log10(32), n_embedding // 2)  # of the noise level
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.embed_action = nn.Embedding(n_actions, n_embedding // n_frames)
        self.mix_1, self.mix_2 = nn.Linear(n_embedding, n_embedding), nn.Linear(n_embedding, n_embedding)
        self.first = nn.Conv2d(n_frames + 1, width, 3, padding=1)
        self.down_block = Block(width, width, n_embedding)
        self.down = nn.Conv2d(width, wide, 3, stride=2, padding=1)
        self.bottom_1, self.bottom_2 = Block(wide, wide, n_embedding), Block(wide, wide, n_embedding)
        self.up = nn.Conv2d(wide, width, 3, padding=1)
        self.up_block = Block(2 * width, width, n_embedding)
        self.last_norm, self.last = (
            nn.GroupNorm(width // GROUP, width),
            zero(nn.Conv2d(width, 1, 3, padding=1)),
        )

    def forward(self, noisy: Tensor, c_noise: Tensor, history: Tensor, actions: Tensor) -> Tensor:
        """See the class."""
        angles = c_noise[:, None] * self.frequencies
        embedding = torch.cat([angles.cos(), angles.sin()], dim=1) + self.embed_action(actions).flatten(1)
        embedding = functional.silu(self.mix_2(functional.silu(self.mix_1(embedding))))
        details = self.down_block(self.first(torch.cat([history, noisy[:, None]], dim=1)), embedding)
        h = self.bottom_2(self.bottom_1(self.down(details), embedding), embedding)
        h = self.up(functional.interpolate(h, scale_factor=2.0, mode="nearest"))
        h = self.up_block(torch.cat([h, details], dim=1), embedding)
        return self.last(functional.silu(self.last_norm(h)))[:, 0]


class Outcome(nn.Module):
    """Reward and end of a step: frame (B, H, W), action (B,), next frame (B, H, W) -> logits (B, 3) and (B, 2)."""

    def __init__(self, *, size: int = 12, n_actions: int = 3, width: int = 16) -> None:
        super().__init__()
        self.n_actions = n_actions
        self.body = nn.Sequential(
            nn.Conv2d(2 + n_actions, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, width, 3, stride=2, padding=1), nn.SiLU(),
            nn.Flatten(), nn.Linear(width * (size // 2) ** 2, 32), nn.SiLU(), nn.Linear(32, 3 + 2),
        )  # fmt: skip

    def forward(self, frame: Tensor, action: Tensor, following: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        planes = functional.one_hot(action, self.n_actions)[:, :, None, None].expand(-1, -1, *frame.shape[1:])
        logits = self.body(torch.cat([frame[:, None], following[:, None], planes.to(frame)], dim=1))
        return logits[:, :3], logits[:, 3:]


def zero(layer: nn.Conv2d) -> nn.Conv2d:
    """Return the layer with weight and bias at zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def n_parameters(module: nn.Module) -> int:
    """Count the numbers that training changes."""
    return sum(p.numel() for p in module.parameters())
