"""Learned positions, rotations, ALiBi.

Oracles: values worked by hand, complex multiplication, laws.
"""

import math

import numpy as np
import pytest
import torch
from oracles import gradients, normal, randomised

import positions
from shared.testing.checks import assert_close, assert_imports_only, expect_error, unchanged


@pytest.mark.grades
def test_positions_imports():
    """The module uses torch, nothing else."""
    assert_imports_only(positions, {"torch"})


@pytest.mark.grades("LearnedEncoding")
def test_learned_encoding(generator):
    """Row t is added to token t; gradients reach the rows that were used, summed over the batch."""
    torch.manual_seed(0)
    encoding = positions.LearnedEncoding(6, 3)
    names = {name: tuple(p.shape) for name, p in encoding.named_parameters()}
    assert names == {"weight": (6, 3)}, f"the parameter is weight (n_positions, d_model), got {names}"
    table = encoding.weight.detach()
    assert 0.005 < table.std() < 0.05, f"rows start with a standard deviation of 0.02, got {table.std():.3g}"
    encoding = randomised(encoding, generator)
    x = normal(2, 4, 3, generator=generator)
    with unchanged(x):
        y = encoding(x)
    rows = encoding.weight.detach().numpy()
    mistakes = {
        "the last rows of the table are used: token t gets row t": x.numpy() + rows[2:],
        "the encoding is returned, not added": np.broadcast_to(rows[:4], (2, 4, 3)),
        "x is returned as it is": x,
    }
    assert_close(y, x + encoding.weight.detach()[:4], rtol=1e-12, what="learned encoding", mistakes=mistakes)
    cotangent = normal(2, 4, 3, generator=generator)
    (gradient,) = gradients(y, (encoding.weight,), cotangent)
    expected = torch.cat((cotangent.sum(0), torch.zeros(2, 3, dtype=torch.float64)))
    assert_close(gradient, expected, rtol=1e-12, what="gradient of the table")
    assert_close(encoding(x[0]), y[0].detach(), rtol=1e-12, what="learned encoding of one sequence")
    assert_close(
        encoding(torch.zeros(2, 6, 3, dtype=torch.float64))[1],
        encoding.weight.detach(),
        what="learned encoding of as many tokens as there are rows",
    )


@pytest.mark.grades("LearnedEncoding")
def test_learned_encoding_errors():
    """There is no row for a position that was never learned."""
    encoding = positions.LearnedEncoding(6, 3)
    with expect_error(ValueError, "6", "7", otherwise="more tokens than learned positions are accepted"):
        encoding(torch.ones(2, 7, 3))
    with expect_error(ValueError, "(2, 4, 1)", otherwise="another last axis is accepted and broadcast"):
        encoding(torch.ones(2, 4, 1))
    with expect_error(ValueError, "(3,)", otherwise="x without a sequence axis is accepted"):
        encoding(torch.ones(3))


def rotated_by_complex(x, at, base=10000.0):
    """Rotate (..., T, d) NumPy float64 by complex multiplication."""
    half = x.shape[-1] // 2
    turn = np.exp(1j * np.asarray(at)[..., None] * base ** (-np.arange(half) / half))
    z = (x[..., :half] + 1j * x[..., half:]) * turn
    return np.concatenate([z.real, z.imag], axis=-1)


@pytest.mark.grades("rotary")
def test_rotary_by_hand():
    """Position 1 turns the pair (1, 3) by one radian, the pair (2, 4) by 1/100."""
    x, position = np.array([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([1])
    c, s, c2, s2 = math.cos(1), math.sin(1), math.cos(0.01), math.sin(0.01)
    right = [[c - 3 * s, 2 * c2 - 4 * s2, 3 * c + s, 4 * c2 + 2 * s2]]
    mistakes = {
        "neighbours are paired (interleaved): feature i belongs to feature i + d_head/2": [
            [c - 2 * s, 2 * c + s, 3 * c2 - 4 * s2, 4 * c2 + 3 * s2]
        ],
        "rotated backwards: x cos - y sin, y cos + x sin": [
            [c + 3 * s, 2 * c2 + 4 * s2, 3 * c - s, 4 * c2 - 2 * s2]
        ],
        "the positions given are ignored: counted from zero": x,
        "positions are counted from 1: use those that are given": rotated_by_complex(x, [2]),
        "the exponent is i / d_head, not 2i / d_head": [
            [
                c - 3 * s,
                2 * math.cos(0.1) - 4 * math.sin(0.1),
                3 * c + s,
                4 * math.cos(0.1) + 2 * math.sin(0.1),
            ]
        ],
        "a sign is wrong: the length of a pair must stay": [
            [c - 3 * s, 2 * c2 - 4 * s2, 3 * c - s, 4 * c2 - 2 * s2]
        ],
    }
    expected = torch.tensor(right, dtype=torch.float64)
    assert_close(
        positions.rotary(torch.from_numpy(x), position),
        expected,
        rtol=1e-12,
        what="rotary",
        mistakes=mistakes,
    )


@pytest.mark.grades("rotary")
@pytest.mark.parametrize("base", [10000.0, 500000.0, 10.0])
@pytest.mark.parametrize("kind", ["gaps", "fractions", "per sequence"])
def test_rotary_equals_complex_multiplication(base, kind, rng):
    """Any positions, any base, any leading axes."""
    x = rng.normal(size=(2, 3, 5, 8))
    at = {
        "gaps": rng.choice(1000, 5, replace=False),
        "fractions": rng.uniform(0, 50, 5),
        "per sequence": rng.integers(0, 100, (2, 1, 5)),
    }[kind]
    counted = rotated_by_complex(x, np.arange(5), base)
    mistakes = {
        "the positions given are ignored: counted from zero": counted,
        "base is ignored": rotated_by_complex(x, at),
        "positions are counted backwards": rotated_by_complex(x, -at, base),
    }
    with unchanged(x):
        got = positions.rotary(torch.from_numpy(x), torch.from_numpy(at), base=base)
    expected = torch.from_numpy(rotated_by_complex(x, at, base))
    assert_close(got, expected, rtol=1e-11, what="rotary", mistakes=mistakes)


@pytest.mark.grades("rotary")
def test_rotary_relative_position_law(rng):
    """⟨rotary(q, m), rotary(k, n)⟩ depends on m - n only: to 1e-6 in float32, up to position 16 000."""
    q, k = (torch.from_numpy(v / np.linalg.norm(v)).float() for v in rng.normal(size=(2, 1, 64)))
    shifts = torch.arange(0, 16_001, 500)
    for distance in (1, 7, 100):
        queries = positions.rotary(q.expand(len(shifts), 64), shifts + distance)
        products = (queries * positions.rotary(k.expand(len(shifts), 64), shifts)).sum(-1)
        spread = (products - products[0]).abs().max().item()
        assert spread < 1e-6, (
            "the product of a rotated query and a rotated key must depend on the distance only: "
            f"at distance {distance} it varies by {spread:.1e}. Angles in float32 do that: compute them in float64"
        )
    near, far = (float((positions.rotary(q, torch.tensor([m])) * k).sum()) for m in (1, 40))
    assert abs(near - far) > 1e-3, "the product does not depend on the distance at all"


@pytest.mark.grades("rotary")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_rotary_dtypes(dtype, rng):
    """The dtype comes back, rounded once; positions that bfloat16 cannot hold stay exact."""
    x, at = torch.from_numpy(rng.normal(size=(3, 20))).to(dtype), np.array([257, 1001, 4099])
    expected = rotated_by_complex(x.double().numpy(), at)
    hint = f"rotate in float32 with angles in float64, then round to {dtype}"
    rtol = (0.55 if dtype != torch.float32 else 4) * torch.finfo(dtype).eps  # half types: rounded once
    assert_close(
        positions.rotary(x, torch.from_numpy(at)),
        torch.from_numpy(expected),
        dtype=dtype,
        rtol=rtol,
        atol=1e-6,
        what="rotary",
        hint=hint,
    )


@pytest.mark.grades("rotary")
def test_rotary_gradient(rng):
    """The gradient is the cotangent rotated back."""
    x = torch.from_numpy(rng.normal(size=(2, 5, 6))).requires_grad_()
    cotangent, at = rng.normal(size=(2, 5, 6)), np.array([3, 1, 4, 15, 9])
    (gradient,) = gradients(positions.rotary(x, torch.from_numpy(at)), (x,), torch.from_numpy(cotangent))
    expected = torch.from_numpy(rotated_by_complex(cotangent, -at))
    assert_close(gradient, expected, rtol=1e-11, what="gradient of rotary")


@pytest.mark.grades("rotary")
def test_rotary_errors():
    """An odd head has a feature without a partner; one position is not broadcast to all tokens."""
    with expect_error(ValueError, "(4, 7)", otherwise="an odd d_head is accepted"):
        positions.rotary(torch.ones(4, 7), torch.arange(4))
    with expect_error(ValueError, "4", "(1,)", otherwise="one position is used for all tokens"):
        positions.rotary(torch.ones(4, 6), torch.tensor([3]))
    with expect_error(ValueError, "4", "(5,)", otherwise="five positions for four tokens are accepted"):
        positions.rotary(torch.ones(2, 4, 6), torch.arange(5))


@pytest.mark.grades("rotary")
@pytest.mark.parametrize("base", [0.0, -10.0, math.nan, math.inf])
def test_rotary_base(base):
    """A base that makes NaN of every pair but the first is refused by name."""
    with expect_error(ValueError, "base", str(base), otherwise=f"base={base} is accepted"):
        positions.rotary(torch.ones(4, 6), torch.arange(4), base=base)


@pytest.mark.grades("rotary")
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.complex64], ids=str)
def test_rotary_of_other_dtypes(dtype):
    """Rotated whole numbers are no whole numbers: refused by name."""
    with expect_error(
        TypeError, str(dtype), otherwise=f"{dtype} is accepted: the result is cut to whole numbers"
    ):
        positions.rotary(torch.ones(4, 6, dtype=dtype), torch.arange(4))


@pytest.mark.grades("rotary")
@pytest.mark.parametrize(
    ("shape", "of_positions"),
    [
        ((4, 6), (3, 4)),
        ((1, 4, 6), (3, 4)),
        ((3, 2, 4, 6), (3, 4)),
        ((2, 4, 6), (1, 2, 4)),
        ((2, 4, 6), (3, 1, 4)),
    ],
    ids=str,
)
def test_rotary_enlarges_nothing(shape, of_positions):
    """Positions that do not broadcast to x.shape[:-1] are refused by their shape, also those that would enlarge x."""
    with expect_error(ValueError, str(of_positions), otherwise=f"x {shape} with positions {of_positions}"):
        positions.rotary(torch.ones(shape), torch.zeros(of_positions))


@pytest.mark.grades("alibi_bias")
@pytest.mark.parametrize(
    "sizes", [(0, 4), (-1, 4), (2.5, 4), (2.0, 4), ("2", 4), (True, 4), (2, -1), (2, 4.0), (2, None)], ids=str
)
def test_alibi_sizes(sizes):
    """Sizes that are none are refused by name."""
    wrong = sizes[0] if sizes[1] == 4 and isinstance(sizes[1], int) else sizes[1]
    with expect_error(ValueError, repr(wrong), otherwise=f"alibi_bias{sizes} is accepted"):
        positions.alibi_bias(*sizes)
    assert positions.alibi_bias(2, 0).shape == (2, 0, 0), "no position is a size too"


@pytest.mark.grades("alibi_bias")
@pytest.mark.parametrize(
    ("n_heads", "powers"),
    [
        (1, [8]),
        (2, [4, 8]),
        (3, [4, 8, 2]),
        (4, [2, 4, 6, 8]),
        (6, [2, 4, 6, 8, 1, 3]),
        (8, [1, 2, 3, 4, 5, 6, 7, 8]),
        (12, [1, 2, 3, 4, 5, 6, 7, 8, 0.5, 1.5, 2.5, 3.5]),
    ],
    ids=str,
)
def test_alibi_bias(n_heads, powers):
    """Slopes 2^-p with the p of the paper, worked by hand; distances count in both directions."""
    slopes, T = 2.0 ** -np.array(powers)[:, None, None], 5
    i, j = np.arange(T)[:, None], np.arange(T)
    straight = 2.0 ** (-8 * np.arange(1, n_heads + 1) / n_heads)[:, None, None]
    from_zero = 2.0 ** (-8 * np.arange(n_heads) / n_heads)[:, None, None]
    late = [p + 1 if 2 ** int(math.log2(n_heads)) <= h else p for h, p in enumerate(powers)]
    mistakes = {
        "the bias is a reward for distance: it must be negative": slopes * abs(i - j),
        "keys on one side get a positive bias: take the absolute distance": -slopes * (i - j),
        "keys on one side get a positive bias: take the absolute distance |i - j|": slopes * (i - j),
        "n_heads is no power of two: the slopes are those of the power below, then every second of twice as many": (
            -straight * abs(i - j)
        ),
        "heads count from 1: the first slope is 2^(-8/n_heads)": -from_zero * abs(i - j),
        "of the slopes of 2p heads the first, third, … are used, not the second, fourth, …": -(
            2.0 ** -np.array(late, float)[:, None, None]
        )
        * abs(i - j),
    }
    assert_close(
        positions.alibi_bias(n_heads, T),
        torch.from_numpy(-slopes * abs(i - j)).float(),
        what=f"ALiBi bias of {n_heads} heads",
        mistakes=mistakes,
    )
