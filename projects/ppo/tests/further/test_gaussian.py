"""The judge of gaussian.py. Oracles: values worked by hand, torch.distributions in float64, quadrature, central differences."""

import inspect
import math

import numpy as np
import pytest
import test_network
import torch
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorEnv
from oracles import DOUBLE, gradients, normal, seeded
from torch import nn
from torch.distributions import Normal

import gaussian
import ppo
from gaussian import GaussianActorCritic
from rollout import Settings
from shared.testing.checks import assert_close, assert_imports_only, unchanged

pytestmark = pytest.mark.grades("GaussianActorCritic")
LOG_2PI = math.log(2 * math.pi)


@pytest.mark.grades
def test_gaussian_imports():
    """The module uses torch and the core; torch.distributions has no generator, but may be used for the density."""
    assert_imports_only(gaussian, {"torch", "ppo", "rollout"})


class Affine(nn.Module):
    """A mean that is known: A·s + b."""

    def __init__(self, weight, bias):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.tensor(weight)), nn.Parameter(torch.tensor(bias))

    def forward(self, observations):
        return observations @ self.weight.T + self.bias


def simple(log_std=(0.0, 0.0)):
    """A network of known means and widths: s = (s0, s1, s2) to μ = (2·s0 - s1 + 0.5, s2 - 1), and V = s0 + 3·s1 + 9·s2."""
    network = GaussianActorCritic(3, 2, hidden=4, generator=seeded())
    network.policy = Affine([[2.0, -1.0, 0.0], [0.0, 0.0, 1.0]], [0.5, -1.0])
    network.value = Affine([[1.0, 3.0, 9.0]], [0.0])
    with torch.no_grad():
        network.log_std.copy_(torch.tensor(log_std))
    return network


def means(observations):
    """What `simple` answers, in float64."""
    s = observations.detach().double()
    return torch.stack((2 * s[:, 0] - s[:, 1] + 0.5, s[:, 2] - 1), dim=1)


# --- contract ---------------------------------------------------------------------------------------------------------


def test_log_std_is_a_parameter():
    """One number per component of the action, which starts at 0 and is trained with the rest."""
    network = GaussianActorCritic(3, 2)
    assert isinstance(network.log_std, nn.Parameter), "log_std is not a Parameter: no optimizer would find it"
    named = dict(network.named_parameters())
    assert "log_std" in named, f"log_std is not among the parameters {sorted(named)}"
    assert network.log_std.requires_grad, "log_std must be trained: requires_grad is off"
    assert tuple(network.log_std.shape) == (2,), f"log_std has shape {tuple(network.log_std.shape)}, not (2,)"
    assert torch.equal(network.log_std.detach(), torch.zeros(2)), (
        f"log_std starts at {network.log_std.detach()}, expected 0: a width of 1"
    )
    assert len(named) == 13, f"expected 6 parameters of policy, 6 of value and log_std, got {sorted(named)}"


def test_it_is_a_network_of_the_core():
    """`collect`, `update`, `train` and `evaluate` take an ActorCritic."""
    assert issubclass(GaussianActorCritic, ppo.ActorCritic), "it is no ActorCritic"
    for name, n in (("policy", 2), ("value", 1)):
        shapes = [tuple(p.shape) for p in getattr(GaussianActorCritic(3, 2, hidden=7), name).parameters()]
        expected = [(7, 3), (7,), (7, 7), (7,), (n, 7), (n,)]
        assert shapes == expected, f"`{name}` has parameters of {shapes}, expected {expected}"
    default = inspect.signature(GaussianActorCritic).parameters["hidden"].default
    assert default == 64, f"the default width is {default}, expected 64"


@pytest.mark.parametrize(("which", "d"), [("policy", 5), ("value", 20)])
def test_weights_start_as_in_the_core(which, d, monkeypatch):
    """Orthogonal, with the gains of the core: all means begin near 0."""
    monkeypatch.setattr(ppo, "ActorCritic", GaussianActorCritic)
    test_network.test_weights_are_orthogonal(which, d, 16)


def test_weights_come_from_the_generator(monkeypatch):
    """The same seed gives the same network."""
    monkeypatch.setattr(ppo, "ActorCritic", GaussianActorCritic)
    test_network.test_weights_come_from_the_generator()


# --- the density ------------------------------------------------------------------------------------------------------


def test_log_probability_by_hand():
    """μ = (0.5, 1), σ = (2, 1/2): one and two widths off, -(1 + 4)/2 - log 2 - log ½ - log 2π."""
    network = simple((math.log(2), -math.log(2)))
    observations = torch.tensor([[0.0, 0.0, 2.0], [1.0, 2.0, 0.0]])
    actions = torch.tensor([[2.5, 0.0], [0.5, -1.25]])
    squares = torch.tensor([[4.0, 1.0], [0.0, 0.0625]], dtype=DOUBLE)  # (a - μ)²
    sigma = torch.tensor([2.0, 0.5], dtype=DOUBLE)
    terms = -squares / sigma**2 / 2 - sigma.log() - LOG_2PI / 2
    expected = torch.tensor([-2.5, -0.125], dtype=DOUBLE) - LOG_2PI
    mistakes = {
        "the mean over the components: densities of independent components multiply, their logarithms add": (
            terms.mean(1)
        ),
        "only the first component counts": terms[:, 0],
        "log(2π)/2 is missing": expected + LOG_2PI,
        "log(2π)/2 is there once, not once per component": expected + LOG_2PI / 2,
        "log(2π) is not halved": expected - LOG_2PI,
        "the square is not halved": (terms - squares / sigma**2 / 2).sum(1),
        "(a - μ)² is divided by σ: divide by its square": (-squares / sigma / 2 - LOG_2PI / 2).sum(1),
        "a - μ is divided by log_std: σ = exp(log_std)": (-squares / sigma.log() ** 2 / 2 - LOG_2PI / 2).sum(
            1
        ),
        "a - μ is not divided by σ": (-squares / 2 - LOG_2PI / 2).sum(1),
        "the sign is wrong": -expected,
        "a density, not its logarithm": expected.exp(),
    }
    with unchanged(observations, actions):
        log_probs, _, _ = network.judge(observations, actions)
    how = {"dtype": torch.float32, "rtol": 1e-5}
    assert_close(log_probs.detach(), expected, what="log-probabilities", mistakes=mistakes, **how)


def test_log_std_counts_in_the_density():
    """σ = (e, e³) at the mean: the wider the density, the lower it is there."""
    network = simple((1.0, 3.0))
    observations = normal(3, 3, generator=seeded(1))
    log_probs, _, _ = network.judge(observations, means(observations).float())
    expected = torch.full((3,), -4.0 - LOG_2PI, dtype=DOUBLE)
    mistakes = {
        "log σ is missing: a wide density is low, or its integral is not 1": expected + 4,
        "log σ has the wrong sign": expected + 8,
        "log_std is the logarithm of σ, not of σ²": expected + 2,
    }
    how = {"dtype": torch.float32, "rtol": 1e-5, "vacuous_ok": "at the mean all are equal"}
    assert_close(log_probs.detach(), expected, what="log-probabilities", mistakes=mistakes, **how)


def test_judge_equals_torch(generator):
    """Random means, widths and actions: log-probabilities, entropies and values, each (N,)."""
    network = simple((0.7, -0.4))
    observations, actions = normal(40, 3, generator=generator), 2 * normal(40, 2, generator=generator)
    got = network.judge(observations, actions)
    assert len(got) == 3, f"judge returns {len(got)} things, expected log-probabilities, entropies and values"
    for name, x in zip(("log-probabilities", "entropies", "values"), got, strict=True):
        assert tuple(x.shape) == (40,), f"the {name} have shape {tuple(x.shape)}, expected (40,)"
    normals = Normal(means(observations), torch.tensor([0.7, -0.4], dtype=DOUBLE).exp())
    value = observations.double() @ torch.tensor([1.0, 3.0, 9.0], dtype=DOUBLE)
    entropies = normals.entropy()
    wrong = {
        "the mean over the components: entropies of independent components add": entropies.mean(1),
        "log σ is missing in the entropy": entropies.sum(1) - 0.3,
        "log(2π) is missing in the entropy": entropies.sum(1) - LOG_2PI,
        "the constant is log(2π)/2, but it is (1 + log 2π)/2": entropies.sum(1) - 1,
        "the sign of the entropy is wrong": -entropies.sum(1),
        "minus the log-probability is one draw's estimate of the entropy: the closed form is asked for": (
            -normals.log_prob(actions).sum(1)
        ),
    }
    how = {"dtype": torch.float32, "rtol": 1e-5}
    assert_close(got[0].detach(), normals.log_prob(actions).sum(1), what="log-probabilities", **how)
    reason = "the width is the same everywhere, so the entropy is"
    assert_close(
        got[1].detach(), entropies.sum(1), what="entropies", mistakes=wrong, vacuous_ok=reason, **how
    )
    assert_close(got[2].detach(), value, what="values", **how)


def test_densities_integrate_to_one():
    """On a grid of ±9 widths, with the entropy as the integral of -p·log p."""
    log_std = (0.4, -0.8)
    network = simple(log_std).double()
    grid = torch.linspace(-9, 9, 181, dtype=DOUBLE)
    z = torch.cartesian_prod(grid, grid)
    widths = torch.tensor(log_std, dtype=DOUBLE).exp()
    observation = torch.tensor([[0.3, -0.2, 0.9]], dtype=DOUBLE)
    with torch.no_grad():
        actions = means(observation) + z * widths
        log_p, entropies, _ = network.judge(observation.expand(len(z), 3), actions)
    cell = float(widths.prod()) * (18 / 180) ** 2
    total = float(log_p.exp().sum()) * cell
    assert abs(total - 1) < 1e-9, f"the density integrates to {total:.6g}, not to 1"
    integral = -float((log_p.exp() * log_p).sum()) * cell
    assert abs(float(entropies[0]) - integral) < 1e-6, (
        f"the entropy is {float(entropies[0]):.6g}, but -∫p·log p is {integral:.6g}"
    )


def test_gradients_by_central_differences(generator):
    """By the mean's weights, log_std and the value's weights, through all three that judge returns."""
    network = simple((0.3, -0.5)).double()
    observations = normal(6, 3, generator=generator).double()
    actions = normal(6, 2, generator=generator).double()
    cotangents = normal(3, 6, generator=generator).double()

    def total():
        return sum(
            (x * c).sum() for x, c in zip(network.judge(observations, actions), cotangents, strict=True)
        )

    names, parameters = zip(*network.named_parameters(), strict=True)
    for name, parameter, got in zip(names, parameters, gradients(total(), parameters), strict=True):
        slopes = torch.zeros_like(parameter)
        for i in range(parameter.numel()):
            values, h = [], 1e-5
            for step in (h, -h):
                with torch.no_grad():
                    parameter.view(-1)[i] += step
                    values.append(float(total()))
                    parameter.view(-1)[i] -= step
            slopes.view(-1)[i] = (values[0] - values[1]) / (2 * h)
        hint = f"the gradient does not reach {name} as it should: is something detached?"
        assert_close(got, slopes, rtol=1e-6, what=f"gradient by {name}", hint=hint)


# --- drawing ----------------------------------------------------------------------------------------------------------


def test_act_draws_what_it_says(generator):
    """Actions (N, n_actions), float32, and the log-probability of each as it was drawn."""
    network = simple((1.5, -0.5))
    observations = 3 * normal(200, 3, generator=generator)
    with unchanged(observations):
        actions, log_probs = network.act(observations, generator=generator)
    for name, x, shape in (("actions", actions, (200, 2)), ("log-probabilities", log_probs, (200,))):
        assert tuple(x.shape) == shape, f"the {name} have shape {tuple(x.shape)}, expected {shape}"
    assert actions.dtype == torch.float32, f"the actions are {actions.dtype}, expected float32"
    normals = Normal(means(observations), torch.tensor([1.5, -0.5], dtype=DOUBLE).exp())
    mistakes = {
        f"the log-probability is that of an action clipped to ±{bound}: it belongs to the action as it was drawn": (
            normals.log_prob(actions.detach().double().clamp(-bound, bound)).sum(1)
        )
        for bound in (1, 2)
    }
    how = {"dtype": torch.float32, "rtol": 1e-4, "mistakes": mistakes}
    assert_close(
        log_probs.detach(), normals.log_prob(actions.detach()).sum(1), what="log-probabilities", **how
    )


def test_actions_are_not_clipped():
    """500 draws of width e³: bounds are the environment's."""
    actions, _ = simple((3.0, 3.0)).act(normal(500, 3, generator=seeded(4)), generator=seeded(5))
    largest = float(actions.detach().abs().max())
    assert largest > 5, f"1,000 numbers of width 20 lie within ±{largest:.1f}: nothing clips the actions here"


def test_draws_have_the_mean_and_the_width():
    """20,000 draws: z = (a - μ)/σ has mean 0, deviation 1, and nothing in common between components or rows."""
    network = simple((1.5, -1.0))
    observations = normal(20_000, 3, generator=seeded(2))
    actions = network.act(observations, generator=seeded(3))[0].detach().double()
    offset = actions - means(observations)
    assert offset.abs().max() > 0.01, "the actions are not drawn: they are the means"
    assert offset.std(dim=0).min() > 0.01, "all rows share their noise: draw for each observation"
    z = offset / torch.tensor([1.5, -1.0], dtype=DOUBLE).exp()
    error = 5 / 20_000**0.5  # five standard errors
    mean, deviation = z.mean(dim=0), z.std(dim=0)
    assert (deviation - 1).abs().max() < error, (
        f"the draws deviate by {deviation.tolist()} widths, expected 1: σ = exp(log_std)"
    )
    assert mean.abs().max() < error, f"the draws are off the mean by {mean.tolist()} widths, expected 0"
    between = float((z[:, 0] * z[:, 1]).mean())
    assert abs(between) < error, f"the components are drawn together: their correlation is {between:.3f}"
    neighbours = float((z[1:] * z[:-1]).mean())
    assert abs(neighbours) < error, f"rows share their noise: neighbours correlate by {neighbours:.3f}"
    beyond = float((z.abs() > 3).double().mean())
    assert 0.001 < beyond < 0.005, f"{beyond:.2%} of the draws lie beyond three widths, expected 0.27 %"


def test_noise_comes_from_the_generator(generator):
    """The same seed gives the same actions; torch's own generator stays as it was."""
    network, observations = simple((0.5, 0.5)), normal(5, 3, generator=generator)
    before = torch.get_rng_state()
    first, again, other = (network.act(observations, generator=seeded(s))[0] for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before), (
        "generator ignored: the noise came from torch's global generator"
    )
    assert torch.equal(first, again), "the same seed gives other actions: the generator is ignored"
    assert not torch.equal(first, other), "two seeds give the same actions: the generator is ignored"
    used = seeded(1)
    following = [network.act(observations, generator=used)[0] for _ in range(2)]
    assert not torch.equal(*following), "the second draw is the first again: a generator is set back"


def test_greedy_is_the_mean(generator):
    """(N, d) to (N, n_actions), without noise."""
    network, observations = simple((0.5, 1.0)), 3 * normal(7, 3, generator=generator)
    got = network.greedy(observations)
    hint = "the most probable action of a Gaussian is its mean, without noise and not clipped"
    how = {"dtype": torch.float32, "rtol": 1e-5, "hint": hint}
    assert_close(got.detach(), means(observations), what="greedy actions", **how)


# --- with the rest of the core ----------------------------------------------------------------------------------------


class Target(VectorEnv):
    """The reward is -|a - g|², where g = (s0, -s1) is shown; actions are clipped to ±1. A time limit after 5 steps."""

    def __init__(self, num_envs):
        self.num_envs, self.clock, self.played = num_envs, 0, []
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.single_observation_space = self.single_action_space = Box(-1, 1, (2,), np.float32)
        self.observation_space = self.action_space = Box(-1, 1, (num_envs, 2), np.float32)

    def _observe(self):
        self.seen = self.np_random.uniform(-0.8, 0.8, size=(self.num_envs, 2)).astype(np.float32)
        return self.seen

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._observe(), {}

    def step(self, actions):
        self.played.append(actions.copy())
        error = actions.clip(-1, 1) - self.seen * [1, -1]
        self.clock += 1
        ended, infos = np.full(self.num_envs, self.clock % 5 == 0), {}
        following = self._observe()
        for i in np.flatnonzero(ended):
            infos = self._add_info(infos, {"final_obs": following[i].copy()}, i)
        rewards = -(error**2).sum(1)
        return self._observe() if ended.any() else following, rewards, np.zeros_like(ended), ended, infos


def test_collect_takes_it():
    """Actions (T, N, n_actions) float32, as the environment got them; judge gives the same log-probabilities."""
    network, environments = simple((1.0, 0.0)), Target(3)
    network.policy = Affine([[1.0, 0.0], [0.0, 1.0]], [0.0, 0.0])
    network.value = Affine([[1.0, 0.0]], [0.0])
    observations = torch.as_tensor(environments.reset(seed=0)[0])
    played, _ = ppo.collect(network, environments, observations, 11, generator=seeded())
    assert tuple(played.actions.shape) == (11, 3, 2), f"actions of shape {tuple(played.actions.shape)}"
    assert np.array_equal(played.actions.numpy(), environments.played), "not the actions that were played"
    assert played.actions.abs().max() > 1, "the rollout has clipped actions: it needs those that were drawn"
    log_probs, _, _ = network.judge(played.observations.flatten(0, 1), played.actions.flatten(0, 1))
    largest = float((log_probs.detach() - played.log_probs.flatten()).abs().max())
    assert largest < 1e-5, f"act and judge disagree by {largest:.3g}: the first ratio must be 1"


@pytest.mark.grades
def test_settings_of_pendulum():
    """The returns of MEASURED.md were measured with these; another set must be measured anew."""
    changed = {
        "gamma": 0.9,
        "n_epochs": 10,
        "n_minibatches": 16,
        "learning_rate": 1e-3,
        "entropy_weight": 0.0,
    }
    assert gaussian.PENDULUM == Settings(**changed), f"the settings are {gaussian.PENDULUM}"
