"""λ-returns and the actor-critic's loss. Oracles: the λ-return by its definition, torch.distributions, hand values, closed forms."""

import math

import pytest
import torch
from oracles import DOUBLE, gradients, normal, returns_by_sums, returns_mistakes
from torch.distributions import Categorical

import diffusion_world_model
from shared.testing.checks import assert_close, lazily, unchanged

# --- lambda_returns ---------------------------------------------------------------------------------------------------


@pytest.mark.grades("lambda_returns")
def test_returns_by_hand():
    """γ = λ = 1/2. One dream goes on, the other ends at its second step: from the last step backwards.

    8 + (1/2)·16 = 16; 4 + (1/2)·(8/2 + 16/2) = 10; 2 + (1/2)·(4/2 + 10/2) = 5.5.
    8 + (1/2)·16 = 16; 4; 2 + (1/2)·(4/2 + 4/2) = 4.
    """
    rewards = torch.tensor([[2.0, 2.0], [4.0, 4.0], [8.0, 8.0]])
    next_values = torch.tensor([[4.0, 4.0], [8.0, 8.0], [16.0, 16.0]])
    ends = torch.tensor([[False, False], [False, True], [False, False]])
    with unchanged(rewards, ends, next_values):
        got = diffusion_world_model.lambda_returns(rewards, ends, next_values, gamma=0.5, lam=0.5)
    expected = torch.tensor([[5.5, 4.0], [10.0, 4.0], [16.0, 16.0]])
    mistakes = returns_mistakes(rewards, ends, next_values, 0.5, 0.5)
    assert_close(got, expected, rtol=1e-6, what="returns of three steps", mistakes=mistakes)


def dream_of(generator, n_steps=11, n_dreams=6):
    """Rewards, ends and values: three steps in ten end, one of the last ones, too."""
    rewards, next_values = (normal(n_steps, n_dreams, generator=generator) + 0.4 for _ in range(2))
    ends = torch.rand(n_steps, n_dreams, generator=generator) < 0.3
    ends[-1] = torch.arange(n_dreams) % 2 == 0
    return rewards, ends, next_values


@pytest.mark.grades("lambda_returns")
@pytest.mark.parametrize(
    "options",
    [{}, {"gamma": 0.6}, {"lam": 0.3}, {"gamma": 0.9, "lam": 0.0}, {"gamma": 0.7, "lam": 1.0}],
    ids=str,
)
def test_returns_by_their_definition(options, generator):
    """All n-step returns up to the horizon, weighted by (1 - λ)·λ^(n - 1), the longest by what is left; in float64."""
    dream = dream_of(generator)
    expected = returns_by_sums(*dream, **options)
    both = options.get("gamma", 0.985), options.get("lam", 0.95)
    with unchanged(*dream):
        got = diffusion_world_model.lambda_returns(*dream, **options)
    how = {"dtype": torch.float32, "rtol": 1e-5, "mistakes": returns_mistakes(*dream, *both)}
    assert_close(got, expected, what=f"returns, {options or 'γ = 0.985, λ = 0.95'}", **how)


@pytest.mark.grades("lambda_returns")
def test_one_step(generator):
    """A horizon of one: r + γ·V(s_1), or r alone where the game ended."""
    rewards, ends, next_values = dream_of(generator, 1, 5)
    expected = rewards.double() + 0.985 * next_values.double() * ~ends
    mistakes = returns_mistakes(rewards, ends, next_values)
    how = {"dtype": torch.float32, "rtol": 1e-5, "mistakes": mistakes}
    got = diffusion_world_model.lambda_returns(rewards, ends, next_values)
    assert_close(got, expected, what="returns of one step", **how)


@pytest.mark.grades("lambda_returns")
def test_true_values_stay():
    """The law of the returns: where each value is what follows it, G_t is r_t + γ·V(s_{t+1}) at every λ."""
    rewards = torch.tensor([[1.0, -1.0], [0.5, 2.0], [0.0, 1.0], [3.0, 0.25]])
    ends = torch.tensor([[False, False], [False, True], [True, False], [False, False]])
    after = torch.tensor([[7.0, 0.5], [0.0, 0.0], [0.0, 0.0], [10.0, 5.0]], dtype=DOUBLE)
    for t in (2, 1, 0):  # V(s_{t+1}) = r_{t+1} + γ·V(s_{t+2}), unless step t ended the game
        follows = rewards[t + 1] + 0.8 * ~ends[t + 1] * after[t + 1]
        after[t] = torch.where(ends[t], after[t], follows)
    expected = rewards + 0.8 * ~ends * after
    for lam in (0.0, 0.4, 1.0):
        got = diffusion_world_model.lambda_returns(rewards, ends, after.float(), gamma=0.8, lam=lam)
        hint = "with true values all n-step returns are the same, whatever λ is"
        assert_close(
            got,
            expected,
            dtype=torch.float32,
            rtol=1e-5,
            what=f"returns of true values, λ = {lam}",
            hint=hint,
        )


# --- actor_critic_loss ------------------------------------------------------------------------------------------------


class Batch:
    """Logits of three actions, values, and data; π_old is that of other logits, `far` away."""

    def __init__(self, generator, n=8, far=0.6):
        self.logits, self.values = normal(n, 3, generator=generator), normal(n, generator=generator)
        self.actions = torch.randint(0, 3, (n,), generator=generator)
        old = Categorical(logits=self.logits + normal(n, 3, generator=generator, scale=far))
        self.old_log_probs = old.log_prob(self.actions)
        self.advantages, self.returns = (normal(n, generator=generator, scale=2) for _ in range(2))

    def all(self):
        """The arguments, in order."""
        return self.logits, self.values, self.actions, self.old_log_probs, self.advantages, self.returns

    def wide(self):
        """Policy, ρ, advantages, values and returns, in float64."""
        policy = Categorical(logits=self.logits.double())
        ratio = (policy.log_prob(self.actions) - self.old_log_probs.double()).exp()
        return policy, ratio, self.advantages.double(), self.values.double(), self.returns.double()


def terms(batch, clip=0.2):
    """The three means: of the smaller product, of the squared error, of the entropy."""
    policy, ratio, a, v, g = batch.wide()
    gain = torch.stack([ratio * a, ratio.clamp(1 - clip, 1 + clip) * a]).amin(0)
    return gain.mean(), (v - g).square().mean(), policy.entropy().mean()


def loss_mistakes(batch, clip=0.2, value_weight=0.5, entropy_weight=0.01):
    """assert_close's `mistakes` for the whole loss."""
    policy, ratio, a, v, g = batch.wide()
    gain, error, entropy = terms(batch, clip)
    held = ratio.clamp(1 - clip, 1 + clip)
    n = len(a)
    log_ratio = ratio.log()
    wide_p = policy.probs

    def loss(gain=gain, error=error, entropy=entropy, vw=value_weight, ew=entropy_weight):
        return -gain + vw * error - ew * entropy

    return {
        "max where min belongs: the smaller product counts": loss(gain=torch.maximum(ratio * a, held * a).mean()),
        "a clamp alone: the smaller of ρA and the clipped one counts": loss(gain=(held * a).mean()),
        "ρ is not clipped": loss(gain=(ratio * a).mean()),
        "the policy's sign is wrong: a loss falls where ρA grows": loss(gain=-gain),
        "ρ is π_old over π: exp(log π - log π_old)": loss(
            gain=torch.minimum(a / ratio, (1 / ratio).clamp(1 - clip, 1 + clip) * a).mean()
        ),
        "ρ is a difference of logarithms: exp is missing": loss(
            gain=torch.minimum(log_ratio * a, log_ratio.clamp(1 - clip, 1 + clip) * a).mean()
        ),
        "ρ is π(a) itself: it is divided by π_old(a)": loss(
            gain=torch.minimum(
                policy.log_prob(batch.actions).exp() * a,
                policy.log_prob(batch.actions).exp().clamp(1 - clip, 1 + clip) * a,
            ).mean()
        ),
        "this is -log π(a)·A, without ρ and its clip": loss(gain=(policy.log_prob(batch.actions) * a).mean()),
        "the smaller is taken of ρ and the clipped ρ, then multiplied by A: compare the products": loss(
            gain=(torch.minimum(ratio, held) * a).mean()
        ),
        "the smaller is taken of the means, not for each sample": loss(
            gain=torch.minimum((ratio * a).mean(), (held * a).mean())
        ),
        "ρ is clipped above only": loss(gain=torch.minimum(ratio * a, ratio.clamp(max=1 + clip) * a).mean()),
        "ρ is clipped below only": loss(gain=torch.minimum(ratio * a, ratio.clamp(min=1 - clip) * a).mean()),
        "clip is ignored": lazily(lambda: loss(gain=terms(batch)[0])),
        "the entropy's sign is wrong: more entropy is wanted, so it is subtracted": loss(entropy=-entropy),
        "the entropy is missing": loss(entropy=0.0),
        "the value's error is missing": loss(error=0.0),
        "the value's sign is wrong: its error is added": loss(error=-error),
        "the value's error is not squared": loss(error=(v - g).abs().mean()),
        "the value's error is halved before it is weighted": loss(error=error / 2),
        "the value is compared with the advantage, not with the return": loss(error=(v - a).square().mean()),
        "value_weight is ignored": loss(vw=0.5),
        "value_weight is ignored: the error counts once": loss(vw=1.0),
        "entropy_weight is ignored": loss(ew=0.01),
        "entropy_weight is ignored: the entropy counts once": loss(ew=1.0),
        "value_weight and entropy_weight are exchanged": loss(vw=entropy_weight, ew=value_weight),
        "sums over the batch, not means": n * loss(),
        "the policy's term is a sum over the batch, not the mean": loss(gain=n * gain),
        "the value's term is a sum over the batch, not the mean": loss(error=n * error),
        "the entropy is a sum over the batch, not the mean": loss(entropy=n * entropy),
        "the entropy is a mean over the actions: it is a sum over them": loss(entropy=entropy / 3),
        "the entropy has no p: it is -Σ p·log p": loss(entropy=-wide_p.log().sum(1).mean()),
        "the entropy is that of the action taken, -log π(a)": loss(entropy=-policy.log_prob(batch.actions).mean()),
        "the advantages are normalised: they are used as they come": loss(
            gain=torch.minimum(ratio * (a - a.mean()) / a.std(), held * (a - a.mean()) / a.std()).mean()
        ),
        "the probability of the first action is taken: each sample has an action of its own": loss(
            gain=torch.minimum(
                *(
                    r * a
                    for r in (
                        (policy.logits[:, 0] - batch.old_log_probs).exp(),
                        (policy.logits[:, 0] - batch.old_log_probs).exp().clamp(1 - clip, 1 + clip),
                    )
                )
            ).mean()
        ),
    }  # fmt: skip


def check_loss(batch, **options):
    """Compare the loss with the three terms, weighted."""
    given = {"clip": 0.2, "value_weight": 0.5, "entropy_weight": 0.01} | options
    gain, error, entropy = terms(batch, given["clip"])
    expected = -gain + given["value_weight"] * error - given["entropy_weight"] * entropy
    with unchanged(*batch.all()):
        got = diffusion_world_model.actor_critic_loss(*batch.all(), **options)
    assert got.shape == (), f"the loss has shape {tuple(got.shape)}: a scalar is asked for"
    how = {"dtype": torch.float32, "rtol": 2e-5, "mistakes": loss_mistakes(batch, **given)}
    assert_close(got, expected, what=f"loss, {options or 'no options'}", **how)


QUADRANTS = [(1.5, 2.0, -2.4), (0.5, 2.0, -1.0), (1.5, -2.0, 3.0), (0.5, -2.0, 1.6), (1.1, 3.0, -3.3)]


def single_losses(loss):
    """The losses of single samples with (ρ, A) in each quadrant."""
    return torch.stack([loss(torch.tensor(ratio), torch.tensor(a)) for ratio, a, _ in QUADRANTS])


@pytest.mark.grades("actor_critic_loss")
def test_policy_term_by_hand():
    """Five (ρ, A), each twice, no other terms: two actions alike, so π(a) = 1/2; ε = 0.2."""

    def loss(ratio, a):
        old, nothing = (0.5 / ratio).log().expand(2), torch.zeros(2)
        return diffusion_world_model.actor_critic_loss(
            torch.zeros(2, 2), nothing, torch.tensor([0, 1]), old, a.expand(2), nothing,
            value_weight=0.0, entropy_weight=0.0,
        )  # fmt: skip

    def held(ratio):
        return ratio.clamp(0.8, 1.2)

    wrong = {
        "max where min belongs: the smaller product counts": lambda r, a: -torch.max(r * a, held(r) * a),
        "ρ is not clipped": lambda r, a: -r * a,
        "a clamp alone: the smaller of ρA and the clipped one counts": lambda r, a: -held(r) * a,
        "the policy's sign is wrong: a loss falls where ρA grows": lambda r, a: torch.min(r * a, held(r) * a),
        "ρ is π_old over π: exp(log π - log π_old)": lambda r, a: -torch.min(a / r, held(1 / r) * a),
        "ρ is a difference of logarithms: exp is missing": lambda r, a: (
            -torch.min(r.log() * a, held(r.log()) * a)
        ),
        "ρ is π(a) itself: it is divided by π_old(a)": lambda r, a: -torch.min(a / 2, 0.8 * a),
        "the smaller is taken of ρ and the clipped ρ, then multiplied by A: compare the products": lambda r, a: (
            -torch.min(r, held(r)) * a
        ),
        "ρ is clipped above only": lambda r, a: -torch.min(r * a, r.clamp(max=1.2) * a),
        "ρ is clipped below only": lambda r, a: -torch.min(r * a, r.clamp(min=0.8) * a),
        "this is -log π(a)·A, without ρ and its clip": lambda r, a: a * math.log(2),
        "the policy's term is a sum over the batch, not the mean": lambda r, a: (
            -2 * torch.min(r * a, held(r) * a)
        ),
        "entropy_weight is ignored": lambda r, a: -torch.min(r * a, held(r) * a) - 0.01 * math.log(2),
        "the advantages are normalised: they are used as they come": lambda r, a: 0 * a,
    }
    mistakes = {name: lazily(single_losses, one) for name, one in wrong.items()}
    expected = torch.tensor([row[-1] for row in QUADRANTS])
    what = "losses at (ρ, A) = " + ", ".join(f"({ratio}, {a})" for ratio, a, _ in QUADRANTS)
    assert_close(single_losses(loss), expected, rtol=1e-5, what=what, mistakes=mistakes)


@pytest.mark.grades("actor_critic_loss")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"entropy_weight": 0.7},
        {"value_weight": 1.7},
        {"clip": 0.5},
        {"clip": 0.1, "value_weight": 0.0, "entropy_weight": 0.0},
        {"clip": 0.3, "value_weight": 0.9, "entropy_weight": 0.4},
    ],
    ids=str,
)
def test_loss(options, generator):
    """The three terms together, by torch.distributions in float64, with each option at another value."""
    check_loss(Batch(generator), **options)


@pytest.mark.grades("actor_critic_loss")
def test_gradient_is_that_of_reinforce(generator):
    """Where π = π_old, the gradient by the logits is that of the mean of -log π(a)·A: A·(π - one-hot)/B."""
    batch = Batch(generator, far=0.0)
    logits = batch.logits.clone().requires_grad_()
    loss = diffusion_world_model.actor_critic_loss(
        logits, *batch.all()[1:], value_weight=0.0, entropy_weight=0.0
    )
    (got,) = gradients(loss, (logits,))
    p = batch.logits.double().softmax(1)
    expected = batch.advantages.double()[:, None] * (p - torch.nn.functional.one_hot(batch.actions, 3)) / 8
    mistakes = {"the policy's sign is wrong: a loss falls where ρA grows": -expected}
    hint = "at π = π_old the gradient is that of REINFORCE, A·(π - one-hot)/B"
    how = {"dtype": torch.float32, "rtol": 1e-5, "mistakes": mistakes, "hint": hint}
    assert_close(got, expected, what="gradient by the logits at π = π_old", **how)


@pytest.mark.grades("actor_critic_loss")
def test_gradient_is_cut_where_the_policy_has_gone_far_enough():
    """ρ = 1.5 and A > 0, ρ = 0.5 and A < 0: no gradient; ρ = 0.5 and A > 0, ρ = 1.5 and A < 0: that of ρA."""
    ratio, a = torch.tensor([1.5, 0.5, 0.5, 1.5]), torch.tensor([2.0, -2.0, 2.0, -2.0])
    logits = torch.zeros(4, 2, requires_grad=True)
    zeros = torch.zeros(4)
    loss = diffusion_world_model.actor_critic_loss(
        logits, zeros, torch.zeros(4, dtype=torch.int64), (0.5 / ratio).log(), a, zeros, entropy_weight=0.0
    )
    (got,) = gradients(loss, (logits,))
    of_first = -(ratio * a * torch.tensor([0, 0, 1, 1]) * 0.5) / 4
    expected = torch.stack([of_first, -of_first], dim=1)
    hint = "0 where ρ has gone far enough its way, that of ρA where it has gone the wrong way"
    assert_close(got, expected, rtol=1e-5, what="gradient by the logits", hint=hint)


@pytest.mark.grades("actor_critic_loss")
def test_gradients_of_values_and_entropy(generator):
    """2·w_v·(V - G)/B by the values; by the logits w_e·p·(log p + H)/B of the entropy, when A is 0."""
    batch = Batch(generator)
    batch.advantages = torch.zeros(8)
    logits, values = batch.logits.clone().requires_grad_(), batch.values.clone().requires_grad_()
    loss = diffusion_world_model.actor_critic_loss(
        logits, values, *batch.all()[2:], value_weight=0.8, entropy_weight=0.3
    )
    of_logits, of_values = gradients(loss, (logits, values))
    expected = 2 * 0.8 * (batch.values.double() - batch.returns.double()) / 8
    assert_close(of_values, expected, dtype=torch.float32, rtol=1e-5, what="gradient by the values")
    policy = Categorical(logits=batch.logits.double())
    expected = 0.3 * policy.probs * (policy.logits + policy.entropy()[:, None]) / 8
    mistakes = {"the entropy's sign is wrong: more entropy is wanted, so it is subtracted": -expected}
    how = {"dtype": torch.float32, "rtol": 1e-5, "mistakes": mistakes}
    assert_close(of_logits, expected, what="gradient of the entropy by the logits", **how)


@pytest.mark.grades("actor_critic_loss")
def test_what_is_data(generator):
    """old_log_probs, advantages and returns are data, even where they require a gradient."""
    batch = Batch(generator, far=0.05)
    leaves = [x.clone().requires_grad_() if x.is_floating_point() else x for x in batch.all()]
    loss = diffusion_world_model.actor_critic_loss(*leaves)
    _, _, of_old, of_advantages, of_returns = gradients(loss, [x for x in leaves if x.requires_grad])
    assert not of_old.any(), "a gradient flows into old_log_probs: they are data, detach them"
    assert not of_advantages.any(), "a gradient flows into the advantages: they are data, detach them"
    assert not of_returns.any(), "a gradient flows into the returns: they are the value's target, detach them"


@pytest.mark.grades("actor_critic_loss")
def test_where_p_underflows():
    """exp(-200) is 0 in float32, and 0·log 0 is NaN: loss and gradient are finite."""
    logits = torch.tensor([[0.0, -200.0, 1.0], [300.0, 0.0, -300.0]], requires_grad=True)
    zeros, actions = torch.zeros(2), torch.tensor([2, 0])
    policy = Categorical(logits=logits.detach().double())
    old = policy.log_prob(actions).float()
    loss = diffusion_world_model.actor_critic_loss(
        logits, zeros, actions, old, zeros, zeros, entropy_weight=0.5
    )
    hint = "0·log 0 is NaN, or -inf: take the logarithm of the softmax by log_softmax"
    how = {"dtype": torch.float32, "rtol": 1e-4, "hint": hint}
    assert_close(loss, -0.5 * policy.entropy().mean(), what="loss where p underflows", **how)
    (got,) = gradients(loss, (logits,))
    assert got.isfinite().all(), f"{hint}: the gradient is {got.tolist()}"


@pytest.mark.grades("actor_critic_loss")
def test_an_unlikely_action_has_its_own_ratio():
    """An action of log-probability -200 that was as unlikely before: ρ is 1, and the gradient is REINFORCE's."""
    logits = torch.tensor([[0.0, -200.0, -0.5], [0.3, 0.1, -30.0]], requires_grad=True)
    actions, advantages = torch.tensor([1, 2]), torch.tensor([1.5, -0.7])
    log_p = logits.detach().double().log_softmax(1)
    old = log_p.gather(1, actions[:, None])[:, 0].float()
    loss = diffusion_world_model.actor_critic_loss(
        logits, torch.zeros(2), actions, old, advantages, torch.zeros(2), entropy_weight=0.0
    )
    hint = "ρ of an unlikely action is not 1 where π = π_old: take log_softmax, without a least probability"
    assert_close(
        loss,
        -advantages.double().mean(),
        dtype=torch.float32,
        rtol=1e-4,
        what="loss where π = π_old",
        hint=hint,
    )
    (got,) = gradients(loss, (logits,))
    taken = torch.nn.functional.one_hot(actions, 3).double()
    expected = -advantages.double()[:, None] / 2 * (taken - log_p.exp())
    assert_close(
        got, expected, dtype=torch.float32, rtol=1e-4, atol=1e-6, what="gradient where π = π_old", hint=hint
    )
