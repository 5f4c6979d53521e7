"""metrics.py, settings.py and the command line: what a run writes down, and what reaches it. Oracles: literal records, a clock that is set."""

import dataclasses
import itertools
import json
import math
import re
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import trials

import metrics
import run
import settings
from shared.testing.checks import expect_error


def lines_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is set."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


@pytest.mark.grades("Reporter", "Reporter.step", "Reporter.skipped", "Reporter.evaluation", "Reporter.close")
def test_records_by_hand(tmp_path, clock, capsys):
    """Every record, literally; evaluations and skipped steps are no training time."""
    reporter = metrics.Reporter(tmp_path, first_step=0, total_steps=9, live=False)
    values = {"loss": 1.5, "lr": 0.25, "gradient_norm": 2.0}
    clock[0] += 4
    reporter.step(1, **values, n_tokens=100)
    clock[0] += 10
    reporter.evaluation(1, val_bits_per_byte=3.5, sample=b"")
    clock[0] += 2
    reporter.step(2, **values, n_tokens=100)
    clock[0] += 10
    reporter.skipped(2, loss=math.inf)
    clock[0] += 5
    reporter.step(3, **values, n_tokens=100)
    reporter.close()
    expected = [
        {"step": 1, **values, "tokens_per_second": 25.0},
        {"step": 1, "val_bits_per_byte": 3.5},
        {"step": 2, **values, "tokens_per_second": 50.0},
        {"step": 2, "skipped": True},
        {"step": 3, **values, "tokens_per_second": 20.0},
    ]
    assert lines_of(tmp_path) == expected, f"metrics.jsonl: {lines_of(tmp_path)}"
    assert reporter.records() == expected, "records gives what the file holds"
    said = " ".join(capsys.readouterr().out.split())
    assert "step 2" in said, f"a skipped step is said aloud, with its number: {said!r}"
    assert "inf" in said, f"a skipped step is said aloud, with its loss: {said!r}"
    assert not (tmp_path / "loss_curve.png").exists(), "live=False draws nothing"
    assert not (tmp_path / "tensorboard").exists(), "live=False writes no events"


@pytest.mark.grades("Reporter", "Reporter.step", "Reporter.evaluation", "Reporter.close")
def test_live_by_hand(tmp_path, monkeypatch, capsys):
    """The bar, the sample, the curve and the events, in numbers."""
    from matplotlib.figure import Figure
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    figures = []
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes its output for a terminal
    monkeypatch.setenv("COLUMNS", "150")
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *a, **k: (figures.append(self), save(self, *a, **k))[1]
    )
    reporter = metrics.Reporter(tmp_path, first_step=23, total_steps=60, live=True)
    for step in (24, 25, 26, 50):
        reporter.step(step, loss=math.log(2) * step, lr=0.25, gradient_norm=2.5, n_tokens=100)
    reporter.evaluation(50, val_bits_per_byte=3.25, sample=b"def [red]\x00f:\n \xff")
    reporter.close()
    said = re.sub("\x1b[^A-Za-z]*[A-Za-z]", "", capsys.readouterr().out)
    assert "50/60" in said, f"the bar says how many of the steps are made: {said[-300:]!r}"
    for shown in ("34.6", "2.5e-01|0.25", "2.5"):
        assert re.search(shown, said), f"the bar shows loss, rate and norm, where is {shown}? {said[-300:]!r}"
    assert "3.25" in said, "an evaluation is printed"
    assert "def [red]" in said, "a sample is printed as it is: its brackets are no colours"
    assert "f:\n" in said, "a sample keeps its lines"
    assert "\0" not in said, "what cannot be printed reaches the terminal"
    events = {}
    (path,) = (tmp_path / "tensorboard").glob("events*")
    for event in EventFileLoader(str(path)).Load():
        for value in event.summary.value:
            number = value.tensor.float_val[0] if value.tensor.float_val else None
            events.setdefault(value.tag.split("/")[0], []).append((event.step, number))
    names = {"loss", "lr", "gradient_norm", "tokens_per_second", "val_bits_per_byte", "sample"}
    assert events.keys() == names, f"names of the events: {sorted(events)}"
    assert [step for step, _ in events["loss"]] == [25, 50], (
        f"every 25th update is an event: {events['loss']}"
    )
    assert events["val_bits_per_byte"] == [(50, 3.25)], f"{events['val_bits_per_byte']}"
    assert [step for step, _ in events["sample"]] == [50], f"the sample is of step 50: {events['sample']}"
    (axes,) = figures[0].axes
    curves = [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines]
    assert [x for x, _ in curves] == [[24, 25, 26, 50], [50]], f"steps of the two curves: {curves}"
    assert max(abs(x - y) for x, y in itertools.chain(*(zip(*c, strict=True) for c in curves[:1]))) < 1e-9, (
        f"the training loss is drawn in bits: {curves[0]}"
    )
    assert curves[1][1] == [3.25], f"the evaluation is drawn as it is: {curves[1]}"
    assert len(axes.get_legend().get_texts()) == 2, "the legend names both curves"
    assert axes.get_xlabel(), "the axis of the steps has no name"
    assert axes.get_ylabel(), "the axis of the bits has no name"


@pytest.mark.grades("Reporter", "Reporter.step", "Reporter.close")
def test_no_bar_without_live(tmp_path, monkeypatch, capsys):
    """On a terminal too, live=False shows no bar."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    reporter = metrics.Reporter(tmp_path, first_step=0, total_steps=60, live=False)
    reporter.step(1, loss=1.0, lr=0.25, gradient_norm=2.5, n_tokens=100)
    reporter.close()
    assert "60" not in capsys.readouterr().out, "live=False, and a bar"


@pytest.mark.grades("Reporter", "Reporter.step", "Reporter.close")
def test_curve_without_evaluation(tmp_path, monkeypatch):
    """A run that was not evaluated has one curve; a run goes on with the curve of what it did before."""
    from matplotlib.figure import Figure

    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **options: figures.append((self, path)))
    for first in (0, 2):
        reporter = metrics.Reporter(tmp_path, first_step=first, total_steps=9, live=True)
        for step in (first + 1, first + 2, first + 3):
            reporter.step(step, loss=math.log(2) * step, lr=0.25, gradient_norm=2.5, n_tokens=100)
        reporter.close()
        figure, path = figures.pop()
        assert path == tmp_path / "loss_curve.png"
        (line,) = figure.axes[0].lines
        steps = [int(step) for step in line.get_xdata()]
        message = f"steps of the curve {steps}: {first + 1} is not made twice"
        assert steps == list(range(1, first + 4)), message


@pytest.mark.grades("Reporter", "Reporter.close")
def test_nothing_to_draw(tmp_path):
    """A live run that ends before its first step has no curve, and no error."""
    metrics.Reporter(tmp_path, first_step=0, total_steps=9, live=True).close()
    assert not (tmp_path / "loss_curve.png").exists(), "a curve without a step is drawn"


@pytest.mark.grades("settings.Config")
def test_presets():
    """The settings of the committed results."""
    default = vars(settings.Config(out=""))
    machine = {
        "out": "",
        "resume": False,
        "compile": False,
        "deterministic": False,
        "fsdp": False,
        "live": True,
    }
    model = {"context": 64, "d_model": 96, "n_layers": 3, "n_heads": 4, "dropout": 0.0}
    rest = {
        "steps": 1500,
        "seed": 0,
        "data_bytes": 4_000_000,
        "batch_size": 8,
        "accumulate": 1,
        "precision": "fp32",
    }
    rates = {"schedule": "cosine", "peak_lr": 6e-3, "min_lr": 1e-4, "warmup_steps": 100}
    rest |= {"weight_decay": 0.1, "clip": 1.0, "ema_decay": 0.99, "eval_every": 500, "eval_windows": 256}
    rest |= {"checkpoint_every": 250, "keep_checkpoints": 2}
    assert default == {**machine, **model, **rest, **rates}, f"the settings by default: {default}"
    for field in ("steps", "checkpoint_every", "eval_every", "eval_windows", "accumulate", "batch_size"):
        assert getattr(settings.Config(out="", **{field: 1}), field) == 1, f"{field}=1 is refused"
        with expect_error(ValueError, field, "0", otherwise=f"{field}=0 is accepted"):
            settings.Config(out="", **{field: 0})
    assert settings.Config(out="", weight_decay=0.0).weight_decay == 0, "weight_decay=0 is refused"
    sizes = ("steps", "context", "d_model", "n_layers", "n_heads", "batch_size", "peak_lr", "dropout")
    small, gpu = (vars(settings.Config(out="", **settings.PRESETS[name])) for name in ("small", "gpu"))
    assert [small[name] for name in sizes] == [5000, 256, 256, 6, 8, 32, 1e-3, 0.1], f"small: {small}"
    assert [gpu[name] for name in sizes] == [10_000, 512, 768, 12, 12, 128, 6e-4, 0.1], f"gpu: {gpu}"
    assert gpu["precision"] == "bf16", "a GPU computes in bfloat16"
    rest = ("data_bytes", "min_lr", "warmup_steps", "ema_decay", "eval_every", "checkpoint_every")
    assert [small[name] for name in rest] == [20_000_000, 1e-4, 100, 0.999, 500, 250], f"small: {small}"
    assert [gpu[name] for name in rest] == [40_000_000, 6e-5, 500, 0.999, 500, 500], f"gpu: {gpu}"
    assert settings.PRESETS["tiny"] == {}, "tiny is what Config is by default"
    one = settings.Config(out="", steps=1, warmup_steps=100, peak_lr=0.5)
    assert one.lr(0) == 0.5, f"a run of one step has the peak rate, got {one.lr(0)}"
    short = settings.Config(out="", steps=11, warmup_steps=0, schedule="wsd", peak_lr=1.0, min_lr=0.0)
    assert [short.lr(k) for k in (7, 8, 9, 10)] == [1.0, 1.0, 0.5, 0.0], "wsd decays over the last fifth"
    tiny = settings.Config(out="", steps=3, warmup_steps=0, schedule="wsd", peak_lr=1.0, min_lr=0.0)
    assert [tiny.lr(k) for k in range(3)] == [1.0, 1.0, 0.0], "of three steps the last fifth is one"


@pytest.mark.grades("settings.Config", "settings.Config.lr")
@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant", "wsd"])
def test_warmup_that_does_not_fit(schedule):
    """A run shorter than its warmup shortens the warmup, with each schedule; wsd keeps its decay of a fifth."""
    options = {"out": "", "schedule": schedule, "peak_lr": 1.0, "min_lr": 0.25}
    for steps in (1, 2, 3, 5, 101, 120, 124, 125, 126):
        try:
            config = settings.Config(steps=steps, **options)
            rates = [config.lr(k) for k in range(steps)]
        except ValueError as error:
            raise AssertionError(f"--steps {steps} --schedule {schedule} is refused: {error}") from error
        decay = max(1, steps // 5) if schedule == "wsd" else 0
        warmup = max(0, min(100, steps - 1 - decay))
        assert rates[warmup] == 1.0, f"{schedule}, {steps} steps: the peak at {warmup}, got {rates[warmup]}"
        assert rates[0] == 1 / (warmup + 1), (
            f"{schedule}, {steps} steps: the warmup takes {warmup}: {rates[0]}"
        )
        last = 1.0 if schedule == "constant" or warmup == steps - 1 else 0.25
        assert rates[-1] == last, f"{schedule}, {steps} steps: the last rate is {rates[-1]}, expected {last}"
    config = settings.Config(steps=120, **options)
    if schedule == "wsd":
        assert [config.lr(k) for k in (95, 107, 119)] == [1.0, 0.625, 0.25], "wsd decays over 24 of 120 steps"


WHOLE = [field.name for field in dataclasses.fields(settings.Config) if field.type == "int"]
REAL = [field.name for field in dataclasses.fields(settings.Config) if field.type == "float"]
FLAGS = [field.name for field in dataclasses.fields(settings.Config) if field.type == "bool"]


@pytest.mark.grades("settings.Config")
@pytest.mark.parametrize("name", [*WHOLE, *REAL, *FLAGS, "out", "schedule", "precision"])
def test_setting_of_another_type(name):
    """64.0, "64", True, None for a number, "yes" for a flag: refused by name; NumPy's numbers are numbers."""
    bad = [64.0, True] if name in WHOLE else [True] if name in REAL else [1]
    text = [] if name in ("out", "schedule", "precision") else ["64"]
    for value in [*text, *bad, None, (1,)]:
        with expect_error(TypeError, name, str(value), otherwise=f"{name}={value!r} is accepted"):
            settings.Config(**{"out": "", name: value})
    if name in WHOLE:
        default = getattr(settings.Config(out=""), name)
        config = settings.Config(**{"out": "", name: np.int64(default)})
        assert json.dumps(getattr(config, name)) == str(default), "a setting is written down as JSON"
    if name in REAL:
        config = settings.Config(**{"out": "", name: np.float32(0.5), "min_lr": 0})
        assert getattr(config, name) == (0 if name == "min_lr" else 0.5)


@pytest.mark.grades("settings.Config")
@pytest.mark.parametrize("name", [*WHOLE, *REAL])
def test_setting_out_of_range(name):
    """Negative, NaN, infinite, or a number that cannot be meant: refused by its own name, before anything is read."""
    bad = {-1.0 if name in REAL else -1, *({math.nan, -math.inf, math.inf} if name in REAL else set())}
    bad -= {math.inf} if name == "clip" else {-1} if name == "seed" else set()
    bad |= {"data_bytes": {19}, "dropout": {1.0}, "ema_decay": {1.0}, "clip": {0.0}, "seed": {2**63}}.get(
        name, set()
    )
    bad |= {"min_lr": {0.7}, "d_model": {30}, "n_heads": {5}, "accumulate": {9}}.get(name, set())
    for value in bad:
        with expect_error(ValueError, name, str(value), otherwise=f"{name}={value} is accepted"):
            settings.Config(**{"out": "", "peak_lr": 0.5, name: value})
    least = {"data_bytes": 20, "clip": 1e-9, "seed": -5, "n_layers": 0, "d_model": 4}
    value = least.get(name, 0 if name in REAL or name == "warmup_steps" else 1)
    assert getattr(settings.Config(**{"out": "", "min_lr": 0, name: value}), name) == value


@pytest.mark.grades("settings.Config")
def test_settings_at_their_bounds():
    """inf measures without clipping; a path is a folder; min_lr says nothing to a constant rate."""
    assert settings.Config(out="", clip=math.inf).clip == math.inf
    assert settings.Config(out=Path("a")).out == "a"
    assert settings.Config(out="", accumulate=8, batch_size=8).accumulate == 8
    assert settings.Config(out="", schedule="constant", peak_lr=1e-9).lr(100) == 1e-9


@pytest.mark.grades("main")
def test_options(monkeypatch, capsys):
    """Each option reaches the run and nothing else does; the presets too; what cannot be is status 2."""
    seen = []
    stopped = run.Result(7, 1.0, math.nan, "ab", 0, stopped=True)
    monkeypatch.setattr(run, "train", lambda config: (seen.append(config), stopped)[1])
    options = {
        "--steps 3": ("steps", 3),
        "--resume": ("resume", True),
        "--seed 4": ("seed", 4),
        **{f"--precision {name}": ("precision", name) for name in ("fp32", "bf16", "fp16")},
        "--accumulate 2": ("accumulate", 2),
        "--clip 0.5": ("clip", 0.5),
        **{f"--schedule {name}": ("schedule", name) for name in ("cosine", "linear", "constant", "wsd")},
        "--compile": ("compile", True),
        "--checkpoint-every 9": ("checkpoint_every", 9),
        "--deterministic": ("deterministic", True),
        "--fsdp": ("fsdp", True),
    }
    for text, (name, value) in options.items():
        assert run.main(["--out", "a", *text.split()]) == 0
        assert seen[-1] == settings.Config(out="a", **{name: value}), f"{text}: {seen[-1]}"
    assert "SIGTERM: stopped after step 7" in capsys.readouterr().out, "a stopped run says so"
    run.main(["--out", "a", "--preset", "small", "--steps", "9"])
    assert seen[-1] == settings.Config(out="a", **{**settings.PRESETS["small"], "steps": 9}), "--preset small"
    monkeypatch.setenv("RANK", "1")
    capsys.readouterr()
    run.main(["--out", "a"])
    assert not capsys.readouterr().out, "one process of several prints the result, not each"
    for bad in (
        ["--steps", "3"],
        ["--out", "a", "--precision", "fp8"],
        ["--out", "a", "--schedule", "x"],
        ["--out", "a", "--preset", "x"],
    ):
        with pytest.raises(SystemExit) as left:
            run.main(bad)
        assert left.value.code == 2, f"{bad}: status {left.value.code}"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as left:
        run.main(["--out", "a", "--preset", "gpu"])
    assert left.value.code == 2, "--preset gpu without a GPU is refused"
    assert "gpu needs a CUDA device" in capsys.readouterr().err
    for problem in (ValueError("this"), FloatingPointError("that")):
        monkeypatch.setattr(run, "train", lambda config, problem=problem: (_ for _ in ()).throw(problem))
        assert run.main(["--out", "a"]) == 1, f"{problem!r} gives status 1"
        assert str(problem) in capsys.readouterr().err, f"{problem!r} is printed on the standard error"


@pytest.mark.grades("Result")
def test_final_line():
    """The line that a script reads."""
    line = str(run.Result(22, 1.23456, 2.0, "abc", 0, stopped=False))
    expected = "final step=22 train_loss=1.2346 val_bits_per_byte=2.0000 weights_sha256=abc"
    assert line == expected, f"{line!r}, expected {expected!r}"


@pytest.mark.grades("run.train")
def test_what_is_fixed_in_mid_run(tmp_path):
    """Model, data, batch, seed and kind of checkpoint: each is refused by name; the rest may change."""
    trials.train(tmp_path, steps=2)
    fixed = {"seed": 1, "context": 12, "d_model": 4, "n_layers": 2, "n_heads": 1, "data_bytes": 5_000}
    fixed |= {"batch_size": 20, "fsdp": True}
    for name, value in fixed.items():
        with expect_error(ValueError, name, str(value), otherwise=f"a run goes on with {name}={value}"):
            trials.train(tmp_path, steps=3, resume=True, **{name: value})
    free = {"accumulate": 2, "peak_lr": 1e-3, "weight_decay": 0.0, "clip": 0.5, "precision": "bf16"}
    again = trials.train(tmp_path, steps=3, resume=True, **free)
    assert again["step"] == 3, f"what may change in mid-run is refused: {again}"
    assert re.fullmatch("[0-9a-f]{64}", again["weights_sha256"]), again["weights_sha256"]
