"""kl_divergence: by hand, its contract, against SciPy, a law, the edges."""

from __future__ import annotations

import itertools

import mpmath
import numpy as np
import pytest
from oracles import COUNTS, LOGITS, SOFTMAX
from scipy.special import rel_entr, softmax

from kl_divergence import kl_divergence
from shared.testing.checks import assert_close, expect_error, unchanged


@pytest.mark.grades("kl_divergence")
def test_kl_by_hand():
    """p = (1, 2, 5)/8 against q = (4, 3, 1)/8, and (2, 2, 6)/10 against (3, 1, 1)/5."""
    p, q = SOFTMAX[[0, 2]], SOFTMAX[[1, 3]]
    expected = (p * np.log(p / q)).sum(axis=1)
    with unchanged(LOGITS):
        got = kl_divergence(LOGITS[[0, 2]], LOGITS[[1, 3]])
    cross = -(p * np.log(q)).sum(axis=1)
    assert_close(
        got,
        expected,
        mistakes={
            "p and q are exchanged: this is KL(q ‖ p)": (q * np.log(q / p)).sum(axis=1),
            "this is the cross-entropy: the entropy of p is not subtracted": cross,
            "the softmax is missing": (COUNTS[[0, 2]] * np.log(p / q)).sum(axis=1),
            "the sign: KL is never negative": -expected,
            "the logarithm has base 2; the divergence is in nats": expected / np.log(2),
            "summed over the classes, not averaged": expected / 3,
        },
    )


@pytest.mark.grades("kl_divergence")
def test_kl_contract():
    """Shapes must agree, there must be a class; the common dtype stays."""
    half, single, double = np.float16, np.float32, np.float64
    for p, q, wanted in (
        (half, half, half),
        (half, single, single),
        (single, single, single),
        (single, double, double),
        (double, single, double),
        (np.uint8, single, double),
        (np.bool_, np.bool_, double),
    ):
        got = np.asarray(kl_divergence(LOGITS.astype(p), LOGITS[::-1].astype(q))).dtype
        assert got == wanted, f"{np.dtype(p)} and {np.dtype(q)} logits give {got}"
    with expect_error(ValueError, "(4, 3)", "(3,)", otherwise="logits of another shape are broadcast"):
        kl_divergence(LOGITS, LOGITS[0])
    for shape, axis in (((2, 0), 1), ((2, 0), -1), ((0, 2), 0), ((4, 3), 2), ((4, 3), -3), ((), -1)):
        with expect_error(
            ValueError, str(shape), otherwise=f"there is no class along axis {axis} of {shape}"
        ):
            kl_divergence(np.zeros(shape), np.zeros(shape), axis=axis)
    for name, bad in itertools.product(("p_logits", "q_logits"), (1j * LOGITS, LOGITS.astype(object))):
        arguments = {"p_logits": LOGITS, "q_logits": LOGITS} | {name: bad}
        with expect_error(TypeError, name, otherwise=f"{name} of {bad.dtype} must be refused"):
            kl_divergence(**arguments)


@pytest.mark.grades("kl_divergence")
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_kl_in_half_and_single_precision(dtype, rng):
    """Of many classes each adds little; 150,000 exponentials add up to more than the largest float16, 65504."""
    shape = (2, 2, 150_000 if dtype == np.float16 else 5000)
    p, q = ((0.1 if dtype == np.float16 else 1.0) * rng.standard_normal(shape)).astype(dtype)
    expected = rel_entr(*(softmax(a.astype(np.float64), axis=-1) for a in (p, q))).sum(axis=-1)
    assert_close(kl_divergence(p, q), expected, dtype=dtype, hint="compute float16 in float32")


@pytest.mark.grades("kl_divergence")
def test_kl_of_integers_and_of_one_class():
    """uint8 differences must not wrap around, and one class leaves nothing to tell apart."""
    p, q = np.array([[0, 250, 249]], np.uint8), np.array([[3, 1, 0]], np.uint8)
    probabilities = softmax(p.astype(np.float64), axis=-1), softmax(q.astype(np.float64), axis=-1)
    expected = rel_entr(*probabilities).sum(axis=-1)
    assert_close(
        kl_divergence(p, q), expected, hint="convert integers to float64 first: unsigned ones wrap around"
    )
    one = np.array([[1.0], [-2.0]])
    assert_close(
        kl_divergence(one, 3 * one), np.zeros(2), atol=1e-15, vacuous_ok="the law is that it is zero"
    )


@pytest.mark.grades("kl_divergence")
@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_kl_equals_scipy(axis, rng):
    """Along any axis, against SciPy's relative entropy."""
    p, q = rng.standard_normal((2, 3, 4, 5))
    assert_close(
        kl_divergence(p, q, axis=axis),
        rel_entr(softmax(p, axis=axis), softmax(q, axis=axis)).sum(axis=axis),
        rtol=1e-12,
        hint="axis is ignored",
    )
    assert_close(
        kl_divergence(p[0, 0], q[0, 0]), rel_entr(softmax(p[0, 0]), softmax(q[0, 0])).sum(), rtol=1e-12
    )


@pytest.mark.grades("kl_divergence")
def test_kl_of_the_same_distribution():
    """Zero for p = q, also when the logits differ by a constant."""
    assert_close(
        kl_divergence(LOGITS, LOGITS + np.array([[1.0], [-5.0], [100.0], [0.0]])),
        np.zeros(4),
        atol=1e-13,
        vacuous_ok="the law is that it is zero",
    )


@pytest.mark.grades("kl_divergence")
@pytest.mark.parametrize("step", [2.0**-6, 2.0**-10])
def test_kl_of_nearly_the_same_distribution(step, rng):
    """In float32 p·log(p/q) is ±step and rounds at 1e-7, but the sum is step²: its terms must not cancel."""
    p = rng.integers(-8, 8, (5, 10)) / 4
    q = p + step * rng.integers(-2, 3, (5, 10))  # both are exact in float32
    with mpmath.workdps(40):
        expected = np.array([float(exact_kl(*rows)) for rows in zip(p, q, strict=True)])
    got = kl_divergence(p.astype(np.float32), q.astype(np.float32))
    eps = float(np.finfo(np.float32).eps)
    assert_close(
        got,
        expected,
        dtype=np.float32,
        rtol=16 * eps / step,  # a logarithm of size step has that error, relative to itself
        atol=0.0,
        hint="p log(p/q) adds up to nearly 0 from both sides: add q - p to each term, then none is negative",
    )


def exact_kl(p, q):
    """KL of two rows of logits, in the precision that mpmath is set to."""
    p, q = ([mpmath.exp(value) for value in row] for row in (p, q))
    return sum(a / sum(p) * mpmath.log(a / sum(p) * sum(q) / b) for a, b in zip(p, q, strict=True))


@pytest.mark.grades("kl_divergence")
def test_kl_edges():
    """Exact at ±1e4; masked classes contribute nothing; an impossible event costs inf; a rare one counts."""
    p = np.array([[1e4, 0.0, -1e4], [0.0, 0.0, -np.inf], [0.0, 0.0, -np.inf], [0.0, 1.0, 0.0]])
    q = np.array([[0.0, 1e4, -1e4], [0.0, -np.inf, 0.0], [0.0, np.log(3.0), -np.inf], [0.0, np.nan, 0.0]])
    assert_close(
        kl_divergence(p, q),
        np.array([1e4, np.inf, 0.5 * np.log(4 / 3), np.nan]),
        hint="stay in the log: softmax underflows, its log is -inf, and 0 · (-inf) is NaN but contributes 0",
    )
    rare = 1 / (1 + np.exp(20.0))  # p of the second class, which q all but excludes
    assert_close(
        kl_divergence(np.array([0.0, -20.0]), np.array([0.0, -1e4])),
        rare * (np.log(rare) + 1e4) + (1 - rare) * np.log1p(-rare),
        rtol=1e-9,
        hint="a class of small probability is dropped",
    )
