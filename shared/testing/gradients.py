"""Gradients from the function alone: two independent oracles for a vector-Jacobian product.

Both return the gradient of ``sum(cotangent * function(x))``. The cotangent is random, because a sum (all ones) cannot
see a transposed or row-shifted gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.testing.checks import Mistakes, assert_close

Function = Callable[[NDArray[Any]], Any]


def random_cotangent(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
    """Return float64 values of both signs with magnitudes in [0.5, 2), so that no entry hides an error."""
    signs: NDArray[np.float64] = rng.choice([-1.0, 1.0], shape)
    return rng.uniform(0.5, 2.0, shape) * signs


def complex_step(
    function: Function, x: NDArray[Any], cotangent: NDArray[Any], *, h: float = 1e-20
) -> NDArray[np.float64]:
    """Differentiate by one complex step: ``Im(sum(cotangent * f(x + i·h·e))) / h`` for each entry.

    No difference of nearby numbers is taken, so the result is right to rounding. `function` must be analytic and
    accept complex input (no ``abs``, ``max``, comparisons or conjugates on the way).

    Source: Squire and Trapp, "Using Complex Variables to Estimate Derivatives of Real Functions", SIAM Review 1998.
    """
    point = np.array(x, dtype=np.complex128)
    gradient = np.empty(point.shape)
    for index in np.ndindex(point.shape):
        saved = point[index]
        point[index] = saved + 1j * h
        gradient[index] = np.sum(cotangent * np.asarray(function(point))).imag / h
        point[index] = saved
    return gradient


def central_differences(
    function: Function, x: NDArray[Any], cotangent: NDArray[Any], *, h: float | None = None
) -> NDArray[np.float64]:
    """Differentiate by the fourth-order stencil ``(8(f₁ - f₋₁) - (f₂ - f₋₂)) / 12h`` in float64 for each entry.

    The default step is ``1e-3·max(1, |x|)``: truncation h⁴ ≈ 1e-12 and rounding eps/h ≈ 1e-13 meet near there. Keep
    inputs more than two steps away from a kink.
    """
    point = np.array(x, dtype=np.float64)
    gradient = np.empty(point.shape)
    for index in np.ndindex(point.shape):
        saved = float(point[index])
        step = 1e-3 * max(1.0, abs(saved)) if h is None else h
        values = []
        for k in (-2, -1, 1, 2):
            point[index] = saved + k * step
            values.append(np.array(function(point), dtype=np.float64))
        point[index] = saved
        slope = (8 * (values[2] - values[1]) - (values[3] - values[0])) / (12 * step)
        gradient[index] = np.sum(cotangent * slope)
    return gradient


def assert_gradient(
    actual: Any,
    function: Function,
    x: NDArray[Any],
    cotangent: NDArray[Any],
    *,
    method: str = "central",
    rtol: float | None = None,
    what: str = "gradient",
    mistakes: Mistakes | None = None,
    hint: str | None = None,
) -> None:
    """Assert that `actual` is the gradient of ``sum(cotangent * function(x))``.

    `method` is ``"complex"`` (rtol 1e-12) or ``"central"`` (rtol 1e-6); the tolerance is relative to the largest
    entry as well, since a gradient entry near zero is a sum that cancelled.
    """
    __tracebackhide__ = True
    oracle = {"complex": complex_step, "central": central_differences}[method]
    default = {"complex": 1e-12, "central": 1e-6}[method]
    assert_close(
        actual,
        oracle(function, x, cotangent),
        rtol=default if rtol is None else rtol,
        what=what,
        mistakes=mistakes,
        hint=hint,
    )
