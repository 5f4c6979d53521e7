"""Write a deliverable yourself and be told precisely what is wrong: ``nox -s practice -- activations``.

Learner files live in practice/<project>/ at the root, ignored by git. The first call writes the blank of the core; every
call grades what is there with the project's own tests and shows the first failure. Without a project: the board.
"""

from __future__ import annotations

import argparse
import ast
import io
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from shared.practice.grade import STYLES, did_you_mean, grade, show_failure, show_verdicts, symbols
from shared.practice.json_file import run_command
from shared.practice.learner import Learner, digest, minutes
from shared.practice.questions import load_drills
from shared.practice.schedule import WRITE
from shared.projects import ROOT, Project, load_projects, load_study_list, name_in_file
from shared.testing.grading import SYMBOLS, Report

LEVELS = ("nudge", "idea", "formula")
MOST_MARKS = 24  # on the board; more units than that are shown as a number


# --- grading ----------------------------------------------------------------------------------------------


def grade_and_show(learner: Learner, project: Project) -> None:
    """Grade once and show the verdict on every unit and the first failure with its diagnosis."""
    console, files = learner.console, learner.files(project)
    if gone := [path for path in files if not path.exists()]:
        console.print(Panel(f"{gone[0].name} is gone; run this again for a blank", title="cannot be graded"))
        return
    before = digest(files)  # an edit during the run is not graded yet
    with console.status(f"grading {project.name}…"):
        report = grade(project, learner.folder / project.name)
    if isinstance(report, str):
        console.print(Panel(escape(report), title="cannot be graded", border_style="red"))
        return
    marks = {unit: verdict.mark for unit, verdict in report.verdicts.items()}
    learner.remember(project.name, marks=marks, digest=before, ready=report.is_ready)
    learner.tick(project.name)
    seconds = learner.finish(project.name, f"{WRITE}{project.name}") if report.is_ready else None
    show_verdicts(console, report, time=f" in {minutes(seconds)}" if seconds is not None else "")
    again = f"nox -s practice -- {project.name}"
    if failure := report.failure:
        show_failure(console, failure)
        hint = f" {failure.units[0]}" if failure.units else ""
        console.print(f"Stuck? {again} --hint{hint}", highlight=False, soft_wrap=True)
    elif unit := next((unit for unit, mark in marks.items() if mark == "blank"), None):
        where = f"{Path(project.source_of[unit]).name}:{_line_of(unit, project, learner)}"
        console.print(
            f"Next: write [bold]{unit}[/] ({where}). Stuck? {again} --hint", highlight=False, soft_wrap=True
        )
    if report.is_ready:
        show_what_next(console, project, report)


def show_what_next(console: Console, project: Project, report: Report) -> None:
    """Say what a pass opens: the reference, a measurement, and what an interviewer asks next."""
    again = f"nox -s practice -- {project.name}"
    console.print(
        f"The reference beside yours: {again} --solution {project.core_units[0]}",
        highlight=False,
        soft_wrap=True,
    )
    console.print(
        f"How fast is it? cd projects/{project.name} && python benchmark.py --practice", highlight=False
    )
    if project.further_sources and not set(report.verdicts) - set(project.core_units):
        console.print(f"There is more: {again} --further", highlight=False, soft_wrap=True)
    asked = [follow_up.question for drill in load_drills(project.folder) for follow_up in drill.follow_ups]
    for question in random.sample(asked, min(2, len(asked))):
        console.print(
            f"An interviewer asks next: [italic]{escape(question)}[/]", highlight=False, soft_wrap=True
        )
    console.print(f"What to say: nox -s drill -- --project {project.name}", highlight=False, soft_wrap=True)


def _line_of(unit: str, project: Project, learner: Learner) -> int:
    path = learner.folder / project.name / project.source_of[unit]
    node = find_unit(path, name_in_file(unit, project.source_of[unit])) if path.suffix == ".py" else None
    return node.lineno if node else 1


def watch(learner: Learner, project: Project) -> None:
    """Grade again whenever a file of the learner differs from what was graded last, until interrupted."""
    import watchfiles

    folder = learner.folder / project.name
    only_sources = watchfiles.PythonFilter(extra_extensions=(".cu",))
    graded = ""
    # it wakes up every second too: an edit that came while a grading ran, or before the watch began, is seen as well
    wake = watchfiles.watch(
        folder, watch_filter=only_sources, raise_interrupt=False, yield_on_timeout=True, rust_timeout=1000
    )
    while True:
        while (now := digest(learner.files(project))) != graded:
            if graded:
                learner.console.rule(time.strftime("%H:%M:%S"))
            graded = now
            grade_and_show(learner, project)
            learner.console.print(f"Watching {folder}; Ctrl-C ends.", style="dim")
        if next(wake, None) is None:
            return


# --- board, hints, solution -------------------------------------------------------------------------------


def show_board(learner: Learner, projects: Sequence[Project]) -> None:
    """Print one row per project in reading order, with one mark per unit of the core."""
    console = learner.console
    shown = symbols(console)
    legend = "  ".join(f"{shown[mark]} {SYMBOLS[mark][2]}" for mark in SYMBOLS)
    console.print(f"Practice board    {legend}\n", highlight=False, soft_wrap=True)
    table = Table.grid(padding=(0, 2, 0, 0))
    for project in projects:
        entry = learner.entry(project.name)
        known = {unit: mark for unit, mark in entry.get("marks", {}).items() if mark in SYMBOLS}
        marks = [known.get(unit, "blank") for unit in project.core_units]
        passing = sum(mark in ("core", "all") for mark in marks)
        star = bool(known) and all(known.get(unit) == "all" for unit in project.units)
        row = Text()
        for mark in marks if len(marks) <= MOST_MARKS else []:
            row.append(shown[mark], style=STYLES[mark])
        state = Text(shown["all"] if star else "ready" if entry.get("ready") else "", style="green")
        times = entry.get("times")
        best = f"best {minutes(times['best'])}" if times else ""
        edited = known and entry.get("digest") != digest(learner.files(project))
        last = Text("edited" if edited else "", style="yellow")
        table.add_row(f"{project.order:>2}", project.name, row, f"{passing}/{len(marks)}", state, best, last)
    console.print(table)
    if planned := load_study_list().planned:
        console.print(f"\nplanned: {', '.join(planned)}", style="dim", highlight=False, soft_wrap=True)
    console.print(
        "\nnox -s practice -- NAME writes the blank file, then grades it.", highlight=False, soft_wrap=True
    )


def show_hint(learner: Learner, project: Project, wanted: str) -> None:
    """Show the hints of one unit up to the next level: nudge, idea, formula."""
    console, hints, marks = learner.console, project.hints, learner.recall(project.name, "marks")
    unit = wanted or next((u for u in project.units if marks.get(u) not in ("core", "all")), project.units[0])
    if unit not in hints:
        raise SystemExit(f"no {unit!r} in {project.name}{did_you_mean(unit, project.units)}")
    given = learner.recall(project.name, "hints")
    level = min(int(given.get(unit, 0)) + 1, len(LEVELS))
    learner.remember(project.name, hints={**given, unit: level})
    for name in LEVELS[:level]:
        console.print(Panel(escape(hints[unit][name].strip()), title=f"{unit}: {name}", title_align="left"))
    if level < len(LEVELS):
        console.print("Ask again for the next level.", style="dim")


def show_solution(learner: Learner, project: Project, wanted: str, give_up: bool) -> None:
    """Print the reference beside the learner's: of one unit, or of the core; once it passes, or when she gives up."""
    if wanted and wanted not in project.units:
        raise SystemExit(f"no {wanted!r} in {project.name}{did_you_mean(wanted, project.units)}")
    marks = learner.recall(project.name, "marks")
    asked = [wanted] if wanted else list(project.core_units)
    missing = [unit for unit in asked if marks.get(unit) not in ("core", "all")]
    if missing and not give_up:
        raise SystemExit(f"not yet: {', '.join(missing)}. Add --give-up to see the reference all the same.")
    if missing:
        learner.give_up(project.name)
    for source in [project.source_of[wanted]] if wanted else project.core_sources:
        name = name_in_file(wanted, source) if wanted else ""
        texts = [
            source_text(folder / source, name) for folder in (project.folder, learner.folder / project.name)
        ]
        heads = [f"reference: projects/{project.name}/{source}", f"yours: practice/{project.name}/{source}"]
        if not wanted:
            texts, heads = texts[:1], heads[:1]
        _side_by_side(learner.console, heads, texts, "cuda" if source.endswith(".cu") else "python")


def _side_by_side(console: Console, heads: list[str], texts: list[str], language: str) -> None:
    if not console.is_terminal or console.width < 100 * (len(texts) - 1):  # one below the other
        for head, text in zip(heads, texts, strict=True):
            console.rule(head)
            console.print(Syntax(text, language) if console.is_terminal else Text(text))
        return
    table = Table(*heads, expand=True)
    table.add_row(*(Syntax(text, language, word_wrap=True) for text in texts))
    console.print(table)


def source_text(path: Path, unit: str) -> str:
    """Return the source of one unit of a file ("" for the whole file), or a remark that it is not there."""
    if not path.exists():
        return "(not written)"
    text = path.read_bytes().decode("utf-8-sig", errors="replace")
    if not unit or path.suffix == ".cu":
        return text
    node = find_unit(path, unit)
    return "\n".join(text.splitlines()[node.lineno - 1 : node.end_lineno]) if node else "(not written)"


def find_unit(path: Path, unit: str) -> ast.FunctionDef | ast.ClassDef | None:
    """Return where a module defines a function, a class or a method."""
    body: list[ast.stmt] = ast.parse(path.read_bytes()).body
    found: ast.FunctionDef | ast.ClassDef | None = None
    for part in unit.split("."):
        named = [
            node for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == part
        ]
        if not named:
            return None
        found, body = named[-1], named[-1].body
    return found


def short(path: Path) -> Path:
    """Return a path as seen from the repository's root."""
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def main(arguments: Sequence[str] | None = None, *, folder: Path = ROOT / "practice") -> int:
    """Run the command line."""
    projects = {project.name: project for project in load_projects()}
    parser = argparse.ArgumentParser(prog="nox -s practice --", description="Write a deliverable yourself.")
    parser.add_argument("project", nargs="?", metavar="PROJECT", help=", ".join(projects))
    parser.add_argument("--further", action="store_true", help="the modules beyond the core, too")
    parser.add_argument("--watch", action="store_true", help="grade again whenever you save")
    parser.add_argument("--hint", nargs="?", const="", metavar="UNIT", help="nudge, then idea, then formula")
    parser.add_argument("--reset", action="store_true", help="start from the blank again; your file is kept")
    parser.add_argument(
        "--solution", nargs="?", const="", metavar="UNIT", help="the reference beside yours, once you pass"
    )
    parser.add_argument("--give-up", action="store_true", help="with --solution: show it now")
    options = parser.parse_args(arguments)
    asked = options.watch or options.hint is not None or options.reset or options.solution is not None
    if options.project is None and asked:
        parser.error(f"which project? One of {', '.join(projects)}")
    if options.project is not None and options.project not in projects:
        parser.error(f"no project {options.project!r}{did_you_mean(options.project, projects)}")
    if options.give_up and options.solution is None:
        parser.error("--give-up goes with --solution")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without Unicode still shows the diagnosis
    console = Console()
    learner = Learner(folder, console)
    if options.project is None:
        show_board(learner, list(projects.values()))
        return 0
    project = projects[options.project]
    if options.reset:
        for backup in learner.reset(project, further=options.further):
            console.print(f"your answer is kept in {short(backup)}")
    for path in learner.write_blanks(project, further=options.further):
        missing = "#error" if path.suffix == ".cu" else "NotImplementedError"
        todo = "it is given" if path.stem in project.given else f"replace each {missing}, then run this again"
        console.print(f"wrote {short(path)}: {todo}")
    if options.hint is not None:
        show_hint(learner, project, options.hint)
    elif options.solution is not None:
        show_solution(learner, project, options.solution, options.give_up)
    elif options.watch:
        watch(learner, project)
    else:
        grade_and_show(learner, project)
    return 0


if __name__ == "__main__":
    run_command(main)
