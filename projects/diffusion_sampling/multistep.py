"""A sampler that remembers its last answer: second order for the price of `euler`.

The contract is that of the samplers of the core: a generator of the state after every step, in the dtype of x, with
coefficients in float64; the denoiser gets σ as a tensor of shape () in the dtype of x. It may write into what it gets, and
into what it gave: an answer is kept as a copy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

from torch import Tensor

__all__ = ["dpm_solver_2m"]


def dpm_solver_2m(
    denoiser: Callable[[Tensor, Tensor], Tensor], x: Tensor, sigmas: Tensor
) -> Iterator[Tensor]:
    """Solve the ODE in λ = -ln σ, where only D is curved, with a line through its last two values. 1 call per step.

        h  = λ_next - λ,   r = (λ - λ_previous)/h
        D' = (1 + 1/(2r))·D - 1/(2r)·D_previous            D alone in the first step, and in a step to σ = 0
        x  = (σ_next/σ)·x + (1 - e^-h)·D'

    Second order; "2M" says so: second order, multistep. A last step that ends above 0 is like any other.

    Source: Lu et al. 2022, arXiv 2211.01095, algorithm 2, for α = 1.
    """
    previous, h_previous = None, math.nan
    for sigma, sigma_next in pairwise(sigmas.tolist()):
        x0 = denoiser(x.clone(), x.new_tensor(sigma)).clone()
        h = math.log1p((sigma - sigma_next) / sigma_next) if sigma_next > 0 else math.inf
        estimate = x0
        if previous is not None and sigma_next > 0:
            r = h_previous / h
            estimate = (1 + 1 / (2 * r)) * x0 - 1 / (2 * r) * previous
        x = sigma_next / sigma * x - math.expm1(-h) * estimate
        previous, h_previous = x0, h
        yield x
