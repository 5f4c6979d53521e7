"""Answers worked out another way, in float64, and functions that are lent: they use nothing of the files that are graded."""

import torch

import diffusion_world_model
from shared.testing.checks import lazily

DOUBLE = torch.float64


def seeded(seed=0):
    """A generator of its own."""
    return torch.Generator().manual_seed(seed)


def normal(*shape, generator, scale=1.0):
    """Return normal numbers, float32."""
    return scale * torch.randn(shape, generator=generator)


def level(k):
    """The grey of byte k: 0 is -1, 255 is 1."""
    return k / 127.5 - 1


def bytes_of(frames):
    """The nearest byte of each pixel, int64."""
    return ((frames.double() + 1) * 127.5).round().long()


def gradients(output, inputs):
    """Return the gradients of a scalar; zeros where it does not depend on an input."""
    if not output.requires_grad:
        raise AssertionError("the result is detached from its inputs: no gradient flows back")
    return torch.autograd.grad(output, inputs, allow_unused=True, materialize_grads=True)


# --- functions that are lent: a unit's test needs no other unit of the learner's --------------------------------------


def lend(monkeypatch, *names):
    """Let the graded module find these functions of this file under its own names."""
    for name in names:
        monkeypatch.setattr(diffusion_world_model, name, globals()[name], raising=False)


def preconditioning(sigma):
    """By regression: frames of standard deviation 0.5, noise of σ and 0.3, which are at right angles."""
    wide = torch.as_tensor(sigma).double()
    noise = torch.complex(wide, torch.full_like(wide, 0.3)).abs()
    both = torch.complex(noise, torch.full_like(wide, 0.5)).abs()
    scales = 1 / both, (0.5 / both) ** 2, 0.5 * noise / both, noise.log() / 4
    return tuple(scale.to(torch.as_tensor(sigma).dtype) for scale in scales)


def to_bytes(frames):
    """The nearest byte's grey; it keeps the graph, though its gradient is 0."""
    return (((frames.double().clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1).to(frames.dtype)


def denoise(network, noisy, sigma, history, actions):
    """D as bytes."""
    c_in, c_skip, c_out, c_noise = preconditioning(sigma.to(noisy).expand(len(noisy)))
    c_in, c_skip, c_out = (c.reshape(-1, 1, 1) for c in (c_in, c_skip, c_out))
    return to_bytes(c_skip * noisy + c_out * network(c_in * noisy, c_noise, history, actions))


@torch.no_grad()
def next_frame(network, history, actions, sigmas, *, generator=None):
    """Euler's steps, as mixtures: of x - D the share σ_{i+1}/σ_i stays."""
    x = sigmas[0] * torch.randn(history[:, 0].shape, generator=generator)
    for i in range(len(sigmas) - 1):
        clean = denoise(network, x, sigmas[i], history, actions)
        x = clean + sigmas[i + 1] / sigmas[i] * (x - clean)
    return x


# --- what a denoiser was asked ----------------------------------------------------------------------------------------


def sigma_of(c_noise):
    """σ of c_noise = ln(σ_e)/4, float64."""
    return ((8 * c_noise.detach().double()).exp() - 0.09).clamp(min=0).sqrt()


# --- returns ----------------------------------------------------------------------------------------------------------


def n_step(rewards, ends, next_values, t, n, gamma):
    """n rewards from step t on, then the value; what follows an end counts nothing."""
    total, alive = torch.zeros_like(rewards[0]), torch.ones_like(rewards[0])
    for k in range(n):
        total = total + alive * gamma**k * rewards[t + k]
        alive = alive * ~ends[t + k]
    return total + alive * gamma**n * next_values[t + n - 1]


def returns_by_sums(rewards, ends, next_values, gamma=0.985, lam=0.95):
    """The λ-return by its definition: all n-step returns up to the horizon, weighted by (1 - λ)·λ^(n - 1), the longest by the rest."""
    rewards, next_values = rewards.double(), next_values.double()
    rows = []
    for t in range(len(rewards)):
        longest = len(rewards) - t
        terms = [n_step(rewards, ends, next_values, t, n, gamma) for n in range(1, longest + 1)]
        weights = [(1 - lam) * lam ** (n - 1) for n in range(1, longest)] + [lam ** (longest - 1)]
        rows.append(sum(w * term for w, term in zip(weights, terms, strict=True)))
    return torch.stack(rows)


def returns_mistakes(rewards, ends, next_values, gamma=0.985, lam=0.95):
    """assert_close's `mistakes` for λ-returns."""
    nothing, everything = torch.zeros_like(ends), torch.ones_like(ends)
    late = torch.cat([nothing[:1], ends[:-1]])
    early = torch.cat([ends[1:], nothing[:1]])
    over = torch.cat([ends[:-1], everything[:1]])
    ahead = torch.cat([next_values[1:], next_values[-1:]])
    cut = torch.cat([next_values[:-1], torch.zeros_like(next_values[:1])])
    turned = (x.flip(0) for x in (rewards, ends, next_values))
    sums, options = returns_by_sums, (gamma, lam)

    def bootstrapped_in_the_middle_only():
        wide = next_values.double()
        rows, following = [], torch.zeros_like(wide[0])
        for t in reversed(range(len(rewards))):
            following = rewards[t] + gamma * ~ends[t] * ((1 - lam) * wide[t] + lam * following)
            rows.insert(0, following)
        return torch.stack(rows)

    def recursive(weights):
        following, rows = next_values[-1].double(), []
        for t in reversed(range(len(rewards))):
            following = weights(t, rewards[t].double(), next_values[t].double(), following)
            rows.insert(0, following)
        return torch.stack(rows)

    return {
        "the end's weight kills the rewarding step: the reward of the step that ends the game counts": lazily(
            sums, rewards * ~ends, ends, next_values, *options
        ),
        "the returns bootstrap two steps ahead: next_values[t] is V(s_{t+1}) already": lazily(
            sums, rewards, ends, ahead, *options
        ),
        "the horizon's end is treated as the game's: after the last step the game goes on": lazily(
            sums, rewards, over, next_values, *options
        ),
        "nothing follows the last step: there G_{t+1} is V(s_{t+1})": bootstrapped_in_the_middle_only,
        "the last step's value is taken to be 0": lazily(sums, rewards, ends, cut, *options),
        "ends are ignored: what follows an end belongs to another dream": lazily(
            sums, rewards, nothing, next_values, *options
        ),
        "ends are turned round: true is an end": lazily(sums, rewards, ~ends, next_values, *options),
        "ends are one step late: step t looks at the end of step t - 1": lazily(
            sums, rewards, late, next_values, *options
        ),
        "ends are one step early: step t looks at the end of step t + 1": lazily(
            sums, rewards, early, next_values, *options
        ),
        "λ and 1 - λ are exchanged": lazily(sums, rewards, ends, next_values, gamma, 1 - lam),
        "gamma is ignored": lazily(sums, rewards, ends, next_values, 0.985, lam),
        "lam is ignored": lazily(sums, rewards, ends, next_values, gamma, 0.95),
        "both gamma and lam are ignored": lazily(sums, rewards, ends, next_values),
        "γ is missing": lazily(sums, rewards, ends, next_values, 1.0, lam),
        "λ is missing: these are plain discounted sums": lazily(sums, rewards, ends, next_values, gamma, 1.0),
        "these are one-step returns: λ·G_{t+1} is missing": lazily(
            recursive, lambda t, r, v, g: r + gamma * ~ends[t] * v
        ),
        "the value after the step is not weighted by 1 - λ": lazily(
            recursive, lambda t, r, v, g: r + gamma * ~ends[t] * (v + lam * g)
        ),
        "an end removes λ·G_{t+1} but not the value": lazily(
            recursive, lambda t, r, v, g: r + gamma * ((1 - lam) * v + ~ends[t] * lam * g)
        ),
        "an end removes the value but not λ·G_{t+1}": lazily(
            recursive, lambda t, r, v, g: r + gamma * (~ends[t] * (1 - lam) * v + lam * g)
        ),
        "γ weighs the value but not λ·G_{t+1}": lazily(
            recursive, lambda t, r, v, g: r + ~ends[t] * (gamma * (1 - lam) * v + lam * g)
        ),
        "the returns stand in the order they were found, the last first": lambda: sums(
            rewards, ends, next_values, *options
        ).flip(0),
        "the recursion runs forwards: begin at the last step": lambda: sums(*turned, *options).flip(0),
    }
