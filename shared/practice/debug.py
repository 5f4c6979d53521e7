"""The other interview: a mistake stands in code that is not yours. Find it, mend it: ``nox -s debug -- activations``.

practice/debug/<project>/ gets a copy of the core with one edit of tests/mistakes.toml in it (with --hard three). Each call
grades it, and says which units fail but not why. Once all pass, or with --give-up, it shows what was planted.
"""

from __future__ import annotations

import argparse
import difflib
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.syntax import Syntax

from shared.practice.__main__ import short
from shared.practice.grade import did_you_mean, grade, show_failure, show_verdicts
from shared.practice.json_file import run_command
from shared.practice.learner import Learner, minutes, move_to_backups
from shared.practice.schedule import DEBUG
from shared.projects import ROOT, Project, load_projects
from shared.testing.mistakes import Mistake, load_mistakes

HARD = 3


def edits(project: Project) -> dict[str, Mistake]:
    """Return the mistakes that can be planted: edits of the core, which read like real code."""
    mistakes = load_mistakes(project).items()
    return {name: mistake for name, mistake in mistakes if mistake.is_edit and mistake.level == "core"}


def choose(project: Project, count: int, solved: Sequence[str]) -> tuple[list[Mistake], dict[str, str]]:
    """Choose mistakes, those not solved yet first; return them and the files with all of them in."""
    available = list(edits(project).values())
    random.shuffle(available)
    available.sort(key=lambda mistake: mistake.name in solved)
    texts = {source: (project.folder / source).read_text(encoding="utf-8") for source in project.core_sources}
    planted: list[Mistake] = []
    for mistake in available:
        if len(planted) == count:
            break
        try:
            texts[mistake.file] = mistake.apply(texts[mistake.file])
        except ValueError:  # an earlier one stands on its line
            continue
        planted.append(mistake)
    return planted, texts


class Case:
    """One project with mistakes in it: a copy in practice/debug/, with an entry ``debug:<project>`` of its own."""

    def __init__(self, learner: Learner, project: Project) -> None:
        self.learner = learner
        self.project = project
        self.key = f"{DEBUG}{project.name}"
        self.folder = learner.folder / "debug" / project.name

    @property
    def planted(self) -> dict[str, Mistake]:
        """The mistakes that are in the copy now."""
        names = self.learner.entry(self.key).get("planted", [])
        return {name: mistake for name, mistake in load_mistakes(self.project).items() if name in names}

    @property
    def is_open(self) -> bool:
        """Whether she is at it: the clock runs."""
        return bool(self.learner.recall(self.key, "attempt"))

    def plant(self, count: int) -> None:
        """Write a copy with `count` mistakes, and start the clock; a copy that is there moves to backups/."""
        planted, texts = choose(self.project, count, self.learner.entry(self.key).get("solved", []))
        if not planted:
            raise SystemExit(
                f"{self.project.name} has no mistake yet that reads like code; nox -s debug lists who has"
            )
        if len(planted) < count:
            raise SystemExit(
                f"{self.project.name} has {len(planted)} mistakes that can be planted together, not {count}"
            )
        for source, text in texts.items():
            path = self.folder / source
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                backup = move_to_backups(path, self.folder / "backups")
                self.learner.console.print(f"your copy is kept in {short(backup)}")
            path.write_text(text, encoding="utf-8")
        self.learner.remember(self.key, planted=[mistake.name for mistake in planted])
        self.learner.start(self.key)

    def grade_and_show(self, *, hint: bool) -> bool:
        """Grade the copy; tell what was planted once everything passes, and return whether it does."""
        console = self.learner.console
        with console.status(f"grading {self.project.name}…"):
            report = grade(self.project, self.folder)
        if isinstance(report, str):
            console.print(Panel(escape(report), title="cannot be graded", border_style="red"))
            return False
        self.learner.tick(self.key)
        show_verdicts(console, report)
        if not report.is_ready:
            if hint and report.failure:
                show_failure(console, report.failure)
            elif report.failure:
                purpose = f": {report.failure.purpose}" if report.failure.purpose else ""
                console.print(f"fails: {report.failure.nodeid}{purpose}", highlight=False, markup=False)
                console.print(
                    f"What it says: nox -s debug -- {self.project.name} --hint", highlight=False, style="dim"
                )
            return False
        planted = self.planted
        if (seconds := self.learner.finish(self.key, self.key)) is not None:
            solved = {*self.learner.entry(self.key).get("solved", []), *planted}
            self.learner.remember(self.key, solved=sorted(solved))
            console.print(f"Found and mended in {minutes(seconds)}.", style="bold green")
        self.show_planted(planted)
        console.print(
            f"Another one: nox -s debug -- {self.project.name} --reset", highlight=False, soft_wrap=True
        )
        return True

    def give_up(self) -> None:
        """Show what was planted; the card comes back soon."""
        self.learner.give_up(self.key)
        self.learner.finish(self.key, self.key)
        self.show_planted(self.planted)

    def show_planted(self, planted: Mapping[str, Mistake]) -> None:
        """Print the mistakes as differences from the reference."""
        for name, mistake in planted.items():
            reference = (self.project.folder / mistake.file).read_text(encoding="utf-8")
            wrong = mistake.apply(reference)
            lines = difflib.unified_diff(
                reference.splitlines(), wrong.splitlines(), "the reference", name, n=1, lineterm=""
            )
            self.learner.console.print(Syntax("\n".join(lines), "diff"))
            self.learner.console.print(f"{name}: {mistake.diagnosis}\n", highlight=False, markup=False)


def show_list(learner: Learner, projects: Mapping[str, Project]) -> None:
    """Print how many mistakes of each project are there to find, and how many were found."""
    for name, project in projects.items():
        entry, count = learner.entry(f"{DEBUG}{name}"), len(edits(project))
        best = f"  best {minutes(entry['times']['best'])}" if "times" in entry else ""
        found = len(set(entry.get("solved", [])) & set(edits(project)))
        learner.console.print(
            f"{name:<22} {found:>3} of {count} found{best}", highlight=False, soft_wrap=True
        )


def main(arguments: Sequence[str] | None = None, *, folder: Path = ROOT / "practice") -> int:
    """Run the command line."""
    projects = {project.name: project for project in load_projects()}
    parser = argparse.ArgumentParser(
        prog="nox -s debug --", description="Find the mistake in code that is not yours."
    )
    parser.add_argument("project", nargs="?", metavar="PROJECT", help=", ".join(projects))
    parser.add_argument("--hard", action="store_true", help=f"plant {HARD} mistakes at once")
    parser.add_argument("--hint", action="store_true", help="show what the first failing test says")
    parser.add_argument("--reset", action="store_true", help="plant another; your copy is kept")
    parser.add_argument("--give-up", action="store_true", help="show what was planted")
    options = parser.parse_args(arguments)
    learner = Learner(folder, Console())
    if options.project is None:
        show_list(learner, projects)
        return 0
    if options.project not in projects:
        parser.error(f"no project {options.project!r}{did_you_mean(options.project, projects)}")
    case = Case(learner, projects[options.project])
    if options.reset or not case.planted or not case.folder.exists():
        count = HARD if options.hard else 1
        case.plant(count)
        learner.console.print(
            f"{count} mistake{'s' if count > 1 else ''} in {short(case.folder)}: find and mend, then run this again"
        )
    if options.give_up:
        case.give_up()
    else:
        case.grade_and_show(hint=options.hint)
    return 0


if __name__ == "__main__":
    run_command(main)
