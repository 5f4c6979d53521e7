"""Where the FLOPs of the core's block are: the formula, and torch's counter."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import transformer_block as tb

with FlopCounterMode(
    display=False
):  # torch imports for seconds when it is first used: no test has to wait for that
    torch.ones(1, 1) @ torch.ones(1, 1)


@pytest.mark.grades("LayerNorm", "FeedForward", "SelfAttention", "TransformerBlock")
@pytest.mark.parametrize("causal", [False, True])
def test_flops(causal, generator):
    """The matrix products take 24·B·n·d² + 4·B·n²·d FLOPs forward, and twice that backward."""
    B, n, d = 2, 10, 24
    block = tb.TransformerBlock(d, 3, causal=causal)
    x = torch.randn(B, n, d, generator=generator, requires_grad=True)
    with FlopCounterMode(display=False) as forward:
        y = block(x)
    expected = 24 * B * n * d**2 + 4 * B * n**2 * d
    got = forward.get_total_flops()
    assert got == expected, (
        f"{got} FLOPs in matrix products, expected 24·B·n·d² + 4·B·n²·d = {expected}: the projections take "
        f"{8 * B * n * d**2}, the feed-forward network {16 * B * n * d**2}, attention {4 * B * n**2 * d}"
    )
    with FlopCounterMode(display=False) as backward:
        y.sum().backward()
    got = backward.get_total_flops()
    assert got == 2 * expected, (
        f"the backward pass takes {got} FLOPs, expected twice the forward's {expected}"
    )
