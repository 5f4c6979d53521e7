"""A training step of the block (forward and backward) beside nn.TransformerEncoderLayer, and what its parts cost.

torch's layer runs in training mode without dropout, so its attention is scaled_dot_product_attention and its norm
native_layer_norm: both fused, forward and backward. Ours is matrix products, softmax and elementwise operations. Both
get the same random weights.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import transformer_block
from transformer_block import LayerNorm, RMSNorm, TransformerBlock

sys.path.append(str(Path(__file__).resolve().parents[2]))  # the repository root, for shared/
from shared.measuring.benchmark import Benchmark

CASES = [  # B, T, d_model, heads, norm position, causal
    (16, 32, 128, 4, "pre", False),
    (4, 128, 256, 8, "pre", False),
    (4, 128, 256, 8, "post", False),
    (4, 128, 256, 8, "pre", True),
    (2, 512, 256, 8, "pre", False),
    (2, 512, 256, 8, "pre", True),
]
TARGET = 1 / 1.2  # torch's time over ours, at least


def step(module: Callable[[Tensor], Tensor], x: Tensor, parameters: list[Tensor]) -> Callable[[], object]:
    """Return one training step without the optimizer: forward, and all gradients for a random direction."""
    x = x.clone().requires_grad_()
    cotangent = torch.randn_like(x)
    return lambda: torch.autograd.grad(module(x), (x, *parameters), cotangent)


def ours_and_torchs(
    d_model: int, n_heads: int, *, norm_position: str, causal: bool
) -> tuple[TransformerBlock, nn.TransformerEncoderLayer]:
    """Return our block and torch's layer with the same weights."""
    block = TransformerBlock(d_model, n_heads, norm_position=norm_position, causal=causal)
    layer = nn.TransformerEncoderLayer(
        *(d_model, n_heads, 4 * d_model),
        dropout=0.0,
        activation="gelu",
        batch_first=True,
        norm_first=norm_position == "pre",
    )
    with torch.no_grad():
        for mine, other in (
            (block.qkv.weight, layer.self_attn.in_proj_weight),
            (block.out.weight, layer.self_attn.out_proj.weight),
            (block.feed_forward.up.weight, layer.linear1.weight),
            (block.feed_forward.down.weight, layer.linear2.weight),
        ):
            mine.copy_(other)
    return block, layer


def without_groups(block: TransformerBlock) -> Callable[[Tensor], Tensor]:
    """Return the block with all attention matrices made at once."""

    def forward(x: Tensor) -> Tensor:
        kept, transformer_block._GROUP_SCORES = transformer_block._GROUP_SCORES, 1 << 62
        try:
            y: Tensor = block(x)
        finally:
            transformer_block._GROUP_SCORES = kept
        return y

    return forward


def compare_blocks(bench: Benchmark, generator: torch.Generator) -> None:
    """Measure the block at several sizes, its two kinds, and with a causal mask."""
    for B, T, d_model, n_heads, norm_position, causal in CASES:
        x = torch.randn(B, T, d_model, generator=generator)
        block, layer = ours_and_torchs(d_model, n_heads, norm_position=norm_position, causal=causal)
        mask = nn.Transformer.generate_square_subsequent_mask(T) if causal else None

        def torchs(x: Tensor, layer: nn.Module = layer, mask: Tensor | None = mask) -> Tensor:
            return layer(x, src_mask=mask, is_causal=mask is not None)

        kind = f"{norm_position}-norm{', causal' if causal else ''}"
        bench.compare(
            "training step, float32, one thread",
            f"B = {B}, T = {T}, d = {d_model}, {n_heads} heads, {kind}",
            ours=step(block, x, [*block.parameters()]),
            peers={"nn.TransformerEncoderLayer": step(torchs, x, [*layer.parameters()])},
            targets={"nn.TransformerEncoderLayer": TARGET},
        )


def compare_parts(bench: Benchmark, generator: torch.Generator) -> None:
    """Measure the norms beside the fused ones, and what it is worth to attend in groups."""
    x = torch.randn(8, 128, 512, generator=generator)
    layer, rms = LayerNorm(512), RMSNorm(512)
    bench.compare(
        "norms, 8·128 tokens of 512 features, forward and backward",
        "LayerNorm",
        ours=step(layer, x, [*layer.parameters()]),
        peers={
            "fused": step(
                lambda x: F.layer_norm(x, (512,), layer.weight, layer.bias), x, [*layer.parameters()]
            )
        },
    )
    bench.compare(
        "norms, 8·128 tokens of 512 features, forward and backward",
        "RMSNorm",
        ours=step(rms, x, [rms.weight]),
        peers={"fused": step(lambda x: F.rms_norm(x, (512,), rms.weight, 1e-6), x, [rms.weight])},
    )
    for T, B in ((128, 4), (512, 4)):
        x = torch.randn(B, T, 256, generator=generator)
        block = TransformerBlock(256, 8)
        bench.compare(
            "attention in groups of 2 MB of scores, training step of the block",
            f"B = {B}, T = {T}, d = 256, 8 heads",
            ours=step(block, x, [*block.parameters()]),
            peers={"all at once": step(without_groups(block), x, [*block.parameters()])},
        )


def main() -> None:
    """Measure, and write results/ and the tables of the README."""
    bench = Benchmark(__file__, threads=1)
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    compare_blocks(bench, generator)
    compare_parts(bench, generator)
    bench.save()


if __name__ == "__main__":
    main()
