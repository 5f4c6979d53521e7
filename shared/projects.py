"""What the repository knows about its projects: everything comes from projects/*/pyproject.toml."""

from __future__ import annotations

import ast
import re
import tomllib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TOOLS = {"conftest", "demo", "benchmark"}  # modules of a project that are not part of the deliverable
PRACTICE_BEGIN = "// practice: begin"  # in a kernel: what stands up to PRACTICE_END is the learner's to write
PRACTICE_END = "// practice: end"


@dataclass(frozen=True)
class Project:
    """One folder under projects/."""

    folder: Path
    description: str
    order: int
    gpu: bool  # its tests need a CUDA device to be complete
    tags: tuple[str, ...]
    topics: dict[str, str]  # line of the study list -> the test, demo or file that shows it
    dependencies: tuple[str, ...]  # what the deliverable imports
    dev: tuple[str, ...]  # what its tests, demo and benchmark import as well
    given: tuple[
        str, ...
    ] = ()  # modules of the core that nobody has to write: a learner gets them as they are
    core_kernels: tuple[str, ...] | None = None  # the kernels of the core; None: all of them

    @property
    def name(self) -> str:
        """Folder, module and nox session share this name."""
        return self.folder.name

    @property
    def modules(self) -> tuple[str, ...]:
        """Names of its modules: the core, which has the project's name, then the further ones."""
        others = sorted({path.stem for path in self.folder.glob("*.py")} - TOOLS - {self.name})
        return (self.name, *others)

    @property
    def kernels(self) -> tuple[Path, ...]:
        """Return the CUDA kernels, which a deliverable loads from the folder beside it."""
        return tuple(sorted((self.folder / "kernels").glob("*.cu")))

    @property
    def core_sources(self) -> tuple[str, ...]:
        """Name the files of the core: the module of the project's name, its kernels, and what is given."""
        kernels = (f"kernels/{kernel.name}" for kernel in self.kernels if self._is_core(kernel))
        return (f"{self.name}.py", *kernels, *(f"{module}.py" for module in self.given))

    @property
    def further_sources(self) -> tuple[str, ...]:
        """Name the modules and kernels that go beyond the core."""
        modules = (f"{module}.py" for module in self.modules[1:] if module not in self.given)
        kernels = (f"kernels/{kernel.name}" for kernel in self.kernels if not self._is_core(kernel))
        return (*modules, *kernels)

    def _is_core(self, kernel: Path) -> bool:
        return self.core_kernels is None or kernel.stem in self.core_kernels

    @property
    def sources(self) -> tuple[str, ...]:
        """Name all files of an answer: the core, then what goes further."""
        return (*self.core_sources, *self.further_sources)

    @cached_property
    def hints(self) -> dict[str, dict[str, str]]:
        """Hints by unit, in reading order; the keys are the units the board shows.

        A unit is a public function, a class, a method or a kernel. It is named as it is called, with its module where the
        core has the same name: ``softmax``, ``fast.softmax``.
        """
        return read_toml(self.folder / "tests" / "hints.toml")

    @property
    def units(self) -> tuple[str, ...]:
        """Names of everything that a learner writes, in reading order."""
        return tuple(self.hints)

    @cached_property
    def source_of(self) -> dict[str, str]:
        """The file that each unit is in, relative to the folder; "" for a unit that no file defines."""
        names = {
            source: {Path(source).stem} if source.endswith(".cu") else defined_names(self.folder / source)
            for source in self.sources
        }
        found = {}
        for unit in self.units:
            first, *rest = unit.split(".")
            if rest and f"{first}.py" in self.further_sources:
                found[unit] = f"{first}.py"
            else:
                found[unit] = next((source for source in self.sources if first in names[source]), "")
        return found

    @property
    def core_units(self) -> tuple[str, ...]:
        """The units of the core, in reading order: who has written them is interview-ready."""
        return tuple(unit for unit in self.units if self.source_of[unit] in self.core_sources)

    @property
    def right(self) -> tuple[Path, ...]:
        """Return the right answers: modules, or folders of a module and its kernels."""
        return tuple(sorted(path for path in (self.folder / "tests" / "right").glob("[!_.]*")))

    @property
    def results(self) -> tuple[Path, ...]:
        """Committed benchmark results, one file per device."""
        return tuple(path for path in sorted(self.folder.glob("results/*.json")) if path.stem != "demo")


@dataclass(frozen=True)
class StudyList:
    """What the projects together must cover: shared/study_list.toml."""

    topics: dict[str, str]  # topic -> its group, in reading order, the planned ones too
    planned: tuple[str, ...]  # topics without a project of their own
    drills: tuple[str, ...]
    deliverables: tuple[str, ...]
    papers: dict[str, str]  # arXiv number -> title


def load_study_list(path: Path = ROOT / "shared" / "study_list.toml") -> StudyList:
    """Read the study list."""
    data = read_toml(path)
    topics = {
        topic: group["name"]
        for group in data["group"]
        for topic in (*group.get("topics", []), *group.get("planned", []))
    }
    return StudyList(
        topics=topics,
        planned=tuple(topic for group in data["group"] for topic in group.get("planned", [])),
        drills=tuple(data["drills"]),
        deliverables=tuple(data["deliverables"]),
        papers={paper["arxiv"]: paper["title"] for paper in data["paper"]},
    )


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; a missing file reads as empty."""
    return tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def defined_names(path: Path) -> set[str]:
    """Return the functions and classes that a module defines."""
    tree = ast.parse(path.read_bytes())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def name_in_file(unit: str, source: str) -> str:
    """Return what a unit is called inside its own file: ``fast.softmax`` is ``softmax`` there."""
    return unit.removeprefix(f"{Path(source).stem}.")


def name_of(requirement: str) -> str:
    """Return the name of the package: "torch" for "torch>=2.13"."""
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0]


def load_project(folder: Path) -> Project:
    """Read one project's pyproject.toml."""
    data = read_toml(folder / "pyproject.toml")
    try:
        return _project(folder, data, data["tool"]["groundwork"])
    except KeyError as missing:
        raise ValueError(f"{folder / 'pyproject.toml'} lacks {missing}") from None


def _project(folder: Path, data: dict[str, Any], own: dict[str, Any]) -> Project:
    return Project(
        folder=folder,
        description=data["project"]["description"],
        order=own["order"],
        gpu=own["gpu"],
        tags=tuple(own["tags"]),
        topics=dict(own["topics"]),
        dependencies=tuple(data["project"]["dependencies"]),
        dev=tuple(data["dependency-groups"]["dev"]),
        given=tuple(own.get("given", ())),
        core_kernels=tuple(own["core_kernels"]) if "core_kernels" in own else None,
    )


def load_projects(root: Path = ROOT) -> list[Project]:
    """Read every project, in reading order."""
    found = [load_project(path.parent) for path in root.glob("projects/*/pyproject.toml")]
    return sorted(found, key=lambda project: project.order)
