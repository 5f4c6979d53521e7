"""The judge of the agent. Oracles: double sums, the loss worked out row by row, frames and images that say which they are."""

import copy
import math

import pytest
import torch
from episodes import seeded, wake
from torch import nn

import agent as module
from shared.testing.checks import assert_close, unchanged
from shared.testing.no_compiler import without_compiler
from world import Dream

T, B, L = 5, 8, 2
GAMMA, LAM = 0.985, 0.95


@pytest.fixture(scope="module", autouse=True)
def no_compiler():
    with without_compiler():
        yield


# --- the network ------------------------------------------------------------------------------------------------------


@pytest.mark.grades("ActorCritic")
def test_all_actions_are_alike_at_first():
    """Logits (B, 3) and values (B,) start at zero; woken, every frame and its place count."""
    agent = module.ActorCritic()
    frames = torch.rand(3, 4, 12, 12, generator=seeded(1)) * 2 - 1
    with unchanged(frames):
        logits, values = agent(frames)
    assert logits.shape == (3, 3), f"logits {tuple(logits.shape)}"
    assert values.shape == (3,), f"values {tuple(values.shape)}"
    assert not logits.any(), "the logits do not start at zero"
    assert not values.any(), "the values do not start at zero"
    wake(agent)
    with torch.no_grad():
        plain = torch.cat([agent(frames)[0], agent(frames)[1][:, None]], dim=1)
        for t in range(4):
            other = frames.clone()
            other[:, t] = frames[:, t].flip(-1)
            logits, values = agent(other)
            assert (logits - plain[:, :3]).abs().amax(1).min() > 1e-4, f"the policy does not see frame {t}"
            assert (values - plain[:, 3]).abs().min() > 1e-5, f"the value does not see frame {t}"
        logits, values = agent(frames)
        assert (logits - values[:, None]).abs().amax(0).min() > 1e-5, "the value is the logit of an action"
        logits, _ = agent(frames.flip(1))
    assert (logits - plain[:, :3]).abs().amax(1).min() > 1e-4, "the order of the frames makes no difference"


@pytest.mark.grades("ActorCritic")
def test_the_empty_field_enters_as_zero():
    """Frames of nothing but -1 reach the first layer as 0."""
    agent = wake(module.ActorCritic())
    for name, parameter in agent.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
    logits, values = agent(torch.full((3, 4, 12, 12), -1.0))
    largest = max(logits.abs().max().item(), values.abs().max().item())
    assert largest < 1e-5, (
        f"the empty field, -1, enters as 0: without biases its logits and value are 0, got {largest:.3g}"
    )


@pytest.mark.grades("ActorCritic")
def test_agent_of_other_sizes():
    """Frames of 8 by 8, five actions; the gradient reaches every parameter."""
    agent = wake(module.ActorCritic(size=8, n_actions=5, width=4))
    logits, values = agent(torch.rand(6, 4, 8, 8, generator=seeded(1)))
    assert (logits.shape, values.shape) == ((6, 5), (6,)), f"{tuple(logits.shape)}, {tuple(values.shape)}"
    (logits.square().sum() + values.square().sum()).backward()
    assert all(p.grad is not None and p.grad.any() for p in agent.parameters()), (
        "a parameter is without gradient"
    )


# --- what it sees -----------------------------------------------------------------------------------------------------


def recent_by_hand(frames, *, late=0, newest_first=False, zeros=False):
    """The last four frames of each, one at a time."""
    rows = []
    for game in frames:
        moments = []
        for t in range(len(game)):
            places = [t - 3 + i - late for i in range(4)]
            seen = [game[max(p, 0)] * (p >= 0 or not zeros) for p in places]
            moments.append(torch.stack(seen[::-1] if newest_first else seen))
        rows.append(torch.stack(moments))
    return torch.stack(rows)


@pytest.mark.grades("recent")
@pytest.mark.parametrize("n_frames", [1, 3, 7])
def test_recent(n_frames):
    """Four for each frame, the oldest first; before the first stand copies of it."""
    frames = 1 + torch.rand(2, n_frames, 5, 6, generator=seeded(1))
    with unchanged(frames):
        got = module.recent(frames)
    assert_close(
        got, recent_by_hand(frames), what=f"the last four up to each of {n_frames} frames",
        mistakes={
            "before the first frame stand zeros, not copies": recent_by_hand(frames, zeros=True),
            "the newest frame comes first": recent_by_hand(frames, newest_first=True),
            "the frames are one step late": recent_by_hand(frames, late=1),
        },
    )  # fmt: skip


class Tokens(nn.Module):
    """Stands for a tokenizer that decodes an image into a frame of ten times its first token. It remembers what it was asked."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def decode(self, tokens):
        self.asked.append(tokens.clone())
        return 10.0 * tokens[..., 0, None, None].expand(*tokens.shape[:-1], 12, 12)


class Seeing(nn.Module):
    """An agent that remembers the frames it sees."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, frames):
        self.seen.append(frames.clone())
        return frames[:, :3, 0, 0], frames[:, -1, 0, 1]


@pytest.mark.grades("watching")
def test_two_policies_share_nothing():
    """A policy is for one dream: another one begins with nothing seen, even while the first goes on."""
    agent, tokenizer = Seeing(), Tokens()
    a, b = torch.arange(6).reshape(3, 2)[..., None].expand(3, 2, 5), torch.full((3, 2, 5), 7)
    first, second = module.watching(agent, tokenizer), module.watching(agent, tokenizer)
    first(a[:, :1])
    second(b)
    assert (agent.seen[-1] == 70).all(), "a policy keeps the frames of another dream"
    first(a)
    assert (agent.seen[-1] < 70).all(), "a policy keeps the frames of another dream"


@pytest.mark.grades("watching")
@pytest.mark.parametrize("n_first", [1, 3, 6])
def test_watching(n_first):
    """The agent gets the last four decoded frames of each dream and says what comes of them; each image is decoded once."""
    agent, tokenizer = Seeing(), Tokens()
    images = (
        torch.arange(4)[:, None, None] * 20
        + torch.arange(9)[:, None]
        + torch.zeros(4, 9, 5, dtype=torch.int64)
    )
    policy = module.watching(agent, tokenizer)
    for n in range(n_first, 10):
        with unchanged(images):
            logits, values = policy(images[:, :n])
        wanted = recent_by_hand(10.0 * images[:, :n, :1, None].expand(4, n, 12, 12).float())[:, -1]
        got = agent.seen[-1]
        assert got.shape == (4, 4, 12, 12), (
            f"the agent sees {tuple(got.shape)}, expected the last four frames (4, 4, 12, 12)"
        )
        assert not (n > 3 and torch.equal(got, wanted.flip(1))), "the agent sees the newest frame first"
        assert torch.equal(got, wanted), f"after {n} images the agent does not see the last four, decoded"
        assert torch.equal(logits, got[:, :3, 0, 0]), "the logits are not the agent's"
        assert torch.equal(values, got[:, -1, 0, 1]), "the values are not the agent's"
    counts = [asked.shape[1] for asked in tokenizer.asked]
    assert counts == [n_first] + [1] * (9 - n_first), (
        f"{counts} images are decoded in the calls: each is decoded once"
    )
    assert torch.equal(torch.cat(tokenizer.asked, dim=1), images), "other images are decoded"


# --- returns ----------------------------------------------------------------------------------------------------------


def some_dream(seed=0, *, n_alive=None):
    """A dream of unequal numbers; each image says which game and step it is. Some steps are not alive."""
    g = seeded(seed)
    images = (100 * torch.arange(B)[:, None] + torch.arange(L + T))[..., None].expand(B, L + T, 9).clone()
    rewards, ends = torch.randint(-1, 2, (T, B), generator=g).float(), torch.rand(T, B, generator=g) < 0.25
    values, next_values = torch.randn(2, T, B, generator=g)
    actions = torch.randint(3, (T, B), generator=g)
    log_probs = -1.1 + 0.4 * torch.randn(T, B, generator=g)
    before = torch.cat([torch.zeros(1, B, dtype=torch.bool), ends[:-1]]).cumsum(0) > 0
    return Dream(images, actions, log_probs, values, next_values, rewards, ends, ~before)


def returns_by_hand(dream, gamma=GAMMA, lam=LAM):
    """λ-returns as the weighted mean of the n-step returns, one entry at a time, float64."""
    n_steps, n = dream.rewards.shape
    out = torch.zeros(n_steps, n, dtype=torch.float64)
    for b in range(n):
        for t in range(n_steps):
            total, weight, discounted = 0.0, 1.0, 0.0
            for i in range(t, n_steps):
                discounted += gamma ** (i - t) * dream.rewards[i, b].double()
                boot = 0 if dream.ends[i, b] else gamma ** (i - t + 1) * dream.next_values[i, b].double()
                if dream.ends[i, b] or i == n_steps - 1:
                    total += weight * (discounted + boot)
                    break
                total += weight * (1 - lam) * (discounted + boot)
                weight *= lam
            out[t, b] = total
    return out


@pytest.mark.grades("lambda_returns")
@pytest.mark.parametrize(
    "options", [{}, {"gamma": 0.9}, {"lam": 0.4}, {"gamma": 0.8, "lam": 1.0}, {"lam": 0.0}], ids=str
)
def test_lambda_returns(options):
    """The mean of the n-step returns with weights (1 - λ)·λ^(n-1); an end cuts; the last step goes on with its value."""
    dream = some_dream(1)
    columns = dream.rewards, dream.ends, dream.next_values
    with unchanged(*columns):
        got = module.lambda_returns(*columns, **options)
    changed = {
        "gamma is ignored": dict(options, gamma=GAMMA), "lam is ignored": dict(options, lam=LAM),
        "λ and 1 - λ are exchanged": dict(options, lam=1 - options.get("lam", LAM)),
    }  # fmt: skip
    wanted = returns_by_hand(dream, **options).float()
    never = dream._replace(ends=torch.zeros_like(dream.ends))
    assert_close(
        got, wanted, n=8, what=f"the λ-returns with {options}",
        mistakes={
            "an end does not cut the return": lambda: returns_by_hand(never, **options),
            "after the last step the game is over, though it goes on":
                lambda: returns_by_hand(dream._replace(next_values=torch.cat([dream.next_values[:-1], 0 * dream.next_values[-1:]])), **options),
            "the returns come in reverse order": wanted.flip(0),
            **{name: lambda o=o: returns_by_hand(dream, **o) for name, o in changed.items()},
        },
    )  # fmt: skip


# --- improve ----------------------------------------------------------------------------------------------------------


def frames_of(dream):
    """Frames (B, L + T, 12, 12) that say which they are: game and place stand in two pixels, and small numbers elsewhere."""
    frames = torch.randn(B, L + T, 12, 12, generator=seeded(3)) * 0.1 - 0.7
    frames[:, :, 0, 0], frames[:, :, 0, 1] = torch.arange(B)[:, None] / 10, torch.arange(L + T) / 10
    return frames


def which(frames):
    """Game and step of what an agent sees, (B, 4, 12, 12): the step that comes after the newest frame."""
    game = (10 * frames[:, -1, 0, 0]).round().long()
    return list(zip(game.tolist(), ((10 * frames[:, -1, 0, 1]).round().long() - L + 1).tolist(), strict=True))


@pytest.mark.grades("improve")
@pytest.mark.parametrize(("n_epochs", "n_parts"), [(4, 4), (3, 5), (1, 1)])
def test_every_living_step_once_in_each_pass(n_epochs, n_parts):
    """Each pass takes every step that is alive once, in random parts, in a new order, and no other step."""
    dream, seen = some_dream(), []

    class Watched(module.ActorCritic):
        def forward(self, frames):
            seen.append(frames.clone())
            return super().forward(frames)

    agent = Watched()
    options = {} if (n_epochs, n_parts) == (4, 4) else {"n_epochs": n_epochs, "n_parts": n_parts}
    frames = frames_of(dream)
    with unchanged(*dream, frames):
        module.improve(
            agent, torch.optim.SGD(agent.parameters(), 0.1), dream, frames, generator=seeded(2), **options
        )
    assert len(seen) == n_epochs * n_parts, (
        f"{len(seen)} updates, expected {n_epochs} passes of {n_parts} parts"
    )
    living = sorted((b, t) for t in range(T) for b in range(B) if dream.alive[t, b])
    passes = [which(torch.cat(seen[i : i + n_parts])) for i in range(0, len(seen), n_parts)]
    for one in passes:
        assert len(one) != T * B, "it learns from steps that are not alive"
        assert sorted(one) != [(b, t + 1) for b, t in living], (
            "the frames are one step late: those after the step"
        )
        assert sorted(one) != [(b, t - 1) for b, t in living], "the frames are one step early"
        assert sorted(one) == living, "a pass does not take every step that is alive once"
        assert one != sorted(one, key=lambda row: (row[1], row[0])), "the rows come in the order of time"
    assert n_epochs == 1 or passes[0] != passes[1], "all passes take the rows in the same order"
    windows = recent_by_hand(frames)
    for batch in seen:
        for row, (b, t) in zip(batch, which(batch), strict=True):
            assert torch.equal(row, windows[b, L - 1 + t]), (
                "the agent does not see the last four frames, the oldest first"
            )


def step_by_hand(
    dream, agent, *, alive=True, late=0, normalised=False, sign=1, clip=0.2, value_weight=0.5, entropy_weight=0.01, cut=0.5, baseline=True,
    wrong_sign=False, values_before=False, greater=False, old=True,
):  # fmt: skip
    """The direction in which one update goes, row by row: the loss as it stands in the papers, its gradient cut to a norm."""
    agent = copy.deepcopy(agent)
    windows, returns = (
        recent_by_hand(frames_of(dream)),
        returns_by_hand(dream._replace(next_values=dream.values) if values_before else dream),
    )
    rows = [(t, b) for t in range(T) for b in range(B) if dream.alive[t, b] or not alive]
    advantages = torch.stack([returns[t, b] - (dream.values[t, b] if baseline else 0) for t, b in rows])
    advantages = -advantages if wrong_sign else advantages
    if normalised:
        advantages = (advantages - advantages.mean()) / advantages.std()
    logits, values = agent(torch.stack([windows[b, L - 1 + t + late] for t, b in rows]))
    losses = []
    for (t, b), row, value, advantage in zip(rows, logits, values, advantages, strict=True):
        p = row.double().softmax(0)
        chosen = p[dream.actions[t, b]]
        ratio = chosen / (math.exp(dream.log_probs[t, b]) if old else chosen.detach())
        from_above = (advantage > 0) != greater
        bound = 1 + clip if from_above else 1 - clip
        beyond = ratio > bound if from_above else ratio < bound
        gain = advantage * (bound if clip and beyond else ratio)
        entropy = -(p * p.log()).sum()
        losses.append(-gain + value_weight * (value - returns[t, b]) ** 2 - sign * entropy_weight * entropy)
    gradients = torch.autograd.grad(torch.stack(losses).mean(), list(agent.parameters()))
    flat = torch.cat([g.flatten() for g in gradients])
    return flat * min(1, cut / float(flat.norm())) if cut else flat


@pytest.mark.grades("improve")
@pytest.mark.parametrize(
    "options",
    [{}, {"clip": 0.05}, {"value_weight": 0.8}, {"entropy_weight": 0.8}],
    ids=["as it is", "clip", "value_weight", "entropy_weight"],
)  # fmt: skip
def test_one_update_by_hand(options):
    """One pass in one part is one step down the gradient of the loss, whose norm is cut to 0.5; nothing is left of before."""
    dream, agent = some_dream(), wake(module.ActorCritic(width=6), scale=0.1)
    before = [p.detach().clone() for p in agent.parameters()]
    wanted = step_by_hand(dream, agent, **options)
    assert step_by_hand(dream, agent, cut=0, **options).norm() > 0.6, "defect in the test: nothing is cut"
    changes = {
        "advantages are normalised": dict(normalised=True), "advantages lack the values: returns alone": dict(baseline=False),
        "steps that are not alive are learned from": dict(alive=False), "frames are one step late": dict(late=1),
        "the advantages have the wrong sign": dict(wrong_sign=True), "the returns are made of the values before the steps": dict(values_before=True),
        "the greater of the two gains is taken": dict(greater=True), "the ratio is 1: the log-probabilities of the dream are ignored": dict(old=False),
        "the entropy has the wrong sign": dict(sign=-1), "the clip is missing": dict(clip=0), "the gradient's norm is not cut to 0.5": dict(cut=0),
        "clip is ignored": dict(clip=0.2), "value_weight is ignored": dict(value_weight=0.5), "entropy_weight is ignored": dict(entropy_weight=0.01),
    }  # fmt: skip
    start = copy.deepcopy(agent)
    mistaken = {
        name: lambda c=c: step_by_hand(dream, start, **{**options, **c}) for name, c in changes.items()
    }
    for parameter in agent.parameters():
        parameter.grad = torch.ones_like(parameter)  # must not count
    mean = module.improve(
        agent, torch.optim.SGD(agent.parameters(), 0.25), dream, frames_of(dream), n_epochs=1, n_parts=1, generator=seeded(3), **options
    )  # fmt: skip
    got = (
        torch.cat([(b - a.detach()).flatten() for a, b in zip(agent.parameters(), before, strict=True)])
        / 0.25
    )
    assert_close(got, wanted, rtol=1e-3, what=f"the step of an update with {options}", mistakes=mistaken, hint="the step does not go down the gradient of this loss: are old gradients forgotten?")  # fmt: skip
    assert isinstance(mean, float), f"improve returns a {type(mean).__name__}, not a float"
    returns = returns_by_hand(dream)
    assert abs(mean - returns[dream.alive].mean()) < 1e-5, (
        f"improve returns {mean:.4f}; the λ-returns of steps that are alive have the mean {returns[dream.alive].mean():.4f}"
    )


@pytest.mark.grades("improve")
def test_improve_draws_from_the_generator_alone():
    """The same generator gives the same agent, and torch's own numbers are not touched."""
    new, dream = wake(module.ActorCritic(width=4)), some_dream()

    def improved(seed):
        agent = copy.deepcopy(new)
        optimizer = torch.optim.SGD(agent.parameters(), 0.1)
        module.improve(agent, optimizer, dream, frames_of(dream), generator=seeded(seed))
        return torch.cat([p.detach().flatten() for p in agent.parameters()])

    state = torch.get_rng_state()
    assert torch.equal(improved(1), improved(1)), "the same generator gives another agent"
    assert not torch.equal(improved(1), improved(2)), "the generator is ignored"
    assert torch.equal(torch.get_rng_state(), state), "random numbers are not drawn from the generator"
