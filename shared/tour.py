"""Run the demos on real input and write one self-contained page: build/tour/index.html.

A demo that fails does not stop the others; its place on the page shows the error, and the session fails.
"""

from __future__ import annotations

import argparse
import base64
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from shared.device import cpu_name
from shared.drills import Drill, load_drills
from shared.projects import ROOT, Project, load_projects
from shared.readme import read_demo

DEMO_LIMIT_S = 600


@dataclass
class Stop:
    """One project on the tour."""

    project: Project
    error: str = ""
    demo: dict[str, Any] = field(default_factory=dict)
    figures: list[dict[str, str]] = field(default_factory=list)
    benchmarks: list[dict[str, Any]] = field(default_factory=list)
    drills: list[Drill] = field(default_factory=list)


def visit(project: Project) -> Stop:
    """Run one project's demo and collect what its part of the page shows."""
    stop = Stop(project)
    build = project.folder / "build"
    (build / "demo.json").unlink(missing_ok=True)  # what an earlier run left must not pass for this one's
    try:
        run = subprocess.run(
            [sys.executable, "demo.py"],
            cwd=project.folder,
            capture_output=True,
            text=True,
            timeout=DEMO_LIMIT_S,
        )
        if run.returncode != 0:
            stop.error = "\n".join(run.stderr.strip().splitlines()[-12:]) or f"exit status {run.returncode}"
        elif not (build / "demo.json").exists():
            stop.error = "demo.py ended without writing build/demo.json: is demo.finish() missing?"
    except subprocess.TimeoutExpired:
        stop.error = f"demo.py took longer than {DEMO_LIMIT_S} s"
    if not stop.error:
        stop.demo = read_demo(project.folder, "build")
        stop.figures = [
            {**figure, "source": data_uri(build / f"{key}.svg")}
            for key, figure in stop.demo["figures"].items()
        ]
    stop.benchmarks = [json.loads(path.read_text(encoding="utf-8")) for path in project.results]
    stop.drills = load_drills(project.folder)
    return stop


def data_uri(svg: Path) -> str:
    """Return a figure as a data URI, so that the page needs no other file."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.read_bytes()).decode("ascii")


def render(stops: Sequence[Stop]) -> str:
    """Return the page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("tour.html").render(stops=stops, device=cpu_name())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demos, write the page, and return how many demos failed."""
    projects = {project.name: project for project in load_projects()}
    parser = argparse.ArgumentParser(prog="nox -s tour --", description="Run the demos and write one page.")
    parser.add_argument(
        "--project", choices=projects, metavar="NAME", help=f"only this one: {', '.join(projects)}"
    )
    chosen = parser.parse_args(arguments).project
    console = Console()
    stops = []
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        selected = [projects[chosen]] if chosen else list(projects.values())
        task = bar.add_task("demos", total=len(selected))
        for project in selected:
            bar.update(task, description=f"{project.name:<20}")
            stop = visit(project)
            stops.append(stop)
            bar.advance(task)
            failed = (
                f"[red]failed[/]: {escape(stop.error.splitlines()[-1])}"
                if stop.error
                else f"{len(stop.figures)} figures"
            )
            console.print(f"{project.name}: {failed}", highlight=False)
    page = ROOT / "build" / "tour" / "index.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(render(stops), encoding="utf-8")
    console.print(
        f"wrote {page.relative_to(ROOT)} ({page.stat().st_size / 1e6:.1f} MB): open it in a browser"
    )
    return sum(bool(stop.error) for stop in stops)


if __name__ == "__main__":
    raise SystemExit(main())
