"""The loss of reward and end. Oracles: values worked by hand, float64 sums of logarithms."""

import math

import pytest
import torch
from oracles import DOUBLE, gradients, normal

import diffusion_world_model
from shared.testing.checks import assert_close, lazily, unchanged

pytestmark = pytest.mark.grades("outcome_loss")


def surprise(logits, classes):
    """-log p of the classes, one by one, in float64, with Python's own exp and log."""
    rows = logits.detach().double().tolist()
    losses = [
        math.log(sum(math.exp(z - max(row)) for z in row)) + max(row) - row[k]
        for row, k in zip(rows, classes.tolist(), strict=True)
    ]
    return torch.tensor(losses, dtype=DOUBLE)


def sign_class(rewards):
    """0, 1, 2 for -, 0, +."""
    return torch.tensor([1 + (r > 0) - (r < 0) for r in rewards.tolist()])


def mistakes_of(reward_logits, end_logits, rewards, ends):
    """assert_close's `mistakes`."""
    signs, over = sign_class(rewards), ends.long()
    of_reward, of_end = surprise(reward_logits, signs), surprise(end_logits, over)
    n = len(rewards)

    def other(classes):
        return lazily(lambda c: surprise(reward_logits, c).mean() + of_end.mean(), classes)

    return {
        "the end's loss is missing": of_reward.mean(),
        "the reward's loss is missing": of_end.mean(),
        "a sum over the batch, not the mean": of_reward.sum() + of_end.sum(),
        "both losses are averaged: their sum is asked for": (of_reward.mean() + of_end.mean()) / 2,
        "the classes of the end are exchanged: 0 goes on, 1 ends": of_reward.mean()
        + surprise(end_logits, 1 - over).mean(),
        "the classes of the reward are turned round: 0 is -1, 2 is 1": other(2 - signs),
        "the reward's classes are shifted: -1, 0 and 1 are the classes 0, 1 and 2": other((signs - 1) % 3),
        "the reward's classes are shifted: -1, 0, 1 and not 0, 1, -1": other((signs + 1) % 3),
        "a negative reward is called 0": other(signs.clamp(min=1)),
        "a positive reward is called 0": other(signs.clamp(max=1)),
        "the reward is truncated to an integer before its sign is taken: 0.3 is called 0": other(
            sign_class(rewards.trunc())
        ),
        "the reward is rounded before its sign is taken: 0.3 is called 0": other(sign_class(rewards.round())),
        "steps that end count nothing for the reward: the end's weight kills the rewarding action": (
            of_reward[~ends].mean() + of_end.mean()
        ),
        "steps that end count nothing for the reward, and the sum is divided by all": (
            of_reward * ~ends
        ).sum()
        / n
        + of_end.mean(),
        "steps without a reward count nothing": of_reward[signs != 1].mean() + of_end.mean(),
        "the sign is wrong: a loss falls where the probability grows": -of_reward.mean() - of_end.mean(),
    }


@pytest.fixture
def batch(generator):
    """Nine steps of all kinds of rewards."""
    rewards = torch.tensor([1.0, -1.0, 0.0, 0.3, -0.2, 7.5, -40.0, 0.0, 1.0])
    ends = torch.tensor([True, False, False, True, True, False, False, True, False])
    return (
        normal(9, 3, generator=generator, scale=2),
        normal(9, 2, generator=generator, scale=2),
        rewards,
        ends,
    )


def test_by_hand():
    """Odds 1 : 2 : 5 and 1 : 3: -ln(5/8), -ln(2/8) and -ln(1/8); -ln(3/4), -ln(1/4) twice."""
    reward_logits = torch.tensor([1.0, 2.0, 5.0]).log().expand(3, 3)
    end_logits = torch.tensor([1.0, 3.0]).log().expand(3, 2)
    rewards, ends = torch.tensor([1.0, 0.0, -1.0]), torch.tensor([True, False, False])
    expected = (math.log(8 / 5) + math.log(4) + math.log(8)) / 3 + (math.log(4 / 3) + 2 * math.log(4)) / 3
    with unchanged(rewards, ends):
        got = diffusion_world_model.outcome_loss(reward_logits, end_logits, rewards, ends)
    assert got.shape == (), f"the loss has shape {tuple(got.shape)}: a scalar is asked for"
    how = {"rtol": 1e-5, "mistakes": mistakes_of(reward_logits, end_logits, rewards, ends)}
    assert_close(got, torch.tensor(expected), what="loss of three steps", **how)


def test_many_steps(batch):
    """Rewards of any size: their signs count; steps that end count like all others."""
    expected = surprise(batch[0], sign_class(batch[2])).mean() + surprise(batch[1], batch[3].long()).mean()
    with unchanged(*batch):
        got = diffusion_world_model.outcome_loss(*batch)
    how = {"dtype": torch.float32, "rtol": 1e-5, "mistakes": mistakes_of(*batch)}
    assert_close(got, expected, what="loss of nine steps", **how)


def test_loud_logits(batch):
    """Logits in the hundreds: no exp of them."""
    loud = (200 * batch[0], 200 * batch[1], *batch[2:])
    expected = surprise(loud[0], sign_class(batch[2])).mean() + surprise(loud[1], batch[3].long()).mean()
    hint = "overflows for large logits: use log_softmax, or the cross-entropy of logits"
    got = diffusion_world_model.outcome_loss(*loud)
    assert_close(got, expected, dtype=torch.float32, rtol=1e-5, what="loss of loud logits", hint=hint)


def test_gradient(batch):
    """(softmax - one-hot)/batch, for both."""
    reward_logits, end_logits = (x.clone().requires_grad_() for x in batch[:2])
    got = gradients(
        diffusion_world_model.outcome_loss(reward_logits, end_logits, *batch[2:]), (reward_logits, end_logits)
    )
    classes = sign_class(batch[2]), batch[3].long()
    for mine, logits, k, name in zip(got, batch[:2], classes, ("reward", "end"), strict=True):
        wide = logits.double().exp()
        expected = wide / wide.sum(1, keepdim=True)
        expected[torch.arange(9), k] -= 1
        hint = "the loss of a batch does not fall along (softmax - one-hot)/B"
        assert_close(
            mine,
            expected / 9,
            dtype=torch.float32,
            rtol=1e-5,
            what=f"gradient by the {name}'s logits",
            hint=hint,
        )


def test_the_smallest_reward_has_a_sign():
    """0.01 counts as 1 and -0.003 as -1."""
    logits, ends = (
        normal(4, 3, generator=torch.Generator().manual_seed(2)),
        torch.tensor([True, False, False, True]),
    )
    end_logits, rewards = logits[:, :2].flip(0), torch.tensor([0.01, -0.003, 0.0, 5.0])
    expected = surprise(logits, torch.tensor([2, 0, 1, 2])).mean() + surprise(end_logits, ends.long()).mean()
    hint = "a reward of 0.01 or -0.003 is called 0: it is the sign that counts"
    got = diffusion_world_model.outcome_loss(logits, end_logits, rewards, ends)
    assert_close(got, expected, dtype=torch.float32, rtol=1e-5, what="loss of small rewards", hint=hint)
