"""The judge of checked.py: what is refused, in which step, and that nothing else changes."""

import math
from functools import partial

import pytest
import torch
from oracles import DOUBLE, Recorder, fails_at, gaussian_denoiser, seeded

import checked
import diffusion_sampling
from churn import churned
from multistep import dpm_solver_2m
from shared.testing.checks import assert_close, expect_error, unchanged

EDM, VP = ["euler", "heun", "dpm_solver_2m"], ["ddim", "ddpm"]
STANDARD = gaussian_denoiser(0.0, 1.0)
SIGMAS = torch.tensor([5.0, 2.0, 0.7, 0.3, 0.0], dtype=DOUBLE)
ALPHA_BARS = torch.tensor([0.05, 0.3, 0.6, 0.9, 1.0], dtype=DOUBLE)


def sampler_of(name):
    return dpm_solver_2m if name == "dpm_solver_2m" else getattr(diffusion_sampling, name)


def grid_of(name):
    return SIGMAS if name in EDM else ALPHA_BARS


def run(name, denoiser, x, grid, **options):
    """All states of a checked sampler."""
    return list(checked.checked(sampler_of(name))(denoiser, x, grid, **options))


@pytest.mark.grades("checked")
@pytest.mark.parametrize("name", EDM + VP)
def test_states_are_the_same(name, generator):
    """A checked sampler yields the same states from the same draws, one at a time."""
    x, options = torch.randn(3, 2, generator=generator), {"generator": seeded()} if name == "ddpm" else {}
    expected = list(sampler_of(name)(STANDARD, x, grid_of(name), **options))
    options = {"generator": seeded()} if name == "ddpm" else {}
    recorder = Recorder(STANDARD)
    states = checked.checked(sampler_of(name))(recorder, x, grid_of(name), **options)
    first = next(states)
    assert len(recorder.sigmas) <= 2, "a checked sampler computes a step before it is asked for it"
    got = [first, *states]
    assert len(got) == len(expected), f"{len(got)} states, the sampler itself yields {len(expected)}"
    for state, other in zip(got, expected, strict=True):
        assert torch.equal(state, other), "checking changed a state"


@pytest.mark.grades("checked")
@pytest.mark.parametrize("name", EDM)
@pytest.mark.parametrize(
    ("grid", "mention"),
    [
        ([0.0, 2.0, 5.0], "step 0"),
        ([5.0, 2.0, 3.0, 0.0], "step 1"),
        ([0.3, 0.6, 0.1], "step 0"),
        ([5.0, 2.0, 2.0, 0.0], "step 1"),
        ([5.0, 1.0, 0.0, 0.0], "step"),  # either zero may be blamed
        ([5.0, 1.0, -0.1], "step 1"),
        ([-1.0, -2.0], "step 0"),
        ([math.inf, 1.0, 0.0], "step 0"),
        ([5.0, math.nan, 0.0], "step 0"),
    ],
    ids=str,
)
def test_bad_sigmas(name, grid, mention):
    """A grid that does not fall, or is not positive before its end, is refused; the message names the step."""
    with expect_error(ValueError, mention, otherwise=f"sigmas = {grid} are accepted"):
        run(name, STANDARD, torch.ones(2, 3), torch.tensor(grid))


@pytest.mark.grades("checked")
@pytest.mark.parametrize("name", VP)
@pytest.mark.parametrize(
    ("grid", "step"),
    [
        ([1.0, 0.5, 0.1], 0),
        ([0.1, 0.5, 0.4, 1.0], 1),
        ([0.1, 0.5, 0.5, 1.0], 1),
        ([0.0, 0.5, 1.0], 0),
        ([0.1, 0.5, 1.1], 1),
        ([0.1, math.nan, 1.0], 0),
    ],
    ids=str,
)
def test_bad_alpha_bars(name, grid, step):
    """A grid that does not rise from above 0 to at most 1 is refused; the message names the step."""
    with expect_error(ValueError, f"step {step}", otherwise=f"alpha_bars = {grid} are accepted"):
        run(name, STANDARD, torch.ones(2, 3), torch.tensor(grid))


@pytest.mark.grades("checked")
@pytest.mark.parametrize("name", ["heun", "ddpm"])
@pytest.mark.parametrize("grid", [[], [1.0], [[3.0, 1.0]], [[3.0, 1.0], [2.0, 0.5]]], ids=str)
def test_no_grid(name, grid):
    """A grid has one axis and at least two levels."""
    shape = str(tuple(torch.tensor(grid).shape))
    with expect_error(ValueError, shape, otherwise=f"a grid of shape {shape} is accepted"):
        run(name, STANDARD, torch.ones(2, 3), torch.tensor(grid))


@pytest.mark.grades("checked")
@pytest.mark.parametrize("name", ["euler", "ddim"])
def test_integer_state(name):
    """A state of integers would round every step."""
    with expect_error(TypeError, "int64", otherwise="an integer state is accepted"):
        run(name, STANDARD, torch.ones(2, 3, dtype=torch.int64), grid_of(name))


@pytest.mark.grades("checked")
@pytest.mark.parametrize("name", EDM + VP)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf], ids=str)
def test_bad_answer(name, value):
    """NaN or inf from the denoiser stops the run at once; the message names the step (here step 2, counted from 0)."""

    def change(x0):
        x0 = x0.clone()
        x0[1, 2] = value
        return x0

    call = 4 if name == "heun" else 2
    with expect_error(ValueError, "step 2", otherwise=f"a denoiser that returns {value} goes unnoticed"):
        run(name, fails_at(call, STANDARD, change), torch.ones(2, 3), grid_of(name))


@pytest.mark.grades("checked")
def test_bad_answer_in_the_correction():
    """The second call of a Heun step is checked as well."""
    with expect_error(ValueError, "step 1", otherwise="NaN in the correction goes unnoticed"):
        run("heun", fails_at(3, STANDARD, lambda x0: x0 * math.nan), torch.ones(2, 3), SIGMAS)


@pytest.mark.grades("checked")
@pytest.mark.parametrize("name", ["euler", "heun", "ddpm"])
@pytest.mark.parametrize("shape", [(1, 3), (2, 1), (3,), (2, 3, 1), ()], ids=str)
def test_answer_of_another_shape(name, shape):
    """An answer of another shape would broadcast without a word; the message names the step and the shape."""
    wrong = fails_at(1 if name != "heun" else 2, STANDARD, lambda x0: torch.ones(shape))
    with expect_error(ValueError, "step 1", str(shape), otherwise=f"an answer of shape {shape} is broadcast"):
        run(name, wrong, torch.ones(2, 3), grid_of(name))


@pytest.mark.grades("checked")
@pytest.mark.parametrize("name", ["euler", "heun", "dpm_solver_2m"])
@pytest.mark.parametrize("grid", [[0.05, 0.3, 0.6, 1.0], [0.5, 1.0], [0.75, 1.0]], ids=str)
def test_alpha_bars_for_a_sampler_of_sigmas(name, grid):
    """A rising grid in (0, 1] is good for DDPM, and would walk any sampler of sigmas the wrong way without a word."""
    with expect_error(ValueError, "step 0", "alpha_bars", otherwise=f"{name} runs on alpha_bars"):
        run(name, STANDARD, torch.ones(2, 3), torch.tensor(grid))


@pytest.mark.grades("checked")
@pytest.mark.parametrize("name", VP)
@pytest.mark.parametrize("grid", [[5.0, 2.0, 0.0], [0.9, 0.4, 0.1], [0.5, 0.2]], ids=str)
def test_sigmas_for_a_sampler_of_alpha_bars(name, grid):
    """The same the other way round."""
    with expect_error(ValueError, "step 0", "sigmas", otherwise=f"{name} runs on sigmas"):
        run(name, STANDARD, torch.ones(2, 3), torch.tensor(grid))


@pytest.mark.grades("checked", "checked.sample")
@pytest.mark.parametrize("wrap", ["partial", "function", "object"])
def test_any_callable_is_a_sampler(wrap, generator):
    """A partial, a function or an object around ddim takes alpha_bars as ddim does, and starts at variance one."""
    noise = torch.randn(6, 2, generator=generator)
    ddim = sampler_of("ddim")

    class Sampler:
        def __call__(self, denoiser, x, grid):
            yield from ddim(denoiser, x, grid, eta=0.5, generator=seeded())

    def around(denoiser, x, grid):
        return ddim(denoiser, x, grid, eta=0.5, generator=seeded())

    def sampler():
        made = {
            "partial": partial(ddim, eta=0.5, generator=seeded()),
            "function": around,
            "object": Sampler(),
        }
        return made[wrap]

    expected = list(ddim(STANDARD, noise, ALPHA_BARS, eta=0.5, generator=seeded()))
    got = list(checked.checked(sampler())(STANDARD, noise, ALPHA_BARS))
    for state, other in zip(got, expected, strict=True):
        assert torch.equal(state, other), f"a {wrap} around ddim has other states when it is checked"
    got = checked.sample(sampler(), STANDARD, noise, ALPHA_BARS, progress=False)
    assert torch.equal(got, expected[-1]), f"sample of a {wrap} around ddim ends elsewhere than ddim"


@pytest.mark.grades("checked")
@pytest.mark.parametrize("churn", [1.0, 100.0])
def test_churn_may_be_checked(churn):
    """Churn asks first at a sigma that it has raised, by sqrt(2) at most: that is no other kind of grid."""
    x = torch.ones(2, 3)
    expected = list(churned(STANDARD, x, SIGMAS, churn=churn, generator=seeded()))
    got = list(checked.checked(churned)(STANDARD, x, SIGMAS, churn=churn, generator=seeded()))
    assert all(map(torch.equal, got, expected)), "checking changed a state"


@pytest.mark.grades("checked")
@pytest.mark.parametrize("name", VP)
def test_alpha_bars_may_end_below_one(name):
    """As sigmas may end above 0: the contract of the core."""
    options = ({"generator": seeded()} if name == "ddpm" else {} for _ in range(2))
    expected = list(sampler_of(name)(STANDARD, torch.ones(2, 3), ALPHA_BARS[:4], **next(options)))
    got = run(name, STANDARD, torch.ones(2, 3), ALPHA_BARS[:4], **next(options))
    assert all(map(torch.equal, got, expected)), "checking changed a state"


@pytest.mark.grades("checked")
def test_error_before_the_first_question():
    """What the sampler itself refuses keeps its reason."""
    with expect_error(ValueError, "eta", otherwise="eta = 2 is accepted"):
        run("ddim", STANDARD, torch.ones(2, 3), ALPHA_BARS, eta=2.0)


@pytest.mark.grades("checked", "checked.sample")
@pytest.mark.parametrize("value", [math.nan, math.inf], ids=str)
def test_start_is_finite(value):
    """NaN in the noise is no fault of the denoiser."""
    x = torch.ones(2, 3)
    x[1, 0] = value
    with expect_error(ValueError, "finite", otherwise=f"x with {value} is accepted"):
        run("euler", STANDARD, x, SIGMAS)
    with expect_error(ValueError, "x must be finite", otherwise="the denoiser is blamed for the noise"):
        checked.sample(sampler_of("ddim"), STANDARD, x, ALPHA_BARS, progress=False)


@pytest.mark.grades("checked")
@pytest.mark.parametrize("name", ["euler", "ddim"])
def test_dtype_of_the_answer(name):
    """float64 answers would turn the state into float64; those of a network in bfloat16 are fine."""
    x = torch.ones(2, 3)
    with expect_error(ValueError, "float64", otherwise="answers of float64 make a float32 state float64"):
        run(name, lambda x, sigma: STANDARD(x, sigma).double(), x, grid_of(name))
    states = run(name, lambda x, sigma: STANDARD(x, sigma).bfloat16(), x, grid_of(name))
    assert {state.dtype for state in states} == {torch.float32}, "bfloat16 answers changed the state's dtype"


@pytest.mark.grades("checked")
def test_large_answers_are_fine():
    """Finite values whose sum overflows are no error."""
    x = torch.full((4, 3), 1e38)
    (state,) = run("euler", lambda x, sigma: torch.full_like(x, 2e38), x, SIGMAS[-2:])
    assert bool(torch.isfinite(state).all()), f"finite values became {state}"


# --- sample -----------------------------------------------------------------------------------------------------------


@pytest.mark.grades("checked.sample")
@pytest.mark.parametrize("name", EDM + VP)
def test_sample(name, generator):
    """Noise is scaled by sigmas[0] but for DDPM and DDIM; the last state comes back, without gradients."""
    noise, recorder = torch.randn(3, 2, generator=generator), Recorder(STANDARD)
    options = {"generator": seeded()} if name == "ddpm" else {}
    with unchanged(noise):
        got = checked.sample(sampler_of(name), recorder, noise, grid_of(name), progress=False, **options)
    start = noise * 5.0 if name in EDM else noise / math.sqrt(0.05)
    mistakes = {"the initial noise is not multiplied by sigma_max": noise}
    assert_close(recorder.states[0], start, what="first state the denoiser sees", mistakes=mistakes)
    options = {"generator": seeded()} if name == "ddpm" else {}
    *_, last = sampler_of(name)(STANDARD, noise * 5.0 if name in EDM else noise, grid_of(name), **options)
    assert_close(got, last, what="what sample returns, against the sampler's last state")
    parameter = torch.ones(2, requires_grad=True)
    got = checked.sample(
        sampler_of(name), lambda x, s: x * parameter / 2, noise, grid_of(name), progress=False
    )
    assert not got.requires_grad, "sample keeps the graph of every step: it costs memory for nothing"
    assert torch.is_grad_enabled(), "sample leaves gradients turned off"


@pytest.mark.grades("checked.sample")
@pytest.mark.parametrize("grid", [[], [0.0, 5.0], [[5.0, 0.0]]], ids=str)
def test_sample_refuses_a_grid(grid):
    """What `checked` refuses, `sample` refuses."""
    with expect_error(ValueError, otherwise=f"the grid {grid} is accepted"):
        checked.sample(sampler_of("euler"), STANDARD, torch.ones(2, 3), torch.tensor(grid), progress=False)


@pytest.mark.grades("checked.sample")
def test_sample_is_quiet(capsys):
    """progress=False prints nothing, and neither does a bar where the output is no terminal."""
    for progress in (False, True):
        checked.sample(sampler_of("euler"), STANDARD, torch.ones(2, 3), SIGMAS, progress=progress)
    captured = capsys.readouterr()
    assert captured.out == "", f"sample prints to stdout: {captured.out!r}"
    assert captured.err == "", f"a progress bar is shown where the output is no terminal: {captured.err!r}"


@pytest.mark.grades("checked.sample")
def test_sample_shows_a_bar(capsys, monkeypatch):
    """On a terminal the bar counts the steps of the named sampler, unless progress=False."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    for progress, shown in ((True, True), (False, False)):
        checked.sample(sampler_of("euler"), STANDARD, torch.ones(2, 3), SIGMAS, progress=progress)
        bar = capsys.readouterr().err
        assert ("/4" in bar) == shown, f"progress={progress} on a terminal prints {bar!r}"
        assert ("euler" in bar) == shown, f"the bar does not name its sampler: {bar!r}"
