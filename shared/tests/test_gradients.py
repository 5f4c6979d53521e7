"""The two gradient oracles against derivatives known in closed form, and the errors they must see."""

import numpy as np
import pytest

from shared.testing.gradients import assert_gradient, central_differences, complex_step, random_cotangent

RNG = np.random.default_rng(0)
X = RNG.normal(size=(3, 4))
W = RNG.normal(size=(5, 4))
COTANGENT = random_cotangent((3, 5), RNG)


def linear_tanh(x):
    return np.tanh(x @ W.T)


EXACT = (COTANGENT * (1 - np.tanh(X @ W.T) ** 2)) @ W


def test_complex_step_is_right_to_rounding():
    np.testing.assert_allclose(complex_step(linear_tanh, X, COTANGENT), EXACT, rtol=1e-14, atol=1e-14)


def test_central_differences_are_right_to_nine_digits():
    np.testing.assert_allclose(central_differences(linear_tanh, X, COTANGENT), EXACT, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shape", [(), (1,), (2, 1, 3), (0, 4)])
def test_any_shape(shape):
    x, cotangent = RNG.normal(size=shape), random_cotangent(shape, RNG)
    for oracle in (complex_step, central_differences):
        np.testing.assert_allclose(oracle(np.sin, x, cotangent), cotangent * np.cos(x), rtol=1e-9)


def test_a_relative_error_of_a_millionth_is_caught_by_the_complex_step():
    assert_gradient(EXACT, linear_tanh, X, COTANGENT, method="complex")
    planted = EXACT.copy()
    planted[1, 2] *= 1 + 1e-6
    with pytest.raises(AssertionError, match=r"\[1, 2\]"):
        assert_gradient(planted, linear_tanh, X, COTANGENT, method="complex")


def test_a_permuted_gradient_is_caught():
    with pytest.raises(AssertionError, match="rows swapped"):
        assert_gradient(EXACT[::-1], linear_tanh, X, COTANGENT, mistakes={"rows swapped": EXACT[::-1]})


def test_the_cotangent_hides_nothing():
    cotangent = random_cotangent((1000,), RNG)
    assert np.abs(cotangent).min() >= 0.5
    assert 400 < (cotangent > 0).sum() < 600


def test_the_input_is_left_alone():
    before = X.copy()
    complex_step(linear_tanh, X, COTANGENT)
    central_differences(linear_tanh, X, COTANGENT)
    np.testing.assert_array_equal(X, before)
