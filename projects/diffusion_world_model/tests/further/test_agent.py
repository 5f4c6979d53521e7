"""The judge of the agent. Oracles: λ-returns and losses worked out in loops, counts of rows, a toy whose answer is known."""

import copy

import pytest
import torch
from episodes import seeded, wake
from torch import nn

import agent as module
import diffusion_world_model
from dream import Dream
from shared.testing.checks import assert_close, unchanged
from shared.testing.no_compiler import without_compiler

T, B = 5, 8


@pytest.fixture(scope="module", autouse=True)
def no_compiler():
    with without_compiler():
        yield


class Told(nn.Module):
    """An agent that gives the logits that its history holds, in the first pixels of the newest frame."""

    def __init__(self):
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(()))

    def forward(self, history):
        return history[:, -1, 0, :3] + self.nothing, history[:, -1, 0, 3]


def told(logits):
    history = torch.zeros(len(logits), 4, 12, 12)
    history[:, -1, 0, :3] = logits
    return history


def some_dream(seed=0, *, numbered=False):
    """A dream of unequal numbers; with `numbered`, each history says which row it is."""
    g = seeded(seed)
    histories = torch.randn(T, B, 4, 12, 12, generator=g)
    if numbered:
        histories[..., -1, 0, 0] = torch.arange(T * B).reshape(T, B).float()
    rewards = torch.randint(-1, 2, (T, B), generator=g).float()
    ends = torch.rand(T, B, generator=g) < 0.3
    values, next_values = torch.randn(2, T, B, generator=g)
    actions = torch.randint(3, (T, B), generator=g)
    log_probs = -1.1 + 0.2 * torch.randn(T, B, generator=g)
    return Dream(histories, actions, log_probs, values, next_values, rewards, ends)


def returns_by_hand(dream, gamma, lam):
    """λ-returns as the weighted mean of the n-step returns, one entry at a time, float64."""
    out = torch.zeros(T, B, dtype=torch.float64)
    for b in range(B):
        for t in range(T):
            total, weight, discounted = 0.0, 1.0, 0.0
            for n in range(T - t):
                i = t + n
                discounted += gamma**n * dream.rewards[i, b].double()
                boot = 0 if dream.ends[i, b] else gamma ** (n + 1) * dream.next_values[i, b].double()
                if dream.ends[i, b] or i == T - 1:
                    total += weight * (discounted + boot)
                    break
                total += weight * (1 - lam) * (discounted + boot)
                weight *= lam
            out[t, b] = total
    return out


@pytest.mark.grades("ActorCritic")
def test_all_actions_are_alike_at_first():
    """Logits (B, 3) and values (B,) start at zero; woken, every frame of the history and its place count."""
    agent = module.ActorCritic()
    history = torch.rand(3, 4, 12, 12, generator=seeded(1)) * 2 - 1
    with unchanged(history):
        logits, values = agent(history)
    assert logits.shape == (3, 3), f"logits {tuple(logits.shape)}"
    assert values.shape == (3,), f"values {tuple(values.shape)}"
    assert not logits.any(), "the logits do not start at zero"
    assert not values.any(), "the values do not start at zero"
    wake(agent)
    with torch.no_grad():
        plain = torch.cat([agent(history)[0], agent(history)[1][:, None]], dim=1)
        for t in range(4):
            other = history.clone()
            other[:, t] = history[:, t].flip(-1)
            logits, values = agent(other)
            assert (logits - plain[:, :3]).abs().amax(1).min() > 1e-4, f"the policy does not see frame {t}"
            assert (values - plain[:, 3]).abs().min() > 1e-5, f"the value does not see frame {t}"
        logits, _ = agent(history.flip(1))
    assert (logits - plain[:, :3]).abs().amax(1).min() > 1e-4, "the order of the frames makes no difference"


@pytest.mark.grades("ActorCritic")
def test_the_empty_field_enters_as_zero():
    """Histories of nothing but -1 reach the first layer as 0."""
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
    """Two frames of 8 by 8, five actions; the gradient reaches every parameter."""
    agent = wake(module.ActorCritic(n_frames=2, size=8, n_actions=5, width=4))
    logits, values = agent(torch.rand(6, 2, 8, 8, generator=seeded(1)))
    assert (logits.shape, values.shape) == ((6, 5), (6,)), f"{tuple(logits.shape)}, {tuple(values.shape)}"
    (logits.square().sum() + values.square().sum()).backward()
    assert all(p.grad.any() for p in agent.parameters()), "a parameter is without gradient"


@pytest.mark.grades("act")
def test_act_greedily():
    """The most probable action of each history, int64, on the CPU, without gradients."""
    logits = torch.tensor([[0.0, 1.0, -1.0], [2.0, 1.0, 1.9], [-1.0, -2.0, -0.5]])
    agent = Told()
    got = module.act(agent, told(logits))
    assert got.dtype == torch.int64, f"actions are {got.dtype}"
    assert got.tolist() == [1, 0, 2], f"greedy actions {got.tolist()}, expected [1, 0, 2]"
    assert got.device.type == "cpu", "actions are wanted on the CPU"
    state = torch.get_rng_state()
    module.act(agent, told(logits))
    assert torch.equal(torch.get_rng_state(), state), "the greedy choice draws random numbers"


@pytest.mark.grades("act")
def test_act_by_chance():
    """Drawn by the policy's probabilities, from the generator alone."""
    p = torch.tensor([0.2, 0.7, 0.1])
    history = told(p.log().expand(4000, 3) + 3.0)
    state = torch.get_rng_state()
    got = module.act(Told(), history, greedy=False, generator=seeded(1))
    assert got.shape == (4000,), f"actions {tuple(got.shape)}"
    shares = got.bincount(minlength=3) / 4000
    assert (shares - p).abs().max() < 0.03, f"actions are not drawn by their probabilities: {shares.tolist()}"
    assert torch.equal(got, module.act(Told(), history, greedy=False, generator=seeded(1))), (
        "the seed is ignored"
    )
    assert torch.equal(torch.get_rng_state(), state), "random numbers are not drawn from the generator"


@pytest.mark.grades("improve")
@pytest.mark.parametrize("n_parts", [4, 3])
def test_every_row_once_in_each_pass(n_parts, monkeypatch):
    """Each pass hands every step to the loss once, in parts, in a new order; a row keeps its columns together."""
    dream, seen = some_dream(numbered=True), []
    flat = [c.flatten(0, 1) for c in dream]

    class Watched(module.ActorCritic):
        def forward(self, history):
            seen.append(history[:, -1, 0, 0].long().clone())
            return super().forward(history)

    def loss(logits, values, actions, log_probs, advantages, returns, **options):
        rows = seen[-1]
        assert torch.equal(actions, flat[1][rows]), "the actions do not belong to their histories"
        assert torch.equal(log_probs, flat[2][rows]), "the log-probabilities do not belong to their histories"
        return logits.sum() * 0 + values.sum() * 0

    monkeypatch.setattr(module, "actor_critic_loss", loss, raising=False)
    agent = Watched()
    optimizer = torch.optim.SGD(agent.parameters(), 0.1)
    module.improve(agent, optimizer, dream, n_epochs=3, n_parts=n_parts, generator=seeded(2))
    assert len(seen) == 3 * n_parts, f"{len(seen)} updates, expected 3 passes of {n_parts} parts"
    passes = [torch.cat(seen[i : i + n_parts]) for i in range(0, len(seen), n_parts)]
    for one in passes:
        assert sorted(one.tolist()) == list(range(T * B)), "a pass does not take every row once"
    assert not torch.equal(passes[0], torch.arange(T * B)), "the rows come in the order of time"
    assert not torch.equal(passes[0], passes[1]), "all passes take the rows in the same order"


@pytest.mark.grades("improve")
def test_returns_and_advantages(monkeypatch):
    """The loss gets λ-returns, and what they are above the values, as it is; options reach it; their mean is returned."""
    dream, got = some_dream(), {}
    dream = dream._replace(
        rewards=dream.rewards + 0.1 * torch.randn(T, B, generator=seeded(5))
    )  # no two returns alike
    monkeypatch.setattr(
        module, "actor_critic_loss",
        lambda logits, values, actions, log_probs, advantages, returns, **options: (
            got.update(advantages=advantages, returns=returns, options=options, actions=actions) or (logits.sum() + values.sum()) * 0
        ),
        raising=False,
    )  # fmt: skip
    agent = module.ActorCritic()
    optimizer = torch.optim.SGD(agent.parameters(), 0.1)
    with unchanged(*dream):
        mean = module.improve(
            agent,
            optimizer,
            dream,
            n_epochs=1,
            n_parts=1,
            gamma=0.9,
            lam=0.7,
            entropy_weight=0.03,
            generator=seeded(2),
        )
    wanted = returns_by_hand(dream, 0.9, 0.7)
    order = [int((wanted.flatten() - g).abs().argmin()) for g in got["returns"]]
    assert_close(
        got["returns"].sort().values, wanted.float().flatten().sort().values, what="the returns that the loss gets", n=8,
        mistakes={
            "gamma and lam are not handed on to the λ-returns": lambda: returns_by_hand(dream, 0.985, 0.95).flatten().sort().values,
            "gamma is not handed on": lambda: returns_by_hand(dream, 0.985, 0.7).flatten().sort().values,
            "lam is not handed on": lambda: returns_by_hand(dream, 0.9, 0.95).flatten().sort().values,
            "the values are those of the histories, not of what the steps led to":
                lambda: returns_by_hand(dream._replace(next_values=dream.values), 0.9, 0.7).flatten().sort().values,
        },
        hint="the loss does not get λ-returns",
    )  # fmt: skip
    raw = (wanted - dream.values.double()).flatten()[order].float()
    assert_close(
        got["advantages"], raw, rtol=1e-4, what="the advantages that the loss gets",
        mistakes={
            "the advantages are normalised": (raw - raw.mean()) / raw.std(),
            "the advantages lack the values: returns alone": got["returns"],
            "the advantages have the wrong sign": -raw,
        },
    )  # fmt: skip
    assert got["options"].get("entropy_weight") == 0.03, "entropy_weight does not reach the loss"
    assert isinstance(mean, float), f"improve returns a {type(mean).__name__}, not a float"
    assert abs(mean - wanted.mean()) < 1e-5, (
        f"improve returns {mean}, the mean of the λ-returns is {wanted.mean()}"
    )


@pytest.mark.grades("improve")
def test_one_update_by_hand():
    """One pass in one part is one step down the gradient of the loss, whose norm is cut to 0.5; nothing is left of before."""
    dream, agent, twin = (
        some_dream(),
        wake(module.ActorCritic(), scale=0.1),
        wake(module.ActorCritic(), scale=0.1),
    )
    optimizer = torch.optim.SGD(agent.parameters(), 0.3)
    for parameter in agent.parameters():
        parameter.grad = torch.ones_like(parameter)  # must not count
    module.improve(agent, optimizer, dream, n_epochs=1, n_parts=1, generator=seeded(3))
    returns = returns_by_hand(dream, 0.985, 0.95).float()
    advantages = returns - dream.values
    logits, values = twin(dream.histories.flatten(0, 1))
    columns = (c.flatten() for c in (dream.actions, dream.log_probs, advantages, returns))
    diffusion_world_model.actor_critic_loss(logits, values, *columns, entropy_weight=0.01).backward()
    norm = torch.stack([p.grad.norm() for p in twin.parameters()]).norm()
    assert norm > 0.6, "defect in the test: nothing is cut"
    with torch.no_grad():
        steps = [0.3 * p.grad * 0.5 / norm for p in twin.parameters()]
        before = [p.clone() for p in twin.parameters()]
    got = torch.cat([(b - a.detach()).flatten() for a, b in zip(agent.parameters(), before, strict=True)])
    want = torch.cat([s.flatten() for s in steps])
    length = float(got.norm())
    assert abs(length - 0.3 * 0.5) < 1e-3, (
        f"the step has length {length:.4f}, expected 0.15: is the gradient's norm cut to 0.5?"
    )
    assert float((got - want).norm()) < 2e-3 * length, (
        "the step does not go down the gradient of this loss: are old gradients forgotten?"
    )


@pytest.mark.grades("improve")
def test_improve_draws_from_the_generator_alone():
    """The same generator gives the same agent, and torch's own numbers are not touched."""

    new = wake(module.ActorCritic())

    def improved(seed):
        agent = copy.deepcopy(new)
        module.improve(agent, torch.optim.SGD(agent.parameters(), 0.1), some_dream(), generator=seeded(seed))
        return torch.cat([p.detach().flatten() for p in agent.parameters()])

    state = torch.get_rng_state()
    assert torch.equal(improved(1), improved(1)), "the same generator gives another agent"
    assert not torch.equal(improved(1), improved(2)), "the generator is ignored"
    assert torch.equal(torch.get_rng_state(), state), "random numbers are not drawn from the generator"
