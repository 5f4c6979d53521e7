"""A careful person's answer: float64 where digits get lost, the invalid frames skipped, Gumbel's noise, beginnings one at a time."""

import math

import torch
from torch import nn

from dream import Dream


def preconditioning(sigma):
    wide = sigma.double()
    effective = torch.hypot(wide, torch.full_like(wide, 0.3))
    norm = torch.hypot(effective, torch.full_like(wide, 0.5))
    scales = 1 / norm, (0.5 / norm).square(), effective * 0.5 / norm, 0.25 * torch.log(effective)
    return tuple(scale.to(sigma.dtype) for scale in scales)


def to_bytes(frames):
    level = torch.floor((torch.clip(frames, -1.0, 1.0) + 1.0) * 127.5 + 0.5)
    return level / 127.5 - 1.0


def _denoise_with_output(network, noisy, sigma, history, actions):
    """Return F's output and D before it is rounded; sigma is (B,)."""
    c_in, c_skip, c_out, c_noise = preconditioning(sigma)

    def per_frame(scale):
        return scale[:, None, None]

    output = network(per_frame(c_in) * noisy, c_noise, history, actions)
    return output, per_frame(c_skip) * noisy + per_frame(c_out) * output


def denoise(network, noisy, sigma, history, actions):
    if sigma.ndim == 0:
        sigma = sigma.repeat(noisy.shape[0])
    return to_bytes(_denoise_with_output(network, noisy, sigma.to(noisy.dtype), history, actions)[1])


def _noise(shape, generator):
    return torch.normal(torch.zeros(shape), torch.ones(shape), generator=generator)


def denoiser_loss(network, frames, actions, valid, *, generator=None):
    n_games, n = valid.shape
    n_past = frames.shape[1] - n
    log_sigmas = _noise((n, n_games), generator) * 1.2 - 0.4
    sigmas = torch.exp(torch.clip(log_sigmas, math.log(0.002), math.log(20.0)))
    offsets = 0.3 * _noise((n, n_games), generator)
    history = list(frames[:, :n_past].unbind(1))
    errors = []
    for i in range(n):
        clean = frames[:, n_past + i]
        noisy = clean + offsets[i][:, None, None] + sigmas[i][:, None, None] * _noise(clean.shape, generator)
        keep = valid[:, i:].any(1)  # games that are over need no more frames
        if not keep.any():
            break
        past, done = torch.stack(history, dim=1), actions[:, i : i + n_past]
        output, clean_guess = _denoise_with_output(
            network, noisy[keep], sigmas[i][keep], past[keep], done[keep]
        )
        _, c_skip, c_out, _ = preconditioning(sigmas[i][keep][:, None, None])
        target = (clean[keep] - c_skip * noisy[keep]) / c_out
        error = (output - target).pow(2).flatten(1).mean(1)
        errors.append(error[valid[keep, i]])
        own = clean.clone()
        own[keep] = to_bytes(clean_guess.detach())
        history = [*history[1:], own]
    return torch.cat(errors).mean()


def karras_sigmas(n_steps, *, sigma_min=0.002, sigma_max=5.0, rho=7.0):
    if n_steps < 1:
        raise ValueError(f"a grid needs a step, got n_steps = {n_steps}")
    last = max(n_steps - 1, 1)
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    sigmas = [((1 - i / last) * high + i / last * low) ** rho for i in range(n_steps)]
    return torch.tensor([*sigmas, 0.0], dtype=torch.float32)


def next_frame(network, history, actions, sigmas, *, generator=None):
    with torch.no_grad():
        state = torch.randn(history.shape[0], *history.shape[2:], generator=generator).mul(float(sigmas[0]))
        for i in range(len(sigmas) - 1):
            clean = denoise(network, state, sigmas[i], history, actions)
            share = sigmas[i + 1] / sigmas[i]  # of the noise that stays
            state = clean + share * (state - clean)
        return state


def outcome_loss(reward_logits, end_logits, rewards, ends):
    reward_class = torch.ones_like(rewards, dtype=torch.int64)
    reward_class[rewards > 0] = 2
    reward_class[rewards < 0] = 0
    loss = nn.CrossEntropyLoss()
    return loss(reward_logits, reward_class) + loss(end_logits, ends.to(torch.int64))


def _gumbel_draw(logits, generator):
    uniform = torch.rand(logits.shape, generator=generator).clamp(1e-7, 1 - 1e-7)
    return torch.argmax(logits.detach() - torch.log(-torch.log(uniform)), dim=1)


def imagine(world, policy, start, *, n_dreams, horizon, sigmas, generator=None):
    with torch.no_grad():
        frames, done = start(n_dreams)
        frames, done = frames.clone(), done.clone()
        logits, values = policy(frames)
        rows = []
        for step in range(horizon):
            action = _gumbel_draw(logits, generator)
            log_prob = torch.log_softmax(logits, dim=1)[torch.arange(n_dreams), action]
            with_action = torch.hstack((done, action.reshape(-1, 1)))
            new = next_frame(world.denoiser, frames, with_action, sigmas, generator=generator)
            reward_logits, end_logits = world.outcome(frames[:, -1], action, new)
            reward = (_gumbel_draw(reward_logits, generator) - 1).to(torch.float32)
            end = _gumbel_draw(end_logits, generator).eq(1)
            led_to = torch.roll(frames, -1, dims=1)
            led_to[:, -1] = new
            next_logits, next_values = policy(led_to)
            rows.append((frames, action, log_prob, values, next_values, reward, end))
            frames, done = led_to.clone(), with_action[:, 1:].clone()
            for dream in torch.nonzero(end).flatten().tolist():
                beginning, its_actions = start(1)
                frames[dream], done[dream] = beginning[0], its_actions[0]
            logits, values = policy(frames) if end.any() else (next_logits, next_values)
        return Dream(*(torch.stack([row[i] for row in rows]) for i in range(7)))


def lambda_returns(rewards, ends, next_values, *, gamma=0.985, lam=0.95):
    n_steps = rewards.shape[0]
    zero = torch.zeros_like(rewards[0])
    returns = [None] * n_steps
    for t in range(n_steps - 1, -1, -1):
        if t == n_steps - 1:
            future = next_values[t]
        else:
            future = torch.lerp(next_values[t], returns[t + 1], lam)
        returns[t] = rewards[t] + gamma * torch.where(ends[t], zero, future)
    return torch.stack(returns)


def actor_critic_loss(
    logits,
    values,
    actions,
    old_log_probs,
    advantages,
    returns,
    *,
    clip=0.2,
    value_weight=0.5,
    entropy_weight=0.01,
):
    old_log_probs, advantages, returns = (x.detach() for x in (old_log_probs, advantages, returns))
    log_probs = logits - torch.logsumexp(logits, dim=1, keepdim=True)
    taken = torch.take_along_dim(log_probs, actions.unsqueeze(1), dim=1).squeeze(1)
    ratio = torch.exp(taken - old_log_probs)
    bound = torch.where(advantages >= 0, 1.0 + clip, 1.0 - clip)
    surrogate = (
        torch.where(advantages >= 0, torch.minimum(ratio, bound), torch.maximum(ratio, bound)) * advantages
    )
    entropy = -torch.sum(torch.exp(log_probs) * log_probs, dim=1)
    value_error = torch.mean((values - returns) ** 2)
    return value_weight * value_error - surrogate.mean() - entropy_weight * entropy.mean()
