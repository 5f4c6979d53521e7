from __future__ import annotations

import copy
import math
import warnings

import torch
from torch import nn

_SMALLEST = torch.finfo(torch.float32).tiny


def _limits(n_bits: int) -> tuple[int, int]:
    if not isinstance(n_bits, int) or isinstance(n_bits, bool) or not 2 <= n_bits <= 8:
        raise ValueError(f"n_bits must be an integer from 2 to 8; got {n_bits!r}")
    half = 1 << (n_bits - 1)
    return -half, half - 1


@torch.no_grad()
def choose_qparams(low, high, *, n_bits=8, symmetric=False):
    q_min, q_max = _limits(n_bits)
    lo = torch.as_tensor(low, dtype=torch.float64)
    hi = torch.as_tensor(high, dtype=torch.float64)
    lo, hi = torch.broadcast_tensors(lo, hi)
    if not bool(torch.isfinite(lo).all()) or not bool(torch.isfinite(hi).all()):
        raise ValueError("low and high must be finite")
    if bool((lo > hi).any()):
        raise ValueError("low must not exceed high")
    lo = torch.minimum(lo, torch.zeros_like(lo))
    hi = torch.maximum(hi, torch.zeros_like(hi))
    if symmetric:
        scale = torch.maximum(lo.neg(), hi) / float(q_max)
    else:
        scale = (hi - lo) / float(q_max - q_min)
    degenerate = (lo == 0) & (hi == 0)
    scale = torch.where(degenerate, torch.ones_like(scale), scale.clamp_min(_SMALLEST))
    scale32 = scale.to(torch.float32)
    if symmetric:
        return scale32, torch.zeros(scale32.shape, dtype=torch.int32)
    # the zero point belongs to the scale that will be used, the float32 one
    zero = q_min - torch.round(lo / scale32.double())
    return scale32, torch.clamp(zero, q_min, q_max).to(torch.int32)


def _grid(x, scale, zero_point):
    return torch.round(torch.div(x, scale)) + zero_point


def quantize(x, scale, zero_point, *, n_bits=8):
    q_min, q_max = _limits(n_bits)
    if bool(torch.isnan(x).any()):
        raise ValueError("x holds NaN, which no integer stands for")
    return torch.clamp(_grid(x, scale, zero_point), min=q_min, max=q_max).to(dtype=torch.int8)


def dequantize(q, scale, zero_point):
    wide = q.to(torch.int32)
    return torch.mul(torch.sub(wide, zero_point).to(torch.float32), scale)


def fake_quantize(x, scale, zero_point, *, n_bits=8):
    q_min, q_max = _limits(n_bits)
    with torch.no_grad():
        rounded = dequantize(quantize(x, scale, zero_point, n_bits=n_bits), scale, zero_point)
        grid = _grid(x, scale, zero_point)
        inside = torch.logical_and(grid >= q_min, grid <= q_max)
    # x - x.detach() is 0 in the forward pass and carries the gradient in the backward pass
    through = torch.where(inside, x, torch.zeros_like(x))
    return rounded + (through - through.detach())


class MinMax:
    def __init__(self):
        self._range = None

    def observe(self, x):
        if x.numel() == 0:
            raise ValueError("an empty batch has no range")
        low, high = (float(value) for value in torch.aminmax(x.detach()))
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError("the batch holds NaN or inf")
        if self._range is not None:
            low, high = min(low, self._range[0]), max(high, self._range[1])
        self._range = (low, high)

    def range(self):
        if self._range is None:
            raise RuntimeError("observe() never saw a batch")
        return self._range


def int8_matmul(x, weight, zero_point=0):
    for name, operand in (("x", x), ("weight", weight)):
        if operand.dtype is not torch.int8:
            raise TypeError(f"{name} must be int8, got {operand.dtype}")
        if operand.dim() != 2:
            raise ValueError(f"{name} must be a matrix, got shape {tuple(operand.shape)}")
    if x.size(1) != weight.size(1):
        raise ValueError(f"x has {x.size(1)} columns, weight {weight.size(1)}")
    # float64 holds every integer up to 2^53
    shifted = x.to(torch.float64) - zero_point
    return torch.mm(shifted, weight.to(torch.float64).t()).to(torch.int32)


class QuantizedLinear(nn.Module):
    def __init__(self, linear, *, input_range=None):
        super().__init__()
        with torch.no_grad():
            low, high = torch.aminmax(linear.weight, dim=1, keepdim=True)
            scale, zero = choose_qparams(low, high, symmetric=True)
            self.register_buffer("weight", quantize(linear.weight, scale, zero))
            self.register_buffer("weight_scale", scale.squeeze(1))
            bias = linear.bias
            self.register_buffer("bias", bias.detach().clone() if bias is not None else None)
        static = choose_qparams(*input_range) if input_range is not None else (None, None)
        self.register_buffer("input_scale", static[0])
        self.register_buffer("input_zero_point", static[1])

    @torch.no_grad()
    def forward(self, x):
        n_out, n_in = self.weight.shape
        flat = x.reshape(-1, n_in)
        if self.input_scale is None:
            scale, zero_point = choose_qparams(*torch.aminmax(flat, dim=1, keepdim=True))
        else:
            scale, zero_point = self.input_scale, self.input_zero_point
        q = quantize(flat, scale, zero_point)
        sums = int8_matmul(q, self.weight, zero_point)
        out = sums.to(torch.float32) * scale * self.weight_scale
        if self.bias is not None:
            out += self.bias
        return out.reshape(x.shape[:-1] + (n_out,))


def _replace(module, make, done):
    if module in done:
        return done[module]
    if type(module) is nn.Linear:
        done[module] = make(module)
        return done[module]
    done[module] = module
    for name in list(module._modules):
        child = module._modules[name]
        if child is not None:
            module._modules[name] = _replace(child, make, done)
    return module


def quantize_model(model, *, mode="dynamic", calibration=()):
    if mode not in {"dynamic", "static"}:
        raise ValueError(f"unknown mode {mode!r}; choose 'dynamic' or 'static'")
    twin = copy.deepcopy(model)
    twin.eval()
    if mode == "dynamic":
        return _replace(twin, QuantizedLinear, {}).eval()

    observers, handles = {}, []
    for module in twin.modules():
        if type(module) is nn.Linear:
            observers[module] = MinMax()
            handles.append(
                module.register_forward_hook(
                    lambda layer, inputs, output: observers[layer].observe(inputs[0])
                )
            )
    empty = True
    try:
        with torch.inference_mode():
            for batch in calibration:
                empty = False
                twin(batch)
    finally:
        for handle in handles:
            handle.remove()
    if empty:
        raise ValueError("static quantization needs at least one batch of calibration")
    return _replace(
        twin, lambda layer: QuantizedLinear(layer, input_range=observers[layer].range()), {}
    ).eval()


def torch_dynamic(model):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore")
        holder = nn.ModuleList([copy.deepcopy(model).eval()])
        torch.ao.quantization.quantize_dynamic(
            holder, qconfig_spec={nn.Linear}, dtype=torch.qint8, inplace=True
        )
    return holder[0].eval()


def torch_static(model, calibration):
    allowed = {nn.Linear, nn.ReLU, nn.Dropout, nn.Flatten}
    unknown = [type(layer).__name__ for layer in model if type(layer) not in allowed]
    if unknown:
        raise ValueError(f"these layers cannot be quantized: {', '.join(unknown)}")
    from torch.ao import quantization as ao

    with warnings.catch_warnings(), torch.no_grad():
        warnings.filterwarnings("ignore")
        layers = [copy.deepcopy(layer) for layer in model]
        net = nn.Sequential(ao.QuantStub(), *layers, ao.DeQuantStub()).eval()
        net.qconfig = ao.get_default_qconfig("x86")
        ao.prepare(net, inplace=True)
        seen = 0
        for batch in calibration:
            net(batch)
            seen += 1
        if seen == 0:
            raise ValueError("static quantization needs at least one batch")
        ao.convert(net, inplace=True)
    return net
