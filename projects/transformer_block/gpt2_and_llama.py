"""The block with the options that make it GPT-2's, Llama's or that of 2017, and a stack of them.

    pre-norm:   x = x + attention(norm(x));   x = x + feed_forward(norm(x))
    post-norm:  x = norm(x + attention(x));   x = norm(x + feed_forward(x))

The parts come from norms.py, swiglu.py and attention_in_groups.py, by their names. Everything accepts float16, bfloat16, float32
and float64, and gives back the dtype it got. NaN and inf propagate. Empty is fine.
"""

from __future__ import annotations

from numbers import Integral
from typing import Any

from torch import Tensor, nn

from attention_in_groups import SelfAttention
from norms import LayerNorm, RMSNorm
from swiglu import FeedForward

__all__ = ["TransformerBlock", "Transformer"]


class TransformerBlock(nn.Module):
    """The `TransformerBlock` of transformer_block.py, with the same layers, and with options.

    norm : "layer" or "rms", the class of both norms, with its default eps.
    norm_position : "pre" or "post", see the formulas of this module.
    d_ff, activation : as in swiglu.py.
    causal, position : as in attention_in_groups.py.
    dropout : handed to both branches; drops entries of each branch's output too, before it is added.
    bias : whether the linear layers and the layer norms have one.

    ValueError for an option that is none of these (the message holds it), and what the branches raise.

    Source: Vaswani et al., arXiv 1706.03762, figure 1 (post-norm); Xiong et al., arXiv 2002.04745, figure 1 (both);
    Radford et al., GPT-2 (2019); Touvron et al., LLaMA, arXiv 2302.13971, section 2.2.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        *,
        d_ff: int | None = None,
        norm: str = "layer",
        norm_position: str = "pre",
        activation: str = "gelu",
        position: str | None = None,
        dropout: float = 0.0,
        causal: bool = False,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if norm_position not in ("pre", "post"):
            raise ValueError(f"norm_position must be 'pre' or 'post', got {norm_position!r}")
        self.norm_position = norm_position
        self.attention_norm = _norm(norm, d_model, bias)
        self.attention = SelfAttention(
            d_model, n_heads, causal=causal, position=position, dropout=dropout, bias=bias
        )
        self.feed_forward_norm = _norm(norm, d_model, bias)
        self.feed_forward = FeedForward(d_model, d_ff, activation=activation, dropout=dropout, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Transform x : (B, T, d_model), with the `mask` of attention_in_groups.py."""
        if self.norm_position == "pre":
            x = x + self.dropout(self.attention(self.attention_norm(x), mask=mask))
            return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))
        x = self.attention_norm(x + self.dropout(self.attention(x, mask=mask)))
        return self.feed_forward_norm(x + self.dropout(self.feed_forward(x)))


class Transformer(nn.Module):
    """A stack of n_layers blocks, each with parameters of its own; with pre-norm, one more norm at the end.

    Without it a pre-norm stack would hand out a sum that no norm has seen. The options are those of `TransformerBlock`.
    ValueError unless n_layers is a positive integer.

    blocks : nn.ModuleList of TransformerBlock, the first block first.
    final_norm : LayerNorm or RMSNorm; None with post-norm, where every block ends in a norm.
    """

    def __init__(
        self,
        n_layers: int,
        d_model: int,
        n_heads: int,
        *,
        norm: str = "layer",
        norm_position: str = "pre",
        bias: bool = True,
        **options: Any,
    ) -> None:
        super().__init__()
        if not isinstance(n_layers, int | Integral) or isinstance(n_layers, bool) or n_layers < 1:
            raise ValueError(f"n_layers must be a positive integer, got {n_layers!r}")
        self.blocks = nn.ModuleList(
            TransformerBlock(d_model, n_heads, norm=norm, norm_position=norm_position, bias=bias, **options)
            for _ in range(n_layers)
        )
        self.final_norm = _norm(norm, d_model, bias) if norm_position == "pre" else None

    def forward(self, x: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Send x : (B, T, d_model) through all blocks, each with the same `mask`."""
        for block in self.blocks:
            x = block(x, mask=mask)
        return x if self.final_norm is None else self.final_norm(x)


def _norm(norm: str, d_model: int, bias: bool) -> LayerNorm | RMSNorm:
    if norm not in ("layer", "rms"):
        raise ValueError(f"norm must be 'layer' or 'rms', got {norm!r}")
    return LayerNorm(d_model, bias=bias) if norm == "layer" else RMSNorm(d_model)
