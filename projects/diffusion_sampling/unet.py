"""A small conditional U-Net: what predicts, at every noise level, what the clean image looked like.

    8×8   conv ── block ──────────────── skip ──────────────── block ── norm, SiLU, conv
                    │ down                                      ↑ up
    4×4           block ── block ── attention ── block ── (+ skip) block

On the way down each step halves the image and widens the channels, so the bottom sees the whole image cheaply; on the
way up the skip connections hand back the details that halving lost. Noise level and class enter every block as a scale
and a shift per channel.

Error messages contain the size that is refused. In half precision the scores of the attention are computed in float32: a
score may be too large where the answer is not.

Sources: U-Net, Ronneberger et al. 2015, arXiv 1505.04597; as a denoiser, Ho et al. 2020, arXiv 2006.11239, appendix B;
adaptive group norm, Dhariwal and Nichol 2021, arXiv 2105.05233, section 3; zero-initialised outputs, the code of Ho et
al. (and Goyal et al. 2017, arXiv 1706.02677, section 5.1, for residual blocks).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["ResidualBlock", "SelfAttention", "UNet", "fourier_features"]


def fourier_features(level: Tensor, n_features: int, *, max_frequency: float = 32.0) -> Tensor:
    """Return cosines, then sines, of a number at frequencies that grow geometrically from 1 to `max_frequency`.

        [cos(f_0 c), ..., cos(f_{n/2-1} c), sin(f_0 c), ..., sin(f_{n/2-1} c)]

    One number is too little for a network to tell noise levels apart; the fast frequencies separate near ones.

    Parameters
    ----------
    level : (batch,) tensor
        c_noise = ln(σ)/4.
    n_features : int
        Even, at least 4.
    max_frequency : float
        The largest frequency.

    Returns
    -------
    (batch, n_features) tensor

    Raises
    ------
    ValueError
        If `n_features` is odd or below 4.

    Source: Vaswani et al. 2017, arXiv 1706.03762, section 3.5 (with other frequencies).
    """
    if n_features % 2 or n_features < 4:
        raise ValueError(f"n_features must be even and at least 4, got {n_features}")
    half = n_features // 2
    exponents = torch.linspace(0, math.log(max_frequency), half, device=level.device, dtype=level.dtype)
    angles = level[:, None] * exponents.exp()
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class ResidualBlock(nn.Module):
    """Two convolutions beside a skip, told the noise level between them: x -> skip(x) + F(x, embedding).

        h = conv_1(silu(norm_1(x)))
        scale, shift = modulation(silu(embedding))              one of each per sample and channel
        h = conv_2(silu(norm_2(h)·(1 + scale) + shift))
        y = skip(x) + h

    `conv_2` starts at zero, so the block starts as its skip: a deep stack is easy to train from the first step.

    Parameters
    ----------
    in_channels, out_channels : int
        Multiples of `n_groups`.
    n_embedding : int
        Width of the embedding.
    n_groups : int
        Groups of both norms.

    Attributes
    ----------
    norm_1, norm_2 : torch.nn.GroupNorm
    conv_1, conv_2 : torch.nn.Conv2d
        3×3, padding 1; weight and bias of `conv_2` are zero at first.
    modulation : torch.nn.Linear
        n_embedding -> 2·out_channels: the scales, then the shifts.
    skip : torch.nn.Module
        1×1 convolution where the number of channels changes, else ``torch.nn.Identity``.
    """

    def __init__(self, in_channels: int, out_channels: int, n_embedding: int, *, n_groups: int = 8) -> None:
        super().__init__()
        self.norm_1 = nn.GroupNorm(n_groups, in_channels)
        self.conv_1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.modulation = nn.Linear(n_embedding, 2 * out_channels)
        self.norm_2 = nn.GroupNorm(n_groups, out_channels)
        self.conv_2 = _zero(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        same = in_channels == out_channels
        self.skip = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Map x (batch, in_channels, height, width) and embedding (batch, n_embedding) to (batch, out_channels, …)."""
        h = self.conv_1(functional.silu(self.norm_1(x)))
        scale, shift = self.modulation(functional.silu(embedding))[:, :, None, None].chunk(2, dim=1)
        h = self.norm_2(h) * (1 + scale) + shift
        return self.skip(x) + self.conv_2(functional.silu(h))


class SelfAttention(nn.Module):
    """Let every pixel look at every other one: x -> x + out(attention(norm(x))).

        q, k, v = the thirds of qkv(norm(x))                    per pixel
        weights = softmax(q·kᵀ/sqrt(head width))                (pixels, pixels) per head
        y = x + out(weights·v)

    The cost grows with the square of the number of pixels, so it stands where the image is smallest. `out` starts at
    zero.

    Parameters
    ----------
    channels : int
        A multiple of `n_heads` and `n_groups`.
    n_heads, n_groups : int

    Raises
    ------
    ValueError
        If `channels` is no multiple of `n_heads`.

    Attributes
    ----------
    norm : torch.nn.GroupNorm
    qkv, out : torch.nn.Conv2d
        1×1, channels -> 3·channels and channels -> channels. Head h has channels h·width to (h + 1)·width of each third.
    """

    def __init__(self, channels: int, *, n_heads: int = 2, n_groups: int = 8) -> None:
        super().__init__()
        if n_heads < 1 or channels % n_heads:
            raise ValueError(f"channels must be a multiple of n_heads, got {channels} and {n_heads}")
        self.n_heads = n_heads
        self.norm = nn.GroupNorm(n_groups, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = _zero(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map x (batch, channels, height, width) to the same shape."""
        B, C, H, W = x.shape
        # (B, 3C, H, W) -> three of (B, heads, pixels, width)
        q, k, v = self.qkv(self.norm(x)).reshape(B, 3, self.n_heads, C // self.n_heads, H * W).mT.unbind(1)
        wide = torch.promote_types(x.dtype, torch.float32)
        weights = (q.to(wide) @ k.to(wide).mT * q.shape[-1] ** -0.5).softmax(dim=-1).to(v.dtype)
        return x + self.out((weights @ v).mT.reshape(B, C, H, W))


class UNet(nn.Module):
    """The network F(x, c_noise, labels) of EDM's eq. 7, for small one-channel images; its output starts at zero.

    Parameters
    ----------
    n_classes : int
        Classes are 0..n_classes - 1; label `n_classes` means "no class" and is what guidance needs.
    n_channels : int
        Channels of the image.
    width : int
        Channels at full resolution, a multiple of 8; the bottom has twice as many.
    n_embedding : int
        Width of the embedding of noise level and class, a multiple of 4 and at least 8.

    Raises
    ------
    ValueError
        If `width` or `n_embedding` is not as described.

    Notes
    -----
    About 300 thousand parameters by default. Parameters are drawn from torch's global generator, as in every torch
    module: call ``torch.manual_seed`` before, or better, fork it.
    """

    def __init__(
        self, *, n_classes: int = 10, n_channels: int = 1, width: int = 32, n_embedding: int = 128
    ) -> None:
        super().__init__()
        if width < 8 or width % 8:
            raise ValueError(f"width must be a multiple of 8, got {width}")
        if n_embedding < 8 or n_embedding % 4:
            raise ValueError(f"n_embedding must be a multiple of 4 and at least 8, got {n_embedding}")
        wide = 2 * width
        self.n_features = n_embedding // 2
        self.embed_noise = nn.Linear(self.n_features, n_embedding)
        self.embed_class = nn.Embedding(n_classes + 1, n_embedding)
        self.mix = nn.Linear(n_embedding, n_embedding)

        self.first = nn.Conv2d(n_channels, width, 3, padding=1)
        self.down_block = ResidualBlock(width, width, n_embedding)
        self.down = nn.Conv2d(width, wide, 3, stride=2, padding=1)
        self.bottom_1 = ResidualBlock(wide, wide, n_embedding)
        self.attention = SelfAttention(wide)
        self.bottom_2 = ResidualBlock(wide, wide, n_embedding)
        self.up = nn.Conv2d(wide, width, 3, padding=1)
        self.up_block = ResidualBlock(2 * width, width, n_embedding)
        self.last_norm = nn.GroupNorm(8, width)
        self.last = _zero(nn.Conv2d(width, n_channels, 3, padding=1))

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """Predict what EDM's preconditioning asks for.

        Parameters
        ----------
        x : (batch, n_channels, height, width) float tensor
            Scaled to variance one; height and width even.
        c_noise : (batch,) float tensor
            ln(σ)/4.
        labels : (batch,) integer tensor, optional
            0..n_classes; None stands for "no class" throughout.

        Returns
        -------
        (batch, n_channels, height, width) float tensor

        Raises
        ------
        ValueError
            If height or width is odd: halving and doubling would not lead back. If c_noise or labels are not one per sample.
        """
        if x.shape[-1] % 2 or x.shape[-2] % 2:
            raise ValueError(f"height and width must be even, got {tuple(x.shape)}")
        if labels is None:
            labels = torch.full((len(x),), self.embed_class.num_embeddings - 1, device=x.device)
        if c_noise.shape != (len(x),) or labels.shape != (len(x),):
            raise ValueError(
                f"need c_noise and labels of ({len(x)},), got {tuple(c_noise.shape)} and {tuple(labels.shape)}"
            )
        embedding = self.embed_noise(fourier_features(c_noise, self.n_features)) + self.embed_class(labels)
        embedding = self.mix(functional.silu(embedding))

        details = self.down_block(self.first(x), embedding)  # 8×8: kept for the way up
        h = self.bottom_1(self.down(details), embedding)  # 4×4
        h = self.bottom_2(self.attention(h), embedding)
        h = self.up(functional.interpolate(h, scale_factor=2.0, mode="nearest"))  # 8×8 again
        h = self.up_block(torch.cat([h, details], dim=1), embedding)
        return self.last(functional.silu(self.last_norm(h)))


def _zero(layer: nn.Conv2d) -> nn.Conv2d:
    """Return the layer with weight and bias at zero."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
