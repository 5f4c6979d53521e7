"""Batch norms disappear before a network is quantized: in evaluation each is a scale and a shift per channel."""

from __future__ import annotations

import itertools

import torch
from torch import nn

__all__ = ["fold_batch_norms"]


def fold_batch_norms(model: nn.Module) -> nn.Module:
    """Fold batch norms into the layer before them, in place, and return `model`.

    ``w' = w·γ/σ``, ``b' = (b - μ)·γ/σ + β`` with ``σ = sqrt(var + eps)`` of the running statistics. Only where a convolution
    or linear layer and its norm are direct neighbours in an ``nn.Sequential``: not across an activation. The norm becomes
    nn.Identity. ValueError for a norm without running statistics.

    Source: Jacob et al. 2018, arXiv 1712.05877, eq. 14.
    """
    for parent in [module for module in model.modules() if isinstance(module, nn.Sequential)]:
        for k, (layer, norm) in enumerate(itertools.pairwise(parent)):
            if isinstance(layer, nn.Linear | nn.Conv2d) and isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
                _fold(layer, norm)
                parent[k + 1] = nn.Identity()
    return model


@torch.no_grad()
def _fold(layer: nn.Linear | nn.Conv2d, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("a batch norm without running statistics cannot be folded")
    factor = (norm.running_var + norm.eps).rsqrt()
    factor = factor * norm.weight if norm.affine else factor
    bias = -norm.running_mean if layer.bias is None else layer.bias - norm.running_mean
    bias = bias * factor + norm.bias if norm.affine else bias * factor
    layer.weight = nn.Parameter(layer.weight * factor.reshape(-1, *[1] * (layer.weight.ndim - 1)))
    layer.bias = nn.Parameter(bias)
