"""evaluate.py: probe, judge, bits. Oracles: counts by loops, hand-made judges and priors, scikit-learn's digits themselves."""

import math

import numpy as np
import oracles
import pytest
import torch
from oracles import normal, seeded
from sklearn.datasets import load_digits

import evaluate
from shared.testing.checks import assert_close, unchanged

pytestmark = [pytest.mark.module("evaluate"), pytest.mark.timeout(60)]


@pytest.fixture(autouse=True)
def quick():
    with oracles.without_compiler():
        yield


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


@pytest.mark.grades("fit_judge")
def test_fit_judge():
    """A judge of 300 digits reads others; one seed gives one judge; the global random state stays."""
    split, before = evaluate.load_split(), torch.random.get_rng_state()
    rows = slice(0, 300)
    with unchanged(split.train_images):
        judges = [evaluate.fit_judge(split.train_images[rows], split.train_labels[rows], n_steps=n, seed=s) for n, s in [(40, 0), (3, 0), (3, 0), (3, 1)]]  # fmt: skip
    assert torch.equal(before, torch.random.get_rng_state()), "fitting moves the global random state"
    logits = [judge(split.test_images) for judge in judges]
    assert logits[0].shape == (360, 10), f"logits (n, 10), got {tuple(logits[0].shape)}"
    accuracy = (logits[0].argmax(1) == split.test_labels).double().mean().item()
    assert accuracy > 0.75, f"after 40 steps only {accuracy:.0%} of other digits are read rightly"
    assert torch.equal(logits[1], logits[2]), "one seed gives two judges"
    assert not torch.equal(logits[1], logits[3]), "the seed is not used"
    assert not logits[0].requires_grad, "the judge is to be judged with, not trained: requires_grad_(False)"
    assert not judges[0].training, "the judge is in training mode"


# --- all of it, small -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def split():
    """300 digits, of which 60 are held out."""
    pixels, labels = load_digits(return_X_y=True)
    images, classes = (
        torch.from_numpy(pixels[:300] / 16).float().view(-1, 1, 8, 8),
        torch.from_numpy(labels[:300]).long(),
    )
    return evaluate.Split(images[:240], classes[:240], images[240:], classes[240:])


@pytest.fixture(scope="module")
def fitted(split):
    with oracles.without_compiler():
        return evaluate.fit_tokenizer_and_prior(split, n_codes=16, n_epochs=10, n_prior_epochs=4, seed=1)


WHOLE = ("fit_tokenizer_and_prior", "untrained_tokens", "VQVAE", "train", "VectorQuantizer", "nearest_codes", "straight_through",
         "vq_losses", "ema_update", "restart_dead_codes", "perplexity", "Prior", "prior_loss", "sample", "train_prior")  # fmt: skip


@pytest.mark.grades(*WHOLE)
def test_fitted(fitted, split):
    """Both are trained, and frozen for evaluation."""
    model, prior = fitted
    assert len(model.quantizer.codebook) == 16, "n_codes is not handed on"
    assert prior.n_codes == 16, "the prior has another number of codes than the autoencoder"
    assert not model.training, "the autoencoder is in training mode: its codes would move"
    assert not prior.training, "the prior is in training mode"
    assert not any(p.requires_grad for net in fitted for p in net.parameters()), (
        "what is fitted is still to be trained"
    )
    error = (model.decode(model.encode(split.test_images)) - split.test_images).square().mean().item()
    spread = (split.test_images - split.train_images.mean(0)).square().mean().item()
    assert error < spread, f"error {error:.3f}: the mean image is as good, {spread:.3f}"


@pytest.mark.grades("held_out_bits", *WHOLE)
def test_held_out_bits(fitted, split):
    """Uniform is 16·log2 K; what knows more costs less; the prior's is its cross-entropy."""
    model, prior = fitted
    got = evaluate.held_out_bits(model, prior, split)
    assert list(got) == ["uniform", "places", "class_places", "prior"], f"other rows: {list(got)}"
    assert got["uniform"] == 64, f"16 tokens of 16 codes are 64 bits, got {got['uniform']}"
    assert got["class_places"] < got["places"] < got["uniform"], (
        f"who knows the digit should need fewer bits: {got}"
    )
    tokens = model.encode(split.test_images).flatten(1)
    nats = -prior(tokens, split.test_labels).double().log_softmax(-1).gather(-1, tokens[..., None]).sum() / 60
    assert got["prior"] == pytest.approx(nats.item() / math.log(2), rel=1e-4), (
        "not the prior's bits of the held-out digits"
    )
    seen = model.encode(split.train_images).flatten(1)
    for name, labels, held in (
        ("places", torch.zeros(240), torch.zeros(60)),
        ("class_places", split.train_labels, split.test_labels),
    ):
        bits = 0.0
        for row, label in zip(tokens, held, strict=True):
            same = seen[labels == label]
            bits -= (
                sum(
                    math.log2(((same[:, i] == t).sum().item() + 0.1) / (len(same) + 1.6))
                    for i, t in enumerate(row)
                )
                / 60
            )
        assert got[name] == pytest.approx(bits, rel=1e-4), (
            f"{name}: not the bits of its frequencies in the training digits"
        )


@pytest.mark.grades("judge_samples", *WHOLE)
def test_judge_samples(fitted, split, monkeypatch):
    """Five shares; what is drawn is drawn by the seed, for each digit as often."""
    model, prior = fitted
    asked = []

    def share(judge, images, labels):
        asked.append((images, labels))
        return float(len(asked))

    monkeypatch.setattr(evaluate, "share_read_as", share)
    got = evaluate.judge_samples(model, prior, None, split, n_per_digit=3, seed=2)
    assert set(got) == {"real", "reconstructed", "prior", "class_places", "places"}, (
        f"other rows: {list(got)}"
    )
    by_name = {name: asked[int(number) - 1] for name, number in got.items()}
    assert torch.equal(by_name["real"][0], split.test_images), "real: the held-out digits"
    again = model.decode(model.encode(split.test_images))
    assert torch.equal(by_name["reconstructed"][0], again), (
        "reconstructed: the held-out digits through the tokens"
    )
    for name in ("real", "reconstructed"):
        assert torch.equal(by_name[name][1], split.test_labels), f"{name}: judged by other labels"
    for name in ("prior", "class_places", "places"):
        images, labels = by_name[name]
        assert labels.tolist() == [k for k in range(10) for _ in range(3)], (
            f"{name}: three of each digit are asked for"
        )
        assert images.shape == (30, 1, 8, 8), f"{name}: images (30, 1, 8, 8), got {tuple(images.shape)}"
    first = [images for images, _ in asked]
    asked.clear()
    evaluate.judge_samples(model, prior, None, split, n_per_digit=3, seed=2)
    assert all(torch.equal(a, b[0]) for a, b in zip(first, asked, strict=True)), (
        "one seed gives two sets of samples"
    )


@pytest.mark.grades("judge_samples", "share_read_as", *WHOLE)
def test_judge_samples_by_place(fitted, split, monkeypatch):
    """Tokens of places are the training digits', class by class where they are drawn by class."""
    model, prior = fitted
    grids = []
    monkeypatch.setattr(
        model, "decode", lambda tokens: grids.append(tokens) or torch.zeros(len(tokens), 1, 8, 8)
    )
    got = evaluate.judge_samples(model, prior, Reads(), split, n_per_digit=40)
    drawn = [tokens for tokens in grids if len(tokens) == 400]
    assert len(drawn) == 3, "three sets of 40 grids for each digit are decoded"
    seen = model.encode(split.train_images)
    by_class = drawn[list(got).index("class_places") - 2]
    for digit in range(10):
        mine = by_class[40 * digit : 40 * digit + 40]
        known = (mine[:, None] == seen[split.train_labels == digit][None]).any(1)
        assert known.all(), f"digit {digit} gets a token that it never has at that place"


@pytest.mark.grades("untrained_tokens", *WHOLE)
def test_untrained_tokens(split):
    """The tokens of both sets, of an encoder as it is drawn; most codes are used; one seed gives one encoder."""
    one, two, other = (
        evaluate.untrained_tokens(split.train_images, split.test_images, 16, seed=s) for s in (0, 0, 1)
    )
    shapes = [tuple(tokens.shape) for tokens in one]
    assert shapes == [(240, 4, 4), (60, 4, 4)], f"tokens of both sets, got shapes {shapes}"
    assert torch.equal(one[0], two[0]), "one seed gives two encoders"
    assert not torch.equal(one[0], other[0]), "the seed is not used"
    n = len(one[0].unique())
    assert n >= 12, f"only {n} of 16 codes are used: they are to be vectors of the encoder itself"


@pytest.mark.grades("probe_tokens", *WHOLE)
def test_probe_tokens(fitted, split, monkeypatch):
    """Pixels, tokens, tokens of an untrained encoder, each with the labels of its digits."""
    model, _ = fitted
    asked = []
    monkeypatch.setattr(evaluate, "linear_probe", lambda *sets: asked.append(sets) or float(len(asked)))
    got = evaluate.probe_tokens(model, split)
    assert list(got) == ["pixels", "tokens", "untrained"], f"other rows: {list(got)}"
    untrained = evaluate.untrained_tokens(split.train_images, split.test_images, 16)
    tokens = model.encode(split.train_images), model.encode(split.test_images)
    expected = {
        "pixels": (split.train_images.flatten(1), split.test_images.flatten(1)),
        "tokens": [torch.nn.functional.one_hot(grid, 16).flatten(1) for grid in tokens],
        "untrained": [torch.nn.functional.one_hot(grid, 16).flatten(1) for grid in untrained],
    }
    for name, number in got.items():
        x, y, held, right = asked[int(number) - 1]
        assert torch.equal(torch.as_tensor(x), expected[name][0]), (
            f"{name}: other features of the training digits"
        )
        assert torch.equal(torch.as_tensor(held), expected[name][1]), (
            f"{name}: other features of the held-out digits"
        )
        assert torch.equal(y, split.train_labels), f"{name}: other labels"
        assert torch.equal(right, split.test_labels), f"{name}: other held-out labels"


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
