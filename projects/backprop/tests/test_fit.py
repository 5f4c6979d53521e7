"""fit: what it does with a model, a loss and an optimizer that write everything down."""

import numpy as np
import pytest
from spies import run_fit

import backprop
from shared.testing.checks import assert_close, expect_error, unchanged

# --- by hand: what is called, in which order ------------------------------------------------------------------


@pytest.mark.grades("fit")
def test_fit_visits_every_sample_once():
    """Each epoch: every sample once with its own target, in batches of the size asked for."""
    spy, _ = run_fit(backprop.fit)
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
@pytest.mark.parametrize(("n", "size"), [(8, 4), (3, 5), (3, 3), (5, 1)])
def test_fit_batches(n, size):
    """A size that divides the samples, one above them, all at once, one at a time."""
    spy, _ = run_fit(backprop.fit, n=n, batch_size=size, epochs=1)
    sizes = [len(output) for output, _ in spy.batches]
    expected = [size] * (n // size) + [n % size] * (n % size > 0)
    assert sizes == expected, f"{n} samples, batch_size {size}: batches of {sizes}, expected {expected}"


@pytest.mark.grades("fit")
def test_fit_hands_on_what_it_got(rng):
    """Samples and targets of any shape and dtype arrive as they are: images, and two numbers to learn for each."""
    for dtype in (np.float32, np.float64):
        x, targets = rng.standard_normal((5, 2, 3)).astype(dtype), rng.standard_normal((5, 2)).astype(dtype)
        with unchanged(x, targets):
            spy, _ = run_fit(backprop.fit, x=x, targets=targets, epochs=1, batch_size=2)
        for what, given, got in zip(
            ("x", "targets"), (x, targets), zip(*spy.inputs, strict=True), strict=True
        ):
            for batch in got:
                assert batch.shape[1:] == given.shape[1:], (
                    f"samples of {what} are {given.shape[1:]}, the batch holds {batch.shape[1:]}: fit must not reshape"
                )
                assert batch.dtype == dtype, f"{what} became {batch.dtype}: a silent cast"
            seen = np.concatenate(got)
            order = [np.flatnonzero((given == sample).reshape(5, -1).all(axis=1)).tolist() for sample in seen]
            assert sorted(order) == [[0], [1], [2], [3], [4]], (
                f"the batches hold other {what} than those given"
            )


@pytest.mark.grades("fit")
def test_fit_takes_64_samples_at_a_time():
    """The default of batch_size."""
    spy, _ = run_fit(backprop.fit, n=130, epochs=1, batch_size=None)
    sizes = [len(output) for output, _ in spy.batches]
    assert sizes == [64, 64, 2], f"130 samples in batches of {sizes}, expected 64, 64, 2"


@pytest.mark.grades("fit")
def test_fit_shuffles():
    """The order is new in each epoch, repeats with the seed and changes with it."""

    def orders(seed):
        spy, _ = run_fit(backprop.fit, epochs=3, rng=np.random.default_rng(seed))
        outputs = [output for output, _ in spy.batches]
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
    spy, _ = run_fit(backprop.fit, rng=rng)
    expected = ["forward", "loss forward", "loss backward", "backward", "step"]
    assert spy.events[:5] == expected, f"per batch the calls are {spy.events[:5]}, expected {expected}"
    assert spy.events == expected * 6, "the calls per batch change along the way"
    assert all(training is True for training, _ in spy.modes), "the model is not run with training=True"
    assert all(given is rng for _, given in spy.modes), "the model does not get the rng: dropout needs it"


@pytest.mark.grades("fit")
def test_fit_returns_the_loss_per_sample():
    """One number per epoch, the mean over samples; no epochs, no numbers."""
    spy, history = run_fit(backprop.fit)
    assert history is not None, "fit returns None: is a `return` missing?"
    assert len(history) == 2, f"{len(history)} losses for 2 epochs"
    parts = spy.batches[:3], spy.batches[3:]
    batch_means = [np.mean([output.mean() for output, _ in part]) for part in parts]
    batch_sums = [np.sum([output.mean() for output, _ in part]) for part in parts]
    assert_close(
        np.array(history),
        np.array([4.5, 4.5]),
        rtol=1e-12,
        what="history",
        vacuous_ok="the mean of 0..9 in any order",
        mistakes={
            "this is the mean of the batch means: the last, smaller batch counts too much": batch_means,
            "this is the sum of the batch means: take the mean over the samples": batch_sums,
            "this is the loss of the last batch alone": [part[-1][0].mean() for part in parts],
            "this is the sum over the samples: divide by their number": [45.0, 45.0],
        },
    )
    assert list(run_fit(backprop.fit, epochs=0)[1]) == [], "epochs=0 must return an empty list"


@pytest.mark.grades("fit")
def test_fit_refuses_different_lengths():
    """3 samples and 2 targets do not belong together, nor do 3 and 5."""
    for n_targets in (2, 5):
        with expect_error(
            ValueError,
            otherwise=f"3 samples and {n_targets} targets must be a ValueError: which belong together?",
        ):
            run_fit(backprop.fit, n=3, targets=np.ones(n_targets))
