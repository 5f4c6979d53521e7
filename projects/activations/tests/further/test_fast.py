"""fast.py: what it has more than the core, float16, strides, sizes, empty input, axes, and ``out``.

test_fast_as_core.py runs the tests of the core on it, test_fast_extremes.py has extreme numbers and gradients.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from fast_oracles import (
    EVERY,
    MORE,
    ORACLES,
    UNARY,
    WITH_AXIS,
    WITH_OUT,
    arguments,
    check,
    mistakes,
)

import fast
from shared.testing.checks import assert_close, expect_error, unchanged

pytestmark = pytest.mark.module("fast")

# --- 1. the contract: what goes in, what comes out ----------------------------------------------------------


@pytest.mark.parametrize("function", MORE)
def test_shape_and_dtype(function, rng):
    """float64 in, float64 out, one number per number (one per row for logsumexp)."""
    x = rng.uniform(-3, 3, (3, 5))
    result = np.asarray(getattr(fast, function)(*arguments(function, x)))
    shape = (3,) if function == "logsumexp" else (3, 5)
    assert result.shape == shape, f"{function} of shape (3, 5) must have shape {shape}, got {result.shape}"
    assert result.dtype == np.float64, f"{function} of float64 must be float64, got {result.dtype}"


@pytest.mark.parametrize("function", MORE)
def test_input_is_not_modified(function, rng):
    """The caller still needs its array: also where the dtype would let you work in place."""
    for dtype in (np.float32, np.float64):
        inputs = arguments(function, rng.uniform(-3, 3, (3, 5)).astype(dtype))
        with unchanged(*inputs):
            getattr(fast, function)(*inputs)


@pytest.mark.parametrize("function", MORE)
def test_refuses_complex_and_object(function):
    """No order, no maximum: an array that is not real raises TypeError."""
    for dtype in (np.complex64, object):
        name = np.dtype(dtype).name
        x = np.array([[0.5, 0.25], [0.5, 0.75]], dtype)
        with expect_error(TypeError, name, otherwise=f"{function} accepts dtype {name}"):
            getattr(fast, function)(x)


# --- 2. worked by hand --------------------------------------------------------------------------------------

LOG_1_2_5 = np.log([1.0, 2.0, 5.0])
BY_HAND = {
    "tanh": ([-math.log(2), 0, math.log(3)], [-3 / 5, 0, 4 / 5]),
    "leaky_relu": ([-2, 0, 3], [-0.02, 0, 3]),
    "silu": ([-math.log(3), 0, math.log(3)], [-math.log(3) / 4, 0, math.log(3) * 3 / 4]),
    "logsumexp": (LOG_1_2_5, math.log(8)),
    "tanh_grad": ([-math.log(2), 0, math.log(3)], [16 / 25, 1, 9 / 25]),
    "leaky_relu_grad": ([-2, 0, 3], [0.01, 0.01, 1]),
    "gelu_grad": ([-1, 0, 1], [-0.08331547058768628, 0.5, 1.0833154705876864]),  # Φ(1) ± φ(1)
    "silu_grad": ([-math.log(3), 0], [(1 - math.log(3) * 3 / 4) / 4, 1 / 2]),
}


@pytest.mark.parametrize("function", list(BY_HAND))
def test_worked_by_hand(function):
    """The values that pencil and paper give."""
    x, expected = BY_HAND[function]
    x = np.array(x, np.float64)
    kink = "at the kink x = 0 the derivative of the negative side counts, by convention"
    assert_close(
        getattr(fast, function)(x),
        np.array(expected, np.float64),
        what=f"{function}({np.array2string(x, precision=4)})",
        mistakes=mistakes(function, x),
        hint=kink if function == "leaky_relu_grad" else None,
    )


# --- 3. everything, compared --------------------------------------------------------------------------------


@pytest.mark.parametrize("function", EVERY)
def test_matches_the_oracle(function, rng):
    """Random matrices in each float dtype; the result keeps the dtype."""
    x = rng.normal(0, 2, (13, 37))
    check(function, x)
    check(function, x.astype(np.float32))
    narrow = "compute and sum float16 in float32, and round once at the end"
    check(function, x.astype(np.float16), hint=narrow)


@pytest.mark.parametrize("function", MORE)
def test_integers_become_float64(function):
    """Integers are converted before any arithmetic: a uint8 that is subtracted from wraps around."""
    hint = "convert integers to float64 before any arithmetic: unsigned ones wrap around"
    for dtype in (np.bool_, np.int8, np.uint8, np.int64):
        x = np.array([[0, 1, 3], [7, 2, 5]]).astype(dtype)
        check(function, x, dtype=np.float64, what=f"{function} of {np.dtype(dtype).name}", hint=hint)


@pytest.mark.grades("softmax_backward")
def test_softmax_backward_promotes():
    """Integers become float64, and the wider of two float dtypes counts."""
    y, grad_y = np.array([1, 0, 0]), np.array([2, 5, 3])
    result = np.asarray(fast.softmax_backward(y, grad_y))
    assert result.dtype == np.float64, f"integers must give float64, got {result.dtype}"
    y, grad_y = np.array([0.25, 0.75]), np.array([1.0, -1.0])
    for kinds in ((np.float32, np.float64), (np.float64, np.float32)):
        mixed = fast.softmax_backward(y.astype(kinds[0]), grad_y.astype(kinds[1]))
        names = " and ".join(np.dtype(kind).name for kind in kinds)
        assert_close(mixed, np.array([0.375, -0.375]), what=f"softmax_backward of {names}")


@pytest.mark.grades("softmax_backward")
def test_softmax_backward_names_the_shapes():
    """Shapes that differ are an error that names them, also where the number of elements is the same."""
    for other in ((3,), (3, 2)):
        with expect_error(
            ValueError, "(2, 3)", str(other), otherwise=f"softmax_backward takes {other} for (2, 3)"
        ):
            fast.softmax_backward(np.full((2, 3), 1 / 3), np.ones(other))


@pytest.mark.parametrize("function", ["leaky_relu", "leaky_relu_grad"])
@pytest.mark.parametrize("negative_slope", [0.3, 2.0, -0.5])
def test_negative_slope(function, negative_slope, rng):
    """Any slope, also one above 1, where max(x, slope·x) picks the wrong side."""
    x = rng.normal(0, 2, (5, 9))
    with_max = (lambda: np.maximum(x, negative_slope * x)) if function == "leaky_relu" else np.zeros(())
    assert_close(
        getattr(fast, function)(x, negative_slope=negative_slope),
        ORACLES[function](x, negative_slope=negative_slope),
        what=f"{function}(x, negative_slope={negative_slope})",
        mistakes={
            **mistakes(function, x, negative_slope=negative_slope),
            "looks like max(x, slope·x), which is right for slopes of 0 to 1 only": with_max,
        },
    )


@pytest.mark.parametrize("function", ["gelu", "gelu_grad"])
def test_approximate(function, rng):
    """approximate="tanh" is the other formula, and a misspelt name is an error."""
    check(function, rng.normal(0, 2, (5, 9)), approximate="tanh")
    with expect_error(ValueError, "tahn", otherwise=f"{function} accepts approximate='tahn'"):
        getattr(fast, function)(np.ones(3), approximate="tahn")


@pytest.mark.parametrize("function", WITH_AXIS)
def test_any_axis(function, rng):
    """Every axis of a rank-3 array, counted from either end."""
    x = rng.normal(0, 2, (3, 4, 5))
    for axis in (0, 1, 2, -1, -2, -3):
        check(function, x, axis=axis)


@pytest.mark.parametrize("function", WITH_AXIS)
def test_bad_axis(function):
    """An axis that does not exist is a ValueError that names it; a tuple or a float is a TypeError."""
    inputs = arguments(function, np.zeros((2, 3)))
    call = getattr(fast, function)
    for axis in (2, -3):
        with expect_error(ValueError, str(axis), otherwise=f"{function} accepts axis {axis} of a matrix"):
            call(*inputs, axis=axis)
    for wrong in ((0, 1), 1.0):
        with expect_error(
            TypeError, otherwise=f"{function} accepts axis={wrong!r}; one integer is asked for"
        ):
            call(*inputs, axis=wrong)


# --- 4. shapes, strides, out --------------------------------------------------------------------------------


@pytest.mark.parametrize("function", UNARY)
def test_scalars_and_lists(function):
    """A number has rank 0 and counts as one class; nested lists are arrays."""
    check(
        function,
        np.array([[0.5, -1.5], [2.0, 0.25]]).tolist(),
        dtype=np.float64,
        what=f"{function} of a list",
    )
    result = np.asarray(getattr(fast, function)(0.75))
    assert result.shape == (), f"{function}(0.75) must have rank 0, got shape {result.shape}"
    expected = ORACLES[function](np.array([0.75]))
    one_class = "with one class softmax is 1 and its logarithm 0"
    assert_close(result, np.reshape(expected, ()), what=f"{function}(0.75)", vacuous_ok=one_class)


@pytest.mark.parametrize("function", EVERY)
def test_empty(function):
    """Nothing in, nothing out, and no error."""
    for shape in ((0,), (0, 3), (2, 0, 4)):
        result = np.asarray(getattr(fast, function)(*arguments(function, np.zeros(shape, np.float32))))
        wanted = shape[:-1] if function == "logsumexp" else shape
        assert result.shape == wanted, (
            f"{function} of shape {shape} must have shape {wanted}, got {result.shape}"
        )
        assert result.dtype == np.float32, f"{function} of empty float32 must be float32, got {result.dtype}"


@pytest.mark.parametrize("function", WITH_AXIS)
def test_axis_of_size_zero(function):
    """Rows without classes: an empty result, and -inf as the logarithm of an empty sum."""
    x = np.zeros((3, 0, 2))
    inputs = (x, x) if function == "softmax_backward" else (x,)
    result = np.asarray(getattr(fast, function)(*inputs, axis=1))
    expected = np.full((3, 2), -np.inf) if function == "logsumexp" else x
    assert result.shape == expected.shape, f"{function} of (3, 0, 2) over axis 1 has shape {result.shape}"
    same = np.array_equal(result, expected)
    assert same, "logsumexp of nothing is log(0) = -inf"


@pytest.mark.parametrize("function", EVERY)
def test_any_strides(function, rng):
    """Views: every other column, reversed, transposed, Fortran order, broadcast."""
    base = rng.normal(0, 2, (6, 10))
    views = (
        base[:, ::2],
        base[::-1, ::-1],
        base.T,
        np.asfortranarray(base),
        np.broadcast_to(base[0], (4, 10)),
    )
    for x in views:
        inputs = arguments(function, x)
        doubles = [np.ascontiguousarray(a) for a in inputs]
        assert_close(
            getattr(fast, function)(*inputs),
            ORACLES[function](*doubles),
            n=x.shape[-1],
            what=f"{function} of a view with strides {x.strides}",
            mistakes=mistakes(function, *doubles),
            vacuous_ok="its rows are equal, those of the other views are not" if 0 in x.strides else None,
        )


@pytest.mark.parametrize("function", EVERY)
def test_byte_swapped_arrays(function, rng):
    """Numbers from a file of another machine: the same values, and the result is in this machine's byte order."""
    for dtype in (np.float16, np.float32, np.float64):
        x = rng.normal(0, 2, (3, 5)).astype(dtype)
        swapped = x.astype(x.dtype.newbyteorder())
        check(function, swapped, hint="the bytes are read in the wrong order")
        result = np.asarray(getattr(fast, function)(*arguments(function, swapped)))
        assert result.dtype.isnative, (
            f"{function} of byte-swapped {np.dtype(dtype).name} must be in native byte order"
        )


@pytest.mark.parametrize("function", EVERY)
def test_large_and_odd_sizes(function, rng):
    """More numbers than any block holds, and a last block that is not full; one row that is longer than a block."""
    for shape in ((7919, 13), (3, 70_001)):
        if function == "softmax_backward" and shape[1] > 1000:
            continue  # its oracle builds a Jacobian of n²
        check(function, rng.normal(0, 2, shape).astype(np.float32))


@pytest.mark.parametrize("function", WITH_OUT)
@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_out(function, dtype, rng):
    """The result is written into out, which is returned; out may be x itself, a view, or overlap x."""
    buffer = rng.normal(0, 2, (9, 8)).astype(dtype)
    x = buffer[:-1].copy()
    call = getattr(fast, function)
    expected = np.asarray(call(x))
    targets = {
        "another array": (x.copy(), np.full((8, 8), np.nan, dtype)),
        "a strided view": (x.copy(), np.full((8, 16), np.nan, dtype)[:, ::2]),
        "a transposed view": (x.copy(), np.full((8, 8), np.nan, dtype).T),
        "overlapping x by all but a row": (buffer[:-1], buffer[1:]),
    }
    for where, (source, out) in targets.items():
        result = call(source, out=out)
        assert result is out, f"{function}(x, out=out) must return out itself ({where})"
        why = ": is x read after out is written?" if "overlapping" in where else ""
        same = np.array_equal(out, expected)
        assert same, f"{function}(x, out=out) must write the result into out ({where}){why}"
    result = call(x, out=x)
    assert result is x, f"{function}(x, out=x) must return x"
    same = np.array_equal(x, expected)
    assert same, f"{function}(x, out=x) differs from {function}(x): is x read after out is written?"


@pytest.mark.parametrize("function", WITH_OUT)
def test_out_that_overlaps_a_large_input(function, rng):
    """More numbers than any block holds: what is written must not be read later."""
    buffer = rng.normal(0, 2, (60_001, 10))
    expected = np.asarray(getattr(fast, function)(buffer[:-1].copy()))
    result = getattr(fast, function)(buffer[:-1], out=buffer[1:])
    same = np.array_equal(result, expected)
    assert same, f"{function}(x, out=out) where out overlaps x: is x read after out is written?"
    x = rng.normal(0, 2, (60_000, 10))
    expected = np.asarray(getattr(fast, function)(x.copy()))
    same = np.array_equal(getattr(fast, function)(x, out=x), expected)
    assert same, f"{function}(x, out=x) of a large array: is x read after out is written?"


@pytest.mark.grades("softmax")
def test_in_place_with_rows_that_overflow():
    """exp overflows where a row was not shifted: x must still be there for a second try."""
    x = np.array([[1e4, 1e4 + 1, 0], [0.5, -1, 2], [-1e4, -1e4 + 2, -2e4]])
    expected = ORACLES["softmax"](x)
    out = fast.softmax(x, out=x)
    assert out is x, "softmax(x, out=x) must return x"
    assert_close(x, expected, n=3, what="softmax(x, out=x)", hint="is x read after out is written?")


@pytest.mark.parametrize("function", WITH_OUT)
def test_out_must_fit(function):
    """Another shape is a ValueError, another dtype a TypeError: neither broadcast nor cast."""
    x = np.array([[0.5, 1.5, 2.0], [1.0, 0.0, 3.0]], np.float32)
    call = getattr(fast, function)
    for shape in ((3,), (2, 1), (2, 2, 3), (3, 2)):
        with expect_error(
            ValueError, str(shape), otherwise=f"{function} accepts out of shape {shape} for {x.shape}"
        ):
            call(x, out=np.empty(shape, np.float32))
    for dtype in (np.float64, np.float16):
        name = np.dtype(dtype).name
        with expect_error(
            TypeError, name, otherwise=f"{function} accepts out of dtype {name} for a float32 result"
        ):
            call(x, out=np.empty(x.shape, dtype))
    with expect_error(TypeError, "list", otherwise=f"{function} accepts a list as out"):
        call(x, out=[[0.0] * 3] * 2)
    integers = np.array([[1, 2, 3]])
    out = np.empty(integers.shape)
    assert call(integers, out=out) is out, "integers give float64, so a float64 out fits"
