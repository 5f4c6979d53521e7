"""The judge of guidance.py. Oracles: values worked by hand."""

import math

import pytest
import torch
from oracles import DOUBLE, Recorder, constant_denoiser

import guidance
from shared.testing.checks import assert_close, expect_error


def table(x, sigma, labels):
    """A network of its labels: class k answers with 10·k + x·sigma."""
    return (10.0 * labels).to(x.dtype).reshape(-1, *[1] * (x.ndim - 1)) + x * sigma


@pytest.mark.grades("guided_labels")
@pytest.mark.parametrize("w", [0, 1, 0.0, 1.0, 2.5, -0.5])
def test_guided_labels(w, generator):
    """Each sample is steered to its own class: 10·label against 10·no_class, with no_class = 4."""
    x, labels, calls = torch.randn(3, 2, 1, dtype=DOUBLE, generator=generator), torch.tensor([2, 0, 3]), []

    def network(x, sigma, labels):
        assert len(labels) == len(x), f"{len(labels)} labels for a batch of {len(x)}"
        calls.append(len(x))
        return table(x, sigma, labels)

    denoiser = guidance.guided_labels(network, labels, w, no_class=4)
    for sigma in (
        torch.tensor(0.5, dtype=DOUBLE),
        torch.tensor([0.5, 1.0, 2.0], dtype=DOUBLE).reshape(3, 1, 1),
    ):
        calls.clear()
        got = denoiser(x, sigma)
        conditional, unconditional = 10.0 * labels.double().reshape(3, 1, 1), 40.0
        expected = unconditional + w * (conditional - unconditional) + x * sigma
        mistakes = {
            "guidance as (1 - w): the weights of the two answers are swapped": conditional
            + w * (unconditional - conditional)
            + x * sigma,
        }
        assert_close(got, expected, rtol=1e-12, what=f"guided answer, w = {w}", mistakes=mistakes)
        assert calls == [3 if w in (0, 1) else 6], (
            f"batches of {calls}: w = {w} needs one call, doubled unless w is 0 or 1"
        )


@pytest.mark.grades("guided_labels")
@pytest.mark.parametrize("w", [math.nan, math.inf], ids=str)
def test_bad_w(w):
    """A scale that is not finite is refused at once."""
    with expect_error(ValueError, str(w), otherwise=f"w = {w} is accepted"):
        guidance.guided_labels(table, torch.tensor([1]), w, no_class=4)


@pytest.mark.grades("clip_x0")
def test_clip_x0():
    """Only the answer is clamped; x and sigma reach the denoiser as they are."""
    recorder = Recorder(constant_denoiser(torch.tensor([[-3.0], [0.5], [0.8], [9.0]])))
    x, sigma = torch.tensor([[7.0], [-7.0], [0.1], [0.2]]), torch.tensor(2.0)
    mistakes = {"the range is ignored: this is -1 to 1": torch.tensor([[-1.0], [0.5], [0.8], [1.0]])}
    got = guidance.clip_x0(recorder, -2.0, 0.6)(x, sigma)
    assert_close(got, torch.tensor([[-2.0], [0.5], [0.6], [0.6]]), what="clipped answer", mistakes=mistakes)
    assert torch.equal(recorder.states[0], x), "the noisy state was clipped: only the answer is"
    got = guidance.clip_x0(recorder)(x, sigma)
    assert_close(got, torch.tensor([[-1.0], [0.5], [0.8], [1.0]]), what="clipped answer, default range")
    with expect_error(ValueError, "1.0", otherwise="low = high is accepted"):
        guidance.clip_x0(recorder, 1.0, 1.0)


@pytest.mark.grades("guided_labels")
@pytest.mark.parametrize("w", [0, 1, 2.5])
def test_every_level_is_taken(w, generator):
    """A float, and levels of shape (), (1,), (1, 1, 1), (batch,) and (batch, 1, 1), whichever w: one call or a doubled batch."""
    from preconditioning import precondition

    x, labels = torch.randn(3, 2, 1, dtype=DOUBLE, generator=generator), torch.tensor([2, 0, 3])
    network = precondition(
        lambda x, c_noise, labels: table(x, c_noise.reshape(-1, 1, 1), labels), sigma_data=0.7
    )
    denoiser = guidance.guided_labels(network, labels, w, no_class=4)
    expected = denoiser(x, torch.tensor(0.5, dtype=DOUBLE))
    one = torch.tensor(0.5, dtype=DOUBLE)
    for level in (0.5, one.reshape(1), one.reshape(1, 1, 1), one.expand(3), one.expand(3, 1, 1)):
        what = f"guided answer, w = {w}, sigma {level if isinstance(level, float) else tuple(level.shape)}"
        assert_close(denoiser(x, level), expected, rtol=1e-12, what=what)


@pytest.mark.grades("guided_labels")
def test_two_levels_for_two_samples():
    """The levels of a doubled batch are doubled, two of them as well."""
    x, sigma, seen = torch.ones(2, 3, dtype=DOUBLE), torch.tensor([0.5, 2.0], dtype=DOUBLE), []

    def network(x, sigma, labels):
        seen.append(sigma.tolist())
        return table(x, sigma[:, None], labels)

    guidance.guided_labels(network, torch.tensor([2, 0]), 2.5, no_class=4)(x, sigma)
    assert seen == [[0.5, 2.0, 0.5, 2.0]], f"the network is asked at {seen}"


@pytest.mark.grades("guided_labels")
@pytest.mark.parametrize("w", [0, 1, 2.5])
@pytest.mark.parametrize("shape", [(1,), (3, 1), (5,)], ids=str)
def test_labels_of_another_batch(w, shape):
    """One label per sample: others are broadcast in a network, or fail far from here."""
    denoiser = guidance.guided_labels(table, torch.ones(shape, dtype=torch.long), w, no_class=4)
    with expect_error(ValueError, otherwise="labels of another batch are accepted"):
        denoiser(torch.ones(3, 2), torch.tensor(0.5))
