"""The judge of the evaluation. Oracles: frames drawn by hand, the game itself, frequencies, and runs that are only told."""

import math
import types
from concurrent.futures import Future

import matplotlib.pyplot as plt
import pytest
import torch
from episodes import drawn, numbered, played, seeded, wake
from torch import nn

import evaluate as module
from diffusion_world_model import karras_sigmas, next_frame
from shared.testing.checks import assert_close, unchanged
from train import Parts, Replay, Settings
from truth import next_column

CONTROLS = [
    "agent trained in the dream",
    "untrained world",
    "shuffled actions",
    "no action",
    "last frame",
    "model-free",
]
RESULT = """player,seed,real_steps,cpu_seconds,return
agent trained in the dream,0,6300,200,0.9
agent trained in the dream,1,6300,220,0.75
agent trained in the dream,2,6300,260,0.8
no action,0,6300,190,-0.4
no action,1,6300,191,0.1
no action,2,6300,192,-0.2
"""


# --- what the frames are worth ----------------------------------------------------------------------------------------


@pytest.mark.grades("dream_beside")
def test_dream_beside(monkeypatch):
    """The dream goes on from real frames under the real actions, each frame of the history its own from then on."""
    replay, asked = Replay(*numbered(3)), []
    replay = replay._replace(frames=replay.frames + 0.0)

    def told(network, history, actions, sigmas, *, generator=None):
        asked.append((network, history.clone(), actions.clone(), sigmas, generator))
        return history[:, -1] + 1 + 0.25

    monkeypatch.setattr(module, "next_frame", told, raising=False)
    world, g = types.SimpleNamespace(denoiser=object()), seeded(0)
    got = module.dream_beside(world, replay, first=3, n_steps=4, n_sampling_steps=2, generator=g)
    assert got.shape == (3, 4, 12, 12), f"frames {tuple(got.shape)}, expected (3, 4, 12, 12)"
    off = got[:, :, 0, 0] - replay.frames[:, 7:11, 0, 0]
    assert torch.equal(off, 0.25 * torch.arange(1, 5).expand(3, 4)), (
        "the dream does not go on from its own frames, or not from the frames after `first` steps"
    )
    for t, (network, history, actions, sigmas, generator) in enumerate(asked):
        assert network is world.denoiser, "another network is asked"
        assert torch.equal(actions, replay.actions[:, 3 + t : 7 + t]), (
            "the actions are not the real ones of that time"
        )
        assert (history.shape[1], len(sigmas), generator) == (4, 3, g), (
            "history, sampling steps or generator are others"
        )


# --- rules ------------------------------------------------------------------------------------------------------------


@pytest.mark.grades
def test_the_rules_of_the_table():
    """Random play, the tracker and the optimum, in 1,000 games."""
    got = module.rules()
    assert list(got) == ["random", "follow the ball", "optimum"], f"rules {list(got)}"
    assert -0.7 < got["random"] < -0.4, f"random play returns {got['random']}"
    assert got["random"] < got["follow the ball"] < got["optimum"] == 1.0, f"the rules return {got}"


# --- controls ---------------------------------------------------------------------------------------------------------


@pytest.mark.grades("NoAction")
def test_no_action():
    """Woken, its answer is a U-Net's that is told "stay", whatever was done."""
    g = seeded(1)
    network, twin = wake(module.NoAction(), 3), wake(module.UNet(), 3)
    inputs = (
        torch.randn(4, 12, 12, generator=g),
        torch.rand(4, generator=g),
        torch.randn(4, 4, 12, 12, generator=g),
    )
    actions = torch.randint(3, (4, 4), generator=g)
    with torch.no_grad(), unchanged(actions):
        got = network(*inputs, actions)
        assert not torch.equal(twin(*inputs, actions), got), "the action is seen"
        assert_close(
            got, twin(*inputs, torch.ones_like(actions)), what="the answer", hint='it is not told "stay"'
        )


@pytest.mark.grades("CopyLast")
@pytest.mark.parametrize("n", [1, 2, 3, 10])
def test_copy_last(n):
    """Whatever the sampling steps, the frame that is drawn is the last one of the history."""
    history = 2 * torch.rand(5, 4, 12, 12, generator=seeded(1)) - 1
    got = next_frame(
        module.CopyLast(),
        history,
        torch.zeros(5, 4, dtype=torch.int64),
        karras_sigmas(n),
        generator=seeded(2),
    )
    assert (got - history[:, -1]).abs().max() < 0.6 / 127.5, (
        f"in {n} steps it draws another frame than the last one"
    )


@pytest.mark.grades("NeverEnds")
def test_never_ends():
    """Rewards as an outcome's; no end, ever."""
    network, twin = wake(module.NeverEnds(), 3), wake(module.Outcome(), 3)
    frame, following = torch.randn(2, 4, 12, 12, generator=seeded(1)) * 20
    action = torch.tensor([0, 1, 2, 1])
    rewards, ends = network(frame, action, following)
    assert torch.equal(rewards, twin(frame, action, following)[0]), "the rewards are others than an outcome's"
    assert ends.shape == (4, 2), f"end logits {tuple(ends.shape)}"
    assert (ends.softmax(1)[:, 1] == 0).all(), "an end is possible"
    assert not ends.requires_grad, "the end head still learns"


@pytest.mark.grades
def test_changes_of_the_batch():
    """Shuffled: each segment has the actions of another; without ends: all frames are learned from."""
    frames, actions = torch.rand(5, 6, 12, 12, generator=seeded(1)), torch.arange(25).reshape(5, 5)
    valid = torch.rand(5, 2, generator=seeded(2)) < 0.5
    same, mixed, still = module.shuffle(frames, actions, valid)
    assert torch.equal(same, frames), "shuffle changes the frames"
    assert torch.equal(still, valid), "shuffle changes what is valid"
    assert (mixed != actions).all(), "a segment keeps its actions"
    assert torch.equal(mixed[:, 0].sort().values, actions[:, 0]), (
        "the actions are not those of other segments"
    )
    assert torch.equal(mixed - mixed[:, :1], actions - actions[:, :1]), "the order within a segment is broken"
    same, kept, all_of_them = module.forget_ends(frames, actions, valid)
    assert torch.equal(same, frames), "forget_ends changes the frames"
    assert torch.equal(kept, actions), "forget_ends changes the actions"
    assert all_of_them.all(), "forget_ends leaves frames out"
    assert all_of_them.shape == valid.shape, f"valid {tuple(all_of_them.shape)}"


@pytest.mark.grades("model_free")
def test_each_control_differs_by_one_thing(monkeypatch):
    """Which settings and parts each player is trained with."""
    asked = {}
    settings = Settings(rounds=((5, 7, 3), (2, 4, 1)), gust=0.1)

    def told(settings, *, seed, parts=None):
        asked[name] = settings, seed, parts or Parts()
        return types.SimpleNamespace(agent=name)

    monkeypatch.setattr(module, "train", told, raising=False)
    assert list(module.CONTROLS) == CONTROLS, f"controls {list(module.CONTROLS)}"
    for name in CONTROLS[:-1]:
        assert module.CONTROLS[name](settings, 6) == name, f"{name}: not the agent of the run is returned"
        assert asked[name][1] == 6, f"{name}: the seed is ignored"
    plain = Parts()
    wanted = {
        "agent trained in the dream": plain,
        "untrained world": plain,
        "shuffled actions": Parts(change=module.shuffle),
        "no action": Parts(denoiser=module.NoAction),
        "last frame": Parts(denoiser=module.CopyLast),
    }
    for name, parts in wanted.items():
        assert asked[name][2] == parts, f"{name} has other parts: {asked[name][2]}"
        rounds = ((5, 0, 3), (2, 0, 1)) if name == "untrained world" else settings.rounds
        assert asked[name][0].rounds == rounds, (
            f"{name} has the rounds {asked[name][0].rounds}, expected {rounds}"
        )
        assert asked[name][0].gust == 0.1, f"{name} has other settings"
    monkeypatch.setattr(module, "model_free", lambda settings, *, seed: (settings, seed))
    assert module.CONTROLS["model-free"](settings, 6) == (settings, 6), (
        "model-free has other settings or another seed"
    )


@pytest.mark.grades("model_free")
def test_model_free(monkeypatch):
    """As many real steps, a few games at a time, other ones each time; the agent improves by each batch once."""
    collected, improved = [], []

    def told(n, agent, *, gust, seed, generator):
        collected.append((n, gust, seed))
        return Replay(*played(n, gust=gust, seed=seed))

    def improve(agent, optimizer, dream, *, n_epochs, generator):
        improved.append(
            (dream, n_epochs, optimizer.param_groups[0]["lr"], {id(p) for p in agent.parameters()})
        )

    monkeypatch.setattr(module, "collect", told, raising=False)
    monkeypatch.setattr(module, "improve", improve, raising=False)
    monkeypatch.setattr(
        module,
        "Adam",
        lambda p, lr, **k: types.SimpleNamespace(param_groups=[{"lr": lr, "params": list(p)}]),
        raising=False,
    )
    state = torch.get_rng_state()
    settings = Settings(rounds=((20, 9, 9), (10, 9, 9)), gust=0.2, learning_rate=0.03)
    agent = module.model_free(settings, seed=2, n_games=6, n_epochs=7)
    assert torch.equal(torch.get_rng_state(), state), "torch's own random numbers are used"
    assert sum(n for n, _, _ in collected) == 30, (
        f"{sum(n for n, _, _ in collected)} games are played, expected 30"
    )
    assert {(n, gust) for n, gust, _ in collected} == {(6, 0.2)}, "games at a time, or their wind, are others"
    seeds = {seed for _, _, seed in collected}
    assert len(seeds) == 5, "the same games are played again"
    assert len(improved) == 5, f"{len(improved)} batches improve the agent, expected 5"
    dream, n_epochs, rate, parameters = improved[0]
    assert (n_epochs, rate) == (7, 0.03), f"{n_epochs} passes at the rate {rate}, expected 7 at 0.03"
    assert parameters == {id(p) for p in agent.parameters()}, "another agent is improved than is returned"
    assert dream.histories.shape == (9, 6, 4, 12, 12), f"histories {tuple(dream.histories.shape)}"
    collected.clear()
    other = module.model_free(settings, seed=3, n_games=6)
    assert not seeds & {seed for _, _, seed in collected}, "two seeds play the same games"
    first = [next(iter(a.parameters())).detach() for a in (agent, other, module.model_free(settings, seed=2))]
    assert not torch.equal(first[0], first[1]), "the seed does not decide how the agent starts"
    assert torch.equal(first[0], first[2]), "the same seed starts another agent"


class Teller(nn.Module):
    """An agent whose logits and value depend on each frame of the history and its place."""

    def forward(self, history):
        means = history.mean((2, 3))
        weights = torch.tensor([[1.0, -2.0, 0.5], [0.3, 1.0, -1.0], [2.0, 0.1, 0.2], [-1.0, 0.4, 1.5]])
        return means @ weights, means @ torch.tensor([1.0, 10.0, 100.0, 1000.0])


@pytest.mark.grades("as_dream")
def test_as_dream():
    """Histories, actions, rewards and ends of the same step; what the agent thinks before and after it."""
    frames, _, rewards, ends = numbered(4)
    frames = frames / 500
    actions = torch.randint(3, (4, 12), generator=seeded(1))
    dream = module.as_dream(Replay(frames, actions, rewards, ends), Teller())
    wanted = [(9, 4, 4, 12, 12), *[(9, 4)] * 6]
    assert [tuple(c.shape) for c in dream] == wanted, f"columns {[tuple(c.shape) for c in dream]}"
    for t in range(9):
        window, following = frames[:, t : t + 4], frames[:, t + 1 : t + 5]
        assert torch.equal(dream.histories[t], window), (
            f"histories[{t}] are not the last four frames, the oldest first"
        )
        assert torch.equal(dream.actions[t], actions[:, t + 3]), "the actions are aligned with other frames"
        assert torch.equal(dream.rewards[t], rewards[:, t]), "the reward's place is shifted"
        assert torch.equal(dream.ends[t], ends[:, t]), "the end's place is shifted"
        logits, values = Teller()(window)
        log_p = [
            math.log(math.exp(row[a]) / sum(map(math.exp, row)))
            for row, a in zip(logits.tolist(), actions[:, t + 3], strict=True)
        ]
        assert_close(
            dream.log_probs[t], torch.tensor(log_p), rtol=1e-4, what="log-probabilities of the actions taken"
        )
        assert_close(dream.values[t], values, rtol=1e-5, what="values before the step")
        assert_close(dream.next_values[t], Teller()(following)[1], rtol=1e-5, what="values after the step")


@pytest.mark.grades
def test_measure(monkeypatch):
    """A row of the result: who, which seed, how many real steps, seconds, and the return of 1,000 real games."""
    monkeypatch.setitem(module.CONTROLS, "tracker", lambda settings, seed: (settings.gust, seed))
    monkeypatch.setattr(module, "score", lambda agent: 0.123456 if agent == (0.3, 5) else None)
    row = module.measure(("tracker", 5, Settings(rounds=((20, 9, 9), (10, 9, 9)), gust=0.3)))
    assert row == {"player": "tracker", "seed": 5, "real_steps": 270, "cpu_seconds": 0, "return": 0.123}, (
        f"the row is {row}"
    )


@pytest.mark.grades
def test_exploit(monkeypatch):
    """One agent in a dream that ends, one in a dream that does not; the records of both."""
    asked = []

    def told(settings, *, seed, parts):
        asked.append((settings, seed, parts))
        return types.SimpleNamespace(
            records=[{"update": u, "dream_sum": u / 3, "real": 0.5, "seconds": 1.0} for u in (10, 20)]
        )

    monkeypatch.setattr(module, "train", told, raising=False)
    rows = module.exploit(4)
    assert [row["world"] for row in rows] == ["with ends"] * 2 + ["without ends"] * 2, f"rows {rows}"
    assert rows[1] == {"world": "with ends", "update": 20, "dream_sum": 6.667, "real": 0.5}, (
        f"a row is {rows[1]}"
    )
    assert [parts for _, _, parts in asked] == [
        Parts(),
        Parts(outcome=module.NeverEnds, change=module.forget_ends),
    ], "other parts"
    assert {seed for _, seed, _ in asked} == {4}, "the seed is ignored"
    assert asked[0][0] == asked[1][0], "the two have other settings"
    assert asked[0][0].horizon == 15, f"a dream has {asked[0][0].horizon} steps"


# --- wind -------------------------------------------------------------------------------------------------------------


@pytest.mark.grades("windy_dreams")
def test_windy_dreams(monkeypatch):
    """Draws from the truth come near to it, draws from elsewhere do not; only frames of the game are crisp."""
    monkeypatch.setattr(
        module,
        "collect",
        lambda n, agent, *, gust, seed, generator: Replay(*played(n, gust=gust, seed=seed)),
        raising=False,
    )
    asked = []

    def dreams(gust, column_of, **options):
        def draw(network, history, actions, sigmas, *, generator=None):
            asked.append((network, len(sigmas)))
            column = column_of(history, generator)
            return torch.stack([drawn((4, int(c)), 3) for c in column])

        world = types.SimpleNamespace(denoiser="the denoiser")
        return module.windy_dreams(world, gust=gust, n_sampling_steps=2, draw=draw, **options)

    def truth(history, generator):
        return torch.multinomial(next_column(history, 0.4), 1, generator=generator)[:, 0]

    crisp, distance = dreams(0.4, truth, n_histories=10, n_draws=100)
    assert set(asked) == {("the denoiser", 3)}, f"network and number of noise levels are {set(asked)}"
    assert crisp == 1.0, f"the share of crisp frames is {crisp}, expected 1"
    assert 0 < distance < 0.12, f"draws from the truth are at a distance of {distance}"
    still = lambda history, generator: torch.zeros(len(history), dtype=torch.int64)  # noqa: E731
    frames = played(10, gust=0.4, seed=5)[0]
    chance = next_column(frames[:, 3:7], 0.4)[:, 0]
    _, distance = dreams(0.4, still, n_histories=10, n_draws=3, seed=5)
    assert abs(distance - (1 - chance).mean().item()) < 1e-5, (
        f"a ball that is always at column 0 is at a distance of {distance}, expected {(1 - chance).mean().item()}: half the sum"
    )
    crisp, _ = module.windy_dreams(
        types.SimpleNamespace(denoiser=None), gust=0.4, n_sampling_steps=1, n_histories=3, n_draws=2,
        draw=lambda network, history, *a, **k: torch.stack([drawn((4, 4), 3), torch.zeros(12, 12)])[torch.arange(len(history)) % 2],
    )  # fmt: skip
    assert crisp == 0.5, f"the share of crisp frames is {crisp}, expected 0.5"


# --- the table and the figure -----------------------------------------------------------------------------------------


@pytest.fixture
def result(monkeypatch, tmp_path):
    """A result that was made up."""
    path = tmp_path / "evaluation.csv"
    path.write_text(RESULT, encoding="utf-8")
    monkeypatch.setattr(module, "RESULT", path)
    monkeypatch.setattr(module, "EXPLOIT", tmp_path / "new" / "exploit.csv")
    monkeypatch.setattr(module, "HERE", tmp_path)
    return path


@pytest.mark.grades
def test_load_result(result, tmp_path):
    """Rows by player, in order, as numbers; what is saved comes back."""
    players = module.load_result(result)
    assert list(players) == ["agent trained in the dream", "no action"], f"players {list(players)}"
    wanted = {"seed": 1.0, "real_steps": 6300.0, "cpu_seconds": 220.0, "return": 0.75}
    assert players["agent trained in the dream"][1] == wanted, (
        f"a row is {players['agent trained in the dream'][1]}"
    )
    rows = [{"world": "a, b", "update": 10, "real": 0.5}, {"world": "c", "update": 20, "real": -0.5}]
    path = tmp_path / "new" / "x.csv"
    module.save_result(rows, path)
    assert path.read_bytes() == b'world,update,real\n"a, b",10,0.5\nc,20,-0.5\n', (
        f"the file says {path.read_bytes()}"
    )
    assert module.load_result(path) == {
        "a, b": [{"update": 10, "real": 0.5}],
        "c": [{"update": 20, "real": -0.5}],
    }


@pytest.mark.grades
def test_draw(result):
    """All players on one axis, a dot per seed; a line for each rule."""
    players, known = module.load_result(result), {"random": -0.5, "optimum": 1.0}
    figure = module.picture(players, known, 0.6)
    (axis,) = figure.axes
    assert [label.get_text() for label in axis.get_yticklabels()] == list(players), "players without a name"
    dots = [line for line in axis.lines if line.get_marker() == "o"]
    assert [sorted(line.get_xdata()) for line in dots] == [[0.75, 0.8, 0.9], [-0.4, -0.2, 0.1]], (
        "the dots are not the returns"
    )
    assert [set(line.get_ydata()) for line in dots] == [{0}, {-1}], "the dots are not beside the names"
    assert dots[0].get_color() != dots[1].get_color(), "the agent looks like a control"
    assert {"random", "optimum"} <= {text.get_text() for text in axis.texts}, "a rule is without a name"
    lines = [line.get_xdata()[0] for line in axis.lines if line.get_marker() != "o"]
    assert sorted(lines) == [-0.5, 0.6, 1.0], f"lines at {lines}"
    plt.close(figure)


@pytest.mark.grades
def test_main_shows_the_result(result, monkeypatch, capsys):
    """The table, whether the targets are met, the figure's file."""
    monkeypatch.setattr("sys.argv", ["evaluate.py"])
    monkeypatch.setattr(module, "rules", lambda: {"random": -0.57, "optimum": 1.0})
    monkeypatch.setattr(module, "Console", lambda: types.SimpleNamespace(print=print_table))
    module.main()
    said = capsys.readouterr().out
    for wanted in ("agent trained in the dream", "6,300", "220", "0.75", "-0.57", "no action"):
        assert wanted in said, f"the table lacks {wanted}: {said}"
    assert "least agent 0.75 (target 0.6), best control 0.10 (target at most 0.45)" in said, (
        f"the targets: {said}"
    )
    assert (result.parent / "build" / "evaluation.svg").read_text(encoding="utf-8").startswith("<?xml"), (
        "no figure is written"
    )
    plt.close("all")


def print_table(table):
    """Print a table of rich without its frame."""
    for cells in zip(*(column.cells for column in table.columns), strict=True):
        print(*cells)


class Here:
    """A pool that works at once, in this process."""

    def __init__(self, jobs, mp_context=None):
        self.jobs = jobs

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    map = staticmethod(map)

    @staticmethod
    def submit(function, *arguments):
        future = Future()
        future.set_result(function(*arguments))
        return future


@pytest.mark.grades
def test_main_trains_everything(result, monkeypatch, capsys):
    """With --train every player is measured with three seeds, and both results are written."""
    monkeypatch.setattr("sys.argv", ["evaluate.py", "--train", "--jobs", "1"])
    monkeypatch.setattr(module, "rules", lambda: {"random": -0.57})
    monkeypatch.setattr(module, "ProcessPoolExecutor", Here)
    monkeypatch.setattr(module, "tqdm", lambda rows, **options: rows)
    monkeypatch.setattr(
        module, "measure",
        lambda task: {"player": task[0], "seed": task[1], "real_steps": 9, "cpu_seconds": 1, "return": 0.5},
    )  # fmt: skip
    monkeypatch.setattr(
        module, "exploit", lambda seed: [{"world": "with ends", "update": 10, "dream_sum": 1.0, "real": 0.5}]
    )
    module.main()
    players = module.load_result(result)
    assert {name: [row["seed"] for row in rows] for name, rows in players.items()} == {
        key: [0, 1, 2] for key in CONTROLS
    }, "others are measured"
    assert module.load_result(module.EXPLOIT)["with ends"][0]["update"] == 10, "the exploit is not written"
    assert "untrained world" in capsys.readouterr().out, "the table is not shown"
    plt.close("all")
