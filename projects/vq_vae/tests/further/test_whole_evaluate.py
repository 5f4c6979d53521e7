"""evaluate.py: what trains, and all of it on few digits. Oracles: counts by loops, what is handed on, laws."""

import math

import pytest
import torch
from sklearn.datasets import load_digits
from test_evaluate import Reads

import evaluate
from shared.testing.checks import unchanged
from shared.testing.no_compiler import without_compiler

pytestmark = [pytest.mark.module("evaluate"), pytest.mark.timeout(60)]


@pytest.fixture(autouse=True)
def quick():
    with without_compiler():
        yield


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


@pytest.mark.grades("fit_judge")
def test_fit_judge(split):
    """A judge of 240 digits reads 60 others; one seed gives one judge; the global random state stays."""
    before = torch.random.get_rng_state()
    with unchanged(split.train_images):
        judges = [evaluate.fit_judge(split.train_images, split.train_labels, n_steps=n, seed=s) for n, s in [(40, 0), (3, 0), (3, 0), (3, 1)]]  # fmt: skip
    assert torch.equal(before, torch.random.get_rng_state()), "fitting moves the global random state"
    logits = [judge(split.test_images) for judge in judges]
    assert logits[0].shape == (60, 10), f"logits (n, 10), got {tuple(logits[0].shape)}"
    accuracy = (logits[0].argmax(1) == split.test_labels).double().mean().item()
    assert accuracy > 0.75, f"after 40 steps only {accuracy:.0%} of other digits are read rightly"
    assert torch.equal(logits[1], logits[2]), "one seed gives two judges"
    assert not torch.equal(logits[1], logits[3]), "the seed is not used"
    assert not logits[0].requires_grad, "the judge is to be judged with, not trained: requires_grad_(False)"
    assert not judges[0].training, "the judge is in training mode"


@pytest.fixture(scope="module")
def fitted(split):
    with without_compiler():
        return evaluate.fit_tokenizer_and_prior(split, n_codes=16, n_epochs=10, n_prior_epochs=4, seed=1)


WHOLE = ("fit_tokenizer_and_prior", "untrained_tokens", "class_frequencies", "draw_each_place", "token_bits", "one_hot_tokens",
         "VQVAE", "train", "VectorQuantizer", "nearest_codes", "straight_through",
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
