"""A mixed round against the clock: ten drills, a mistake to find, a function to write, and a summary to keep.

The drills have half of the time, the mistake and the function a quarter each. The mistake is planted as nox -s debug does,
the function is blanked in a copy of the reference in practice/interview/; neither touches the learner's own files.
"""

from __future__ import annotations

import ast
import importlib.util
import random
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from fsrs import Rating
from rich.markup import escape
from rich.panel import Panel

from shared.practice.__main__ import short
from shared.practice.card import Asked, ask, count_down
from shared.practice.debug import Case, edits
from shared.practice.grade import grade, show_failure, show_verdicts
from shared.practice.keyboard import Keys
from shared.practice.learner import Learner, minutes, move_to_backups
from shared.practice.questions import Drill
from shared.practice.schedule import Schedule
from shared.projects import Project, name_in_file
from shared.testing.blank import blank_kernel, blank_unit

DRILLS = 10
DRILLS_SHARE, WORK_SHARE = 0.5, 0.25  # of the time: for all drills, for the mistake and for the function
JUDGE_NEEDS = {"numpy", "pytest"}


@dataclass(frozen=True)
class Work:
    """How the mistake or the function went."""

    project: str
    what: str  # the mistakes that were planted, or the function
    passed: bool
    seconds: float


class Interview:
    """One round: what was asked, what came of it, and the summary of it."""

    def __init__(
        self,
        drills: Sequence[Drill],
        projects: Sequence[Project],
        learner: Learner,
        schedule: Schedule,
        keys: Keys,
    ) -> None:
        self.drills = choose_drills(drills, schedule)
        self.projects = projects
        self.learner = learner
        self.schedule = schedule
        self.keys = keys
        self.console = learner.console
        self.asked: list[Asked] = []
        self.debugged: Work | str = "NOT RUN: the interview ended before"
        self.written: Work | str = "NOT RUN: the interview ended before"
        self._seconds = 0.0

    def run(self, n_minutes: float) -> None:
        """Play the three parts until one is ended by q; write the summary in any case."""
        self._seconds = 60 * n_minutes
        self.console.print(
            f"An interview of {n_minutes:g} min: {len(self.drills)} drills, a mistake to find, a function to write. "
            "q ends it.",
            style="dim",
        )
        try:
            _ = self.ask_drills() and self.debug() and self.write()
        finally:
            self.keep(n_minutes)

    # --- the parts: each returns whether to go on ----------------------------------------------------------------

    def ask_drills(self) -> bool:
        """Ask drill after drill, as long as their half of the time lasts."""
        start = time.monotonic()
        for number, drill in enumerate(self.drills, start=1):
            if time.monotonic() >= start + DRILLS_SHARE * self._seconds:
                self.console.print("Half of the time is over: on to the code.", style="yellow")
                break
            self.console.rule(f"drill {number} of {len(self.drills)}  [dim]{drill.project}[/]")
            asked = ask(drill, self.console, self.keys)
            if asked is None:
                return False
            self.schedule.review(drill.key, asked.rating)
            self.asked.append(asked)
        return True

    def debug(self) -> bool:
        """Plant one mistake and have it found."""
        self.console.rule("a mistake to find")
        projects = playable(self.projects)
        cases = [Case(self.learner, project) for project in projects if edits(project)]
        cases = [case for case in cases if not case.is_open]
        if not cases:
            self.debugged = self._not_run("each project has a mistake open: nox -s debug" if projects else "")
            return True
        case = random.choice(cases)
        case.plant(1)
        self.console.print(f"One mistake is in {short(case.folder)}: find and mend it.", soft_wrap=True)
        planted = ", ".join(f"{name} ({mistake.diagnosis})" for name, mistake in case.planted.items())
        self.debugged, goes_on = self._work(case.project, planted, lambda: case.grade_and_show(hint=False))
        if not self.debugged.passed:
            case.give_up()
        return goes_on

    def write(self) -> bool:
        """Blank one function or class of a core and have it written."""
        self.console.rule("a function to write")
        projects = playable(self.projects)
        if not projects:
            self.written = self._not_run()
            return True
        project = random.choice(projects)
        unit = random.choice([unit for unit in project.core_units if "." not in unit])
        folder = self.learner.folder / "interview" / project.name
        write_blank(project, unit, folder)
        self.console.print(
            f"Write [bold]{unit}[/] in {short(folder / project.source_of[unit])}; all else is there.",
            soft_wrap=True,
        )
        self.written, goes_on = self._work(project, unit, lambda: self._grade(project, folder))
        self.console.print(
            f"The reference: projects/{project.name}/{project.source_of[unit]}", soft_wrap=True
        )
        return goes_on

    def _grade(self, project: Project, folder: Path) -> bool:
        with self.console.status(f"grading {project.name}…"):
            report = grade(project, folder)
        if isinstance(report, str):
            self.console.print(Panel(escape(report), title="cannot be graded", border_style="red"))
            return False
        show_verdicts(self.console, report)
        if report.failure:
            show_failure(self.console, report.failure)
        return report.is_ready

    def _work(self, project: Project, what: str, passes: Callable[[], bool]) -> tuple[Work, bool]:
        """Grade at each key until it passes, or time is up; return the result, and whether to go on."""
        start, pressed, passed = time.monotonic(), " ", False
        while not passed and pressed not in ("", "s", "q"):
            self.keys.flush()
            self.console.print("Any key grades, s gives up, q ends.", style="dim")
            left = start + WORK_SHARE * self._seconds - time.monotonic()
            pressed = count_down(left, self.console, self.keys)
            passed = pressed not in ("s", "q") and passes()
        return Work(project.name, what, passed, time.monotonic() - start), pressed != "q"

    def _not_run(self, why: str = "") -> str:
        lacking = sorted({name for project in self.projects for name in missing_packages(project)})
        said = f"NOT RUN: {why or 'not installed: ' + ', '.join(lacking)}"
        self.console.print(said)
        return said

    # --- the summary ---------------------------------------------------------------------------------------------

    def keep(self, n_minutes: float) -> None:
        """Write the summary into the learner's folder, beside those of before."""
        today = date.today().isoformat()
        self.learner.folder.mkdir(parents=True, exist_ok=True)
        for number in range(1, sys.maxsize):
            path = self.learner.folder / f"interview-{today}{f'-{number}' if number > 1 else ''}.md"
            try:
                with path.open("x", encoding="utf-8") as file:
                    file.write(self.summary(f"{today}, {n_minutes:g} min"))
            except FileExistsError:
                continue
            self.console.print(f"\nThe summary: {short(path)}", soft_wrap=True)
            return

    def summary(self, title: str) -> str:
        """Return what is kept, as Markdown."""
        rows = [
            f"| {asked.drill.question.replace('|', '/')} | {asked.drill.project} | {asked.seconds:.0f} s "
            f"| {asked.rating.name.lower()} |"
            for asked in self.asked
        ]
        table = ["| question | project | spoken | rating |", "|---|---|---|---|", *rows]
        return "\n".join(
            [
                f"# Interview of {title}\n",
                f"## Drills: {len(self.asked)} of {len(self.drills)}\n",
                *(table if rows else ["None was rated."]),
                "\n## A mistake to find\n",
                _line(self.debugged, "found and mended", "not found"),
                "\n## A function to write\n",
                _line(self.written, "written", "not written"),
                "\n## Repeat\n",
                *(self.advice() or ["Nothing: all of it went well."]),
                "",
            ]
        )

    def advice(self) -> list[str]:
        """Return what to repeat, the weakest first."""
        weak = [asked for asked in self.asked if asked.rating in (Rating.Again, Rating.Hard)]
        lines = [
            f"- {asked.drill.question} ({asked.rating.name.lower()}; `{asked.drill.proof}`)"
            for asked in sorted(weak, key=lambda asked: asked.rating)
        ]
        if isinstance(self.debugged, Work) and not self.debugged.passed:
            lines.append(
                f"- a mistake in {self.debugged.project}: `nox -s debug -- {self.debugged.project} --reset`"
            )
        if isinstance(self.written, Work) and not self.written.passed:
            lines.append(f"- {self.written.what}: `nox -s practice -- {self.written.project}`")
        return lines


def _line(work: Work | str, good: str, bad: str) -> str:
    if isinstance(work, str):
        return work
    return f"{work.project}: {good if work.passed else bad} in {minutes(work.seconds)}. It was {work.what}."


# --- what can be asked ----------------------------------------------------------------------------------------


def choose_drills(drills: Iterable[Drill], schedule: Schedule) -> list[Drill]:
    """Choose ten drills of as many projects as there are: what is due first, then at random."""
    by_project: dict[str, list[Drill]] = {}
    for drill in drills:
        by_project.setdefault(drill.project, []).append(drill)
    due = set(schedule.due(schedule.cards))
    for asked in by_project.values():
        random.shuffle(asked)
        asked.sort(key=lambda drill: drill.key not in due)
    ranked = [(rank, random.random(), drill) for row in by_project.values() for rank, drill in enumerate(row)]
    return [drill for _, _, drill in sorted(ranked, key=lambda row: row[:2])[:DRILLS]]


def playable(projects: Iterable[Project]) -> list[Project]:
    """Return the projects whose core can be graded with what is installed."""
    return [project for project in projects if not missing_packages(project)]


def missing_packages(project: Project) -> set[str]:
    """Return what the core and its tests import and this Python cannot."""
    tests = list((project.folder / "tests").glob("*.py"))
    sources = [project.folder / source for source in project.core_sources if source.endswith(".py")]
    own = {"shared", *project.modules, *(path.stem for path in tests)}
    imported = {name for path in (*sources, *tests) for name in _imported(path)} | JUDGE_NEEDS
    return {
        name for name in imported - own - sys.stdlib_module_names if importlib.util.find_spec(name) is None
    }


def _imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


def write_blank(project: Project, unit: str, folder: Path) -> None:
    """Write the reference's core with one function or class to write; files that are there move to backups/."""
    for source in project.core_sources:
        text = (project.folder / source).read_text(encoding="utf-8")
        path = folder / source
        if path.exists():
            move_to_backups(path, folder / "backups")
        if source == project.source_of[unit]:
            is_kernel = source.endswith(".cu")
            text = (
                blank_kernel(text, path.name) if is_kernel else blank_unit(text, name_in_file(unit, source))
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
