"""A small GPT over bytes, so that there is something to train: pre-norm blocks, learned positions, tied weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["CharGPT"]

NEIGHBOURS = 4  # bytes that the short convolution looks at
VOCABULARY = 256  # every byte is a token, so no text is unknown and bits per token are bits per byte


class _Block(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x))."""

    def __init__(self, d_model: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.attention_norm = nn.LayerNorm(d_model)
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.attention_out = nn.Linear(d_model, d_model)
        self.feed_forward_norm = nn.LayerNorm(d_model)
        self.widen = nn.Linear(d_model, 4 * d_model)
        self.narrow = nn.Linear(4 * d_model, d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(self.attention_norm(x)).unflatten(-1, (3, self.n_heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (B, h, T, d)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.dropout(self.attention_out(mixed.transpose(1, 2).flatten(-2)))
        hidden = nn.functional.gelu(self.widen(self.feed_forward_norm(x)))
        return x + self.dropout(self.narrow(hidden))


class CharGPT(nn.Module):
    """A decoder-only transformer that predicts the next byte.

    Parameters
    ----------
    context : int
        The longest input.
    d_model, n_layers, n_heads : int
        `n_heads` divides `d_model`. Like `context`, both are 1 or more. What is not so is a ValueError that names it.
    dropout : float
        After the embedding and at the end of every branch.

    Notes
    -----
    Before the blocks, each position adds a weighted sum of the last four embeddings (a causal convolution, channel by
    channel, as in So et al., "Primer", 2021). Attention would learn to look at the neighbours by itself, but a run of a
    minute has no time for that.

    Matrices are normal with variance 1/fan-in, so that a signal keeps its size, and those that end a branch are divided
    by sqrt(2·n_layers), so that the sum over the branches keeps its size with depth (Radford et al., GPT-2, 2019,
    section 2.3). Embeddings start small, because their transpose makes the logits.
    """

    def __init__(
        self, *, context: int, d_model: int, n_layers: int, n_heads: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        for name, size in {"context": context, "d_model": d_model, "n_heads": n_heads}.items():
            if size < 1:
                raise ValueError(f"{name} must be 1 or more, got {size}")
        if d_model % n_heads:
            raise ValueError(f"d_model={d_model} is not divisible by n_heads={n_heads}")
        self.context = context
        self.tokens = nn.Embedding(VOCABULARY, d_model)
        self.positions = nn.Embedding(context, d_model)
        self.neighbours = nn.Parameter(torch.empty(NEIGHBOURS, d_model))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(_Block(d_model, n_heads, dropout) for _ in range(n_layers))
        self.norm = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, VOCABULARY, bias=False)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif name.startswith(("tokens", "positions")):
                nn.init.normal_(parameter, std=0.05)
            elif name == "neighbours":
                nn.init.normal_(parameter, std=0.5)
            elif parameter.ndim == 2:
                ends_branch = name.endswith(("attention_out.weight", "narrow.weight"))
                scale = math.sqrt(2 * n_layers) if ends_branch else 1.0
                nn.init.normal_(parameter, std=1 / (math.sqrt(parameter.shape[1]) * scale))
        self.head.weight = self.tokens.weight  # tied: one matrix reads a byte and scores it

    def forward(self, tokens: Tensor) -> Tensor:
        """Map bytes (B, T) int64 to logits (B, T, 256); position t sees tokens 0 … t only.

        Raises
        ------
        ValueError
            If T is above the context, or there are not two axes.
        """
        if tokens.ndim != 2:
            raise ValueError(f"tokens must be (B, T), got {tuple(tokens.shape)}")
        if tokens.shape[-1] > self.context:
            raise ValueError(f"at most {self.context} tokens fit the context, got {tokens.shape[-1]}")
        n_tokens = tokens.shape[-1]
        x = self.tokens(tokens) + self.positions.weight[:n_tokens]
        earlier = nn.functional.pad(x, (0, 0, NEIGHBOURS - 1, 0))
        x = x + sum(weight * earlier[:, k : k + n_tokens] for k, weight in enumerate(self.neighbours))
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))

    @torch.no_grad()
    def generate(self, prompt: bytes, n_bytes: int, *, generator: torch.Generator) -> bytes:
        """Continue `prompt` by `n_bytes` sampled bytes; returns both. Uses no other randomness in eval mode.

        ValueError if the prompt is empty or no bytes, or `n_bytes` negative.
        """
        if not isinstance(prompt, bytes) or not prompt or n_bytes < 0:
            raise ValueError(
                f"a prompt of 1 byte or more and n_bytes >= 0 are needed, got {prompt!r}, {n_bytes=}"
            )
        text = torch.tensor([list(prompt)])
        for _ in range(n_bytes):
            device = self.head.weight.device
            logits = self(text[:, -self.context :].to(device))[:, -1].float().cpu()
            text = torch.cat([text, torch.multinomial(logits.softmax(-1), 1, generator=generator)], dim=1)
        return bytes(text[0].tolist())
