"""The shortest answer: DIAMOND's own names, a mask in place of indexing, distributions of torch, one start for all dreams."""

import torch
import torch.nn.functional as F
from torch.distributions import Categorical

from dream import Dream


def preconditioning(sigma):
    sigma = torch.sqrt(sigma**2 + 0.3**2)
    c_skip = 0.25 / (sigma**2 + 0.25)
    return torch.rsqrt(sigma**2 + 0.25), c_skip, sigma * torch.sqrt(c_skip), torch.log(sigma) / 4


def to_bytes(frames):
    return torch.round(torch.clamp(frames * 127.5 + 127.5, 0, 255)) / 127.5 - 1


def denoise(network, noisy, sigma, history, actions):
    sigma = sigma.reshape(-1).expand(noisy.shape[0])
    c_in, c_skip, c_out, c_noise = preconditioning(sigma)
    out = network(c_in.view(-1, 1, 1) * noisy, c_noise, history, actions)
    return to_bytes(c_skip.view(-1, 1, 1) * noisy + c_out.view(-1, 1, 1) * out)


def denoiser_loss(network, frames, actions, valid, *, generator=None):
    b, n = valid.shape
    L = frames.shape[1] - n
    obs = frames.clone()
    total = 0
    for i in range(n):
        x0 = frames[:, L + i]
        noise = torch.randn(x0.shape, generator=generator)
        offset = 0.3 * torch.randn(b, generator=generator)
        sigma = torch.exp(torch.randn(b, generator=generator) * 1.2 - 0.4).clip(0.002, 20)
        x = x0 + offset.view(b, 1, 1) + sigma.view(b, 1, 1) * noise
        c_in, c_skip, c_out, c_noise = (c.view(b, 1, 1) for c in preconditioning(sigma))
        history, act = obs[:, i : i + L], actions[:, i : i + L]
        target = (x0 - c_skip * x) / c_out
        out = network(c_in * x, c_noise.flatten(), history, act)
        per_frame = F.mse_loss(out, target, reduction="none").mean((1, 2))
        total = total + (per_frame * valid[:, i]).sum()
        with torch.no_grad():
            obs = obs.clone()
            obs[:, L + i] = to_bytes(c_skip * x + c_out * out)
    return total / valid.sum()


def karras_sigmas(n_steps, *, sigma_min=0.002, sigma_max=5.0, rho=7.0):
    if n_steps <= 0:
        raise ValueError("n_steps must be positive")
    ramp = torch.linspace(0, 1, n_steps)
    a, b = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return F.pad((a + ramp * (b - a)) ** rho, (0, 1))


@torch.no_grad()
def next_frame(network, history, actions, sigmas, *, generator=None):
    b, _, h, w = history.shape
    x = torch.randn(b, h, w, generator=generator) * sigmas[0]
    for s, s_next in zip(sigmas[:-1], sigmas[1:]):
        d = (x - denoise(network, x, s, history, actions)) / s
        x = x + d * (s_next - s)
    return x


def outcome_loss(reward_logits, end_logits, rewards, ends):
    return F.cross_entropy(reward_logits, torch.sign(rewards).long() + 1) + F.cross_entropy(
        end_logits, ends.long()
    )


def _sample(logits, generator):
    u = torch.rand(len(logits), 1, generator=generator)
    below = (logits.softmax(-1).cumsum(-1) < u).sum(-1)
    return below.clamp(max=logits.shape[-1] - 1)


@torch.no_grad()
def imagine(world, policy, start, *, n_dreams, horizon, sigmas, generator=None):
    obs, acts = start(n_dreams)
    columns = [[] for _ in range(7)]
    for _ in range(horizon):
        logits, value = policy(obs)
        action = _sample(logits, generator)
        all_acts = torch.cat((acts, action.unsqueeze(1)), 1)
        frame = next_frame(world.denoiser, obs, all_acts, sigmas, generator=generator)
        rew_logits, end_logits = world.outcome(obs[:, -1], action, frame)
        rew = _sample(rew_logits, generator).float() - 1
        end = _sample(end_logits, generator).bool()
        next_obs = torch.cat((obs[:, 1:], frame.unsqueeze(1)), 1)
        _, next_value = policy(next_obs)
        row = (obs, action, Categorical(logits=logits).log_prob(action), value, next_value, rew, end)
        for column, x in zip(columns, row):
            column.append(x)
        new_obs, new_acts = start(n_dreams)
        obs = torch.where(end.view(-1, 1, 1, 1), new_obs, next_obs)
        acts = torch.where(end.view(-1, 1), new_acts, all_acts[:, 1:])
    return Dream(*[torch.stack(column) for column in columns])


def lambda_returns(rewards, ends, next_values, *, gamma=0.985, lam=0.95):
    out = torch.zeros_like(rewards)
    last = next_values[-1]
    for t in reversed(range(len(rewards))):
        not_end = 1 - ends[t].float()
        last = rewards[t] + gamma * not_end * ((1 - lam) * next_values[t] + lam * last)
        out[t] = last
    return out


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
    d = Categorical(logits=logits)
    ratio = torch.exp(d.log_prob(actions) - old_log_probs.detach())
    adv = advantages.detach()
    pg = torch.max(-adv * ratio, -adv * torch.clamp(ratio, 1 - clip, 1 + clip)).mean()
    return pg + value_weight * F.mse_loss(values, returns.detach()) - entropy_weight * d.entropy().mean()
