"""Collecting a rollout. Oracles: the log of scripted environments, and CartPole played again alone, step by step."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from oracles import seeded
from toys import Scripted, Teller

import ppo
from rollout import Rollout
from shared.testing.checks import assert_close, expect_error, unchanged

# np.array(actions) is as right as actions.numpy(), but torch's tensors do not know the keyword `copy` of NumPy 2 yet
pytestmark = [
    pytest.mark.grades("collect"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]
ENDS = ("..T..L..B.T.", ".L....T..L..", "....B.L.T...")  # an end in the last step of nine, too
FINAL = 'infos["final_obs"]'


def play(environments, network, n_steps, *, generator=None):
    """Collect from the environments' first observations; return the rollout, and the observations after it."""
    observations = torch.as_tensor(environments.observe()).float()
    with unchanged(observations):
        rollout, after = ppo.collect(network, environments, observations, n_steps, generator=generator)
    assert isinstance(rollout, Rollout), f"the first of the two is a {type(rollout).__name__}, not a Rollout"
    return rollout, after


@pytest.fixture
def played():
    """Nine steps of three environments, played."""
    environments, network = Scripted(*ENDS), Teller()
    rollout, after = play(environments, network, 9, generator=seeded(1))
    return environments, network, rollout, after


def value(observations):
    return Teller().value(observations.float())[..., 0].detach()


def delayed(ends):
    """A column one step late."""
    return torch.cat((torch.zeros_like(ends[:1]), ends[:-1]))


# --- which environments -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED])
def test_refuses_another_autoreset(mode):
    """NEXT_STEP puts a step between two episodes that is none; DISABLED does not reset at all."""
    observations = torch.zeros(3, 4)
    with expect_error(ValueError, otherwise=f"autoreset_mode {mode} is accepted: SAME_STEP is needed"):
        ppo.collect(Teller(), Scripted(*ENDS, mode=mode), observations, 4)


# --- the form of a rollout --------------------------------------------------------------------------------------------


def test_number_of_steps(played):
    """n_steps steps, no reset in between."""
    environments, network, *_ = played
    assert not environments.resets, (
        "the environments are reset: collect goes on from the observations that it is given"
    )
    steps = len(environments.log)
    assert steps == 9, f"{steps} steps were played, not n_steps = 9"
    assert len(network.seen) == 9, f"network.act was asked {len(network.seen)} times in 9 steps"


@pytest.mark.parametrize("reward_dtype", [np.float64, np.float32, np.int64], ids=lambda t: t.__name__)
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64, np.uint8], ids=lambda t: t.__name__)
def test_shapes_and_dtypes(dtype, reward_dtype):
    """(T, N, ...), time first, whatever the environments' dtypes are; no column keeps a gradient."""
    environments = Scripted(*ENDS, dtype=dtype, reward_dtype=reward_dtype)
    rollout, after = play(environments, Teller(), 7)
    kinds = {"actions": torch.int64, "terminated": torch.bool, "truncated": torch.bool}
    for name, column in rollout._asdict().items():
        shape = (7, 3, 4) if name == "observations" else (7, 3)
        assert isinstance(column, torch.Tensor), f"{name} is a {type(column).__name__}, not a tensor"
        got = tuple(column.shape)
        assert got == shape, f"{name} has shape {got}, expected {shape}: time first, then the environments"
        kind = kinds.get(name, torch.float32)
        assert column.dtype == kind, f"{name} is {column.dtype}, expected {kind}"
        assert not column.requires_grad, f"the rollout keeps gradients: {name} has one"
    assert after.dtype == torch.float32, f"the observations after the rollout are {after.dtype}, not float32"


# --- what the columns hold --------------------------------------------------------------------------------------------


def test_observations(played):
    """s_t: what the network saw when it acted, the first observation of an episode included."""
    environments, network, rollout, _ = played
    expected = environments.column("before").float()
    seen = torch.stack(network.seen)
    led_to, after = environments.column("led_to").float(), environments.column("after").float()
    first = expected[:1].expand_as(expected)
    stays = f"after an end the network acts on {FINAL}: the episode is over, the next one has begun"
    mistakes = {
        "the network acts on the first observations all the time": first,
        stays: torch.cat((expected[:1], led_to[:-1])),
    }
    assert_close(seen, expected, rtol=0, what="observations that the network saw", mistakes=mistakes)
    mistakes = {
        "the observation is stored after the step: s_t is what the network saw when it acted": after,
        "what the step led to is stored: s_t is what the network saw when it acted": led_to,
        "the first observation of an episode is lost": torch.cat((expected[:1], led_to[:-1])),
        "the first observations are stored all the time": first,
    }
    assert_close(rollout.observations, expected, rtol=0, what="observations", mistakes=mistakes)


def test_actions_and_log_probabilities(played):
    """What was drawn is what the environments got, and what is stored beside the observation it was drawn for."""
    environments, network, rollout, _ = played
    given = environments.column("actions")
    assert given.shape == (9, 3), f"step got actions of shape {tuple(given.shape[1:])}, expected (3,)"
    late = "the action is stored one step late"
    assert_close(rollout.actions, given, what="actions", mistakes={late: given.roll(1, 0)})
    expected = network.log_prob(environments.column("before").float(), given).detach()
    mistakes = {
        "these are probabilities, not their logarithms": expected.exp(),
        "the log-probabilities are stored one step late": expected.roll(1, 0),
    }
    assert_close(rollout.log_probs, expected, rtol=1e-6, what="log-probabilities", mistakes=mistakes)


def test_rewards(played):
    """r_t belongs to the action at t."""
    environments, _, rollout, _ = played
    expected = environments.column("rewards").float()
    mistakes = {
        "the reward is stored one step late": delayed(expected),
        "the reward of a step that ends an episode is lost": expected
        * ~(environments.column("terminated") | environments.column("truncated")),
    }
    assert_close(rollout.rewards, expected, rtol=0, what="rewards", mistakes=mistakes)


def test_ends(played):
    """terminated and truncated of the step that ended the episode; one is not the other."""
    environments, _, rollout, _ = played
    terminated, truncated = environments.column("terminated"), environments.column("truncated")
    late = "done is shifted by one: it belongs to the step that ended the episode, not to the next"
    mistakes = {
        "truncation is called termination: a time limit is no end, the episode has a future": terminated
        | truncated,
        "terminated and truncated are exchanged": truncated,
        late: delayed(terminated),
        "an end by both is a termination too": terminated & ~truncated,
    }
    assert_close(rollout.terminated, terminated, what="terminated", mistakes=mistakes)
    mistakes = {
        "truncated says done: it is the time limit alone": terminated | truncated,
        late: delayed(truncated),
        "an end by both is a truncation too": truncated & ~terminated,
    }
    assert_close(rollout.truncated, truncated, what="truncated", mistakes=mistakes)


def test_values(played):
    """V(s_t), by network.value."""
    environments, _, rollout, _ = played
    expected = value(environments.column("before"))
    mistakes = {
        "V is asked after the step: values[t] is V(s_t)": value(environments.column("after")),
        "V is asked for what the step led to: values[t] is V(s_t)": value(environments.column("led_to")),
    }
    assert_close(rollout.values, expected, rtol=1e-6, what="values", mistakes=mistakes)


def test_next_values(played):
    """V(s_{t+1}): after an episode's last step that of its final observation, in the rollout's last row too."""
    environments, _, rollout, _ = played
    led_to, after = environments.column("led_to"), environments.column("after")
    terminated, truncated = environments.column("terminated"), environments.column("truncated")
    right = value(led_to)
    reset = f"bootstraps from the reset observation: what the step led to is {FINAL}"
    mistakes = {
        reset: value(after),
        f"a truncated step bootstraps from the reset observation: {FINAL} is there for both kinds of end": (
            torch.where(truncated & ~terminated, value(after), right)
        ),
        f"a terminated step has the reset observation's value: {FINAL} is there for both kinds of end": (
            torch.where(terminated & ~truncated, value(after), right)
        ),
        "next_values are 0 where the episode terminated: V(s_{t+1}) is asked for, gae leaves it out": (
            right * ~terminated
        ),
        "next_values are 0 at an end: V(s_{t+1}) is asked for": right * ~(terminated | truncated),
        "these are V(s_t): next_values is V of what the step led to": value(environments.column("before")),
        "the last row has no V(s_{t+1})": torch.cat((right[:-1], torch.zeros(1, 3))),
    }
    assert_close(rollout.next_values, right, rtol=1e-6, what="next_values", mistakes=mistakes)


def test_observations_after_the_rollout(played):
    """What the environments show now: where one has just ended, the first observation of its next episode."""
    environments, *_, after = played
    now = torch.as_tensor(environments.observe()).float()
    mistakes = {
        f"{FINAL} is returned: the next episode has begun": environments.log[-1]["led_to"].float(),
        "the observations before the last step are returned": environments.log[-1]["before"].float(),
        "the observations that collect was given are returned": environments.log[0]["before"].float(),
    }
    assert_close(after, now, rtol=0, what="observations after the rollout", mistakes=mistakes)


def test_two_rollouts_are_one_walk():
    """Four steps and then five, from the returned observations, are what nine steps are."""
    environments, network = Scripted(*ENDS), Teller()
    first, between = play(environments, network, 4)
    second, _ = ppo.collect(network, environments, between, 5)
    whole = environments.column("before").float()
    got = torch.cat((first.observations, second.observations))
    assert_close(got, whole, rtol=0, what="observations of two rollouts")
    got = torch.cat((first.next_values, second.next_values))
    assert_close(got, value(environments.column("led_to")), rtol=1e-6, what="next_values of two rollouts")


def test_acts_by_the_generator():
    """The generator reaches network.act: the same seed plays the same actions."""
    network = Teller()
    generator = seeded(3)
    rollout, _ = play(Scripted(*ENDS), network, 9, generator=generator)
    handed = all(seen is generator for seen in network.generators)
    assert handed, "the generator is not handed to network.act"
    again, _ = play(Scripted(*ENDS), Teller(), 9, generator=seeded(3))
    assert torch.equal(rollout.actions, again.actions), "the same seed plays other actions"


# --- Gymnasium's own environments -------------------------------------------------------------------------------------


def replay(actions, seeds, limit):
    """Play the given actions (T, N) in CartPoles of their own: what each step saw, led to, and how it ended."""
    columns = {"before": [], "led_to": [], "terminated": [], "truncated": []}
    for column, seed in zip(actions.T.tolist(), seeds, strict=True):
        environment = gymnasium.make("CartPole-v1", max_episode_steps=limit)
        observation, rows = environment.reset(seed=seed)[0], []
        for action in column:
            led_to, _, terminated, truncated, _ = environment.step(action)
            rows.append((observation, led_to, terminated, truncated))
            observation = environment.reset()[0] if terminated or truncated else led_to
        for name, values in zip(columns, zip(*rows, strict=True), strict=True):
            columns[name].append(np.stack(values))
    return {name: torch.as_tensor(np.stack(values, axis=1)) for name, values in columns.items()}


def test_collect_plays_cart_pole():
    """gymnasium.make_vec's CartPole, some of whose episodes fall and some reach a limit of 15 steps."""
    how = {"vectorization_mode": "sync", "vector_kwargs": {"autoreset_mode": AutoresetMode.SAME_STEP}}
    environments = gymnasium.make_vec("CartPole-v1", num_envs=3, max_episode_steps=15, **how)
    network = Teller(d=4, n_actions=2)
    start = torch.as_tensor(environments.reset(seed=7)[0])
    rollout, after = ppo.collect(network, environments, start, 60, generator=seeded(2))
    expected = replay(rollout.actions, (7, 8, 9), 15)
    assert_close(rollout.observations, expected["before"], rtol=1e-6, what="observations of CartPole")
    for name in ("terminated", "truncated"):
        assert_close(getattr(rollout, name), expected[name], what=f"{name} of CartPole")
    assert_close(rollout.values, value(expected["before"]), rtol=1e-5, what="values of CartPole")
    assert_close(rollout.next_values, value(expected["led_to"]), rtol=1e-5, what="next_values of CartPole")
    going_on = ~(expected["terminated"] | expected["truncated"])[-1]
    assert torch.equal(after[going_on], expected["led_to"][-1][going_on]), "observations after the rollout"
