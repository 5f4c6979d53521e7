"""The losses and the entropy. Oracles: values and gradients worked by hand, torch.distributions in float64, laws."""

import math

import pytest
import torch
from oracles import DOUBLE, gradients, normal
from torch.distributions import Categorical

import ppo
from shared.testing.checks import assert_close, expect_error, lazily, unchanged

# --- the clipped loss -------------------------------------------------------------------------------------------------

CLIPPED = "the loss is not clipped"
LOSS_MISTAKES = {
    "a clamp alone: the smaller of ρA and the clamped one counts, so that a bad step back is not forgiven": (
        lambda r, a, c: -(r.clamp(1 - c, 1 + c) * a).mean()
    ),
    "max where min belongs: a pessimist takes the smaller": (
        lambda r, a, c: -torch.max(r * a, r.clamp(1 - c, 1 + c) * a).mean()
    ),
    CLIPPED: lambda r, a, c: -(r * a).mean(),
    "the sign is wrong: a loss falls where the objective grows": (
        lambda r, a, c: torch.min(r * a, r.clamp(1 - c, 1 + c) * a).mean()
    ),
    "ρ is old over new: exp(log_probs - old_log_probs)": (
        lambda r, a, c: -torch.min(a / r, (1 / r).clamp(1 - c, 1 + c) * a).mean()
    ),
    "ρ is taken to be the difference of the logarithms: exp is missing": (
        lambda r, a, c: -torch.min(r.log() * a, r.log().clamp(1 - c, 1 + c) * a).mean()
    ),
    "a sum over the batch, not the mean": (
        lambda r, a, c: -torch.min(r * a, r.clamp(1 - c, 1 + c) * a).sum()
    ),
    "the smaller is taken of the means, not for each sample": (
        lambda r, a, c: -torch.min((r * a).mean(), (r.clamp(1 - c, 1 + c) * a).mean())
    ),
    "the smaller of ρ and the clamped ρ is multiplied by A: the products are to be compared": (
        lambda r, a, c: -(torch.min(r, r.clamp(1 - c, 1 + c)) * a).mean()
    ),
    "ρ is clipped above only": lambda r, a, c: -torch.min(r * a, r.clamp(max=1 + c) * a).mean(),
    "ρ is clipped below only": lambda r, a, c: -torch.min(r * a, r.clamp(min=1 - c) * a).mean(),
    "clip is ignored": lambda r, a, c: -torch.min(r * a, r.clamp(0.8, 1.2) * a).mean(),
}


def losses(batches, loss, **options):
    """Return the losses of some batches of (ratios, advantages)."""
    return torch.stack([loss(torch.tensor(r), torch.tensor(a), **options) for r, a in batches])


def loss_mistakes(batches, clip):
    """Return assert_close's `mistakes` for the losses of some batches."""
    return {name: lazily(losses, batches, wrong, c=clip) for name, wrong in LOSS_MISTAKES.items()}


def samples(ratios):
    """Return log-probabilities of these ratios, as leaves, and old ones."""
    old = torch.tensor((-1.0, -0.25, -2.0, -0.5, -3.0)[: len(ratios)])
    return (old + torch.as_tensor(ratios).log()).requires_grad_(), old


def loss_of(ratios, advantages, **options):
    """The learner's loss of one batch."""
    return ppo.clipped_loss(*samples(ratios), advantages, **options).detach()


@pytest.mark.grades("clipped_loss")
@pytest.mark.parametrize(
    ("clip", "rows"),
    [
        # ρ, A, and min(ρA, clipped ρ·A) with its sign turned
        (0.2, [(1.5, 2.0, -2.4), (0.5, 2.0, -1.0), (1.5, -2.0, 3.0), (0.5, -2.0, 1.6), (1.1, 3.0, -3.3)]),
        (0.5, [(1.25, 2.0, -2.5), (1.75, 2.0, -3.0), (0.25, -4.0, 2.0), (0.75, -4.0, 3.0), (2.0, -1.0, 2.0)]),
    ],
)
def test_clipped_loss_by_hand(clip, rows):
    """Single samples, one in each quadrant: sign of A by side of ρ."""
    batches = [([ratio], [advantage]) for ratio, advantage, _ in rows]
    expected = torch.tensor([row[-1] for row in rows])
    shown = ", ".join(f"({ratio}, {advantage})" for ratio, advantage, _ in rows)
    got, mistakes = losses(batches, loss_of, clip=clip), loss_mistakes(batches, clip)
    assert_close(got, expected, rtol=1e-5, what=f"losses at (ρ, A) = {shown}, ε = {clip}", mistakes=mistakes)


@pytest.mark.grades("clipped_loss")
def test_clipped_loss_is_a_mean():
    """All four quadrants together: (-2.4 - .5 + 4.5 + .8)/4, (-3.6 + 1.5)/2, by the smaller of each sample."""
    batches = [
        ([1.5, 0.25, 1.5, 0.5], [2.0, 2.0, -3.0, -1.0]),
        ([2.0, 1.5], [3.0, -1.0]),
    ]
    got, mistakes = losses(batches, loss_of), loss_mistakes(batches, 0.2)
    assert_close(got, torch.tensor([0.6, -1.05]), rtol=1e-5, what="losses of two batches", mistakes=mistakes)
    log_probs, old = samples(batches[0][0])
    advantages = torch.tensor(batches[0][1])
    with unchanged(log_probs, old, advantages):
        ppo.clipped_loss(log_probs, old, advantages)


QUADRANTS = {  # ratio, advantage, factor of the gradient -A·ρ/batch
    "A > 0, ρ > 1 + ε": (1.7, 3.0, 0),
    "A > 0, ρ < 1 - ε": (0.3, 3.0, 1),
    "A < 0, ρ > 1 + ε": (1.7, -3.0, 1),
    "A < 0, ρ < 1 - ε": (0.3, -3.0, 0),
    "A > 0, ρ in between": (1.1, 3.0, 1),
    "A < 0, ρ in between": (0.9, -3.0, 1),
}
TOO_FAR = "the gradient must be exactly 0 where ρ has gone far enough its way"
NOT_BACK = "the gradient must not be 0 where ρ has gone the wrong way: the policy has to come back"


@pytest.mark.grades("clipped_loss")
@pytest.mark.parametrize("clip", [0.2, 0.45])
@pytest.mark.parametrize("quadrant", QUADRANTS)
def test_gradient_of_each_quadrant(quadrant, clip):
    """0 in two of the quadrants, that of the unclipped ρA elsewhere, among other samples."""
    ratio, advantage, factor = QUADRANTS[quadrant]
    log_probs, old = samples([1.05, ratio, 0.95])
    advantages = torch.tensor([1.0, advantage, -2.0])
    (got,) = gradients(ppo.clipped_loss(log_probs, old, advantages, clip=clip), (log_probs,))
    if factor == 0:
        assert got[1] == 0, f"{TOO_FAR}: {quadrant}, ε = {clip}, got {got[1]:.4g}"
    elif got[1] == 0:
        raise AssertionError(f"{NOT_BACK if 'between' not in quadrant else 'no gradient'}: {quadrant}")
    expected = torch.tensor([-1.05, -factor * ratio * advantage, 1.9]) / 3
    assert_close(got, expected, rtol=1e-5, what=f"gradient by log_probs ({quadrant}, ε = {clip})")


@pytest.mark.grades("clipped_loss")
def test_gradient_at_ratio_one(generator):
    """ρ = 1, as in the first minibatch: the policy gradient, -A/batch."""
    old = normal(7, generator=generator) - 2
    log_probs, advantages = old.clone().requires_grad_(), normal(7, generator=generator)
    loss = ppo.clipped_loss(log_probs, old, advantages)
    (got,) = gradients(loss, (log_probs,))
    hint = "at ρ = 1 the gradient is the policy gradient, -A/batch"
    assert_close(got, -advantages / 7, rtol=1e-5, what="gradient at ρ = 1", hint=hint)
    assert_close(loss, -advantages.double().mean(), dtype=torch.float32, rtol=1e-5, what="loss at ρ = 1")


@pytest.mark.grades("clipped_loss")
def test_gradient_goes_to_the_new_policy_alone(generator):
    """Old log-probabilities and advantages are data, even where they require a gradient."""
    inputs = [normal(9, generator=generator, scale=0.3).requires_grad_() for _ in range(3)]
    _, of_old, of_advantages = gradients(ppo.clipped_loss(*inputs), inputs)
    assert not of_old.any(), "a gradient flows into old_log_probs: they are data, detach them"
    assert not of_advantages.any(), "a gradient flows into the advantages: they are data, detach them"


@pytest.mark.grades("clipped_loss")
@pytest.mark.parametrize("which", range(3))
@pytest.mark.parametrize("shape", [(5, 1), (1, 5), (1,), (4,)], ids=str)
def test_clipped_loss_refuses_unequal_shapes(which, shape):
    """(batch, 1) against (batch,) would become a square, and (1,) a row."""
    shapes = [(5,)] * 3
    shapes[which] = shape
    with expect_error(ValueError, otherwise=f"shapes {shapes} are accepted: they are broadcast"):
        ppo.clipped_loss(*(torch.ones(s) for s in shapes))


# --- the value loss ---------------------------------------------------------------------------------------------------


@pytest.mark.grades("value_loss")
def test_value_loss_by_hand():
    """(1 + 4 + 0 + 9)/4/2."""
    values, returns = torch.tensor([1.0, 2.0, 3.0, -1.0]), torch.tensor([0.0, 4.0, 3.0, 2.0])
    mistakes = {
        "the half is missing": torch.tensor(3.5),
        "a sum over the batch, not the mean": torch.tensor(7.0),
        "a sum over the batch, and without the half": torch.tensor(14.0),
        "the error is not squared": torch.tensor(0.75),
    }
    with unchanged(values, returns):
        got = ppo.value_loss(values, returns)
    assert_close(got, torch.tensor(1.75), what="value loss", mistakes=mistakes)


@pytest.mark.grades("value_loss")
def test_value_loss_gradient(generator):
    """(V - R)/batch for the values, nothing for the returns."""
    values, returns = (normal(6, generator=generator).requires_grad_() for _ in range(2))
    got, of_returns = gradients(ppo.value_loss(values, returns), (values, returns))
    assert_close(got, ((values - returns) / 6).detach(), rtol=1e-5, what="gradient by values")
    assert not of_returns.any(), "a gradient flows into the returns: they are the target, detach them"


@pytest.mark.grades("value_loss")
@pytest.mark.parametrize("shapes", [((5, 1), (5,)), ((5,), (5, 1)), ((5,), (1,)), ((4,), (5,))], ids=str)
@pytest.mark.filterwarnings("ignore:Using a target size")
def test_value_loss_refuses_unequal_shapes(shapes):
    """A critic that ends in (batch, 1) against returns (batch,) would learn the mean of all returns."""
    with expect_error(ValueError, otherwise=f"shapes {shapes} are accepted: they are broadcast"):
        ppo.value_loss(*(torch.ones(shape) for shape in shapes))


# --- entropy ----------------------------------------------------------------------------------------------------------


@pytest.mark.grades("entropy")
@pytest.mark.parametrize("n", [2, 5])
def test_entropy_of_equal_actions(n):
    """log n, whatever is added to all logits."""
    logits = torch.tensor([[0.0], [3.0], [-20.0]]).expand(3, n)
    mistakes = {
        "bits, not nats": torch.full((3,), math.log2(n)),
        "the sign is wrong: an entropy is not negative": torch.full((3,), -math.log(n)),
        "the mean over the actions, not their sum": torch.full((3,), math.log(n) / n),
        "the mean over the samples is taken: one entropy for each": torch.tensor(math.log(n)),
    }
    why = "all three are log n"
    got, expected = ppo.entropy(logits), torch.full((3,), math.log(n))
    assert_close(got, expected, rtol=1e-5, what="entropy of equal actions", mistakes=mistakes, vacuous_ok=why)


@pytest.mark.grades("entropy")
def test_entropy_by_hand():
    """p = 1/2, 1/4, 1/4: 3/2 bits; p = 1/4, 3/4."""
    logits = torch.tensor([[2.0, 1.0, 1.0], [1.0, 2.0, 1.0], [1.0, 1.0, 1.0]]).log()
    expected = torch.tensor([1.5, 1.5, math.log2(3)]) * math.log(2)
    p = logits.softmax(-1)
    mistakes = {
        "bits, not nats": expected / math.log(2),
        "the sign is wrong: an entropy is not negative": -expected,
        "the logits are no log-probabilities before log_softmax": -(p * logits).sum(-1),
        "the softmax runs over the wrong axis": lambda: ppo.entropy(logits.T),
        "a sum over all samples: one entropy for each": expected.sum(),
    }
    with unchanged(logits):
        got = ppo.entropy(logits)
    assert_close(got, expected, rtol=1e-5, what="entropy", mistakes=mistakes)


@pytest.mark.grades("entropy")
@pytest.mark.parametrize("shape", [(3,), (4, 3), (2, 5, 3)], ids=str)
def test_entropy_of_leading_axes(shape, generator):
    """Any leading axes, against torch.distributions in float64; gradient included."""
    logits = normal(*shape, generator=generator, scale=2.0).requires_grad_()
    wide = logits.detach().to(DOUBLE).requires_grad_()
    got, expected = ppo.entropy(logits), Categorical(logits=wide).entropy()
    assert_close(got, expected, dtype=torch.float32, rtol=1e-5, what=f"entropy of logits {shape}")
    cotangent = normal(*shape[:-1], generator=generator)
    (mine,), (theirs,) = gradients(got, (logits,), cotangent), gradients(expected, (wide,), cotangent)
    assert_close(mine, theirs, dtype=torch.float32, rtol=1e-4, what="gradient by the logits")


@pytest.mark.grades("entropy")
def test_entropy_where_p_underflows():
    """exp(-200) is 0 in float32, and 0·log 0 is NaN: the entropy and its gradient are finite."""
    logits = torch.tensor([[0.0, -200.0, 1.0], [300.0, 0.0, -300.0], [0.0, 300.0, 300.0]], requires_grad=True)
    wide = logits.detach().to(DOUBLE).requires_grad_()
    got, expected = ppo.entropy(logits), Categorical(logits=wide).entropy()
    hint = "0·log 0 is NaN, or -inf: take the logarithm of the softmax by log_softmax"
    how = {"dtype": torch.float32, "rtol": 1e-4, "hint": hint}
    assert_close(got, expected, what="entropy where p underflows", **how)
    (mine,), (theirs,) = gradients(got, (logits,)), gradients(expected, (wide,))
    how["hint"] = "where p underflows the gradient is 0, not NaN: no log of p itself, and no division by it"
    assert_close(mine, theirs, what="gradient where p underflows", **how)
