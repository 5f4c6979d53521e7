"""Advantages. Oracles: values worked by hand, and the double sum over what follows, in float64."""

import pytest
import torch
from oracles import DOUBLE, advantages_by_sum, gae_mistakes, make_rollout, random_rollout

import ppo
from shared.testing.checks import assert_close, assert_imports_only, unchanged


@pytest.mark.grades
def test_written_out():
    """Only torch, NumPy, Gymnasium and what is given are imported."""
    assert_imports_only(ppo, {"torch", "numpy", "gymnasium", "rollout"})


HAND = [  # how each step ends ("T" terminated, "L" cut off by the time limit, "B" both), V(s_{t+1}), the advantages
    ("...", (0.5, 0.5, 0.5), (2.12648, 1.634, 0.95)),
    (".T.", (0.5, 0.5, 0.5), (1.31, 0.5, 0.95)),
    (".L.", (0.5, 0.5, 0.5), (1.634, 0.95, 0.95)),
    (".B.", (0.5, 0.5, 0.5), (1.31, 0.5, 0.95)),
    (".L.", (0.5, 2.0, 0.5), (2.606, 2.3, 0.95)),
    (".T.", (0.5, 2.0, 0.5), (1.31, 0.5, 0.95)),
    ("..T", (0.5, 0.5, 2.0), (1.8932, 1.31, 0.5)),
    ("..L", (0.5, 0.5, 2.0), (2.82632, 2.606, 2.3)),
    ("LT.", (0.5, 0.5, 0.5), (0.95, 0.5, 0.95)),
]


@pytest.mark.grades("gae")
def test_gae_by_hand():
    """r = 1, V = 1/2, γ = .9, λ = .8: δ is .95, .5 where there is no future, 2.3 where V(s_{t+1}) is 2; γλ is .72."""
    words, following, expected = zip(*HAND, strict=True)
    following, expected = torch.tensor(following).T, torch.tensor(expected).T
    terminated, truncated = (
        torch.tensor([[letter in kind for letter in word] for word in words]).T for kind in ("TB", "LB")
    )
    values = torch.full((3, len(words)), 0.5)
    rollout = make_rollout(torch.ones_like(values), values, following, terminated, truncated)
    got, mistakes = ppo.gae(rollout, gamma=0.9, lam=0.8), gae_mistakes(rollout, 0.9, 0.8)
    what = f"advantages of environments that end as {', '.join(words)}"
    assert_close(got, expected, rtol=1e-5, what=what, mistakes=mistakes)


@pytest.mark.grades("gae")
@pytest.mark.parametrize(("T", "N"), [(7, 4), (1, 3), (9, 1)])
def test_gae_is_the_double_sum(T, N, generator):
    """Random numbers, ends and sizes; the rollout is left as it is."""
    for _ in range(4):
        rollout = random_rollout(T, N, generator)
        with unchanged(*rollout):
            got = ppo.gae(rollout, gamma=0.93, lam=0.7)
        mistakes = gae_mistakes(rollout, 0.93, 0.7)
        expected = advantages_by_sum(rollout, 0.93, 0.7)
        assert_close(got, expected, dtype=torch.float32, n=3 * T, what="advantages", mistakes=mistakes)


@pytest.mark.grades("gae")
def test_gae_without_ends(generator):
    """No end at all: every step sees to the rollout's end."""
    rollout = random_rollout(9, 2, generator)
    never = torch.zeros(9, 2, dtype=torch.bool)
    rollout = rollout._replace(terminated=never, truncated=never)
    got, expected = ppo.gae(rollout, gamma=0.8, lam=0.9), advantages_by_sum(rollout, 0.8, 0.9)
    mistakes = gae_mistakes(rollout, 0.8, 0.9)
    assert_close(got, expected, dtype=torch.float32, n=27, what="advantages", mistakes=mistakes)


@pytest.mark.grades("gae")
@pytest.mark.parametrize(("gamma", "lam"), [(0.9, 1.0), (0.9, 0.0), (1.0, 0.6), (0.0, 0.6)])
def test_gae_at_the_ends_of_its_options(gamma, lam, generator):
    """λ = 1: discounted rewards up to the end, minus V. λ = 0: δ alone. γ = 0: r - V."""
    rollout = random_rollout(6, 3, generator)
    got, expected = ppo.gae(rollout, gamma=gamma, lam=lam), advantages_by_sum(rollout, gamma, lam)
    mistakes = gae_mistakes(rollout, gamma, lam)
    what = f"advantages (γ = {gamma}, λ = {lam})"
    assert_close(got, expected, dtype=torch.float32, n=18, what=what, mistakes=mistakes)


@pytest.mark.grades("gae")
def test_gae_by_default(generator):
    """γ = .99 and λ = .95, as the signature says."""
    rollout = random_rollout(6, 3, generator)
    expected = advantages_by_sum(rollout, 0.99, 0.95)
    got = ppo.gae(rollout)
    assert_close(got, expected, dtype=torch.float32, n=18, what="advantages by default")


@pytest.mark.grades("gae")
def test_an_advantage_knows_its_own_episode(generator):
    """What happens after an end, or in another environment, changes no advantage before it."""
    rollout = random_rollout(8, 3, generator)
    for column in (rollout.terminated, rollout.truncated):
        column[:] = False
    rollout.truncated[3] = True
    first = ppo.gae(rollout, gamma=0.9, lam=0.8)[:4].clone()
    for column in rollout[3:6]:
        column[4:] += 5.0
    got = ppo.gae(rollout, gamma=0.9, lam=0.8)[:4]
    hint = "advantages leak over a truncation: the next row is another episode there too"
    assert_close(got, first, rtol=0, atol=0.0, what="advantages of the first episode", hint=hint)
    for column in rollout[3:6]:
        column[:, 1:] += 5.0
    got = ppo.gae(rollout, gamma=0.9, lam=0.8)[:, :1]
    expected = advantages_by_sum(rollout, 0.9, 0.8)[:, :1].to(DOUBLE)
    hint = "environments are mixed: each column of the rollout is one"
    assert_close(got, expected, dtype=torch.float32, n=24, what="advantages of one environment", hint=hint)
