"""The feed-forward network with a gate, as Llama uses it, and with GPT-2's gelu."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["FeedForward"]


class FeedForward(nn.Module):
    """Two linear layers, or three with a gate, applied to each token alone, in the dtype of their weights.

        relu, gelu, gelu_tanh:  y = down(dropout(activation(up(x))))
        swiglu:                 y = down(dropout(silu(gate(x)) · up(x)))

    activation : "gelu" is x·Φ(x), exact; "gelu_tanh" its approximation by tanh that GPT-2 uses. ValueError for any other
        than the four: the message holds it.
    up, down, gate : nn.Linear, d_model to d_ff, back, and d_model to d_ff, with biases unless bias=False; `gate` is None
        unless the activation is "swiglu".
    d_ff : 4·d_model by default; for "swiglu" 8·d_model // 3, so that its three matrices have as many parameters as the two
        of the others.

    In float16 a product silu(gate) · up beyond 65504 is inf, and what `down` makes of it inf or NaN: use bfloat16 there.

    Source: Shazeer, "GLU Variants Improve Transformer", arXiv 2002.05202, eq. 6.
    """

    def __init__(
        self,
        d_model: int,
        d_ff: int | None = None,
        *,
        activation: str = "gelu",
        dropout: float = 0.0,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if activation not in ("gelu", "gelu_tanh", "relu", "swiglu"):
            raise ValueError(f"activation must be gelu, gelu_tanh, relu or swiglu, got {activation!r}")
        gated = activation == "swiglu"
        if d_ff is None:
            d_ff = 8 * d_model // 3 if gated else 4 * d_model
        self.activation = activation
        self.up = nn.Linear(d_model, d_ff, bias=bias)
        self.gate = nn.Linear(d_model, d_ff, bias=bias) if gated else None
        self.down = nn.Linear(d_ff, d_model, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Transform x : (..., d_model)."""
        h = self.up(x)
        if self.gate is not None:
            h = F.silu(self.gate(x)) * h
        elif self.activation == "relu":
            h = F.relu(h)
        else:
            h = F.gelu(h, approximate="tanh" if self.activation == "gelu_tanh" else "none")
        return self.down(self.dropout(h))
