"""Whole programs as learners write them: the right ones run and pass `check`; of the others, `check` finds the planted bug."""

import json
import subprocess
import sys
from pathlib import Path

import cuda_emulator
import pytest

PROGRAMS = Path(__file__).parent / "programs"
CORRECT, BUGGY = PROGRAMS / "correct", PROGRAMS / "planted_bugs"
BOUNDS, CALL, VERDICT = "out of bounds", "failed call", "exit status"

# program, kind of the error, words of its message
BUGS = [
    ("barrier_in_a_branch", "barrier divergence", "threads of one block wait at different __syncthreads()"),
    ("buffer_too_small", CALL, "the destination has 8 bytes left, but 256 are to be copied"),
    ("copies_a_quarter", VERDICT, "FAILED: 150 wrong"),
    ("copy_the_wrong_way_round", CALL, "the order is to, from, bytes, kind"),
    ("device_pointer_on_the_host", "host access", "host code reads device memory"),
    ("filter_too_large", CALL, "20 bytes at offset 0 do not fit the variable's 12"),
    ("histogram_without_atomics", "race", "likely: several threads update one element (atomicAdd()"),
    ("host_pointer_to_kernel", BOUNDS, "a host pointer"),
    ("index_overflows", "integer overflow", "69999 * 40000 does not fit in 'int'"),
    ("matmul_tile_overwritten", "race", "a missing barrier before shared memory is written again"),
    ("order_of_blocks", "output", "depends on the order of the threads"),
    ("reduction_no_barrier", "race", "race: write of cache, byte 4 is not ordered after a read"),
    ("reduction_of_300_threads", VERDICT, "sum 256, expected 300"),
    ("scan_in_place", "race", "race: read of s, byte 4 is not ordered after a write"),
    ("shared_bytes_forgotten", BOUNDS, "of which the launch asked for 64 bytes"),
    ("shuffle_in_a_branch", "absent lane", "which has returned"),
    ("softmax_maximum_overwritten", "race", "of s, byte 0 is not ordered after a"),
    ("stencil_in_place", "race", "an array that is written in place while other threads still read it"),
    ("too_many_threads", CALL, "block (2048, 1, 1) exceeds (1024, 1024, 64)"),
    ("total_never_set_to_zero", "uninitialised shared memory", "total, byte 0 was not written before"),
    ("use_after_free", "use after free", "argument 1 of the kernel"),
    ("vector_add_no_guard", BOUNDS, "no guard for the tail"),
]
WARNED = "failed_but_status_0"


def emulator(*words: object) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does."""
    command = [sys.executable, "-m", cuda_emulator.__name__, *map(str, words)]
    return subprocess.run(command, cwd=PROGRAMS.parents[2], capture_output=True, text=True, timeout=120)


def check(path: Path) -> tuple[int, dict]:
    done = emulator("check", "--json", path)
    assert not done.stderr, done.stderr
    return done.returncode, json.loads(done.stdout)


def marked_lines(path: Path) -> list[int]:
    return [i for i, line in enumerate(path.read_text().splitlines(), 1) if "// BUG" in line]


@pytest.mark.parametrize("path", sorted(CORRECT.glob("*.cu")), ids=lambda path: path.stem)
def test_a_right_program_runs_and_nothing_is_found(path):
    done = emulator("run", path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "FAILED" not in done.stdout
    status, report = check(path)
    assert (status, report["ok"], report["findings"]) == (0, True, [])
    assert [run["status"] for run in report["runs"]] == [0] * 5


@pytest.mark.parametrize(("name", "kind", "words"), BUGS, ids=[name for name, *_ in BUGS])
def test_a_planted_bug_is_found(name, kind, words):
    path = BUGGY / f"{name}.cu"
    status, report = check(path)
    errors = [one for one in report["findings"] if one["severity"] == "error"]
    assert (status, report["ok"]) == (1, False)
    named = [one for one in errors if one["kind"] == kind and words in one["message"]]
    assert named, errors
    places = {(Path(one["file"]).name, one["line"]) for one in errors if one["file"]}
    assert places <= {(path.name, line) for line in marked_lines(path)}, errors
    assert places or kind in (VERDICT, "output"), errors


def test_a_program_that_prints_its_verdict_and_returns_0():
    """It breaks no rule and prints the same in every order; that it says FAILED is a warning, since words are no proof."""
    assert "FAILED" in emulator("run", BUGGY / f"{WARNED}.cu").stdout
    status, report = check(BUGGY / f"{WARNED}.cu")
    (finding,) = report["findings"]
    assert (status, finding["kind"], finding["severity"]) == (0, "verdict", "warning")
    assert "FAILED" in finding["message"]


def test_every_program_is_in_a_table():
    names = {path.stem for path in BUGGY.glob("*.cu")}
    assert names == {name for name, *_ in BUGS} | {WARNED}
    assert all(marked_lines(BUGGY / f"{name}.cu") for name in names)
