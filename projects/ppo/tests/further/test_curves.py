"""The judge of curves.py. Oracles: values worked by hand, toy environments, and a `train` that only notes what it is asked."""

import contextlib

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary
from gymnasium.vector import AutoresetMode

import curves
import ppo
from gaussian import PENDULUM, GaussianActorCritic
from rollout import Settings
from shared.testing.checks import assert_close, assert_imports_only, expect_error

NAN = float("nan")
VECTOR = Box(-5, 5, (3,), np.float32)


class Toy(gymnasium.Env):
    """Ends after three steps; the reward is the action's sum, which must lie within the bounds."""

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.clock = 0
        return self._observe(), {}

    def _observe(self):
        return np.full(self.observation_space.shape, self.clock, dtype=self.observation_space.dtype)

    def step(self, action):
        assert self.action_space.contains(action), f"{action} is out of bounds: nothing clips the actions"
        self.clock += 1
        return self._observe(), float(np.sum(action)), self.clock == 3, False, {}


@pytest.fixture
def toy():
    """Register toy environments; the name of the one that is asked for."""
    with contextlib.ExitStack() as stack:

        def register(observations=VECTOR, actions=None):
            name = f"Toy{len(gymnasium.registry)}-v0"
            spaces = {"observation_space": observations, "action_space": actions or Discrete(2)}
            gymnasium.register(name, entry_point=Toy, kwargs=spaces)
            stack.callback(gymnasium.registry.pop, name)
            return name

        yield register


@pytest.fixture
def asked(monkeypatch):
    """Put a `train` in its place that returns two records and notes its arguments."""
    notes = []

    def train(network, environments, n_updates, settings, *, seed=0, improve=None):
        observations, _ = environments.reset(seed=seed)
        note = {"network": network, "num_envs": environments.num_envs, "n_updates": n_updates}
        note |= {"settings": settings, "seed": seed, "improve": improve, "observations": observations}
        notes.append(note | {"mode": environments.metadata["autoreset_mode"]})
        return [{"step": 8.0}, {"step": 16.0, "return": 1.0 + seed}]

    monkeypatch.setattr(ppo, "train", train)
    monkeypatch.setattr(curves, "train", train, raising=False)
    return notes


@pytest.mark.grades
def test_curves_imports():
    """What it stands on; matplotlib is for `draw` alone, so that importing the module costs nothing."""
    assert_imports_only(curves, {"torch", "gymnasium", "ppo", "rollout", "gaussian", "matplotlib"})
    assert "matplotlib" not in vars(curves), "matplotlib is imported with the module: import it in draw"


# --- environments -----------------------------------------------------------------------------------------------------


@pytest.mark.grades("make_environment")
def test_actions_are_clipped(toy):
    """A vector is clipped to the bounds, each component to its own; a number goes through."""
    bounds = Box(np.array([-1, -2], np.float32), np.array([0.5, 2], np.float32))
    environment = curves.make_environment(toy(actions=bounds))
    environment.reset(seed=0)
    reward = environment.step(np.array([3.0, -7.0], np.float32))[1]
    assert reward == -1.5, f"action (3, -7) became one of sum {reward}, expected 0.5 - 2"
    reward = environment.step(np.array([0.25, 1.5], np.float32))[1]
    assert reward == 1.75, f"action (0.25, 1.5) lies within the bounds, but its sum is {reward}"
    discrete = curves.make_environment(toy())
    discrete.reset(seed=0)
    assert discrete.step(np.int64(1))[1] == 1, "the action of a discrete environment was changed"


@pytest.mark.grades("make_environments")
@pytest.mark.parametrize("num_envs", [None, 3])
def test_environments_reset_in_the_step_that_ends(num_envs, toy):
    """`ppo.collect` asks for AutoresetMode.SAME_STEP; eight environments are the default."""
    name = toy(actions=Box(-1, 1, (2,), np.float32))
    environments = curves.make_environments(name, **({} if num_envs is None else {"num_envs": num_envs}))
    n = num_envs or 8
    assert environments.num_envs == n, f"{environments.num_envs} environments, expected {n}"
    mode = environments.metadata["autoreset_mode"]
    assert mode == AutoresetMode.SAME_STEP, f"the environments reset by {mode}, expected SAME_STEP"
    environments.reset(seed=0)
    for _ in range(3):
        observations, rewards, terminated, _, infos = environments.step(np.full((n, 2), 9.0, np.float32))
    assert terminated.all(), "the third step ends all episodes"
    assert (observations == 0).all(), "the observations after an end are those of the next episode"
    assert all((final == 3).all() for final in infos["final_obs"]), "final_obs is what the step led to"
    assert (rewards == 2).all(), f"rewards {rewards}: actions (9, 9) are clipped to (1, 1)"


# --- a curve ----------------------------------------------------------------------------------------------------------


@pytest.mark.grades("learning_curve")
def test_learning_curve_of_numbered_actions(toy, asked):
    """An ActorCritic, the default settings, eight environments; what train returns comes back."""
    network, records = curves.learning_curve(toy(actions=Discrete(4)), 5, 7)
    (note,) = asked
    assert network is note["network"], "the network that is returned is not the one that was trained"
    assert isinstance(network, ppo.ActorCritic), f"the network is a {type(network).__name__}"
    assert not isinstance(network, GaussianActorCritic), "numbered actions have no Gaussian"
    assert [part[-1].out_features for part in (network.policy, network.value)] == [4, 1]
    assert network.policy[0].in_features == 3
    assert records == [{"step": 8.0}, {"step": 16.0, "return": 6.0}], f"the records are {records}"
    told = {name: note[name] for name in ("num_envs", "n_updates", "settings", "seed", "improve", "mode")}
    expected = {"num_envs": 8, "n_updates": 7, "settings": Settings(), "seed": 5, "improve": None}
    assert told == expected | {"mode": AutoresetMode.SAME_STEP}, f"train was asked for {told}"


@pytest.mark.grades("learning_curve")
def test_learning_curve_of_vectors(toy, asked):
    """A GaussianActorCritic, and the settings of Pendulum, unless others are given."""
    name, improve = toy(actions=Box(-1, 1, (2,), np.float32)), object()
    network, _ = curves.learning_curve(name, 0, 1)
    assert isinstance(network, GaussianActorCritic), f"vectors need a Gaussian, got {type(network).__name__}"
    shape = tuple(network.greedy(torch.zeros(4, 3)).shape)
    assert shape == (4, 2), f"actions of shape {shape}, expected (4, 2)"
    assert asked[0]["settings"] == PENDULUM, "without settings, those of Pendulum are taken for vectors"
    mine = Settings(n_steps=4)
    curves.learning_curve(name, 0, 1, mine, num_envs=2, improve=improve)
    assert asked[1]["settings"] == mine, "the settings are not handed to train"
    assert asked[1]["num_envs"] == 2, "num_envs is ignored"
    assert asked[1]["improve"] is improve, "improve is not handed to train"


@pytest.mark.grades("learning_curve")
def test_seeds_set_the_weights(toy, asked):
    """The same seed gives the same network, whatever torch's global seed is; another seed another one."""
    name = toy()
    weights = []
    for seed, global_seed in ((1, 0), (1, 5), (2, 0)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(global_seed)
            network, _ = curves.learning_curve(name, seed, 1)
        weights.append(torch.cat([p.detach().flatten() for p in network.parameters()]))
    assert torch.equal(weights[0], weights[1]), "the weights do not come from the seed"
    assert not torch.equal(weights[0], weights[2]), (
        "all seeds begin with the same weights: their spread says too little"
    )


@pytest.mark.grades("learning_curve")
@pytest.mark.parametrize(
    ("observations", "actions", "named"),
    [
        (Box(-1, 1, (3, 2), np.float32), Discrete(2), "(3, 2)"),
        (Discrete(5), Discrete(2), "Discrete(5)"),
        (VECTOR, Discrete(2, start=1), "start=1"),
        (VECTOR, MultiBinary(3), "MultiBinary(3)"),
        (VECTOR, Box(-1, 1, (2, 2), np.float32), "(2, 2)"),
        (VECTOR, Box(-1, 1, (), np.float32), "()"),
    ],
    ids=["a picture", "a number", "actions from 1", "bits", "a table of actions", "a scalar"],
)
def test_refuses_other_spaces(observations, actions, named, toy, asked):
    """The message names the space that no network fits."""
    with expect_error(ValueError, named, otherwise=f"{observations} with {actions} is accepted"):
        curves.learning_curve(toy(observations, actions), 0, 1)


# --- curves on common steps -------------------------------------------------------------------------------------------

RECORDS = [{"step": 10.0}, {"step": 20.0, "return": 5.0}, {"step": 30.0}, {"step": 40.0, "return": 9.0}]


@pytest.mark.grades("on_grid")
def test_on_grid_by_hand():
    """A value holds from its own step on; where no episode ended the last one goes on; before the first one NaN."""
    grid = [0.0, 10.0, 19.0, 20.0, 25.0, 30.0, 39.0, 40.0, 99.0]
    expected = np.array([NAN, NAN, NAN, 5.0, 5.0, 5.0, 5.0, 9.0, 9.0])
    mistakes = {
        "a value holds from its own step on: at step 20 its return is known": np.array(
            [NAN, NAN, NAN, NAN, 5, 5, 5, 5, 9]
        ),
        "interpolated between two records: the later return is not known yet": np.array(
            [NAN, NAN, NAN, 5.0, 6.0, 7.0, 8.8, 9.0, 9.0]
        ),
        "before the first finished episode there is no return: NaN": np.array(
            [5, 5, 5, 5, 5, 5, 5, 9, 9], float
        ),
        "before the first finished episode there is no return: NaN, not 0": np.array(
            [0, 0, 0, 5, 5, 5, 5, 9, 9], float
        ),
        "before the first finished episode there is no return: NaN, not the last one": np.array(
            [9, 9, 9, 5, 5, 5, 5, 9, 9], float
        ),
        "a rollout without a finished episode has no return; the last one goes on": np.array(
            [NAN, NAN, NAN, 5, 5, NAN, NAN, 9, 9]
        ),
    }
    got = curves.on_grid(RECORDS, grid)
    assert_close(got, expected, what="returns on the grid", mistakes=mistakes)
    assert_close(curves.on_grid(RECORDS, np.array([40.0, 25.0])), np.array([9.0, 5.0]), what="another grid")


@pytest.mark.grades("on_grid")
@pytest.mark.parametrize("records", [[], [{"step": 8.0}]], ids=["no records", "no returns"])
def test_on_grid_without_returns(records):
    """Nothing is known anywhere."""
    got = curves.on_grid(records, [0.0, 8.0, 16.0])
    assert got.shape == (3,), f"got shape {got.shape}, expected (3,)"
    assert np.isnan(got).all(), f"got {got}, expected NaN everywhere"


@pytest.mark.grades("summary")
def test_summary_by_hand(monkeypatch):
    """Worst, median and best of three curves; NaN as long as one of them has not begun."""
    table = {1: [1.0, 2.0, 7.0, 4.0], 2: [NAN, 9.0, 1.0, 5.0], 3: [3.0, 4.0, 2.0, 12.0]}
    monkeypatch.setattr(curves, "on_grid", lambda records, grid: np.array(table[len(records)]))
    got = curves.summary([RECORDS[:k] for k in (2, 3, 1)], [10.0, 20.0, 30.0, 40.0])
    assert len(got) == 3, f"{len(got)} arrays, expected worst, median and best"
    expected = {
        "median": [NAN, 4.0, 2.0, 5.0],
        "worst": [NAN, 2.0, 1.0, 4.0],
        "best": [NAN, 9.0, 7.0, 12.0],
    }
    mistakes = {
        "this is the mean: one lucky seed moves it": np.array([NAN, 5.0, 10 / 3, 7.0]),
        "seeds that have not begun are left out: the curve would jump when they do": np.array(
            [2.0, 4.0, 2.0, 5.0]
        ),
    }
    for (name, values), mine in zip(expected.items(), (got[1], got[0], got[2]), strict=True):
        hint = "worst, median and best, in this order, over the curves; NaN until each has begun"
        assert_close(mine, np.array(values), what=name, mistakes=mistakes, hint=hint)
