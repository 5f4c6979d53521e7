"""Run the demos on real input and write one self-contained page: build/tour/index.html.

Two demos run at a time. One that fails does not stop the others; its place on the page shows the error, and the session fails.
This module runs and collects; page.html is the page, page.css and page.js its looks and ways, play/ has its interactive figures, one
or none per project, equations.toml its equations.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from shared.measuring.device import cpu_name
from shared.measuring.readme import read_demo
from shared.practice.json_file import run_command
from shared.practice.learner import Learner, minutes
from shared.practice.questions import Drill, load_drills
from shared.practice.schedule import WRITE, Schedule
from shared.projects import ROOT, Project, StudyList, load_projects, load_study_list, read_toml
from shared.tour import figures, picture, tables
from shared.tour.browser import browse, lacking

DEMO_LIMIT_S = 600
AT_ONCE = min(2, os.cpu_count() or 1)  # demos; each has one thread, so that they do not wait for each other
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
EQUATIONS = Path(__file__).with_name("equations.toml")
PLAY = Path(__file__).with_name("play")
SCRIPT = Path(__file__).with_name("page.js")
DREAM_SCRIPTS = ("dream.js", "tokens.js", "dream_figure.js")


@dataclass
class Stop:
    """One project on the tour."""

    project: Project
    error: str = ""
    demo: dict[str, Any] = field(default_factory=dict)
    figures: list[dict[str, Any]] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)
    drills: list[Drill] = field(default_factory=list)
    dream: dict[str, dict[str, Any]] = field(
        default_factory=dict
    )  # weights to play with, as the project's export.py writes them
    reel: dict[str, Any] | None = None  # digits that form, where the demo wrote sampling.gif

    @property
    def n_shown(self) -> int:
        """Say how many of its figures are not folded: at most three, and an interactive one is one of them."""
        return 2 if (PLAY / f"{self.project.name}.html").exists() else 3

    @property
    def dream_kind(self) -> str:
        """Say which kind of world model `dream` is: "diffusion" or "tokens"."""
        return "tokens" if "tokenizer.codebook" in self.dream else "diffusion"

    @property
    def n_dream_weights(self) -> int:
        """Count the numbers in `dream`."""
        return sum(math.prod(weights["shape"]) for weights in self.dream.values())

    @property
    def said(self) -> dict[str, Any]:
        """Its key equations in words and MathML, and which measurement is its headline."""
        empty = {"equations": [], "words": "", "headline": []}
        return {**empty, **read_toml(EQUATIONS).get(self.project.name, {})}

    @property
    def number_rows(self) -> list[tuple[str, str]]:
        """Return the numbers of its demo with their labels."""
        return [(number["label"], number["text"]) for number in self.demo.get("numbers", {}).values()]

    @property
    def links(self) -> dict[str, Path]:
        """Name the files and folders to read on in."""
        names = ["README.md", *self.project.sources, "demo.py", "benchmark.py", "tests"]
        return {name: self.project.folder / name for name in names if (self.project.folder / name).exists()}

    @property
    def roofline(self) -> dict[str, Any]:
        """Return what the interactive roofline draws."""
        return tables.roofline(self.project, self.demo or read_demo(self.project.folder))


# --- the demos --------------------------------------------------------------------------------------------


def visit(project: Project) -> Stop:
    """Run one project's demo and collect what its part of the page shows."""
    # What an earlier run left must not pass for this one's.
    for name in ("demo.json", "dream.json", "sampling.gif"):
        (project.folder / "build" / name).unlink(missing_ok=True)
    return collect(project, run_demo(project))


def run_demo(project: Project) -> str:
    """Run one demo, and what exports weights to play with; return what went wrong, or nothing."""
    if error := run(project, "demo.py"):
        return error
    if not (project.folder / "build" / "demo.json").exists():
        return "demo.py ended without writing build/demo.json: is demo.finish() missing?"
    return run(project, "export.py") if (project.folder / "export.py").exists() else ""


def run(project: Project, script: str) -> str:
    """Run one script of a project in a process of its own; return what went wrong, or nothing."""
    try:
        ended = subprocess.run(
            [sys.executable, script],
            cwd=project.folder,
            env={**os.environ, **ONE_THREAD},
            capture_output=True,
            text=True,
            timeout=DEMO_LIMIT_S,
        )
    except subprocess.TimeoutExpired:
        return f"{script} took longer than {DEMO_LIMIT_S} s"
    if ended.returncode != 0:
        return "\n".join(ended.stderr.strip().splitlines()[-12:]) or f"exit status {ended.returncode}"
    return ""


def collect(project: Project, error: str = "") -> Stop:
    """Read what a project's demo wrote, its committed measurements and its drills."""
    stop = Stop(project, error)
    if not error:
        stop.demo = read_demo(project.folder, "build")
        stop.figures = [
            figures.figure(project.folder / "build", key, said) for key, said in stop.demo["figures"].items()
        ]
        stop.dream = read_dream(project.folder)
        stop.reel = figures.reel(project.folder / "build" / "sampling.gif")
    stop.results = tables.read_results(project)
    try:
        stop.drills = load_drills(project.folder)
    except (
        ValueError
    ) as problem:  # a drill that quotes what nothing measured: a failure of this stop, not of all
        stop.error = stop.error or str(problem)
    return stop


def read_dream(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the weights that a project exported, nothing where it has none: its playable figure is left out then."""
    path = folder / "build" / "dream.json"
    found: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


# --- the board --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BoardRow:
    """One project on the board: its demo, what the learner has of it, and how fast it is."""

    stop: Stop
    marks: Mapping[str, str]  # unit of the core -> blank, failing, core or all, as graded last
    best: str  # time of the best complete solution, "" where there is none
    last: str
    again: bool  # it is due to be written again
    due: int  # drills to answer now
    headline: tables.Headline | None

    @property
    def written(self) -> int:
        """How many functions passed when they were graded last."""
        return sum(mark in ("core", "all") for mark in self.marks.values())

    @property
    def begun(self) -> bool:
        """Whether there is anything in it but blanks."""
        return any(mark != "blank" for mark in self.marks.values())


def board(stops: Sequence[Stop], learner: Learner, schedule: Schedule) -> list[BoardRow]:
    """Return one row per stop: the demos just run, beside the learner's progress and schedule."""
    rows = []
    for stop in stops:
        name = stop.project.name
        known, times = learner.recall(stop.project.name, "marks"), learner.recall(stop.project.name, "times")
        row = BoardRow(
            stop,
            marks={unit: known.get(unit, "blank") for unit in stop.project.core_units},
            best=minutes(times["best"]) if "best" in times else "",
            last=minutes(times["last"]) if "last" in times else "",
            again=bool(schedule.due([f"{WRITE}{name}"])),
            due=len(schedule.due(f"{name}/{drill.id}" for drill in stop.drills)),
            headline=tables.headline(stop.results, stop.said["headline"]),
        )
        rows.append(row)
    return rows


def topic_map(study: StudyList, stops: Sequence[Stop]) -> dict[str, dict[str, tuple[bool, list[str]]]]:
    """Return the study list by group: of each topic, whether it is planned, and where it is shown or drilled."""
    groups: dict[str, dict[str, tuple[bool, list[str]]]] = {group: {} for group in study.topics.values()}
    for topic, group in study.topics.items():
        shown = [stop for stop in stops if topic in stop.project.topics]
        drilled = [stop for stop in stops if topic in {drill.topic for drill in stop.drills}]
        names = [stop.project.name for stop in shown or drilled]
        groups[group][topic] = (topic in study.planned, names)
    return groups


# --- the page ---------------------------------------------------------------------------------------------


def render(rows: Sequence[BoardRow], groups: Mapping[str, Any], *, page: Path) -> str:
    """Return the page as it is to stand at `page`; `groups` is the topic map, empty to leave it out."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["link"] = lambda path: Path(os.path.relpath(path, page.parent)).as_posix()
    names = ["drawing.js", *(f"{row.stop.project.name}.js" for row in rows)]
    names += DREAM_SCRIPTS if any(row.stop.dream for row in rows) else []
    names += ["forming.js"] if any(row.stop.reel for row in rows) else []
    scripts = [PLAY / name for name in names]
    return environment.get_template("page.html").render(
        rows=rows,
        groups=groups,
        tables=tables.tables,
        scripts=[path.read_text(encoding="utf-8") for path in (SCRIPT, *scripts) if path.exists()],
        device=cpu_name(),
    )


def tour(projects: Sequence[Project], console: Console) -> list[Stop]:
    """Visit the projects behind a progress bar, `AT_ONCE` at a time; tell of them in their order."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    stops = []
    with (
        Progress(*columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal) as bar,
        ThreadPoolExecutor(AT_ONCE) as pool,
    ):
        task = bar.add_task("demos", total=len(projects))
        visits = pool.map(visit, projects)
        for project in projects:
            bar.update(task, description=f"{project.name:<20}")
            stop = next(visits)
            stops.append(stop)
            bar.advance(task)
            last_line = stop.error.splitlines()[-1] if stop.error else ""
            ended = f"[red]failed[/]: {escape(last_line)}" if stop.error else f"{len(stop.figures)} figures"
            console.print(f"{project.name}: {ended}", highlight=False)
    return stops


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demos, write the page, and return how many demos failed."""
    projects = {project.name: project for project in load_projects()}
    parser = argparse.ArgumentParser(prog="nox -s tour --", description="Run the demos and write one page.")
    parser.add_argument(
        "--project", choices=projects, metavar="NAME", help=f"only this one: {', '.join(projects)}"
    )
    parser.add_argument(
        "--picture", type=Path, metavar="FILE", help="also write a GIF of the playable world (Chromium)"
    )
    options = parser.parse_args(arguments)
    if options.picture and (reason := lacking()):
        parser.error(f"--picture cannot be taken: {reason}")
    console = Console()
    selected = [projects[options.project]] if options.project else list(projects.values())
    if options.picture and not any((project.folder / "export.py").exists() for project in selected):
        parser.error("--picture shows a world to play in, and no project of this tour exports one")
    stops = tour(selected, console)
    folder = ROOT / "practice"
    rows = board(stops, Learner(folder, console), Schedule(folder, console.print))
    page = ROOT / "build" / "tour" / "index.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    groups = {} if options.project else topic_map(load_study_list(), stops)
    page.write_text(render(rows, groups, page=page), encoding="utf-8")
    console.print(
        f"wrote {page.relative_to(ROOT)} ({page.stat().st_size / 1e6:.1f} MB): open it in a browser"
    )
    if options.picture and any(stop.dream for stop in stops):
        with browse() as browser:
            picture.record(browser, page, options.picture)
    return sum(bool(stop.error) for stop in stops)


if __name__ == "__main__":
    run_command(main)
