"""Quantization from scratch: a float network as an int8 network, and the same through torch.ao.quantization.

    q = clamp(round(x / scale) + zero_point, -2^(b-1), 2^(b-1) - 1)         x ≈ (q - zero_point) · scale

The contract: floats are float32 tensors, of any shape where nothing else is said. Integers of b bits, 2 to 8, are signed
and stored as int8; another `n_bits` raises ValueError. Scales are float32 and zero points int32 tensors that broadcast
against x: one pair of shape (), or a pair per row of shape (rows, 1). Arguments are not modified. An error message about
`n_bits` or `mode` contains what came. torch.ao warns that it is deprecated, in several ways: its two functions silence that.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterable

import torch
from torch import Tensor, nn

__all__ = ["choose_qparams", "quantize", "dequantize", "fake_quantize", "MinMax", "int8_matmul",
           "QuantizedLinear", "quantize_model", "torch_dynamic", "torch_static"]  # fmt: skip

Batches = Iterable[Tensor]


def choose_qparams(
    low: Tensor | float, high: Tensor | float, *, n_bits: int = 8, symmetric: bool = False
) -> tuple[Tensor, Tensor]:
    """Choose (scale, zero_point) so that [low, high], first widened to contain 0, fills the integers of `n_bits`.

    With q_min = -2^(b-1) and q_max = 2^(b-1) - 1: ``scale = (high - low) / (q_max - q_min)``,
    ``zero_point = q_min - round(low / scale)``. Symmetric: ``scale = max(-low, high) / q_max``, ``zero_point = 0``.
    All shapes are that of low and high. Where both are 0 the scale is 1. Further: ±3e38 does not overflow.
    ValueError unless low <= high and both are finite. Source: Jacob et al., arXiv 1712.05877, section 2.1.
    """
    q_min, q_max = _limits(n_bits)
    low, high = torch.as_tensor(low).double(), torch.as_tensor(high).double()
    if not ((low <= high) & (high - low < math.inf)).all():  # False for NaN as well
        raise ValueError(f"low <= high, both finite, are needed, got {low} and {high}")
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = torch.maximum(-low, high) / q_max if symmetric else (high - low) / (q_max - q_min)
    scale = scale.clamp(min=torch.finfo(torch.float32).tiny).where(high > low, 1.0)
    zero_point = torch.zeros_like(scale) if symmetric else q_min - torch.round(low / scale)
    return scale.float(), zero_point.int()


def quantize(x: Tensor, scale: Tensor, zero_point: Tensor, *, n_bits: int = 8) -> Tensor:
    """Map floats to int8: ``clamp(round(x / scale) + zero_point, q_min, q_max)``, ties to even; ±inf saturates, NaN: ValueError."""
    q_min, q_max = _limits(n_bits)
    if x.isnan().any():
        raise ValueError("x holds NaN, which no integer can represent")
    return (torch.round(x.float() / scale) + zero_point).clamp(q_min, q_max).to(torch.int8)


def dequantize(q: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Map int8 back to float32: ``(q - zero_point) · scale``; the difference needs more than eight bits."""
    return (q.int() - zero_point) * scale


def fake_quantize(x: Tensor, scale: Tensor, zero_point: Tensor, *, n_bits: int = 8) -> Tensor:
    """Round x to what the integers can represent, but stay float and differentiable, for training.

    Forward: ``dequantize(quantize(x))``. Backward, straight-through: rounding counts as the identity. The gradient passes
    where ``round(x / scale) + zero_point`` is q_min … q_max, both included, else 0; further: of half types in float32, too.
    """
    q_min, q_max = _limits(n_bits)
    rounded = dequantize(quantize(x.detach(), scale, zero_point, n_bits=n_bits), scale, zero_point)
    steps = torch.round(x.detach().float() / scale) + zero_point
    inside = steps == steps.clamp(q_min, q_max)
    return rounded + torch.where(inside, x - x.detach(), 0)  # adds 0, with the gradient of x


class MinMax:
    """Observe the smallest and the largest value of all batches."""

    def __init__(self) -> None:
        self.low, self.high = math.inf, -math.inf

    def observe(self, x: Tensor) -> None:
        """Take one batch into account; ValueError, and nothing changes, if it is empty or holds NaN or inf."""
        if not x.numel() or not x.isfinite().all():
            raise ValueError(f"a batch of finite values is needed, got shape {tuple(x.shape)}")
        self.low, self.high = min(self.low, x.min().item()), max(self.high, x.max().item())

    def range(self) -> tuple[float, float]:
        """Return (low, high); RuntimeError if nothing was observed, since any range would be an invention."""
        if self.low > self.high:
            raise RuntimeError("nothing was observed: run calibration batches through the model first")
        return self.low, self.high


def int8_matmul(x: Tensor, weight: Tensor, zero_point: Tensor | int = 0) -> Tensor:
    """Multiply int8 matrices exactly: ``out[m, n] = Σ_k (x[m, k] - zero_point[m]) · weight[n, k]`` in int32.

    x : (rows, in); weight : (out, in); zero_point, of x : int, () or (rows, 1). TypeError if an operand is not int8; ValueError
    if they are not two matrices of one `in`. Further: (rows,); TypeError for 0.5; ValueError for in > 65,536, which may overflow.
    """
    if not x.dtype == weight.dtype == torch.int8 or (zero := torch.as_tensor(zero_point)).is_floating_point():
        raise TypeError(f"int8, int8 and integers are needed, got {x.dtype}, {weight.dtype} and {zero_point}")
    if x.ndim != 2 or weight.ndim != 2 or x.shape[1] != weight.shape[1] or x.shape[1] > 65536:
        raise ValueError(f"(rows, in <= 65,536) and (out, in) are needed, got {x.shape} and {weight.shape}")
    return (x.int() - zero.int().reshape(-1, 1)) @ weight.int().T


class QuantizedLinear(nn.Module):
    """``nn.Linear`` on integers: ``int8_matmul(q, weight, zero_point) · (scale · weight_scale) + bias``.

    Dynamic, without `input_range`: each row of x, along its last axis, is quantized with the range of its own values.
    Static: all rows with `input_range`, (low, high); further: a buffer, too. Weights are symmetric, one scale per output.
    It holds buffers, no parameters: weight (out, in) int8, weight_scale (out,), bias (out,) or None.
    Input (..., in), output (..., out). NaN in x raises ValueError. Source: Jacob et al., arXiv 1712.05877, eq. 4 to 7.
    """

    def __init__(self, linear: nn.Linear, *, input_range: tuple[float, float] | None = None) -> None:
        super().__init__()
        weight = linear.weight.detach()
        largest = weight.abs().amax(1, keepdim=True)
        scale, zero = choose_qparams(-largest, largest, symmetric=True)
        self.weight, self.weight_scale = nn.Buffer(quantize(weight, scale, zero)), nn.Buffer(scale.flatten())
        self.bias = None if linear.bias is None else nn.Buffer(linear.bias.detach().clone())
        qparams = None if input_range is None else torch.stack(choose_qparams(*map(float, input_range)))
        self.input_qparams = None if qparams is None else nn.Buffer(qparams)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer."""
        rows = x.detach().reshape(-1, x.shape[-1])
        known = None if self.input_qparams is None else (self.input_qparams[0], self.input_qparams[1].int())
        scale, zero_point = known or choose_qparams(rows.amin(1, True), rows.amax(1, True))
        sums = int8_matmul(quantize(rows, scale, zero_point), self.weight, zero_point)
        y = sums * (scale * self.weight_scale)
        return (y if self.bias is None else y + self.bias).reshape(*x.shape[:-1], -1)


def quantize_model(model: nn.Module, *, mode: str = "dynamic", calibration: Batches = ()) -> nn.Module:
    """Return a copy of `model`, in evaluation mode, with a `QuantizedLinear` in the place of every ``nn.Linear``, itself included.

    `model` stays as it is. Other layers and subclasses of nn.Linear are kept. "static" runs the batches of `calibration`
    through the float copy, in evaluation mode, while a `MinMax` per layer watches its input. ValueError for another mode, or
    "static" without a batch; RuntimeError if no batch reached a layer. Further: so that torch's encoder layers run.
    """
    if mode not in ("dynamic", "static"):
        raise ValueError(f"mode must be 'dynamic' or 'static', got {mode!r}")
    quantized = _copy(model)
    linears = {name: module for name, module in quantized.named_modules() if type(module) is nn.Linear}
    seen = {name: MinMax() for name in linears if mode == "static"}
    for name in seen:  # the hooks will go with the float layers
        linears[name].register_forward_pre_hook(lambda _, args, name=name: seen[name].observe(args[0]))
    if mode == "static":
        _run(quantized, calibration)
    for name, layer in linears.items():
        input_range = seen[name].range() if seen else None
        quantized.set_submodule(name, QuantizedLinear(layer, input_range=input_range))
    return quantized[0].eval()


def torch_dynamic(model: nn.Module) -> nn.Module:
    """Quantize every nn.Linear of a copy of `model`, in evaluation mode, by ``torch.ao.quantization.quantize_dynamic``."""
    with warnings.catch_warnings(action="ignore"):
        return torch.ao.quantization.quantize_dynamic(_copy(model), {nn.Linear})[0]


def torch_static(model: nn.Sequential, calibration: Batches) -> nn.Module:
    """Quantize a copy of `model`, in evaluation mode, through torch.ao's eager mode: stubs, prepare, run `calibration`, convert.

    The model stays as it is. ValueError without a batch, or for a layer whose class is not Linear, ReLU, Dropout or Flatten: it
    names the class, since such a layer would fail later, when the result runs, or stay float.
    """
    if unknown := {type(layer) for layer in model} - {nn.Linear, nn.ReLU, nn.Dropout, nn.Flatten}:
        raise ValueError(f"torch_static does not support {', '.join(kind.__name__ for kind in unknown)}")
    ao = torch.ao.quantization
    stubbed = nn.Sequential(ao.QuantStub(), *map(copy.deepcopy, model), ao.DeQuantStub()).eval()
    with warnings.catch_warnings(action="ignore"):
        stubbed.qconfig = ao.get_default_qconfig(torch.backends.quantized.engine)
        prepared = ao.prepare(stubbed)
        _run(prepared, calibration)
        return ao.convert(prepared)


def _limits(n_bits: int) -> tuple[int, int]:
    if n_bits not in range(2, 9):
        raise ValueError(f"n_bits must be 2 to 8, got {n_bits!r}")
    return -(2 ** (n_bits - 1)), 2 ** (n_bits - 1) - 1


def _copy(model: nn.Module) -> nn.Sequential:
    """Copy `model` into a Sequential, so that it has a place itself; a linear layer in two places becomes two."""
    parent = nn.Sequential(copy.deepcopy(model)).eval()
    for name, module in [*parent.named_modules(remove_duplicate=False)]:
        if type(module) is nn.Linear:
            parent.set_submodule(name, copy.deepcopy(module))
        if isinstance(module, nn.TransformerEncoder | nn.TransformerEncoderLayer):
            module.use_nested_tensor = module.activation_relu_or_gelu = False  # no fast path
    return parent


def _run(model: nn.Module, batches: Batches) -> None:
    with torch.no_grad():
        if not [model(x) for x in batches]:
            raise ValueError("calibration holds no batch")
