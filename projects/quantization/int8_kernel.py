"""The integer product and the layer, fast: oneDNN's byte kernel instead of int32 arithmetic; the twin of quantization.py.

- `int8_matmul` is the core's, as exact, faster than float32. It follows a weight that is changed in place (not through
  `.data`, which torch does not count).
- `quantized_linear` has one rounding, and an int8 output for the next layer.
- `QuantizedLinear` has the modes "dynamic", "static" and "weight_only", and 7-bit activations.

The fast kernels multiply unsigned by signed bytes. Without VNNI, AVX2's ``vpmaddubsw`` adds two such products in int16 and
saturates: 255·127·2 does not fit, 127·128·2 does. So a product of 7-bit activations is exact and fast everywhere; 8-bit
ones use the kernel only where a probe finds it exact, and otherwise float32 sums that cannot round, at float32's speed.

How it is fast: the weight is packed once; scales and bias are applied while the sums are in registers, or in one pass; rows
go through in blocks, so that what one operation leaves is in the cache for the next.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from quantization import choose_qparams, quantize

__all__ = ["int8_matmul", "quantized_linear", "QuantizedLinear"]

BLOCK = 1024  # rows
MOST_TERMS = 65_536  # so many products of two bytes, the largest, add up within int32
MODES = ("dynamic", "static", "weight_only")


def int8_matmul(x: Tensor, weight: Tensor, zero_point: Tensor | int = 0) -> Tensor:
    """Multiply int8 matrices exactly: ``out[m, n] = Σ_k (x[m, k] - zero_point[m]) · weight[n, k]`` in int32.

    x : (rows, in); weight : (out, in); zero_point, of x and within int8 : int, () or a value per row. A size may be 0.
    ``Σ (x - z)·w = Σ x·w - z·Σ w``: a zero point costs one correction per output, not a wider product.
    TypeError if an operand is not int8 or a zero point no integer; ValueError if they are not two matrices of one `in`, or
    in > 65,536, where a sum may leave int32.
    """
    _check(x, weight)
    zero_point = torch.as_tensor(zero_point)
    if zero_point.is_floating_point():
        raise TypeError(f"zero_point must be an integer, got {zero_point}")
    if x.shape[1] > MOST_TERMS:
        raise ValueError(
            f"in must be at most {MOST_TERMS:,}, so that no sum leaves int32, got {x.shape[1]:,}"
        )
    if 0 in (*x.shape, *weight.shape):
        return torch.zeros(len(x), len(weight), dtype=torch.int32, device=x.device)
    zero_point = zero_point.int().reshape(-1, 1)
    unsigned, shift, n_bits = _unsigned(x)
    if not _kernel_fits(x, n_bits):
        return _float_matmul(x, weight, zero_point)
    one_for_all = zero_point.numel() == 1
    parts = []
    for start, stop, packed, weight_sums in _packed(weight, _EXACT_TERMS[n_bits]):
        part = _convert(_kernel(unsigned[:, start:stop], packed, len(weight), shift), torch.int32)
        parts.append(
            part.sub_(weight_sums * zero_point) if one_for_all else part.addcmul_(-zero_point, weight_sums)
        )
    return functools.reduce(Tensor.add_, parts)


def quantized_linear(
    x: Tensor,
    x_scale: Tensor,
    x_zero_point: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None = None,
    *,
    y_scale: Tensor | None = None,
    y_zero_point: Tensor | None = None,
) -> Tensor:
    """Apply a linear layer to integers; the arithmetic is int8 · int8 in int32, then one rounding.

    With ``acc = int8_matmul(x, weight, x_zero_point)`` and ``m = x_scale · weight_scale`` (float32, this order):
    float output ``float(acc) · m + bias`` (in any order); with y_scale and y_zero_point int8 output, as fbgemm does it bit
    for bit, ``clamp(round((float(acc) + bias / m) · (m / y_scale)) + y_zero_point, -128, 127)``.

    x : (..., in) int8; x_scale, x_zero_point : () or (..., 1); weight : (out, in) int8, symmetric; weight_scale : () or
    (out,); bias : (out,); y_scale, y_zero_point : (). Result (..., out). Errors as `int8_matmul`, but a float output takes any
    `in`; ValueError if only one of y_scale and y_zero_point is given.

    Source: Jacob et al. 2018, arXiv 1712.05877, eq. 4 to 7.
    """
    if (y_scale is None) != (y_zero_point is None):
        raise ValueError("y_scale and y_zero_point are needed together")
    rows = _rows(x)
    _check(rows, weight)
    x_scale, x_zero_point = (p.reshape(-1, 1) if p.ndim else p for p in (x_scale, x_zero_point))
    if y_scale is None or y_zero_point is None:
        y = _scaled_product(rows, x_scale, x_zero_point, weight, weight_scale, bias)
        return y.reshape(*x.shape[:-1], len(weight))
    acc = int8_matmul(rows, weight, x_zero_point).float()
    m = x_scale * weight_scale
    steps = acc if bias is None else acc + bias / m
    q = (steps * (m / y_scale)).round_() + y_zero_point
    return q.clamp_(-128, 127).to(torch.int8).reshape(*x.shape[:-1], len(weight))


class QuantizedLinear(nn.Module):
    """`torch.nn.Linear` with int8 weights.

    "dynamic": each row is quantized with a range of its own, found as it comes. "static": all rows with `input_range`,
    (low, high), two numbers. "weight_only": rows stay float; only memory is saved. ValueError for another mode (the message
    names it), or an input_range without "static" or the reverse. `per_channel`: one symmetric weight scale per output, or one
    for all. `reduce_range`: activations of 7 bits, fast on CPUs without VNNI, about 6 dB noisier; not for "weight_only".

    It holds buffers, no parameters: weight (out, in) int8, weight_scale (out,), bias (out,) or None; "static" also
    input_scale and input_zero_point, (). Input (..., in) of any float dtype, output (..., out) float32. No rows in, no rows
    out. NaN or inf raises ValueError ("static": inf saturates; "weight_only": both propagate), and so does another width. Scales
    stay float32: after ``.half()``, which would round them, forward raises TypeError.
    """

    def __init__(
        self,
        linear: nn.Linear,
        *,
        mode: str = "dynamic",
        input_range: tuple[Tensor | float, Tensor | float] | None = None,
        per_channel: bool = True,
        reduce_range: bool = False,
    ) -> None:
        super().__init__()
        if mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
        if (mode == "static") != (input_range is not None):
            raise ValueError(
                f'mode "static" needs the input_range that an observer saw, no other takes one: {mode!r}'
            )
        for name, value in (("per_channel", per_channel), ("reduce_range", reduce_range)):
            if value not in (False, True):
                raise ValueError(f"{name} must be True or False, got {value!r}")
        if reduce_range and mode == "weight_only":
            raise ValueError("reduce_range has no effect in mode 'weight_only', whose rows stay float")
        self.mode, self.n_bits = mode, 8 - int(reduce_range)
        weight = linear.weight.detach()
        if not weight.isfinite().all():
            raise ValueError("the layer's weight holds NaN or inf")
        largest = weight.abs().amax(1, keepdim=True)
        largest = largest if per_channel else largest.amax().expand_as(largest)
        scale, zero = choose_qparams(-largest, largest, symmetric=True)
        with torch.inference_mode(False):  # a tensor whose changes are counted: it is packed once
            self.weight = nn.Buffer(quantize(weight, scale, zero))
        self.weight_scale = nn.Buffer(scale.flatten())
        self.bias = None if linear.bias is None else nn.Buffer(linear.bias.detach().float().clone())
        if mode == "static" and input_range is not None:
            scale, zero_point = choose_qparams(*input_range, n_bits=self.n_bits)
            if scale.ndim:
                raise ValueError(f"input_range must be two numbers, got shape {tuple(scale.shape)}")
            self.input_scale, self.input_zero_point = nn.Buffer(scale), nn.Buffer(zero_point)

    def input_qparams(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return (scale, zero_point) for (rows, in): () each of a static layer, (rows, 1) each of a dynamic one."""
        if self.mode == "static":
            return self.input_scale, self.input_zero_point
        return choose_qparams(rows.amin(1, keepdim=True), rows.amax(1, keepdim=True), n_bits=self.n_bits)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer."""
        if self.weight_scale.dtype != torch.float32:
            raise TypeError(
                f"scales must stay float32, got {self.weight_scale.dtype}: quantize the float network again"
            )
        if not x.ndim or x.shape[-1] != self.weight.shape[1]:
            raise ValueError(f"x must be (..., {self.weight.shape[1]}), got shape {tuple(x.shape)}")
        if self.mode == "weight_only":
            y = F.linear(x.float(), self.weight.float()) * self.weight_scale
            return y if self.bias is None else y + self.bias
        rows = _rows(x.detach().float())
        hurry = self.mode == "dynamic" and 0 not in rows.shape and rows.shape[1] <= MOST_TERMS
        if hurry and _kernel_fits(x, self.n_bits):
            blocks = [self._in_a_hurry(block) for block in rows.split(BLOCK)]
            y = blocks[0] if len(blocks) == 1 else torch.cat(blocks)
        else:
            scale, zero_point = self.input_qparams(rows)
            q = quantize(rows, scale, zero_point, n_bits=self.n_bits)
            y = quantized_linear(q, scale, zero_point, self.weight, self.weight_scale, self.bias)
        return y.reshape(*x.shape[:-1], len(self.weight))

    def _in_a_hurry(self, rows: Tensor) -> Tensor:
        """Do the same as `choose_qparams`, `quantize` and `quantized_linear` in half as many operations.

        For 64 rows the product takes a millisecond, and each operation before and after it up to 30 microseconds where the
        caches hold something else. So the integers are unsigned from the start, their zero point is the lowest value's
        distance from 0, and the one check for NaN and inf looks at the scales.
        """
        top = 2**self.n_bits - 1
        low, high = rows.amin(1, keepdim=True).clamp_(max=0), rows.amax(1, keepdim=True).clamp_(min=0)
        scale = torch.sub(high / top, low, alpha=1 / top).clamp_(min=torch.finfo(torch.float32).tiny)
        if not math.isfinite(scale.amax()):
            raise ValueError("x holds NaN or inf: no finite range")
        per_step = scale.reciprocal()
        lowest = (low * per_step).round_()  # -(zero point), 0 … -top
        steps = (rows * per_step).round_().sub_(lowest).clamp_(0, top)
        # 7 bits: as int8, whose conversion is vectorized; the bytes are the same
        q = steps.to(torch.int8).view(torch.uint8) if self.n_bits < 8 else steps.to(torch.uint8)
        return _scaled_rows(q, scale, lowest, self.weight, self.weight_scale, self.bias)


# How many products float32 adds without rounding: 2^24 over the largest, 2^6·2^7 for 7 bits, 2^7·2^7 for 8.
_EXACT_TERMS = {7: 2048, 8: 1024}
_PACKED = WeakTensorKeyDictionary()  # weight -> {terms: (version, its chunks as the kernel wants them)}


def _rows(x: Tensor) -> Tensor:
    """Return (..., in) as (rows, in), also where a size is 0."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def _check(x: Tensor, weight: Tensor) -> None:
    """Refuse what is not two int8 matrices of one `in`."""
    if x.dtype != torch.int8 or weight.dtype != torch.int8:
        raise TypeError(f"int8 operands are needed, got {x.dtype} and {weight.dtype}")
    if x.ndim != 2 or weight.ndim != 2 or x.shape[1] != weight.shape[1]:
        raise ValueError(f"x must be (rows, in) and weight (out, in), got {x.shape} and {weight.shape}")


def _scaled_product(
    x: Tensor, x_scale: Tensor, zero_point: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None
) -> Tensor:
    """Return ``int8_matmul(x, weight, zero_point) · x_scale · weight_scale + bias`` in few passes over the result."""
    if x.shape[1] > MOST_TERMS:  # the sum of floats
        first, rest = slice(MOST_TERMS), slice(MOST_TERMS, None)
        y = _scaled_product(x[:, first], x_scale, zero_point, weight[:, first], weight_scale, bias)
        return y + _scaled_product(x[:, rest], x_scale, zero_point, weight[:, rest], weight_scale, None)
    if 0 not in (*x.shape, *weight.shape):
        unsigned, shift, n_bits = _unsigned(x)
        if _kernel_fits(x, n_bits):
            scale = weight_scale.expand(len(weight)).contiguous()
            if x_scale.ndim or zero_point.ndim:
                lowest = (-shift - zero_point).float()
                return _scaled_rows(unsigned, x_scale, lowest, weight, scale, bias)
            packed, _ = _packed_whole(weight)
            zero, x_scale_ = int(zero_point) + shift, float(x_scale)
            return _kernel(
                unsigned, packed, len(weight), zero, x_scale=x_scale_, weight_scale=scale, bias=bias
            )
    y = _convert(int8_matmul(x, weight, zero_point), torch.float32).mul_(x_scale).mul_(weight_scale)
    return y if bias is None else y.add_(bias)


def _scaled_rows(
    q: Tensor, scale: Tensor, lowest: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None
) -> Tensor:
    """Return ``Σ (q + lowest)·weight · scale · weight_scale + bias`` for unsigned q with a scale and a zero point per row.

    The kernel knows a scale per column, and one for all rows. A scale and a zero point per row take one pass each.
    """
    packed, sums = _packed_whole(weight)
    y = _kernel(q, packed, len(weight), weight_scale=weight_scale)
    y.addcmul_(lowest, sums * weight_scale)  # Σ (q - z)·w = Σ q·w - z·Σ w
    return y.mul_(scale) if bias is None else torch.addcmul(bias, y, scale, out=y)


def _unsigned(x: Tensor) -> tuple[Tensor, int, int]:
    """Return the bytes x + shift that the kernel takes, the shift, and how many bits they need: 7 if that is enough."""
    low, high = x.aminmax()
    n_bits = 7 if low >= -64 and high <= 63 else 8
    shift = 2 ** (n_bits - 1)
    return (x + (shift if n_bits < 8 else -128)).view(torch.uint8), shift, n_bits  # 8 bits: wraps to x + 128


def _float_matmul(x: Tensor, weight: Tensor, zero_point: Tensor | int) -> Tensor:
    """`int8_matmul` in float32, in chunks so short that every partial sum is an integer below 2^24, hence exact."""
    sums = -weight.sum(1, dtype=torch.int32) * torch.as_tensor(zero_point, dtype=torch.int32)
    sums = sums.expand(len(x), len(weight)).contiguous()
    for start in range(0, x.shape[1], 1024):  # signed bytes: products of at most 2^14
        chunk = slice(start, start + 1024)
        sums += (x[:, chunk].float() @ weight[:, chunk].float().T).to(torch.int32)
    return sums


def _packed(weight: Tensor, terms: int) -> list[tuple[int, int, Tensor, Tensor]]:
    """Return (start, stop, packed, row sums) of each chunk of `terms` columns; again after a change in place."""
    version = (
        None if weight.is_inference() else weight._version
    )  # torch counts the changes of no inference tensor
    known: dict[int, tuple[int | None, list[Any]]] = _PACKED.setdefault(weight, {})
    if version is None or terms not in known or known[terms][0] != version:
        chunks = []
        for start in range(0, weight.shape[1], terms):
            chunk = weight[:, start : start + terms].contiguous()
            packed = torch.ops.onednn.qlinear_prepack(chunk, None)
            chunks.append((start, start + terms, packed, chunk.sum(1, dtype=torch.int32)))
        known[terms] = version, chunks
    return known[terms][1]


def _packed_whole(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return `_packed` as one chunk: for a result that is scaled, hence rounded once in any case."""
    ((_, _, packed, sums),) = _packed(weight, max(_EXACT_TERMS[7], weight.shape[1]))
    return packed, sums


def _kernel(
    x: Tensor,
    packed: Tensor,
    n_out: int,
    zero_point: int = 0,
    *,
    x_scale: float = 1.0,
    weight_scale: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Multiply with oneDNN's uint8 · int8 product; it adds in int32, scales as it stores, and returns float32.

    With all scales 1 the sums themselves, exact up to 2^24: it offers no int32.
    """
    ones, zeros = _units(n_out)
    scale = ones if weight_scale is None else weight_scale
    result: Tensor = torch.ops.onednn.qlinear_pointwise(
        x, x_scale, zero_point, packed, scale, zeros, bias, 1.0, 0, torch.float32, "none", [], ""
    )
    return result


def _convert(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert between float32 and int32 in the memory of x, which is lost: a fresh array costs its page faults."""
    return x.view(dtype).copy_(x)


@functools.cache
def _units(n_out: int) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False):
        return torch.ones(n_out), torch.zeros(n_out, dtype=torch.int64)


def _kernel_fits(x: Tensor, n_bits: int) -> bool:
    """Tell whether the kernel multiplies x of that many bits, and exactly."""
    return x.device.type == "cpu" and _kernel_is_exact(n_bits)


@functools.cache
def _kernel_is_exact(n_bits: int) -> bool:
    """Try the largest products there are: False where the kernel saturates, or this build of torch lacks it."""
    largest = torch.full((2, 64), 2**n_bits - 1, dtype=torch.uint8)
    weight = torch.tensor([[127], [-128]], dtype=torch.int8).repeat(1, 64)
    try:
        sums = _kernel(largest, torch.ops.onednn.qlinear_prepack(weight, None), 2)
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    return sums[0].tolist() == [64 * (2**n_bits - 1) * 127, 64 * (2**n_bits - 1) * -128]
