"""kl_divergence: by hand, its contract, against SciPy, a law, the edges."""

from __future__ import annotations

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
    for p, q, wanted in ((np.float16, np.float16, np.float16), (np.float32, np.float64, np.float64)):
        got = np.asarray(kl_divergence(LOGITS.astype(p), LOGITS[::-1].astype(q))).dtype
        assert got == wanted, f"{np.dtype(p)} and {np.dtype(q)} logits give {got}"
    with expect_error(ValueError, "(4, 3)", "(3,)", otherwise="logits of another shape are broadcast"):
        kl_divergence(LOGITS, LOGITS[0])
    with expect_error(ValueError, otherwise="at least one class is needed"):
        kl_divergence(np.zeros((2, 0)), np.zeros((2, 0)))
    with expect_error(TypeError, otherwise="complex logits must be refused"):
        kl_divergence(LOGITS, 1j * LOGITS)


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
