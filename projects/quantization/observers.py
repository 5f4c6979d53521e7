"""Which range to represent? Observers beyond `MinMax`: per channel, moving, clipped, or with the least error; and `sqnr`.

Every observer has ``observe(x)`` and ``range()`` like `MinMax`, with tensors for low and high, and refuses the same:
ValueError, and nothing changes, for a batch that is empty or holds NaN or inf; RuntimeError for the range of nothing. What
it keeps is its own: the caller may reuse the memory of a batch. Batches may differ in shape, but not in their channels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from quantization import choose_qparams, dequantize, quantize

__all__ = ["along", "sqnr", "ChannelMinMax", "MovingAverage", "Percentile", "MeanSquaredError"]

Range = tuple[Tensor, Tensor]  # (low, high)


def along(values: Tensor, axis: int, ndim: int) -> Tensor:
    """Shape one value per index of `axis`, (n,), so that it broadcasts against a tensor of `ndim` axes: (1, …, n, …, 1)."""
    shape = [1] * ndim
    shape[axis] = -1
    return values.reshape(shape)


def sqnr(reference: Tensor, actual: Tensor) -> float:
    """Signal to quantization noise ratio in dB: ``10 log10(Σ reference² / Σ (reference - actual)²)``, in float64.

    One more bit is about 6 dB; equal tensors give inf. ValueError if shapes differ, the reference is empty or all zero, or a
    value is NaN or infinite.
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


class ChannelMinMax:
    """Observe the extremes of each index of `axis` over all batches: one range per channel."""

    def __init__(self, *, axis: int) -> None:
        self.axis: int | None = axis
        self.low: Tensor | None = None
        self.high: Tensor | None = None

    def observe(self, x: Tensor) -> None:
        """Take one batch into account."""
        low, high = _extremes(x, self.axis, like=self.low)
        self.low = low if self.low is None else torch.minimum(self.low, low)
        self.high = high if self.high is None else torch.maximum(self.high, high)

    def range(self) -> Range:
        """Return (low, high), each (channels,)."""
        return _known(self.low, self.high)


class MovingAverage:
    """Observe the exponential moving average of each batch's extremes: for training, where early batches go stale.

    ``low += (1 - momentum) · (batch low - low)``, and high alike; the first batch is taken as it is, and no range is widened to
    0 here: that is `choose_qparams`' affair. With `axis` one range per index of it. It adds in float64: a small step is not
    lost. ValueError unless 0 <= momentum < 1.

    Source: Jacob et al. 2018, arXiv 1712.05877, section 3.1.
    """

    def __init__(self, *, momentum: float = 0.99, axis: int | None = None) -> None:
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {momentum}")
        self.momentum, self.axis = momentum, axis
        self.low: Tensor | None = None
        self.high: Tensor | None = None

    def observe(self, x: Tensor) -> None:
        """Take one batch into account."""
        low, high = (end.double() for end in _extremes(x, self.axis, like=self.low))
        self.low = low if self.low is None else torch.lerp(self.low.double(), low, 1 - self.momentum)
        self.high = high if self.high is None else torch.lerp(self.high.double(), high, 1 - self.momentum)

    def range(self) -> Range:
        """Return (low, high)."""
        low, high = _known(self.low, self.high)
        return low.float(), high.float()


class Percentile:
    """Observe percentiles: clip the rare extremes to spend the integers on the rest.

    low is the (100 - percentile)th and high the percentile-th percentile of all observed values, with linear
    interpolation. It keeps every value it sees, so it is meant for a few calibration batches. ValueError unless
    50 < percentile <= 100; the message contains it.
    """

    def __init__(self, *, percentile: float = 99.9) -> None:
        if not 50 < percentile <= 100:
            raise ValueError(f"percentile must be in (50, 100], got {percentile}")
        self.percentile = percentile
        self._seen: list[Tensor] = []

    def observe(self, x: Tensor) -> None:
        """Take one batch into account."""
        _extremes(x, None)
        self._seen.append(x.detach().float().flatten().clone())

    def range(self) -> Range:
        """Return (low, high)."""
        values = _all_values(self._seen).sort().values
        return self._at(values, 100 - self.percentile), self._at(values, self.percentile)

    @staticmethod
    def _at(values: Tensor, percent: float) -> Tensor:
        position = percent / 100 * (len(values) - 1)  # torch.quantile refuses more than 2^24 values
        below, above = math.floor(position), math.ceil(position)
        return torch.lerp(values[below].double(), values[above].double(), position - below).float()


class MeanSquaredError:
    """Observe the range whose round trip has the least mean squared error over the observed values.

    Tries (low, high)·k/100 for k = 1 … 100, with low and high the extremes: clipping costs much on few values, a finer
    scale gains a little on all. `n_bits` and `symmetric` say which quantization the error is measured with.

    Source: Nagel et al. 2021, arXiv 2106.08295, section 3.1 (range setting).
    """

    def __init__(self, *, n_bits: int = 8, symmetric: bool = False) -> None:
        choose_qparams(-1.0, 1.0, n_bits=n_bits)  # refuses other n_bits, before all the work
        self.n_bits = n_bits
        self.symmetric = symmetric
        self._seen: list[Tensor] = []

    def observe(self, x: Tensor) -> None:
        """Take one batch into account."""
        _extremes(x, None)
        self._seen.append(x.detach().float().flatten().clone())

    def range(self) -> Range:
        """Return (low, high)."""
        values = _all_values(self._seen)
        low, high = values.aminmax()

        def error(share: float) -> float:
            qparams = choose_qparams(low * share, high * share, n_bits=self.n_bits, symmetric=self.symmetric)
            back = dequantize(quantize(values, *qparams, n_bits=self.n_bits), *qparams)
            return (
                (back.double() - values).square().mean().item()
            )  # 1e-25² underflows float32, 1e25² overflows

        best = min((k / 100 for k in range(100, 0, -1)), key=error)
        return low * best, high * best


def _extremes(x: Tensor, axis: int | None, like: Tensor | None = None) -> Range:
    """Return the extremes of x, whole or per index of `axis`; refuse what has none, or as many as `like`."""
    x = x.detach().float()  # first: what overflows has no finite range
    if x.numel() == 0:
        raise ValueError(f"an empty tensor has no range, got shape {tuple(x.shape)}")
    rows = x.reshape(1, -1) if axis is None else x.movedim(axis, 0).reshape(x.shape[axis], -1)
    low, high = rows.amin(1), rows.amax(1)  # aminmax(dim=1) takes 20 times as long
    if axis is None:
        low, high = low[0], high[0]
    if not (torch.isfinite(low).all() and torch.isfinite(high).all()):
        raise ValueError("x holds NaN or inf: no finite range")
    if like is not None and low.shape != like.shape:
        raise ValueError(f"{like.numel()} channels were observed before, got {low.numel()}")
    return low, high


def _known(low: Tensor | None, high: Tensor | None) -> Range:
    if low is None or high is None:
        raise RuntimeError("nothing was observed: run calibration batches through the model first")
    return low, high


def _all_values(seen: list[Tensor]) -> Tensor:
    if not seen:
        raise RuntimeError("nothing was observed: run calibration batches through the model first")
    return torch.cat(seen)
