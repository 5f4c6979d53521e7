"""evaluate.py: the small parts. Oracles: counts by loops, a hand-made judge, scikit-learn's digits themselves."""

import math

import numpy as np
import pytest
import torch
from oracles import normal, seeded
from sklearn.datasets import load_digits

import evaluate
from shared.testing.checks import assert_close, unchanged

pytestmark = pytest.mark.module("evaluate")


@pytest.mark.grades("load_split")
def test_split():
    """The first 1437 digits, and the last 360; pixels from 0 to 1."""
    pixels, labels = load_digits(return_X_y=True)
    split = evaluate.load_split()
    images = torch.cat([split.train_images, split.test_images])
    assert len(split.test_images) == 360, f"360 digits are held out, got {len(split.test_images)}"
    expected = torch.from_numpy(pixels / 16).float().view(-1, 1, 8, 8)
    assert_close(images, expected, what="images", hint="in their order, divided by 16")
    classes = torch.cat([split.train_labels, split.test_labels])
    assert_close(classes, torch.from_numpy(labels).long(), what="labels", hint="in the order of the images")
    assert len(split.train_labels) == 1437, "other labels than images are held out"


@pytest.mark.grades("one_hot_tokens")
def test_one_hot_tokens():
    """16 places of n_codes numbers each, one of them 1."""
    tokens = torch.randint(7, (5, 4, 4), generator=seeded(1))
    expected = torch.zeros(5, 16 * 7)
    for n, row in enumerate(tokens.view(5, 16).tolist()):
        for place, token in enumerate(row):
            expected[n, 7 * place + token] = 1
    mistakes = {
        "the codes of all places are counted together": lambda: expected.view(5, 16, 7).sum(1),
        "these are the tokens as numbers: a code's number says nothing": tokens.flatten(1).float(),
        "code by code, not place by place": expected.view(5, 16, 7).mT.flatten(1),
    }
    assert_close(evaluate.one_hot_tokens(tokens, 7), expected, what="one-hot tokens", mistakes=mistakes)


@pytest.mark.grades("linear_probe")
def test_linear_probe():
    """Two classes that a line parts are told apart; labels at random are not; the share is of the other set."""
    generator = seeded(2)
    x, held = normal(200, 3, generator=generator), normal(80, 3, generator=generator)
    y, right = (x @ torch.tensor([1.0, -2, 0.5]) > 0).long(), (held @ torch.tensor([1.0, -2, 0.5]) > 0).long()
    got = evaluate.linear_probe(x, y, held, right)
    assert isinstance(got, float), f"a float is wanted, got {type(got).__name__}"
    assert got > 0.95, f"a line parts the classes, but the probe gets only {got:.0%} right"
    assert evaluate.linear_probe(x, y, held, 1 - right) == pytest.approx(1 - got), (
        "the share is not of the second set"
    )
    assert evaluate.linear_probe(x.numpy(), y.numpy(), np.asarray(held), right.numpy()) == got, (
        "arrays give another share"
    )


class Reads:
    """A judge that reads the digit from the first pixel."""

    def __init__(self):
        self.grad = []

    def __call__(self, images):
        self.grad.append(torch.is_grad_enabled())
        digits = (images[:, 0, 0, 0] * 10).round().long()
        return torch.nn.functional.one_hot(digits.clamp(0, 9), 10).float()


@pytest.mark.grades("share_read_as")
def test_share_read_as():
    """Three of four are read as their label."""
    images = torch.zeros(4, 1, 8, 8)
    images[:, 0, 0, 0] = torch.tensor([0.3, 0.9, 0.0, 0.5])
    judge = Reads()
    got = evaluate.share_read_as(judge, images, torch.tensor([3, 9, 1, 5]))
    assert got == 0.75, f"three of four are read as their label, got {got}"
    assert isinstance(got, float), f"a float is wanted, got {type(got).__name__}"
    assert not any(judge.grad), "the judge is asked with gradients on"


@pytest.mark.grades("class_frequencies")
@pytest.mark.parametrize("smoothing", [0.0, 0.5])
def test_class_frequencies(smoothing):
    """How often each class has each token at each place; `smoothing` is added to each count."""
    tokens, labels = torch.randint(5, (40, 4, 4), generator=seeded(3)), torch.arange(40) % 3
    counts = torch.full((3, 16, 5), smoothing, dtype=torch.float64)
    for row, label in zip(tokens.view(40, 16).tolist(), labels.tolist(), strict=True):
        for place, token in enumerate(row):
            counts[label, place, token] += 1
    expected = counts / counts.sum(-1, keepdim=True)
    mistakes = {
        "the smoothing is not added": lambda: (
            (counts - smoothing) / (counts - smoothing).sum(-1, keepdim=True)
        ),
        "these are counts: divide by their sum over the codes": counts,
        "all classes are counted together": lambda: (counts.sum(0) / counts.sum((0, 2))[:, None]).expand(
            3, 16, 5
        ),
    }
    with unchanged(tokens, labels):
        got = evaluate.class_frequencies(tokens, labels, 5, n_classes=3, smoothing=smoothing)
    assert_close(got, expected, dtype=torch.float32, what="frequencies", mistakes=mistakes)


@pytest.mark.grades("class_frequencies")
def test_class_frequencies_defaults():
    """Ten classes, no smoothing."""
    tokens, labels = torch.randint(3, (50, 4, 4), generator=seeded(3)), torch.arange(50) % 10
    got = evaluate.class_frequencies(tokens, labels, 3)
    assert tuple(got.shape) == (10, 16, 3), f"ten classes by default, got shape {tuple(got.shape)}"
    assert got.min() == 0, "nothing is added to the counts by default"


@pytest.mark.grades("draw_each_place")
def test_draw_each_place():
    """Each place by its own frequencies, row by row, and independent of the others."""
    frequencies = torch.softmax(normal(16, 3, generator=seeded(4)), dim=-1)
    before, n = torch.random.get_rng_state(), 20_000
    got = evaluate.draw_each_place(frequencies, n, generator=seeded(1))
    assert torch.equal(before, torch.random.get_rng_state()), "drawing moves the global random state"
    assert got.shape == (n, 4, 4), f"grids (n, 4, 4), got {tuple(got.shape)}"
    flat = got.flatten(1)
    shares = torch.stack([(flat == k).double().mean(0) for k in range(3)], dim=-1)
    far = (shares - frequencies).abs().max().item()
    assert far < 0.02, (
        f"shares are off by {far:.2f}: each place has its own frequencies; the places are row by row"
    )
    pair = ((flat[:, 0] == 0) & (flat[:, 1] == 0)).double().mean()
    assert abs(pair - shares[0, 0] * shares[1, 0]) < 0.02, "two places depend on each other"
    assert torch.equal(got, evaluate.draw_each_place(frequencies, n, generator=seeded(1))), (
        "one seed gives two draws"
    )


@pytest.mark.grades("token_bits")
def test_token_bits():
    """Two grids: the sum of -log2 p over 16 places, and the mean over the grids."""
    p = torch.tensor([0.5, 0.25, 0.25]).log().expand(2, 16, 3)
    tokens = torch.zeros(2, 4, 4, dtype=torch.long)
    tokens[1, 0] = 2
    got, expected = evaluate.token_bits(p, tokens), (16 + 20) / 2
    assert isinstance(got, float), f"a float is wanted, got {type(got).__name__}"
    assert abs(got - expected * math.log(2)) > 1e-3, "these are nats: divide by ln 2"
    assert abs(got - expected / 16) > 1e-3, "this is per token: a grid's bits are the sum over its places"
    assert abs(got - 2 * expected) > 1e-3, "this is the sum over the grids, not the mean"
    assert abs(got - expected) < 1e-4, f"got {got} bits, expected {expected}"


@pytest.mark.grades("main")
def test_main(monkeypatch, capsys):
    """The command prints three tables of numbers, with the seed that it is given."""
    seeds = []
    monkeypatch.setattr("sys.argv", ["evaluate.py", "--seed", "5"])
    monkeypatch.setattr(
        evaluate, "fit_tokenizer_and_prior", lambda split, seed: seeds.append(seed) or ("model", "prior")
    )
    monkeypatch.setattr(evaluate, "fit_judge", lambda images, labels, seed: seeds.append(seed))
    monkeypatch.setattr(evaluate, "probe_tokens", lambda model, split: {"pixels": 0.125})
    monkeypatch.setattr(evaluate, "judge_samples", lambda *given, seed: seeds.append(seed) or {"real": 0.5})
    monkeypatch.setattr(evaluate, "held_out_bits", lambda *given: {"uniform": 96.0})
    evaluate.main()
    said = capsys.readouterr().out
    assert set(seeds) == {5}, f"the seed is not handed on: {seeds}"
    for name, value in (("pixels", "0.125"), ("real", "0.500"), ("uniform", "96.000")):
        assert any(line.split() == [name, value] for line in said.splitlines()), (
            f"no line says {name} {value}: {said}"
        )
