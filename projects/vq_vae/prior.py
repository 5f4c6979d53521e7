"""A prior: a small causal transformer that writes the tokens of an image one by one, so that new images can be drawn.

    p(t_0, …, t_{n-1} | label) = Π_i p(t_i | label, t_0, …, t_{i-1})

The decoder of a VQ-VAE makes an image of any tokens, but most grids of tokens are no digit. The prior learns which are. The
label stands in front of the tokens, so a digit can be asked for. A grid becomes a sequence row by row.

Labels are (B,) int64, tokens (B, n_tokens) int64, logits float32. Nothing touches the global random state.

Sources: van den Oord et al. 2017, arXiv 1711.00937, section 3.3, with a PixelCNN; with a transformer, Esser et al. 2020, arXiv
2012.09841.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

__all__ = ["Prior", "prior_loss", "sample", "train_prior"]


class Prior(nn.Module):
    """A transformer on n_tokens places: the label's vector, then those of the tokens but the last, each plus its place's.

    label, token, position : two nn.Embedding and a Parameter (n_tokens, d_model), all starting normal with deviation 0.02
    blocks : nn.TransformerEncoder of `n_layers` layers with gelu and 4·d_model hidden features, the norms before attention and
        before the hidden features; and one more nn.LayerNorm at the end. No dropout.
    head : nn.Linear to n_codes
    n_codes, n_tokens : as they are given

    All weights are drawn from `seed`.
    """

    def __init__(
        self,
        n_codes: int,
        *,
        n_tokens: int = 16,
        n_classes: int = 10,
        d_model: int = 64,
        n_heads: int = 4,
        n_layers: int = 2,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.n_codes, self.n_tokens = n_codes, n_tokens
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.label = nn.Embedding(n_classes, d_model)
            self.token = nn.Embedding(n_codes, d_model)
            self.position = nn.Parameter(torch.empty(n_tokens, d_model))
            layer = nn.TransformerEncoderLayer(
                d_model, n_heads, 4 * d_model, 0.0, F.gelu, batch_first=True, norm_first=True
            )
            norm = nn.LayerNorm(d_model)
            self.blocks = nn.TransformerEncoder(layer, n_layers, norm, enable_nested_tensor=False)
            self.head = nn.Linear(d_model, n_codes)
            for table in (self.label.weight, self.token.weight, self.position):
                nn.init.normal_(table, std=0.02)

    def forward(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """Return logits (B, n_tokens, n_codes): those of token i have seen the label and the tokens before i, no others."""
        if tokens.shape != (len(labels), self.n_tokens):
            raise ValueError(f"need tokens ({len(labels)}, {self.n_tokens}), got {tuple(tokens.shape)}")
        before = torch.cat((self.label(labels)[:, None], self.token(tokens[:, :-1])), dim=1)
        future = nn.Transformer.generate_square_subsequent_mask(self.n_tokens)
        logits: Tensor = self.head(self.blocks(before + self.position, mask=future, is_causal=True))
        return logits


def prior_loss(
    prior: Prior, tokens: Tensor, labels: Tensor, *, noise: float = 0.0, generator: Generator | None = None
) -> Tensor:
    """Return the mean cross-entropy per token, in nats. `tokens` are (B, n_tokens), or a grid (B, H, W), read row by row.

    noise : so often a token that the prior sees, never one that it shall name, is any of the n_codes instead.
    """
    tokens = tokens.flatten(1)
    others = torch.randint(prior.n_codes, tokens.shape, generator=generator)
    seen = torch.where(torch.rand(tokens.shape, generator=generator) < noise, others, tokens)
    return F.cross_entropy(prior(seen, labels).flatten(0, 1), tokens.flatten())


@torch.no_grad()
def sample(
    prior: Prior,
    labels: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """Draw the tokens of one image per label, in order, each from softmax(logits/temperature): (B, prior.n_tokens).

    prior : called as ``prior(tokens, labels)``, like a `Prior`.
    temperature : 0 takes the likeliest token; below 0 is a ValueError.
    top_k : only the k likeliest may be drawn; below 1 is a ValueError.
    """
    if temperature < 0 or (top_k is not None and top_k < 1):
        raise ValueError(f"need temperature ≥ 0 and top_k ≥ 1, got {temperature} and {top_k}")
    tokens = torch.zeros(len(labels), prior.n_tokens, dtype=torch.long)
    for i in range(prior.n_tokens):
        logits = prior(tokens, labels)[:, i]  # what stands at i and after it is not seen
        k = 1 if temperature == 0 else min(top_k or logits.shape[-1], logits.shape[-1])
        values, codes = logits.topk(k, dim=-1)
        below = (values - values[:, :1]) / (temperature or 1)  # never inf, however low the temperature
        drawn = torch.multinomial(F.softmax(below, dim=-1), 1, generator=generator)
        tokens[:, i] = codes.gather(-1, drawn)[:, 0]
    return tokens


def train_prior(
    prior: Prior,
    tokens: Tensor,
    labels: Tensor,
    n_epochs: int,
    *,
    batch_size: int = 64,
    learning_rate: float = 2e-3,
    noise: float = 0.2,
    seed: int = 0,
) -> list[float]:
    """Train with AdamW, each epoch in a new random order, the rate falling to 0 in a line; return the mean loss per epoch.

    `noise` is that of `prior_loss`: the digits are few, and without it the prior learns them by heart.
    """
    generator = Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(prior.parameters(), lr=learning_rate, weight_decay=0.1)
    n_steps = n_epochs * -(-len(tokens) // batch_size)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, n_steps)
    prior.train()
    losses = []
    for _ in range(n_epochs):
        total = 0.0
        for rows in torch.randperm(len(tokens), generator=generator).split(batch_size):
            loss = prior_loss(prior, tokens[rows], labels[rows], noise=noise, generator=generator)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(rows) / len(tokens)
        losses.append(total)
    return losses
