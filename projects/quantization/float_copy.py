"""The float copy of a network, from which everything else is made: what can be decided before any rounding is decided here."""

from __future__ import annotations

import copy

from torch import nn

from batch_norm import fold_batch_norms

__all__ = ["float_copy"]


def float_copy(model: nn.Module) -> nn.Module:
    """Return a copy of `model` to quantize: float32, in evaluation mode, batch norms folded (`fold_batch_norms`).

    Torch's encoder layers lose their fast path: it reads the weights of linear layers, and these will be integers.
    """
    copied = fold_batch_norms(copy.deepcopy(model).float().eval())
    for module in copied.modules():
        if isinstance(module, nn.TransformerEncoder | nn.TransformerEncoderLayer):
            module.use_nested_tensor = module.activation_relu_or_gelu = False
    return copied
