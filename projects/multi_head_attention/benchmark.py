"""Training, inference and decoding beside ``nn.MultiheadAttention`` with the same weights, one thread, one process.

"grouped" is grouped_query_attention.py, written out or fused; "plain" is multi_head_attention.py.

The peer runs as one would use it: ``need_weights=False``, with which it calls SDPA; its default ``need_weights=True``
writes the attention out and is timed beside it. Its gradients, like ours, are thrown away after each backward pass.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import multi_head_attention
from grouped_query_attention import MultiHeadAttention
from key_value_cache import KeyValueCache

sys.path.append(str(Path(__file__).resolve().parents[2]))  # the repository root, for shared/
from shared.measuring.benchmark import Benchmark

WRITTEN_OUT, FUSED = 1 / 1.3, 1.0  # torch's time over ours, at least


def twins(d_model: int, n_heads: int) -> tuple[nn.MultiheadAttention, MultiHeadAttention]:
    """Return torch's module and ours with the same weights."""
    theirs = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
    return theirs, MultiHeadAttention.from_torch(theirs)


def plain_twin(ours: MultiHeadAttention, *, causal: bool) -> multi_head_attention.MultiHeadAttention:
    """Return the plain module with the same weights."""
    twin = multi_head_attention.MultiHeadAttention(ours.d_model, ours.n_heads, causal=causal)
    twin.load_state_dict(ours.state_dict())
    return twin


def training_step(module: nn.Module, forward: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], None]:
    """Return a forward and a backward pass with a random cotangent."""
    cotangent = torch.randn_like(x)

    def step() -> None:
        forward(x).backward(cotangent)
        x.grad = None
        for parameter in module.parameters():
            parameter.grad = None

    return step


def compare_forms(bench: Benchmark, B: int, T: int, d_model: int, n_heads: int, form: str) -> None:
    """Time training and inference of one size: plain, causal or with key padding."""
    theirs, ours = twins(d_model, n_heads)
    x = torch.randn(B, T, d_model)
    real = torch.arange(T) < torch.linspace(T // 2, T, B).long()[:, None]
    options: dict[str, Any] = {}
    if form == "causal":
        options = {"attn_mask": torch.ones(T, T, dtype=torch.bool).triu(1), "is_causal": True}
    elif form == "padded":
        options = {"key_padding_mask": ~real}
    ours.causal = form == "causal"
    plain = plain_twin(ours, causal=ours.causal)
    mask = real[:, None, None, :] if form == "padded" else None

    def torch_forward(x: Tensor, *, need_weights: bool = False) -> Tensor:
        return theirs(x, x, x, need_weights=need_weights, **options)[0]

    def our_forward(x: Tensor) -> Tensor:
        return ours(x, mask=mask)

    def plain_forward(x: Tensor) -> Tensor:
        return plain(x, mask=mask)

    case = f"B {B}, T {T}, d {d_model}, {n_heads} heads, {form}"
    x.requires_grad_()
    for fused, target in ((False, WRITTEN_OUT), (True, FUSED)):
        ours.fused = fused
        peers = {
            "plain": training_step(plain, plain_forward, x),
            "torch": training_step(theirs, torch_forward, x),
        }
        if not fused:
            peers["torch, need_weights"] = training_step(
                theirs, lambda x: torch_forward(x, need_weights=True), x
            )
        bench.compare(
            f"training step, {'fused' if fused else 'written out'}",
            case,
            name="grouped",
            ours=training_step(ours, our_forward, x),
            peers=peers,
            targets={"torch": target},
        )
    x.requires_grad_(False)
    for module in (theirs, ours, plain):
        module.eval()
    with torch.no_grad():
        for fused in (False, True):
            ours.fused = fused
            bench.compare(
                f"inference, {'fused' if fused else 'written out'}",
                case,
                name="grouped",
                ours=lambda: our_forward(x),
                peers={"plain": lambda: plain_forward(x), "torch": lambda: torch_forward(x)},
            )


def compare_decoding(bench: Benchmark, n_prompt: int, n_new: int, n_kv_heads: int) -> None:
    """Time `n_new` tokens after a prompt: with a cache, and with the whole sequence computed again for each."""
    B, d_model, n_heads = 1, 512, 8
    theirs = nn.MultiheadAttention(d_model, n_heads, batch_first=True).eval()
    ours = MultiHeadAttention(d_model, n_heads, n_kv_heads=n_kv_heads, causal=True).eval()
    x = torch.randn(B, n_prompt + n_new, d_model)
    ends = range(n_prompt + 1, n_prompt + n_new + 1)
    cache = KeyValueCache(n_prompt + n_new)

    def cached() -> None:
        cache.reset()
        ours(x[:, :n_prompt], cache=cache)
        for end in ends:
            ours(x[:, end - 1 : end], cache=cache)

    def recomputed() -> None:
        for end in ends:
            ours(x[:, :end])

    def torch_recomputed() -> None:
        for end in ends:
            hidden = torch.ones(end, end, dtype=torch.bool).triu(1)
            theirs(x[:, :end], x[:, :end], x[:, :end], attn_mask=hidden, is_causal=True, need_weights=False)

    bench.compare(
        "decoding, d 512, 8 heads, one sequence",
        f"{n_new} tokens after {n_prompt}, {n_kv_heads} kv heads",
        name="cached",
        ours=cached,
        peers={"recomputing": recomputed, "torch, recomputing": torch_recomputed},
    )


def main() -> None:
    """Measure, and write results/ and the tables of the README."""
    bench = Benchmark(__file__, threads=1)
    compare_forms(bench, 1, 256, 512, 8, "plain")
    compare_forms(bench, 2, 128, 512, 8, "padded")
    compare_forms(bench, 1, 256, 512, 8, "causal")
    compare_forms(bench, 8, 32, 256, 4, "plain")
    with torch.no_grad():
        compare_decoding(bench, 16, 8, 8)
        compare_decoding(bench, 128, 8, 8)
        compare_decoding(bench, 128, 8, 1)
    bench.save()


if __name__ == "__main__":
    main()
