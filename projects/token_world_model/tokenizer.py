"""The tokenizer: a VQ-VAE that turns a frame of 12 × 12 pixels into 3 × 3 tokens, and tokens back into a frame.

    k = argmax_j z·e_j/(‖z‖·‖e_j‖)      the code in whose direction the encoder's vector points, at each place
    L = mean (x - x̂)² + β·mean (z - sg(e_k))²      sg: a constant for the gradient; codes follow their vectors by a moving average

Vectors and codes have length 1 (GAIA-1 and ViT-VQGAN do so too). Codes that an epoch never chose start anew.
Sources: van den Oord et al. 2017, arXiv 1711.00937; GAIA-1, arXiv 2309.17080; Yu et al. 2022 (unit length), arXiv 2110.04627.
"""

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional
from torch.optim import Adam
from torch.optim.lr_scheduler import OneCycleLR

__all__ = ["Tokenizer", "train_tokenizer"]


class Tokenizer(nn.Module):
    """Frames (..., 12, 12) to tokens (..., 9) int64, row by row, and back.

    encoder : (B, 1, 12, 12) -> (B, d, 3, 3),  decoder : (B, d, 3, 3) -> (B, 1, 12, 12)
    sums : decay·sums + (1 - decay)·(the vectors that chose the code), after each batch in training; the code has its direction
    """

    codebook: Tensor
    sums: Tensor

    def __init__(self, n_codes: int = 256, *, d: int = 8, width: int = 48, decay: float = 0.95) -> None:
        super().__init__()
        self.decay = decay
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 2 * width, 4, stride=4), nn.ReLU(), nn.Conv2d(2 * width, 2 * width, 1), nn.ReLU(), nn.Conv2d(2 * width, d, 1)
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Conv2d(d, width, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(width, width, 4, stride=2, padding=1), nn.ReLU(),
            nn.ConvTranspose2d(width, width, 4, stride=2, padding=1), nn.ReLU(), nn.Conv2d(width, 1, 3, padding=1),
        )  # fmt: skip
        codebook = functional.normalize(torch.randn(n_codes, d), dim=1)
        self.register_buffer("codebook", codebook)
        self.register_buffer("sums", codebook.clone(), persistent=False)

    def encode(self, frames: Tensor) -> Tensor:
        """Return the tokens of frames."""
        return self._nearest(self._vectors(frames))

    def decode(self, tokens: Tensor) -> Tensor:
        """Return the frames of tokens, cut to [-1, 1]."""
        return self._draw(self.codebook[tokens]).clamp(-1, 1)

    def loss(self, frames: Tensor, *, beta: float = 0.25) -> tuple[Tensor, Tensor]:
        """Return L for frames (B, 12, 12), a scalar, and their tokens; in training mode the codes move."""
        z = self._vectors(frames)
        tokens = self._nearest(z)
        codes = self.codebook[tokens]
        reconstruction = self._draw(z + (codes - z).detach())
        loss = functional.mse_loss(reconstruction, frames) + beta * functional.mse_loss(z, codes)
        if self.training:
            self._follow(z.detach().flatten(0, 1), tokens.flatten())
        return loss, tokens

    def _vectors(self, frames: Tensor) -> Tensor:
        z = self.encoder(frames.flatten(0, -3)[:, None]).flatten(2).mT
        return functional.normalize(z, dim=-1).unflatten(0, frames.shape[:-2])

    def _nearest(self, z: Tensor) -> Tensor:
        return (z @ self.codebook.T).argmax(dim=-1)

    def _draw(self, codes: Tensor) -> Tensor:
        grid = codes.flatten(0, -3).mT.unflatten(2, (3, 3))
        return self.decoder(grid)[:, 0].unflatten(0, codes.shape[:-2])

    @torch.no_grad()
    def _follow(self, z: Tensor, tokens: Tensor) -> None:
        """Move each chosen code towards the mean of its vectors."""
        chosen = functional.one_hot(tokens, len(self.codebook)).to(z)
        self.sums.mul_(self.decay).add_(chosen.T @ z, alpha=1 - self.decay)
        used = chosen.any(dim=0)
        self.codebook[used] = functional.normalize(self.sums[used], dim=1)

    @torch.no_grad()
    def restart(self, usage: Tensor, frames: Tensor, *, generator: Generator | None = None) -> int:
        """Give the codes of usage 0 (K,) the places of random vectors of these frames; return how many."""
        z = self._vectors(frames).flatten(0, 1)
        dead = (usage == 0).nonzero()[:, 0]
        self.codebook[dead] = z[torch.randint(len(z), (len(dead),), generator=generator)]
        self.sums[dead] = self.codebook[dead]
        return len(dead)


def train_tokenizer(
    tokenizer: Tokenizer, frames: Tensor, n_updates: int, *, batch_size: int = 64, learning_rate: float = 3e-3,
    generator: Generator | None = None,
) -> None:  # fmt: skip
    """Train on frames (n, 12, 12) with Adam and a rate that falls to zero. Every 50 updates dead codes start anew, until 70 % are done.

    In the end codes that none of the frames chooses become 0: they lie where others win by 1e-5, which half precision does not keep.
    """
    optimizer = Adam(tokenizer.parameters(), learning_rate)
    schedule = OneCycleLR(optimizer, learning_rate, total_steps=n_updates)
    usage = torch.zeros(len(tokenizer.codebook))
    tokenizer.train()
    for i in range(n_updates):
        batch = frames[torch.randint(len(frames), (batch_size,), generator=generator)]
        if i % 50 == 0 and i < 0.7 * n_updates:
            tokenizer.restart(usage, batch, generator=generator)
            usage.zero_()
        loss, tokens = tokenizer.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        usage += tokens.flatten().bincount(minlength=len(usage))
    tokenizer.eval()
    usage.zero_()
    with torch.no_grad():
        for part in frames.split(1000):
            usage += tokenizer.encode(part).flatten().bincount(minlength=len(usage))
    tokenizer.codebook[usage == 0] = 0
