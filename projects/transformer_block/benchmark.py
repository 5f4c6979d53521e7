"""A training step of the block (forward and backward) beside nn.TransformerEncoderLayer, and what its parts cost.

torch's layer runs in training mode without dropout, so its attention is scaled_dot_product_attention and its norm
native_layer_norm: both fused, forward and backward. Ours is matrix products, softmax and elementwise operations: "ours" attends in
groups (gpt2_and_llama.py), "plain" in all heads of all sequences at once (transformer_block.py). All get the same random
weights.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import attention_in_groups
import transformer_block
from gpt2_and_llama import TransformerBlock
from norms import LayerNorm, RMSNorm

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


def the_same_blocks(
    d_model: int, n_heads: int, *, norm_position: str, causal: bool
) -> tuple[TransformerBlock, transformer_block.TransformerBlock | None, nn.TransformerEncoderLayer]:
    """Return our block, the plain one where it is pre-norm, and torch's layer, all with the same weights."""
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
            (block.attention.qkv.weight, layer.self_attn.in_proj_weight),
            (block.attention.out.weight, layer.self_attn.out_proj.weight),
            (block.feed_forward.up.weight, layer.linear1.weight),
            (block.feed_forward.down.weight, layer.linear2.weight),
        ):
            mine.copy_(other)
    if norm_position == "post":
        return block, None, layer
    plain = transformer_block.TransformerBlock(d_model, n_heads, causal=causal)
    plain.load_state_dict(block.state_dict())
    return block, plain, layer


def without_groups(block: TransformerBlock) -> Callable[[Tensor], Tensor]:
    """Return the block with all attention matrices made at once."""

    def forward(x: Tensor) -> Tensor:
        kept, attention_in_groups.GROUP_SCORES = attention_in_groups.GROUP_SCORES, 1 << 62
        try:
            return block(x)
        finally:
            attention_in_groups.GROUP_SCORES = kept

    return forward


def compare_blocks(bench: Benchmark, generator: torch.Generator) -> None:
    """Measure the block at several sizes, its two kinds, and with a causal mask."""
    for B, T, d_model, n_heads, norm_position, causal in CASES:
        x = torch.randn(B, T, d_model, generator=generator)
        block, plain, layer = the_same_blocks(d_model, n_heads, norm_position=norm_position, causal=causal)
        mask = nn.Transformer.generate_square_subsequent_mask(T) if causal else None

        def torchs(x: Tensor, layer: nn.Module = layer, mask: Tensor | None = mask) -> Tensor:
            return layer(x, src_mask=mask, is_causal=mask is not None)

        peers = {"nn.TransformerEncoderLayer": step(torchs, x, [*layer.parameters()])}
        if plain is not None:
            peers["plain"] = step(plain, x, [*plain.parameters()])
        kind = f"{norm_position}-norm{', causal' if causal else ''}"
        bench.compare(
            "training step, float32, one thread",
            f"B = {B}, T = {T}, d = {d_model}, {n_heads} heads, {kind}",
            ours=step(block, x, [*block.parameters()]),
            peers=peers,
            targets={"nn.TransformerEncoderLayer": TARGET},
        )


def compare_parts(bench: Benchmark, generator: torch.Generator) -> None:
    """Measure the norms beside the fused ones, and what it is worth to attend in groups."""
    x = torch.randn(8, 128, 512, generator=generator)
    layer, rms, plain = LayerNorm(512), RMSNorm(512), transformer_block.LayerNorm(512)
    bench.compare(
        "norms, 8·128 tokens of 512 features, forward and backward",
        "LayerNorm",
        ours=step(layer, x, [*layer.parameters()]),
        peers={
            "fused": step(
                lambda x: F.layer_norm(x, (512,), layer.weight, layer.bias), x, [*layer.parameters()]
            ),
            "plain": step(plain, x, [*plain.parameters()]),
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
