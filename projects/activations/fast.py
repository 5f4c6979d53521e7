"""The sixteen activation functions and gradients: any size, every real dtype, into `out`; the fast twin of activations.py.

- Any shape works: 0-d, empty, non-contiguous. The result has the shape of `x` unless a docstring says otherwise; empty
  in, empty out. The input is never modified, unless it is also `out`.
- float16, float32 and float64 keep their dtype; float16 is computed and summed in float32, then rounded once. Bool and
  integers become float64. The result has native byte order. Complex, object and other dtypes raise TypeError.
- `out` must be an array with the result's shape (else ValueError) and dtype (else TypeError). It is returned. It may be
  the input itself, or overlap it.
- `axis` may be negative. One that is not an integer raises TypeError, one that does not exist ValueError
  (``numpy.exceptions.AxisError``). A 0-d input counts as one class.
- An error about a dtype, a shape or `approximate` names what came.
- NaN in gives NaN out. ±inf gives the limit. Nothing overflows and nothing warns, whatever the finite input.
- A tiny result has all its digits where its docstring says so: ``sigmoid(-80)`` is 1.8e-35, not 0.

How it is fast: an array goes through the formula in blocks that stay in cache, so that main memory is read once
and written once, and the sums of softmax run through BLAS.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable

import numpy as np
from numpy.lib.array_utils import normalize_axis_index
from numpy.typing import ArrayLike, NDArray

# fmt: off
__all__ = [
    "sigmoid", "tanh", "relu", "leaky_relu", "gelu", "silu", "softmax", "log_softmax", "logsumexp", "sigmoid_grad", "tanh_grad",
    "relu_grad", "leaky_relu_grad", "gelu_grad", "silu_grad", "softmax_backward",
]
# fmt: on

Array = NDArray[np.floating]
Kernel = Callable[..., object]  # writes its last argument

# Elements in a block: 1 MiB of float32. A quarter of it costs 30 % more time in `softmax` of (4096, 4096) with `out`.
_BLOCK = 2**18


# --- element by element -------------------------------------------------------------------------------------


def sigmoid(x: ArrayLike, *, out: Array | None = None) -> Array:
    """Squash to (0, 1): ``1 / (1 + exp(-x))``, with all digits where it is tiny; -inf gives 0, +inf gives 1."""
    return _elementwise(_sigmoid, x, out)


def tanh(x: ArrayLike, *, out: Array | None = None) -> Array:
    """Squash to (-1, 1) by NumPy's tanh: exponentials overflow, and ``2·sigmoid(2x) - 1`` has no digits near 0."""
    return _elementwise(np.tanh, x, out)


def relu(x: ArrayLike, *, out: Array | None = None) -> Array:
    """Keep what is positive: ``max(x, 0)``; -inf gives 0, +inf gives +inf."""
    return _elementwise(lambda x, y: np.maximum(x, 0, out=y), x, out)


def leaky_relu(x: ArrayLike, *, negative_slope: float = 0.01) -> Array:
    """Keep what is positive, scale the rest: ``x`` where ``x > 0``, else ``negative_slope·x``.

    The slope is any finite number, above 1 and below 0 included. Source: Maas, Hannun and Ng, ICML 2013.
    """

    def kernel(x: Array, y: Array) -> None:
        np.add(np.maximum(x, 0), negative_slope * np.minimum(x, 0), out=y)  # 3 times as fast as np.where

    return _elementwise(kernel, x) if negative_slope else relu(x)  # 0·inf is NaN


def gelu(x: ArrayLike, *, approximate: str = "none") -> Array:
    """Weight the input by the probability that a standard normal is below it: ``x·Φ(x)``.

    With ``approximate="tanh"`` instead ``x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³)))``; any other value raises ValueError.
    With ``"none"`` the negative tail has its digits: ``gelu(-10)`` is -7.6e-23, not 0, and the relative error stays
    within ``8·eps·(1 + x²)``. -inf gives 0, +inf gives +inf.
    """
    return _elementwise(_choose(approximate, _gelu, _gelu_tanh), x)


def silu(x: ArrayLike) -> Array:
    """Weight the input by its own sigmoid: ``x·sigmoid(x)``, also called swish; -inf gives 0, +inf gives +inf.

    The negative tail has its digits. Source: Elfwing, Uchibe and Doya, arXiv 1702.03118, equation 1.
    """
    return _elementwise(_silu, x)


# --- along an axis ------------------------------------------------------------------------------------------


def softmax(x: ArrayLike, *, axis: int = -1, out: Array | None = None) -> Array:
    """Turn logits into probabilities: ``exp(x) / sum(exp(x))`` along `axis`; a tiny one has all its digits, -inf gives 0.

    A row (one line along `axis`) that is all -inf, or holds +inf or NaN, is all NaN; the rows beside it are not disturbed.
    """
    return _along_axis(_softmax, x, axis, out)


def log_softmax(x: ArrayLike, *, axis: int = -1) -> Array:
    """Logarithm of `softmax` without the underflow: ``x - logsumexp(x)`` along `axis`; -inf stays -inf.

    A result near 0 has all its digits: ``log_softmax([0, -40])[0]`` is -4.2e-18. Rows are spoiled as in `softmax`.
    """
    return _along_axis(_log_softmax, x, axis)


def logsumexp(x: ArrayLike, *, axis: int = -1) -> Array:
    """Smooth maximum: ``log(sum(exp(x)))`` along `axis`, computed as ``m + log(sum(exp(x - m)))`` with ``m = max(x)``.

    The result has the shape of `x` without `axis`, and near 0 all its digits: ``logsumexp([0, -40])`` is 4.2e-18. A row
    that is all -inf, or empty, gives -inf (the logarithm of a sum that is 0); one that holds +inf gives +inf; NaN gives NaN.
    Source: Blanchard, Higham and Higham, IMA Journal of Numerical Analysis 41, 2021, equation 1.3.
    """
    x = _as_float(x)
    outer, n, inner = _slabs(x.shape, axis)
    result = np.full((outer, 1, inner), -np.inf, x.dtype)
    _run_in_blocks(_logsumexp, result, x.reshape(outer, n, inner))
    return result.reshape(x.shape[:axis] + x.shape[axis:][1:])


# --- gradients ----------------------------------------------------------------------------------------------


def sigmoid_grad(x: ArrayLike) -> Array:
    """Differentiate `sigmoid` at `x`: ``s·(1 - s)``, at most 1/4, with all digits in both tails; ±inf gives 0."""
    return _elementwise(lambda x, y: np.multiply(_sigmoid(x), _sigmoid(-x), out=y), x)


def tanh_grad(x: ArrayLike) -> Array:
    """Differentiate `tanh` at `x`: ``1 - tanh(x)²``, with all digits in both tails; ±inf gives 0."""
    return _elementwise(lambda x, y: np.multiply(4 * _sigmoid(2 * x), _sigmoid(-2 * x), out=y), x)


def relu_grad(x: ArrayLike) -> Array:
    """Differentiate `relu` at `x`: 1 where ``x > 0``, else 0, by convention also at the kink; NaN gives NaN."""
    return leaky_relu_grad(x, negative_slope=0.0)


def leaky_relu_grad(x: ArrayLike, *, negative_slope: float = 0.01) -> Array:
    """Differentiate `leaky_relu` at `x`: 1 where ``x > 0``, else `negative_slope`, also at the kink; NaN gives NaN."""

    def kernel(x: Array, y: Array) -> None:
        np.greater(x, 0, out=y)
        y += negative_slope * (1 - y)
        y[np.isnan(x)] = np.nan

    return _elementwise(kernel, x)


def gelu_grad(x: ArrayLike, *, approximate: str = "none") -> Array:
    """Differentiate `gelu` at `x`: ``Φ(x) + x·φ(x)``, with the density ``φ(x) = exp(-x²/2) / √(2π)``.

    `approximate` is that of `gelu`, with the same error. -inf gives 0, +inf gives 1.
    """
    return _elementwise(_choose(approximate, _gelu_grad, _gelu_tanh_grad), x)


def silu_grad(x: ArrayLike) -> Array:
    """Differentiate `silu` at `x`: ``s·(1 + x·(1 - s))`` with ``s = sigmoid(x)``; -inf gives 0, +inf gives 1."""
    return _elementwise(_silu_grad, x)


def softmax_backward(y: ArrayLike, grad_y: ArrayLike, *, axis: int = -1) -> Array:
    """Gradient of a loss by the logits, from the gradient by the probabilities: ``y·(grad_y - sum(y·grad_y))``.

    `y` is the output of `softmax`, `grad_y` the loss differentiated by it. Their shapes must agree (else ValueError);
    where the dtypes differ, the wider one counts.
    """
    y, grad_y = _as_float(y), _as_float(grad_y)
    if y.shape != grad_y.shape:
        raise ValueError(f"grad_y must have the shape of y, {y.shape}, but has {grad_y.shape}")
    result = np.empty(y.shape, np.result_type(y, grad_y))
    slabs = _slabs(y.shape, axis)
    _run_in_blocks(_softmax_backward, result.reshape(slabs), y.reshape(slabs), grad_y.reshape(slabs))
    return result


# --- kernels: one block in float32 or float64, the last argument is written ---------------------------------


def _sigmoid(x: Array, y: Array | None = None) -> Array:
    """Compute ``e / (1 + e)`` with ``e = exp(x)``, which keeps all digits of a tiny result, unlike ``(1 + tanh) / 2``."""
    e = np.exp(x, out=y)
    denominator = e + 1
    s: Array = np.divide(e, denominator, out=e)
    if not denominator.max() < np.inf:  # exp overflowed and inf / inf is NaN: there the sigmoid is 1
        s[np.isposinf(denominator)] = 1
    return s


def _silu(x: Array, y: Array) -> None:
    z = np.clip(x, -1000, np.inf)  # sigmoid(-1000) is 0: the bound only stops -inf·0
    np.multiply(z, _sigmoid(x), out=y)


def _silu_grad(x: Array, y: Array) -> None:
    s = _sigmoid(x)
    np.multiply(s, 1 + np.clip(x, -1000, 1000) * _sigmoid(-x), out=y)


_TAIL_END = 40.0  # the normal distribution has no probability left beyond it, even in float64

# Chebyshev series of (1 + z)·exp(z²/2)·Q(z) on [0, 40], where Q(z) = 1 - Φ(z), in the variable u = 2.2·z/(z + 4) - 1.
# The factors leave a function that is nearly flat, so few terms give Q relative to itself (Shepherd and Laframboise,
# Mathematics of Computation 36, 1981). The coefficients were computed with mpmath in 40 digits; 11 serve float32.
# fmt: off
_TAIL_SERIES = [
    0.47155383968620496, -0.058137107824620796, -0.013239343287072368, 0.011720805505664662, -0.00392255077449567,
    0.0007531885997472562, -6.358269928966487e-05, -6.521341336733567e-06, 2.060222482949714e-06,
    5.057387600353634e-09, -5.327111640599395e-08, 1.3965063133551673e-09, 1.5315094566461465e-09,
    -3.2587598300273894e-11, -4.968203086242908e-11, -7.037660075245836e-13, 1.6876915513246838e-12,
    1.2881955780138226e-13, -5.3306772462836365e-14, -9.387653287891374e-15, 1.2226543379932563e-15,
    5.066713251953528e-16,
]
# fmt: on
_TAIL_POLYNOMIAL = {  # highest power first
    np.dtype(dtype): np.polynomial.chebyshev.cheb2poly(_TAIL_SERIES[:terms])[::-1].astype(dtype)
    for dtype, terms in ((np.float32, 11), (np.float64, 22))
}


def _exp_half_square(z: Array) -> Array:
    """Compute ``exp(-z²/2)`` to the last digits, which ``np.exp(-z*z/2)`` loses: rounding z² is an error times z².

    ``z = high + low``, where `high` has half the digits, so that its square is exact (Veltkamp's split; Dekker 1971).
    """
    shifted = (2.0 ** ((np.finfo(z.dtype).nmant + 2) // 2) + 1) * z
    high = shifted - (shifted - z)
    return np.exp(-0.5 * high * high) * np.exp(-0.5 * (z - high) * (z + high))


def _tail_factor(z: Array) -> Array:
    """Compute ``Q(z) / exp(-z²/2)`` for 0 ≤ z ≤ 40, by Horner's rule."""
    u = 2.2 * z / (z + 4) - 1
    series = np.zeros_like(z)
    for coefficient in _TAIL_POLYNOMIAL[z.dtype]:
        series *= u
        series += coefficient
    return series / (1 + z)


def _gelu(x: Array, y: Array) -> None:
    """``x·Φ(x) = max(x, 0) - |x|·Q(|x|)``: the sign of x needs no branch, and no digits cancel."""
    z = np.clip(np.abs(x), 0, _TAIL_END)
    np.subtract(np.maximum(x, 0), z * _exp_half_square(z) * _tail_factor(z), out=y)


def _gelu_grad(x: Array, y: Array) -> None:
    z = np.clip(np.abs(x), 0, _TAIL_END)
    tail = _exp_half_square(z) * (_tail_factor(z) - z * (1 / math.sqrt(2 * math.pi)))  # Q(z) - z·φ(z)
    y[...] = np.where(x < 0, tail, 1 - tail)


_TANH_SLOPE = 2 * math.sqrt(2 / math.pi)  # (1 + tanh(u)) / 2 is sigmoid(2u)
_TANH_CUBE = 0.044715


def _gelu_tanh(x: Array, y: Array) -> None:
    z = np.clip(x, -_TAIL_END, np.inf)
    np.multiply(z, _sigmoid(_TANH_SLOPE * (z + _TANH_CUBE * z * z * z)), out=y)


def _gelu_tanh_grad(x: Array, y: Array) -> None:
    z = np.clip(x, -_TAIL_END, _TAIL_END)
    u = _TANH_SLOPE * (z + _TANH_CUBE * z * z * z)
    slope = _TANH_SLOPE * (1 + 3 * _TANH_CUBE * z * z)
    np.multiply(_sigmoid(u), 1 + z * _sigmoid(-u) * slope, out=y)


def _softmax(x: Array, y: Array) -> None:
    """Try without the shift, which is a pass over the block; the row sums tell whether that was safe."""
    e = np.empty_like(y) if np.may_share_memory(x, y) else y  # x may be needed a second time
    total = _sum(np.exp(x, out=e))
    if not (total.min() >= 1 and total.max() < np.inf):  # a row lost digits, overflowed, or holds NaN
        np.subtract(x, x.max(axis=1, keepdims=True), out=e)
        total = _sum(np.exp(e, out=e))
    np.divide(e, total, out=y)


def _log_softmax(x: Array, y: Array) -> None:
    np.subtract(x, x.max(axis=1, keepdims=True), out=y)
    y -= _log_of_sum(np.exp(y))


def _logsumexp(x: Array, y: Array) -> None:
    largest = x.max(axis=1, keepdims=True)
    shift = np.where(np.isfinite(largest), largest, 0)  # inf - inf would be NaN
    np.add(shift, _log_of_sum(np.exp(x - shift)), out=y)


def _log_of_sum(e: Array) -> Array:
    """Compute the log of each row's sum, its largest being 1; where that is most, log1p keeps digits. Overwrites `e`."""
    total = _sum(e)
    log: Array = np.log(total)
    mostly_1 = (total >= 1) & (total < 2)
    if mostly_1.any():
        e -= e == 1
        np.copyto(log, np.log1p(_sum(e)), where=mostly_1)
    return log


def _softmax_backward(y: Array, grad_y: Array, grad_x: Array) -> None:
    np.multiply(y, grad_y, out=grad_x)
    np.subtract(grad_y, _sum(grad_x), out=grad_x)
    grad_x *= y


def _sum(x: Array) -> Array:
    """Sum ``(outer, n, inner)`` over the middle axis, which stays as 1."""
    outer, n, inner = x.shape
    # By a matrix-vector product where it can be: BLAS sums short rows many times faster than np.sum.
    total: Array = x.reshape(outer, n) @ np.ones((n, 1), x.dtype) if inner == 1 else x.sum(axis=1)
    return total.reshape(outer, 1, inner)


# --- plumbing -----------------------------------------------------------------------------------------------


def _as_float(x: ArrayLike) -> Array:
    """Return `x` as an array of float16, float32 or float64 in native byte order, or raise TypeError."""
    x = np.asarray(x)
    if x.dtype.kind in "biu":
        return x.astype(np.float64)
    if x.dtype.kind != "f" or x.dtype.itemsize > 8:
        raise TypeError(f"expected bool, integers, float16, float32 or float64, got dtype {x.dtype}")
    return x if x.dtype.isnative else x.astype(x.dtype.newbyteorder("="))


def _choose(approximate: str, exact: Kernel, tanh: Kernel) -> Kernel:
    """Return the kernel that `approximate` names, or raise ValueError."""
    if approximate not in ("none", "tanh"):
        raise ValueError(f"approximate must be 'none' or 'tanh', got {approximate!r}")
    return exact if approximate == "none" else tanh


def _result(x: Array, out: Array | None = None) -> Array:
    """Return the contiguous array to compute in: `out` itself where blocks of it can be written one after the other."""
    if out is None:
        return np.empty(x.shape, x.dtype)
    if not isinstance(out, np.ndarray) or out.dtype != x.dtype:
        found = f"dtype {out.dtype}" if isinstance(out, np.ndarray) else type(out).__name__
        raise TypeError(f"out must be an array of dtype {x.dtype}, got {found}")
    if out.shape != x.shape:
        raise ValueError(f"out must have the shape {x.shape}, got {out.shape}")
    in_place = out.flags.c_contiguous and (out is x or not np.may_share_memory(out, x))
    return out if in_place else np.empty(x.shape, x.dtype)


def _slabs(shape: tuple[int, ...], axis: int) -> tuple[int, int, int]:
    """Return ``(outer, n, inner)``: the sizes before, along and after `axis`, with a 0-d array as one class."""
    shape = shape or (1,)
    axis = normalize_axis_index(operator.index(axis), len(shape))
    return math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])


def _along_axis(kernel: Kernel, x: ArrayLike, axis: int, out: Array | None = None) -> Array:
    """Apply ``kernel(x, y)``, which writes y, to `x` as ``(outer, n, inner)``."""
    x = _as_float(x)
    return _apply(kernel, x, _slabs(x.shape, axis), out)


def _elementwise(kernel: Kernel, x: ArrayLike, out: Array | None = None) -> Array:
    """Apply ``kernel(x, y)``, which writes y, to the whole of `x`."""
    return _apply(kernel, _as_float(x), (-1,), out)


def _apply(kernel: Kernel, x: Array, shape: tuple[int, ...], out: Array | None) -> Array:
    """Apply `kernel` to `x` in that shape, and return `out` holding the result, or a new array."""
    result = _result(x, out)
    _run_in_blocks(kernel, result.reshape(shape), x.reshape(shape))
    if out is None or out is result:
        return result
    out[...] = result
    return out


@np.errstate(all="ignore")
def _run_in_blocks(kernel: Kernel, result: Array, *operands: Array) -> None:
    """Call ``kernel(*operands, result)`` on one cache-sized block of the first axis after the other.

    Blocks of float16 are lent to the kernel as float32. Floating-point warnings are off: kernels meet inf on purpose.
    """
    if operands[0].size == 0:
        return
    dtype = np.promote_types(result.dtype, np.float32)
    step = max(1, _BLOCK // math.prod(operands[0].shape[1:]))
    if len(result) <= step and result.dtype == dtype:
        kernel(*operands, result)  # nothing to lend
        return
    for start in range(0, len(result), step):
        block = slice(start, start + step)
        target = result[block]
        y = target if target.dtype == dtype else np.empty(target.shape, dtype)
        kernel(*(operand[block].astype(dtype, copy=False) for operand in operands), y)
        if y is not target:
            target[...] = y
