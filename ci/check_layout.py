"""Check that every project is complete, and that nothing generated is out of date; run by `nox -s layout`.

Each project needs the files of a project, its row in the README, topics, drills, hints for every public name, at least
eight wrong solutions, and committed results. Every line of shared/study_list.toml must lead somewhere.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from shared.practice.questions import load_drills  # noqa: E402
from shared.testing.grading import read_wrong  # noqa: E402
from shared.practice.__main__ import LEVELS  # noqa: E402
from shared.projects import PRACTICE_BEGIN, Project, StudyList, load_projects, load_study_list  # noqa: E402
from shared.measuring.readme import fill_readme  # noqa: E402

FILES = (
    "README.md",
    "pyproject.toml",
    "conftest.py",
    "demo.py",
    "benchmark.py",
    "drills.toml",
    "tests/hints.toml",
)
LEAST_WRONG = 8


def problems(root: Path) -> Iterator[str]:
    """Yield everything that is missing or out of date."""
    projects = load_projects(root)
    readme = (root / "README.md").read_text(encoding="utf-8")
    orders = [project.order for project in projects]
    if len(set(orders)) != len(orders):
        yield f"two projects share an order: {orders}"
    if not fill_readme(root / "README.md", write=False):
        yield "README.md: a generated block is out of date; run python -m shared.measuring.readme"
    for folder in sorted(path for path in (root / "projects").glob("[!.]*") if path.is_dir()):
        if any(folder.glob("*.*")) and not (folder / "pyproject.toml").exists():
            yield f"{folder.name}: no pyproject.toml"
    study = load_study_list()
    yield from study_problems(study, projects)
    for project in projects:
        if f"projects/{project.name}/" not in readme:
            yield f"README.md: no row for {project.name}"
        try:
            yield from (f"{project.name}: {problem}" for problem in project_problems(project, study))
        except (ValueError, TypeError, KeyError) as error:  # a data file that cannot be read
            yield f"{project.name}: {type(error).__name__}: {error}"


def study_problems(study: StudyList, projects: list[Project]) -> Iterator[str]:
    """Yield the lines of the study list that lead nowhere."""
    drills = [drill for project in projects for drill in load_drills(project.folder)]
    shown = {topic for project in projects for topic in project.topics}
    for topic in study.topics:
        if topic not in shown and topic not in study.planned:
            yield f"study list: no project shows {topic!r}"
        if topic in shown and topic in study.planned:
            yield f"study list: {topic!r} is shown by a project, so it is planned no more"
        if topic not in {drill.topic for drill in drills}:
            yield f"study list: no drill about {topic!r}"
    for question in set(study.drills) - {drill.question for drill in drills}:
        yield f"study list: no drill asks {question!r}"
    for deliverable in set(study.deliverables) - {project.description for project in projects}:
        yield f"study list: no project is {deliverable!r}"
    texts = [(project.folder / "README.md").read_text(encoding="utf-8") for project in projects]
    for number, title in study.papers.items():
        if not any(number in text for text in texts):
            yield f"study list: no README uses arXiv {number} ({title})"


def project_problems(project: Project, study: StudyList) -> Iterator[str]:
    """Yield what one project lacks."""
    folder = project.folder
    missing = [name for name in (*FILES, f"{project.name}.py") if not (folder / name).exists()]
    yield from (f"no {name}" for name in missing)
    if missing:
        return
    if not list(folder.glob("tests/test_*.py")):
        yield "no tests"
    if not project.results or not (folder / "results" / "demo.json").exists():
        yield f"no committed results: nox -s bench -- {project.name}"
    if lacking := set(project.dependencies) - set(project.dev):
        yield f"dependency-groups.dev lacks {sorted(lacking)}, so `pip install --group dev` is not enough"
    try:
        if not fill_readme(folder / "README.md", write=False):
            yield "README.md: a generated block is out of date; run python -m shared.measuring.readme"
    except ValueError as error:
        yield str(error)
    yield from _topic_problems(project, study)
    yield from _drill_problems(project, study)
    yield from _judge_problems(project)


def _topic_problems(project: Project, study: StudyList) -> Iterator[str]:
    if "drills.toml" not in (project.folder / "pyproject.toml").read_text(encoding="utf-8"):
        yield "testpaths in pyproject.toml lack drills.toml: nobody would check that the evidence passes"
    if not project.topics:
        yield "no topics in pyproject.toml"
    for topic, shown_by in project.topics.items():
        if not _exists(project.folder, shown_by):
            yield f"topic {topic!r}: {shown_by} does not exist"
        if topic not in study.topics:
            yield f"topic {topic!r} is not on the study list"


def _drill_problems(project: Project, study: StudyList) -> Iterator[str]:
    try:
        drills = load_drills(project.folder)
    except ValueError as error:
        yield str(error)
        return
    if not drills:
        yield "no drills"
    for drill in drills:
        if not drill.evidence.startswith(("python ", "tests/")):
            yield f"drill {drill.id}: evidence {drill.evidence} is neither a command nor a test"
        if not _exists(project.folder, drill.evidence):
            yield f"drill {drill.id}: evidence {drill.evidence} does not exist"
        if drill.topic not in (*project.topics, *study.planned):
            yield f"drill {drill.id}: topic {drill.topic!r} is neither the project's nor planned"


def _judge_problems(project: Project) -> Iterator[str]:
    if len(project.wrong) < LEAST_WRONG:
        yield f"{len(project.wrong)} wrong solutions, at least {LEAST_WRONG} are needed"
    for path in project.wrong:
        read_wrong(path, project)  # raises for a file without a diagnosis
    for unit, hints in project.hints.items():
        if tuple(hints) != LEVELS or not all(text.strip() for text in hints.values()):
            yield f"hints.toml: {unit} needs {', '.join(LEVELS)}"
    public = {name for module in project.modules for name in _exported(project.folder / f"{module}.py")}
    public |= {
        kernel.stem for kernel in project.kernels if PRACTICE_BEGIN in kernel.read_text(encoding="utf-8")
    }
    hinted = {unit.split(".")[0] for unit in project.units}
    if public - hinted:
        yield f"hints.toml: nothing for {sorted(public - hinted)}"
    if hinted - public:
        yield f"hints.toml: {sorted(hinted - public)} neither in __all__ nor a kernel with a practice region"


def _exported(path: Path) -> list[str]:
    """Return the functions and classes of a module's ``__all__``."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    written = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return [name for name in ast.literal_eval(node.value) if name in written]
    return []


def _exists(folder: Path, evidence: str) -> bool:
    """Tell whether a file, a test id (``tests/x.py::name``) or a command (``python demo.py``) leads somewhere."""
    target, *test = evidence.removeprefix("python ").split()[0].split("::")
    path = folder / target
    if not path.exists():
        return False
    source = path.read_text(encoding="utf-8")
    return all(re.search(rf"(def|class) {re.escape(name.split('[')[0])}\b", source) for name in test)


if __name__ == "__main__":
    found = list(problems(ROOT))
    print("\n".join(found) or f"{len(load_projects(ROOT))} projects are complete")
    raise SystemExit(bool(found))
