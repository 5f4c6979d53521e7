"""DIAMOND in miniature: a diffusion model draws the next frame of a game, and an agent learns in what it draws.

    D(x, σ) = c_skip·x + c_out·F(c_in·x, c_noise, history, actions)            the clean frame behind the noisy one, x
    loss    = mean((F - (x0 - c_skip·x)/c_out)²),   x = x0 + 0.3·o + σ·n     standard normal o per frame, n per pixel
    G_t     = r_t + γ·(1 - end_t)·((1 - λ)·V(s_{t+1}) + λ·G_{t+1})             what the agent's step in the dream was worth

The contract: B games at once. A frame (B, H, W) is grey, float32 in [-1, 1]. A history (B, L, H, W) holds the last L frames,
the oldest first; its actions (B, L), int64, say what was done at each of them, the last one at the newest frame: that one
leads to the next frame. World and Dream: see dream.py. Random numbers come from the generator that is passed, if one is, and
are drawn on the CPU, wherever the frames are.
Sources: Alonso et al. 2024 (DIAMOND), arXiv 2405.12399, and its code; Karras et al. 2022 (EDM), arXiv 2206.00364.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Generator, Tensor
from torch.nn import functional

from dream import Dream, World

__all__ = [
    "preconditioning", "to_bytes", "denoise", "denoiser_loss", "karras_sigmas", "next_frame", "outcome_loss", "imagine",
    "lambda_returns", "actor_critic_loss",
]  # fmt: skip

OFFSET, SIGMA_DATA = 0.3, 0.5  # of the noise that is alike in all pixels; of the frames
Denoiser = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def preconditioning(sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return c_in, c_skip, c_out and c_noise, each in the shape of `sigma`, which is positive.

        σ_e² = σ² + 0.3²           the offset is noise as well; σ_d = 0.5
        c_in = 1/sqrt(σ_e² + σ_d²)     c_skip = σ_d²/(σ_e² + σ_d²)     c_out = σ_e·sqrt(c_skip)     c_noise = ln(σ_e)/4
    So the input of F and its target have variance 1 at each level. Sources: DIAMOND, eq. 9 to 12; the offset: its code.
    """
    effective = (sigma**2 + OFFSET**2).sqrt()
    total = effective**2 + SIGMA_DATA**2
    c_skip = SIGMA_DATA**2 / total
    return 1 / total.sqrt(), c_skip, effective * c_skip.sqrt(), effective.log() / 4


def to_bytes(frames: Tensor) -> Tensor:
    """Return frames cut to [-1, 1] and rounded to the nearest of 256 levels, k/127.5 - 1: what a screen could show."""
    return ((frames.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1


def denoise(network: Denoiser, noisy: Tensor, sigma: Tensor, history: Tensor, actions: Tensor) -> Tensor:
    """Return D of the module's formula, (B, H, W), as bytes. `sigma` is (B,) or (); the network is asked once."""
    c_in, c_skip, c_out, c_noise = preconditioning(sigma.to(noisy).expand(len(noisy))[:, None, None])
    return to_bytes(c_skip * noisy + c_out * network(c_in * noisy, c_noise[:, 0, 0], history, actions))


def denoiser_loss(
    network: Denoiser, frames: Tensor, actions: Tensor, valid: Tensor, *, generator: Generator | None = None
) -> Tensor:  # fmt: skip
    """Return the loss of predicting the last n frames one after the other, a scalar: the mean over all that are valid.

    frames (B, L + n, H, W), actions (B, L + n - 1), valid (B, n) bool: false where the game was over before that frame. From
    the second on, the newest frame of the history is the network's own: D of the frame before, as bytes, without gradient.
    ln σ is normal with mean -0.4 and standard deviation 1.2, one σ per frame, cut to [0.002, 20].
    Sources: DIAMOND, eq. 7 and 13; the network's own frame: its code.
    """
    n = valid.shape[1]
    length = frames.shape[1] - n
    history, errors = frames[:, :length], []
    for i in range(n):
        clean = frames[:, length + i]
        sigma, offset = torch.randn(2, len(clean), 1, 1, generator=generator).to(clean)
        sigma = (1.2 * sigma - 0.4).exp().clamp(0.002, 20)
        noisy = clean + OFFSET * offset + sigma * torch.randn(clean.shape, generator=generator).to(clean)
        c_in, c_skip, c_out, c_noise = preconditioning(sigma)
        output = network(c_in * noisy, c_noise[:, 0, 0], history, actions[:, i : i + length])
        errors.append((output - (clean - c_skip * noisy) / c_out).square().mean(dim=(1, 2)))
        own = to_bytes(c_skip * noisy + c_out * output).detach()
        history = torch.cat([history[:, 1:], own[:, None]], dim=1)
    return torch.stack(errors, dim=1)[valid].mean()


def karras_sigmas(
    n_steps: int, *, sigma_min: float = 0.002, sigma_max: float = 5.0, rho: float = 7.0
) -> Tensor:
    """Return σ_0 = sigma_max, …, sigma_min, evenly spaced in σ^(1/ρ), then 0: (n_steps + 1,) float32; one step: sigma_max, 0.

    ValueError for n_steps < 1. Source: EDM, eq. 5.
    """
    if n_steps < 1:
        raise ValueError(f"n_steps must be at least 1, got {n_steps}")
    return torch.cat(
        [torch.linspace(sigma_max ** (1 / rho), sigma_min ** (1 / rho), n_steps) ** rho, torch.zeros(1)]
    )


@torch.no_grad()
def next_frame(
    network: Denoiser, history: Tensor, actions: Tensor, sigmas: Tensor, *, generator: Generator | None = None
) -> Tensor:  # fmt: skip
    """Draw the next frame, (B, H, W): from x = σ_0·noise by Euler's method along the falling `sigmas`, the last of which is 0.

        x ← x + (σ_{i+1} - σ_i)·(x - D(x, σ_i))/σ_i              one call of the network per step
    The noise is one ``torch.randn`` of the frame's shape. No gradients.
    """
    x = sigmas[0] * torch.randn(history[:, 0].shape, generator=generator).to(history)
    for sigma, following in pairwise(sigmas):
        slope = (x - denoise(network, x, sigma, history, actions)) / sigma
        x = x + (following - sigma) * slope
    return x


def outcome_loss(reward_logits: Tensor, end_logits: Tensor, rewards: Tensor, ends: Tensor) -> Tensor:
    """Return the cross-entropy of the rewards' signs plus that of the ends, a scalar; each is a mean over the batch.

    reward_logits (B, 3) for -1, 0 and 1; end_logits (B, 2) for goes on and ends; rewards (B,) float, any size; ends (B,) bool.
    """
    reward_loss = functional.cross_entropy(reward_logits, rewards.sign().long() + 1)
    return reward_loss + functional.cross_entropy(end_logits, ends.long())


@torch.no_grad()
def imagine(
    world: World, policy: Callable[[Tensor], tuple[Tensor, Tensor]], start: Callable[[int], tuple[Tensor, Tensor]], *,
    n_dreams: int, horizon: int, sigmas: Tensor, generator: Generator | None = None,
) -> Dream:  # fmt: skip
    """Let the policy act `horizon` steps in each of `n_dreams` dreams, which the world draws. No gradients.

    ``policy(history)`` gives action logits (B, A) and values (B,). ``start(n)`` gives n real beginnings: histories
    (n, L, H, W) and the actions between their frames (n, L - 1). Actions, rewards and ends are drawn from their logits. A dream
    that ends goes on, in the next step, from a new beginning; `next_values` belong to the history that the step led to, not to
    the new one.
    """
    (history, past), steps = start(n_dreams), []
    for _ in range(horizon):
        logits, values = policy(history)
        action = _draw(logits, generator)
        actions = torch.cat([past, action[:, None]], dim=1)
        frame = next_frame(world.denoiser, history, actions, sigmas, generator=generator)
        reward_logits, end_logits = world.outcome(history[:, -1], action, frame)
        reward, end = _draw(reward_logits, generator) - 1.0, _draw(end_logits, generator) == 1
        following = torch.cat([history[:, 1:], frame[:, None]], dim=1)
        log_prob = logits.log_softmax(dim=-1).gather(1, action[:, None])[:, 0]
        steps.append((history, action, log_prob, values, policy(following)[1], reward, end))
        history, past = following, actions[:, 1:]
        if end.any():
            history[end], past[end] = start(int(end.sum()))
    return Dream(*map(torch.stack, zip(*steps, strict=True)))


def lambda_returns(
    rewards: Tensor, ends: Tensor, next_values: Tensor, *, gamma: float = 0.985, lam: float = 0.95
) -> Tensor:  # fmt: skip
    """Return G_t of the module's formula, (T, B). After the last step the game goes on: there G_{t+1} is V(s_{t+1}).

    rewards (T, B), ends (T, B) bool, next_values V(s_{t+1}) (T, B). What follows an end belongs to another dream.
    Source: DIAMOND, eq. 14.
    """
    following, returns = next_values[-1], []
    for reward, end, value in reversed(list(zip(rewards, ends, next_values, strict=True))):
        following = reward + gamma * ~end * ((1 - lam) * value + lam * following)
        returns.append(following)
    return torch.stack(returns[::-1])


def actor_critic_loss(
    logits: Tensor, values: Tensor, actions: Tensor, old_log_probs: Tensor, advantages: Tensor, returns: Tensor, *,
    clip: float = 0.2, value_weight: float = 0.5, entropy_weight: float = 0.01,
) -> Tensor:  # fmt: skip
    """Return -mean(min(ρA, clip(ρ, 1 - ε, 1 + ε)·A)) + value_weight·mean((V - G)²) - entropy_weight·mean(entropy), a scalar.

    ρ = π(a)/π_old(a); logits (B, A), the others (B,); gradients flow to `logits` and `values` alone. Where π = π_old, the
    gradient is that of DIAMOND's -log π(a)·A; the clip makes several steps on one batch of dreams safe, and dreams are dear.
    Sources: DIAMOND, eq. 15 and 16; the clip: PPO, arXiv 1707.06347, eq. 7.
    """
    log_p = logits.log_softmax(dim=-1)
    ratio = (log_p.gather(1, actions[:, None])[:, 0] - old_log_probs.detach()).exp()
    advantages, returns = advantages.detach(), returns.detach()
    gain = torch.min(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
    entropy = -(log_p.exp() * log_p).sum(dim=-1)
    return -gain.mean() + value_weight * (values - returns).square().mean() - entropy_weight * entropy.mean()


def _draw(logits: Tensor, generator: Generator | None) -> Tensor:
    return torch.multinomial(logits.softmax(dim=-1).cpu(), 1, generator=generator)[:, 0].to(logits.device)
