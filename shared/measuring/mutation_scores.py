"""Measure how many small changes of each core its tests notice: a sample of those that ``nox -s mutate`` makes.

``python -m shared.measuring.mutation_scores`` writes mutation_scores.json beside this file, the sentence in README.md and
the table in CONTRIBUTING.md. It takes half an hour; with names of projects, these alone are measured again. Each project
is judged in a process of its own, because modules of two projects may share a name.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from shared.measuring.benchmark import provenance
from shared.measuring.readme import fill_readme
from shared.projects import ROOT, Project, load_projects

SAMPLE = 40
RESULT = Path(__file__).with_suffix(".json")
SCORE = re.compile(
    r"(?P<killed>\d+) of (?P<judged>\d+) killed \(.*\), (?P<equivalent>\d+) more are equivalent"
)


def score(project: Project) -> dict[str, int | str]:
    """Return how many changes of the core were noticed, of those that anybody can notice."""
    command = [sys.executable, "-m", "shared.testing.mutation", project.name, project.name]
    ended = subprocess.run(
        [*command, "--sample", str(SAMPLE)], cwd=ROOT, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    )
    print(ended.stdout, end="", flush=True)  # with the survivors, if there are any
    found = SCORE.search(ended.stdout)
    if found is None:
        raise RuntimeError(f"{project.name}: no score, exit status {ended.returncode}")
    return {"project": project.name, **{name: int(count) for name, count in found.groupdict().items()}}


def main(names: list[str]) -> None:
    """Measure the projects that are named, or all, and write what README.md and CONTRIBUTING.md say of them."""
    before = json.loads(RESULT.read_text(encoding="utf-8")) if names else {"rows": []}
    rows = {row["project"]: row for row in before["rows"]}
    measured = provenance(1)
    for project in load_projects():
        if not names or project.name in names:
            rows[project.name] = {**score(project), "commit": measured["commit"]}
    result = {"provenance": measured, "sample": SAMPLE, "rows": list(rows.values())}
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for page in ("README.md", "CONTRIBUTING.md"):
        fill_readme(ROOT / page)


if __name__ == "__main__":
    main(sys.argv[1:])
