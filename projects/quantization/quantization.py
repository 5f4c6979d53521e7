"""Quantization from scratch: float networks as int8 (or int4) networks, on plain integer tensors.

    q = clamp(round(x / scale) + zero_point, -2^(b-1), 2^(b-1) - 1),    x ≈ (q - zero_point) · scale

Reading order: the affine map (`choose_qparams`, `quantize`, `dequantize`, `fake_quantize`), observers that find its
range, the integer product (`int8_matmul`, `quantized_linear`), layers, whole models, files.

Integers are signed everywhere: torch's quint8 activations are these plus 128. "7 bits" is torch's ``reduce_range``.

Sources: Jacob et al. 2018, arXiv 1712.05877 (affine map, integer inference, QAT); Krishnamoorthi 2018, arXiv 1806.08342
(per-channel weights); Nagel et al. 2021, arXiv 2106.08295 (observers); Bengio et al. 2013, arXiv 1308.3432
(straight-through gradient); Xiao et al. 2023, arXiv 2211.10438 (SmoothQuant).
"""

from __future__ import annotations

import copy
import functools
import itertools
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

__all__ = [
    "choose_qparams",
    "quantize",
    "dequantize",
    "fake_quantize",
    "sqnr",
    "MinMax",
    "MovingAverage",
    "Percentile",
    "MeanSquaredError",
    "int8_matmul",
    "quantized_linear",
    "QuantizedLinear",
    "QuantizedConv2d",
    "pack_int4",
    "unpack_int4",
    "Int4Linear",
    "quantize_model",
    "prepare_qat",
    "FakeQuantized",
    "smooth",
    "save_quantized",
    "load_quantized",
]

Range = tuple[Tensor, Tensor]  # (low, high)
BLOCK = 1024  # rows
MODES = ("dynamic", "static", "weight_only")


# --- the affine map -----------------------------------------------------------------------------------------------------


def choose_qparams(
    low: Tensor | float,
    high: Tensor | float,
    *,
    n_bits: int = 8,
    symmetric: bool = False,
    reduce_range: bool = False,
) -> tuple[Tensor, Tensor]:
    """Choose scale and zero point so that [low, high], widened to contain 0, fills the integers of `n_bits`.

    Affine: ``scale = (high - low) / (q_max - q_min)``, ``zero_point = q_min - round(low / scale)``.
    Symmetric: ``scale = max(|low|, |high|) / q_max``, ``zero_point = 0``.
    With q_min = -2^(b-1), q_max = 2^(b-1) - 1.

    Parameters
    ----------
    low, high : float or (...) float tensor
        Smallest and largest value to represent; tensors of one shape give one pair per entry (per channel, per row).
    n_bits : int
        2 to 8.
    symmetric : bool
        For weights: zero_point 0 leaves no cross terms in the product.
    reduce_range : bool
        One bit less, so that products of two neighbours fit int16 where the CPU adds them there (see `int8_matmul`).

    Returns
    -------
    scale : (...) float32, zero_point : (...) int32
        Zero is exactly representable. low == high == 0 gives scale 1. A scale is never below the smallest normal
        float32, and a range of ±3e38 does not overflow (computed in float64).

    Raises
    ------
    ValueError
        If a bound is NaN or infinite, low > high, or n_bits is not 2 to 8.

    Source: Jacob et al. 2018, arXiv 1712.05877, section 2.1 and eq. 13.
    """
    low, high = torch.as_tensor(low, dtype=torch.float64), torch.as_tensor(high, dtype=torch.float64)
    span = high - low
    if not ((span >= 0) & (span < math.inf)).all():  # False for NaN as well
        raise ValueError(f"low <= high, both finite, are needed, got low {low}, high {high}")
    q_min, q_max = _limits(n_bits - reduce_range)
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = torch.maximum(-low, high) / q_max if symmetric else (high - low) / (q_max - q_min)
    scale = scale.clamp(min=torch.finfo(torch.float32).tiny).where(high > low, 1.0).float()
    if symmetric:
        return scale, torch.zeros_like(scale, dtype=torch.int32)
    return scale, (q_min - torch.round(low / scale)).clamp(q_min, q_max).int()


def quantize(
    x: Tensor, scale: Tensor, zero_point: Tensor, *, n_bits: int = 8, axis: int | None = None
) -> Tensor:
    """Map floats to int8: ``clamp(round(x · (1/scale)) + zero_point, q_min, q_max)``, ties to even.

    Parameters
    ----------
    x : (...) float
        inf saturates. Computed in float32, and multiplied by 1/scale as torch does: x/scale differs in rare ties.
    scale, zero_point : float32 and int32
        As from `choose_qparams`. With `axis` one entry per index of that axis of x, otherwise broadcast against x.
    n_bits : int
        Of the integers, 2 to 8; they are stored as int8 all the same.

    Returns
    -------
    int8 tensor shaped like x. Empty in, empty out.

    Raises
    ------
    ValueError
        If x holds NaN (it would become an arbitrary integer), or n_bits is not 2 to 8.
    """
    if x.numel() and torch.isnan(x.amax()):
        raise ValueError("x holds NaN, which no integer can represent")
    q_min, q_max = _limits(n_bits)
    steps = x.float() * _along(1 / scale, axis, x.ndim)
    return steps.round_().add_(_along(zero_point, axis, x.ndim)).clamp_(q_min, q_max).to(torch.int8)


def dequantize(q: Tensor, scale: Tensor, zero_point: Tensor, *, axis: int | None = None) -> Tensor:
    """Map integers back to float32: ``(q - zero_point) · scale``. Arguments as in `quantize`."""
    return (q.int() - _along(zero_point, axis, q.ndim)) * _along(scale, axis, q.ndim)


def fake_quantize(
    x: Tensor, scale: Tensor, zero_point: Tensor, *, n_bits: int = 8, axis: int | None = None
) -> Tensor:
    """Round x to what int8 can represent, but stay float and differentiable: what training with quantization sees.

    Forward: ``dequantize(quantize(x))``. Backward, straight-through: rounding counts as the identity, so the gradient
    passes where ``round(x/scale) + zero_point`` lies within the integers and is 0 where x was clamped. Scale and zero
    point get no gradient. Arguments and errors as in `quantize`; the result has the dtype of x.

    Source: Bengio et al. 2013, arXiv 1308.3432, section 4 (straight-through); Jacob et al. 2018, eq. 12.
    """
    return _StraightThrough.apply(x, scale, zero_point, n_bits, axis)  # type: ignore[no-untyped-call]


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor, n_bits: int, axis: int | None
    ) -> Tensor:
        q = quantize(x, scale, zero_point, n_bits=n_bits, axis=axis)
        q_min, q_max = _limits(n_bits)
        steps = torch.round(x.float() * _along(1 / scale, axis, x.ndim)) + _along(zero_point, axis, x.ndim)
        ctx.save_for_backward((steps >= q_min) & (steps <= q_max))
        return dequantize(q, scale, zero_point, axis=axis).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (inside,) = ctx.saved_tensors
        return gradients[0] * inside, None, None, None, None


def sqnr(reference: Tensor, actual: Tensor) -> float:
    """Signal to quantization noise ratio in dB: ``10 log10(Σ reference² / Σ (reference - actual)²)``, in float64.

    One more bit is about 6 dB. Equal tensors give inf.

    Raises
    ------
    ValueError
        If shapes differ, the reference is empty or all zero, or a value is NaN or infinite.
    """
    if reference.shape != actual.shape or not reference.any():
        raise ValueError(
            f"two signals of one shape, not all zero, are needed, got {reference.shape} and {actual.shape}"
        )
    signal = reference.double().square().sum().item()
    noise = (reference.double() - actual.double()).square().sum().item()
    if not math.isfinite(signal + noise):
        raise ValueError("a value is NaN or infinite: no ratio")
    return 10 * math.log10(signal / noise) if noise else math.inf


def _limits(n_bits: int) -> tuple[int, int]:
    if not 2 <= n_bits <= 8:
        raise ValueError(f"n_bits must be 2 to 8, got {n_bits}")
    return -(2 ** (n_bits - 1)), 2 ** (n_bits - 1) - 1


def _along(values: Tensor, axis: int | None, ndim: int) -> Tensor:
    """Shape per-channel values so that they broadcast along `axis`."""
    if axis is None or values.ndim == 0:
        return values
    shape = [1] * ndim
    shape[axis] = -1
    return values.reshape(shape)


# --- observers: which range? --------------------------------------------------------------------------------------------


class MinMax:
    """Observe the smallest and the largest value: nothing is clipped, and one outlier sets the scale for all.

    Parameters
    ----------
    axis : int, optional
        One range per index of this axis instead of one for the whole tensor.
    """

    def __init__(self, *, axis: int | None = None) -> None:
        self.axis = axis
        self.low: Tensor | None = None
        self.high: Tensor | None = None

    def observe(self, x: Tensor) -> None:
        """Take one batch into account; ValueError if it is empty or holds NaN or inf."""
        low, high = _extremes(x, self.axis)
        self.low = low if self.low is None else torch.minimum(self.low, low)
        self.high = high if self.high is None else torch.maximum(self.high, high)

    def range(self) -> Range:
        """Return (low, high); RuntimeError if nothing was observed, since any range would be an invention."""
        if self.low is None or self.high is None:
            raise RuntimeError("nothing was observed: run calibration batches through the model first")
        return self.low, self.high


class MovingAverage(MinMax):
    """Observe the exponential moving average of each batch's extremes: for training, where early batches go stale.

    ``low += (1 - momentum) · (batch low - low)``; the first batch is taken as it is.

    Source: Jacob et al. 2018, section 3.1.
    """

    def __init__(self, *, momentum: float = 0.99, axis: int | None = None) -> None:
        super().__init__(axis=axis)
        self.momentum = momentum

    def observe(self, x: Tensor) -> None:
        """Take one batch into account; ValueError if it is empty or holds NaN or inf."""
        low, high = _extremes(x, self.axis)
        self.low = low if self.low is None else torch.lerp(self.low, low, 1 - self.momentum)
        self.high = high if self.high is None else torch.lerp(self.high, high, 1 - self.momentum)


class Percentile:
    """Observe percentiles: clip the rare extremes to spend the integers on the rest.

    low is the (100 - percentile)th and high the percentile-th percentile of all observed values, with linear
    interpolation. Keeps every value it sees, so it is meant for a few calibration batches.
    """

    def __init__(self, *, percentile: float = 99.9) -> None:
        if not 50 < percentile <= 100:
            raise ValueError(f"percentile must be in (50, 100], got {percentile}")
        self.percentile = percentile
        self._seen: list[Tensor] = []

    def observe(self, x: Tensor) -> None:
        """Take one batch into account; ValueError if it is empty or holds NaN or inf."""
        _extremes(x, None)
        self._seen.append(x.detach().float().flatten().clone())

    def range(self) -> Range:
        """Return (low, high); RuntimeError if nothing was observed."""
        values = _all_values(self._seen).sort().values
        return self._at(values, 100 - self.percentile), self._at(values, self.percentile)

    @staticmethod
    def _at(values: Tensor, percent: float) -> Tensor:
        position = percent / 100 * (len(values) - 1)  # torch.quantile refuses more than 2^24 values
        below = min(int(position), len(values) - 1)
        above = min(below + 1, len(values) - 1)
        return torch.lerp(values[below], values[above], position - below)


class MeanSquaredError:
    """Observe the range whose round trip has the least mean squared error over the observed values.

    Tries (low, high)·k/100 for k = 1 … 100, with low and high the extremes: clipping costs much on few values, a finer
    scale gains a little on all. `n_bits` and `symmetric` say which quantization the error is measured with.

    Source: Nagel et al. 2021, arXiv 2106.08295, section 3.1 (range setting).
    """

    def __init__(self, *, n_bits: int = 8, symmetric: bool = False) -> None:
        self.n_bits = n_bits
        self.symmetric = symmetric
        self._seen: list[Tensor] = []

    def observe(self, x: Tensor) -> None:
        """Take one batch into account; ValueError if it is empty or holds NaN or inf."""
        _extremes(x, None)
        self._seen.append(x.detach().float().flatten().clone())

    def range(self) -> Range:
        """Return (low, high); RuntimeError if nothing was observed."""
        values = _all_values(self._seen)
        low, high = values.aminmax()

        def error(share: float) -> float:
            qparams = choose_qparams(low * share, high * share, n_bits=self.n_bits, symmetric=self.symmetric)
            return (fake_quantize(values, *qparams, n_bits=self.n_bits) - values).square().mean().item()

        best = min((k / 100 for k in range(100, 0, -1)), key=error)
        return low * best, high * best


def _extremes(x: Tensor, axis: int | None) -> Range:
    """Return the extremes of x, whole or per index of `axis`, or refuse what has none."""
    x = x.detach()
    if x.numel() == 0:
        raise ValueError(f"an empty tensor has no range, got shape {tuple(x.shape)}")
    rows = x.reshape(1, -1) if axis is None else x.movedim(axis, 0).flatten(1)
    low, high = rows.amin(1), rows.amax(1)  # aminmax(dim=1) takes 20 times as long
    if axis is None:
        low, high = low[0], high[0]
    if not (torch.isfinite(low).all() and torch.isfinite(high).all()):
        raise ValueError("x holds NaN or inf: no finite range")
    return low.float(), high.float()


def _all_values(seen: list[Tensor]) -> Tensor:
    if not seen:
        raise RuntimeError("nothing was observed: run calibration batches through the model first")
    return torch.cat(seen)


# --- the integer product ------------------------------------------------------------------------------------------------


def int8_matmul(x: Tensor, weight: Tensor, zero_point: Tensor | int = 0) -> Tensor:
    """Multiply int8 matrices exactly: ``out[m, n] = Σ_k (x[m, k] - zero_point[m]) · weight[n, k]`` in int32.

    Parameters
    ----------
    x : (rows, in) int8
    weight : (out, in) int8
    zero_point : int, or () or (rows, 1) int32
        Of x, within int8. ``Σ (x - z)·w = Σ x·w - z·Σ w``: it costs one correction per output, not a wider product.

    Returns
    -------
    (rows, out) int32, exact as long as in <= 65536 (then no sum can leave int32).

    Raises
    ------
    TypeError
        If an operand is not int8.
    ValueError
        If the shapes do not fit.

    Notes
    -----
    The fast kernels multiply unsigned by signed bytes. Without VNNI, AVX2's ``vpmaddubsw`` adds two such products in
    int16 and saturates: 255·127·2 does not fit, 127·128·2 does. So a product of 7-bit activations is exact and fast
    everywhere; 8-bit ones use that kernel only where a probe finds it exact, and float32 sums that cannot round
    otherwise, at the speed of float32.
    """
    if x.dtype != torch.int8 or weight.dtype != torch.int8:
        raise TypeError(f"int8 operands are needed, got {x.dtype} and {weight.dtype}")
    if x.ndim != 2 or weight.ndim != 2 or x.shape[1] != weight.shape[1]:
        raise ValueError(f"x must be (rows, in) and weight (out, in), got {x.shape} and {weight.shape}")
    if 0 in (*x.shape, *weight.shape):
        return torch.zeros(len(x), len(weight), dtype=torch.int32, device=x.device)
    unsigned, shift, n_bits = _unsigned(x)
    if not _kernel_fits(x, n_bits):
        return _float_matmul(x, weight, zero_point)
    zero_point = torch.as_tensor(zero_point, dtype=torch.int32)
    one_for_all = zero_point.numel() == 1
    parts = []
    for start, stop, packed, weight_sums in _packed(weight, _EXACT_TERMS[n_bits]):
        part = _convert(_kernel(unsigned[:, start:stop], packed, len(weight), shift), torch.int32)
        parts.append(
            part.sub_(weight_sums * zero_point) if one_for_all else part.addcmul_(-zero_point, weight_sums)
        )
    return functools.reduce(Tensor.add_, parts)


# How many products float32 adds without rounding: 2^24 over the largest, 2^6·2^7 for 7 bits, 2^7·2^7 for 8.
_EXACT_TERMS = {7: 2048, 8: 1024}
_PACKED = WeakTensorKeyDictionary()  # weight -> {terms: (version, its chunks as the kernel wants them)}


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
    version = 0 if weight.is_inference() else weight._version
    known: dict[int, tuple[int, list[Any]]] = _PACKED.setdefault(weight, {})
    if terms not in known or known[terms][0] != version:
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
    float output ``float(acc) · m + bias`` (in any order); integer output, as fbgemm does it bit for bit,
    ``clamp(round((float(acc) + bias / m) · (m / y_scale)) + y_zero_point, -128, 127)``.

    Parameters
    ----------
    x : (..., in) int8
    x_scale, x_zero_point : () or (..., 1)
        One pair for the tensor, or one per row.
    weight : (out, in) int8
        Symmetric: its zero point is 0.
    weight_scale : () or (out,) float32
    bias : (out,) float32, optional
    y_scale, y_zero_point : (), optional
        Give both, and the result is int8, ready for the next layer.

    Returns
    -------
    (..., out) float32, or int8 with `y_scale`.

    Raises
    ------
    ValueError, TypeError
        As `int8_matmul`; ValueError if only one of `y_scale` and `y_zero_point` is given.

    Source: Jacob et al. 2018, arXiv 1712.05877, eq. 4 to 7.
    """
    if (y_scale is None) != (y_zero_point is None):
        raise ValueError("y_scale and y_zero_point are needed together")
    rows = x.reshape(-1, x.shape[-1]) if x.numel() else x.new_empty(math.prod(x.shape[:-1]), x.shape[-1])
    x_scale, x_zero_point = (p.reshape(-1, 1) if p.ndim else p for p in (x_scale, x_zero_point))
    if y_scale is None or y_zero_point is None:
        y = _scaled_product(rows, x_scale, x_zero_point, weight, weight_scale, bias)
        return y.reshape(*x.shape[:-1], len(weight))
    acc = int8_matmul(rows, weight, x_zero_point).float()
    m = x_scale * weight_scale
    steps = acc if bias is None else acc + bias / m
    q = (steps * (m / y_scale)).round_() + y_zero_point
    return q.clamp_(-128, 127).to(torch.int8).reshape(*x.shape[:-1], len(weight))


def _scaled_product(
    x: Tensor, x_scale: Tensor, zero_point: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None
) -> Tensor:
    """Return ``int8_matmul(x, weight, zero_point) · x_scale · weight_scale + bias`` in few passes over the result.

    The kernel multiplies by a scale per column, and one for all rows, while the sums are in its registers. A scale and
    a zero point per row it does not know: these take one pass each.
    """
    if 0 not in (*x.shape, *weight.shape):
        unsigned, shift, n_bits = _unsigned(x)
        if _kernel_fits(x, n_bits):
            packed, sums = _packed_whole(weight)
            column_scale = weight_scale.expand(len(weight)).contiguous()
            if x_scale.ndim == zero_point.ndim == 0:
                zero, scale = int(zero_point) + shift, float(x_scale)
                return _kernel(
                    unsigned, packed, len(weight), zero, x_scale=scale, weight_scale=column_scale, bias=bias
                )
            y = _kernel(unsigned, packed, len(weight), shift, weight_scale=column_scale)
            y.addcmul_(-zero_point.float(), sums * column_scale)  # Σ (x - z)·w = Σ x·w - z·Σ w
            return y.mul_(x_scale) if bias is None else torch.addcmul(bias, y, x_scale, out=y)
    y = _convert(int8_matmul(x, weight, zero_point), torch.float32).mul_(x_scale).mul_(weight_scale)
    return y if bias is None else y.add_(bias)


def _dynamic_product(
    x: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None, n_bits: int
) -> Tensor:
    """Quantize each row of x (rows, in) float32 with its own range, multiply, scale: `QuantizedLinear` in a hurry.

    For 64 rows the product takes a millisecond, and each operation before and after it up to 30 microseconds where the
    caches hold something else. So this is `choose_qparams`, `quantize` and `quantized_linear` in half as many of them:
    the integers are unsigned from the start, their zero point is the lowest value's distance from 0, and the one check
    for NaN and inf looks at the scales.
    """
    top = 2**n_bits - 1
    low, high = x.amin(1, keepdim=True).clamp_(max=0), x.amax(1, keepdim=True).clamp_(min=0)
    scale = torch.sub(high / top, low, alpha=1 / top).clamp_(min=torch.finfo(torch.float32).tiny)
    if not math.isfinite(scale.amax()):
        raise ValueError("x holds NaN or inf: no finite range")
    per_step = scale.reciprocal()
    lowest = (low * per_step).round_()  # -(zero point), 0 … -top
    steps = (x * per_step).round_().sub_(lowest).clamp_(0, top)
    # 7 bits: as int8, whose conversion is vectorized; the bytes are the same
    q = steps.to(torch.int8).view(torch.uint8) if n_bits < 8 else steps.to(torch.uint8)
    packed, sums = _packed_whole(weight)
    y = _kernel(q, packed, len(weight), weight_scale=weight_scale)
    y.addcmul_(lowest, sums * weight_scale)  # Σ (q - z)·w = Σ q·w - z·Σ w
    return y.mul_(scale) if bias is None else torch.addcmul(bias, y, scale, out=y)


# --- layers -------------------------------------------------------------------------------------------------------------


class QuantizedLinear(nn.Module):
    """`torch.nn.Linear` with int8 weights; make one with `from_float`.

    Parameters
    ----------
    in_features, out_features : int
    mode : {"dynamic", "static", "weight_only"}
        "dynamic": each row is quantized with a range of its own, found as it comes. "static": all rows with one range
        that was observed before. "weight_only": rows stay float; only memory is saved.
    bias : bool
    reduce_range : bool
        Activations of 7 bits: fast on CPUs without VNNI, about 6 dB noisier.

    Attributes
    ----------
    weight : (out, in) int8; weight_scale : (out,) float32; bias : (out,) float32 or None
    input_scale, input_zero_point : () buffers, "static" only

    Notes
    -----
    Input (..., in) float, output (..., out) float32. NaN in the input raises ValueError ("weight_only": propagates).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        mode: str = "dynamic",
        bias: bool = True,
        reduce_range: bool = False,
    ) -> None:
        super().__init__()
        _init_quantized(self, (out_features, in_features), mode, bias, reduce_range)

    weight: Tensor
    weight_scale: Tensor
    bias: Tensor | None
    input_scale: Tensor
    input_zero_point: Tensor
    mode: str
    n_bits: int

    @classmethod
    def from_float(
        cls,
        linear: nn.Linear,
        *,
        mode: str = "dynamic",
        per_channel: bool = True,
        reduce_range: bool = False,
        input_range: Range | None = None,
    ) -> Self:
        """Quantize a layer's weight symmetrically, per row (`per_channel`) or with one scale for all.

        "static" needs the `input_range` that an observer saw; ValueError without it, or for an unknown mode.
        """
        quantized = cls(
            linear.in_features,
            linear.out_features,
            mode=mode,
            bias=linear.bias is not None,
            reduce_range=reduce_range,
        )
        _fill_quantized(quantized, linear.weight, linear.bias, per_channel, input_range)
        return quantized

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer."""
        if self.mode == "weight_only":
            return F.linear(x.float(), self.weight.float()) * self.weight_scale + (
                0 if self.bias is None else self.bias
            )
        if (
            self.mode == "dynamic"
            and 0 not in (*x.shape, *self.weight.shape)
            and _kernel_fits(x, self.n_bits)
        ):
            rows = x.detach().reshape(-1, x.shape[-1]).float()
            arguments = self.weight, self.weight_scale, self.bias, self.n_bits
            # in blocks, so that what one operation leaves is in the cache for the next
            blocks = [_dynamic_product(block, *arguments) for block in rows.split(BLOCK)]
            y = blocks[0] if len(blocks) == 1 else torch.cat(blocks)
            return y.reshape(*x.shape[:-1], len(self.weight))
        scale, zero_point = _input_qparams(self, x, rows=x.shape[:-1])
        q = quantize(x, scale, zero_point, n_bits=self.n_bits)
        return quantized_linear(q, scale, zero_point, self.weight, self.weight_scale, self.bias)


class QuantizedConv2d(nn.Module):
    """`torch.nn.Conv2d` (zero padding) with int8 weights, as `int8_matmul` of patches; make one with `from_float`.

    Modes and attributes as in `QuantizedLinear`, except that "dynamic" finds one range per image, and that `weight` is
    (out, in / groups, height, width). Input (batch, in, height, width) float, output float32.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int],
        *,
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int] = (0, 0),
        dilation: tuple[int, int] = (1, 1),
        groups: int = 1,
        mode: str = "dynamic",
        bias: bool = True,
        reduce_range: bool = False,
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.dilation, self.groups = dilation, groups
        self._known: tuple[Tensor, int, list[Tensor]] | None = None
        _init_quantized(self, (out_channels, in_channels // groups, *kernel_size), mode, bias, reduce_range)

    weight: Tensor
    weight_scale: Tensor
    bias: Tensor | None
    input_scale: Tensor
    input_zero_point: Tensor
    mode: str
    n_bits: int

    @classmethod
    def from_float(
        cls,
        conv: nn.Conv2d,
        *,
        mode: str = "dynamic",
        per_channel: bool = True,
        reduce_range: bool = False,
        input_range: Range | None = None,
    ) -> Self:
        """Quantize a convolution, as `QuantizedLinear.from_float`; ValueError for padding that is not zeros."""
        if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
            raise ValueError(f"numeric zero padding is needed, got {conv.padding!r}, {conv.padding_mode!r}")
        options = {
            name: getattr(conv, name) for name in ("stride", "padding", "dilation", "groups", "kernel_size")
        }
        quantized = cls(
            conv.in_channels,
            conv.out_channels,
            mode=mode,
            bias=conv.bias is not None,
            reduce_range=reduce_range,
            **options,
        )
        _fill_quantized(quantized, conv.weight, conv.bias, per_channel, input_range)
        return quantized

    def forward(self, x: Tensor) -> Tensor:
        """Apply the convolution."""
        if self.mode == "weight_only":
            weight = self.weight * self.weight_scale.reshape(-1, 1, 1, 1)
            return F.conv2d(
                x.float(), weight, self.bias, self.stride, self.padding, self.dilation, self.groups
            )
        # Pad before quantizing: the padding is the number 0, whose integer is the zero point and not 0.
        x = F.pad(x, (self.padding[1], self.padding[1], self.padding[0], self.padding[0]))
        scale, zero_point = _input_qparams(self, x, rows=x.shape[:1])
        patches = self._patches(quantize(x, scale, zero_point, n_bits=self.n_bits))
        batch, height, width, _, _ = patches.shape
        if scale.ndim:  # one per image: one per patch of it
            scale, zero_point = (p.expand(batch, height, width, 1) for p in (scale, zero_point))
        n = len(self.weight) // self.groups  # output channels per group
        outputs = []
        for g in range(self.groups):
            out = slice(g * n, (g + 1) * n)
            weight = self._matrices()[g]
            w_scale = self.weight_scale[out] if self.weight_scale.ndim else self.weight_scale
            bias = None if self.bias is None else self.bias[out]
            outputs.append(quantized_linear(patches[:, :, :, g], scale, zero_point, weight, w_scale, bias))
        return torch.cat(outputs, dim=-1).permute(0, 3, 1, 2)

    def _matrices(self) -> list[Tensor]:
        """Return each group's filters as rows in the order of `_patches`; kept, so that they are packed only once."""
        version = 0 if self.weight.is_inference() else self.weight._version
        if self._known is None or self._known[0] is not self.weight or self._known[1] != version:
            rows = self.weight.permute(0, 2, 3, 1).reshape(self.groups, len(self.weight) // self.groups, -1)
            self._known = self.weight, version, list(rows.clone().unbind())
        return self._known[2]

    def _patches(self, q: Tensor) -> Tensor:
        """Collect what each output sees: (batch, out height, out width, groups, kernel · channels per group)."""
        q = q.permute(0, 2, 3, 1).contiguous()
        batch, height, width, channels = q.shape
        (kh, kw), (sh, sw), (dh, dw) = self.kernel_size, self.stride, self.dilation
        out_h, out_w = (height - dh * (kh - 1) - 1) // sh + 1, (width - dw * (kw - 1) - 1) // sw + 1
        row, col, per_group = width * channels, channels, channels // self.groups
        return q.as_strided(
            (batch, out_h, out_w, self.groups, kh, kw, per_group),
            (height * row, sh * row, sw * col, per_group, dh * row, dw * col, 1),
        ).reshape(batch, out_h, out_w, self.groups, kh * kw * per_group)


def _init_quantized(
    layer: nn.Module, shape: tuple[int, ...], mode: str, bias: bool, reduce_range: bool
) -> None:
    """Give a layer its buffers, empty, so that a state_dict can fill them."""
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    layer.mode, layer.n_bits = mode, 8 - reduce_range  # type: ignore[assignment]
    layer.register_buffer("weight", torch.zeros(shape, dtype=torch.int8))
    layer.register_buffer("weight_scale", torch.ones(shape[0]))
    layer.register_buffer("bias", torch.zeros(shape[0]) if bias else None)
    if mode == "static":
        layer.register_buffer("input_scale", torch.ones(()))
        layer.register_buffer("input_zero_point", torch.zeros((), dtype=torch.int32))


def _fill_quantized(
    layer: QuantizedLinear | QuantizedConv2d,
    weight: Tensor,
    bias: Tensor | None,
    per_channel: bool,
    input_range: Range | None,
) -> None:
    """Quantize a float layer's weight into `layer`, and note the input range of a static one."""
    weight = weight.detach()
    scale, zero_point = _weight_qparams(weight if per_channel else weight.reshape(1, -1), n_bits=8)
    scale, zero_point = scale.expand(len(weight)), zero_point.expand(len(weight))
    layer.weight, layer.weight_scale = quantize(weight, scale, zero_point, axis=0), scale.contiguous()
    layer.bias = None if bias is None else bias.detach().float().clone()
    if layer.mode == "static":
        if input_range is None:
            raise ValueError('mode "static" needs the input_range that an observer saw')
        layer.input_scale, layer.input_zero_point = choose_qparams(*input_range, n_bits=layer.n_bits)


def _input_qparams(
    layer: QuantizedLinear | QuantizedConv2d, x: Tensor, *, rows: torch.Size
) -> tuple[Tensor, Tensor]:
    """Return the static qparams, or those of each leading index in `rows`, shaped to broadcast against x."""
    if layer.mode == "static":
        return layer.input_scale, layer.input_zero_point
    shape = (*rows, *[1] * (x.ndim - len(rows)))
    if x.numel() == 0:
        return x.new_ones(shape, dtype=torch.float32), x.new_zeros(shape, dtype=torch.int32)
    values = x.detach().float().reshape(math.prod(rows), -1)
    low, high = values.amin(1), values.amax(1)  # aminmax(dim=1) takes 20 times as long
    scale, zero_point = choose_qparams(low, high, n_bits=layer.n_bits)
    return scale.reshape(shape), zero_point.reshape(shape)


# --- four bits ----------------------------------------------------------------------------------------------------------


def pack_int4(q: Tensor) -> Tensor:
    """Store two 4-bit integers per byte: ``byte = (q[2i] & 15) | (q[2i + 1] & 15) << 4``.

    (..., n) int8 of -8 to 7 to (..., n/2) uint8; ValueError if n is odd or a value needs more bits.
    """
    if q.shape[-1] % 2 or (q.numel() and (q.min() < -8 or q.max() > 7)):
        raise ValueError(f"an even number of integers from -8 to 7 is needed, got shape {tuple(q.shape)}")
    nibbles = q.to(torch.uint8) & 15
    return nibbles[..., 0::2] | nibbles[..., 1::2] << 4


def unpack_int4(packed: Tensor) -> Tensor:
    """Undo `pack_int4`: (..., n/2) uint8 to (..., n) int8, with the sign of bit 3 restored."""
    nibbles = torch.stack([packed & 15, packed >> 4], dim=-1).flatten(-2)
    return (nibbles.to(torch.int8) ^ 8) - 8


class Int4Linear(nn.Module):
    """`torch.nn.Linear` with 4-bit weights, weight-only: one symmetric scale per `group_size` weights of a row.

    Sixteen levels are so few that a scale per row is too coarse: the groups are what makes 4 bits usable. The weights
    become float for the product, so this saves memory, not arithmetic.

    Attributes
    ----------
    packed : (out, in/2) uint8, see `pack_int4`; scale : (out, in/group_size) float32; bias : (out,) float32 or None

    Source: Dettmers and Zettlemoyer 2023, arXiv 2212.09720 (small blocks make 4 bits work).
    """

    def __init__(
        self, in_features: int, out_features: int, *, group_size: int = 32, bias: bool = True
    ) -> None:
        super().__init__()
        if in_features % group_size or group_size % 2:
            raise ValueError(f"group_size must be even and divide {in_features}, got {group_size}")
        self.group_size = group_size
        self.register_buffer("packed", torch.zeros(out_features, in_features // 2, dtype=torch.uint8))
        self.register_buffer("scale", torch.ones(out_features, in_features // group_size))
        self.register_buffer("bias", torch.zeros(out_features) if bias else None)

    packed: Tensor
    scale: Tensor
    bias: Tensor | None

    @classmethod
    def from_float(cls, linear: nn.Linear, *, group_size: int = 32) -> Self:
        """Quantize a layer's weight, group by group; ValueError if the groups do not divide its inputs."""
        quantized = cls(
            linear.in_features, linear.out_features, group_size=group_size, bias=linear.bias is not None
        )
        groups = linear.weight.detach().reshape(-1, group_size)
        scale, zero_point = _weight_qparams(groups, n_bits=4)
        q = quantize(groups, scale, zero_point, n_bits=4, axis=0)
        quantized.packed = pack_int4(q.reshape(linear.weight.shape))
        quantized.scale = scale.reshape(quantized.scale.shape)
        quantized.bias = None if linear.bias is None else linear.bias.detach().float().clone()
        return quantized

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer: (..., in) float to (..., out) float32."""
        groups = unpack_int4(self.packed).reshape(*self.scale.shape, self.group_size)
        return F.linear(x.float(), (groups * self.scale[..., None]).flatten(1), self.bias)


def _weight_qparams(weight: Tensor, *, n_bits: int) -> tuple[Tensor, Tensor]:
    """Symmetric qparams of each row."""
    largest = weight.detach().abs().flatten(1).amax(1)
    return choose_qparams(-largest, largest, n_bits=n_bits, symmetric=True)


# --- whole models -------------------------------------------------------------------------------------------------------

Observer = MinMax | Percentile | MeanSquaredError


class FakeQuantized(nn.Module):
    """A linear or convolution that computes with fake-quantized weight and input, for training and evaluation alike.

    The range of the input is a moving average that only training moves. ``n_bits=4`` with a `group_size` imitates
    `Int4Linear`: weights in groups, the input stays float.
    """

    def __init__(
        self,
        layer: nn.Linear | nn.Conv2d,
        *,
        n_bits: int = 8,
        group_size: int | None = None,
        reduce_range: bool = False,
    ) -> None:
        super().__init__()
        self.layer = layer
        self.n_bits, self.group_size, self.reduce_range = n_bits, group_size, reduce_range
        self.observer = MovingAverage(momentum=0.9)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer; RuntimeError in evaluation before any training batch was seen."""
        if self.group_size is None:
            if self.training:
                self.observer.observe(x)
            qparams = choose_qparams(*self.observer.range(), reduce_range=self.reduce_range)
            x = fake_quantize(x, *qparams, n_bits=8 - self.reduce_range)
        weight = self.layer.weight
        rows = weight if self.group_size is None else weight.reshape(-1, self.group_size)
        fake = fake_quantize(rows, *_weight_qparams(rows, n_bits=self.n_bits), n_bits=self.n_bits, axis=0)
        return torch.func.functional_call(self.layer, {"weight": fake.reshape(weight.shape)}, x)


def quantize_model(
    model: nn.Module,
    *,
    mode: str = "dynamic",
    calibration: Iterable[Tensor] | None = None,
    observer: type[Observer] = MinMax,
    n_bits: int = 8,
    group_size: int = 32,
    per_channel: bool = True,
    reduce_range: bool = False,
) -> nn.Module:
    """Return a quantized copy of `model`, in evaluation mode; the model itself stays as it is.

    First folds each batch norm that follows a convolution or linear layer in an ``nn.Sequential`` into it. Then
    replaces every ``nn.Linear`` and ``nn.Conv2d`` (not subclasses: attention reads the weight of its own kind directly).

    Parameters
    ----------
    mode : {"dynamic", "static", "weight_only"}
        See `QuantizedLinear`.
    calibration : iterable of input batches
        "static" only: run through the float model while an `observer` per layer watches its input. A model from
        `prepare_qat` needs none, its training was the calibration.
    n_bits : {8, 4}
        4 with "weight_only": linear layers become `Int4Linear` with this `group_size`; convolutions keep 8 bits.
    per_channel, reduce_range : bool
        See `QuantizedLinear.from_float`.

    Raises
    ------
    ValueError
        For an unknown mode, 4 bits in another mode than "weight_only", or "static" without calibration batches.
    RuntimeError
        If calibration never reached a layer; the message names it.
    """
    if mode not in MODES or n_bits not in (4, 8) or (n_bits == 4 and mode != "weight_only"):
        raise ValueError(
            f"mode must be one of {', '.join(MODES)}, n_bits 8 (or 4 with weight_only), got {mode!r}, {n_bits}"
        )
    quantized = _fold_batch_norms(copy.deepcopy(model)).eval()
    layers = dict(_float_layers(quantized))
    ranges = _observe(quantized, layers, calibration, observer) if mode == "static" else {}
    new: dict[str, nn.Module] = {}
    for name, layer in layers.items():
        inner = layer.layer if isinstance(layer, FakeQuantized) else layer
        if isinstance(inner, nn.Linear) and n_bits == 4:
            new[name] = Int4Linear.from_float(inner, group_size=group_size)
            continue
        kind = QuantizedLinear if isinstance(inner, nn.Linear) else QuantizedConv2d
        new[name] = kind.from_float(
            inner,  # type: ignore[arg-type]
            mode=mode,
            per_channel=per_channel,
            reduce_range=reduce_range,
            input_range=ranges.get(name),
        )
    return _replace(quantized, new)


def prepare_qat(
    model: nn.Module, *, n_bits: int = 8, group_size: int | None = None, reduce_range: bool = False
) -> nn.Module:
    """Return a copy of `model` to train with quantization in the loop, in training mode; see `FakeQuantized`.

    Folds batch norms first (in their evaluation form), so that what is trained is what will be deployed. When
    trained, give it to `quantize_model` with mode "static" (or "weight_only" and 4 bits).

    Raises
    ------
    ValueError
        If one of `n_bits` = 4 and a `group_size` comes without the other, or n_bits is not 4 or 8.
    """
    if n_bits not in (4, 8) or (n_bits == 4) != (group_size is not None):
        raise ValueError(f"n_bits must be 8, or 4 with a group_size, got {n_bits} and {group_size}")
    prepared = _fold_batch_norms(copy.deepcopy(model))
    new: dict[str, nn.Module] = {}
    for name, layer in _float_layers(prepared):
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        if n_bits == 8 or isinstance(layer, nn.Linear):
            new[name] = FakeQuantized(layer, n_bits=n_bits, group_size=group_size, reduce_range=reduce_range)
    return _replace(prepared, new).train()


def smooth(activation_max: Tensor, weight: Tensor, *, alpha: float = 0.5) -> Tensor:
    """Return factors that move outliers from activations into weights: ``(x / s) @ (weight · s)ᵀ = x @ weightᵀ``.

    ``s[j] = activation_max[j]^alpha / max_n |weight[n, j]|^(1 - alpha)``: alpha 0 leaves the trouble in the activations,
    1 moves all of it. In a network 1/s goes into the layer before (a LayerNorm's weight).

    Parameters
    ----------
    activation_max : (in,) float
        Largest magnitude of each input channel. A channel, or a column of weight, that is all zero gets s = 1.
    weight : (out, in) float

    Returns
    -------
    (in,) float32, positive.

    Source: Xiao et al. 2023, arXiv 2211.10438, eq. 4.
    """
    columns = weight.detach().abs().amax(0).float()
    factors = activation_max.float() ** alpha / columns ** (1 - alpha)
    return factors.where((activation_max > 0) & (columns > 0), 1.0)


def _float_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the layers to replace by name, once per place; what lies inside a `FakeQuantized` is its own affair."""
    inside: tuple[str, ...] = ()
    for name, module in model.named_modules(remove_duplicate=False):
        if type(module) in (nn.Linear, nn.Conv2d, FakeQuantized) and not name.startswith(inside or ("\0",)):
            yield name, module
            if isinstance(module, FakeQuantized):
                inside += (f"{name}.layer" if name else "layer",)


def _replace(model: nn.Module, new: Mapping[str, nn.Module]) -> nn.Module:
    for name, module in new.items():
        if not name:
            return module  # the model is a single layer
        model.set_submodule(name, module)
    return model


def _observe(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    calibration: Iterable[Tensor] | None,
    observer: type[Observer],
) -> dict[str, Range]:
    """Return the input range of each layer: from training where it was fake-quantized, from calibration elsewhere."""
    ranges, hooks = {}, []
    observers = {
        name: layer.observer if isinstance(layer, FakeQuantized) else observer()
        for name, layer in layers.items()
    }
    for name, layer in layers.items():
        if not isinstance(layer, FakeQuantized):
            hooks.append(
                layer.register_forward_pre_hook(lambda _, args, o=observers[name]: o.observe(args[0]))
            )
    if hooks and calibration is None:
        raise ValueError('mode "static" needs calibration batches')
    n_batches = 0
    with torch.no_grad():
        for x in calibration or ():
            model(x)
            n_batches += 1
    for hook in hooks:
        hook.remove()
    if hooks and not n_batches:
        raise ValueError("calibration holds no batch")
    for name, seen in observers.items():
        try:
            ranges[name] = seen.range()
        except RuntimeError as error:
            raise RuntimeError(f"calibration never reached layer {name!r}: {error}") from None
    return ranges


def _fold_batch_norms(model: nn.Module) -> nn.Module:
    """Fold batch norms into the layer before them, in place: ``w' = w·γ/σ``, ``b' = (b - μ)·γ/σ + β``."""
    for parent in [module for _, module in model.named_modules() if isinstance(module, nn.Sequential)]:
        for k, (layer, norm) in enumerate(itertools.pairwise(parent)):
            if not isinstance(layer, nn.Linear | nn.Conv2d):
                continue
            if not isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
                continue
            if norm.running_mean is None or norm.running_var is None:
                raise ValueError("a batch norm without running statistics cannot be folded")
            with torch.no_grad():
                factor = (norm.running_var + norm.eps).rsqrt()
                factor = factor * norm.weight if norm.affine else factor
                bias = -norm.running_mean if layer.bias is None else layer.bias - norm.running_mean
                bias = bias * factor + norm.bias if norm.affine else bias * factor
                layer.weight = nn.Parameter(layer.weight * factor.reshape(-1, *[1] * (layer.weight.ndim - 1)))
                layer.bias = nn.Parameter(bias)
            parent[k + 1] = nn.Identity()
    return model


# --- files --------------------------------------------------------------------------------------------------------------


def save_quantized(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a quantized model to a safetensors file: its state_dict, and which layer is quantized how."""
    layers = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, QuantizedLinear | QuantizedConv2d):
            layers[name] = {"mode": module.mode, "reduce_range": module.n_bits == 7}
        elif isinstance(module, Int4Linear):
            layers[name] = {"group_size": module.group_size}
    tensors = {name: tensor.clone().contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, path, metadata={"layers": json.dumps(layers)})


def load_quantized(model: nn.Module, path: str | os.PathLike[str]) -> nn.Module:
    """Read a quantized model back, bit for bit.

    Parameters
    ----------
    model : nn.Module
        The float architecture; its values do not matter and it stays as it is.
    path : path
        A file of `save_quantized`.

    Raises
    ------
    ValueError
        If the file is not from `save_quantized`, or does not fit the architecture.
    """
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
    if "layers" not in metadata:
        raise ValueError(f"{path} was not written by save_quantized")
    quantized = _fold_batch_norms(copy.deepcopy(model)).eval()
    floats = dict(_float_layers(quantized))
    new: dict[str, nn.Module] = {}
    for name, options in json.loads(metadata["layers"]).items():
        layer = floats.get(name)
        if isinstance(layer, nn.Linear):
            kind = Int4Linear if "group_size" in options else QuantizedLinear
            new[name] = kind(layer.in_features, layer.out_features, bias=layer.bias is not None, **options)
        elif isinstance(layer, nn.Conv2d):
            geometry = {key: getattr(layer, key) for key in ("stride", "padding", "dilation", "groups")}
            new[name] = QuantizedConv2d(
                layer.in_channels,
                layer.out_channels,
                layer.kernel_size,  # type: ignore[arg-type]
                bias=layer.bias is not None,
                **geometry,
                **options,
            )
        else:
            raise ValueError(f"{path}: layer {name!r} is not a linear or convolution of this model")
    quantized = _replace(quantized, new).eval()
    try:
        quantized.load_state_dict(load_file(path))
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit this model: {error}") from error
    return quantized
