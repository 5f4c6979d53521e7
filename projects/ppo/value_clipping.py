"""Value clipping: V may not gain by moving further than ε from what it said when the rollout was played.

    L = mean(max((V - R)², (V_old + clip(V - V_old, -ε, ε) - R)²))/2

It looks like the clipped ratio, but ε is in units of the returns: 0.2 is much where returns are near 1, and next to nothing
where they are near -80: on Pendulum-v1 V then learns too slowly (MEASURED.md). It stands in OpenAI's baselines (ppo2), in no
equation of the PPO paper. Engstrom et al. 2020, arXiv 2005.12729, see no advantage in it; Andrychowicz et al. 2020, arXiv 2006.05990, find that it hurts.
"""

import torch
from torch import Tensor

__all__ = ["clipped_value_loss"]


def clipped_value_loss(values: Tensor, old_values: Tensor, returns: Tensor, *, clip: float = 0.2) -> Tensor:
    """Return the module's L, a scalar: half the mean of the larger of both squared errors.

    All three are (batch,), else ValueError. The gradient goes to `values` alone. It is 0 for a V that has moved by more than
    `clip` and is nearer to R than its clipped self; for any other one it is that of the plain error.
    """
    if not values.shape == old_values.shape == returns.shape:
        raise ValueError(f"shapes differ: {values.shape}, {old_values.shape}, {returns.shape}")
    old_values, returns = old_values.detach(), returns.detach()
    clipped = old_values + (values - old_values).clamp(-clip, clip)
    return torch.max((values - returns).square(), (clipped - returns).square()).mean() / 2
