"""The layers with two modes, training and evaluation: BatchNorm and Dropout."""

import numpy as np
import pytest
import torch
from norm_oracles import normalise, wrong_normalisation_gradient

import regularization
from shared.testing.checks import assert_close, expect_error, unchanged
from shared.testing.gradients import random_cotangent

# --- BatchNorm's two modes ------------------------------------------------------------------------------------


def batch_norm_pair(rng):
    """Return our BatchNorm and torch's after three training batches with momentum 0.3."""
    ours = regularization.BatchNorm(3, momentum=0.3, eps=1e-2, dtype=np.float64)
    theirs = torch.nn.BatchNorm1d(3, momentum=0.3, eps=1e-2, dtype=torch.float64)
    for name, parameter in ours.parameters.items():
        parameter[...] = random_cotangent((3,), rng)
        getattr(theirs, name).data = torch.tensor(parameter)
    batches = [scale * random_cotangent((5, 3), rng) + [1.0, -2.0, 5.0] for scale in (1.0, 2.0, 3.0)]
    for x in batches:
        ours.forward(x, training=True)
        theirs(torch.tensor(x))
    return ours, theirs, batches


def running_after(batches, what, *, ddof=1, momentum=0.3):
    value = {"mean": np.zeros(3), "var": np.ones(3)}[what]
    for x in batches:
        batch = x.mean(0) if what == "mean" else x.var(0, ddof=ddof)
        value = (1 - momentum) * value + momentum * batch
    return value


@pytest.mark.grades("BatchNorm")
def test_batchnorm_running_statistics(rng):
    """Running mean and variance move as torch's do."""
    ours, theirs, batches = batch_norm_pair(rng)
    for what in ("mean", "var"):
        assert_close(
            getattr(ours, f"running_{what}"),
            getattr(theirs, f"running_{what}").numpy(),
            rtol=1e-12,
            what=f"running_{what}",
            mistakes={
                "the running variance must be unbiased: divide by n - 1": running_after(
                    batches, what, ddof=0
                ),
                "momentum is the weight of the new batch, not of the old value": (
                    running_after(batches, what, momentum=0.7)
                ),
                "the momentum that was given is ignored": running_after(batches, what, momentum=0.1),
                "the running statistics never move": {"mean": np.zeros(3), "var": np.ones(3)}[what],
            },
        )


@pytest.mark.grades("BatchNorm")
def test_batchnorm_evaluation(rng):
    """Evaluation uses the running statistics, leaves them alone, and differentiates them as constants."""
    ours, theirs, _ = batch_norm_pair(rng)
    theirs.eval()
    x, cotangent = random_cotangent((4, 3), rng), random_cotangent((4, 3), rng)
    x_torch = torch.tensor(x, requires_grad=True)
    y_torch = theirs(x_torch)
    (y_torch * torch.tensor(cotangent)).sum().backward()
    before = ours.running_mean.copy(), ours.running_var.copy()
    p = ours.parameters
    assert_close(
        ours.forward(x),
        y_torch.detach().numpy(),
        rtol=1e-12,
        what="evaluation output",
        mistakes={"evaluation uses the batch's statistics": lambda: normalise(x, p, 0, 1e-2)},
    )
    assert np.array_equal(before, (ours.running_mean, ours.running_var)), (
        "evaluation moved the running statistics: predictions would then depend on what was predicted before"
    )
    assert_close(
        ours.backward(cotangent),
        x_torch.grad.numpy(),
        rtol=1e-10,
        what="gradient in evaluation",
        mistakes={
            "in evaluation the statistics are constants: no path leads through them": lambda: (
                wrong_normalisation_gradient(0, 1e-2, "both")(x, cotangent, p)
            )
        },
        hint="in evaluation the statistics are constants: the gradient is weight / sqrt(running_var + eps) alone",
    )
    assert_close(
        ours.gradients["weight"],
        theirs.weight.grad.numpy(),
        rtol=1e-10,
        what="gradient of weight in evaluation",
    )
    assert_close(
        ours.gradients["bias"], theirs.bias.grad.numpy(), rtol=1e-10, what="gradient of bias in evaluation"
    )
    alone = np.concatenate([ours.forward(row[None]) for row in x])
    assert_close(alone, y_torch.detach().numpy(), rtol=1e-12, what="rows evaluated one at a time")


@pytest.mark.grades("BatchNorm")
def test_batchnorm_needs_two_rows():
    """A batch of one has no variance, and other ranks have no batch axis that is agreed on."""
    layer = regularization.BatchNorm(3)
    for shape in [(1, 3), (0, 3), (2, 4, 3), (3,)]:
        with expect_error(
            ValueError, str(shape), otherwise=f"training on shape {shape} must be a ValueError"
        ):
            layer.forward(np.ones(shape, np.float32), training=True)


# --- Dropout --------------------------------------------------------------------------------------------------


@pytest.mark.grades("Dropout")
def test_dropout_in_evaluation(rng):
    """Off by default: evaluation returns x and passes the gradient on."""
    layer, x = regularization.Dropout(0.4), random_cotangent((6, 7), rng)
    diagnosis = {"evaluation scales by 1 - p: inverted dropout has done that in training": 0.6 * x}
    hint = "dropout is active in evaluation: predictions would be random"
    assert_close(layer.forward(x, rng=rng), x, what="evaluation output", mistakes=diagnosis, hint=hint)
    assert_close(layer.backward(2 * x), 2 * x, what="evaluation gradient")


@pytest.mark.grades("Dropout")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dropout_mask(dtype, rng):
    """Each entry is dropped on its own with probability p, and the others are divided by 1 - p."""
    layer, x = regularization.Dropout(0.3), random_cotangent((200, 300), rng).astype(dtype)
    with unchanged(x):
        y = layer.forward(x, training=True, rng=rng)
    kept = y != 0
    assert_close(
        y,
        np.where(kept, x.astype(np.float64) / 0.7, 0.0),
        dtype=dtype,
        what="training output",
        mistakes={
            "the kept entries are not divided by 1 - p: their expectation shrinks": np.where(kept, x, 0.0),
            "the kept entries are divided by p: divide by the probability of keeping": np.where(
                kept, x / 0.3, 0.0
            ),
        },
    )
    together = max(kept.mean(axis=0).std(), kept.mean(axis=1).std())
    assert together < 0.1, (
        "whole rows or columns are dropped together: draw one number per entry, of x's shape"
    )
    share = 1 - kept.mean()
    assert abs(share - 0.3) < 0.01, (
        f"{share:.2%} of the entries were dropped, p = 30%: is p the keeping probability?"
    )
    gradient = layer.backward(np.ones_like(x))
    assert gradient.dtype == dtype, (
        f"the gradient is {gradient.dtype} for {np.dtype(dtype)} input: a silent cast"
    )
    assert np.array_equal(gradient != 0, kept), "backward uses another mask than forward did"
    assert_close(gradient, np.where(kept, 1 / 0.7, 0.0), dtype=dtype, what="gradient of x")


@pytest.mark.grades("Dropout")
def test_dropout_draws_from_rng():
    """The mask comes from rng: new each time, the same for the same seed."""
    layer, x = regularization.Dropout(), np.ones((20, 30))
    rng = np.random.default_rng(5)
    first, second = (layer.forward(x, training=True, rng=rng).copy() for _ in range(2))
    again = layer.forward(x, training=True, rng=np.random.default_rng(5))
    assert not np.array_equal(first, second), "the mask is the same on every forward: draw a new one"
    assert np.array_equal(first, again), "the same seed gave another mask: draw from rng only"
    with expect_error(
        ValueError, otherwise="training without rng must be a ValueError, not a hidden global seed"
    ):
        layer.forward(x, training=True)
    quiet = regularization.Dropout(0.0)
    assert np.array_equal(quiet.forward(x, training=True), x), "p = 0 drops nothing and needs no rng"


@pytest.mark.grades("Dropout")
@pytest.mark.parametrize("dtype", [np.uint8, np.int64], ids=str)
def test_dropout_of_integers(dtype, rng):
    """In whole numbers 1 - p is 0: refused by name."""
    x = np.ones((4, 3), dtype)
    with expect_error(TypeError, str(x.dtype), otherwise=f"{x.dtype} is accepted in training"):
        regularization.Dropout(0.4).forward(x, training=True, rng=rng)


@pytest.mark.grades("Dropout")
@pytest.mark.parametrize("p", [-0.1, 1.0, 1.5, float("nan")])
def test_dropout_refuses_p(p):
    """P outside [0, 1) is refused by value."""
    with expect_error(ValueError, str(p), otherwise=f"p = {p} must be a ValueError"):
        regularization.Dropout(p)
