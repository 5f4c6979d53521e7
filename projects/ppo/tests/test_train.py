"""Training and evaluation. Oracles: sums worked by hand, Adam's first step in closed form."""

import pytest
import torch
from oracles import make_rollout
from torch import nn
from toys import Corridor, Greedy, Scripted

import ppo
from rollout import Settings
from shared.testing.checks import assert_close
from shared.testing.no_compiler import without_compiler

SETTINGS = Settings(n_steps=3, learning_rate=0.04, gamma=0.9, n_epochs=2, n_minibatches=2)


# np.array(action) is as right as action.numpy(), but torch's tensors do not know the keyword `copy` of NumPy 2 yet
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module", autouse=True)
def no_compiler():
    with without_compiler():
        yield


# --- train ------------------------------------------------------------------------------------------------------------

# rewards of three steps of two environments, and how they end: "T" terminated, "L" cut off by the time limit
ROLLOUTS = [
    ([[1, 10], [2, 20], [3, 30]], "..|LL|.."),
    ([[4, 40], [5, 50], [6, 60]], "T.|..|.L"),
    ([[7, 70], [8, 80], [9, 90]], "..|..|.."),
    ([[1, 100], [2, 200], [3, 300]], "L.|.T|T."),
]
RETURNS = [(3 + 30) / 2, (7 + 180) / 2, None, (36 + 540 + 5) / 3]


def ends(word, kind):
    return torch.tensor([[letter == kind for letter in row] for row in word.split("|")])


class Played:
    """Stands in for collect: hands out ROLLOUTS, and remembers what it was given."""

    def __init__(self):
        self.calls, self.draws = [], []

    def __call__(self, network, environments, observations, n_steps, *, generator=None):
        number = len(self.calls)
        self.calls.append((network, environments, observations.clone(), n_steps, generator))
        self.draws.append(None if generator is None else torch.rand(4, generator=generator))
        rewards, word = ROLLOUTS[number % len(ROLLOUTS)]
        rewards = torch.tensor(rewards, dtype=torch.float32)
        zeros = torch.zeros(3, 2)
        rollout = make_rollout(rewards, zeros, zeros, ends(word, "T"), ends(word, "L"))
        return rollout, torch.full((2, 4), float(number))


class Improve:
    """Stands in for update: one step of the optimizer on given gradients, of which it remembers what they did."""

    gradients = torch.tensor([1.0, -1e-5, 3e-5])

    def __init__(self, factors=(1.0,)):
        self.factors = factors  # of the gradients, one update after the other
        self.optimizers, self.changes, self.rollouts, self.settings, self.draws = [], [], [], [], []
        self.replaced = []  # what update was asked, in whose place this stands

    def __call__(self, network, optimizer, rollout, settings, *, generator=None):
        self.optimizers.append(optimizer)
        self.rollouts.append(rollout)
        self.settings.append(settings)
        self.draws.append(None if generator is None else torch.rand(4, generator=generator))
        before = network.weight.detach().clone()
        network.weight.grad = self.factors[len(self.changes) % len(self.factors)] * self.gradients
        optimizer.step()
        self.changes.append(network.weight.detach() - before)
        return {"entropy": 0.5 - len(self.changes), "kl": 0.25}


class Weights(nn.Module):
    """A network of which train needs the parameters alone."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.full((3,), 3.0))


def trained(monkeypatch, n_updates=4, *, seed=0, given=True, factors=(1.0,)):
    """Train with stand-ins for collect and update; return them, the environments and the records.

    The seed None leaves it out.
    """
    played, improve, environments = Played(), Improve(factors), Scripted("." * 20, "." * 20)
    monkeypatch.setattr(ppo, "collect", played)
    monkeypatch.setattr(
        ppo, "update", lambda *args, **kwargs: improve.replaced.append(args) or {"entropy": 0.0}
    )
    options = {} if seed is None else {"seed": seed}
    if given:
        options["improve"] = improve
    else:
        monkeypatch.setattr(ppo, "update", improve)
    records = ppo.train(Weights(), environments, n_updates, SETTINGS, **options)
    assert isinstance(records, list), f"train returns a {type(records).__name__}, not a list of records"
    return played, improve, environments, records


@pytest.mark.grades("train")
@pytest.mark.parametrize("given", [True, False], ids=["improve", "update"])
def test_collects_and_updates_in_turn(given, monkeypatch):
    """n_updates rollouts of n_steps, each handed to update, or to `improve` in its place, with the settings."""
    played, improve, environments, records = trained(monkeypatch, given=given)
    calls = len(improve.rollouts)
    ignored = "`improve` is ignored: it replaces update" if given else "update is never asked"
    assert calls > 0, ignored
    assert not improve.replaced, "update is asked beside `improve`, which replaces it"
    assert len(played.calls) == calls == len(records) == 4, (
        f"4 updates: {len(played.calls)} rollouts were collected, {calls} used, and there are {len(records)} records"
    )
    for number, (call, rollout) in enumerate(zip(played.calls, improve.rollouts, strict=True)):
        assert call[3] == 3, f"collect plays {call[3]} steps, not settings.n_steps = 3"
        assert call[1] is environments, "collect gets other environments"
        expected = torch.tensor(ROLLOUTS[number][0], dtype=torch.float32)
        assert torch.equal(rollout.rewards, expected), (
            f"update {number} gets another rollout than was collected"
        )
    assert all(settings == SETTINGS for settings in improve.settings), "update gets other settings"


@pytest.mark.grades("train")
def test_goes_on_from_the_last_observations(monkeypatch):
    """The first rollout begins at the reset observations; each later one where the last one stopped."""
    played, _, environments, _ = trained(monkeypatch)
    resets = len(environments.resets)
    assert resets == 1, f"the environments are reset {resets} times: once is enough, episodes span rollouts"
    first, *later = (call[2] for call in played.calls)
    expected = torch.tensor([[0.0, 0, 0, 0], [1, 0, 0, 0]])
    assert_close(first.float(), expected, rtol=0, what="observations at the start")
    for number, observations in enumerate(later):
        stale = bool((observations == first).all())
        hint = "every rollout begins at the first observations" if stale else "another start"
        why = "the stand-in returns one number"
        expected = torch.full((2, 4), float(number))
        assert_close(observations, expected, what=f"start of rollout {number + 1}", hint=hint, vacuous_ok=why)


@pytest.mark.grades("train")
def test_the_learning_rate_falls_to_zero(monkeypatch):
    """Adam's step under a constant gradient g is rate·g/(|g| + ε): its rate and its ε = 1e-5 both show."""
    _, improve, _, _ = trained(monkeypatch, 5)
    g = Improve.gradients.double()

    def steps(factors, eps=1e-5):
        return torch.stack([-0.04 * factor * g / (g.abs() + eps) for factor in factors])

    falling = [1.0, 0.8, 0.6, 0.4, 0.2]
    decayed, weights = [], torch.full((3,), 3.0, dtype=torch.float64)
    for factor, step in zip(falling, steps(falling), strict=True):
        decayed.append(step - 0.04 * factor * 0.01 * weights)
        weights = weights + decayed[-1]
    mistakes = {
        "the learning rate stays as it is: it falls to zero": steps([1.0] * 5),
        "the learning rate is one update ahead: the first update has all of it": steps(
            [0.8, 0.6, 0.4, 0.2, 0.0]
        ),
        "the learning rate reaches 0 in the last update, which is wasted": steps([1.0, 0.75, 0.5, 0.25, 0.0]),
        "the factors multiply up: the rate falls faster and faster": steps([1.0, 0.8, 0.48, 0.192, 0.0384]),
        "ε of Adam is 1e-8, not 1e-5": steps(falling, 1e-8),
        "the weights decay: Adam is asked for, not AdamW": torch.stack(decayed),
        "plain gradient steps: Adam is asked for": torch.stack([-0.04 * f * g for f in falling]),
    }
    changes = torch.stack(improve.changes)
    how = {"dtype": torch.float32, "rtol": 1e-3, "mistakes": mistakes}
    assert_close(changes, steps(falling), what="steps of the optimizer", **how)
    lost = "a new optimizer for every update: Adam loses its moments"
    assert len({id(optimizer) for optimizer in improve.optimizers}) == 1, lost


@pytest.mark.grades("train")
def test_adam_remembers(monkeypatch):
    """Gradients that change from update to update: the moments of Adam, with torch's defaults, by its formula in float64."""
    factors = (1.0, -2.0, 0.5, 3.0, -1.0)
    _, improve, _, _ = trained(monkeypatch, 5, factors=factors)

    def steps(beta1, beta2):
        first = second = torch.zeros(3, dtype=torch.float64)
        taken = []
        for i, factor in enumerate(factors):
            g = factor * Improve.gradients.double()
            first, second = beta1 * first + (1 - beta1) * g, beta2 * second + (1 - beta2) * g**2
            mean, root = first / (1 - beta1 ** (i + 1)), (second / (1 - beta2 ** (i + 1))).sqrt()
            taken.append(-0.04 * (1 - i / 5) * mean / (root + 1e-5))
        return torch.stack(taken)

    mistakes = {
        "the betas are not Adam's 0.9 and 0.999, but 0.9 and 0.95": steps(0.9, 0.95),
        "no first moment: this is RMSprop": steps(0.0, 0.999),
        "Adam without a memory: each step sees its own gradient alone": steps(0.0, 0.0),
    }
    how = {"dtype": torch.float32, "rtol": 1e-3, "mistakes": mistakes}
    assert_close(torch.stack(improve.changes), steps(0.9, 0.999), what="steps of the optimizer", **how)


@pytest.mark.grades("train")
def test_step_counts_all_environments(monkeypatch):
    """Three steps of two environments are six; the records keep what update returned."""
    *_, records = trained(monkeypatch)
    for record in records:
        assert "step" in record, f"a record has no 'step', but {sorted(record)}"
        assert record.get("kl") == 0.25, f"what update returned is not in the record: {record}"
    got = torch.tensor([float(record["step"]) for record in records])
    mistakes = {
        "the steps of one environment are counted: all count": torch.tensor([3.0, 6.0, 9.0, 12.0]),
        "the step is the one before the update: count the rollout's own steps": torch.tensor(
            [0.0, 6, 12, 18]
        ),
        "updates are counted, not steps": torch.tensor([1.0, 2.0, 3.0, 4.0]),
        "the steps of one rollout: all so far count": torch.tensor([6.0, 6.0, 6.0, 6.0]),
    }
    assert_close(got, torch.tensor([6.0, 12.0, 18.0, 24.0]), what="step", mistakes=mistakes)
    entropies = [record.get("entropy") for record in records]
    assert entropies == [-0.5, -1.5, -2.5, -3.5], f"each record keeps its own update's: got {entropies}"


@pytest.mark.grades("train")
def test_returns(monkeypatch):
    """Whole sums of rewards, of episodes that span rollouts too, where they end; no "return" where none ended."""
    *_, records = trained(monkeypatch)
    for number in (0, 1, 3):
        assert "return" in records[number], (
            f"episodes ended in rollout {number}, but its record has no 'return': a time limit ends an episode too"
        )
    mistakes = {
        "the sums begin anew with every rollout: an episode that spans two is cut": [
            (3 + 30) / 2,
            (4 + 150) / 2,
            (1 + 300 + 5) / 3,
        ],
        "a sum is not set to zero at the episode's end": [
            (3 + 30) / 2,
            (10 + 210) / 2,
            (46 + 750 + 51) / 3,
        ],
        "the sum of the returns, not their mean": [33, 187, 581],
        "the mean reward of an episode, not the sum": [
            (1.5 + 15) / 2,
            (3.5 + 45) / 2,
            (6 + 108 + 2.5) / 3,
        ],
        "of two episodes that end in the same step one is forgotten": [3, (7 + 180) / 2, (36 + 540 + 5) / 3],
        "of two episodes that end in one step the first is forgotten": [
            30,
            (7 + 180) / 2,
            (36 + 540 + 5) / 3,
        ],
    }
    mistakes = {name: torch.tensor(value, dtype=torch.float32) for name, value in mistakes.items()}
    got = torch.tensor([float(records[number]["return"]) for number in (0, 1, 3)])
    expected = torch.tensor([RETURNS[number] for number in (0, 1, 3)])
    hint = "the mean of the whole sums of rewards of the episodes that ended in the rollout"
    assert_close(got, expected, rtol=1e-5, what="returns", mistakes=mistakes, hint=hint)
    absent = "return" not in records[2]
    assert absent, f"no episode ended in rollout 2, but its record says 'return': {records[2].get('return')}"


@pytest.mark.grades("train")
def test_seed(monkeypatch):
    """It seeds the environments and one generator that acts and shuffles; another seed gives other draws."""
    (a, in_a, env_a, _), (b, in_b, env_b, _), (c, _, env_c, _) = (
        trained(monkeypatch, seed=seed) for seed in (11, 11, 12)
    )
    assert env_a.resets[0] is not None, "the environments are not seeded: hand the seed to their reset"
    if isinstance(env_a.resets[0], list):
        same = len(set(env_a.resets[0])) < len(env_a.resets[0])
        assert not same, "all environments have the same seed: they would play the same episodes"
    assert env_a.resets == env_b.resets != env_c.resets, "the environments' seed is not `seed`"
    for draws, other in ((a.draws, b.draws), (in_a.draws, in_b.draws)):
        for x, y in zip(draws, other, strict=True):
            assert x is not None, "collect or update gets no generator"
            assert torch.equal(x, y), "the same seed gives other draws: seed the generator"
    assert not torch.equal(a.draws[0], c.draws[0]), "another seed gives the same draws"
    for draws in (a.draws, in_a.draws):
        again = torch.equal(draws[0], draws[1])
        assert not again, "the generator is seeded anew for every update: all have the same draws"


@pytest.mark.grades("train")
def test_seed_by_default(monkeypatch):
    """The seed is 0, as the signature says."""
    (zero, _, env_zero, _), (default, _, env_default, _) = (trained(monkeypatch, seed=s) for s in (0, None))
    same = torch.equal(zero.draws[0], default.draws[0]) and env_zero.resets == env_default.resets
    assert same, "without a seed the draws are others than with seed=0"


# --- evaluate ---------------------------------------------------------------------------------------------------------


def greedy_returns(n_episodes, seed):
    """1 + 2 + 4 + ... over the length of each episode, which its seed says."""
    return torch.tensor([2.0 ** ((seed + i) % 7 + 1) - 1 for i in range(n_episodes)])


@pytest.mark.grades("evaluate")
@pytest.mark.parametrize(("n_episodes", "seed"), [(4, 1), (9, 100)])
def test_evaluate(n_episodes, seed):
    """Whole episodes of different lengths, some terminated and some cut off; the sums of their rewards."""
    environment, network = Corridor(), Greedy()
    got = ppo.evaluate(network, environment, n_episodes=n_episodes, seed=seed)
    assert not network.drawn, "evaluate draws its actions: the greedy ones are asked for"
    expected_seeds = list(range(seed, seed + n_episodes))
    seeds = environment.seeds
    if len(seeds) == n_episodes:
        assert len(set(seeds)) > 1, f"all episodes are reset with the seed {seeds[0]}: episode i has seed + i"
    assert seeds == expected_seeds, f"episodes are reset with seeds {seeds}, expected {expected_seeds}"
    assert isinstance(got, torch.Tensor), f"evaluate returns a {type(got).__name__}, not a tensor"
    expected = greedy_returns(n_episodes, seed)
    lengths = torch.tensor([float((seed + i) % 7 + 1) for i in range(n_episodes)])
    mistakes = {
        "the mean over the episodes: one sum each is asked for": expected.mean(),
        "the last reward of each episode, not the sum": 2 ** (lengths - 1),
        "the lengths of the episodes, not their rewards": lengths,
        "the mean reward of each episode, not the sum": expected / lengths,
        "the sum runs on over the episodes": expected.cumsum(0),
        "the reward of the last step is left out": 2 ** (lengths - 1) - 1,
        "the reward of the first step is left out": expected - 1,
        "the sum over all episodes: one sum each is asked for": expected.sum(),
    }
    hint = "the action does not fit the observation: ask network.greedy again after every step"
    assert_close(got.float(), expected, what="returns", mistakes=mistakes, hint=hint)


@pytest.mark.grades("evaluate")
def test_evaluate_by_default():
    """20 episodes from seed 0, as the signature says."""
    got = ppo.evaluate(Greedy(), Corridor())
    assert got.shape == (20,), f"got shape {tuple(got.shape)}, expected (20,)"
    assert_close(got.float(), greedy_returns(20, 0), what="returns by default")
