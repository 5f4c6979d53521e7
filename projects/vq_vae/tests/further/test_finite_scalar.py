"""finite_scalar.py: no codebook. Oracles: values worked by hand, NumPy in float64, every index, vector-quantize-pytorch."""

import itertools
import math

import numpy as np
import pytest
import torch
from oracles import gradients, normal

import finite_scalar
from shared.testing.checks import assert_close, assert_imports_only, expect_error, unchanged

pytestmark = pytest.mark.module("finite_scalar")
LEVELS = [(8, 5, 5, 5), (3, 4), (7, 6, 3)]


def bounded(z, levels, wrong=None):
    """Return the bounded channels by NumPy in float64; `wrong` makes one mistake."""
    L = np.array(levels, dtype=float)
    half, offset = (L - 1) / 2, np.where(L % 2 == 0, 0.5, 0.0)
    if wrong == "no offset":
        offset = np.zeros_like(L)
    if wrong == "offset everywhere":
        offset = np.full_like(L, 0.5)
    if wrong == "half of L":
        half = L / 2
    shift = {"no shift": 0 * L, "tan": np.tan(offset / half), "unscaled": np.arctanh(offset)}.get(
        wrong, np.arctanh(offset / half)
    )
    y = np.tanh(np.asarray(z.detach().double()) + shift) * half
    return y if wrong == "offset not subtracted" else y - offset


BOUND_MISTAKES = {
    "no offset": "an even number of levels has as many integers below 0 as above: shift its range by a half",
    "offset everywhere": "an odd number of levels needs no offset: 0 is its middle",
    "half of L": "half is (L - 1)/2, not L/2: rounding would reach more than L integers",
    "no shift": "0 does not go to 0: artanh(offset/half) inside the tanh makes up for the offset",
    "tan": "tan instead of artanh, as in the paper's listing: 0 does not go to 0",
    "unscaled": "the shift is artanh(offset/half), not artanh(offset)",
    "offset not subtracted": "the offset is not subtracted after the tanh",
}


def halves(z, levels):
    """Return the numbers that the levels give after rounding, float64."""
    return np.round(bounded(z, levels))


def by_hand_index(digits, levels):
    """Return a number with mixed radix, digit 0 counting ones."""
    index, place = 0, 1
    for digit, L in zip(digits, levels, strict=True):
        index, place = index + int(digit) * place, place * L
    return index


def away_from_ties(z, levels):
    """Return z without the vectors whose rounding hangs on the last bits."""
    y = bounded(z, levels)
    return z[torch.from_numpy((np.abs(y - np.floor(y) - 0.5) > 1e-3).all(-1))]


@pytest.fixture
def lent(monkeypatch):
    """Lend the other units of the module in other words."""

    class Rounded(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return torch.round(x)

        @staticmethod
        def backward(ctx, gradient):
            return gradient

    def bound(z, levels):
        if z.shape[-1] != len(levels) or min(levels) < 3:
            raise ValueError(f"levels {tuple(levels)} for {z.shape[-1]} channels")
        rows = []
        for i, L in enumerate(levels):
            a = (L - 1) / 2
            o = 0.5 * (1 - L % 2)
            rows.append(a * torch.tanh(z[..., i] + math.atanh(o / a)) - o)
        return torch.stack(rows, dim=-1)

    def codes_to_indices(codes, levels):
        half = torch.tensor([L // 2 for L in levels])
        digits = (codes.detach() * half).round().long() + half
        flat = [by_hand_index(row, levels) for row in digits.reshape(-1, len(levels)).tolist()]
        return torch.tensor(flat).view(codes.shape[:-1])

    units = {"bound": bound, "round_straight_through": Rounded.apply, "codes_to_indices": codes_to_indices}
    for name, right in units.items():
        monkeypatch.setattr(finite_scalar, name, right)


@pytest.mark.grades
def test_finite_scalar_imports():
    """The module uses torch, nothing else."""
    assert_imports_only(finite_scalar, {"torch"})


# --- the bound --------------------------------------------------------------------------------------------------------


@pytest.mark.grades("bound")
def test_bound_by_hand():
    """L = 3: tanh. L = 4: 1.5·tanh(z + artanh(1/3)) - 0.5; artanh(1/3) is ln(2)/2."""
    z = torch.tensor(
        [[0.0, 0.0], [math.log(2) / 2, math.log(2) / 2], [-50.0, -50.0], [50.0, 50.0]], dtype=torch.float64
    )
    expected = torch.tensor([[0, 0], [1 / 3, 0.4], [-1, -2], [1, 1]], dtype=torch.float64)
    mistakes = {text: bounded(z, (3, 4), wrong) for wrong, text in BOUND_MISTAKES.items()}
    got = finite_scalar.bound(z, (3, 4))
    assert_close(got, expected, rtol=1e-12, atol=1e-12, what="bound", mistakes=mistakes)


@pytest.mark.grades("bound")
@pytest.mark.parametrize("levels", LEVELS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_bound_equals_numpy(levels, dtype, generator):
    """Any leading axes, the dtype of z."""
    z = normal(4, 3, len(levels), generator=generator, scale=2).to(dtype)
    mistakes = {text: bounded(z, levels, wrong) for wrong, text in BOUND_MISTAKES.items()}
    with unchanged(z):
        got = finite_scalar.bound(z, levels)
    assert_close(got, bounded(z, levels), dtype=dtype, n=4, what=f"bound of {levels}", mistakes=mistakes)


@pytest.mark.grades("bound")
@pytest.mark.parametrize("levels", LEVELS, ids=str)
def test_bound_reaches_every_level(levels):
    """L integers, from -⌊L/2⌋ to ⌊(L - 1)/2⌋, are what far and near inputs round to."""
    z = torch.linspace(-9, 9, 4001, dtype=torch.float64)[:, None].expand(-1, len(levels))
    got = finite_scalar.bound(z, levels).round()
    for i, L in enumerate(levels):
        reached = got[:, i].unique().tolist()
        assert reached == list(range(-(L // 2), (L + 1) // 2)), f"{L} levels give {reached} after rounding"


@pytest.mark.grades("bound")
def test_bound_gradient(generator):
    """half·(1 - tanh²) of the shifted input: that of the bound alone, which falls to 0 far out."""
    z = normal(6, 3, generator=generator).double().requires_grad_()
    cotangent = normal(6, 3, generator=generator).double()
    (got,) = gradients(finite_scalar.bound(z, (4, 5, 8)), (z,), cotangent)
    half, offset = torch.tensor([1.5, 2, 3.5]).double(), torch.tensor([0.5, 0, 0.5]).double()
    expected = cotangent * half / torch.cosh(z.detach() + torch.atanh(offset / half)) ** 2
    assert_close(
        got, expected, rtol=1e-10, what="gradient of the bound", hint="the derivative of tanh is 1/cosh²"
    )


@pytest.mark.grades("bound")
@pytest.mark.parametrize(
    ("levels", "d"), [((2, 5), 2), ((5, 0), 2), ((5, -3), 2), ((), 0), ((2**21,) * 3, 3), ((3,) * 40, 40), ((5, 5), 3), ((5,), 3)], ids=str
)  # fmt: skip
def test_bound_refuses(levels, d):
    """Levels under 3, too many codes, none at all, and another number of channels: the message holds the numbers."""
    mention = str(levels) if d == len(levels) else str(d)
    with expect_error(ValueError, mention, otherwise=f"levels {levels} are accepted for {d} channels"):
        finite_scalar.bound(torch.zeros(2, d), levels)


@pytest.mark.grades("round_straight_through")
def test_round_straight_through(generator):
    """The value is a whole number, exactly; the gradient is as if there were no rounding."""
    x, cotangent = 3 * normal(9, 4, generator=generator), normal(9, 4, generator=generator)
    x.requires_grad_()
    got = finite_scalar.round_straight_through(x)
    expected = torch.from_numpy(np.round(x.detach().numpy()))
    mistakes = {
        "cut, not rounded": x.detach().trunc(),
        "rounded down, not to the nearest": x.detach().floor(),
        "x itself comes back": x.detach(),
    }
    assert_close(got, expected, rtol=1e-6, what="rounded", mistakes=mistakes)
    assert torch.equal(got.detach(), expected), "x + (round(x) - x) is not a whole number to the last bit"
    (gradient,) = gradients(got, (x,), cotangent)
    assert gradient.any(), "no gradient reaches x: that of round() is 0"
    assert_close(gradient, cotangent, what="gradient", hint="the gradient passes the rounding unchanged")


# --- indices ----------------------------------------------------------------------------------------------------------


@pytest.mark.grades("codes_to_indices")
def test_codes_to_indices_by_hand():
    """Levels (4, 3): digits 0 … 3 and 0 … 2; (0.5, -1) are the digits 3 and 0, (-1, 1) are 0 and 2: 3 and 8."""
    codes = torch.tensor([[0.5, -1.0], [-1.0, 1.0], [0.0, 0.0]])
    expected = torch.tensor([3 + 0 * 4, 0 + 2 * 4, 2 + 1 * 4])
    mistakes = {
        "the last channel counts ones: it is the first": torch.tensor([9, 2, 7]),
        "the place values are the levels, not their products": torch.tensor([12, 6, 11]),
        "the digits start at -⌊L/2⌋: add ⌊L/2⌋": torch.tensor([-3, 2, 0]),
    }
    got = finite_scalar.codes_to_indices(codes, (4, 3))
    assert_close(got, expected, what="indices", mistakes=mistakes)


@pytest.mark.grades("indices_to_codes")
def test_indices_to_codes_by_hand():
    """Levels (4, 3), index 8 = 0 + 2·4: the codes -1 and 1; float32."""
    expected = torch.tensor([[0.5, -1.0], [-1.0, 1.0], [0.0, 0.0]])
    mistakes = {
        "the last channel counts ones: it is the first": torch.tensor(
            [[-0.5, -1.0], [0.0, 1.0], [0.0, -1.0]]
        ),
        "these are the rounded numbers, not divided by ⌊L/2⌋": expected * torch.tensor([2.0, 1.0]),
        "these are the digits: subtract ⌊L/2⌋ and divide by it": torch.tensor([[3.0, 0], [0, 2], [2, 1]]),
    }
    got = finite_scalar.indices_to_codes(torch.tensor([3, 8, 6]), (4, 3))
    assert_close(got, expected, what="codes", mistakes=mistakes)


@pytest.mark.grades("codes_to_indices")
@pytest.mark.parametrize("levels", [*LEVELS, (83, 99)], ids=str)
def test_every_code_has_its_index(levels):
    """All codes, the first channel fastest, are 0, 1, 2, …"""
    digits = torch.tensor([row[::-1] for row in itertools.product(*(range(L) for L in reversed(levels)))])
    half = torch.tensor([L // 2 for L in levels])
    for dtype in (torch.float32, torch.float64):
        codes = (digits - half).to(dtype) / half
        with unchanged(codes):
            got = finite_scalar.codes_to_indices(codes.unflatten(0, (levels[0], -1)), levels)
        expected = torch.arange(math.prod(levels)).view(levels[0], -1)
        assert_close(
            got, expected, what=f"indices of all {math.prod(levels)} codes", hint="a number with mixed radix"
        )


@pytest.mark.grades("indices_to_codes")
@pytest.mark.parametrize("levels", LEVELS, ids=str)
def test_every_index_has_its_code(levels):
    """0, 1, 2, … are all codes, the first channel fastest."""
    digits = np.array([row[::-1] for row in itertools.product(*(range(L) for L in reversed(levels)))])
    half = np.array(levels) // 2
    expected = torch.from_numpy(((digits - half) / half).astype("float32")).unflatten(0, (levels[0], -1))
    indices = torch.arange(math.prod(levels)).view(levels[0], -1)
    with unchanged(indices):
        got = finite_scalar.indices_to_codes(indices, levels)
    assert_close(
        got, expected, what=f"codes of all {math.prod(levels)} indices", hint="a number with mixed radix"
    )


@pytest.mark.grades("codes_to_indices", "indices_to_codes")
@pytest.mark.parametrize(
    "levels", [*LEVELS, (1001, 999, 1000), (2**20, 2**20, 2**20 + 7), (3,) * 39], ids=str
)
def test_there_and_back(levels):
    """indices → codes → indices is the identity, beyond 2^31 too."""
    n = math.prod(levels)
    indices = torch.tensor(sorted({0, 1, 2, 3, n // 3, n // 2, n // 2 + 1, n - 2, n - 1}))
    got = finite_scalar.codes_to_indices(finite_scalar.indices_to_codes(indices, levels), levels)
    hint = "indices → codes → indices changes something: int64, and rounding before the digits are cut"
    assert_close(got, indices, what=f"indices of {n} codes", hint=hint)


@pytest.mark.grades("codes_to_indices")
def test_codes_to_indices_refuses():
    """Another number of channels, or levels that cannot be."""
    for levels, d in [((5, 5), 3), ((5,), 3), ((5, 2), 2)]:
        with expect_error(ValueError, otherwise=f"{d} channels are accepted for levels {levels}"):
            finite_scalar.codes_to_indices(torch.zeros(2, d), levels)


@pytest.mark.grades("indices_to_codes")
def test_indices_to_codes_refuses():
    """Levels that cannot be."""
    with expect_error(ValueError, "(5, 2)", otherwise="levels (5, 2) are accepted"):
        finite_scalar.indices_to_codes(torch.zeros(2, dtype=torch.long), (5, 2))


# --- the module -------------------------------------------------------------------------------------------------------


@pytest.mark.grades("FiniteScalarQuantizer")
@pytest.mark.usefixtures("lent")
@pytest.mark.parametrize("levels", [(8, 5, 5, 5), (7, 6, 3)], ids=str)
@pytest.mark.parametrize("training", [False, True])
def test_finite_scalar_forward(levels, training, generator):
    """Codes (B, d, H, W) from -1 to 1, indices (B, H, W); the channels are the vector."""
    z = normal(2, len(levels), 5, 3, generator=generator, scale=2)
    quantizer = finite_scalar.FiniteScalarQuantizer(levels).train(training)
    with unchanged(z):
        codes, indices = quantizer(z)
    numbers = halves(z.permute(0, 2, 3, 1), levels)
    half = np.array(levels) // 2
    expected = torch.from_numpy(numbers / half).permute(0, 3, 1, 2)
    mistakes = {
        "these are the rounded numbers, not divided by ⌊L/2⌋": torch.from_numpy(numbers).permute(0, 3, 1, 2),
        "these are not rounded": torch.from_numpy(bounded(z.permute(0, 2, 3, 1), levels) / half).permute(
            0, 3, 1, 2
        ),
        "the channels are on the last axis: bring them back": torch.from_numpy(numbers / half),
    }
    assert_close(codes, expected, dtype=torch.float32, what="codes", mistakes=mistakes)
    rows = [by_hand_index(row, levels) for row in (numbers + half).reshape(-1, len(levels))]
    assert_close(
        indices, torch.tensor(rows).view(2, 5, 3), what="indices", hint="the number of each code, (B, H, W)"
    )


@pytest.mark.grades("FiniteScalarQuantizer")
@pytest.mark.usefixtures("lent")
def test_finite_scalar_has_nothing_to_learn():
    """No parameters, no buffers; wrong levels are refused at once."""
    quantizer = finite_scalar.FiniteScalarQuantizer([8, 5])
    assert not list(quantizer.parameters()), "FSQ has no parameters: its grid is fixed"
    assert not list(quantizer.buffers()), "FSQ has no buffers: nothing is counted, nothing moves"
    with expect_error(ValueError, "(5, 2)", otherwise="levels (5, 2) are accepted"):
        finite_scalar.FiniteScalarQuantizer((5, 2))


@pytest.mark.grades("FiniteScalarQuantizer")
@pytest.mark.usefixtures("lent")
def test_finite_scalar_refuses_other_maps():
    """A feature map with another number of channels is refused."""
    with expect_error(ValueError, otherwise="3 channels are accepted for 2 levels"):
        finite_scalar.FiniteScalarQuantizer((8, 5))(torch.zeros(2, 3, 4, 4))


@pytest.mark.grades("FiniteScalarQuantizer")
@pytest.mark.usefixtures("lent")
def test_finite_scalar_gradient(generator):
    """The rounding is passed as if it were not there, the bound is not: half·(1 - tanh²)/⌊L/2⌋."""
    z = normal(2, 2, 3, 4, generator=generator).requires_grad_()
    cotangent = normal(2, 2, 3, 4, generator=generator)
    codes, _ = finite_scalar.FiniteScalarQuantizer((4, 7))(z)
    (got,) = gradients(codes, (z,), cotangent)
    shift = torch.tensor([math.atanh(1 / 3), 0.0])[:, None, None]
    slope = torch.tensor([1.5 / 2, 3 / 3])[:, None, None] / torch.cosh(z.detach() + shift) ** 2
    mistakes = {
        "the gradient passes the tanh too: only the rounding is passed unchanged": cotangent,
        "the gradient of the bound without the division by ⌊L/2⌋": cotangent
        * slope
        * torch.tensor([2.0, 3.0])[:, None, None],
    }
    assert got.any(), "no gradient reaches z: that of round() is 0"
    assert_close(got, cotangent * slope, rtol=1e-5, what="gradient by z", mistakes=mistakes)


@pytest.mark.grades(
    "FiniteScalarQuantizer", "bound", "codes_to_indices", "indices_to_codes", "round_straight_through"
)
@pytest.mark.parametrize("levels", [(8, 5, 5, 5), (7, 6, 3)], ids=str)
def test_with_vector_quantize_pytorch(levels, generator):
    """The library's FSQ gives the same codes, indices and gradients; its ε widens the range by a thousandth."""
    from vector_quantize_pytorch import FSQ

    library = FSQ(levels=list(levels))
    z = away_from_ties(normal(600, len(levels), generator=generator, scale=1.5), levels)[:512]
    z = z.T.reshape(1, len(levels), 16, 32).requires_grad_()
    theirs, numbers = library(z)
    codes, indices = finite_scalar.FiniteScalarQuantizer(levels)(z)
    assert_close(
        indices, numbers.long(), what="indices, beside vector-quantize-pytorch", hint="other indices"
    )
    assert_close(codes, theirs, rtol=1e-5, what="codes, beside vector-quantize-pytorch", hint="other codes")
    cotangent = normal(*z.shape, generator=generator)
    (got,), (wanted,) = gradients(codes, (z,), cotangent), gradients(theirs, (z,), cotangent)
    assert_close(
        got, wanted, rtol=3e-3, what="gradient, beside vector-quantize-pytorch", hint="another gradient"
    )
    vectors = z.detach()[0].flatten(1).T
    exact = library.bound(vectors, eps=0.0) * (torch.tensor(levels) // 2)
    rounded = finite_scalar.bound(vectors, levels).round()
    assert torch.equal(rounded, exact), "other levels than the library's bound with ε = 0"
    every = torch.arange(math.prod(levels))
    back = finite_scalar.indices_to_codes(every, levels)
    assert_close(
        back, library.indices_to_codes(every), what="all codes", hint="other codes than the library's"
    )
