"""Vector environments with copy=False show their observations in one buffer that they write over in the next step."""

import gymnasium
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from oracles import seeded
from toys import Teller

import ppo
from rollout import Settings
from shared.testing.checks import assert_close
from shared.testing.no_compiler import without_compiler

HINT = "the environments reuse their buffer of observations: keep a copy"


def cart_poles(copy):
    makers = [lambda: gymnasium.make("CartPole-v1", max_episode_steps=9)] * 3
    return SyncVectorEnv(makers, copy=copy, autoreset_mode=AutoresetMode.SAME_STEP)


def collected(copy):
    environments = cart_poles(copy)
    start = torch.tensor(environments.reset(seed=3)[0])
    return ppo.collect(Teller(4, 2), environments, start, 25, generator=seeded(1))


@pytest.mark.grades("collect")
def test_collect_keeps_a_copy():
    """The same rollout as from environments that hand out copies."""
    (expected, expected_after), (got, after) = collected(True), collected(False)
    for name in ("observations", "values", "next_values", "log_probs"):
        assert_close(getattr(got, name), getattr(expected, name), rtol=1e-6, what=name, hint=HINT)
    assert_close(after, expected_after, rtol=0, what="observations after the rollout", hint=HINT)


@pytest.mark.grades("train")
def test_train_keeps_a_copy(monkeypatch):
    """What collect starts from stays as it was at the reset while the environments move on."""
    starts = []

    def collect(network, environments, observations, n_steps, *, generator=None):
        before = observations.clone()
        environments.step(environments.action_space.sample() * 0)
        starts.append((observations.clone(), before))
        raise StopIteration  # one rollout is enough

    monkeypatch.setattr(ppo, "collect", collect)
    network = torch.nn.Linear(1, 1)
    with without_compiler(), pytest.raises(StopIteration):
        ppo.train(network, cart_poles(False), 1, Settings(), improve=lambda *args, **kwargs: {})
    ((now, before),) = starts
    assert_close(now, before, rtol=0, what="observations that collect begins with", hint=HINT)
