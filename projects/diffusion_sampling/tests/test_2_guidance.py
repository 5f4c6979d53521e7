"""The judge of guidance. Oracles: values worked by hand, and that w = 0 and w = 1 are the two models themselves."""

import math

import pytest
import torch
from oracles import DOUBLE, Recorder, constant_denoiser, gaussian_denoiser

import guidance
from shared.testing.checks import assert_close, expect_error, unchanged

CONDITIONAL, UNCONDITIONAL = gaussian_denoiser(3.0, 0.5), gaussian_denoiser(0.0, 2.0)


@pytest.mark.grades("guided")
def test_guided_by_hand():
    """D_cond = 5, D_uncond = 2: w = 3 gives 2 + 3·(5 - 2) = 11, w = 0.5 gives 3.5, w = -1 gives -1."""
    x = torch.zeros(2, 1, dtype=DOUBLE)
    values = torch.tensor([[5.0], [-5.0]], dtype=DOUBLE), torch.tensor([[2.0], [7.0]], dtype=DOUBLE)
    for w, expected in ((3.0, [[11.0], [-29.0]]), (0.5, [[3.5], [1.0]]), (-1.0, [[-1.0], [19.0]])):
        denoiser = guidance.guided(constant_denoiser(values[0]), constant_denoiser(values[1]), w)
        a, b = values
        mistakes = {
            "guidance as (1 - w): the weights of the two models are swapped": (1 - w) * a + w * b,
            "guidance as (1 + w)·conditional - w·unconditional: here w = 1 is the conditional model": (1 + w)
            * a
            - w * b,
            "the unconditional answer is missing": w * (a - b),
        }
        mistakes = {
            k: v for k, v in mistakes.items() if not torch.allclose(v, torch.tensor(expected, dtype=DOUBLE))
        }
        got = denoiser(x, torch.tensor(1.0))
        assert_close(
            got, torch.tensor(expected, dtype=DOUBLE), what=f"guided answer, w = {w}", mistakes=mistakes
        )


@pytest.mark.grades("guided")
@pytest.mark.parametrize(("w", "which"), [(0.0, 1), (1.0, 0), (0, 1), (1, 0)])
def test_guided_ends(w, which, generator):
    """w = 0 and w = 1 give exactly the two denoisers, and do not call the other one."""
    recorders = Recorder(CONDITIONAL), Recorder(UNCONDITIONAL)
    x = 100 * torch.randn(50, 3, generator=generator)
    got = guidance.guided(*recorders, w)(x, torch.tensor(0.7))
    expected = (CONDITIONAL, UNCONDITIONAL)[which](x, torch.tensor(0.7))
    other = (CONDITIONAL, UNCONDITIONAL)[1 - which](x, torch.tensor(0.7))
    name = ("conditional", "unconditional")[which]
    assert not torch.equal(got, other), f"guidance as (1 - w): w = {w} must be the {name} model"
    assert torch.equal(got, expected), f"w = {w} must give the {name} answer to the last bit"
    assert not recorders[1 - which].sigmas, f"w = {w} calls the model whose answer it does not need"


@pytest.mark.grades("guided")
def test_guided_asks_both_at_the_same_place(generator):
    """Both models get the caller's x and sigma; nothing is modified."""
    recorders = Recorder(CONDITIONAL), Recorder(UNCONDITIONAL)
    x, sigma = torch.randn(4, 3, generator=generator), torch.tensor([[0.5], [1.0], [2.0], [3.0]])
    with unchanged(x, sigma):
        guidance.guided(*recorders, 2.0)(x, sigma)
    for recorder in recorders:
        assert len(recorder.sigmas) == 1, f"a model was called {len(recorder.sigmas)} times for one answer"
        assert torch.equal(recorder.states[0], x), "a model was asked at another x"
        assert torch.equal(recorder.sigmas[0], sigma), "a model was asked at another sigma"


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


@pytest.mark.parametrize("function", ["guided", "guided_labels"])
@pytest.mark.parametrize("w", [math.nan, math.inf], ids=str)
def test_bad_w(function, w):
    """A scale that is not finite is refused at once."""
    with expect_error(ValueError, str(w), otherwise=f"w = {w} is accepted"):
        if function == "guided":
            guidance.guided(CONDITIONAL, UNCONDITIONAL, w)
        else:
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
