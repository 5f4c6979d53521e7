"""The judge of early_stop.py, whose update meets the core's tests of `update` too, with a limit that is never reached.

Oracles: values worked by hand, the KL of two categoricals and of two Gaussians in closed form, SGD in float64.
"""

import functools
import math

import oracles
import pytest
import test_update
import torch
from oracles import DOUBLE, normal, seeded, updated
from test_update import LENT, LR, PLAIN, D, N, T
from toys import Linear, judged_rollout

import early_stop
import ppo
import value_clipping
from rollout import Settings
from shared.testing.checks import assert_close, assert_imports_only, expect_error, unchanged
from shared.testing.no_compiler import without_compiler

pytestmark = pytest.mark.module("early_stop")
OF_THE_CORE = {name for name, test in vars(test_update).items() if name.startswith("test_")}
globals().update(
    {name: getattr(test_update, name) for name in OF_THE_CORE - {"test_first_part_of_a_real_rollout"}}
)


@pytest.fixture(scope="module", autouse=True)
def no_compiler():
    with without_compiler():
        yield


@pytest.fixture(autouse=True)
def in_the_place_of_the_core(monkeypatch):
    """Give the core's tests this module's update."""
    never = functools.partial(early_stop.update, target_kl=math.inf)
    monkeypatch.setattr(test_update.ppo, "update", never)


@pytest.fixture
def lent(monkeypatch):
    """Put other functions in the place of the learner's."""
    for name in LENT:
        monkeypatch.setattr(ppo, name, getattr(oracles, name))
        monkeypatch.setattr(early_stop, name, getattr(oracles, name), raising=False)
    monkeypatch.setattr(early_stop, "approximate_kl", lambda x: (x.exp() - 1 - x).mean())
    for module in (early_stop, value_clipping):
        monkeypatch.setattr(module, "clipped_value_loss", clipped_value_loss, raising=False)


def clipped_value_loss(values, old_values, returns, *, clip=0.2):
    """Half the mean of the larger squared error, chosen without a max."""
    shapes = {tuple(x.shape) for x in (values, old_values, returns)}
    assert len(shapes) == 1, f"clipped_value_loss gets the shapes {shapes}"
    held = old_values + (values - old_values).clamp(-clip, clip)
    error = torch.where((held - returns).abs() > (values - returns).abs(), held, values) - returns
    return error.square().mean() / 2


@pytest.mark.grades
def test_early_stop_imports():
    """The module uses torch, NumPy, the core and value_clipping."""
    assert_imports_only(early_stop, {"torch", "ppo", "rollout", "value_clipping"})


# --- the estimate -----------------------------------------------------------------------------------------------------


def kl_mistakes(log_ratio):
    """What known mistakes give, by diagnosis."""
    x = log_ratio.double()
    return {
        "the mean of -log ρ: it may be negative, add ρ - 1 to each": -x.mean(),
        "log ρ has the wrong sign: this is 1/ρ - 1 + log ρ": (-x).expm1().sub(-x).mean(),
        "half the mean square of log ρ: that is biased": x.square().mean() / 2,
        "the KL the other way round, from samples of the old policy: ρ·log ρ - ρ + 1": (
            x.exp() * x - x.expm1()
        ).mean(),
        "the sum, not the mean": (x.exp() - 1 - x).sum(),
        "log ρ is taken for ρ": (x - 1 - x.abs().log()).mean(),
        "the 1 is missing: at ρ = 1 nothing is left": (x.exp() - x).mean(),
    }


@pytest.mark.grades("approximate_kl")
def test_approximate_kl_by_hand():
    """ρ = 2, ¼ and 1: (1 - log 2) + (-¾ + log 4) + 0 = ¼ + log 2."""
    log_ratio = torch.tensor([math.log(2), -math.log(4), 0.0])
    with unchanged(log_ratio):
        got = early_stop.approximate_kl(log_ratio)
    assert_close(
        got,
        torch.tensor((0.25 + math.log(2)) / 3),
        rtol=1e-6,
        what="approximate KL",
        mistakes=kl_mistakes(log_ratio),
    )


@pytest.mark.grades("approximate_kl")
@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 4), (2, 3, 5)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE], ids=str)
def test_approximate_kl_of_any_shape(shape, dtype, generator):
    """A scalar of the same dtype."""
    log_ratio = normal(*shape, generator=generator).to(dtype)
    expected = sum(math.exp(x) - 1 - x for x in log_ratio.flatten().tolist()) / log_ratio.numel()
    got = early_stop.approximate_kl(log_ratio)
    assert_close(got, torch.tensor(expected, dtype=dtype), rtol=1e-5, what="approximate KL")


@pytest.mark.grades("approximate_kl")
def test_kl_of_two_categoricals():
    """Each action as often as the old policy draws it: then the mean is KL(old‖new), not KL(new‖old)."""
    old, new = (torch.tensor(p, dtype=DOUBLE) for p in ([0.5, 0.2, 0.3], [0.2, 0.7, 0.1]))
    actions = torch.tensor([0] * 5 + [1] * 2 + [2] * 3)
    log_ratio = (new / old).log()[actions]
    expected, reverse = (old * (old / new).log()).sum(), (new * (new / old).log()).sum()
    mistakes = {"this is KL(new‖old): the actions are the old policy's": reverse}
    mistakes |= kl_mistakes(log_ratio)
    mistakes = {name: m for name, m in mistakes.items() if abs(m - expected) > 1e-9}
    got = early_stop.approximate_kl(log_ratio)
    assert_close(got, expected, rtol=1e-12, what="KL(old‖new)", mistakes=mistakes)


@pytest.mark.grades("approximate_kl")
@pytest.mark.parametrize(("shift", "width"), [(0.5, 1.0), (0.0, 0.7), (-0.3, 1.1)])
def test_kl_of_two_gaussians(shift, width):
    """N(0, 1) against N(shift, width²), at 100,000 quantiles of the old: unbiased means that this is their KL."""
    quantiles = (torch.arange(100_000, dtype=DOUBLE) + 0.5) / 100_000
    z = torch.special.ndtri(quantiles)
    log_ratio = z.square() / 2 - ((z - shift) / width).square() / 2 - math.log(width)
    expected = math.log(width) + (1 + shift**2) / (2 * width**2) - 0.5
    got = float(early_stop.approximate_kl(log_ratio))
    assert abs(got / expected - 1) < 2e-3, f"KL(old‖new) is {expected:.5f} in closed form, got {got:.5f}"


@pytest.mark.grades("approximate_kl")
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE], ids=str)
def test_approximate_kl_is_never_negative(dtype):
    """Neither is it for a few samples, nor where ρ is so near 1 that exp(x) - 1 - x is all rounding."""
    for size in 10.0 ** torch.arange(-9, 2):
        for seed in range(20):
            log_ratio = (size * normal(5, generator=seeded(seed))).to(dtype)
            got = float(early_stop.approximate_kl(log_ratio))
            assert got >= 0, f"negative KL {got:.3g} from log ρ of about {size:.1g}"


# --- the stop ---------------------------------------------------------------------------------------------------------

MANY = {"n_epochs": 5, "n_minibatches": 3}


class Telling(Linear):
    """A Linear network that remembers what it answered, part by part."""

    def judge(self, observations, actions):
        answer = super().judge(observations, actions)
        self.told = [*getattr(self, "told", []), [x.detach().double() for x in answer]]
        return answer


def improved(generator, *, target_kl, value_clip=None, drift=0.0, **options):
    """Update a linear network once; return it as it was, its rollout, how it changed, and what update returned."""
    settings = Settings(**PLAIN | options)
    network = Telling(D, 4, T * N, generator)
    rollout = judged_rollout(T, N, network, generator, drift=drift)
    before = [p.detach().clone() for p in network.parameters()]
    optimizer = torch.optim.SGD(network.parameters(), lr=LR)
    limits = {"target_kl": target_kl, "value_clip": value_clip}
    with unchanged(*rollout):
        metrics = early_stop.update(network, optimizer, rollout, settings, **limits, generator=seeded(3))
    pairs = zip(network.parameters(), before, strict=True)
    change = torch.cat([(p.detach() - old).flatten() for p, old in pairs])
    with torch.no_grad():
        for parameter, old in zip(network.parameters(), before, strict=True):
            parameter.copy_(old)
    return network, rollout, settings, change, metrics


def each(network, rollout, settings, name="kl"):
    """The metric of each part that was judged, from what the network answered."""
    values = []
    for rows, (log_probs, entropies, _) in zip(network.asked, network.told, strict=True):
        log_ratio = log_probs - rollout.log_probs.flatten().double()[rows]
        outside = (log_ratio.exp() - 1).abs() > settings.clip
        terms = {
            "entropy": entropies,
            "kl": log_ratio.exp() - 1 - log_ratio,
            "clip_fraction": outside.double(),
        }
        values.append(float(terms[name].mean()))
    return values


def a_limit(seed):
    """A limit that is exceeded in the middle of an epoch, not the first, and by which part."""
    network, rollout, settings, *_ = improved(seeded(seed), target_kl=math.inf, **MANY)
    kl = each(network, rollout, settings)
    assert len(kl) == 15, f"{len(kl)} parts of 15 were judged, although the limit is inf"
    for i in range(4, 14):
        if i % 3 != 2 and kl[i] > 1.2 * max(kl[:i]):
            return (kl[i] + 2 * max(kl[:i])) / 3, i
    raise AssertionError("defect in the test, not in the answer: no part's KL stands out")


@pytest.mark.grades("update")
@pytest.mark.usefixtures("lent")
@pytest.mark.parametrize("seed", range(4))
def test_stops_where_the_limit_is_exceeded(seed):
    """The part that exceeds it makes no step, and no later part of this or another epoch is looked at."""
    limit, _ = a_limit(seed)
    network, rollout, settings, change, metrics = improved(seeded(seed), target_kl=limit, **MANY)
    kl = each(network, rollout, settings)
    over = [i for i, value in enumerate(kl) if value > limit]
    assert over, (
        f"stopped after part {len(kl) - 1}, whose KL {kl[-1]:.3g} is within the limit {limit:.3g}: "
        "the KL of that part counts, the mean of ρ - 1 - log ρ"
    )
    first, judged = over[0], len(kl)
    assert judged < 15, f"never stops: the KL of part {first} is {kl[first]:.3g}, the limit {limit:.3g}"
    parts = network.asked
    if judged > first + 1:
        of_its_epoch = set(torch.cat(parts[first - first % 3 : first + 1]).tolist())
        another = bool(of_its_epoch & set(parts[first + 1].tolist()))  # an epoch has each step once
        raise AssertionError(
            f"part {first} exceeds the limit, but {judged - 1 - first} more parts were judged: "
            + ("stop all epochs, not this one only" if another else "stop at once, within the epoch")
        )
    expected, _ = updated(network, rollout, settings, parts[:-1], LR)
    mistakes = {
        "the part that exceeded the limit made its step: look at its KL before": updated(
            network, rollout, settings, parts, LR
        )[0],
        "the last part within the limit made no step": updated(network, rollout, settings, parts[:-2], LR)[0],
    }
    how = {"dtype": torch.float32, "rtol": 2e-4, "mistakes": mistakes}
    assert_close(change, expected, what="change of the parameters", **how)
    assert metrics["n_parts"] == first, (
        f"n_parts is {metrics['n_parts']}, but {first} parts made their step: the one that ended the update made none"
    )


@pytest.mark.grades("update")
@pytest.mark.usefixtures("lent")
@pytest.mark.parametrize("name", ["entropy", "kl", "clip_fraction"])
def test_metrics_have_the_last_part(name):
    """Means over the parts that were judged; the one that ended the update is among them."""
    limit, _ = a_limit(1)
    options = MANY | {"clip": 0.05}
    network, rollout, settings, _, metrics = improved(seeded(1), target_kl=limit, **options)
    values = each(network, rollout, settings, name)
    expected = sum(values) / len(values)
    mistakes = {
        f"{name} is the mean without the part that ended the update": sum(values[:-1]) / (len(values) - 1),
        f"{name} of the part that ended the update alone": values[-1],
        f"{name} is summed over the parts": sum(values),
        f"{name} is divided by the steps made, but summed over the parts judged": (
            sum(values) / (len(values) - 1)
        ),
        f"{name} is divided by all parts that there might have been": sum(values) / 15,
    }
    assert isinstance(metrics[name], float), f"{name!r} is a {type(metrics[name]).__name__}, not a float"
    got, expected = torch.tensor(metrics[name]), torch.tensor(expected)
    assert_close(got, expected, rtol=2e-4, what=name, mistakes=mistakes)


@pytest.mark.grades("update")
@pytest.mark.usefixtures("lent")
def test_without_a_stop_all_parts_are_made(generator):
    """n_parts is then n_epochs·n_minibatches, a float as all metrics are."""
    *_, metrics = improved(generator, target_kl=math.inf, **MANY)
    assert set(metrics) == {"entropy", "kl", "clip_fraction", "n_parts"}, f"the metrics are {sorted(metrics)}"
    made = metrics["n_parts"]
    assert isinstance(made, float), f"n_parts is a {type(made).__name__}, not a float"
    assert made == 15, f"n_parts is {made} after 5 epochs of 3 parts, expected 15"


@pytest.mark.grades("update")
@pytest.mark.usefixtures("lent")
def test_the_first_part_may_stop_it(generator):
    """A rollout of quite another policy: nothing is learned from it, and nothing is NaN."""
    network, rollout, settings, change, metrics = improved(generator, target_kl=1e-3, drift=1.0, **MANY)
    assert len(network.asked) == 1, f"{len(network.asked)} parts were judged, expected 1"
    assert not change.any(), f"the parameters changed by up to {change.abs().max():.3g}, expected not at all"
    assert metrics["n_parts"] == 0, f"n_parts is {metrics['n_parts']}, expected 0"
    (kl,) = each(network, rollout, settings)
    assert_close(torch.tensor(metrics["kl"]), torch.tensor(kl), rtol=2e-4, what="kl of the only part")


@pytest.mark.grades("update")
@pytest.mark.usefixtures("lent")
def test_the_limit_itself_does_not_stop(generator):
    """One part whose KL is known: it exceeds a limit a little below, not itself, and by no factor of 1.5."""
    state = generator.get_state()
    made = []
    kl = improved(generator, target_kl=math.inf, drift=0.7)[-1]["kl"]
    for limit in (kl, kl * (1 - 1e-5), kl * 1.01, kl / 1.4):
        generator.set_state(state)
        made.append(improved(generator, target_kl=limit, drift=0.7)[-1]["n_parts"])
    told = (
        f"limits of 1, 0.99999, 1.01 and 0.71 times the KL let {made} of 1 part pass, expected [1, 0, 1, 0]"
    )
    assert made[3] == 0, f"the limit is multiplied by a factor: {told}"
    assert made == [1, 0, 1, 0], f"stops where the KL exceeds target_kl: {told}"


@pytest.mark.grades("update")
@pytest.mark.parametrize("target_kl", [0.0, -0.01, math.nan], ids=str)
def test_refuses_a_limit_that_is_none(target_kl, generator):
    """A KL is at least 0: such a limit would end every update at once, NaN none."""
    with expect_error(ValueError, str(target_kl), otherwise=f"target_kl = {target_kl} is accepted"):
        improved(generator, target_kl=target_kl)


# --- value clipping ---------------------------------------------------------------------------------------------------


def value_change(network, rollout, settings, clip, wrong=None):
    """How SGD in float64 changes `of_value` over the parts that were judged, with clipped errors."""
    observations, old, returns = (
        x.double().flatten(0, 1)
        for x in (
            rollout.observations,
            rollout.values,
            rollout.values + oracles.gae(rollout, gamma=settings.gamma, lam=settings.lam),
        )
    )
    weights = network.of_value.detach().double()
    for rows in network.asked:
        values = observations[rows] @ weights
        was = returns[rows] if wrong == "V_old is R" else old[rows]
        far, held = (values - was).abs() > clip, was + (values - was).clamp(-clip, clip)
        error, error_held = values - returns[rows], held - returns[rows]
        stays = far if wrong == "alone" else far & (error_held.abs() > error.abs())
        slope = torch.where(stays, 0.0, error)
        factor = 1.0 if wrong == "weight" else settings.value_weight
        weights = weights - LR * factor * (observations[rows].T @ slope) / len(rows)
    return weights - network.of_value.detach().double()


@pytest.mark.grades("update")
@pytest.mark.usefixtures("lent")
@pytest.mark.parametrize("options", [{}, MANY], ids=["one part", "15 parts"])
@pytest.mark.parametrize("clip", [0.4, 1.0])
def test_value_clip(options, clip, generator):
    """The values' network learns by clipped_value_loss with V_old of the rollout; the policy's as ever."""
    outcome = improved(generator, target_kl=math.inf, value_clip=clip, **options)
    network, rollout, settings, change, _ = outcome
    expected = value_change(network, rollout, settings, clip)
    mistakes = {
        "no error is clipped: value_clip is ignored, or V_old is not the rollout's": value_change(
            network, rollout, settings, 1e9
        ),
        "the ε of the policy is used: value_clip is the ε of the values": value_change(
            network, rollout, settings, settings.clip
        ),
        "old values and returns are exchanged": value_change(network, rollout, settings, clip, "V_old is R"),
        "the clipped error alone": value_change(network, rollout, settings, clip, "alone"),
        "value_weight is ignored with value_clip": value_change(network, rollout, settings, clip, "weight"),
    }
    mistakes = {name: m for name, m in mistakes.items() if not torch.allclose(m, expected, rtol=1e-3)}
    how = {"dtype": torch.float32, "rtol": 2e-4}
    got = change[-D:]
    assert_close(got, expected, what="change of the values' weights", mistakes=mistakes, **how)
    policy = updated(network, rollout, settings, network.asked, LR)[0][:-D]
    assert_close(change[:-D], policy, what="change of the policy's weights", **how)
