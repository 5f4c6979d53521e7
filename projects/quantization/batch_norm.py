"""Batch norms disappear before a network is quantized: in evaluation each is a scale and a shift per channel."""

from __future__ import annotations

import inspect
from collections import Counter

import torch
from torch import fx, nn

__all__ = ["fold_batch_norms"]


def fold_batch_norms(model: nn.Module) -> nn.Module:
    """Fold each BatchNorm2d into the Conv2d before it, in place, and return `model`.

    ``w' = w·γ/σ``, ``b' = (b - μ)·γ/σ + β`` with ``σ = sqrt(var + eps)`` of the running statistics. The norm becomes
    nn.Identity. Only where torch.fx follows ``model(x)`` and sees that the norm alone gets what the convolution gives: a layer
    that is used twice, in whatever way, keeps its weight. What torch.fx cannot follow keeps its norms, and so does a linear
    layer: BatchNorm1d scales its outputs in (batch, features), but its rows in (batch, channels, length). ValueError for a norm
    without running statistics.

    Source: Jacob et al. 2018, arXiv 1712.05877, eq. 14.
    """
    places = list(model.named_modules(remove_duplicate=False))
    uses = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    for layer, norm in _pairs(model):
        if all(uses[id(parameter)] == 1 for parameter in layer.parameters()):
            _fold(layer, norm)
            for name in [name for name, module in places if module is norm]:
                model.set_submodule(name, nn.Identity())
    return model


def _pairs(model: nn.Module) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Return the convolutions and norms of which each is called once, and the norm on the convolution's output only."""
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(model.forward).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    try:
        graph = fx.Tracer().trace(model, concrete_args=defaults)
    except Exception:  # forward looks at values or shapes: any error can come of it
        return []
    calls = [node for node in graph.nodes if node.op == "call_module"]
    times = Counter(str(node.target) for node in calls)
    pairs = []
    for node in calls:
        before = node.args[0] if node.args else None
        if isinstance(before, fx.Node) and before in calls and len(before.users) == 1:
            layer, norm = (model.get_submodule(str(n.target)) for n in (before, node))
            plain = not any(m._forward_hooks or m._forward_pre_hooks for m in (layer, norm))
            once = times[str(before.target)] == times[str(node.target)] == 1
            if plain and once and type(layer) is nn.Conv2d and type(norm) is nn.BatchNorm2d:
                pairs.append((layer, norm))
    return pairs


@torch.no_grad()
def _fold(layer: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("a batch norm without running statistics cannot be folded")
    factor = (norm.running_var + norm.eps).rsqrt()
    factor = factor * norm.weight if norm.affine else factor
    bias = -norm.running_mean if layer.bias is None else layer.bias - norm.running_mean
    bias = bias * factor + norm.bias if norm.affine else bias * factor
    layer.weight = nn.Parameter(layer.weight * factor[:, None, None, None])
    layer.bias = nn.Parameter(bias)
