"""Other algebra: float64 throughout, the zero point pulled out of the sum, one tensor of (low, high), hooks on a wrapper."""

import warnings
from copy import deepcopy

import torch
import torch.ao.quantization as tq
from torch import nn
from torch.nn import functional as F


def levels(n_bits):
    if n_bits < 2 or n_bits > 8:
        raise ValueError("bits: %s" % n_bits)
    return 2**n_bits


def choose_qparams(low, high, *, n_bits=8, symmetric=False):
    n = levels(n_bits)
    both = torch.stack([torch.as_tensor(v, dtype=torch.float64).detach() for v in (low, high)])
    if not torch.isfinite(both).all() or (both[1] < both[0]).any():
        raise ValueError("low, high: finite and in order, please")
    below, above = F.relu(-both[0]), F.relu(both[1])  # how far the range reaches on both sides of 0
    if symmetric:
        scale = torch.max(below, above) / (n // 2 - 1)
    else:
        scale = (below + above) / (n - 1)
    scale = scale + (scale == 0)
    zero_point = torch.round(below / scale) - n // 2
    if symmetric:
        zero_point = zero_point * 0
    return scale.to(torch.float32), zero_point.to(torch.int32)


def quantize(x, scale, zero_point, *, n_bits=8):
    n = levels(n_bits)
    if (x != x).any():
        raise ValueError("NaN")
    # clamp first, then round, then shift: the limits are integers, so the order does not matter
    t = x.double() / scale.double()
    t = torch.minimum(torch.maximum(t, -n // 2 - zero_point.double()), n // 2 - 1 - zero_point.double())
    return (torch.round(t) + zero_point).to(torch.int8)


def dequantize(q, scale, zero_point):
    return ((q.double() - zero_point) * scale.double()).float()


class _Ste(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y, mask):
        ctx.mask = mask
        return y.clone()

    @staticmethod
    def backward(ctx, g):
        return torch.where(ctx.mask, g, 0), None, None


def fake_quantize(x, scale, zero_point, *, n_bits=8):
    n = levels(n_bits)
    y = dequantize(quantize(x.detach(), scale, zero_point, n_bits=n_bits), scale, zero_point)
    steps = torch.round(x.detach() / scale)
    mask = (steps - (n // 2 - 1 - zero_point) <= 0) * (steps + n // 2 + zero_point >= 0)
    return _Ste.apply(x, y, mask)


class MinMax:
    def __init__(self):
        self.lows, self.highs = [], []

    def observe(self, x):
        if not x.numel() or not torch.isfinite(x).all():
            raise ValueError("nothing, or something without a size")
        self.lows.append(x.amin().item())
        self.highs.append(x.amax().item())

    def range(self):
        if not self.lows:
            raise RuntimeError("no batch")
        return min(self.lows), max(self.highs)


def int8_matmul(x, weight, zero_point=0):
    if {x.dtype, weight.dtype} != {torch.int8}:
        raise TypeError("int8, please")
    if not (x.ndim == weight.ndim == 2 and x.shape[1] == weight.shape[1]):
        raise ValueError(f"{x.shape} and {weight.shape}")
    products = torch.einsum("mk,nk->mn", x.long(), weight.long())
    return (products - torch.as_tensor(zero_point).long() * weight.long().sum(1)).int()


class QuantizedLinear(nn.Module):
    def __init__(self, linear, *, input_range=None):
        super().__init__()
        weight = linear.weight.data
        limit = weight.abs().max(dim=1, keepdim=True).values
        scale, zero_point = choose_qparams(-limit, limit, symmetric=True)
        self.register_buffer("weight", quantize(weight, scale, zero_point))
        self.register_buffer("weight_scale", scale.flatten())
        self.register_buffer("bias", linear.bias.data.clone() if linear.bias is not None else None)
        self.static = None if input_range is None else choose_qparams(*input_range)

    def forward(self, x):
        if x.ndim != 2:
            lead = x.shape[:-1]
            return self(x.reshape(lead.numel(), x.shape[-1])).unflatten(0, lead) if lead else self(x[None])[0]
        scale, zero_point = self.static or choose_qparams(
            x.min(1, keepdim=True)[0], x.max(1, keepdim=True)[0]
        )
        acc = int8_matmul(quantize(x, scale, zero_point), self.weight, zero_point)
        y = acc.double() * scale.double() * self.weight_scale.double()
        return (y if self.bias is None else y + self.bias).float()


class Watched(nn.Module):
    def __init__(self, linear):
        super().__init__()
        self.linear, self.seen = linear, MinMax()

    def forward(self, x):
        self.seen.observe(x)
        return self.linear(x)


def swap(model, kind, make):
    box, made = nn.ModuleList([model]), {}
    paths = [p for p, m in box.named_modules(remove_duplicate=False) if type(m) is kind]
    for path in paths:
        parent, _, name = path.rpartition(".")
        parent = box.get_submodule(parent)
        old = getattr(parent, name)
        if type(old) is kind:
            if old not in made:
                made[old] = make(old)
            setattr(parent, name, made[old])
    return box[0].eval()


def quantize_model(model, *, mode="dynamic", calibration=()):
    if mode != "dynamic" and mode != "static":
        raise ValueError(mode)
    model = deepcopy(model).eval()
    if mode == "dynamic":
        return swap(model, nn.Linear, QuantizedLinear)
    calibration = list(calibration)
    if not calibration:
        raise ValueError("no batches")
    model = swap(model, nn.Linear, Watched)
    with torch.no_grad():
        for batch in calibration:
            model(batch)
    return swap(model, Watched, lambda w: QuantizedLinear(w.linear, input_range=w.seen.range()))


def torch_dynamic(model):
    with warnings.catch_warnings(action="ignore"):
        return tq.quantize_dynamic(deepcopy(model).eval(), {nn.Linear})


class Stubs(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.a, self.model, self.z = tq.QuantStub(), model, tq.DeQuantStub()

    def forward(self, x):
        return self.z(self.model(self.a(x)))


def torch_static(model, calibration):
    for layer in model.children():
        if type(layer) not in {nn.Linear, nn.ReLU, nn.Dropout, nn.Flatten}:
            raise ValueError(type(layer).__name__)
    with warnings.catch_warnings(action="ignore"):
        net = Stubs(deepcopy(model)).eval()
        net.qconfig = tq.QConfig(
            activation=tq.MinMaxObserver.with_args(dtype=torch.quint8, reduce_range=True),
            weight=tq.default_per_channel_weight_observer,
        )
        net = tq.prepare(net)
        batches = iter(calibration)
        first = next(batches, None)
        if first is None:
            raise ValueError("no batches")
        net(first)
        for batch in batches:
            net(batch)
        return tq.convert(net)
