"""Guidance and `sample`. Oracles: values worked by hand, and a sampler of the test's own."""

import math
from functools import partial

import pytest
import torch
from oracles import DOUBLE, Recorder, constant_denoiser, gaussian_denoiser

from diffusion_sampling import guided, sample
from shared.testing.checks import assert_close, expect_error, unchanged

CONDITIONAL, UNCONDITIONAL = gaussian_denoiser(3.0, 0.5), gaussian_denoiser(0.0, 2.0)
SIGMAS = torch.tensor([5.0, 2.0, 0.0], dtype=DOUBLE)
ALPHA_BARS = torch.tensor([0.2, 0.5, 1.0], dtype=DOUBLE)

# --- guidance ---------------------------------------------------------------------------------------------------------


@pytest.mark.grades("guided")
@pytest.mark.parametrize(
    ("w", "expected"),
    [
        (3.0, [[11.0], [-29.0]]),
        (1.03125, [[5.09375], [-5.375]]),
        (0.5, [[3.5], [1.0]]),
        (-1.0, [[-1.0], [19.0]]),
    ],
)
def test_guided_by_hand(w, expected):
    """D_cond = 5, D_uncond = 2: w = 3 gives 2 + 3·(5 - 2) = 11, w = 0.5 gives 3.5, w = -1 gives -1."""
    a, b = torch.tensor([[5.0], [-5.0]], dtype=DOUBLE), torch.tensor([[2.0], [7.0]], dtype=DOUBLE)
    expected = torch.tensor(expected, dtype=DOUBLE)
    mistakes = {
        "guidance as (1 - w): the weights of the two models are swapped": (1 - w) * a + w * b,
        "guidance as (1 + w)·conditional - w·unconditional: here w = 1 is the conditional model": (1 + w) * a
        - w * b,
        "the unconditional answer is missing": w * (a - b),
    }
    mistakes = {name: value for name, value in mistakes.items() if not torch.allclose(value, expected)}
    got = guided(constant_denoiser(a), constant_denoiser(b), w)(
        torch.zeros(2, 1, dtype=DOUBLE), torch.tensor(1.0)
    )
    assert_close(got, expected, what=f"guided answer, w = {w}", mistakes=mistakes)


@pytest.mark.grades("guided")
@pytest.mark.parametrize(("w", "name"), [(0, "unconditional"), (1, "conditional"), (0.0, "unconditional")])
def test_guided_ends(w, name, generator):
    """w = 0 is the unconditional model, w = 1 the conditional one."""
    x, sigma = torch.randn(5, 3, dtype=DOUBLE, generator=generator), torch.tensor(0.7)
    answers = {"conditional": CONDITIONAL(x, sigma), "unconditional": UNCONDITIONAL(x, sigma)}
    expected = answers.pop(name)
    mistakes = {f"guidance as (1 - w): w = {w} must be the {name} model": next(iter(answers.values()))}
    got = guided(CONDITIONAL, UNCONDITIONAL, w)(x, sigma)
    assert_close(got, expected, what=f"guided answer, w = {w}", mistakes=mistakes)


@pytest.mark.grades("guided")
def test_guided_asks_both_at_the_same_place(generator):
    """Both models get the caller's x and sigma, once; nothing is modified."""
    recorders = Recorder(CONDITIONAL), Recorder(UNCONDITIONAL)
    x, sigma = torch.randn(4, 3, generator=generator), torch.tensor([[0.5], [1.0], [2.0], [3.0]])
    with unchanged(x, sigma):
        guided(*recorders, 2.0)(x, sigma)
    for recorder in recorders:
        assert len(recorder.sigmas) == 1, f"a model was called {len(recorder.sigmas)} times for one answer"
        assert torch.equal(recorder.states[0], x), "a model was asked at another x"
        assert torch.equal(recorder.sigmas[0], sigma), "a model was asked at another sigma"


@pytest.mark.grades("guided")
@pytest.mark.parametrize("w", [math.nan, math.inf, -math.inf], ids=str)
def test_bad_w(w):
    """A scale that is not finite is refused."""
    with expect_error(ValueError, otherwise=f"w = {w} is accepted"):
        guided(CONDITIONAL, UNCONDITIONAL, w)(torch.ones(2, 1), torch.tensor(1.0))


# --- sample -----------------------------------------------------------------------------------------------------------


class Spy:
    """A sampler that remembers how it was called. Its states are multiples of where it starts: 1/2, 1/3, ..."""

    def __call__(self, denoiser, x, grid, **options):
        self.denoiser, self.x, self.grid, self.options = denoiser, x.clone(), grid, options
        self.without_gradients, self.pulled = not torch.is_grad_enabled(), 0
        for step in range(len(grid) - 1):
            self.pulled += 1
            yield denoiser(x, grid[0]) / (step + 2)


@pytest.mark.grades("sample")
@pytest.mark.parametrize("kind", ["sigmas", "alpha_bars"])
def test_sample_starts_at_the_noise_level(kind, generator):
    """Noise is multiplied by sigmas[0] where the grid falls, and left alone where it rises."""
    noise, spy = torch.randn(3, 2, generator=generator), Spy()
    grid = SIGMAS if kind == "sigmas" else ALPHA_BARS
    with unchanged(noise, grid):
        got = sample(spy, lambda x, sigma: x, noise, grid)
    assert got is not None, "sample returns None: return the last state"
    start = noise * 5.0 if kind == "sigmas" else noise
    mistakes = {
        "the initial noise is not multiplied by sigma_max": noise,
        "initial noise scaled by sqrt(sigma_max² + 1): that is DDPM's data plus noise": noise
        * math.sqrt(26.0),
        "the states of DDPM start at variance one: nothing to scale": noise * 0.2,
    }
    if kind == "alpha_bars":
        mistakes.pop("the initial noise is not multiplied by sigma_max")
    assert_close(spy.x, start, what="state at which the sampler starts", mistakes=mistakes)
    mistakes = {"this is the first state; return the last": start / 2}
    assert_close(got, start / 3, what="what sample returns", mistakes=mistakes)
    assert torch.equal(spy.grid, grid), "the sampler gets another grid"


@pytest.mark.grades("sample")
@pytest.mark.parametrize(
    "grid",
    [[3.0, 1.0, 0.5], [0.9, 0.4], [0.2, 0.5, 0.9], [0.9, 0.4, 0.0]],
    ids=str,
)
def test_sample_grids(grid, generator):
    """A grid may end above σ = 0 and below ᾱ = 1; which way it runs says what it is, whatever its values."""
    noise, spy = torch.randn(3, 2, generator=generator), Spy()
    sample(spy, lambda x, sigma: x, noise, torch.tensor(grid, dtype=DOUBLE))
    start = noise * grid[0] if grid[0] > grid[-1] else noise
    assert_close(spy.x, start, rtol=1e-6, what="state at which the sampler starts")


@pytest.mark.grades("sample")
@pytest.mark.parametrize(
    "grid",
    [
        [5.0, 2.0, 3.0, 0.0],
        [5.0, 2.0, 2.0, 0.0],
        [5.0, 1.0, -0.1],
        [0.0, 2.0, 5.0],
        [0.1, 0.5, 1.1],
        [0.0, 0.5, 1.0],
        [0.1, 0.5, 0.4, 1.0],
        [0.1, 0.5, 0.5, 1.0],
        [1.0],
        [],
    ],
    ids=str,
)
def test_sample_refuses_a_grid(grid):
    """A grid that neither falls nor rises, leaves its range, or has no step, is refused."""
    with expect_error(ValueError, otherwise=f"the grid {grid} is accepted"):
        sample(Spy(), UNCONDITIONAL, torch.ones(2, 3), torch.tensor(grid, dtype=DOUBLE))


@pytest.mark.grades("sample")
def test_sample_hands_options_on():
    """Options reach the sampler, with the denoiser itself."""
    spy = Spy()
    sample(spy, UNCONDITIONAL, torch.ones(2, 3), SIGMAS, eta=0.5, churn=2)
    assert spy.options == {"eta": 0.5, "churn": 2}, f"the options reach the sampler as {spy.options}"


@pytest.mark.grades("sample")
@pytest.mark.parametrize("kind", ["sigmas", "alpha_bars"])
@pytest.mark.parametrize("wrap", ["partial", "lambda"])
def test_sample_takes_any_callable(kind, wrap, generator):
    """A partial or a function around a sampler is a sampler: the grid alone says at which noise level it starts."""
    noise, spy = torch.randn(3, 2, generator=generator), Spy()

    def around(*args, **options):
        return spy(*args, eta=0.5, **options)

    sampler = partial(spy, eta=0.5) if wrap == "partial" else around
    grid = SIGMAS if kind == "sigmas" else ALPHA_BARS
    sample(sampler, lambda x, sigma: x, noise, grid, churn=2)
    assert spy.options == {"eta": 0.5, "churn": 2}, f"the options reach the sampler as {spy.options}"
    hint = "the grid says where to start, not which function the sampler is"
    start = noise * 5.0 if kind == "sigmas" else noise
    assert_close(spy.x, start, what="state at which the sampler starts", hint=hint)


@pytest.mark.grades("sample")
def test_sample_needs_no_gradients():
    """sample turns gradients off, also where the denoiser has parameters, and restores them afterwards."""
    parameter, spy = torch.ones(3, requires_grad=True), Spy()
    got = sample(spy, lambda x, sigma: x * parameter, torch.ones(2, 3), SIGMAS)
    assert spy.without_gradients, "sample keeps the graph of every step: it costs memory for nothing"
    assert not got.requires_grad, "the result carries a gradient"
    assert torch.is_grad_enabled(), "sample leaves gradients turned off"
    assert not got.is_inference(), (
        "sample runs in inference mode: its result cannot enter a loss, so nothing can be trained on samples"
    )
