"""The optimizers with all options: one step by hand, then a hundred steps beside torch.optim."""

import numpy as np
import pytest
import torch
from oracles import copies
from paths import STEPS, adam_path, one_by_one, run, start

import optimizers
from shared.testing.checks import assert_close, assert_imports_only, expect_error, unchanged

pytestmark = pytest.mark.module("optimizers")
REQUIRED = {"SGD": {"lr": 0.05}, "RMSprop": {}, "Adam": {}, "AdamW": {}}
every_optimizer = pytest.mark.parametrize("function", REQUIRED)


def make(function, **options):
    return getattr(optimizers, function)(**(REQUIRED[function] | options))


def run_torch(function, parameters, gradients, lrs=None, **options):
    """Do the same as `run` with torch.optim."""
    tensors = {name: torch.tensor(value, requires_grad=True) for name, value in parameters.items()}
    optimizer = getattr(torch.optim, function)(list(tensors.values()), **(REQUIRED[function] | options))
    for t, gradient in enumerate(gradients):
        optimizer.param_groups[0]["lr"] = optimizer.param_groups[0]["lr"] if lrs is None else lrs[t]
        for name, tensor in tensors.items():
            tensor.grad = torch.tensor(gradient[name])
        optimizer.step()
    return {name: tensor.detach().numpy() for name, tensor in tensors.items()}


# --- contract -------------------------------------------------------------------------------------------------


@pytest.mark.grades
def test_imports_only_numpy():
    """The answer is written with NumPy alone."""
    assert_imports_only(optimizers, allowed={"numpy"})


@every_optimizer
def test_step_updates_in_place(function, rng):
    """The arrays that were handed in change; the gradients do not."""
    optimizer, (parameters, gradients) = make(function, weight_decay=0.1), start(rng)
    arrays, before = dict(parameters), {name: value.copy() for name, value in parameters.items()}
    with unchanged(*(array for gradient in gradients[:4] for array in gradient.values())):
        for gradient in gradients[:4]:
            optimizer.step(parameters, gradient)
    for name, array in arrays.items():
        assert parameters[name] is array, f"step put a new array in the dict: the layer keeps the old {name}"
        assert not np.array_equal(array, before[name]), f"{name} did not change: update the array in place"


@every_optimizer
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_is_kept(function, dtype, rng):
    """float32 parameters stay float32."""
    parameters, gradients = start(rng, dtype)
    for name, value in run(make(function), parameters, gradients[:2]).items():
        assert value.dtype == dtype, f"{name} became {value.dtype}: a silent cast"


@pytest.mark.parametrize(
    ("function", "options"),
    [(function, options) for function in REQUIRED for options in ({}, {"weight_decay": 0.1})]
    + [("SGD", {"momentum": 0.8}), ("RMSprop", {"momentum": 0.8})],
    ids=str,
)
def test_step_keeps_no_gradient(function, options, rng):
    """The arrays that hold the gradients may be filled anew for the next step."""
    parameters, gradients = start(rng)
    buffers, expected, got = copies(gradients[0]), copies(parameters), copies(parameters)
    one, other = make(function, **options), make(function, **options)
    for gradient in gradients[:4]:
        one.step(expected, gradient)
        for name, value in gradient.items():
            buffers[name][...] = value
        other.step(got, buffers)
    hint = "the optimizer keeps the gradient's own array, which the next backward may overwrite: keep numbers"
    for name, value in expected.items():
        assert_close(got[name], value, rtol=1e-12, what=name, hint=hint)


@every_optimizer
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_nan_reaches_the_parameter(function, weight_decay, rng):
    """NaN in one entry of a gradient makes that entry of the parameter NaN, and no other."""
    parameters, (gradient, *_) = start(rng)
    gradient["weight"][1, 2] = np.nan
    make(function, weight_decay=weight_decay).step(parameters, gradient)
    bad = {name: np.argwhere(~np.isfinite(value)).tolist() for name, value in parameters.items()}
    expected = {name: [[1, 2]] if name == "weight" else [] for name in parameters}
    assert bad == expected, f"NaN in gradient weight[1, 2] must reach that entry alone, NaN in {bad}"


@every_optimizer
def test_gradients_must_fit(function, rng):
    """A missing gradient, or one of another shape, is refused by name, and nothing has moved."""
    parameters, gradients = start(rng)
    bad = gradients[0] | {"bias": np.ones((3, 1))}
    missing = {name: value for name, value in gradients[0].items() if name != "bias"}
    with unchanged(*parameters.values()):
        with expect_error(
            ValueError, "bias", otherwise="a parameter without a gradient must be a ValueError"
        ):
            make(function, weight_decay=0.1).step(parameters, missing)
        with expect_error(
            ValueError, "bias", otherwise="a gradient of another shape would broadcast: refuse it"
        ):
            make(function, weight_decay=0.1).step(parameters, bad)


@pytest.mark.parametrize(
    ("function", "option", "value"),
    [
        *[
            (name, option, value)
            for name in REQUIRED
            for option in ("lr", "weight_decay")
            for value in (-0.5, float("nan"), float("inf"), "0.1", None)
        ],
        *[(name, "eps", -0.5) for name in ("RMSprop", "Adam", "AdamW")],
        *[(name, "momentum", value) for name in ("SGD", "RMSprop") for value in (-0.5, 1.0)],
        ("RMSprop", "alpha", 1.0),
        *[(name, "betas", betas) for name in ("Adam", "AdamW") for betas in ((1.5, 0.9), (0.9, -0.5))],
    ],
)
def test_options_in_range(function, option, value):
    """An impossible option is refused by value."""
    shown = next(str(v) for v in value if not 0 <= v < 1) if isinstance(value, tuple) else str(value)
    with expect_error(
        ValueError, option, shown, otherwise=f"{function}({option}={value}) must be a ValueError"
    ):
        make(function, **{option: value})


@every_optimizer
def test_one_array_under_two_names(function, rng):
    """It would be moved twice, each time by a part of its gradient: refused, and nothing has moved."""
    parameters, (gradient, *_) = start(rng)
    parameters["other"] = parameters["weight"]
    with (
        unchanged(*parameters.values()),
        expect_error(
            ValueError, "other", "weight", otherwise="one array under two names must be a ValueError"
        ),
    ):
        make(function, weight_decay=0.1).step(parameters, gradient)


@every_optimizer
@pytest.mark.parametrize("dtype", [np.float16, np.int64], ids=str)
def test_other_dtypes(function, dtype, rng):
    """In float16 an eps of 1e-8 is 0, and 0/0 is NaN: refused by name, and nothing has moved."""
    parameters = {"weight": np.ones((3, 4), dtype)}
    otherwise = f"parameters of {np.dtype(dtype)} must be a TypeError"
    with (
        unchanged(*parameters.values()),
        expect_error(TypeError, "weight", str(np.dtype(dtype)), otherwise=otherwise),
    ):
        make(function).step(parameters, {"weight": np.zeros((3, 4), dtype)})


@pytest.mark.grades("SGD")
def test_nesterov_needs_momentum():
    """Nesterov without momentum is a contradiction."""
    with expect_error(
        ValueError, "momentum", otherwise="SGD(nesterov=True) without momentum must be a ValueError"
    ):
        optimizers.SGD(0.1, nesterov=True)


# --- by hand --------------------------------------------------------------------------------------------------


@pytest.mark.grades("SGD")
def test_sgd_by_hand():
    """Gradients 2, then 3: the velocity is 2, then 0.5·2 + 3 = 4."""
    plain, momentum, nesterov = (
        optimizers.SGD(0.1),
        optimizers.SGD(0.1, momentum=0.5),
        optimizers.SGD(0.1, momentum=0.5, nesterov=True),
    )
    uphill = {"the gradient is added: go down, not up": [1.2, 1.5]}
    assert_close(one_by_one(plain, [2.0, 3.0]), [0.8, 0.5], what="path", mistakes=uphill)
    mistakes = {
        "the momentum that was given is ignored": [0.8, 0.5],
        "the new gradient is multiplied by 1 - momentum: the velocity adds it whole": [0.9, 0.7],
    }
    assert_close(one_by_one(momentum, [2.0, 3.0]), [0.8, 0.4], what="path with momentum", mistakes=mistakes)
    mistakes = {"nesterov is ignored: step along gradient + momentum · velocity": [0.8, 0.4]}
    assert_close(one_by_one(nesterov, [2.0, 3.0]), [0.7, 0.2], what="path with nesterov", mistakes=mistakes)


@pytest.mark.grades("RMSprop")
def test_rmsprop_by_hand():
    """Gradients 4, then 2: the mean square is 0.25·16 = 4, then 0.75·4 + 0.25·4 = 4."""
    path = one_by_one(optimizers.RMSprop(0.1, alpha=0.75, eps=0.0), [4.0, 2.0])
    mistakes = {
        "the gradient is divided by the mean square: take the root": [0.9, 0.85],
        "alpha weighs the new square instead of the old mean": [
            1 - 0.4 / 12**0.5,
            1 - 0.4 / 12**0.5 - 0.2 / 6**0.5,
        ],
    }
    assert_close(path, [0.8, 0.7], what="path", mistakes=mistakes)


@pytest.mark.parametrize("function", ["Adam", "AdamW"])
def test_adam_by_hand(function):
    """Under a constant gradient every step is exactly lr, whatever the gradient's size."""
    options = {"lr": 0.1, "betas": (0.5, 0.9375), "eps": 0.0}
    for size in (2.0, -0.001):
        gradients = [size] * 3
        path = one_by_one(make(function, **options, weight_decay=0.0), gradients)
        mistakes = {
            "the moments are not corrected for their start at zero: divide by 1 - βᵗ": (
                adam_path(np.ones(1), np.array(gradients)[:, None], **options, corrected=False)[:, 0]
            ),
        }
        expected = 1 - np.sign(size) * np.array([0.1, 0.2, 0.3])
        assert_close(path, expected, rtol=1e-12, what=f"path under the gradient {size}", mistakes=mistakes)


# --- beside torch.optim ---------------------------------------------------------------------------------------

ALL_OPTIONS = {
    "SGD": {"lr": 0.03, "momentum": 0.8, "nesterov": True, "weight_decay": 0.1},
    "RMSprop": {"lr": 0.02, "alpha": 0.8, "eps": 1e-2, "momentum": 0.7, "weight_decay": 0.1},
    "Adam": {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-2, "weight_decay": 0.1},
    "AdamW": {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-2, "weight_decay": 0.1},
}
CASES = [
    *[(name, {}) for name in ALL_OPTIONS],
    *[(name, {option: value}) for name, all_of in ALL_OPTIONS.items() for option, value in all_of.items()],
    *ALL_OPTIONS.items(),
]
CASES = [(name, options) for name, options in CASES if options != {"nesterov": True}]
CASES.append(("SGD", {"momentum": 0.8, "nesterov": True}))


def likely_mistakes(function, options, parameters, gradients, name):
    """Return diagnosis -> values of parameter `name` after the hundred steps."""

    def torch_with(function, options):
        return lambda: run_torch(function, parameters, gradients, **options)[name]

    def without(option):
        dropped = {option, "nesterov"} if option == "momentum" else {option}
        return {key: value for key, value in options.items() if key not in dropped}

    mistakes = {f"{option} is ignored": torch_with(function, without(option)) for option in options}
    if function == "AdamW":
        no_decay = options | {"weight_decay": options.get("weight_decay", 1e-2)}
        mistakes["the decay goes through the moments (L2): AdamW shrinks the parameter itself"] = torch_with(
            "Adam", no_decay
        )
        mistakes["the decay is not multiplied by lr"] = torch_with(
            "AdamW", options | {"weight_decay": no_decay["weight_decay"] / options.get("lr", 1e-3)}
        )
    if function == "Adam" and "weight_decay" in options:
        mistakes["the decay is decoupled: in Adam it is an L2 term in the gradient"] = torch_with(
            "AdamW", {"weight_decay": 0.0} | options
        )
    if function == "Adam" and "weight_decay" not in options:
        values = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8} | options
        mistakes["eps is inside the root: add it outside"] = lambda: adam_path(
            parameters[name], np.array([gradient[name] for gradient in gradients]), **values, eps_inside=True
        )[-1]
    return mistakes


@pytest.mark.parametrize(
    ("function", "options"), CASES, ids=[f"{f}-{'-'.join(o) or 'default'}" for f, o in CASES]
)
def test_hundred_steps_match_torch(function, options, rng):
    """After a hundred steps the parameters equal torch's to 1e-10, for each option alone and all together."""
    parameters, gradients = start(rng)
    expected = run_torch(function, parameters, gradients, **options)
    got = run(make(function, **options), parameters, gradients)
    for name, value in expected.items():
        mistakes = likely_mistakes(function, options, parameters, gradients, name)
        what = f"{name} after {STEPS} steps with {options or 'default options'}"
        assert_close(got[name], value, rtol=1e-10, what=what, mistakes=mistakes)


@every_optimizer
def test_float32_follows_float64(function, rng):
    """A hundred float32 steps end where the float64 steps do, to float32 accuracy."""
    parameters, gradients = start(rng, np.float32)
    got = run(make(function, **ALL_OPTIONS[function]), parameters, gradients)
    wide = [{name: value.astype(np.float64) for name, value in gradient.items()} for gradient in gradients]
    start_wide = {name: value.astype(np.float64) for name, value in parameters.items()}
    for name, value in run_torch(function, start_wide, wide, **ALL_OPTIONS[function]).items():
        assert_close(got[name], value, dtype=np.float32, rtol=1e-5, what=name)


@every_optimizer
def test_lr_may_change(function, rng):
    """A learning-rate schedule sets optimizer.lr between steps."""
    parameters, gradients = start(rng)
    lrs = 0.05 * (1 + np.cos(np.arange(STEPS)))
    expected = run_torch(function, parameters, gradients, lrs, **ALL_OPTIONS[function])
    got = run(make(function, **ALL_OPTIONS[function]), parameters, gradients, lrs)
    hint = "optimizer.lr is read once only: a schedule that changes it has no effect"
    for name, value in expected.items():
        assert_close(got[name], value, rtol=1e-10, what=name, hint=hint)


@every_optimizer
def test_two_optimizers_share_nothing(function, rng):
    """A second optimizer starts from zero, and follows arrays, not names of another network."""
    parameters, gradients = start(rng)
    options = ALL_OPTIONS[function]
    first = run(make(function, **options), parameters, gradients)
    second = run(make(function, **options), parameters, gradients)
    for name, value in first.items():
        assert_close(second[name], value, rtol=1e-12, what=name, hint="two optimizers share their state")
