"""The known wrong answers of a project: tests/mistakes.toml, one table each.

    [scale_is_missing]
    diagnosis = "looks like the scores are not divided by sqrt(d)"      # what the first failure must show
    replace = "scores = query @ key.mT * scale"                         # an edit of the reference …
    with = "scores = query @ key.mT"

    [returns_zeros]
    diagnosis = "are the values used at all?"
    add = "def attention(query, key, value): ..."                       # … or code that is appended to it

``file`` names the file it changes where that is not the main module, ``level`` is "core" or "further" where the file does
not tell: a mistake in the core file that only tests/further can see.

tests/caught_by.json says which test catches which mistake. It is written by ``nox -s catalogue -- PROJECT``.
"""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from shared.projects import Project, read_toml

SHORTEST_DIAGNOSIS = 12
KEYS = {"diagnosis", "file", "level", "replace", "with", "add"}


@dataclass(frozen=True)
class Mistake:
    """One known wrong answer."""

    name: str
    diagnosis: str
    file: str  # what it changes, relative to the project
    level: str  # "core" or "further": the tests that must reject it
    replace: str  # "" where code is added
    by: str  # what stands there instead, or is added

    @property
    def is_edit(self) -> bool:
        """Whether it reads like code, and not like an override at the end of the file."""
        return bool(self.replace)

    def apply(self, reference: str) -> str:
        """Return the wrong file.

        Raises
        ------
        ValueError
            The line that it replaces does not stand in the reference exactly once.
        """
        if not self.is_edit:
            return f"{reference}\n\n{self.by}"
        if (times := reference.count(self.replace)) != 1:
            raise ValueError(
                f"mistake {self.name}: what it replaces stands {times} times in {self.file}, not once: {self.replace!r}"
            )
        return reference.replace(self.replace, self.by)

    def write(self, project: Project, folder: Path) -> None:
        """Write the wrong answer into `folder`: the core, for a further mistake with the other modules."""
        write_answer(project, folder, further=self.level == "further")
        target = folder / self.file
        target.write_text(self.apply(target.read_text(encoding="utf-8")), encoding="utf-8")


def write_answer(project: Project, folder: Path, *, further: bool) -> None:
    """Copy the reference into `folder` as an answer: the core, with `further` all of it."""
    for source in project.sources if further else project.core_sources:
        target = folder / source
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((project.folder / source).read_bytes())


def load_mistakes(project: Project) -> dict[str, Mistake]:
    """Read the mistakes of a project by name.

    Raises
    ------
    ValueError
        One that is not complete: the message names it.
    """
    tables = read_toml(project.folder / "tests" / "mistakes.toml")
    return {name: _mistake(name, table, project) for name, table in tables.items()}


def _mistake(name: str, table: dict[str, Any], project: Project) -> Mistake:
    problems = [f"unknown key {key!r}" for key in table.keys() - KEYS]
    diagnosis = " ".join(table.get("diagnosis", "").split())
    if len(diagnosis) < SHORTEST_DIAGNOSIS:
        problems.append(f"its diagnosis has fewer than {SHORTEST_DIAGNOSIS} characters: {diagnosis!r}")
    if ("add" in table) == ("replace" in table) or ("replace" in table) != ("with" in table):
        problems.append("it needs either replace and with, or add")
    file = table.get("file", f"{project.name}.py")
    if file not in project.sources:
        problems.append(f"there is no {file}")
    level = table.get("level", "core" if file in project.core_sources else "further")
    if level not in ("core", "further"):
        problems.append(f"level is {level!r}, not 'core' or 'further'")
    if problems:
        raise ValueError(f"{project.name}, mistake {name}: {'; '.join(problems)}")
    return Mistake(
        name, diagnosis, file, level, table.get("replace", ""), table.get("with", table.get("add", ""))
    )


def seen_by(project: Project, source: str) -> list[str]:
    """Name what a mistake in `source` has to pass: all tests for the core, else those that import it, directly or not.

    Whatever is not a Python module (a kernel) is seen by all of tests/further.
    """
    if source in project.core_sources:
        return ["tests"]
    tests = project.folder / "tests"
    folders = (project.folder, tests, tests / "further")
    files = {path.stem: path for folder in folders for path in folder.glob("*.py")}
    for_all, module = _closure("conftest", files), Path(source).stem
    seen = [
        f"tests/further/{path.name}"
        for path in sorted((tests / "further").glob("test_*.py"))
        if source.endswith(".py") and module in for_all | _closure(path.stem, files)
    ]
    return seen or ["tests/further"]


def _closure(name: str, files: dict[str, Path]) -> set[str]:
    """Return what a module imports, and what that imports, out of `files`."""
    found, waiting = set(), [name]
    while waiting:
        if (module := waiting.pop()) in files and module not in found:
            found.add(module)
            waiting += imported_names(files[module])
    return found


@cache
def imported_names(path: Path) -> frozenset[str]:
    """Return the last part of every name that a module imports, at its top or in a function."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module or "", *(alias.name for alias in node.names)}
    return frozenset(name.rpartition(".")[2] for name in names)


def private_names(mistake: Mistake) -> set[str]:
    """Return the private names that an added mistake uses without defining them: only the reference has them."""
    if mistake.is_edit or not mistake.file.endswith(".py"):
        return set()
    nodes = list(ast.walk(ast.parse(mistake.by)))
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    defined = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    defined |= {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    defined |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    return {
        name for name in names - defined if name.startswith("_") and not name.startswith("__") and name != "_"
    }


def read_record(project: Project) -> dict[str, str]:
    """Return the test that is known to catch each mistake; a mistake without one is judged by all tests."""
    path = project.folder / "tests" / "caught_by.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def write_record(project: Project, found: dict[str, str]) -> None:
    """Update the record; mistakes that are gone leave it."""
    known = {**read_record(project), **found}
    kept = {name: known[name] for name in load_mistakes(project) if name in known}
    text = json.dumps(kept, indent=1) + "\n"
    (project.folder / "tests" / "caught_by.json").write_text(text, encoding="utf-8")
