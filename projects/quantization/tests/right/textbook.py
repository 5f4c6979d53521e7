import copy
import warnings

import torch
from torch import nn


def integer_range(n_bits):
    if n_bits not in range(2, 9):
        raise ValueError(f"n_bits must be 2 to 8, got {n_bits}")
    return -(2 ** (n_bits - 1)), 2 ** (n_bits - 1) - 1


def choose_qparams(low, high, *, n_bits=8, symmetric=False):
    q_min, q_max = integer_range(n_bits)
    low = torch.as_tensor(low).detach().double()
    high = torch.as_tensor(high).detach().double()
    if not (low.isfinite() & high.isfinite() & (low <= high)).all():
        raise ValueError("need finite low <= high")
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = torch.maximum(-low, high) / q_max if symmetric else (high - low) / (q_max - q_min)
    scale[scale == 0] = 1
    zero_point = torch.zeros_like(scale) if symmetric else q_min - (low / scale).round()
    return scale.float(), zero_point.int()


def quantize(x, scale, zero_point, *, n_bits=8):
    q_min, q_max = integer_range(n_bits)
    if x.isnan().any():
        raise ValueError("x holds NaN")
    return ((x / scale).round() + zero_point).clamp(q_min, q_max).to(torch.int8)


def dequantize(q, scale, zero_point):
    return (q.int() - zero_point) * scale


class Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, scale, zero_point, n_bits):
        q_min, q_max = integer_range(n_bits)
        q = (x / scale).round() + zero_point
        ctx.save_for_backward((q >= q_min) & (q <= q_max))
        return dequantize(quantize(x, scale, zero_point, n_bits=n_bits), scale, zero_point)

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0], None, None, None


def fake_quantize(x, scale, zero_point, *, n_bits=8):
    return Straight.apply(x, scale, zero_point, n_bits)


class MinMax:
    def __init__(self):
        self.low, self.high = float("inf"), float("-inf")

    def observe(self, x):
        if x.numel() == 0 or not x.isfinite().all():
            raise ValueError("an empty batch, or NaN or inf")
        self.low = min(self.low, x.min().item())
        self.high = max(self.high, x.max().item())

    def range(self):
        if self.low > self.high:
            raise RuntimeError("nothing observed")
        return self.low, self.high


def int8_matmul(x, weight, zero_point=0):
    if x.dtype != torch.int8 or weight.dtype != torch.int8:
        raise TypeError("int8 needed")
    if x.ndim != 2 or weight.ndim != 2 or x.shape[1] != weight.shape[1]:
        raise ValueError("shapes do not fit")
    return (x.int() - zero_point) @ weight.int().T


class QuantizedLinear(nn.Module):
    def __init__(self, linear, *, input_range=None):
        super().__init__()
        w = linear.weight.detach()
        scale, zero = choose_qparams(w.amin(1, keepdim=True), w.amax(1, keepdim=True), symmetric=True)
        self.register_buffer("weight", quantize(w, scale, zero))
        self.register_buffer("weight_scale", scale[:, 0])
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().clone())
        self.input_range = input_range

    def forward(self, x):
        rows = x.reshape(-1, x.shape[-1])
        low, high = self.input_range or (rows.amin(1, keepdim=True), rows.amax(1, keepdim=True))
        scale, zero = choose_qparams(low, high)
        y = int8_matmul(quantize(rows, scale, zero), self.weight, zero) * (scale * self.weight_scale)
        if self.bias is not None:
            y = y + self.bias
        return y.reshape(*x.shape[:-1], -1)


def quantize_model(model, *, mode="dynamic", calibration=()):
    if mode not in ("dynamic", "static"):
        raise ValueError(f"mode is dynamic or static, not {mode}")
    model = nn.Sequential(copy.deepcopy(model)).eval()
    linears = [m for m in model.modules() if type(m) is nn.Linear]
    ranges = {m: None for m in linears}
    if mode == "static":
        observers = {m: MinMax() for m in linears}
        hooks = [m.register_forward_pre_hook(lambda m, args: observers[m].observe(args[0])) for m in linears]
        n = 0
        with torch.no_grad():
            for batch in calibration:
                model(batch)
                n += 1
        if n == 0:
            raise ValueError("no calibration batch")
        for hook in hooks:
            hook.remove()
        ranges = {m: observers[m].range() for m in linears}
    new = {m: QuantizedLinear(m, input_range=ranges[m]) for m in linears}
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child in new:
                parent._modules[name] = new[child]
    return model.eval()[0]


def torch_dynamic(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(
            copy.deepcopy(model).eval(), {nn.Linear}, dtype=torch.qint8
        )


def torch_static(model, calibration):
    for layer in model:
        if type(layer) not in (nn.Linear, nn.ReLU, nn.Dropout, nn.Flatten):
            raise ValueError(f"cannot quantize a {type(layer).__name__}")
    batches = list(calibration)
    if not batches:
        raise ValueError("no calibration batch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torch.ao.quantization.QuantWrapper(copy.deepcopy(model)).eval()
        model.qconfig = torch.ao.quantization.get_default_qconfig(torch.backends.quantized.engine)
        model = torch.ao.quantization.prepare(model)
        for batch in batches:
            model(batch)
        return torch.ao.quantization.convert(model)
