"""Grade a folder of answers in a fresh process, and show what came of it."""

from __future__ import annotations

import difflib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.columns import Columns
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.text import Text

from shared.projects import Project
from shared.testing.grading import SYMBOLS, Grade, Report, judge

WHOLE_LIMIT_S = 300  # each test has a limit of its own; this one is for what no signal can interrupt
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
STYLES = {"blank": "dim", "failing": "red", "core": "green", "all": "green"}
PRINTED_LINES = 20


def grade(project: Project, answer: Path) -> Report | str:
    """Grade the files in a folder, on one thread; return the report, or why there is none."""
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder, "grades.jsonl")
        command = [sys.executable, "-m", "pytest", "tests", f"--practice={answer}", f"--grades={told}"]
        try:
            run = subprocess.run(
                [*command, "-q", "--tb=no", "-p", "no:cacheprovider", "--color=no"],
                cwd=project.folder,
                capture_output=True,
                text=True,
                encoding="utf-8",
                errors="replace",
                env={**os.environ, **ONE_THREAD, "PYTHONIOENCODING": "utf-8"},
                timeout=WHOLE_LIMIT_S,
            )
        except subprocess.TimeoutExpired:
            return f"grading took longer than {WHOLE_LIMIT_S} s{_stopped_at(read_lines(told))}: does a loop never end?"
        lines = read_lines(told)
    if run.returncode not in (0, 1) or not lines:
        said = run.stderr.strip().partition("ERROR: ")[2] or "\n".join(
            (run.stdout + run.stderr).splitlines()[-25:]
        )
        return f"{said.strip()}{_stopped_at(lines)}"
    grades = [Grade.from_dict(line["grade"]) for line in lines if "grade" in line]
    return Report(project, judge(lines[0]["units"], lines[0]["blanks"], grades), grades)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read what pytest --grades wrote; the last line may have been cut off."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def _stopped_at(lines: list[dict[str, Any]]) -> str:
    """Name the test that ran when everything ended."""
    last = lines[-1] if lines else {}
    return (
        f"\nwhile {', '.join(last['units']) or 'the file'} was tested ({last['running']})"
        if "running" in last
        else ""
    )


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the end of a sentence about a word that is not known."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; there are {', '.join(known)}"


# --- on the terminal ------------------------------------------------------------------------------------------


def symbols(console: Console) -> dict[str, str]:
    """Return the symbol of each mark that this terminal can show."""
    return {mark: row[not console.encoding.lower().startswith("utf")] for mark, row in SYMBOLS.items()}


def show_verdicts(console: Console, report: Report, *, time: str = "") -> None:
    """Print what fails as a whole, one mark and count per unit, and how much of the core is done."""
    shown = symbols(console)
    if report.spoiled:
        first = report.spoiled.message.splitlines()[0]
        console.print(Text(f"{shown['failing']} the whole file: {first}", style="red"))
    cells = [
        Text(f"{shown[verdict.mark]} {unit}{verdict.count}", style=STYLES[verdict.mark])
        for unit, verdict in report.verdicts.items()
    ]
    console.print(Columns(cells, padding=(0, 2)))
    line = report.core_line + (time if report.is_ready else "")
    beyond = [verdict for unit, verdict in report.verdicts.items() if unit not in report.project.core_units]
    if beyond:
        line += f"; further {sum(verdict.passes for verdict in beyond)}/{len(beyond)}"
    console.print(Text(line, style="bold green" if report.is_ready else "bold"))


def show_failure(console: Console, failure: Grade) -> None:
    """Print one failure: the diagnosis, the test, where it arose, and what the answer printed meanwhile."""
    body = Text(failure.message)
    body.append(f"\n\n{failure.nodeid}", style="dim")
    if failure.purpose:
        body.append(f"\n{failure.purpose}", style="dim")
    if failure.where:
        body.append(f"\nraised in {failure.where}", style="dim")
    title = escape(", ".join(failure.units) or "the whole file")
    console.print(Panel(body, title=title, title_align="left", border_style="red"))
    if failure.printed:
        lines = failure.printed.splitlines()
        text = "\n".join([*(["…"] if len(lines) > PRINTED_LINES else []), *lines[-PRINTED_LINES:]])
        console.print(Panel(Text(text), title="printed meanwhile", title_align="left", border_style="dim"))
