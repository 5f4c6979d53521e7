"""The network: its form, how it begins, and what it says. Oracles: laws, and the same parameters in float64."""

import itertools

import oracles
import pytest
import torch
from oracles import DOUBLE, gradients, normal, seeded
from torch import nn
from torch.distributions import Categorical

import ppo
from shared.testing.checks import assert_close, unchanged

pytestmark = pytest.mark.grades("ActorCritic")
FORM = [nn.Linear, nn.Tanh, nn.Linear, nn.Tanh, nn.Linear]


@pytest.fixture(autouse=True)
def lent(monkeypatch):
    """Put another entropy in the place of the learner's."""
    monkeypatch.setattr(ppo, "entropy", oracles.entropy)


def randomised(network, generator):
    """Fill all parameters with random numbers: a fresh network is nearly the same for all observations."""
    with torch.no_grad():
        for parameter in network.parameters():
            scale = 1.5 / parameter.shape[-1] ** 0.5 if parameter.ndim > 1 else 0.5
            parameter.copy_(normal(*parameter.shape, generator=generator, scale=scale))
    return network


def forward(sequential, x):
    """Return what a network of the given form says, in float64, and the parameters that it was computed with."""
    parameters = [p.detach().to(DOUBLE).requires_grad_() for p in sequential.parameters()]
    w1, b1, w2, b2, w3, b3 = parameters
    hidden = torch.tanh(torch.tanh(x.to(DOUBLE) @ w1.T + b1) @ w2.T + b2)
    return hidden @ w3.T + b3, parameters


@pytest.mark.parametrize("hidden", [None, 7])
def test_form(hidden):
    """Two networks of three linear layers with Tanh between them, which share nothing."""
    network = ppo.ActorCritic(5, 3, **({} if hidden is None else {"hidden": hidden}))
    width = hidden or 64
    for name, n in (("policy", 3), ("value", 1)):
        part = getattr(network, name, None)
        assert isinstance(part, nn.Sequential), f"`{name}` is no nn.Sequential, but {type(part).__name__}"
        kinds = [type(layer).__name__ for layer in part]
        right = len(part) == 5 and all(map(isinstance, part, FORM))
        assert right, f"`{name}` is {kinds}, expected {[kind.__name__ for kind in FORM]}"
        shapes = [tuple(layer.weight.shape) for layer in part if isinstance(layer, nn.Linear)]
        expected = [(width, 5), (width, width), (n, width)]
        assert shapes == expected, f"weights of `{name}` have the shapes {shapes}, expected {expected}"
    parts = network.policy.parameters(), network.value.parameters()
    shared = {id(p) for p in parts[0]} & {id(p) for p in parts[1]}
    assert not shared, "policy and value share layers: they are two separate networks"
    known = {id(p) for p in itertools.chain(network.policy.parameters(), network.value.parameters())}
    assert {id(p) for p in network.parameters()} == known, "there are parameters besides those of the two"


@pytest.mark.parametrize("which", ["policy", "value"])
@pytest.mark.parametrize(("d", "hidden"), [(5, 16), (20, 12)])
def test_weights_are_orthogonal(which, d, hidden):
    """The shorter side's vectors are orthogonal and as long as the gain; biases are 0."""
    network = ppo.ActorCritic(d, 3, hidden=hidden, generator=seeded(1))
    layers = [layer for layer in getattr(network, which) if isinstance(layer, nn.Linear)]
    last = 0.01 if which == "policy" else 1.0
    for number, (layer, gain) in enumerate(zip(layers, (2**0.5, 2**0.5, last), strict=True), start=1):
        assert not layer.bias.any(), f"the biases of linear layer {number} of `{which}` do not start at zero"
        weight = layer.weight.detach().to(DOUBLE)
        wide = weight if len(weight) <= weight.shape[1] else weight.T
        gram = wide @ wide.T
        size = gram.diagonal().mean().sqrt().item()
        what = f"linear layer {number} of `{which}`"
        assert size > 0, f"the weights of {what} are all zero"
        error = (gram / size**2 - torch.eye(len(gram), dtype=DOUBLE)).abs().max().item()
        assert error < 1e-4, (
            f"the weights are not orthogonal: {what}, W·Wᵀ/gain² is off the identity by {error:.2g}"
        )
        assert abs(size / gain - 1) < 1e-4, (
            f"the gain is wrong: {what} has {size:.4g}, expected {gain:.4g} "
            "(√2, in the last layers 0.01 for the policy and 1 for the value)"
        )


def weights(seed, global_seed=0):
    """Return all parameters of a network that is drawn with `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(global_seed)
        network = ppo.ActorCritic(6, 4, hidden=8, generator=seeded(seed))
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


def test_weights_come_from_the_generator():
    """The same seed gives the same network, whatever torch's global seed is; another seed another one."""
    first = weights(3)
    assert torch.equal(first, weights(3, 1)), (
        "the weights do not come from the generator: the same seed gives another network"
    )
    assert not torch.equal(first, weights(4)), "the weights do not depend on the generator's seed"
    policy, value = (next(layers.parameters()) for layers in _two(seeded(3)))
    assert not torch.equal(policy, value), "policy and value start with the same weights: each is drawn anew"
    for which, mine, other in zip(("policy", "value"), _two(seeded(3)), _two(seeded(4)), strict=True):
        alike = torch.equal(next(mine.parameters()), next(other.parameters()))
        assert not alike, f"the weights of `{which}` do not depend on the generator's seed"


def _two(generator):
    network = ppo.ActorCritic(6, 4, hidden=8, generator=generator)
    return network.policy, network.value


def test_networks_are_callable_on_leading_axes(generator):
    """(..., d) to (..., n_actions) and (..., 1)."""
    network, x = ppo.ActorCritic(5, 3, hidden=8), normal(2, 4, 5, generator=generator)
    randomised(network, generator)
    for part, n in ((network.policy, 3), (network.value, 1)):
        got, (expected, _) = part(x), forward(part, x)
        assert got.shape == (2, 4, n), f"got shape {tuple(got.shape)}, expected {(2, 4, n)}"
        assert_close(got, expected.detach(), dtype=torch.float32, rtol=1e-5, what="output")


# --- act and greedy ---------------------------------------------------------------------------------------------------


@pytest.fixture
def network(generator):
    return randomised(ppo.ActorCritic(5, 4, hidden=9), generator)


def test_act_returns_actions_and_their_log_probabilities(network, generator):
    """Shapes, int64, and log π of what was drawn."""
    x = normal(50, 5, generator=generator)
    with unchanged(x):
        actions, log_probs = network.act(x, generator=generator)
    assert actions.shape == (50,), f"the actions have shape {tuple(actions.shape)}, expected (50,)"
    assert actions.dtype == torch.int64, f"the actions are {actions.dtype}, expected int64"
    assert set(actions.tolist()) <= {0, 1, 2, 3}, "an action is none of the four"
    logits = forward(network.policy, x)[0].detach()
    expected = Categorical(logits=logits).log_prob(actions)
    mistakes = {
        "these are logits: a log-probability is normalised": logits.gather(-1, actions[:, None])[:, 0],
        "these are probabilities, not their logarithms": expected.exp(),
        "log π of the most probable action, not of the one that was drawn": logits.log_softmax(-1).amax(-1),
        "the entropy, not log π of the action": Categorical(logits=logits).entropy(),
        "the sign is wrong: a log-probability is not positive": -expected,
    }
    how = {"dtype": torch.float32, "rtol": 1e-5}
    assert_close(log_probs.detach(), expected, what="log-probabilities", mistakes=mistakes, **how)


def test_act_draws_for_each_observation_alone(network):
    """Equal observations get different actions, and neighbours do not copy each other."""
    generator = seeded(2)
    actions = torch.stack([network.act(torch.zeros(100, 5), generator=generator)[0] for _ in range(40)])
    always = bool((actions == actions[0, 0]).all())
    assert not always, "always the same action is taken: draw it with the policy's probabilities"
    share = torch.bincount(actions.flatten()) / actions.numel()
    expected = (share**2).sum().item()  # of independent draws, with a standard deviation below 0.01
    alike = (actions[:, 1:] == actions[:, :-1]).float().mean().item()
    assert abs(alike - expected) < 0.05, (
        f"draws depend on each other: {alike:.0%} of neighbours have the same action, expected {expected:.0%}"
    )


def test_act_draws_with_the_policys_probabilities(network, generator):
    """Three observations, 50,000 draws each: each frequency within five standard deviations of its probability."""
    n, x = 50_000, normal(3, 5, generator=generator)
    p = forward(network.policy, x)[0].detach().softmax(-1)
    actions = network.act(x.repeat(n, 1), generator=seeded(5))[0].view(n, 3)
    for row in range(3):
        got = torch.bincount(actions[:, row], minlength=4) / n
        far = ((got - p[row]).abs() / (p[row] * (1 - p[row]) / n).sqrt()).max().item()
        shown = f"got {got.tolist()}, the policy says {[round(q, 4) for q in p[row].tolist()]}"
        assert far < 5, f"actions come with wrong probabilities: {shown}"


def test_act_draws_by_the_generator(network):
    """The same generator state gives the same actions whatever torch's global seed is, and the next call others."""

    def draw(seed, global_seed):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(global_seed)
            generator = seeded(seed)
            return [network.act(torch.zeros(60, 5), generator=generator)[0] for _ in range(2)]

    first, second = draw(0, 0)
    assert torch.equal(first, draw(0, 1)[0]), "actions are not drawn with the generator that is passed"
    assert not torch.equal(first, draw(1, 0)[0]), "another seed of the generator gives the same actions"
    assert not torch.equal(first, second), "the generator stands still: the next call draws the same actions"


def test_without_a_generator():
    """Two networks differ, and two draws: the default is torch's own generator, not one that begins anew."""
    one, two = (next(ppo.ActorCritic(6, 4, hidden=8).parameters()) for _ in range(2))
    assert not torch.equal(one, two), "without a generator every network starts with the same weights"
    network = ppo.ActorCritic(6, 4, hidden=8)
    first, second = (network.act(torch.zeros(60, 6))[0] for _ in range(2))
    assert not torch.equal(first, second), "without a generator every call draws the same actions"


def test_greedy_takes_the_most_probable(network, generator):
    """The largest logit of each row."""
    x = normal(40, 5, generator=generator)
    got, logits = network.greedy(x), forward(network.policy, x)[0].detach()
    mistakes = {
        "the least probable action": logits.argmin(-1),
        "the largest over the batch, not over the actions": logits.argmax(0),
        "this is the logit, not the action": logits.amax(-1),
        "this is a probability, not the action": logits.softmax(-1).amax(-1),
    }
    assert_close(got, logits.argmax(-1), what="greedy actions", mistakes=mistakes)


# --- judge ------------------------------------------------------------------------------------------------------------


def test_judge(network, generator):
    """log π of the given actions, entropies and values, each (N,)."""
    x, actions = normal(30, 5, generator=generator), torch.randint(4, (30,), generator=generator)
    with unchanged(x, actions):
        got = network.judge(x, actions)
    right = isinstance(got, tuple) and len(got) == 3
    assert right, "judge returns three: log π, entropies, values"
    logits, values = forward(network.policy, x)[0].detach(), forward(network.value, x)[0].detach()
    policy = Categorical(logits=logits)
    mistakes = {
        "these are logits: a log-probability is normalised": logits.gather(-1, actions[:, None])[:, 0],
        "these are probabilities, not their logarithms": policy.probs.gather(-1, actions[:, None])[:, 0],
        "log π of the most probable action, not of the given one": policy.logits.amax(-1),
    }
    how = {"dtype": torch.float32, "rtol": 1e-5}
    assert_close(got[0].detach(), policy.log_prob(actions), what="log π", mistakes=mistakes, **how)
    mistakes = {"one mean entropy: each sample has its own": policy.entropy().mean()}
    assert_close(got[1].detach(), policy.entropy(), what="entropies", mistakes=mistakes, **how)
    mistakes = {"the values are (N, 1): against returns (N,) they become a square": values}
    assert_close(got[2].detach(), values[:, 0], what="values", mistakes=mistakes, **how)


def test_one_environment(network, generator):
    """N = 1 is a batch, too."""
    x = normal(1, 5, generator=generator)
    actions, log_probs = network.act(x, generator=generator)
    results = {"actions": actions, "log π by act": log_probs, "greedy actions": network.greedy(x)}
    names = ("log π by judge", "entropies", "values")
    results |= dict(zip(names, network.judge(x, actions), strict=True))
    for name, result in results.items():
        assert result.shape == (1,), f"{name} of one environment have shape {tuple(result.shape)}, not (1,)"


@pytest.mark.parametrize("which", range(3))
def test_gradients_of_judge(which, network, generator):
    """All three lead to the parameters: log π and the entropy to the policy's, the value to its own."""
    x, actions = normal(12, 5, generator=generator), torch.randint(4, (12,), generator=generator)
    cotangent = normal(12, generator=generator)
    logits, of_policy = forward(network.policy, x)
    values, of_value = forward(network.value, x)
    policy = Categorical(logits=logits)
    expected = (policy.log_prob(actions), policy.entropy(), values[:, 0])[which]
    got = network.judge(x, actions)[which]
    mine = gradients(got, list(network.parameters()), cotangent)
    order = [id(p) for p in itertools.chain(network.policy.parameters(), network.value.parameters())]
    theirs = dict(zip(order, gradients(expected, of_policy + of_value, cotangent), strict=True))
    what = ("log π", "the entropies", "the values")[which]
    for parameter, gradient in zip(network.parameters(), mine, strict=True):
        wanted = theirs[id(parameter)]
        how = {"dtype": torch.float32, "rtol": 1e-4, "vacuous_ok": "the other network's gradient is 0"}
        assert_close(gradient, wanted, what=f"gradient of {what} by a parameter", **how)


def test_act_and_judge_agree(network, generator):
    """What acted and what is judged is one policy: their log-probabilities are equal, so that ρ starts at 1."""
    x = normal(200, 5, generator=generator)
    actions, acted = network.act(x, generator=generator)
    judged = network.judge(x, actions)[0]
    hint = "act and judge disagree on log π of the same action"
    assert_close(judged.detach(), acted.detach(), rtol=1e-6, atol=2e-6, what="log π by judge", hint=hint)
