"""Value clipping: V may not gain by moving further than ε from what it said when the rollout was played.

    L = mean(max((V - R)², (V_old + clip(V - V_old, -ε, ε) - R)²))/2

Its place is the same as that of the clipped ratio, but ε counts in units of the returns, not in shares: a step of 0.2 is much
where returns are near 1, and next to nothing where they are near -500. It came with the code of Schulman et al., OpenAI
baselines' ppo2, and stands in no equation of the paper. Whether it helps is doubtful: Engstrom et al. 2020, arXiv 2005.12729,
see no advantage in it; Andrychowicz et al. 2020, arXiv 2006.05990, section 3.2, find that it hurts.
"""

import torch
from torch import Tensor

__all__ = ["clipped_value_loss"]


def clipped_value_loss(values: Tensor, old_values: Tensor, returns: Tensor, *, clip: float = 0.2) -> Tensor:
    """Return the module's L, a scalar: half the mean of the larger of both squared errors.

    All three are (batch,), else ValueError. The gradient goes to `values` alone; it is 0 where V has gone further than `clip`
    towards R from the side where `old_values` stood, and the clipped error is still the larger one; else it is that of value_loss.
    """
    if not values.shape == old_values.shape == returns.shape:
        raise ValueError(f"shapes differ: {values.shape}, {old_values.shape}, {returns.shape}")
    old_values, returns = old_values.detach(), returns.detach()
    clipped = old_values + (values - old_values).clamp(-clip, clip)
    return torch.max((values - returns).square(), (clipped - returns).square()).mean() / 2
