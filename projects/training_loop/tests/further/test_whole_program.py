"""The judge of the program as a whole: killed, terminated, started by torchrun. Slow, so it comes last."""

import json
import os
import random
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
import trials
from processes import Process, nothing_stays, run, run_ranks, start_ranks  # noqa: F401

import checkpoint
from shared.testing.checks import assert_close

pytestmark = pytest.mark.timeout(120)  # whole processes: each has a limit of its own


def wait_until(condition, what, process, limit_s=60):
    deadline = time.monotonic() + limit_s
    while not condition():
        if not process.is_running or time.monotonic() > deadline:
            process.kill()
            process.answer()
            raise AssertionError(f"{what} did not happen\n{process.output}")
        time.sleep(0.005)


def n_updates(out):
    """Return how many updates the run has written down."""
    path = Path(out) / "metrics.jsonl"
    return path.read_text(encoding="utf-8").count('"loss"') if path.exists() else 0


def wait_for_step(out, step, process):
    wait_until(lambda: n_updates(out) >= step, f"update {step}", process)


@pytest.mark.grades("run.train", "main", "Trainer", "Trainer.step")
def test_sigterm(tmp_path):
    """SIGTERM: a checkpoint, a message, status 0; and the resumed run ends as if nothing had happened."""
    whole = trials.train(tmp_path / "whole", steps=150)
    command = ["--preset", "tiny", "--steps", "150", "--out", str(tmp_path / "a")]
    process = Process("trials:command_line", {"arguments": command})
    wait_for_step(tmp_path / "a", 20, process)
    process.terminate()
    status = process.wait()
    assert status == 0, f"after SIGTERM the status is {status}, expected 0\n{process.output}"
    assert "SIGTERM" in process.output, f"no message: {process.output}"
    assert "--resume" in process.output, f"no message: {process.output}"
    saved = checkpoint.Checkpoint(tmp_path / "a/checkpoints").paths()
    assert saved, "no checkpoint was written on SIGTERM"
    resumed = trials.train(tmp_path / "a", steps=150, resume=True)
    assert resumed["weights_sha256"] == whole["weights_sha256"], "the resumed run differs"


@pytest.mark.grades("run.train", "Trainer", "Trainer.step", "process_group")
def test_sigterm_on_one_of_two_ranks(tmp_path):
    """One rank is told to stop: both stop after the same update."""
    ranks = start_ranks(2, "trials:train", out=str(tmp_path), steps=100_000)
    try:
        wait_for_step(tmp_path, 5, ranks[0])
        ranks[1].terminate()
        first, second = [rank.result(limit_s=6) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    assert first["stopped"], "both ranks must report that they stopped"
    assert second["stopped"], "both ranks must report that they stopped"
    assert first["step"] == second["step"] < 100_000, f"stopped at {first['step']} and {second['step']}"
    assert first["weights_sha256"] == second["weights_sha256"]


@pytest.mark.grades("write_checkpoint", "read_checkpoint")
def test_killed_while_writing(tmp_path):
    """A process that does nothing but overwrite one file is killed ten times; the file can always be read."""
    path = tmp_path / "a.pt"
    moments = random.Random(0)
    for _ in range(10):
        inode = path.stat().st_ino if path.exists() else None
        writer = Process("trials:write_for_ever", {"path": str(path)})
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and writer.is_running:
            if path.exists() and path.stat().st_ino != inode:
                break
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.02))
        writer.kill()
        writer.answer()
        state = checkpoint.read_checkpoint(path)
        assert (state["w"] == state["step"]).all(), "half of an older file, half of a newer one"


@pytest.mark.grades(
    "run.train", "write_checkpoint", "read_checkpoint", "Checkpoint", "Checkpoint.save", "Checkpoint.load"
)
def test_kill_9_at_50_random_moments(tmp_path):
    """A run that writes a checkpoint after every update is killed 50 times and ends as if it never had been.

    Every other kill waits for a checkpoint to be in the making. Each start must find a checkpoint that it can read.
    """
    options = {"steps": 500, "d_model": 16}
    whole = trials.train(tmp_path / "whole", **options)
    resuming = {"out": str(tmp_path / "a"), "resume": True, **options}
    folder, moments, reached = tmp_path / "a/checkpoints", random.Random(1), 0

    def names():
        return set(os.listdir(folder)) if folder.exists() else set()

    for trial in range(50):
        before = names()
        process = Process("trials:train", {**resuming, "checkpoint_every": 1})
        if reached:
            wait_until(lambda process=process: "resumed" in process.output, "resuming", process)
        else:
            wait_until(names, "a checkpoint", process)
        time.sleep(moments.uniform(0, 0.03))
        deadline = time.monotonic() + 1
        while trial % 2 and time.monotonic() < deadline and not names() - before:
            pass  # every other kill: as soon as a new name appears
        process.kill()
        assert process.wait() < 0, f"trial {trial}: it ended by itself\n{process.output}"
        step = max((int(name[5:13]) for name in names() if name.endswith(".pt")), default=0)
        assert step >= reached, f"trial {trial}: update {reached} was saved, now the newest is {step}"
        reached = step
    assert reached > 0, "in 50 trials no checkpoint was finished"
    resumed = run("trials:train", **resuming)
    assert resumed["weights_sha256"] == whole["weights_sha256"], "after 50 kills the weights differ"


@pytest.mark.grades("main", "run.train")
def test_program(tmp_path):
    """`python -m run --preset tiny`: records, figure, sample, final line."""
    command = ["--preset", "tiny", "--steps", "2", "--out", str(tmp_path / "a")]
    process = Process("trials:program", {"arguments": command})
    process.answer()
    assert process.returncode == 0, f"status {process.returncode}\n{process.output[-2000:]}"
    last = process.output.strip().splitlines()[-1]
    pattern = r"final step=2 train_loss=\d\.\d+ val_bits_per_byte=\d\.\d+ weights_sha256=[0-9a-f]{64}"
    assert re.fullmatch(pattern, last), f"the last line is {last!r}"
    assert "def " in process.output, "no text sample"
    assert {"checkpoints", "metrics.jsonl", "tensorboard", "loss_curve.png"} <= set(
        os.listdir(tmp_path / "a")
    )


@pytest.mark.grades("main", "run.train", "process_group")
def test_torchrun_restarts_a_killed_worker(tmp_path):
    """Two processes, one killed in the middle: restarted, resumed, and the same weights as without the kill."""
    options = {"steps": 200, "checkpoint_every": 10}
    whole, _ = run_ranks(2, "trials:train", out=str(tmp_path / "whole"), **options)
    # without this the new workers would find the addresses of the old ones in a store that outlives them
    environment = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    launcher = Process(
        "trials:torchrun", {"out": str(tmp_path / "a"), "options": options}, environment, limit_s=60
    )
    try:
        wait_for_step(tmp_path / "a", 25, launcher)
        worker = next((tmp_path / "a").glob("*.pid"))
        os.kill(int(worker.stem), getattr(signal, "SIGKILL", signal.SIGTERM))  # on Windows SIGTERM kills
        launcher.answer()
    finally:
        launcher.kill()
        launcher.wait()
    text = launcher.output
    assert re.search(r"resumed at step \d\d", text), f"the restarted workers did not resume\n{text[-3000:]}"
    found = re.findall(r"weights_sha256=([0-9a-f]{64})", text)
    assert found == [whole["weights_sha256"]], f"other weights than without the kill\n{text[-3000:]}"


@pytest.mark.grades(
    "run.train", "Reporter", "Reporter.step", "Reporter.evaluation", "Reporter.close", "Reporter.records"
)
def test_live_records(tmp_path):
    """TensorBoard events, a loss curve, text samples, and evaluations in between."""
    trials.train(tmp_path, live=True, steps=4, eval_every=2)
    events = list((tmp_path / "tensorboard").glob("events*"))
    assert events, "no TensorBoard events"
    assert events[0].stat().st_size > 500, "no TensorBoard events"
    curve = tmp_path / "loss_curve.png"
    assert curve.exists(), "no loss curve"
    assert curve.read_bytes().startswith(b"\x89PNG"), "no loss curve"
    assert curve.stat().st_size > 5000, "no loss curve"
    lines = [
        json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert [line["step"] for line in lines if "val_bits_per_byte" in line] == [2, 4], (
        "evaluations at 2 and at the end"
    )


@pytest.mark.grades("run.train", "Trainer", "Trainer.step")
def test_precisions_agree_after_100_steps(tmp_path):
    """fp32, bf16 and fp16: the same training loss within 2 % after 100 updates."""
    runs = {
        precision: trials.train(
            tmp_path / precision,
            precision=precision,
            steps=100,
            dropout=0.0,
            batch_size=32,
            data_bytes=30_000,
        )
        for precision in ("fp32", "bf16", "fp16")
    }
    for precision, result in runs.items():
        ratio = result["train_loss"] / runs["fp32"]["train_loss"]
        assert abs(ratio - 1) < 0.02, f"{precision}: the loss is {ratio:.3f} times that of fp32"
        assert result["skipped"] == 0
    assert len({result["weights_sha256"] for result in runs.values()}) == 3, "the precision is ignored"


@pytest.mark.grades(
    "run.train", "ShardedCheckpoint", "ShardedCheckpoint.save", "ShardedCheckpoint.load", "ShardedCheckpoint.paths",
    "Trainer.state_dict", "Trainer.load_state_dict", "parallelize",
)  # fmt: skip
def test_sharded_run_resumes_on_other_numbers_of_ranks(tmp_path):
    """FSDP2 on 2 ranks, its checkpoint continued on 1, 2 and 3: the same end as one process without FSDP."""
    options = {"dropout": 0.0, "steps": 14, "checkpoint_every": 6, "keep_checkpoints": 9}
    plain = trials.train(tmp_path / "plain", **options)
    out = tmp_path / "fsdp"
    whole, other = run_ranks(2, "trials:train", out=str(out), fsdp=True, **options)
    assert whole["weights_sha256"] == other["weights_sha256"], "the ranks see different full weights"
    assert_close(
        whole["val_bits_per_byte"], plain["val_bits_per_byte"], rtol=1e-4, what="bits per byte with FSDP"
    )
    folder = out / "checkpoints/step-00000006"
    assert len(list(folder.glob("*.distcp"))) == 2, "each of 2 ranks must write its slice"
    for n_ranks in (2, 1, 3):
        again = tmp_path / f"again{n_ranks}"
        (again / "checkpoints").mkdir(parents=True)
        shutil.copytree(folder, again / "checkpoints/step-00000006")
        resumed, *_ = run_ranks(n_ranks, "trials:train", out=str(again), fsdp=True, resume=True, **options)
        lines = [
            json.loads(line) for line in (again / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        assert [line["step"] for line in lines if "loss" in line] == list(range(7, 15)), (
            f"saved on 2 ranks after 6 updates, resumed on {n_ranks}: updates 7 to 14 are left"
        )
        if n_ranks == 2:
            assert resumed["weights_sha256"] == whole["weights_sha256"], (
                "resumed on 2 ranks: the weights differ"
            )
        for key in ("val_bits_per_byte", "train_loss"):
            assert_close(
                resumed[key], whole[key], rtol=1e-4, what=f"{key}, saved on 2 ranks, resumed on {n_ranks}"
            )
