"""Classifier-free guidance: steer a sample towards a condition by exaggerating what the condition changes.

    D_w = D_uncond + w·(D_cond - D_uncond)

The convention, stated once: w = 0 ignores the condition, w = 1 is the conditional model as trained, w > 1 exaggerates.
Papers that write (1 + w')·D_cond - w'·D_uncond (Ho and Salimans among them) mean w = 1 + w'.

What w > 1 does not do: sample the "sharpened" density p(x)^(1-w)·p(x|c)^w. The formula tilts the density at each noise
level, and a tilted density plus noise is not the noisy density tilted. tests/test_8_theory.py measures the difference.

Source: Ho and Salimans 2022, arXiv 2207.12598, eq. 6.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["clip_x0", "guided", "guided_labels"]

Denoiser = Callable[[Tensor, Tensor], Tensor]


def guided(conditional: Denoiser, unconditional: Denoiser, w: float) -> Denoiser:
    """Return the guided denoiser D_w of two denoisers.

    w = 0 and w = 1 give the unconditional and the conditional answer to the bit, and call only that one.

    Parameters
    ----------
    conditional, unconditional : callable
        ``D(x, sigma) -> x0``.
    w : float
        Guidance scale, finite.

    Returns
    -------
    callable
        ``D(x, sigma) -> x0``.

    Raises
    ------
    ValueError
        If `w` is not finite.
    """
    if not abs(w) < float("inf"):
        raise ValueError(f"w must be finite, got {w}")
    if w == 0:
        return unconditional
    if w == 1:
        return conditional

    def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
        x0 = unconditional(x, sigma)
        return x0 + w * (conditional(x, sigma) - x0)

    return denoiser


def guided_labels(denoiser: Callable[..., Tensor], labels: Tensor, w: float, *, no_class: int) -> Denoiser:
    """Return the guided denoiser of one network that knows both: D(x, σ, labels), D(x, σ, "no class").

    Parameters
    ----------
    denoiser : callable
        ``D(x, sigma, labels) -> x0``.
    labels : (batch,) integer tensor
        The class wanted of each sample.
    w : float
        Guidance scale, finite. 0 and 1 call the denoiser once, any other w once with a doubled batch.
    no_class : int
        The label that means "no class".

    Returns
    -------
    callable
        ``D(x, sigma) -> x0`` for x (batch, ...) and sigma of shape () or (batch, 1, ...).

    Raises
    ------
    ValueError
        If `w` is not finite.
    """
    nothing = torch.full_like(labels, no_class)
    if w in (0, 1):
        chosen = labels if w == 1 else nothing
        return lambda x, sigma: denoiser(x, sigma, chosen)
    if not abs(w) < float("inf"):
        raise ValueError(f"w must be finite, got {w}")
    both = torch.cat([labels, nothing])

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        level = torch.cat([sigma, sigma]) if sigma.ndim else sigma
        conditional, unconditional = denoiser(torch.cat([x, x]), level, both).chunk(2)
        return unconditional + w * (conditional - unconditional)

    return denoise


def clip_x0(denoiser: Denoiser, low: float = -1.0, high: float = 1.0) -> Denoiser:
    """Return a denoiser whose answer is clamped to the range of the data, which large w leaves.

    Samplers here ask for x0 and derive the noise from it, so both always fit together. Where a library clips x0 but
    keeps the network's own ε, the step mixes two answers (DDIM of diffusers does, unless told otherwise).

    Parameters
    ----------
    denoiser : callable
        ``D(x, sigma) -> x0``.
    low, high : float
        low < high.

    Returns
    -------
    callable
        ``D(x, sigma) -> x0``.

    Raises
    ------
    ValueError
        If ``low < high`` does not hold.

    Source: Saharia et al. 2022, arXiv 2205.11487, section 2.3 ("static thresholding").
    """
    if not low < high:
        raise ValueError(f"low must be below high, got {low} and {high}")
    return lambda x, sigma: denoiser(x, sigma).clamp(low, high)
