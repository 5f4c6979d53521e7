"""All of yours together: the first part of a real rollout, a bandit that can be learned, a walk with your own network."""

import math

import pytest
import torch
from oracles import seeded
from toys import Bandit, Corridor, Scripted

import ppo
from rollout import Settings
from shared.testing.checks import assert_close
from shared.testing.no_compiler import without_compiler

# np.array(action) is as right as action.numpy(), but torch's tensors do not know the keyword `copy` of NumPy 2 yet
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module", autouse=True)
def no_compiler():
    with without_compiler():
        yield


@pytest.mark.grades("ActorCritic", "collect", "gae", "clipped_loss", "value_loss", "entropy", "update")
def test_first_part_of_a_real_rollout():
    """Your network acts and is judged at once: ρ = 1 to 1e-6, so the loss is the mean of -A, and nothing is clipped."""
    environments = Scripted(*("..T..L.B.T.." for _ in range(4)))
    network = ppo.ActorCritic(4, 3, generator=seeded(0))
    start = torch.as_tensor(environments.observe()).float()
    rollout, _ = ppo.collect(network, environments, start, 12, generator=seeded(1))
    log_probs, _, values = network.judge(rollout.observations.flatten(0, 1), rollout.actions.flatten())
    ratio = (log_probs.detach() - rollout.log_probs.flatten()).exp()
    worst = (ratio - 1).abs().max().item()
    assert worst < 1e-6, f"ρ of a fresh rollout is off 1 by {worst:.2g}: act and judge see different policies"
    assert_close(values.detach(), rollout.values.flatten(), rtol=1e-5, what="values of judge and of collect")
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    metrics = ppo.update(
        network, optimizer, rollout, Settings(n_epochs=1, n_minibatches=1), generator=seeded(2)
    )
    assert abs(metrics["kl"]) < 1e-6, f"kl of the first part is {metrics['kl']:.3g}: ρ is not 1 there"
    assert metrics["clip_fraction"] == 0, f"{metrics['clip_fraction']:.0%} of the first part are clipped"


WHOLE = ("gae", "clipped_loss", "value_loss", "entropy", "ActorCritic", "collect", "update", "train")


@pytest.mark.grades(*WHOLE)
def test_learns_a_bandit():
    """Three actions of which the observation shows the best: from 4/3 by chance to more than 3.2 of 4."""
    settings = Settings(n_steps=16, learning_rate=0.01, n_minibatches=2)
    network = ppo.ActorCritic(3, 3, hidden=16, generator=seeded(1))
    records = ppo.train(network, Bandit(8, 3), 12, settings, seed=3)
    first, last = records[0]["return"], records[-1]["return"]
    assert 0.8 < first < 2.2, f"the first rollout's mean return is {first:.2f}: by chance it is 1.33 of 4"
    assert last > 3.2, f"it does not learn: the mean return goes from {first:.2f} to {last:.2f}, of 4"
    assert records[-1]["step"] == 12 * 16 * 8, f"the last step is {records[-1]['step']}"
    for name in ("entropy", "kl", "clip_fraction"):
        assert math.isfinite(records[-1][name]), f"{name} is {records[-1][name]}"


@pytest.mark.grades("ActorCritic", "evaluate")
def test_evaluate_your_network():
    """Your network in the corridor: what a fresh one does can be said from its own greedy actions."""
    network = ppo.ActorCritic(4, 4, hidden=8, generator=seeded(4))
    got = ppo.evaluate(network, Corridor(), n_episodes=7, seed=0)
    best = network.greedy(2.0 * torch.eye(4) - 1.5) == torch.arange(4)
    wins = [[bool(best[(clock * 3 + length) % 4]) for clock in range(length)] for length in range(1, 8)]
    expected = [sum(2.0**k if win else -1000.0 for k, win in enumerate(row)) for row in wins]
    assert_close(got.float(), torch.tensor(expected), what="returns of a fresh network")
