"""Measuring: the order of calls, what a row holds, and the provenance."""

import json
import re
import subprocess
import sys
import time

import numpy as np
import pytest

from shared.measuring import benchmark as bench
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


def test_a_benchmark_names_what_it_measures(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "--quick"])
    benchmark = bench.Benchmark(str(tmp_path / "benchmark.py"))
    benchmark.compare("g", "c", ours=lambda: None, peers={"plain": lambda: None}, name="fast")
    benchmark.compare("h", "c", ours=lambda: None, peers={"plain": lambda: None})
    benchmark.save()
    shown = capsys.readouterr().out
    assert "| case | fast, ms | plain / fast | noise |" in shown
    assert "| case | ours, ms | plain / ours | noise |" in shown


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

    generated = ("projects/x/results/cpu.json", "projects/x/README.md", "projects/x/MEASURED.md")
    for name in ("shared/measuring/benchmark.py", "projects/x/x.py", *generated):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("before")
    monkeypatch.setattr(bench, "__file__", str(tmp_path / "shared" / "measuring" / "benchmark.py"))
    assert bench._commit() == "unknown"
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "all")
    for name in generated:
        (tmp_path / name).write_text("after")
    assert re.fullmatch("[0-9a-f]{12}", bench._commit())
    (tmp_path / "projects/x/x.py").write_text("after")
    assert re.fullmatch("[0-9a-f]{12} with local changes", bench._commit())


# --- a learner's file -------------------------------------------------------------------------------------------

SCRIPT = """
import subprocess
import sys
from pathlib import Path

import numpy as np

import extra
import mini

sys.modules["torch"] = None  # it takes seconds to import
from shared.measuring import benchmark

benchmark.ROOT = Path(__file__).resolve().parents[1]
bench = benchmark.Benchmark(__file__)
bench.compare("scale", "ones", ours=lambda: mini.scale(np.ones(3)), peers={"extra": extra.nothing}, rounds=2)
child = subprocess.run([sys.executable, "-c", "import mini; print(mini.__file__)"], capture_output=True, text=True)
print("loaded", mini.__file__, extra.__file__, child.stdout)
bench.save()
"""
HERS = """
import numpy as np

def scale(x, factor=2.0):
    \"""Return factor·x.\"""
    raise NotImplementedError
"""


@pytest.fixture
def measure(mini):
    """Return a function that measures an answer for mini.py, and says how the process ended."""
    (mini.folder / "benchmark.py").write_text(SCRIPT)
    (mini.folder / "extra.py").write_text("def nothing(): pass\n")
    for name in ("README.md", "MEASURED.md"):
        (mini.folder / name).write_text("as it was")

    def run(answer, *options):
        practice = mini.folder.parent / "practice" / "mini"
        practice.mkdir(parents=True)
        if answer is not None:
            (practice / "mini.py").write_text(answer)
        command = [sys.executable, "benchmark.py", *options]
        ended = subprocess.run(command, cwd=mini.folder, capture_output=True, text=True, check=False)
        assert not (mini.folder / "results").exists()
        assert {(mini.folder / name).read_text() for name in ("README.md", "MEASURED.md")} == {"as it was"}
        return practice, ended

    return run


def test_practice_measures_the_learners_file_and_writes_nothing(measure, mini):
    practice, ended = measure(HERS.replace("raise NotImplementedError", "return x + x"), "--practice")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("measuring mini.py in practice/mini; extra.py, more.py of the reference\n")
    hers, reference = str(practice / "mini.py"), str(mini.folder / "extra.py")
    assert f"loaded {hers} {reference} {hers}\n" in ended.stdout  # in a process that a benchmark starts, too
    assert "| case | ours, ms | extra / ours | noise |" in ended.stdout


def test_without_practice_it_is_the_reference(measure, mini):
    _, ended = measure(HERS, "--quick")
    assert f"loaded {mini.folder / 'mini.py'} " in ended.stdout
    assert "measuring" not in ended.stdout


def test_practice_without_a_file_is_one_line(measure):
    practice, ended = measure(None, "--practice")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == f"no mini.py in {practice}: nox -s practice -- mini writes it\n"


def test_practice_with_a_blank_is_one_line(measure):
    _, ended = measure(HERS, "--practice")
    assert (ended.returncode, ended.stderr) == (1, "mini.py: scale is not written yet\n")


def test_practice_shows_any_other_error_whole(measure):
    _, ended = measure(HERS.replace("NotImplementedError", "ValueError('odd')"), "--practice")
    assert ended.returncode == 1
    assert ended.stderr.startswith("Traceback")
    assert ended.stderr.endswith("ValueError: odd\n")
