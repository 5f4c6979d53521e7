"""run.py, resumed with another setting: each takes effect or is refused. It comes late, since it takes long. Oracle: the run without the change."""

import dataclasses
import json
import os
import shutil

import pytest
import torch
import trials
from torch import nn

import char_gpt
import settings
from shared.testing.checks import expect_error

# in mid-run these are what they are; each with another value
FIXED = {
    "seed": 1,
    "context": 12,
    "d_model": 4,
    "n_layers": 2,
    "n_heads": 1,
    "data_bytes": 5_000,
    "batch_size": 20,
    "fsdp": True,
}
# the others, another value, and where it shows
FREE = {
    "steps": (5, "updates"),
    "dropout": (0.5, "losses"),
    "accumulate": (3, "batches"),
    "schedule": ("linear", "rates"),
    "peak_lr": (2e-2, "rates"),
    "min_lr": (5e-3, "rates"),
    "warmup_steps": (4, "rates"),
    "weight_decay": (0.5, "weights"),
    "clip": (0.01, "weights"),
    "ema_decay": (0.0, "bits"),
    "precision": ("bf16", "losses"),
    "compile": (True, "compiled"),
    "deterministic": (True, "deterministic"),
    "eval_every": (5, "evaluations"),
    "eval_windows": (8, "evaluations"),
    "checkpoint_every": (3, "files"),
    "keep_checkpoints": (1, "files"),
    "live": (True, "files"),
}
ASKED = {"out", "resume"}  # which run, and whether at all


@pytest.fixture(scope="module")
def stopped_run(tmp_path_factory):
    return trials.stopped_run(tmp_path_factory.mktemp("stopped_run"))


def resumer(start, folder, monkeypatch):
    """Return a function that resumes a copy of the run in `start` with some settings, and tells what it did."""
    calls = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, *a, **k: calls.append("compile"))
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda mode: calls.append(mode))
    forward = char_gpt.CharGPT.forward
    shapes = []
    monkeypatch.setattr(
        char_gpt.CharGPT, "forward", lambda self, x: (shapes.append(tuple(x.shape)), forward(self, x))[1]
    )

    def go(**options):
        out = folder / f"run{len(os.listdir(folder))}"
        shutil.copytree(start, out)
        calls.clear()
        shapes.clear()
        result = trials.train(out, **{**trials.SIX, "resume": True, **options})
        lines = [
            json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        steps = [line for line in lines if "loss" in line]
        return {
            "updates": [line["step"] for line in steps],
            "losses": [line["loss"] for line in steps],
            "rates": [line["lr"] for line in steps],
            "evaluations": [line for line in lines if "val_bits_per_byte" in line][:-1],
            "weights": result["weights_sha256"],
            "bits": result["val_bits_per_byte"],
            "batches": shapes[:3],
            "compiled": "compile" in calls,
            "deterministic": True in calls,
            "files": sorted(str(p.relative_to(out)) for p in out.rglob("*") if "events" not in p.name),
        }

    return go


@pytest.fixture
def resume(stopped_run, tmp_path, monkeypatch):
    return resumer(stopped_run, tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def unchanged(stopped_run, tmp_path_factory):
    """What that run does when it is resumed with the settings it had."""
    with pytest.MonkeyPatch.context() as patch:
        return resumer(stopped_run, tmp_path_factory.mktemp("unchanged"), patch)()


@pytest.mark.grades("run.train", "settings.Config", "Trainer.load_state_dict")
@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(settings.Config)])
def test_every_setting_of_a_resumed_run(field, resume, unchanged, tmp_path):
    """Each setting takes effect or is refused by name."""
    assert field in {*FIXED, *FREE, *ASKED}, f"a new setting, {field}: what does a resumed run do with it?"
    if field in FIXED:
        value = FIXED[field]
        with expect_error(ValueError, field, str(value), otherwise=f"a run goes on with {field}={value}"):
            resume(**{field: value})
    elif field in FREE:
        value, where = FREE[field]
        before, after = unchanged, resume(**{field: value})
        assert before["updates"] == [3, 4, 5, 6], (
            f"saved after 2 of 6 updates, then made: {before['updates']}"
        )
        assert before[where] != after[where], f"resumed with {field}={value}: without effect on the {where}"
    elif field == "resume":
        with expect_error(
            ValueError, "--resume", otherwise="resume=False: a run is overwritten without a word"
        ):
            resume(resume=False)
    else:
        trials.train(tmp_path / "elsewhere", **trials.SIX, resume=True)
        first = json.loads((tmp_path / "elsewhere/metrics.jsonl").read_text(encoding="utf-8").splitlines()[0])
        assert first["step"] == 1, (
            f"another folder has no run to go on with, its first step is {first['step']}"
        )


@pytest.mark.grades("run.train")
def test_fewer_steps_than_made(resume):
    """A run that is further than it should go is not called finished."""
    with expect_error(ValueError, "steps", "1", otherwise="steps=1 of a run that has made 2 is passed over"):
        resume(steps=1)
    assert resume(steps=2)["updates"] == [], "a run that has all its steps makes no more"
