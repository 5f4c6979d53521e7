"""Judge of fit: what it does with a model, a loss and an optimizer that write everything down."""

import numpy as np
import pytest

import backprop
from shared.testing.checks import assert_close, expect_error


class Spy:
    """Model, loss and optimizer in one, all correct and trivial, that write down what happens to them."""

    def __init__(self):
        self.parameters, self.gradients = {"weight": np.zeros(1)}, {"weight": np.zeros(1)}
        self.events, self.batches, self.modes = [], [], []
        spy = self

        class Loss:
            def forward(self, output, targets):
                spy.events.append("loss forward")
                spy.batches.append((output[:, 0].copy(), targets.copy()))
                return float(output.mean())

            def backward(self):
                spy.events.append("loss backward")
                return np.full(1, 123.0)

        self.loss = Loss()

    def forward(self, x, *, training=False, rng=None):
        self.events.append("forward")
        self.modes.append((training, rng))
        return x

    def backward(self, gradient):
        assert gradient[0] == 123.0, "model.backward did not get what loss.backward returned"
        self.events.append("backward")
        return gradient

    def step(self, parameters, gradients):
        assert set(parameters) == set(gradients) == {"weight"}, (
            "step takes model.parameters and model.gradients"
        )
        self.events.append("step")


def run_fit(n=10, **options):
    spy, x = Spy(), np.arange(n, dtype=np.float64)[:, None]
    options = {"epochs": 2, "batch_size": 4, "rng": np.random.default_rng(0)} | options
    return spy, backprop.fit(spy, spy.loss, spy, x, 100 + np.arange(n), **options)


@pytest.mark.grades("fit")
def test_fit_visits_every_sample_once():
    """Each epoch: every sample once with its own target, in batches of the size asked for."""
    spy, _ = run_fit()
    sizes = [len(output) for output, _ in spy.batches]
    assert sizes != [4, 4, 4, 4], "the last batch, which is smaller, is dropped: its samples are never seen"
    assert sizes == [4, 4, 2] * 2, (
        f"10 samples, batch_size 4, 2 epochs: batches of {sizes}, expected {[4, 4, 2] * 2}"
    )
    for epoch in (spy.batches[:3], spy.batches[3:]):
        outputs = np.concatenate([output for output, _ in epoch])
        targets = np.concatenate([target for _, target in epoch])
        assert np.array_equal(targets, 100 + outputs), (
            "x is shuffled but the targets are not: they no longer match"
        )
        assert np.array_equal(np.sort(outputs), np.arange(10)), (
            "samples are drawn with replacement: visit each once"
        )


@pytest.mark.grades("fit")
def test_fit_shuffles():
    """The order is new in each epoch, repeats with the seed and changes with it."""

    def orders(seed):
        outputs = [output for output, _ in run_fit(epochs=3, rng=np.random.default_rng(seed))[0].batches]
        return [tuple(np.concatenate(outputs[start : start + 3])) for start in (0, 3, 6)]

    first = orders(0)
    assert tuple(range(10)) not in first, "the samples are never shuffled, or not in every epoch"
    assert len(set(first)) == 3, "every epoch has the same order: shuffle again"
    assert orders(0) == first, "the same seed gives another order: shuffle with rng"
    assert orders(1) != first, "another seed gives the same order: shuffle with rng"


@pytest.mark.grades("fit")
def test_fit_calls_in_order():
    """Per batch: forward, loss, its gradient, backward, step; in training mode, with the rng."""
    rng = np.random.default_rng(0)
    spy, _ = run_fit(rng=rng)
    expected = ["forward", "loss forward", "loss backward", "backward", "step"]
    assert spy.events[:5] == expected, f"per batch the calls are {spy.events[:5]}, expected {expected}"
    assert spy.events == expected * 6, "the calls per batch change along the way"
    assert all(training is True for training, _ in spy.modes), "the model is not run with training=True"
    assert all(given is rng for _, given in spy.modes), "the model does not get the rng: dropout needs it"


@pytest.mark.grades("fit")
def test_fit_returns_the_loss_per_sample():
    """One number per epoch, the mean over samples; no epochs, no numbers."""
    spy, history = run_fit()
    assert len(history) == 2, f"{len(history)} losses for 2 epochs"
    batch_means = [
        np.mean([output.mean() for output, _ in part]) for part in (spy.batches[:3], spy.batches[3:])
    ]
    assert_close(
        np.array(history),
        np.array([4.5, 4.5]),
        rtol=1e-12,
        what="history",
        vacuous_ok="the mean of 0..9 in any order",
        mistakes={
            "this is the mean of the batch means: the last, smaller batch counts too much": batch_means
        },
    )
    assert list(run_fit(epochs=0)[1]) == [], "epochs=0 must return an empty list"


@pytest.mark.grades("fit")
def test_fit_progress(capsys):
    """The bar is drawn on standard error, and only when asked for."""
    run_fit()
    quiet = capsys.readouterr()
    assert quiet.out + quiet.err == "", "fit prints without progress=True"
    run_fit(epochs=3, progress=True)
    loud = capsys.readouterr()
    assert "3/3" in loud.err, (
        f"progress=True must show epoch/epochs on standard error, which has {loud.err!r}"
    )
    assert "4.5" in loud.err, "progress=True must show the loss"
    assert loud.out == "", "the bar belongs to standard error, so that output can be piped"


@pytest.mark.grades("fit")
def test_fit_refuses():
    """Lengths that differ, nothing to learn from, an impossible batch size, mixed dtypes."""
    spy, rng = Spy(), np.random.default_rng(0)
    for x, targets, size, mention, otherwise in [
        (np.ones((3, 1)), np.ones(2), 4, "(2,)", "3 samples and 2 targets must be a ValueError"),
        (np.ones((0, 1)), np.ones(0), 4, "(0, 1)", "no samples must be a ValueError"),
        (np.ones((3, 1)), np.ones(3), 0, "0", "batch_size 0 must be a ValueError"),
    ]:
        with expect_error(ValueError, mention, otherwise=otherwise):
            backprop.fit(spy, spy.loss, spy, x, targets, epochs=1, batch_size=size, rng=rng)
    mixed = "float32 data with float64 parameters is computed in float64 without a word: TypeError"
    with expect_error(TypeError, "float32", "float64", otherwise=mixed):
        backprop.fit(spy, spy.loss, spy, np.ones((3, 1), np.float32), np.ones(3), epochs=1, rng=rng)
    assert spy.events == [], "fit started to train before it refused the input"
