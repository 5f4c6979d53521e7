"""Another right answer, in loops: D is asked for once more for the own frame, games one by one where that is plainer."""

import torch

from dream import Dream


def preconditioning(sigma):
    s = torch.sqrt(sigma * sigma + 0.09)
    root = torch.sqrt(s * s + 0.25)
    return 1 / root, (0.5 / root) ** 2, 0.5 * s / root, torch.log(s) * 0.25


def to_bytes(frames):
    levels = torch.round((frames + 1) * 127.5)
    levels = torch.where(levels < 0, torch.zeros_like(levels), levels)
    levels = torch.where(levels > 255, torch.full_like(levels, 255.0), levels)
    return (levels - 127.5) / 127.5


def denoise(network, noisy, sigma, history, actions):
    if sigma.dim() == 0:
        sigma = torch.full((len(noisy),), sigma.item())
    scales = [scale[:, None, None] for scale in preconditioning(sigma)[:3]]
    answer = network(scales[0] * noisy, preconditioning(sigma)[3], history, actions)
    return to_bytes(scales[1] * noisy + scales[2] * answer)


def denoiser_loss(network, frames, actions, valid, *, generator=None):
    n_games, n = valid.shape
    n_past = frames.shape[1] - n
    history = frames[:, :n_past].clone()
    total, count = torch.zeros(()), 0
    for step in range(n):
        clean = frames[:, n_past + step]
        done = actions[:, step : step + n_past]
        noise = torch.empty_like(clean).normal_(generator=generator)
        log_sigma = torch.empty(n_games).normal_(-0.4, 1.2, generator=generator)
        offset = torch.empty(n_games).normal_(0, 0.3, generator=generator)
        sigma = log_sigma.exp().clamp(min=0.002, max=20.0)
        noisy = clean + offset[:, None, None] + sigma[:, None, None] * noise
        c_in, c_skip, c_out, c_noise = preconditioning(sigma)
        c_in, c_skip, c_out = c_in[:, None, None], c_skip[:, None, None], c_out[:, None, None]
        answer = network(c_in * noisy, c_noise, history, done)
        error = ((c_skip * noisy + c_out * answer - clean) / c_out) ** 2
        for game in range(n_games) if n_games < 100 else [slice(None)]:
            counts = valid[game, step]
            total = total + (error[game].mean((-2, -1)) * counts).sum()
            count += int(counts.sum())
        with torch.no_grad():
            own = denoise(network, noisy, sigma, history, done)
        history = torch.cat((history[:, 1:], own.unsqueeze(1)), 1)
    return total / count


def karras_sigmas(n_steps, *, sigma_min=0.002, sigma_max=5.0, rho=7.0):
    if not n_steps >= 1:
        raise ValueError(f"at least one step is needed, not {n_steps}")
    sigmas = torch.zeros(n_steps + 1)
    for i in range(n_steps):
        t = i / (n_steps - 1) if n_steps > 1 else 0.0
        sigmas[i] = (sigma_max ** (1 / rho) + t * (sigma_min ** (1 / rho) - sigma_max ** (1 / rho))) ** rho
    return sigmas


@torch.no_grad()
def next_frame(network, history, actions, sigmas, *, generator=None):
    n, _, height, width = history.shape
    x = torch.randn((n, height, width), generator=generator) * sigmas[0]
    for i in range(len(sigmas) - 1):
        d = (x - denoise(network, x, sigmas[i].repeat(n), history, actions)) / sigmas[i]
        x = x - (sigmas[i] - sigmas[i + 1]) * d
    return x


def outcome_loss(reward_logits, end_logits, rewards, ends):
    n = len(rewards)
    log_reward, log_end = torch.log_softmax(reward_logits, 1), torch.log_softmax(end_logits, 1)
    total = 0.0
    for i in range(n):
        kind = 1 if rewards[i] == 0 else (2 if rewards[i] > 0 else 0)
        total = total - log_reward[i, kind] - log_end[i, int(ends[i])]
    return total / n


def pick(probabilities, generator):
    return torch.multinomial(probabilities, 1, replacement=True, generator=generator).squeeze(1)


@torch.no_grad()
def imagine(world, policy, start, *, n_dreams, horizon, sigmas, generator=None):
    history, past = start(n_dreams)
    table = {name: [] for name in Dream._fields}
    for _ in range(horizon):
        logits, values = policy(history)
        p = torch.softmax(logits, 1)
        action = pick(p, generator)
        actions = torch.cat((past, action[:, None]), 1)
        frame = next_frame(world.denoiser, history, actions, sigmas, generator=generator)
        of_reward, of_end = world.outcome(history[:, -1], action, frame)
        ends = pick(torch.softmax(of_end, 1), generator) > 0
        rewards = torch.tensor([-1.0, 0.0, 1.0])[pick(torch.softmax(of_reward, 1), generator)]
        after = torch.cat((history[:, 1:], frame[:, None]), 1)
        table["histories"].append(history)
        table["actions"].append(action)
        table["log_probs"].append(torch.log(p[torch.arange(n_dreams), action]))
        table["values"].append(values)
        table["next_values"].append(policy(after)[1])
        table["rewards"].append(rewards)
        table["ends"].append(ends)
        new_history, new_past = start(int(ends.sum()))
        history, past = after.clone(), actions[:, 1:].clone()
        history[ends] = new_history
        past[ends] = new_past
    return Dream(**{name: torch.stack(column) for name, column in table.items()})


def lambda_returns(rewards, ends, next_values, *, gamma=0.985, lam=0.95):
    T, B = rewards.shape
    G = torch.zeros(T, B)
    for b in range(B):
        g = next_values[T - 1, b]
        for t in range(T - 1, -1, -1):
            if ends[t, b]:
                g = rewards[t, b]
            else:
                g = rewards[t, b] + gamma * (next_values[t, b] + lam * (g - next_values[t, b]))
            G[t, b] = g
    return G


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
    log_p = torch.log_softmax(logits, -1)
    p = torch.softmax(logits, -1)
    A, G, old = advantages.detach(), returns.detach(), old_log_probs.detach()
    ratio = torch.exp(log_p[torch.arange(len(actions)), actions] - old)
    held = torch.clip(ratio, 1 - clip, 1 + clip)
    actor = -torch.minimum(ratio * A, held * A)
    critic = (values - G) ** 2
    entropy = -(p * log_p).sum(-1)
    return (actor + value_weight * critic - entropy_weight * entropy).mean()
