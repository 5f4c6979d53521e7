"""The token sequence and the rotation. Oracles: sequences written down, lists token by token, complex numbers."""

import math

import pytest
import torch
from oracles import DOUBLE, WORDS, gradients, interleave, normal, pieces, rotate, seeded

import token_world_model
from shared.testing.checks import assert_close, expect_error, unchanged
from world import Vocabulary

SMALL = Vocabulary(n_codes=10, n_image=2, n_texts=3, n_actions=4)  # texts are 10 to 12, actions 13 to 16
EXACT = "these are integers: each one is told"


def of_sequence():
    """assert_close's `mistakes` for the sequence below."""
    return {
        "the text stands in the first step only: it stands in each": torch.tensor(
            [[11, 3, 9, 16, 4, 0, 13], [12, 8, 1, 14, 2, 7, 15]]
        ),
        "the action stands before the image: text, image, action": torch.tensor(
            [[11, 16, 3, 9, 11, 13, 4, 0], [12, 14, 8, 1, 12, 15, 2, 7]]
        ),
        "the image stands before the text: text, image, action": torch.tensor(
            [[3, 9, 11, 16, 4, 0, 11, 13], [8, 1, 12, 14, 2, 7, 12, 15]]
        ),
        "texts and actions are not moved behind the codes: each integer means one token": torch.tensor(
            [[1, 3, 9, 3, 1, 4, 0, 0], [2, 8, 1, 1, 2, 2, 7, 2]]
        ),
        "actions come before texts in the vocabulary: codes, texts, actions": torch.tensor(
            [[15, 3, 9, 13, 15, 4, 0, 10], [16, 8, 1, 11, 16, 2, 7, 12]]
        ),
        "actions are not moved behind the texts: n_codes + n_texts comes before them": torch.tensor(
            [[11, 3, 9, 13, 11, 4, 0, 10], [12, 8, 1, 11, 12, 2, 7, 12]]
        ),
        "texts are moved one too few: text 0 has an integer of its own": torch.tensor(
            [[10, 3, 9, 16, 10, 4, 0, 13], [11, 8, 1, 14, 11, 2, 7, 15]]
        ),
        "the steps stand in columns: all of one kind come together": torch.tensor(
            [[11, 11, 3, 4, 9, 0, 16, 13], [12, 12, 8, 2, 1, 7, 14, 15]]
        ),
    }


# --- interleave -------------------------------------------------------------------------------------------------------


@pytest.mark.grades("interleave")
def test_sequence_contract(generator):
    """(B, T·step) int64; inputs stay as they are."""
    text, images, actions = pieces(3, 5, generator)
    with unchanged(text, images, actions):
        got = token_world_model.interleave(text, images, actions, WORDS)
    assert isinstance(got, torch.Tensor), f"a {type(got).__name__} is returned, expected a tensor"
    assert got.shape != (3, 26), "the text stands in the first step only: it stands in each"
    assert got.shape == (3, 30), (
        f"five steps of six tokens in three games have shape {tuple(got.shape)}, expected (3, 30)"
    )
    assert got.dtype == torch.int64, f"the tokens are {got.dtype}, expected int64"


@pytest.mark.grades("interleave")
def test_sequence_by_hand():
    """Two steps of two games: 10 codes, texts from 10 on, actions from 13 on."""
    text = torch.tensor([1, 2])
    images = torch.tensor([[[3, 9], [4, 0]], [[8, 1], [2, 7]]])
    actions = torch.tensor([[3, 0], [1, 2]])
    expected = torch.tensor([[11, 3, 9, 16, 11, 4, 0, 13], [12, 8, 1, 14, 12, 2, 7, 15]])
    got = token_world_model.interleave(text, images, actions, SMALL)
    assert_close(got, expected, what="tokens", mistakes=of_sequence())


@pytest.mark.grades("interleave")
def test_sequence_without_the_last_action():
    """One action less than images: the sequence ends with the last image."""
    text = torch.tensor([1, 2])
    images = torch.tensor([[[3, 9], [4, 0]], [[8, 1], [2, 7]]])
    got = token_world_model.interleave(text, images, torch.tensor([[3], [1]]), SMALL)
    expected = torch.tensor([[11, 3, 9, 16, 11, 4, 0], [12, 8, 1, 14, 12, 2, 7]])
    mistakes = {
        "an action is made up behind the last image: the sequence ends with the image": torch.tensor(
            [[11, 3, 9, 16, 11, 4, 0, 13], [12, 8, 1, 14, 12, 2, 7, 13]]
        ),
        "the last image is lost: it has no action behind it, but it is read": torch.tensor(
            [[11, 3, 9, 16], [12, 8, 1, 14]]
        ),
        "the actions stand behind the images that they lead to: each stands before": torch.tensor(
            [[11, 3, 9, 13, 11, 4, 0], [12, 8, 1, 13, 12, 2, 7]]
        ),
        "the actions stand before their images: images[:, 0] comes first, the action behind it leads on": torch.tensor(
            [[11, 3, 9, 11, 4, 0, 16], [12, 8, 1, 12, 2, 7, 14]]
        ),
    }
    assert_close(got, expected, what="tokens without the last action", mistakes=mistakes)


@pytest.mark.grades("interleave")
@pytest.mark.parametrize("last_action", [True, False])
@pytest.mark.parametrize(("n", "n_steps"), [(4, 3), (1, 1), (3, 5)])
def test_sequence(n, n_steps, last_action, generator):
    """Any vocabulary, any number of games and steps, with and without a last action."""
    words = Vocabulary(n_codes=50, n_image=6, n_texts=5, n_actions=4)
    text, images, actions = pieces(n, n_steps, generator, words, last_action=last_action)
    got = token_world_model.interleave(text, images, actions, words)
    expected = interleave(text, images, actions, words)
    columns = images.unflatten(2, (2, 3)).mT.flatten(2)
    backwards = images.flip(2)
    mistakes = {
        "the images are read column by column: their tokens stay in their order, row by row": lambda: (
            interleave(text, columns, actions, words)
        ),
        "the images are read backwards: their tokens stay in their order, row by row": lambda: interleave(
            text, backwards, actions, words
        ),
    }
    assert_close(got, expected, what="tokens", mistakes=mistakes)


@pytest.mark.grades("interleave")
def test_tokens_of_views(generator):
    """Columns of a larger batch, not contiguous, and images of six tokens, two rows of three: they keep their order."""
    words = Vocabulary(n_codes=50, n_image=6, n_texts=5, n_actions=4)
    text, images, actions = pieces(4, 6, generator, words)
    got = token_world_model.interleave(text[::2], images[::2, 1:4], actions[::2, 1:4], words)
    expected = interleave(text[::2], images[::2, 1:4], actions[::2, 1:4], words)
    assert_close(got, expected, what="tokens of views")


@pytest.mark.grades("interleave")
def test_greatest_tokens():
    """The last code, text and action of the vocabulary, and its first ones, are tokens."""
    text = torch.tensor([2, 0])
    images, actions = torch.tensor([[[9, 0]], [[0, 9]]]), torch.tensor([[3], [0]])
    got = token_world_model.interleave(text, images, actions, SMALL)
    expected = torch.tensor([[12, 9, 0, 16], [10, 0, 9, 13]])
    hint = "the vocabulary's first and last text, code and action are tokens like others"
    assert_close(got, expected, what="the first and the last tokens", hint=hint)


@pytest.mark.grades("interleave")
@pytest.mark.parametrize(
    "shapes",
    [
        ((3,), (4, 2, 2), (4, 2)),
        ((4, 1), (4, 2, 2), (4, 2)),
        ((4,), (4, 2, 2), (3, 2)),
        ((4,), (4, 2, 3), (4, 2)),
        ((4,), (4, 3, 2), (4, 1)),
        ((4,), (4, 2, 2), (4, 3)),
        ((4,), (4, 2, 1), (4, 2)),
    ],
    ids=["texts", "text of steps", "games", "long images", "few actions", "many actions", "short images"],
)
def test_shapes_that_do_not_fit(shapes):
    """They are refused, not broadcast."""
    text, images, actions = (torch.zeros(shape, dtype=torch.int64) for shape in shapes)
    with expect_error(
        ValueError, otherwise=f"shapes that do not fit are accepted: text, images, actions {shapes}"
    ):
        token_world_model.interleave(text, images, actions, SMALL)


@pytest.mark.grades("interleave")
@pytest.mark.parametrize("place", [0, -1], ids=["first", "last"])
@pytest.mark.parametrize("last_action", [True, False], ids=["with the last action", "without"])
@pytest.mark.parametrize("which", ["text", "image", "action"])
def test_unknown_tokens(which, last_action, place):
    """A text, code or action that the vocabulary does not have would become another token: it is refused."""
    size = {"text": 3, "image": 10, "action": 4}[which]
    for bad in (-1, size):
        text, images = torch.tensor([1, 2]), torch.ones(2, 2, 2, dtype=torch.int64)
        actions = torch.tensor([[1, 2], [0, 3]])[:, : 1 + last_action].contiguous()
        {"text": text, "image": images, "action": actions}[which].view(-1)[place] = bad
        otherwise = f"{which} {bad} of a vocabulary with {size} is accepted: it becomes another token"
        with expect_error(ValueError, otherwise=otherwise):
            token_world_model.interleave(text, images, actions, SMALL)


# --- rotate -----------------------------------------------------------------------------------------------------------


@pytest.mark.grades("rotate")
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_rotation_contract(dtype, generator):
    """x's shape and dtype; inputs stay as they are."""
    x, positions = normal(2, 3, 5, 6, generator=generator, dtype=dtype), torch.arange(5)
    with unchanged(x, positions):
        got = token_world_model.rotate(x, positions)
    assert got.shape == x.shape, f"x {tuple(x.shape)} becomes {tuple(got.shape)}: the shape stays"
    assert got.dtype == dtype, f"x of {dtype} becomes {got.dtype}: the dtype stays"


@pytest.mark.grades("rotate")
def test_rotation_by_hand():
    """d = 4: the first pair turns by 1 radian per position, the second by 100^(-1/2) = 0.1."""
    x = torch.tensor([[1.0, 2.0, 0.0, 0.5], [1.0, 2.0, 0.0, 0.5]])
    c, s = math.cos, math.sin

    def turned(p, sign=1, base=10.0):
        a, b = sign * p, sign * p / base
        return [c(a), 2 * c(b) - 0.5 * s(b), s(a), 2 * s(b) + 0.5 * c(b)]

    def neighbours(p):
        a, b = p, p / 10
        return [c(a) - 2 * s(a), s(a) + 2 * c(a), -0.5 * s(b), 0.5 * c(b)]

    def same(p):
        return [c(p), 2 * c(p) - 0.5 * s(p), s(p), 2 * s(p) + 0.5 * c(p)]

    expected = torch.tensor([turned(3), turned(5)], dtype=torch.float32)
    slowest_first = torch.tensor(
        [[c(p / 10), 2 * c(p) - 0.5 * s(p), s(p / 10), 2 * s(p) + 0.5 * c(p)] for p in (3, 5)]
    )
    mistakes = {
        "the turn goes the other way: a·cos - b·sin, a·sin + b·cos": torch.tensor(
            [turned(p, -1) for p in (3, 5)]
        ),
        "the base is 10000, or the exponent is doubled: 100^(-2i/d) turns pair i": torch.tensor(
            [turned(p, base=100.0) for p in (3, 5)]
        ),
        "the exponent is -i/d: it is -2i/d": torch.tensor([turned(p, base=10**0.5) for p in (3, 5)]),
        "the pairs are neighbours: i belongs to i + d/2": torch.tensor([neighbours(p) for p in (3, 5)]),
        "all pairs turn alike: pair i turns by position·100^(-2i/d)": torch.tensor([same(p) for p in (3, 5)]),
        "positions count from 0: those that are given do": torch.tensor([turned(0), turned(1)]),
        "positions count from the first one: each is the place in the sequence": torch.tensor(
            [turned(0), turned(2)]
        ),
        "the slowest pair comes first: pair 0 turns by the whole position": slowest_first,
        "the pairs turn the faster the later they stand: the exponent is negative": torch.tensor(
            [turned(p, base=0.1) for p in (3, 5)]
        ),
    }
    got = token_world_model.rotate(x, torch.tensor([3, 5]))
    assert_close(got, expected, rtol=1e-5, what="turned numbers", mistakes=mistakes)


@pytest.mark.grades("rotate")
def test_rotation_of_position_0(generator):
    """Nothing moves."""
    x = normal(3, 1, 8, generator=generator)
    got = token_world_model.rotate(x, torch.tensor([0]))
    hint = "at position 0 the angle is 0: nothing moves"
    assert_close(got, x, what="numbers at position 0", hint=hint)


@pytest.mark.grades("rotate")
@pytest.mark.parametrize("d", [2, 6, 10])
def test_rotation(d, generator):
    """Complex numbers, at positions in no order, for several axes."""
    x = normal(2, 3, 7, d, generator=generator)
    positions = torch.tensor([0, 1, 4, 30, 2, 200, 9])
    got = token_world_model.rotate(x, positions)
    hint = f"not the pairs (x_i, x_i+{d // 2}) turned by position·100^(-2i/{d})"
    assert_close(got, rotate(x, positions), rtol=1e-4, what="turned numbers", hint=hint)


@pytest.mark.grades("rotate")
def test_rotation_keeps_lengths(generator):
    """A turn is no stretch, pair by pair."""
    x = normal(4, 9, 12, generator=generator)
    got = token_world_model.rotate(x, torch.arange(9) * 3)
    lengths = [z[..., :6].square() + z[..., 6:].square() for z in (got, x)]
    assert_close(*lengths, rtol=1e-5, what="squared lengths of the pairs", hint="a turn changes no length")


@pytest.mark.grades("rotate")
def test_rotated_products_know_distances_only(generator):
    """A query at 5 and a key at 2 meet as at 105 and 102, in double precision."""
    q, k = (
        normal(2, 3, 8, generator=generator, dtype=DOUBLE),
        normal(2, 3, 8, generator=generator, dtype=DOUBLE),
    )
    turn = token_world_model.rotate

    def products(shift):
        at_q, at_k = torch.tensor([5, 7, 20]) + shift, torch.tensor([2, 0, 19]) + shift
        return (turn(q, at_q) * turn(k, at_k)).sum(-1)

    hint = "the product of a query and a key depends on where they are, not only on how far apart"
    assert_close(products(100), products(0), rtol=1e-4, what="products", hint=hint)


@pytest.mark.grades("rotate")
def test_gradient_of_rotation(generator):
    """The gradient is turned back."""
    x = normal(2, 5, 6, generator=generator).requires_grad_()
    positions, cotangent = torch.arange(5) + 2, normal(2, 5, 6, generator=seeded(1))
    (got,) = gradients((token_world_model.rotate(x, positions) * cotangent).sum(), (x,))
    assert_close(
        got,
        rotate(cotangent, -positions),
        rtol=1e-5,
        what="gradient",
        hint="the gradient is not the cotangent turned back",
    )
