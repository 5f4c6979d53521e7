"""Whole programs on the emulator: a .cu file with its main, or a PyCUDA script; `run` once, `check` under every schedule."""

from __future__ import annotations

import json
import os
import re
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from . import control, toolchain

NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
# A line that speaks of time or speed, or has an address: no two runs share it. "10 time steps" is a result.
TIMING = re.compile(
    r"\d\s*(?:[mun]?s|secs?|seconds?|milliseconds?)\b|[GT]?FLOP/?s|[GMk]i?B/s|\b(?:elapsed|duration|speed-?up)\b"
    r"|time(?!s?[ -]?step)|0x[0-9a-f]{6}|^\*\*\* compiler output in ",
    re.IGNORECASE,
)
# What programs print of a result that is wrong; "0 FAILED" is not.
VERDICT = re.compile(r"(?<!\b0 )\b(?:FAILED|FAIL|WRONG|INCORRECT|MISMATCH|[Dd]o(?:es)? not match)\b")
REPORTED = ("kind", "severity", "message", "file", "line", "kernel")
AGAIN = "checked forward, again"
AGREE = 1e-3  # relative: sums of floats in another order differ by less


@dataclass
class Finding:
    """What one or more runs of a program have shown.

    Parameters
    ----------
    kind : as in `Report`; or "exit status", "output", "verdict"
    severity : "error" or "warning"
    message : the whole text
    file, line, kernel : where; "" and 0 where it has no place
    runs : those that have shown it, such as "checked reverse"
    """

    kind: str
    severity: str
    message: str
    file: str = ""
    line: int = 0
    kernel: str = ""
    runs: list[str] = field(default_factory=list)


@dataclass
class Run:
    """One run of a program: how, how it ended, how long it took, what it wrote, and what the emulator reported."""

    name: str
    status: int
    seconds: float
    output: str
    errors: str
    reports: list[dict[str, Any]]


def run(path: Path, arguments: list[str], *, mode: str, options: tuple[str, ...] = ()) -> int:
    """Run a program in the terminal; return its exit status, or 1 where it ends well after an error was found."""
    speak = "warnings" if path.suffix == ".py" else "all"  # in a script an error is an exception
    done, reports = _start(path, arguments, mode, options, {"CUDA_EMULATOR_SPEAK": speak}, capture=False)
    if done.returncode < 0:
        print(_signal(done.returncode), file=sys.stderr)
        return 128 - done.returncode
    return done.returncode or int(any(report["severity"] == "error" for report in reports))


def check(
    path: Path, arguments: list[str], *, options: tuple[str, ...] = ()
) -> tuple[list[Run], list[Finding]]:
    """Run a program under every schedule, and once in plain mode; return the runs and what they have shown."""

    def once(mode: str, schedule: str, name: str) -> Run:
        # Fresh memory holds other bytes in plain mode: what a program makes of it shows.
        environment = {
            "CUDA_EMULATOR_SCHEDULE": schedule,
            "CUDA_EMULATOR_FILL": "0" if mode == "plain" else "255",
        }
        start = time.perf_counter()
        done, reports = _start(path, arguments, mode, options, environment, capture=True)
        return Run(name, done.returncode, time.perf_counter() - start, done.stdout, done.stderr, reports)

    runs = [once("checked", schedule, f"checked {schedule}") for schedule in control.SCHEDULES]
    runs.append(once("plain", "forward", "plain"))
    found = findings(runs)
    if any(one.kind == "output" for one in found):
        # Is it the order, or does the program print something else each time?
        runs.append(once("checked", "forward", AGAIN))
        found = findings(runs)
    return runs, found


def findings(runs: list[Run]) -> list[Finding]:
    """Gather what the runs have shown, each once: the errors first."""
    found: dict[tuple[str, str, int], Finding] = {}
    whole = [one for one in runs if not any(report["severity"] == "error" for report in one.reports)]
    again = [one for one in whole if one.name == AGAIN and different_line(whole[0].output, one.output)]
    for one in runs:
        new = [Finding(**{name: report[name] for name in REPORTED}) for report in one.reports]
        if one in whole:  # the others stopped somewhere
            new += _ending(one)
            new += [] if one.status else _difference(whole[0], one, always=bool(again))
        for finding in new:
            known = found.setdefault((finding.kind, finding.file, finding.line), finding)
            known.runs += [one.name] if one.name not in known.runs else []
    return sorted(found.values(), key=lambda finding: finding.severity)


def _ending(one: Run) -> list[Finding]:
    """Return what a run says of itself: its status, or a line such as "FAILED"."""
    if one.status:
        ending = _signal(one.status) if one.status < 0 else f"the program ends with status {one.status}"
        last = "\n    ".join((one.errors or one.output).strip().splitlines()[-8:])
        return [Finding("exit status", "error", f"{ending}\n    {last}".rstrip())]
    wrong = [line for line in one.output.splitlines() if VERDICT.search(line)]
    text = "the program ends with status 0, but prints\n    "
    return [Finding("verdict", "warning", text + wrong[0])] if wrong else []


def _difference(first: Run, one: Run, *, always: bool) -> list[Finding]:
    """Return what a run prints otherwise than the first one; `always`: so does the first one itself."""
    lines = different_line(first.output, one.output)
    if not lines:
        return []
    what = "something else in each run" if always else "what depends on the order of the threads"
    if one.name == "plain" and not always:
        what += ", or on memory that nobody has written"
    text = f"the program prints {what}\n    {first.name}: {lines[0]}\n    {one.name}: {lines[1]}"
    return [Finding("output", "warning" if always else "error", text)]


def different_line(first: str, second: str) -> tuple[str, str] | None:
    """Return the first line in which two outputs differ by more than rounding, wherever it stands; lines about time do not count."""
    one, other = ([line for line in text.splitlines() if not TIMING.search(line)] for text in (first, second))
    if len(one) == len(other) and all(map(_same, sorted(one), sorted(other))):
        return None  # threads may print in any order
    for a, b in zip(one, other, strict=False):
        if not _same(a, b):
            return a, b
    if len(one) != len(other):
        longer = max(one, other, key=len)[min(len(one), len(other))]
        return (longer, "(nothing)") if len(one) > len(other) else ("(nothing)", longer)
    return None


def _same(a: str, b: str) -> bool:
    if NUMBER.sub("#", a) != NUMBER.sub("#", b):
        return False
    pairs = zip(map(float, NUMBER.findall(a)), map(float, NUMBER.findall(b)), strict=True)
    return all(x == y or abs(x - y) <= AGREE * max(abs(x), abs(y)) for x, y in pairs)


def summary(path: Path, runs: list[Run], found: list[Finding]) -> str:
    """Return the findings in words."""
    pages = [
        f"{one.severity}: {one.kind}{f' at {one.file}:{one.line}' if one.file else ''} ({_in(one.runs, runs)})\n    {one.message}"
        for one in found
    ]
    errors = sum(one.severity == "error" for one in found)
    counts = f"{errors} error{'s' * (errors != 1)}, {len(found) - errors} warning{'s' * (len(found) - errors != 1)}"
    ending = counts if found else "nothing found"
    return "\n\n".join(
        [*pages, f"{path}: {ending} in {len(runs)} runs ({', '.join(one.name for one in runs)})"]
    )


def _in(names: list[str], runs: Iterable[Run]) -> str:
    missing = [one.name for one in runs if one.name not in names]
    return "in every run" if not missing else "in " + ", ".join(dict.fromkeys(names))


def as_json(path: Path, runs: list[Run], found: list[Finding]) -> str:
    """Return the same for a script."""
    shown = [{"name": one.name, "status": one.status, "seconds": round(one.seconds, 3)} for one in runs]
    ok = not any(one.severity == "error" for one in found)
    return json.dumps(
        {"file": str(path), "ok": ok, "runs": shown, "findings": [asdict(one) for one in found]}, indent=2
    )


# --- how a program is started ------------------------------------------------------------------------------------------


def _start(
    path: Path,
    arguments: list[str],
    mode: str,
    options: tuple[str, ...],
    environment: dict[str, str],
    *,
    capture: bool,
) -> tuple[subprocess.CompletedProcess[str], list[dict[str, Any]]]:
    """Run a program or a script, and wait for it; return how it ended, and what the emulator reported."""
    if path.suffix == ".py":
        # The standard library and the script's own folder come before this one.
        code = f"import sys; sys.path.append({str(toolchain.HERE.parent)!r}); "
        code += f"from {toolchain.HERE.name}.programs import run_script; run_script(sys.argv[1:])"
        executable, command = None, [sys.executable, "-c", code, str(path), *arguments]
    else:
        executable = toolchain.compile_program(path, mode=mode, options=options)
        command = [str(path.with_suffix("")), *arguments]  # its name is the same in every mode
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "reports")
        whole = {**os.environ, "CUDA_EMULATOR_REPORTS": str(log), "CUDA_EMULATOR_MODE": mode, **environment}
        done = subprocess.run(
            command, executable=executable, env=whole, capture_output=capture, text=True, errors="replace"
        )
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    return done, [json.loads(line) for line in lines]


def run_script(words: list[str]) -> None:
    """Run a PyCUDA script in this process, as `python script.py` does."""
    path = Path(words[0])
    os.environ["CUDA_EMULATOR_ROOT"] = os.getcwd()
    control.activate_anyway([path.resolve().parent, Path.cwd()], announce=False)
    control.read_environment()
    sys.argv = words
    sys.path[0] = str(path.resolve().parent)
    runpy.run_path(str(path), run_name="__main__")


def _signal(status: int) -> str:
    text = f"the program was ended by {signal.Signals(-status).name}"
    if -status == signal.SIGSEGV:
        text += ": its host code touched memory that is not there"
    return text
