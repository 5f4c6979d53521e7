"""Measuring: the order of calls, what a row holds, and the provenance."""

import json
import re
import subprocess
import sys
import time

import numpy as np
import pytest

from shared import bench
from shared.measuring.readme import benchmark_tables


def spin(seconds):
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def test_candidates_take_turns_and_each_round_starts_with_another():
    calls = []
    times = bench.interleave(
        {name: lambda name=name: calls.append(name) for name in "abc"}, rounds=3, sample_seconds=0.0
    )
    rounds = "".join(
        calls[6:]
    )  # two warm-up calls each; then per round one call to warm the caches, one timed
    assert rounds == "bbccaa" + "ccaabb" + "aabbcc"
    assert {name: len(values) for name, values in times.items()} == {"a": 3, "b": 3, "c": 3}


def test_a_fast_call_is_repeated_until_a_sample_lasts():
    count = 0

    def call():
        nonlocal count
        count += 1

    bench.interleave({"fast": call}, rounds=1, sample_seconds=0.001)
    assert count > 100


def test_a_row_is_a_ratio_to_a_peer_with_its_noise_and_target(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmark.py"])
    monkeypatch.setattr(bench, "ROUNDS", 8)
    monkeypatch.setattr(bench, "cpu_name", lambda: "Test CPU (R) 9000")
    (tmp_path / "README.md").write_text("")
    benchmark = bench.Benchmark(str(tmp_path / "benchmark.py"))
    benchmark.compare(
        "waiting",
        "4 ms",
        ours=lambda: spin(0.004),
        peers={"slow": lambda: spin(0.008), "same": lambda: spin(0.004)},
        targets={"slow": 1.5, "same": 3.0},
    )
    benchmark.record("memory", "x", {"peak": "3 MB"})
    benchmark.save()
    result = json.loads((tmp_path / "results" / "test-cpu-9000.json").read_text())
    row = result["rows"][0]
    assert row["ratios"]["slow"]["median"] == pytest.approx(2.0, rel=0.5)
    assert row["ratios"]["slow"]["low"] <= row["ratios"]["slow"]["median"] <= row["ratios"]["slow"]["high"]
    assert {"device", "threads", "python", "versions", "date", "commit"} <= set(result["provenance"])
    table = benchmark_tables([result])
    assert "| case | ours, ms | slow / ours | same / ours | noise |" in table
    assert "**below** 3 |" in table
    assert "Test CPU (R) 9000, 1 thread" in table
    assert "| x | 3 MB |" in table
    assert "4 ms" in capsys.readouterr().out


def test_quick_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "--quick"])
    benchmark = bench.Benchmark(str(tmp_path / "benchmark.py"))
    benchmark.compare("g", "c", ours=lambda: None, peers={"p": lambda: None})
    benchmark.save()
    assert list(tmp_path.iterdir()) == []


def test_peak_extra_bytes_sees_a_temporary():
    x = np.ones(1_000_000)
    assert bench.peak_extra_bytes(lambda: (x + 1).sum()) == pytest.approx(8e6, rel=0.01)
    assert bench.peak_extra_bytes(lambda: np.add(x, 1, out=x)) < 10_000


def test_the_commit_is_named_and_generated_files_do_not_count_as_changes(tmp_path, monkeypatch):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)

    for name in ("shared/bench.py", "projects/x/x.py", "projects/x/results/cpu.json", "projects/x/README.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("before")
    monkeypatch.setattr(bench, "__file__", str(tmp_path / "shared" / "bench.py"))
    assert bench._commit() == "unknown"
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "all")
    (tmp_path / "projects/x/results/cpu.json").write_text("after")
    (tmp_path / "projects/x/README.md").write_text("after")
    assert re.fullmatch("[0-9a-f]{12}", bench._commit())
    (tmp_path / "projects/x/x.py").write_text("after")
    assert re.fullmatch("[0-9a-f]{12} with local changes", bench._commit())
