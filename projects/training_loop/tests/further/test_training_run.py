"""run.py in one process: a whole run, resumed exactly, and the command line. Oracle: a run that was never interrupted."""

import copy
import json
import math
import shutil
import signal

import pytest
import torch
import trials
from test_trainer import dealt, trainer

import run
import settings
from shared.testing.checks import assert_close, expect_error


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """A run of 22 updates with dropout over more than two epochs that kept every checkpoint."""
    out = tmp_path_factory.mktemp("whole")
    return out, trials.train(out, checkpoint_every=1, keep_checkpoints=100)


@pytest.mark.grades("run.train", "Trainer", "Trainer.step", "Result")
def test_run_learns_and_leaves_its_records(whole_run):
    """It gets better than guessing, and writes metrics and checkpoints."""
    out, result = whole_run
    assert result["step"] == 22
    assert not result["stopped"]
    assert result["skipped"] == 0
    assert result["val_bits_per_byte"] < 7, (
        f"{result['val_bits_per_byte']} bits per byte: hardly better than 8"
    )
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 23)), "one line of metrics per update"
    assert {"loss", "lr", "gradient_norm", "tokens_per_second"} <= steps[0].keys()
    assert steps[0]["loss"] > steps[-1]["loss"], "the loss does not fall"
    rates = [line["lr"] for line in steps]
    assert_close(
        torch.tensor(rates[:5]),
        1e-2 * torch.tensor([0.25, 0.5, 0.75, 1.0, 0.992438]),
        rtol=1e-3,
        what="rates",
    )
    assert math.isclose(rates[-1], 1e-4, rel_tol=1e-6), f"the last update must have min_lr, got {rates[-1]}"
    text = str(run.Result(**result))
    assert text.startswith("final step=22 train_loss="), text
    assert " val_bits_per_byte=" in text, text
    assert text.endswith(f"weights_sha256={result['weights_sha256']}"), text


@pytest.mark.grades("run.train", "Trainer.state_dict", "Trainer.load_state_dict", "Progress")
@pytest.mark.parametrize("stop", [11, 1, 4, 8, 9, 10, 17, 21])
def test_exact_resume(whole_run, tmp_path, stop):
    """Stopped after any step, in mid-epoch or at its end, and resumed: bitwise the weights of the whole run."""
    out, whole = whole_run
    (tmp_path / "checkpoints").mkdir()
    shutil.copy(out / f"checkpoints/step-{stop:08d}.pt", tmp_path / "checkpoints")
    resumed = trials.train(tmp_path, resume=True)
    losses = {
        line["step"]: line["loss"]
        for line in map(json.loads, (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
        if "loss" in line
    }
    for line in map(json.loads, (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()):
        if "loss" in line:
            assert line["step"] > stop, (
                f"resumed at {stop}, but update {line['step']} is made again: is step restored?"
            )
            assert line["loss"] == losses[line["step"]], (
                f"stopped after {stop}, the first difference is at update {line['step']}: loss {line['loss']}, "
                f"without stopping {losses[line['step']]}. The first update after resuming differs if data position, "
                "RNG or weights are not restored; a later one if it is the optimizer"
            )
    assert resumed["weights_sha256"] == whole["weights_sha256"], "the losses agree, the final weights differ"
    assert resumed["val_bits_per_byte"] == whole["val_bits_per_byte"], "the averaged weights are not restored"
    assert resumed["train_loss"] == whole["train_loss"], "the running loss is not restored"


@pytest.mark.grades("run.train", "Trainer", "Trainer.step")
def test_accumulation_of_a_run(tmp_path):
    """Without dropout, three micro-batches give the run that one gives, up to rounding."""
    runs = [trials.train(tmp_path / str(n), accumulate=n, dropout=0.0, steps=12) for n in (1, 3)]
    assert_close(
        runs[1]["val_bits_per_byte"],
        runs[0]["val_bits_per_byte"],
        rtol=1e-4,
        what="bits per byte, accumulate=3",
    )


@pytest.mark.grades("run.train", "Trainer.state_dict", "Trainer.load_state_dict")
def test_exact_resume_with_scaler(tmp_path):
    """The same with fp16: the scale, and how long ago it grew, belong to the state."""
    whole = trials.train(tmp_path / "a", precision="fp16", steps=6, checkpoint_every=3, keep_checkpoints=9)
    (tmp_path / "b/checkpoints").mkdir(parents=True)
    shutil.copy(tmp_path / "a/checkpoints/step-00000003.pt", tmp_path / "b/checkpoints")
    resumed = trials.train(tmp_path / "b", precision="fp16", steps=6, resume=True)
    assert resumed["weights_sha256"] == whole["weights_sha256"], "with fp16 the resumed run differs"
    t = trainer(trials.Plain().float(), precision="fp16")
    t.step(dealt(10, 1))
    t.scaler.update(1024.0)
    state = copy.deepcopy(t.state_dict())
    other = trainer(trials.Plain().float(), precision="fp16")
    other.load_state_dict(state)
    assert other.scaler.get_scale() == 1024.0, "the scaler's factor is not restored"


@pytest.mark.grades("run.train")
def test_resume_is_asked_for(whole_run, tmp_path):
    """An existing run is not overwritten; other settings are refused by name; resume without a run starts one."""
    out, whole = whole_run
    shutil.copytree(out, tmp_path / "a")
    with expect_error(ValueError, "--resume", otherwise="a run is overwritten without a word"):
        trials.train(tmp_path / "a")
    with expect_error(ValueError, "n_layers", otherwise="a run is continued with another model"):
        trials.train(tmp_path / "a", resume=True, n_layers=2)
    fresh = trials.train(tmp_path / "b", resume=True)
    assert fresh["weights_sha256"] == whole["weights_sha256"], "same seed, other weights"
    other = trials.train(tmp_path / "c", seed=1)
    assert other["weights_sha256"] != whole["weights_sha256"], "the seed is ignored"


@pytest.mark.grades("run.train")
def test_three_bad_steps_stop_the_run(tmp_path):
    """A learning rate of 1e30 destroys the weights in the first update; the run stops and names the step."""
    with expect_error(FloatingPointError, "step 1", otherwise="a run without finite gradients does not stop"):
        trials.train(tmp_path, peak_lr=1e30, warmup_steps=0, clip=1e9)
    skipped = [
        line
        for line in (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        if "skipped" in line
    ]
    assert len(skipped) == 3, f"three in a row stop the run, not {len(skipped)}"


@pytest.mark.grades("Reporter", "Reporter.records", "Reporter.step", "Reporter.skipped", "Reporter.close")
def test_records_after_a_crash(tmp_path):
    """What a killed run wrote beyond its checkpoint goes, as does half a line."""
    from metrics import Reporter

    first = Reporter(tmp_path, first_step=0, total_steps=9, live=False)
    for step in (1, 2, 3):
        first.step(step, loss=1.0, lr=0.1, gradient_norm=2.0, n_tokens=5)
    first.skipped(3, loss=float("nan"))
    first.close()
    with open(tmp_path / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write('{"step": 4, "lo')
    second = Reporter(tmp_path, first_step=2, total_steps=9, live=False)
    second.step(3, loss=0.5, lr=0.1, gradient_norm=2.0, n_tokens=5)
    second.close()
    records = second.records()
    assert [r["step"] for r in records] == [1, 2, 3], (
        f"steps {[r['step'] for r in records]}: 3 is not made twice"
    )
    assert records[-1]["loss"] == 0.5


@pytest.mark.grades("main", "run.train")
def test_command_line(tmp_path, monkeypatch, capsys):
    """Every option reaches the run; the last line is the final line; a bad one is a message and status 1."""
    monkeypatch.setitem(settings.PRESETS, "tiny", trials.MICRO)
    seen, real = [], run.train
    monkeypatch.setattr(run, "train", lambda config: (seen.append(config), real(config))[1])
    options = (
        "--steps 3 --seed 4 --precision bf16 --accumulate 2 --clip 0.5 --checkpoint-every 2 --deterministic"
    )
    command = ["--preset", "tiny", "--out", str(tmp_path / "a"), "--schedule", "linear", *options.split()]
    assert run.main(command) == 0
    got = {name: getattr(seen[0], name) for name in ("steps", "seed", "precision", "accumulate", "clip")}
    assert got == {"steps": 3, "seed": 4, "precision": "bf16", "accumulate": 2, "clip": 0.5}, (
        f"options lost: {got}"
    )
    assert (seen[0].checkpoint_every, seen[0].deterministic, seen[0].schedule) == (2, True, "linear")
    assert seen[0].batch_size == trials.MICRO["batch_size"], "the preset is ignored"
    assert not torch.are_deterministic_algorithms_enabled(), "--deterministic must not outlive the run"
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert last.startswith("final step=3 train_loss="), f"the last line: {last}"
    assert "weights_sha256=" in last, f"the last line: {last}"
    assert run.main(command) == 1, "a folder that holds a run must give status 1"
    assert "--resume" in capsys.readouterr().err
    left = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    assert left == signal.SIG_DFL, "the signal handler outlives the run"
