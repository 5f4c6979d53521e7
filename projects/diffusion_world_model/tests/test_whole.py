"""All of yours together: a world learned from its records, an agent that learns in a dream, and what may not reach whom."""

import pytest
import torch
from oracles import bytes_of, seeded
from torch import nn
from toys import LOUD, Counting, Exact, Starts, Teller, Wrapped

import diffusion_world_model as dwm
from dream import World
from shared.testing.no_compiler import without_compiler


@pytest.fixture(scope="module", autouse=True)
def no_compiler():
    """An optimizer would import torch's compiler, which takes a second."""
    with without_compiler():
        yield


WORLD = ("preconditioning", "to_bytes", "denoise", "denoiser_loss", "karras_sigmas", "next_frame")
AGENT = (
    "preconditioning",
    "to_bytes",
    "denoise",
    "next_frame",
    "imagine",
    "lambda_returns",
    "actor_critic_loss",
)


class Small(nn.Module):
    """A denoiser of two layers for frames of 1 × 5."""

    def __init__(self, generator, n_past=1, width=5, hidden=48):
        super().__init__()
        self.first = nn.Linear(width * (n_past + 1) + 2, hidden)
        self.last = nn.Linear(hidden, width)
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=generator) / p.shape[-1] ** 0.5)

    def forward(self, scaled, c_noise, history, actions):
        told = [scaled.flatten(1), history.flatten(1), c_noise[:, None], actions[:, -1:] - 1.0]
        return self.last(self.first(torch.cat(told, dim=1)).relu()).reshape(scaled.shape)


def ring(position):
    """A bright dot on a ring of five places, (n, 1, 5)."""
    return 1.6 * nn.functional.one_hot(position % 5, 5).float()[:, None] - 0.8


def records(n, generator):
    """Three frames of n games, and the two actions between them: the dot moves by the action minus one."""
    position, actions = (
        torch.randint(0, 5, (n,), generator=generator),
        torch.randint(0, 3, (n, 2), generator=generator),
    )
    after = position + actions[:, 0] - 1
    frames = [ring(position), ring(after), ring(after + actions[:, 1] - 1)]
    return torch.stack(frames, dim=1), actions


@pytest.mark.grades(*WORLD)
def test_learns_a_world():
    """A dot on a ring: after 150 updates the sampled next frames show it where the action moves it."""
    generator = seeded(0)
    network = Small(generator)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    valid = torch.ones(64, 2, dtype=torch.bool)
    losses = []
    for _ in range(150):
        loss = dwm.denoiser_loss(network, *records(64, generator), valid, generator=generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    first, last = sum(losses[:10]) / 10, sum(losses[-10:]) / 10
    assert last < 0.6 * first, f"the loss goes from {first:.2f} to {last:.2f}: the world is not learned"
    frames, actions = records(300, generator)
    drawn = dwm.next_frame(network, frames[:, :1], actions[:, :1], dwm.karras_sigmas(3), generator=generator)
    right = (drawn[:, 0].argmax(1) == frames[:, 1, 0].argmax(1)).float().mean().item()
    assert right > 0.8, (
        f"{right:.0%} of the sampled frames show the dot where the action moves it, one in five by chance"
    )


def to_the_middle():
    """An exact world on the ring: reward 1 for a step that leads to place 2, and then the game ends; -1 at place 4; else 0."""

    def decide(x, sigma, history, actions):
        return ring(history[:, -1, 0].argmax(1) + actions[:, -1] - 1).double()

    def outcome(frame, action, following):
        place = following[:, 0].argmax(1)
        reward = (place == 2).long() - (place == 4).long()
        return tuple(
            LOUD * nn.functional.one_hot(k, n).float() for k, n in ((reward + 1, 3), ((place == 2).long(), 2))
        )

    return World(Exact(decide), outcome)


class Table(nn.Module):
    """A linear actor-critic, which begins with all actions alike."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 4)
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def forward(self, history):
        out = self.layer(history[:, -1, 0])
        return out[:, :-1], out[:, -1]


@pytest.mark.grades(*AGENT)
def test_an_agent_learns_in_a_dream():
    """40 dreams of 8 steps, 30 times: it walks the short way to the reward, and values know what it is worth."""
    generator = seeded(1)
    world, policy = to_the_middle(), Table()
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.1)

    def start(n):
        place = torch.tensor([0, 1, 3, 4])[torch.randint(0, 4, (n,), generator=generator)]
        return ring(place)[:, None], torch.zeros(n, 0, dtype=torch.int64)

    means = []
    for _ in range(30):
        dream = dwm.imagine(
            world, policy, start, n_dreams=40, horizon=8, sigmas=torch.tensor([5.0, 0.0]), generator=generator
        )
        returns = dwm.lambda_returns(dream.rewards, dream.ends, dream.next_values, gamma=0.9)
        advantages = returns - dream.values
        logits, values = policy(dream.histories.flatten(0, 1))
        columns = (x.flatten() for x in (dream.actions, dream.log_probs, advantages, returns))
        loss = dwm.actor_critic_loss(logits, values, *columns)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        means.append(dream.rewards.mean().item())
    assert means[-1] > means[0] + 0.25, (
        f"the reward per step goes from {means[0]:.2f} to {means[-1]:.2f}: nothing is learned"
    )
    best = policy(ring(torch.tensor([0, 1, 3]))[:, None])[0].argmax(1).tolist()
    assert best == [2, 2, 0], (
        f"at the places 0, 1 and 3 it prefers the actions {best}, the short way is [2, 2, 0]"
    )


@pytest.mark.grades(*AGENT)
def test_the_policy_loss_leaves_the_world_alone():
    """backward() reaches the policy; the world's gradients stay None; and but for beginnings, no frame is a real one."""
    counting, policy, starts = Counting(), Teller(scale=0.2), Starts()
    world = World(Wrapped(counting.denoiser), Wrapped(counting.outcome))
    sigmas = torch.tensor([5.0, 0.1, 0.0])
    dream = dwm.imagine(world, policy, starts, n_dreams=5, horizon=7, sigmas=sigmas, generator=seeded(2))
    returns = dwm.lambda_returns(dream.rewards, dream.ends, dream.next_values)
    logits, values = policy(dream.histories.flatten(0, 1))
    columns = (x.flatten() for x in (dream.actions, dream.log_probs, returns - dream.values, returns))
    dwm.actor_critic_loss(logits, values, *columns).backward()
    assert all(p.grad is not None and p.grad.any() for p in policy.parameters()), (
        "the policy gets no gradient"
    )
    assert world.denoiser.weight.grad is None, "the policy's loss has reached the denoiser: a dream is data"
    assert world.outcome.weight.grad is None, (
        "the policy's loss has reached the outcome's network: a dream is data"
    )
    drawn = {
        tuple(bytes_of(frame).flatten().tolist()) for clean in counting.denoiser.cleans for frame in clean
    }
    begun = {
        tuple(bytes_of(f).flatten().tolist()) for k in range(starts.n_handed) for f in starts.beginning(k)[0]
    }
    shown = {tuple(bytes_of(f).flatten().tolist()) for f in dream.histories.flatten(0, 2)}
    assert shown <= drawn | begun, (
        "a frame of the dream was neither drawn by the world nor handed out by start"
    )
