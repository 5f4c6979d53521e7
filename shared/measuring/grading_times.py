"""Measure how long a learner waits: from saving the core to the verdict on it, for each project, on one thread.

``python -m shared.measuring.grading_times`` writes grading_times.json beside this file and the table in CONTRIBUTING.md.
The answer is the reference, because a right answer takes longest: every test runs to its end.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path

from shared.measuring.benchmark import provenance
from shared.measuring.readme import fill_readme
from shared.practice.grade import grade
from shared.projects import ROOT, Project, load_projects, name_of
from shared.testing.mistakes import write_answer

ROUNDS = 3
RESULT = Path(__file__).with_suffix(".json")
TARGET_S = {"numpy": 3.0, "torch": 6.0}


def grading_seconds(project: Project) -> list[float]:
    """Grade the reference's core as a learner's, again and again; return the seconds of each time, sorted."""
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        write_answer(project, Path(folder), further=False)
        for _ in range(ROUNDS):
            start = time.perf_counter()
            report = grade(project, Path(folder).resolve())
            seconds.append(time.perf_counter() - start)
            if isinstance(report, str) or not report.is_ready:
                raise RuntimeError(f"the core of {project.name} does not pass: {report}")
    return sorted(seconds)


def main() -> None:
    """Measure every project and write the table."""
    rows = []
    for project in load_projects():
        seconds = grading_seconds(project)
        target = TARGET_S["torch" if "torch" in map(name_of, project.dependencies) else "numpy"]
        median, low, high = statistics.median(seconds), seconds[0], seconds[-1]
        rows.append({"project": project.name, "median": median, "low": low, "high": high, "target": target})
        print(f"{project.name}: {median:.2f} s ({low:.2f} to {high:.2f}), target {target:.0f} s", flush=True)
    RESULT.write_text(
        json.dumps({"provenance": provenance(1), "rows": rows}, indent=1) + "\n", encoding="utf-8"
    )
    fill_readme(ROOT / "CONTRIBUTING.md")


if __name__ == "__main__":
    main()
