"""Guidance with one network: the class and "no class" in one doubled batch, and answers kept in the range of the data.

The scale w is that of `guided` in the core: 0 ignores the condition, 1 is the conditional model, above 1 exaggerates.

What w > 1 does not do: sample the "sharpened" density p(x)^(1-w)·p(x|c)^w. The formula tilts the density at each noise level,
and a tilted density plus noise is not the noisy density tilted. tests/further/test_theory.py measures the difference.

Source: Ho and Salimans 2022, arXiv 2207.12598, eq. 6. Error messages contain the value that is refused.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["clip_x0", "guided_labels"]

Denoiser = Callable[[Tensor, Tensor], Tensor]


def guided_labels(denoiser: Callable[..., Tensor], labels: Tensor, w: float, *, no_class: int) -> Denoiser:
    """Return the guided denoiser of one network that knows both: D(x, σ, labels) and D(x, σ, "no class").

    `labels`, (batch,) integers, are the classes wanted; `no_class` is the label that means "no class". The result takes x
    (batch, ...) and sigma, a float or of shape (), (batch,) or (batch, 1, ...). w = 0 and w = 1 call the network once, any other w
    once with a doubled batch. ValueError if `w` is not finite, or for an x of another batch than `labels`.
    """
    if not abs(w) < float("inf"):
        raise ValueError(f"w must be finite, got {w}")
    nothing = torch.full_like(labels, no_class)
    asked = torch.cat([labels, nothing]) if w not in (0, 1) else labels if w else nothing

    def denoise(x: Tensor, sigma: Tensor | float) -> Tensor:
        if labels.shape != (len(x),):
            raise ValueError(f"need a label for each of {len(x)} samples, got shape {tuple(labels.shape)}")
        if w in (0, 1):
            return denoiser(x, sigma, asked)
        level = torch.cat([sigma, sigma]) if isinstance(sigma, Tensor) and sigma.numel() > 1 else sigma
        conditional, unconditional = denoiser(torch.cat([x, x]), level, asked).chunk(2)
        return unconditional + w * (conditional - unconditional)

    return denoise


def clip_x0(denoiser: Denoiser, low: float = -1.0, high: float = 1.0) -> Denoiser:
    """Return a denoiser whose answer is clamped to the range of the data, which large w leaves.

    Samplers here ask for x0 and derive the noise from it, so both always fit together. Where a library clips x0 but
    keeps the network's own ε, the step mixes two answers (DDIM of diffusers does, unless told otherwise).
    ValueError if ``low < high`` does not hold.

    Source: Saharia et al. 2022, arXiv 2205.11487, section 2.3 ("static thresholding").
    """
    if not low < high:
        raise ValueError(f"low must be below high, got {low} and {high}")
    return lambda x, sigma: denoiser(x, sigma).clamp(low, high)
