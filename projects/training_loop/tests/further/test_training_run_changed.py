"""run.py and trainer.py, resumed with something changed: the precision, a file (a setting: test_which_settings_change.py). Oracle: the run without the change."""

import copy
import os
import shutil

import pytest
import torch
import trials
from test_trainer import dealt, trainer

import char_gpt
import checkpoint
import metrics
import run
from shared.testing.checks import expect_error


@pytest.fixture(scope="module")
def stopped_run(tmp_path_factory):
    return trials.stopped_run(tmp_path_factory.mktemp("stopped_run"))


# --- precision and scale ----------------------------------------------------------------------------------------------


@pytest.mark.grades("Trainer.state_dict", "Trainer.load_state_dict")
@pytest.mark.parametrize("first", ["fp32", "bf16"])
def test_scaler_after_another_precision(first):
    """What was not scaled has no scale: fp16 begins with that of a new scaler, also by way of a file."""
    before = trainer(trials.Plain().float(), precision=first)
    before.step(dealt(10, 1))
    after = trainer(trials.Plain().float(), precision="fp16")
    fresh = after.scaler.get_scale()
    after.load_state_dict(copy.deepcopy(before.state_dict()))
    found = after.scaler.get_scale()
    assert found == fresh > 1, f"after {first} the scale of fp16 is {found}, that of a new scaler {fresh}"
    assert after.step(dealt(10, 1)).taken


@pytest.mark.grades("run.train", "Trainer.state_dict", "Trainer.load_state_dict")
@pytest.mark.parametrize(("first", "then"), [("fp32", "fp16"), ("fp16", "fp32"), ("fp16", "bf16")])
def test_another_precision(first, then, tmp_path):
    """A run goes on in another precision."""
    trials.train(tmp_path, steps=2, precision=first)
    result = trials.train(tmp_path, steps=4, precision=then, resume=True)
    assert (result["step"], result["skipped"]) == (4, 0), f"{first}, then {then}: {result}"


@pytest.mark.grades("Trainer")
def test_fp16_needs_wide_weights():
    """Gradients in float16 cannot be unscaled; bfloat16 and float64 weights with fp16 can be meant."""
    with expect_error(
        ValueError, "fp16", "float16", otherwise="float16 weights with precision fp16 are accepted"
    ):
        trainer(trials.Plain().half(), precision="fp16")
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        assert trainer(trials.Plain().to(dtype), precision="fp32").step(dealt(10, 1)).taken, (
            f"{dtype} weights"
        )


@pytest.mark.grades("Trainer", "Trainer.step")
def test_scale_settles():
    """With fp16 a halving scale is no lost run: a finite loss does not count, as long as the scale is above 1e-4."""
    t = trainer(trials.Plain().float(), precision="fp16")
    hook = t.model.hidden.bias.register_hook(lambda g: torch.full_like(g, float("inf")))
    for n in range(1, 7):
        t.step(dealt(10, 1))
        assert t.scaler.get_scale() == 2.0 ** (16 - n), f"after {n} skipped steps: {t.scaler.get_scale()}"
        progress = t.progress.skipped, t.progress.skipped_in_a_row
        assert progress == (n, 0), f"a scale that settles counts as a lost run: {progress}"
    t.scaler.update(1.5e-4)
    rows = []
    for _ in range(3):
        t.step(dealt(10, 1))
        rows.append(t.progress.skipped_in_a_row)
    assert rows == [0, 1, 2], (
        f"from a scale of 1.5e-4 on, halved each time, in a row: {rows}, expected 0, 1, 2"
    )
    hook.remove()
    assert t.step(dealt(10, 1)).taken
    assert t.progress.skipped_in_a_row == 0, "a good step ends the row"


@pytest.mark.grades("Trainer", "Trainer.step")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_loss_that_is_not_finite_counts(precision):
    """No scale mends it; nor does one mend a gradient that is not scaled."""
    t = trainer(trials.Plain().float(), precision=precision)
    t.model.head.register_forward_hook(lambda module, args, out: out * float("nan"))
    rows = [t.step(dealt(10, 1)) and t.progress.skipped_in_a_row for _ in range(3)]
    assert rows == [1, 2, 3], f"{precision}, a loss of NaN: in a row {rows}"
    t = trainer(trials.Plain().float(), precision=precision)
    t.model.hidden.bias.register_hook(lambda g: g * float("nan"))
    t.step(dealt(10, 1))
    expected = 0 if precision == "fp16" else 1
    assert t.progress.skipped_in_a_row == expected, f"{precision}: a gradient of NaN counts {1 - expected}"


@pytest.mark.grades("run.train", "Trainer.step")
def test_large_logits_in_fp16(tmp_path, monkeypatch):
    """Logits 100 times as large: the scale needs more than three steps to settle, then it trains."""
    forward = char_gpt.CharGPT.forward
    monkeypatch.setattr(char_gpt.CharGPT, "forward", lambda self, x: 100 * forward(self, x))
    try:
        result = trials.train(tmp_path, steps=8, precision="fp16", peak_lr=1e-3)
    except FloatingPointError as error:
        raise AssertionError(f"a run whose scale is still settling is given up: {error}") from error
    assert result["step"] == 8
    assert result["skipped"] > run.MOST_SKIPPED, f"{result['skipped']} steps skipped: the test shows nothing"


@pytest.mark.grades("run.train", "Trainer.step")
def test_nan_in_fp16(tmp_path, monkeypatch):
    """A loss that is NaN stops an fp16 run after three steps and says so."""
    forward = char_gpt.CharGPT.forward
    monkeypatch.setattr(char_gpt.CharGPT, "forward", lambda self, x: float("nan") * forward(self, x))
    with expect_error(FloatingPointError, "step 0", "nan", otherwise="a loss of NaN is no reason to stop"):
        trials.train(tmp_path, steps=8, precision="fp16")
    skipped = [
        line
        for line in (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        if "skipped" in line
    ]
    assert len(skipped) == 3, f"three in a row stop the run, not {len(skipped)}"


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.grades("run.train", "main")
@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"null", b'{"seed": 0}', b"\xff\xfe\x00"], ids=repr)
def test_damaged_settings(text, stopped_run, tmp_path, capsys):
    """run.json empty, cut or foreign: a message that names it and the remedy, and the remedy works."""
    out = tmp_path / "a"
    shutil.copytree(stopped_run, out)
    (out / "run.json").write_bytes(text)
    with expect_error(checkpoint.CheckpointError, "run.json", otherwise=f"run.json of {text!r} is accepted"):
        trials.train(out, **trials.SIX, resume=True)
    (out / "run.json").unlink()
    capsys.readouterr()
    assert trials.train(out, **trials.SIX, resume=True)["step"] == 6
    assert "run.json" in capsys.readouterr().out, "that settings cannot be compared must be said aloud"
    with expect_error(ValueError, "seed", "1", otherwise="the settings are not written down again"):
        trials.train(out, **trials.SIX, resume=True, seed=1)


@pytest.mark.grades("run.train")
def test_settings_are_forced_to_the_disk(tmp_path, monkeypatch):
    """run.json is written under another name, forced to the disk and renamed, in this order."""
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("fsync"), fsync(fd))[1])
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append(os.path.basename(b)), replace(a, b))[1])
    trials.train(tmp_path, steps=1)
    for name in ("run.json", "metrics.jsonl"):
        assert name in calls, f"{name} is written in place: {calls}"
        before = calls[calls.index(name) - 1]
        assert before == "fsync", f"no fsync before the rename of {name}: {calls}"


@pytest.mark.grades("Trainer.load_state_dict", "run.train")
def test_checkpoint_of_another_model(stopped_run, tmp_path):
    """Without run.json a checkpoint of another model is refused by the names or shapes of its weights."""
    out = tmp_path / "a"
    shutil.copytree(stopped_run, out)
    (out / "run.json").unlink()
    for options, mention in (
        ({"n_layers": 2}, "blocks.1"),
        ({"n_layers": 0}, "blocks.0"),
        ({"d_model": 4}, "(4, 8)"),
    ):
        with expect_error(
            ValueError, mention, otherwise=f"a checkpoint of another model is loaded: {options}"
        ):
            trials.train(out, **trials.SIX, resume=True, **options)
    assert trials.train(out, **trials.SIX, resume=True)["step"] == 6, (
        "what was refused is written down in run.json"
    )


@pytest.mark.grades("Trainer.load_state_dict", "Trainer.state_dict")
def test_state_that_does_not_fit():
    """A part, a name or a shape that is wrong: refused by name, and nothing is half loaded."""
    t = trainer(trials.Plain().float())
    t.step(dealt(10, 1))
    good = copy.deepcopy(t.state_dict())
    other = trainer(trials.Plain().float())
    before = copy.deepcopy(other.state_dict())
    bad = {part: {**good, part: None} for part in ("model", "optimizer", "averages", "numbers")}
    bad |= {
        "rng": {name: value for name, value in good.items() if name != "rng"},
        "model.head.bias": copy.deepcopy(good),
    }
    bad["model.head.bias"]["model"]["head.bias"] = torch.zeros(1)
    for name, state in bad.items():
        with expect_error(ValueError, name, otherwise=f"a state with another {name} is loaded"):
            other.load_state_dict(state)
    after = other.state_dict()
    assert all(torch.equal(after["model"][name], value) for name, value in before["model"].items()), (
        "what was refused has changed the weights"
    )
    other.load_state_dict(good)
    assert torch.equal(other.state_dict()["numbers"], good["numbers"])


@pytest.mark.grades("Reporter", "Reporter.records")
def test_damaged_metrics(tmp_path, capsys):
    """Lines of metrics.jsonl that hold no record are left out aloud; the others stay, and the run goes on."""
    good = '{"step": 1, "loss": 2.0}\n'
    (tmp_path / "metrics.jsonl").write_bytes(
        b"[]\n" + good.encode() + b"\x00\xff\x00\n\n" + b'{"loss": 1}\n' + b'{"st'
    )
    try:
        reporter = metrics.Reporter(tmp_path, first_step=3, total_steps=9, live=False)
    except (ValueError, TypeError, KeyError) as error:
        raise AssertionError(f"a damaged line of metrics.jsonl stops a run: {error!r}") from error
    reporter.step(4, loss=1.0, lr=0.1, gradient_norm=2.0, n_tokens=5)
    reporter.close()
    assert [r["step"] for r in reporter.records()] == [1, 4], f"{reporter.records()}"
    said = "".join(capsys.readouterr().out.split())  # a narrow terminal breaks the line anywhere
    said = said.replace("".join(str(tmp_path).split()), "")
    assert "metrics.jsonl" in said, f"what is lost must be said, and in which file: {said}"
    assert "4" in said, f"4 lines are lost: {said}"
    assert (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").startswith(good), (
        "a good record is changed"
    )


@pytest.mark.grades("Reporter")
def test_history_survives_a_crash(tmp_path, monkeypatch):
    """A crash while the lines beyond the checkpoint are taken out loses none of the others."""
    first = metrics.Reporter(tmp_path, first_step=0, total_steps=9, live=False)
    for step in (1, 2, 3):
        first.step(step, loss=1.0, lr=0.1, gradient_norm=2.0, n_tokens=5)
    first.close()
    content = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8")

    def crash(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        for name in ("fsync", "replace", "rename"):
            patch.setattr(os, name, crash)
        with pytest.raises(KeyboardInterrupt):
            metrics.Reporter(tmp_path, first_step=2, total_steps=9, live=False)
    assert (tmp_path / "metrics.jsonl").read_text(encoding="utf-8") == content, (
        "metrics.jsonl is rewritten in place: the history is lost"
    )


@pytest.mark.grades("main")
def test_folder_that_cannot_be(tmp_path, capsys):
    """--out that is a file: a message with its name and status 1."""
    (tmp_path / "a").write_text("a file", encoding="utf-8")
    try:
        status = run.main(["--out", str(tmp_path / "a"), "--steps", "1"])
    except OSError as error:
        raise AssertionError(f"--out that is a file ends in a traceback: {error!r}") from error
    assert status == 1
    assert str(tmp_path / "a") in capsys.readouterr().err
