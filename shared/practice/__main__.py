"""Write a deliverable yourself and be told precisely what is wrong: ``nox -s practice -- activations``.

Learner files live in practice/<project>/ at the root, ignored by git. The first call writes the blank file; every call
grades it with the project's own tests and shows the first failure. Without a project: the board.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.columns import Columns
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.syntax import Syntax
from rich.text import Text

from shared.testing.grading import Grade, first_problem, marks
from shared.practice.learner import Practice
from shared.projects import ROOT, Project, load_projects, load_study_list
from shared.practice.json_file import timestamp

LEVELS = ("nudge", "idea", "formula")
GRADING_LIMIT_S = 300
STYLES = {"passing": "green", "failing": "red", "blank": "dim"}
UNICODE = {"passing": "✓", "failing": "✗", "blank": "·"}
ASCII = {"passing": "+", "failing": "x", "blank": "."}


# --- grading ----------------------------------------------------------------------------------------------


def grade(practice: Practice, project: Project) -> list[Grade] | str:
    """Grade the learner's files in a fresh process; return the grades, or why there are none."""
    digest = practice.digest(project)  # before the run: an edit during it is not graded yet
    for path in practice.files(project):
        if not path.exists():
            return f"{path.name} is gone; run this again for a blank"
        if path.suffix != ".py":
            continue
        try:
            compile(path.read_text(encoding="utf-8"), path.name, "exec")
        except (SyntaxError, UnicodeDecodeError) as error:
            return f"{path.name} does not parse: {error}"
    with tempfile.TemporaryDirectory() as folder:
        answers, result = Path(folder, "grades.json"), practice.folder / project.name
        command = [sys.executable, "-m", "pytest", f"--practice={result}", f"--grades={answers}", "-q"]
        try:
            run = subprocess.run(
                [*command, "-p", "no:cacheprovider", "--color=no"],
                cwd=project.folder,
                capture_output=True,
                text=True,
                encoding="utf-8",
                errors="replace",
                env={**os.environ, "PYTHONIOENCODING": "utf-8"},
                timeout=GRADING_LIMIT_S,
            )
        except subprocess.TimeoutExpired:
            return f"grading took longer than {GRADING_LIMIT_S} s: does a loop never end?"
        if run.returncode not in (0, 1) or not answers.exists():
            return "\n".join((run.stdout + run.stderr).strip().splitlines()[-25:])
        rows = json.loads(answers.read_text(encoding="utf-8"))
    grades = [Grade(**{**row, "units": tuple(row["units"])}) for row in rows]
    verdicts = marks(project.units, grades)
    practice.remember(project, marks=verdicts, digest=digest)
    practice.tick(project)
    if set(verdicts.values()) == {"passing"}:
        practice.finish_attempt(project)
    return grades


def grade_and_show(practice: Practice, project: Project) -> None:
    """Grade once and show the verdict on every function and the first failure with its diagnosis."""
    console = practice.console
    with console.status(f"grading {project.name}…"):
        grades = grade(practice, project)
    if isinstance(grades, str):
        console.print(Panel(escape(grades), title="cannot be graded", border_style="red"))
        return
    verdicts = practice.recall(project, "marks")
    symbols = _symbols(console)
    cells = [Text(f"{symbols[mark]} {unit}", style=STYLES[mark]) for unit, mark in verdicts.items()]
    console.print(Columns(cells, padding=(0, 2)))
    problem = first_problem(grades)
    if problem is None:
        console.print(
            f"[green]All {len(verdicts)} functions pass.[/] See the reference beside yours: --solution. "
            f"How fast is it? cd projects/{project.name} && python benchmark.py --quick"
        )
        return
    again = f"nox -s practice -- {project.name}"
    if problem.outcome == "blank":
        unit = next(unit for unit, mark in verdicts.items() if mark != "passing")
        where = next((g.where for g in grades if unit in g.units and g.where), project.name)
        console.print(f"Next: write [bold]{unit}[/] ({escape(where)}). Stuck? {again} --hint")
        return
    body = Text(problem.message)
    body.append(f"\n\n{problem.nodeid}", style="dim")
    if problem.purpose:
        body.append(f"\n{problem.purpose}", style="dim")
    if problem.where:
        body.append(f"\nraised in {problem.where}", style="dim")
    title = ", ".join(problem.units) or "the whole file"
    console.print(Panel(body, title=title, title_align="left", border_style="red"))
    console.print(f"Stuck? {again} --hint{f' {problem.units[0]}' if problem.units else ''}", highlight=False)


def watch(practice: Practice, project: Project) -> None:
    """Grade again whenever a file of the learner changes, until interrupted."""
    import watchfiles

    grade_and_show(practice, project)
    folder = practice.folder / project.name
    only_sources = watchfiles.PythonFilter(extra_extensions=(".cu",))
    practice.console.print(f"Watching {folder}; Ctrl-C ends.", style="dim")
    for _ in watchfiles.watch(folder, watch_filter=only_sources, raise_interrupt=False):
        practice.console.rule(timestamp()[9:15])
        grade_and_show(practice, project)


# --- board, hints, solution -------------------------------------------------------------------------------


def _symbols(console: Console) -> dict[str, str]:
    return UNICODE if console.encoding.lower().startswith("utf") else ASCII


def minutes(seconds: float) -> str:
    """Return a time as ``m:ss``."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def show_board(practice: Practice, projects: Sequence[Project]) -> None:
    """Print one row per project in reading order, with one mark per public function."""
    symbols = _symbols(practice.console)
    legend = "  ".join(f"{symbol} {mark}" for mark, symbol in symbols.items())
    practice.console.print(f"Practice board    {legend}\n", highlight=False)
    width = max((len(project.name) for project in projects), default=0)
    for project in projects:
        known = practice.recall(project, "marks")
        verdicts = {unit: known.get(unit, "blank") for unit in project.units}
        row = Text(f"{project.order:>3}  {project.name:<{width}}  ")
        for mark in verdicts.values():
            row.append(symbols.get(mark, "?"), style=STYLES.get(mark, ""))
        passing = list(verdicts.values()).count("passing")
        row.append(f"  {passing}/{len(verdicts)}")
        if times := practice.recall(project, "times"):
            row.append(f"  best {minutes(times['best'])}, last {minutes(times['last'])}", style="dim")
        if known and practice.progress[project.name].get("digest") != practice.digest(project):
            row.append("  edited since it was graded", style="yellow")
        practice.console.print(row)
    if planned := load_study_list().planned:
        practice.console.print(f"\nplanned: {', '.join(planned)}", style="dim", highlight=False)
    practice.console.print(
        "\nnox -s practice -- NAME writes the blank file, then grades it.", highlight=False
    )


def show_hint(practice: Practice, project: Project, wanted: str) -> None:
    """Show the hints of one function up to the next level: nudge, idea, formula."""
    console, hints = practice.console, project.hints
    verdicts = practice.recall(project, "marks")
    unit = wanted or next((u for u in project.units if verdicts.get(u) != "passing"), project.units[0])
    if unit not in hints:
        raise SystemExit(f"no function {unit!r} in {project.name}; there are {', '.join(project.units)}")
    given = practice.recall(project, "hints")
    level = min(int(given.get(unit, 0)) + 1, len(LEVELS))
    practice.remember(project, hints={**given, unit: level})
    for name in LEVELS[:level]:
        console.print(Panel(escape(hints[unit][name].strip()), title=f"{unit}: {name}", title_align="left"))
    if level < len(LEVELS):
        console.print("Ask again for the next level.", style="dim")


def show_solution(practice: Practice, project: Project, give_up: bool) -> None:
    """Print the reference, once every function passes or when the learner gives up."""
    verdicts = practice.recall(project, "marks")
    missing = [unit for unit in project.units if verdicts.get(unit) != "passing"]
    if missing and not give_up:
        raise SystemExit(f"not yet: {', '.join(missing)}. Add --give-up to see the reference all the same.")
    if missing and (attempt := practice.recall(project, "attempt")):
        practice.remember(project, attempt={**attempt, "gave_up": 1.0})
    for name in project.sources:
        path = project.folder / name
        source = path.read_text(encoding="utf-8")
        language = "cuda" if path.suffix == ".cu" else "python"
        practice.console.rule(str(path.relative_to(ROOT)))
        practice.console.print(Syntax(source, language) if practice.console.is_terminal else Text(source))


def _short(path: Path) -> Path:
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def main(arguments: Sequence[str] | None = None, *, folder: Path = ROOT / "practice") -> int:
    """Run the command line."""
    projects = {project.name: project for project in load_projects()}
    parser = argparse.ArgumentParser(prog="nox -s practice --", description="Write a deliverable yourself.")
    parser.add_argument("project", nargs="?", choices=projects, metavar="PROJECT", help=", ".join(projects))
    parser.add_argument("--watch", action="store_true", help="grade again whenever you save")
    parser.add_argument(
        "--hint", nargs="?", const="", metavar="FUNCTION", help="nudge, then idea, then formula"
    )
    parser.add_argument("--reset", action="store_true", help="start from the blank again; your file is kept")
    parser.add_argument("--solution", action="store_true", help="show the reference, once you pass")
    parser.add_argument("--give-up", action="store_true", help="with --solution: show it now")
    options = parser.parse_args(arguments)
    asked = options.watch or options.hint is not None or options.reset or options.solution
    if options.project is None and asked:
        parser.error(f"which project? One of {', '.join(projects)}")
    if options.give_up and not options.solution:
        parser.error("--give-up goes with --solution")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without Unicode still shows the diagnosis
    console = Console()
    practice = Practice(folder, console)
    if options.project is None:
        show_board(practice, list(projects.values()))
        return 0
    project = projects[options.project]
    if options.reset:
        for backup in practice.reset(project):
            console.print(f"your answer is kept in {_short(backup)}")
    for path in practice.write_blanks(project):
        missing = "#error" if path.suffix == ".cu" else "NotImplementedError"
        console.print(f"wrote {_short(path)}: replace each {missing}, then run this again")
    if options.hint is not None:
        show_hint(practice, project, options.hint)
    elif options.solution:
        show_solution(practice, project, options.give_up)
    elif options.watch:
        watch(practice, project)
    else:
        grade_and_show(practice, project)
    return 0


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except OSError as problem:  # a folder that cannot be written, a file that is a folder
        raise SystemExit(f"practice: {problem}") from None
