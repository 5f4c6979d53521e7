"""An update that stops when the policy has gone far enough, and leaves out what remains of the epochs.

    KL(old‖new) ≈ mean(ρ - 1 - log ρ),   ρ = π_new(a|s)/π_old(a|s) of actions that the old policy drew

The clipped loss takes from a sample the reason to go further; it does not hold the policy back, which the steps of others go on
moving. So many programs watch the KL and end the update where it exceeds a limit, often 0.01 to 0.05. That costs V its
remaining steps, too. What it saves and costs on Pendulum-v1 is in MEASURED.md.

The mean of -log ρ has the same expectation, but the mean over a part may well be negative. Each ρ - 1 - log ρ is at least 0,
and E[ρ - 1] = 0, unless the new policy does what the old one never would.

Source: Schulman 2020, "Approximating KL Divergence", joschu.net/blog/kl-approx.html: k1 and k3.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from ppo import ActorCritic, clipped_loss, gae, value_loss
from rollout import Rollout, Settings
from value_clipping import clipped_value_loss

__all__ = ["approximate_kl", "update"]


def approximate_kl(log_ratio: Tensor) -> Tensor:
    """Return the module's estimate of KL(old‖new), a scalar, from log ρ of any shape: unbiased, and never negative."""
    return (log_ratio.expm1() - log_ratio).mean()


def update(
    network: ActorCritic, optimizer: Optimizer, rollout: Rollout, settings: Settings, *,
    target_kl: float, value_clip: float | None = None, generator: Generator | None = None,
) -> dict[str, float]:  # fmt: skip
    """Improve the network as ``ppo.update`` does, but end with the first part whose approximate KL exceeds `target_kl`.

    That part makes no step, and neither does any later part or epoch. With `value_clip`, clipped_value_loss takes the place of
    value_loss; V_old is the rollout's. Return the metrics of ``ppo.update``, as means over the parts that were judged, the one
    that ended the update among them, and "n_parts": the number of steps made. ValueError also unless ``target_kl > 0``; the
    message contains it. For train: ``improve=functools.partial(update, target_kl=0.02)``.
    """
    if not target_kl > 0:
        raise ValueError(f"target_kl must be above 0, got {target_kl}")
    records, n_parts = [], 0
    for observations, actions, old_log_probs, old_values, a, returns in _parts(rollout, settings, generator):
        log_probs, entropies, values = network.judge(observations, actions)
        log_ratio = (log_probs - old_log_probs).detach()
        kl, outside = approximate_kl(log_ratio), log_ratio.expm1().abs() > settings.clip
        records.append([entropies.mean().item(), kl.item(), outside.float().mean().item()])
        if kl > target_kl:
            break
        loss = clipped_loss(log_probs, old_log_probs, (a - a.mean()) / (a.std() + 1e-8), clip=settings.clip)
        if value_clip is None:
            loss += settings.value_weight * value_loss(values, returns)
        else:
            loss += settings.value_weight * clipped_value_loss(values, old_values, returns, clip=value_clip)
        loss -= settings.entropy_weight * entropies.mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), settings.max_norm)
        optimizer.step()
        n_parts += 1
    entropy, kl, clip_fraction = np.mean(records, axis=0).tolist()
    return {"entropy": entropy, "kl": kl, "clip_fraction": clip_fraction, "n_parts": float(n_parts)}


def _parts(rollout: Rollout, settings: Settings, generator: Generator | None) -> Iterator[tuple[Tensor, ...]]:
    """Yield the parts of all epochs one after the other, so that a single break ends them all."""
    advantages = gae(rollout, gamma=settings.gamma, lam=settings.lam)
    n, parts = advantages.numel(), settings.n_minibatches
    if n % parts or n < 2 * parts:
        raise ValueError(f"{n} steps cannot be cut into {parts} equal parts of 2 or more")
    columns = [column.flatten(0, 1) for column in (*rollout[:4], advantages, advantages + rollout.values)]
    for _ in range(settings.n_epochs):
        for rows in torch.randperm(n, generator=generator).chunk(parts):
            yield tuple(column[rows] for column in columns)
