"""SGD and Adam: the contract, steps by hand, then a hundred steps beside the closed form of their sums."""

import numpy as np
import pytest
from oracles import copies
from paths import STEPS, adam_path, momentum_path, one_by_one, run, start

import backprop
from shared.testing.checks import assert_close, unchanged

OPTIONS = {
    "SGD": [{"lr": 0.03}, {"lr": 0.03, "momentum": 0.8}],
    "Adam": [{}, {"lr": 0.02}, {"betas": (0.8, 0.95)}, {"eps": 1e-2}, {"lr": 0.02, "betas": (0.7, 0.9)}],
}
PATHS = {"SGD": momentum_path, "Adam": adam_path}
DEFAULTS = {"SGD": {"momentum": 0.0}, "Adam": {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8}}
CASES = [(function, options) for function, several in OPTIONS.items() for options in several]
every_optimizer = pytest.mark.parametrize("function", OPTIONS)


def make(function, options):
    return getattr(backprop, function)(**options)


# --- contract -------------------------------------------------------------------------------------------------


@every_optimizer
def test_step_updates_in_place(function, rng):
    """The arrays that were handed in change; the gradients do not, however often they were looked at."""
    for options in OPTIONS[function]:
        optimizer, (parameters, gradients) = make(function, options), start(rng)
        arrays, before = dict(parameters), {name: value.copy() for name, value in parameters.items()}
        with unchanged(*(array for gradient in gradients[:4] for array in gradient.values())):
            for gradient in gradients[:4]:
                optimizer.step(parameters, gradient)
        for name, array in arrays.items():
            assert parameters[name] is array, (
                f"step put a new array in the dict: the layer keeps the old {name}"
            )
            assert not np.array_equal(array, before[name]), (
                f"{name} did not change: update the array in place"
            )


@every_optimizer
def test_parameter_dtype_is_kept(function, rng):
    """float32 parameters stay float32."""
    for dtype in (np.float32, np.float64):
        parameters, gradients = start(rng, dtype)
        for name, value in run(make(function, OPTIONS[function][1]), parameters, gradients[:2]).items():
            assert value.dtype == dtype, f"{name} became {value.dtype}: a silent cast"


@every_optimizer
def test_step_keeps_no_gradient(function, rng):
    """The arrays that hold the gradients may be filled anew for the next step."""
    parameters, gradients = start(rng)
    buffers = copies(gradients[0])
    for options in OPTIONS[function]:
        expected, got = copies(parameters), copies(parameters)
        one, other = make(function, options), make(function, options)
        for gradient in gradients[:4]:
            one.step(expected, gradient)
            for name, value in gradient.items():
                buffers[name][...] = value
            other.step(got, buffers)
        hint = "the optimizer keeps the gradient's own array, which the next backward may overwrite: keep numbers"
        for name, value in expected.items():
            assert_close(got[name], value, rtol=1e-12, what=name, hint=hint)


@every_optimizer
def test_step_moves_what_it_is_given(function, rng):
    """Some of the parameters, with the gradients of all: the others are frozen."""
    parameters, (gradient, *_) = start(rng)
    optimizer = make(function, OPTIONS[function][-1])
    given, before = {"bias": parameters["bias"]}, parameters["bias"].copy()
    try:
        optimizer.step(given, gradient)
    except KeyError as error:
        raise AssertionError(
            f"a gradient without a parameter stops the step: go by the parameters ({error})"
        ) from error
    assert set(given) == {"bias"}, f"step added parameters: {set(given)}"
    assert not np.array_equal(before, parameters["bias"]), "bias did not change"


# --- by hand --------------------------------------------------------------------------------------------------


@pytest.mark.grades("SGD")
def test_sgd_by_hand():
    """Gradients 2, then 3: the velocity is 2, then 0.5·2 + 3 = 4."""
    uphill = {"the gradient is added: go down, not up": [1.2, 1.5]}
    assert_close(one_by_one(backprop.SGD(0.1), [2.0, 3.0]), [0.8, 0.5], n=10, what="path", mistakes=uphill)
    mistakes = {
        "the momentum that was given is ignored": [0.8, 0.5],
        "the new gradient is multiplied by 1 - momentum: the velocity adds it whole": [0.9, 0.7],
    }
    path = one_by_one(backprop.SGD(0.1, momentum=0.5), [2.0, 3.0])
    assert_close(path, [0.8, 0.4], n=10, what="path with momentum", mistakes=mistakes)


@pytest.mark.grades("Adam")
def test_adam_by_hand():
    """Under a constant gradient every step is exactly lr, whatever the gradient's size."""
    options = {"lr": 0.1, "betas": (0.5, 0.9375), "eps": 0.0}
    for size in (2.0, -0.001):
        path = one_by_one(backprop.Adam(**options), [size] * 3)
        uncorrected = adam_path(np.ones(1), np.full((3, 1), size), **options, corrected=False)
        assert_close(
            path,
            1 - np.sign(size) * np.array([0.1, 0.2, 0.3]),
            rtol=1e-12,
            what=f"path under the gradient {size}",
            mistakes={
                "the moments are not corrected for their start at zero: divide by 1 - βᵗ": uncorrected[:, 0],
                "the gradient is added: go down, not up": 1 + np.sign(size) * np.array([0.1, 0.2, 0.3]),
            },
        )


# --- beside the closed form -----------------------------------------------------------------------------------


def likely_mistakes(function, options, first, gradients):
    """Return diagnosis -> values of one parameter after the hundred steps."""
    given = DEFAULTS[function] | options

    def last(**changed):
        return lambda: PATHS[function](first, gradients, **(given | changed))[-1]

    found = {
        f"{option} is ignored": last(**{option: DEFAULTS[function][option]})
        for option in options
        if option in DEFAULTS[function]
    }
    if function == "SGD":
        scaled = (1 - given["momentum"]) * gradients
        found["the new gradient is multiplied by 1 - momentum: the velocity adds it whole"] = lambda: (
            momentum_path(first, scaled, **given)[-1]
        )
        found["this is Nesterov's step, which looks one step ahead"] = last(nesterov=True)
    if function == "Adam":
        found["the moments are not corrected for their start at zero: divide by 1 - βᵗ"] = last(
            corrected=False
        )
        found["eps is inside the root: add it outside"] = last(eps_inside=True)
        found["the betas are swapped"] = last(betas=given["betas"][::-1])
    return found


@pytest.mark.parametrize(
    ("function", "options"), CASES, ids=[f"{f}-{'-'.join(o) or 'default'}" for f, o in CASES]
)
def test_hundred_steps(function, options, rng):
    """After a hundred steps the parameters are where the closed form says, for each option."""
    parameters, gradients = start(rng)
    got = run(make(function, options), parameters, gradients)
    for name, first in parameters.items():
        history = np.array([gradient[name] for gradient in gradients])
        expected = PATHS[function](first, history, **(DEFAULTS[function] | options))[-1]
        mistakes = likely_mistakes(function, options, first, history)
        what = f"{name} after {STEPS} steps with {options or 'default options'}"
        assert_close(got[name], expected, rtol=1e-11, what=what, mistakes=mistakes)


@every_optimizer
def test_float32_follows_float64(function, rng):
    """A hundred float32 steps end where exact steps do; each of them rounds the parameter."""
    parameters, gradients = start(rng, np.float32)
    options = OPTIONS[function][-1]
    got = run(make(function, options), parameters, gradients)
    for name, first in parameters.items():
        history = np.array([gradient[name] for gradient in gradients], np.float64)
        expected = PATHS[function](first.astype(np.float64), history, **(DEFAULTS[function] | options))[-1]
        rtol = STEPS * float(np.finfo(np.float32).eps)
        assert_close(got[name], expected, dtype=np.float32, rtol=rtol, what=name)


@every_optimizer
def test_lr_may_change(function, rng):
    """A learning-rate schedule sets optimizer.lr between steps."""
    parameters, gradients = start(rng)
    options, lrs = OPTIONS[function][-1], 0.05 * (1 + np.cos(np.arange(STEPS)))
    got = run(make(function, options), parameters, gradients, lrs)
    hint = (
        "optimizer.lr is read once only, or kept in what is remembered: a schedule changes it between steps"
    )
    for name, first in parameters.items():
        history = np.array([gradient[name] for gradient in gradients])
        expected = PATHS[function](first, history, **(DEFAULTS[function] | options | {"lr": lrs}))[-1]
        assert_close(got[name], expected, rtol=1e-11, what=name, hint=hint)


@every_optimizer
def test_two_optimizers_share_nothing(function, rng):
    """A second optimizer starts from zero."""
    parameters, gradients = start(rng)
    options = OPTIONS[function][-1]
    first = run(make(function, options), parameters, gradients)
    second = run(make(function, options), parameters, gradients)
    for name, value in first.items():
        assert_close(second[name], value, rtol=1e-12, what=name, hint="two optimizers share their state")
