"""Check that every project is complete, and that nothing generated is out of date; run by `nox -s layout`.

Each project needs the files of a project, its row in the README, topics, drills, hints for every public name, at least
eight mistakes, and committed results. One with tests/right/ has a core and further modules, and is held to what CONTRIBUTING.md
says of those. Every line of shared/study_list.toml must lead somewhere, and no room of shared/ imports what it should not.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from shared.measuring.readme import fill_measured, fill_readme  # noqa: E402
from shared.practice.__main__ import LEVELS  # noqa: E402
from shared.practice.questions import load_drills  # noqa: E402
from shared.practice.questions import problems as problems_of_drills  # noqa: E402
from shared.projects import (  # noqa: E402
    PRACTICE_BEGIN,
    Project,
    StudyList,
    load_projects,
    load_study_list,
    name_in_file,
)
from shared.testing.mistakes import load_mistakes, private_names, read_record  # noqa: E402

FILES = (
    "README.md",
    "pyproject.toml",
    "conftest.py",
    "demo.py",
    "benchmark.py",
    "drills.toml",
    "tests/hints.toml",
)
LEAST_MISTAKES, LEAST_RIGHT = 8, 2
MOST_UNITS, MOST_LINES, MOST_FUNCTION_LINES, MOST_WORDS, MOST_WORDS_AT_TOP = 10, 200, 30, 1500, 1200
MOST_FILE_LINES = 400  # of any file that somebody reads, but tests
READ = {".py", ".cu", ".cpp", ".hpp", ".h", ".md", ".js", ".html", ".sh", ".yml"}
# What each room of shared/ imports of the others. The emulator is a guest: it imports nothing of shared.
ROOMS = {
    "testing": ("projects", "cuda_emulator", "measuring.device", "testing"),
    "measuring": (
        "projects",
        "practice.questions",
        "practice.grade",
        "testing.compile_gate",
        "testing.mistakes",
        "measuring",
    ),
    "practice": ("projects", "testing", "practice"),
    "tour": ("projects", "measuring", "practice", "tour"),
    "cuda_emulator": (),
}


def problems(root: Path) -> Iterator[str]:
    """Yield everything that is missing or out of date."""
    projects = load_projects(root)
    readme = (root / "README.md").read_text(encoding="utf-8")
    orders = [project.order for project in projects]
    if len(set(orders)) != len(orders):
        yield f"two projects share an order: {orders}"
    if (words := words_read(readme)) > MOST_WORDS_AT_TOP:
        yield f"README.md has {words} words, at most {MOST_WORDS_AT_TOP} are read"
    for page in ("README.md", "CONTRIBUTING.md"):
        if not fill_readme(root / page, write=False):
            yield f"{page}: a generated block is out of date; run python -m shared.measuring.readme"
    for folder in sorted(path for path in (root / "projects").glob("[!.]*") if path.is_dir()):
        if any(folder.glob("*.*")) and not (folder / "pyproject.toml").exists():
            yield f"{folder.name}: no pyproject.toml"
    yield from room_problems(root / "shared")
    yield from given_problems(projects)
    yield from length_problems(root)
    study = load_study_list()
    yield from study_problems(study, projects)
    for project in projects:
        if f"projects/{project.name}/" not in readme:
            yield f"README.md: no row for {project.name}"
        try:
            yield from (f"{project.name}: {problem}" for problem in project_problems(project, study))
        except (ValueError, TypeError, KeyError) as error:  # a data file that cannot be read
            yield f"{project.name}: {type(error).__name__}: {error}"


def words_read(page: str) -> int:
    """Count the words of a page as GitHub shows it: what has a letter or a digit, and is no mark of Markdown."""
    shown = re.sub(r"<!--.*?-->|```\w*|<br>", " ", page)
    return sum(any(map(str.isalnum, word)) for word in shown.split())


def room_problems(shared: Path) -> Iterator[str]:
    """Yield the modules of shared/ that stand in no room, and the imports that cross a wall."""
    for path in sorted(shared.glob("*.py")):
        if path.stem not in ("__init__", "conftest", "projects"):
            yield f"shared/{path.name} belongs in a room: {', '.join(ROOMS)}"
    for path in sorted(shared.glob("*/*.py")):
        room = path.parent.name
        if room == "tests":
            continue
        if room not in ROOMS:
            yield f"shared/{room} is no room of {', '.join(ROOMS)}"
            continue
        for name in _imports_of_shared(path):
            if not any(name == allowed or name.startswith(f"{allowed}.") for allowed in ROOMS[room]):
                yield f"shared/{room}/{path.name} imports shared.{name}"


def length_problems(root: Path) -> Iterator[str]:
    """Yield the files, except tests, that are too long to be read in one sitting."""
    for folder in ("projects", "shared", "ci", ".github", ""):
        for path in sorted((root / folder).glob("**/*" if folder else "*")):
            inside = path.relative_to(root)
            if (
                path.suffix not in READ
                or {"tests", "build", "practice"} & set(inside.parts)
                or not path.is_file()
            ):
                continue
            if (lines := len(path.read_text(encoding="utf-8").splitlines())) > MOST_FILE_LINES:
                yield f"{inside} has {lines} lines, at most {MOST_FILE_LINES} are read in one sitting"


def given_problems(projects: list[Project]) -> Iterator[str]:
    """Yield the given modules that are missing, or that stand in two projects and are not the same byte for byte."""
    first: dict[str, Project] = {}
    for project in projects:
        for module in project.given:
            path = project.folder / f"{module}.py"
            if not path.exists():
                yield f"{project.name}: pyproject.toml gives {module}, but there is no {path.name}"
            elif path.read_bytes() != (first.setdefault(module, project).folder / path.name).read_bytes():
                yield f"{path.name} differs in {first[module].name} and {project.name}: it must be the same in all projects"
        for kernel in set(project.core_kernels or ()) - {kernel.stem for kernel in project.kernels}:
            yield f"{project.name}: core_kernels names {kernel}, but there is no kernels/{kernel}.cu"


def _imports_of_shared(path: Path) -> Iterator[str]:
    """Yield what a module imports of shared, such as ``testing.checks``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if (
            isinstance(node, ast.ImportFrom)
            and not node.level
            and (node.module or "").split(".")[0] == "shared"
        ):
            inner = (node.module or "").removeprefix("shared").lstrip(".")
            yield from ([inner] if inner else [alias.name for alias in node.names])
        elif isinstance(node, ast.Import):
            yield from (a.name.removeprefix("shared.") for a in node.names if a.name.startswith("shared."))


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
    if not fill_measured(folder / "MEASURED.md", write=False):
        yield "MEASURED.md is out of date; run python -m shared.measuring.readme"
    yield from _topic_problems(project, study)
    yield from _drill_problems(project, study)
    yield from _judge_problems(project)
    if project.right:
        yield from _core_problems(project)


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
    if broken := [
        problem.removeprefix(f"{project.name}: ") for problem in problems_of_drills(project.folder)
    ]:
        yield from broken
        return
    drills = load_drills(project.folder)
    if not drills:
        yield "no drills"
    for drill in drills:
        if not drill.evidence.startswith(("python ", "tests/")):
            yield f"drill {drill.id}: evidence {drill.evidence} is neither a command nor a test"
        if not _exists(project.folder, drill.evidence):
            yield f"drill {drill.id}: evidence {drill.evidence} does not exist"
        if drill.topic not in (*project.topics, *study.planned):
            yield f"drill {drill.id}: topic {drill.topic!r} is neither the project's nor planned"


def _core_problems(project: Project) -> Iterator[str]:
    """Yield what a project with a core and further modules lacks."""
    if len(project.right) < LEAST_RIGHT:
        yield f"{len(project.right)} right answers, at least {LEAST_RIGHT} are needed"
    if not (project.folder / "MEASURED.md").exists():
        yield "no MEASURED.md: make an empty one and run python -m shared.measuring.readme"
    if (words := len((project.folder / "README.md").read_text(encoding="utf-8").split())) > MOST_WORDS:
        yield f"README.md has {words} words, at most {MOST_WORDS} are read"
    if len(project.core_units) > MOST_UNITS:
        yield f"the core has {len(project.core_units)} units, at most {MOST_UNITS} are written in one sitting"
    text = (project.folder / f"{project.name}.py").read_text(encoding="utf-8")
    if (lines := len(text.splitlines())) > MOST_LINES:
        yield f"{project.name}.py has {lines} lines, a core has {MOST_LINES}"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and (length := _length(node)) >= MOST_FUNCTION_LINES:
            yield f"{project.name}.py, {node.name}: {length} lines without its docstring"
    for mistake in load_mistakes(project).values():
        if private := private_names(mistake):
            yield f"mistake {mistake.name} adds code that uses private names of the reference: {sorted(private)}"


def _length(function: ast.FunctionDef) -> int:
    docstring = ast.get_docstring(function, clean=False)
    lines = (function.end_lineno or function.lineno) - function.lineno + 1
    return lines - (docstring.count("\n") + 1 if docstring else 0)


def _judge_problems(project: Project) -> Iterator[str]:
    mistakes = load_mistakes(project)  # raises for one that is not complete
    if len(mistakes) < LEAST_MISTAKES:
        yield f"{len(mistakes)} mistakes, at least {LEAST_MISTAKES} are needed"
    for mistake in mistakes.values():
        mistake.apply(
            (project.folder / mistake.file).read_text(encoding="utf-8")
        )  # raises where its line is gone
    if unknown := mistakes.keys() ^ read_record(project).keys():
        yield f"tests/caught_by.json and mistakes.toml disagree on {sorted(unknown)}: nox -s catalogue -- {project.name}"
    for unit, hints in project.hints.items():
        if tuple(hints) != LEVELS or not all(text.strip() for text in hints.values()):
            yield f"hints.toml: {unit} needs {', '.join(LEVELS)}"
    written = [module for module in project.modules if module not in project.given]
    public = {name for module in written for name in _exported(project.folder / f"{module}.py")}
    public |= {
        kernel.stem for kernel in project.kernels if PRACTICE_BEGIN in kernel.read_text(encoding="utf-8")
    }
    hinted = {name_in_file(unit, source).split(".")[0] for unit, source in project.source_of.items()}
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
    if before := [project.name for project in load_projects(ROOT) if not project.right]:
        print(f"without tests/right, and so not held to the rules of a core yet: {', '.join(before)}")
    raise SystemExit(bool(found))
