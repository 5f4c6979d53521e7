"""Short runs with the whole core, and the figure. They come last, because they take longer than all other tests of this folder."""

import functools

import gymnasium
import pytest
import torch
from gymnasium.vector import AutoresetMode
from oracles import seeded
from test_gaussian import Target
from toys import Bandit

import curves
import early_stop
import ppo
from gaussian import GaussianActorCritic
from rollout import Settings
from shared.testing.no_compiler import without_compiler


@pytest.fixture(scope="module", autouse=True)
def no_compiler():
    with without_compiler():
        yield


@pytest.mark.grades("GaussianActorCritic")
def test_train_learns_a_target():
    """12 updates: the mean finds the shown target, and the width shrinks."""
    network = GaussianActorCritic(2, 2, hidden=16, generator=seeded(1))
    settings = Settings(n_steps=32, learning_rate=3e-2, gamma=0.5, entropy_weight=0.0)
    records = ppo.train(network, Target(8), 12, settings, seed=0)
    first, last = records[0]["return"], records[-1]["return"]
    assert last > first / 8, f"the return of 5 steps went from {first:.2f} to {last:.2f} in 12 updates"
    assert network.log_std.max() < -1, f"the width did not shrink: log_std is {network.log_std.tolist()}"
    shown = torch.tensor([[0.5, 0.5], [-0.7, 0.2], [0.1, -0.6]])
    error = (network.greedy(shown) - shown * torch.tensor([1.0, -1.0])).abs().max()
    assert error < 0.15, f"the greedy action is off its target by {error:.2f}"


@pytest.mark.grades("GaussianActorCritic")
def test_pendulum_takes_its_actions():
    """A rollout, an update and an episode of the real environment, which clips by itself."""
    mode = {"autoreset_mode": AutoresetMode.SAME_STEP}
    environments = gymnasium.make_vec(
        "Pendulum-v1", num_envs=2, vectorization_mode="sync", vector_kwargs=mode
    )
    network = GaussianActorCritic(3, 1, hidden=8, generator=seeded())
    (record,) = ppo.train(network, environments, 1, Settings(n_steps=8, n_minibatches=2))
    assert record["kl"] < 0.1, f"the policy went {record['kl']:.3g} in one update"
    returns = ppo.evaluate(network, gymnasium.make("Pendulum-v1"), n_episodes=1)
    assert -2000 < float(returns[0]) < -500, f"an untrained pendulum returns {float(returns[0]):.0f}"


@pytest.mark.grades("early_stop.update")
def test_train_takes_a_stopping_update():
    """``improve=partial(update, target_kl=...)``: some updates end early, and the bandit is still learned."""
    network = ppo.ActorCritic(3, 3, hidden=16, generator=seeded(0))
    settings = Settings(n_steps=16, n_epochs=10, learning_rate=3e-3, gamma=0.5)
    improve = functools.partial(early_stop.update, target_kl=0.01, value_clip=0.5)
    records = ppo.train(network, Bandit(8, 3), 12, settings, seed=1, improve=improve)
    made = [record["n_parts"] for record in records]
    assert min(made) >= 1, f"an update made no step at all: {made}"
    assert min(made) < 40, f"no update ended early: {made} of 40 parts"
    first, last = records[0]["return"], records[-1]["return"]
    assert last > first + 0.5, f"the return of 4 steps went from {first:.2f} to {last:.2f}, of 4 at best"


@pytest.mark.grades("learning_curve")
def test_a_real_curve():
    """Two updates on CartPole, twice: the same records from the same seed."""
    settings = Settings(n_steps=32)
    one, again, other = (
        curves.learning_curve("CartPole-v1", s, 2, settings, num_envs=4)[1] for s in (0, 0, 1)
    )
    assert [record["step"] for record in one] == [128, 256], f"the records are {one}"
    assert one == again, "the same seed gives other records"
    assert one != other, "two seeds give the same records"
    assert 5 < one[0]["return"] < 60, f"an untrained policy returns {one[0]['return']}"


RECORDS = [{"step": 10.0}, {"step": 20.0, "return": 5.0}, {"step": 30.0}, {"step": 40.0, "return": 9.0}]


@pytest.mark.grades("draw")
def test_draw(tmp_path, monkeypatch):
    """A line and a range per name, written in the format that the file's name says."""
    from matplotlib.axes import Axes

    lines, plot = [], Axes.plot

    def noted(*args, **kwargs):
        lines.extend(drawn := plot(*args, **kwargs))
        return drawn

    monkeypatch.setattr(Axes, "plot", noted)
    later = [record | {"step": 2 * record["step"]} for record in RECORDS]
    for name in ("a.svg", "b.png"):
        curves.draw({"plain": [RECORDS, later], "other": [later]}, tmp_path / name)
    text = (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG"), "the file's ending says the format"
    for name in ("plain, 2 seeds", "other, 1 seed"):
        assert name in text, f"the figure does not say {name!r}"
    assert "1 seeds" not in text, "the legend says '1 seeds'"
    points = [(x, y) for x, y in zip(*lines[1].get_data(), strict=True) if y == y]
    assert {(40.0, 5.0), (80.0, 9.0)} <= set(points), f"the second line goes through {points}"
    for number in (0, 40, 80):
        assert f"<!-- {number} -->" in text, f"no tick at step {number}: the curves go from 0 to 80"
    ranges = text.count('id="FillBetweenPolyCollection') + text.count('id="PolyCollection')
    assert ranges == 2, f"{ranges} shaded ranges for two names"


@pytest.mark.grades("draw")
def test_the_command(tmp_path, monkeypatch, capsys):
    """One line per seed with its greedy return, and the figure where --out says."""
    calls = []

    def learning_curve(environment_id, seed, n_updates, settings=None, **options):
        calls.append((environment_id, seed, n_updates))
        return str(seed), [{"step": 8.0, "return": float(seed)}]

    def evaluate(network, environment, *, n_episodes=20, seed=0):
        return torch.tensor([1.0, 3.0, 5.0]) + int(network)

    monkeypatch.setattr(curves, "learning_curve", learning_curve)
    monkeypatch.setattr(curves, "evaluate", evaluate, raising=False)
    monkeypatch.setattr(ppo, "evaluate", evaluate)
    out = tmp_path / "figure.svg"
    curves.main(["CartPole-v1", "--seeds", "2", "--updates", "3", "--out", str(out)])
    assert calls == [("CartPole-v1", 0, 3), ("CartPole-v1", 1, 3)], f"trained {calls}"
    printed = capsys.readouterr().out
    for text in ("seed 0", "3.0", "seed 1", "4.0"):
        assert text in printed, f"{text!r} is not in what is printed:\n{printed}"
    assert out.exists(), "no figure where --out says"
    calls.clear()
    monkeypatch.chdir(tmp_path)
    curves.main([])
    assert calls == [("CartPole-v1", seed, 73) for seed in range(3)], f"without options it trained {calls}"
    assert (tmp_path / "curves.svg").exists(), "without --out the figure is curves.svg"
