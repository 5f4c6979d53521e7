"""Answers worked out another way, and functions that are lent: they use nothing of the files that are graded."""

import torch
import torch.nn.functional as F
from torch.distributions import Categorical

from rollout import Rollout
from shared.testing.checks import lazily

DOUBLE = torch.float64


def seeded(seed=0):
    """A generator of its own."""
    return torch.Generator().manual_seed(seed)


def normal(*shape, generator, scale=1.0):
    """Return normal numbers, float32."""
    return scale * torch.randn(shape, generator=generator)


def gradients(output, inputs, cotangent=1.0):
    """Return the gradients of sum(cotangent · output); zeros where it does not depend on an input."""
    if not output.requires_grad:
        raise AssertionError("the result is detached from its inputs: no gradient flows back")
    return torch.autograd.grad((output * cotangent).sum(), inputs, allow_unused=True, materialize_grads=True)


# --- advantages -------------------------------------------------------------------------------------------------------


def make_rollout(rewards, values, next_values, terminated, truncated, **columns):
    """Return a rollout of which only the columns that gae reads are told."""
    T, N = rewards.shape
    given = {
        "observations": torch.zeros(T, N, 2),
        "actions": torch.zeros(T, N, dtype=torch.int64),
        "log_probs": torch.zeros(T, N),
    }
    given |= columns
    return Rollout(
        **given,
        values=values,
        next_values=next_values,
        rewards=rewards,
        terminated=terminated,
        truncated=truncated,
    )


def random_rollout(T, N, generator, **columns):
    """Draw a rollout in which three steps in ten end, of each kind, and some in both ways."""
    numbers = (normal(T, N, generator=generator) + 0.5 for _ in range(3))
    ends = (torch.rand(T, N, generator=generator) < 0.3 for _ in range(2))
    return make_rollout(*numbers, *ends, **columns)


def advantages_by_sum(rollout, gamma, lam, wrong=None):
    """A_t as the double sum of (γλ)^k·δ_{t+k} up to the end of t's episode, in float64; `wrong` makes one mistake."""
    rewards, values, following = (x.double() for x in (rollout.rewards, rollout.values, rollout.next_values))
    terminated, truncated = rollout.terminated, rollout.truncated
    if wrong == "done shifted":
        terminated, truncated = (
            torch.cat((ends[1:], torch.zeros_like(ends[:1]))) for ends in (terminated, truncated)
        )
    if wrong == "done late":
        terminated, truncated = (
            torch.cat((torch.zeros_like(ends[:1]), ends[:-1])) for ends in (terminated, truncated)
        )
    if wrong == "reset":  # V of the step that stands next in the rollout, of another episode after an end
        following = torch.cat((values[1:], following[-1:]))
    if wrong == "two ahead":
        following = torch.cat((following[1:], following[-1:]))
    if wrong == "last step":
        following = torch.cat((following[:-1], torch.zeros_like(following[-1:])))
    lost = {
        "truncation ends": terminated | truncated,
        "no termination": torch.zeros_like(terminated),
        "exchanged": truncated,
    }.get(wrong, terminated)
    stops = {
        "leaks": torch.zeros_like(terminated),
        "leaks at truncation": terminated,
        "leaks at termination": truncated,
    }.get(wrong, terminated | truncated)
    discount = 1.0 if wrong == "no gamma in delta" else gamma
    delta = rewards + discount * following * ~lost - (0 if wrong == "no baseline" else values)
    if wrong == "end kills reward":
        delta = (rewards + gamma * following) * ~lost - values
    decay = {"no lambda": gamma, "no gamma": lam, "one step": 0.0, "defaults": 0.99 * 0.95}.get(
        wrong, gamma * lam
    )
    if wrong == "defaults":
        delta = rewards + 0.99 * following * ~lost - values
    T, N = rewards.shape
    advantages = torch.zeros(T, N, dtype=DOUBLE)
    for n in range(N):
        for t in range(T):
            weight = 1.0
            for k in range(t, T):
                advantages[t, n] += weight * delta[k, n]
                weight *= decay
                if stops[k, n] or (wrong == "forwards" and k > t):
                    break
    return advantages + values if wrong == "returns" else advantages


GAE_MISTAKES = {
    "done shifted": "done is shifted by one: step t ends its episode itself, terminated[t] and truncated[t] belong to it",
    "done late": "done is shifted by one: step t looks at the end of step t - 1",
    "truncation ends": "truncation is treated as termination: an episode that was cut off has a future, γ·V(s_{t+1})",
    "no termination": "termination is ignored: after a real end there is no γ·V(s_{t+1})",
    "exchanged": "terminated and truncated are exchanged: termination has no future, truncation has one",
    "leaks": "advantages leak over the end of an episode: done cuts A_{t+1} off",
    "leaks at truncation": "advantages leak over a truncation: the next row is another episode there too",
    "leaks at termination": "advantages leak over a termination: the next row is another episode there too",
    "reset": "V(s_{t+1}) is taken from the next row, the reset observation after an end: next_values has what the step led to",
    "two ahead": "bootstraps two steps ahead: next_values[t] is V(s_{t+1}) already",
    "last step": "the last step has no V(s_{t+1}): the rollout stops there, the episode does not",
    "end kills reward": "the reward of the terminating step is lost: only V(s_{t+1}) is",
    "no gamma in delta": "γ is missing before V(s_{t+1}) in δ",
    "no gamma": "the sum decays by λ alone, not by γ·λ",
    "no lambda": "λ is missing: the sum decays by γ alone",
    "one step": "only δ_t is there: add γ·λ·A_{t+1} wherever this environment's episode goes on, from the last step backwards",
    "forwards": "only δ_t and δ_{t+1} are there: walk backwards, A_{t+1} must be finished before A_t",
    "no baseline": "V(s_t) is not subtracted",
    "returns": "these are the returns A + V, not the advantages",
    "defaults": "gamma and lam are ignored",
}


def gae_mistakes(rollout, gamma, lam):
    """Return assert_close's `mistakes` for the advantages."""
    return {
        diagnosis: lazily(advantages_by_sum, rollout, gamma, lam, wrong)
        for wrong, diagnosis in GAE_MISTAKES.items()
    }


# --- functions that stand in for the learner's ------------------------------------------------------------------------


def gae(rollout, *, gamma=0.99, lam=0.95):
    return advantages_by_sum(rollout, gamma, lam).float()


def clipped_loss(log_probs, old_log_probs, advantages, *, clip=0.2):
    _one_shape(log_probs, old_log_probs, advantages)
    return -_objective((log_probs - old_log_probs).exp(), advantages, clip).mean()


def value_loss(values, returns):
    _one_shape(values, returns)
    return F.mse_loss(values, returns) / 2


def entropy(logits):
    return Categorical(logits=logits, validate_args=False).entropy()


def _one_shape(*tensors):
    shapes = [tuple(tensor.shape) for tensor in tensors]
    if len(set(shapes)) > 1 or len(shapes[0]) != 1:
        raise ValueError(f"a loss gets tensors of the shapes {shapes}: all are (batch,)")


def _objective(ratio, advantages, clip):
    """ρA, but a constant in the two quadrants where ρ has gone far enough."""
    up, down = (advantages > 0) & (ratio > 1 + clip), (advantages < 0) & (ratio < 1 - clip)
    return torch.where(
        up, (1 + clip) * advantages, torch.where(down, (1 - clip) * advantages, ratio * advantages)
    )


# --- the update -------------------------------------------------------------------------------------------------------


def updated(network, rollout, settings, parts, lr, wrong=None):
    """Return the change of a Linear network's parameters and the metrics, by SGD over `parts` in float64.

    `wrong` makes one mistake of UPDATE_MISTAKES.
    """
    start = [p.detach().double() for p in (network.of_policy, network.of_value)]
    weights, left, records = [w.clone() for w in start], [0.0, 0.0], []
    gamma, lam = (0.99, 0.95) if wrong == "default gae" else (settings.gamma, settings.lam)
    table = _flat(rollout, advantages_by_sum(rollout, gamma, lam), wrong)
    for rows in parts:
        leaves = [w.clone().requires_grad_() for w in weights]
        loss, record = _loss(leaves, [column[rows] for column in table], table[3], settings, wrong)
        got = torch.autograd.grad(loss, leaves)
        got = [g + old for g, old in zip(got, left, strict=True)]
        factors = _factors(got, settings.max_norm, wrong)
        left = [f * g for f, g in zip(factors, got, strict=True)] if wrong == "no zero_grad" else left
        weights = [w - lr * f * g for w, f, g in zip(weights, factors, got, strict=True)]
        records.append(record)
    change = torch.cat([(w - old).flatten() for w, old in zip(weights, start, strict=True)])
    return change, {name: sum(record[name] for record in records) / len(records) for name in records[0]}


def _flat(rollout, advantages, wrong):
    """Observations, actions, old log-probabilities, advantages and returns, one row per step."""
    values = rollout.values.double()
    returns = {
        "returns without V": advantages,
        "returns are rewards": rollout.rewards.double(),
        "one-step returns": rollout.rewards + 0.9 * rollout.next_values * ~rollout.terminated,
    }.get(wrong, advantages + values)
    columns = [
        rollout.observations.double(),
        rollout.actions,
        rollout.log_probs.double(),
        advantages,
        returns,
    ]
    if wrong == "axes":
        columns[3:] = [column.T.reshape(column.shape) for column in columns[3:]]
    if wrong == "normalised early":
        columns[4] = (advantages - advantages.mean()) / advantages.std() + values
    return [column.flatten(0, 1) for column in columns]


def _loss(leaves, part, all_advantages, settings, wrong):
    observations, actions, old, a, returns = part
    policy = Categorical(logits=observations @ leaves[0])
    log_probs, entropies = policy.log_prob(actions), policy.entropy()
    over = all_advantages if wrong in ("normalised over all", "normalised early") else a
    if wrong == "only scaled":
        a = a / over.std()
    elif wrong == "only centred":
        a = a - over.mean()
    elif wrong != "not normalised":
        a = (a - over.mean()) / (over.std() + 1e-8)
    clip = {"default clip": 0.2, "no clip": 1e9}.get(wrong, settings.clip)
    ratio = (log_probs - (log_probs.detach() if wrong == "old is new" else old)).exp()
    policy_loss = -_objective(ratio, a, clip).mean()
    value_weight = {"no value": 0.0, "value twice": 2 * settings.value_weight, "value weight": 1.0}
    entropy_weight = {"no entropy": 0.0, "entropy sign": -settings.entropy_weight, "entropy weight": 1.0}
    error = F.mse_loss(observations @ leaves[1], returns) / 2
    loss = (
        policy_loss
        + value_weight.get(wrong, settings.value_weight) * error
        - entropy_weight.get(wrong, settings.entropy_weight)
        * (entropies.sum() if wrong == "entropy sum" else entropies.mean())
    )
    record = {"entropy": entropies.mean(), "kl": (ratio - 1 - ratio.log()).mean()}
    record["clip_fraction"] = ((ratio < 1 - settings.clip) | (ratio > 1 + settings.clip)).double().mean()
    return loss, {name: value.item() for name, value in record.items()}


def _factors(got, max_norm, wrong):
    """What each gradient is multiplied by, so that the norm of all is at most `max_norm`."""
    norms = [g.norm() for g in got]
    total = sum(norm**2 for norm in norms) ** 0.5
    if wrong == "default norm":
        max_norm = 0.5
    if wrong == "one norm each":
        return [min(1.0, max_norm / norm) for norm in norms]
    if wrong == "not cut":
        return [1.0, 1.0]
    return [max_norm / total if wrong == "always cut" else min(1.0, max_norm / total)] * 2


UPDATE_MISTAKES = {
    "not normalised": "the advantages are not normalised",
    "normalised over all": "the advantages are normalised over the whole rollout, not in each part",
    "normalised early": "the returns are made of normalised advantages: they are A + V of the rollout as gae gives it",
    "only scaled": "the mean of the advantages is not subtracted",
    "only centred": "the advantages are not divided by their standard deviation",
    "default clip": "clip of the settings is not handed to clipped_loss",
    "default gae": "gamma and lam of the settings are not handed to gae",
    "old is new": "the old log-probabilities are asked anew: they are those of the rollout, of the policy that acted",
    "no clip": "the policy's loss is not clipped",
    "no value": "the value loss is missing",
    "value weight": "value_weight is ignored",
    "value twice": "the value loss counts twice: half of the squared error is in value_loss",
    "no entropy": "the entropy is missing in the loss",
    "entropy sign": "the entropy has the wrong sign: more of it is wanted, so the loss subtracts it",
    "entropy weight": "entropy_weight is ignored",
    "entropy sum": "the entropies are summed: their mean is in the loss",
    "returns without V": "the values are trained on the advantages: returns = A + V of the rollout",
    "returns are rewards": "the values are trained on single rewards: returns = A + V of the rollout",
    "one-step returns": "the values are trained on r + γ·V(s_{t+1}): returns = A + V of the rollout",
    "axes": "advantages and returns stand beside other steps' observations: flatten all columns in the same order",
    "no zero_grad": "gradients of earlier parts are added: zero_grad is missing",
    "not cut": "the gradients are not cut to max_norm",
    "default norm": "max_norm of the settings is ignored",
    "one norm each": "each gradient is cut by its own norm: max_norm is for the norm of all together",
    "always cut": "a norm below max_norm is stretched to it: it is an upper bound",
}
