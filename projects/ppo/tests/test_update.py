"""The update. Oracle: the same epochs and parts by SGD in float64, with torch.distributions and a double sum for the advantages.

The other units are lent, so that none of yours needs to be written.
"""

import itertools
import math

import oracles
import pytest
import torch
from oracles import UPDATE_MISTAKES, seeded, updated
from toys import Linear, judged_rollout

import ppo
from rollout import Settings
from shared.testing.checks import assert_close, expect_error, lazily, unchanged
from shared.testing.no_compiler import without_compiler

LENT = ("gae", "clipped_loss", "value_loss", "entropy")
# every option at a value that is not the default
PLAIN = {"gamma": 0.9, "lam": 0.8, "clip": 0.3, "max_norm": 1e6, "n_epochs": 1, "n_minibatches": 1}
PLAIN |= {"value_weight": 0.7, "entropy_weight": 0.3}
T, N, D = 8, 6, 5
LR = 0.1


@pytest.fixture(scope="module", autouse=True)
def no_compiler():
    with without_compiler():
        yield


@pytest.fixture
def lent(monkeypatch):
    """Put other functions in the place of the learner's."""
    for name in LENT:
        monkeypatch.setattr(ppo, name, getattr(oracles, name))


def improved(generator, *, drift=0.5, seed=0, global_seed=0, columns=None, **options):
    """Update a linear network once; return it as it was, its rollout, how it changed, and what update returned.

    `columns` stand in the place of the rollout's own.
    """
    settings = Settings(**PLAIN | options)
    network = Linear(D, 4, T * N, generator)
    rollout = judged_rollout(T, N, network, generator, drift=drift)._replace(**columns or {})
    before = [p.detach().clone() for p in network.parameters()]
    optimizer = torch.optim.SGD(network.parameters(), lr=LR)
    with unchanged(*rollout), torch.random.fork_rng(devices=[]):
        torch.manual_seed(global_seed)
        metrics = ppo.update(network, optimizer, rollout, settings, generator=seeded(seed))
    change = torch.cat(
        [(p.detach() - old).flatten() for p, old in zip(network.parameters(), before, strict=True)]
    )
    with torch.no_grad():
        for parameter, old in zip(network.parameters(), before, strict=True):
            parameter.copy_(old)
    return network, rollout, settings, change, metrics


def check_change(network, rollout, settings, change):
    """Compare the change of the parameters with the oracle's, over the parts that judge was asked for."""
    expected, _ = updated(network, rollout, settings, network.asked, LR)
    mistakes = {
        diagnosis: lazily(
            lambda wrong: updated(network, rollout, settings, network.asked, LR, wrong)[0], wrong
        )
        for wrong, diagnosis in UPDATE_MISTAKES.items()
    }
    how = {"dtype": torch.float32, "rtol": 2e-4}  # float32 over the parts, and 1e-6 that torch adds to a norm
    assert_close(change, expected, what="change of the parameters", mistakes=mistakes, **how)


# --- which steps, in which order --------------------------------------------------------------------------------------


def asked_by_epoch(network, n_epochs):
    parts = len(network.asked) // n_epochs
    return [network.asked[i * parts : (i + 1) * parts] for i in range(n_epochs)]


@pytest.mark.grades("update")
@pytest.mark.usefixtures("lent")
def test_each_step_once_per_epoch(generator):
    """Five epochs of three equal parts, in each of which every step is used once."""
    network, *_ = improved(generator, n_epochs=5, n_minibatches=3)
    calls = len(network.asked)
    assert calls == 15, f"judge was asked {calls} times in 5 epochs of 3 parts: once per part is 15"
    sizes = [len(part) for part in network.asked]
    assert set(sizes) == {16}, (
        f"the parts of 48 steps have {sorted(set(sizes))} steps: three equal ones have 16"
    )
    for number, parts in enumerate(asked_by_epoch(network, 5)):
        times = torch.bincount(torch.cat(parts), minlength=T * N)
        wrong = torch.nonzero(times != 1).flatten().tolist()
        assert not wrong, (
            f"an epoch uses every step once: in epoch {number} step {wrong[0]} came {int(times[wrong[0]])} times"
        )


@pytest.mark.grades("update")
@pytest.mark.usefixtures("lent")
def test_a_new_order_in_each_epoch(generator):
    """A shuffled order, another one in every epoch, so that the parts are other ones too."""
    network, *_ = improved(generator, n_epochs=4, n_minibatches=3)
    epochs = asked_by_epoch(network, 4)
    in_order = torch.equal(torch.cat(epochs[0]), torch.arange(T * N))
    assert not in_order, "the steps are not shuffled: a part would be one stretch of time"
    parts = [{frozenset(part.tolist()) for part in epoch} for epoch in epochs]
    hours = {frozenset(part.tolist()) for part in torch.arange(T * N).chunk(3)}
    assert parts[0] != hours, "the steps are shuffled within their parts only: a part is one stretch of time"
    for what, group in (("time", torch.arange(T * N) // N), ("environment", torch.arange(T * N) % N)):
        together = sum(_pairs(group[part]) for epoch in epochs for part in epoch) / 4 / _pairs(group)
        assert together < 0.6, (  # a third of them, by chance
            f"{together:.0%} of the steps of one {what} share a part: shuffle all T·N steps"
        )
    alike = any(a == b for a, b in itertools.pairwise(parts))
    assert not alike, "one permutation serves all epochs: draw a new one for each, so that the parts change"


def _pairs(group):
    """Return how many pairs are of one group."""
    counts = group.bincount()
    return int((counts * (counts - 1)).sum()) / 2


@pytest.mark.grades("update")
@pytest.mark.usefixtures("lent")
def test_the_order_comes_from_the_generator():
    """The same seed gives the same order whatever torch's global seed is, another seed another one."""

    def order(seed, global_seed):
        return torch.cat(improved(seeded(9), seed=seed, global_seed=global_seed)[0].asked)

    first = order(0, 0)
    assert torch.equal(first, order(0, 1)), "the order is not drawn with the generator that is passed"
    assert not torch.equal(first, order(1, 0)), "the order does not depend on the generator's seed"


@pytest.mark.grades("update")
@pytest.mark.usefixtures("lent")
@pytest.mark.parametrize("parts", [5, 7, 32, 48, 49, 96])
def test_refuses_unequal_parts(parts, generator):
    """48 steps in 5, 7 or 32 parts are not equal; 48 parts are single steps, which have no standard deviation."""
    what = "a single step each" if parts == 48 else "not equal"
    otherwise = f"48 steps in {parts} parts are accepted: they are {what}"
    network = Linear(D, 4, T * N, generator)
    rollout = judged_rollout(T, N, network, generator, drift=0.0)
    optimizer = torch.optim.SGD(network.parameters(), lr=LR)
    settings = Settings(**PLAIN | {"n_minibatches": parts})
    with expect_error(ValueError, otherwise=otherwise):
        ppo.update(network, optimizer, rollout, settings, generator=generator)


# --- one step ---------------------------------------------------------------------------------------------------------

ONE_STEP = {
    "the policy's loss alone": {"value_weight": 0.0, "entropy_weight": 0.0},
    "with the value loss": {"entropy_weight": 0.0},
    "with the entropy": {"value_weight": 0.0},
    "all three": {},
    "another clip": {"clip": 0.05},
    "other advantages": {"gamma": 0.5, "lam": 0.3},
    "a small norm": {"max_norm": 0.05},
}


@pytest.mark.grades("update")
@pytest.mark.usefixtures("lent")
@pytest.mark.parametrize("case", ONE_STEP)
def test_one_epoch_of_one_part(case, generator):
    """One step of SGD, on each loss and option."""
    network, rollout, settings, change, _ = improved(generator, **ONE_STEP[case])
    check_change(network, rollout, settings, change)


@pytest.mark.grades("update")
@pytest.mark.usefixtures("lent")
def test_two_epochs_of_three_parts(generator):
    """Six steps of SGD, of which some are cut: each part's advantages are normalised alone, old ones stay old."""
    options = {"n_epochs": 2, "n_minibatches": 3, "max_norm": 0.5}
    network, rollout, settings, change, _ = improved(generator, **options)
    check_change(network, rollout, settings, change)


@pytest.mark.grades("update")
@pytest.mark.usefixtures("lent")
@pytest.mark.parametrize("spread", [0.0, 3e-8])
def test_equal_advantages(spread, generator):
    """Advantages that are equal, or nearly so: (A - mean)/(std + 1e-8) is 0, or 3/4 of what it is without 1e-8."""
    zeros = torch.zeros(T, N)
    columns = {
        "rewards": spread * torch.randn(T, N, generator=generator),
        "values": zeros,
        "next_values": zeros,
    }
    options = {"entropy_weight": 0.0, "value_weight": 0.0}
    network, rollout, settings, change, _ = improved(generator, columns=columns, **options)
    if spread == 0:
        moved = change.abs().max().item()
        hint = "1e-8 is added to their standard deviation"
        assert moved < 1e-6, f"equal advantages move the policy by {moved:.3g}: {hint}"
    else:
        check_change(network, rollout, settings, change)


@pytest.mark.grades("update")
@pytest.mark.usefixtures("lent")
def test_parts_of_two_steps(generator):
    """The smallest parts that have a standard deviation are not refused."""
    network, rollout, settings, change, _ = improved(generator, n_minibatches=24)
    check_change(network, rollout, settings, change)


# --- what it returns --------------------------------------------------------------------------------------------------


@pytest.mark.grades("update")
@pytest.mark.usefixtures("lent")
@pytest.mark.parametrize(("epochs", "parts", "drift"), [(1, 1, 0.5), (3, 4, 0.2)])
def test_metrics(epochs, parts, drift, generator):
    """Means over all parts, of what the network said before each step."""
    options = {"n_epochs": epochs, "n_minibatches": parts}
    network, rollout, settings, _, metrics = improved(generator, drift=drift, **options)
    assert isinstance(metrics, dict), f"update returns a {type(metrics).__name__}, not a dict of its metrics"
    _, wanted = updated(network, rollout, settings, network.asked, LR)
    _, first = updated(network, rollout, settings, network.asked[:1], LR)
    last = {name: len(network.asked) * wanted[name] for name in wanted}
    if len(network.asked) > 1:
        but_last = updated(network, rollout, settings, network.asked[:-1], LR)[1]
        last = {name: last[name] - (len(network.asked) - 1) * but_last[name] for name in wanted}
    for name, expected in wanted.items():
        assert name in metrics, f"the metrics have no {name!r}, but {sorted(metrics)}"
        assert isinstance(metrics[name], float), f"{name!r} is a {type(metrics[name]).__name__}, not a float"
        mistakes = {
            f"{name} of the first part alone: the mean over all parts is asked for": first[name],
            f"{name} of the last part alone: the mean over all parts is asked for": last[name],
            f"{name} is summed over the parts": expected * len(network.asked),
            f"the sign of {name} is wrong": -expected,
        }
        mistakes = {key: value for key, value in mistakes.items() if not math.isclose(value, expected)}
        hint = METRIC_HINTS[name]
        got, expected = torch.tensor(metrics[name]), torch.tensor(expected)
        assert_close(got, expected, rtol=2e-4, what=name, mistakes=mistakes, hint=hint)


METRIC_HINTS = {
    "entropy": "the mean entropy of the policy, in nats, over all parts of all epochs",
    "kl": "kl is the mean of ρ - 1 - log ρ, with ρ = new over old",
    "clip_fraction": "the share of samples whose ρ is outside [1 - ε, 1 + ε], on either side and whatever A is",
}


@pytest.mark.grades("update")
@pytest.mark.usefixtures("lent")
def test_first_part_has_ratio_one(generator):
    """One epoch of one part with the policy that acted: no kl, and nothing is clipped."""
    *_, metrics = improved(generator, drift=0.0)
    assert abs(metrics["kl"]) < 1e-6, f"kl of the first part is {metrics['kl']:.3g}: ρ is not 1 there"
    assert metrics["clip_fraction"] == 0, f"{metrics['clip_fraction']:.0%} of the first part are clipped"
